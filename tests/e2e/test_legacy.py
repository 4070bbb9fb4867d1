"""The old tool's files beside the journal: the real service takes them over, real qBittorrent."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.rig.library import Library, Shelved, stage
from tests.rig.service import Service

pytestmark = pytest.mark.qbittorrent


def leave(service: Service, torrents: Sequence[Shelved]) -> dict[str, str]:
    """Leave them as the old tool would; what each file is to be called in the end."""
    folder = service.state / "queue"
    folder.mkdir()
    (service.state / "state").mkdir()
    expected = {}
    for n, torrent in enumerate(torrents[2:]):
        name = f"{torrent.id}_{1600000000 + n}.queue"
        (folder / name).write_text(f"{torrent.id}\n{1600000000 + n}\n")
        expected[f"queue/{name}"] = f"queue/{name}.migrated"
    (folder / "damaged.queue").write_text("half a ha")
    expected["queue/damaged.queue"] = "queue/damaged.queue.invalid"
    item = {
        "torrent_data": {"hash": torrents[1].id, "name": torrents[1].name},
        "priority": 3,
        "queued_time": 1.5e9,
    }
    again = {"torrent_data": {"hash": torrents[2].id}, "priority": 1, "queued_time": 1.5e9}
    document = {
        "version": "1.0",
        "queue_items": [item, again],
        "running_processes": [{"torrent_hash": torrents[0].id}],
    }
    name = "state/orchestrator_state.json"
    (service.state / name).write_text(json.dumps(document))
    expected[name] = f"{name}.migrated"
    return expected


def files(service: Service) -> set[str]:
    return {
        str(path.relative_to(service.state))
        for folder in ("queue", "state")
        for path in (service.state / folder).iterdir()
    }


def jobs(service: Service) -> list[dict[str, object]]:
    found: list[dict[str, object]] = service.http.get("/jobs", params={"limit": 500}).json()["jobs"]
    return found


def assert_all_done_once(service: Service, library: Library) -> None:
    def ended() -> bool:
        return all(job["state"] in ("done", "failed") for job in jobs(service))

    service.wait_for(ended, "all jobs end", 60)
    done = jobs(service)
    assert sorted(str(job["hash"]) for job in done) == sorted(t.id for t in library.torrents)
    assert {(job["state"], job["outcome"]) for job in done} == {("done", "tiered")}
    library.assert_tiered()


def shelve(library: Library, count: int) -> None:
    for n in range(count):
        library.make(f"Film {n}.mkv", 50_000 + n)
    library.add()


def test_what_the_old_tool_had_queued_is_tiered_in_its_order(tmp_path: Path) -> None:
    with stage(tmp_path, MAX_CONCURRENT_PROCESSES="1") as (service, library):
        shelve(library, 8)
        expected = leave(service, library.torrents)
        service.start()
        assert files(service) == set(expected.values())
        assert_all_done_once(service, library)
        order = sorted(jobs(service), key=lambda job: str(job["finished_at"]))
        ids = [torrent.id for torrent in library.torrents]
        # What ran; by priority; then the oldest.
        assert [ids.index(str(job["hash"])) for job in order] == [0, 1, 2, 3, 4, 5, 6, 7]
        assert "damaged.queue: its first line" in service.output()
        assert service.stop() == 0
        service.start()
        assert len(jobs(service)) == 8
        assert files(service) == set(expected.values())


@pytest.mark.parametrize(
    "moment", ["before the commit", "before the renames", "in the renames", "after the renames"]
)
def test_a_kill_in_the_import_loses_nothing_and_takes_nothing_twice(
    tmp_path: Path, moment: str
) -> None:
    with stage(tmp_path) as (service, library):
        shelve(library, 8)
        expected = leave(service, library.torrents)
        service.module = "tests.rig.die_in_import"
        service.env["QBM_DIE_IN_IMPORT"] = moment
        process, service.process = service.launch(), None
        assert process.wait(30) == -signal.SIGKILL
        service.module = "qbm_trio"
        service.start()
        assert files(service) == set(expected.values())
        assert_all_done_once(service, library)
        assert service.stop() == 0
        service.start()
        assert len(jobs(service)) == 8


def test_a_dry_run_leaves_the_old_tools_files_as_they_are(tmp_path: Path) -> None:
    with stage(tmp_path, DRY_RUN="true") as (service, library):
        shelve(library, 4)
        expected = leave(service, library.torrents)
        service.start()
        assert files(service) == set(expected)
        assert jobs(service) == []
        assert "dry run: would take over 4 torrents from 4 files" in service.output()
        assert service.stop() == 0
        del service.env["DRY_RUN"]
        service.start()
        assert_all_done_once(service, library)
