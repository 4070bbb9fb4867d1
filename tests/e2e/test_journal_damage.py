"""The journal is damaged, gone, read-only: the real service, its real files.

What becomes of each kind of damage is in ``tests/unit/test_journal_restore.py``.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.rig.damage import DAMAGES, database
from tests.rig.library import snapshot, stage
from tests.rig.mounts import run, unmount
from tests.rig.service import Service

NAMES = [
    "bits flipped in the header",
    "bits flipped in the table of jobs",
    "bits flipped in the log",
    "cut to half",
    "gone, but for its log",
    "a folder in its place",
]


def accept(service: Service, *numbers: int) -> dict[str, str]:
    """Notify torrents; their ids by hash."""
    return {
        (hash_ := f"{n:040x}"): service.notify(hash_).raise_for_status().json()["queue_id"]
        for n in numbers
    }


def known(service: Service) -> dict[str, str]:
    jobs = service.http.get("/jobs", params={"limit": 500}).json()["jobs"]
    return {job["hash"]: job["id"] for job in jobs}


def problems(service: Service) -> list[str]:
    health = service.http.get("/health")
    assert health.status_code == 200
    return [p for p in health.json().get("problems", ()) if "journal" in p]


@pytest.mark.parametrize("name", NAMES)
def test_a_service_whose_journal_is_damaged_starts_says_so_and_has_its_jobs(
    service: Service, name: str
) -> None:
    service.start()
    before = accept(service, *range(30))
    saved = service.http.post("/state/save")
    assert saved.status_code == 200
    assert saved.json()["path"] in map(str, service.state.glob("recovery-*.json"))
    after = accept(service, *range(30, 60))
    service.kill()
    DAMAGES[name](service.state)
    damaged = snapshot(service.state)

    service.start()
    assert before.items() <= known(service).items()
    if name not in ("cut to half", "a folder in its place"):
        assert after.items() <= known(service).items()
    (problem,) = problems(service)
    assert "the journal was damaged and has been restored" in problem
    assert str(service.state) not in service.http.get("/health").text
    assert service.http.get("/health").json()["status"] == "degraded"
    log = service.output_of_run()
    assert f"the journal {database(service.state)} is damaged" in log
    assert "may be lost" in log
    assert "Traceback" not in log
    set_aside = {k: v for k, v in snapshot(service.state).items() if ".damaged-" in k}
    kept = {k: v for k, v in damaged.items() if k.startswith("journal.sqlite3")}
    assert sorted(set_aside.values()) == sorted(kept.values())
    # It works, is on the disk, and the next start is as any other.
    more = accept(service, 100)
    service.kill()
    service.start()
    assert (before | more).items() <= known(service).items()
    assert problems(service) == []
    assert {k for k in snapshot(service.state) if ".damaged-" in k} == set(set_aside)


def test_damage_on_damage_is_no_crash_loop(service: Service) -> None:
    service.start()
    accepted = accept(service, *range(5))
    service.http.post("/state/save").raise_for_status()
    for name in NAMES:
        accept(service, *range(1000, 1040))  # so that there is a log with several commits
        service.kill()
        DAMAGES[name](service.state)
        service.start()
        assert accepted.items() <= known(service).items()
    sets = {p.name.split("-")[1] for p in service.state.glob("*.damaged-*")}
    assert len(sets) >= 1
    assert service.stop() == 0


@pytest.mark.qbittorrent
def test_every_torrent_is_tiered_although_the_journal_was_damaged_in_mid_copy(
    tmp_path: Path,
) -> None:
    env = {"COPY_RATE_LIMIT_MB_S": "3", "MAX_CONCURRENT_PROCESSES": "1"}
    with stage(tmp_path, **env) as (service, library):
        for n in range(6):
            library.make(f"Film {n}.mkv", 2_000_000)
        library.add()
        service.start()
        ids = [service.notify(torrent.id).json()["queue_id"] for torrent in library.torrents[:4]]
        service.wait_for_job(ids[0], "done")
        service.http.post("/state/save").raise_for_status()
        ids += [service.notify(torrent.id).json()["queue_id"] for torrent in library.torrents[4:]]
        service.wait_for(
            lambda: any(
                p["bytes_done"] > 0 for p in service.http.get("/status").json()["processes"]
            ),
            "a copy runs",
        )
        service.kill()
        DAMAGES["bits flipped in the header"](service.state)
        del service.env["COPY_RATE_LIMIT_MB_S"]
        service.start()
        for job_id in ids[1:]:
            assert service.wait_for_job(job_id, "done", "failed")["outcome"] == "tiered"
        library.assert_tiered()


# -- while it runs


def fill(state: Path, rows: int) -> None:
    """Have far more in the journal than SQLite keeps in memory."""
    with closing(sqlite3.connect(database(state))) as connection:
        connection.executemany(
            "INSERT INTO jobs (id, hash, name, category, priority, state, accepted_at,"
            " updated_at, finished_at) VALUES (?, ?, ?, '', 0, 'done', 1, 1, 9e9)",
            [(f"{n:016x}", f"{n + 10**6:040x}", "x" * 1000) for n in range(rows)],
        )
        connection.commit()


def test_damage_that_shows_while_it_runs_stops_it_in_order_and_the_next_start_restores(
    service: Service,
) -> None:
    service.start()
    accepted = accept(service, *range(10))
    assert service.stop() == 0
    fill(service.state, 10_000)
    service.start()
    service.http.post("/state/save").raise_for_status()
    points = sorted(service.state.glob("recovery-*.json"))
    later = accept(service, 50)
    size = database(service.state).stat().st_size
    with database(service.state).open("r+b") as file:
        file.seek(size // 4)
        file.write(os.urandom(size // 2))
    process = service.process
    assert process is not None
    after, refused = None, None
    try:
        for _ in range(100):
            answer = service.http.get(
                "/jobs", params={"limit": 500} | ({"after": after} if after else {})
            )
            if answer.status_code == 503:
                refused = answer
                break
            after = answer.json()["next_after"]
    except httpx.TransportError:
        pass  # it ended before the answer was read
    if refused is not None:
        assert refused.json()["code"] in ("journal_unwritable", "draining")
        assert int(refused.headers["retry-after"]) > 0
    assert process.wait(20) == 1
    service.process = None
    log = service.output_of_run()
    assert "is damaged; start again: it is restored then" in log
    assert "the journal is damaged: draining" in log
    assert "the journal is closed, recovery point none" in log.splitlines()[-1]
    assert "Traceback" not in log
    assert sorted(service.state.glob("recovery-*.json")) == points, "no half-truth is saved"
    service.start()
    assert accepted.items() <= known(service).items()
    # The only row of what came after the point; its id may be in a damaged page.
    assert later.keys() <= known(service).keys()
    assert "restored" in problems(service)[0]


# -- no damage: refused, and left as it is


def refused(service: Service) -> str:
    """Start it in vain; its last line."""
    process, service.process = service.launch(), None
    try:
        assert process.wait(20) == 1, service.output_of_run()
    finally:
        process.kill()
        process.wait(10)
    assert "Traceback" not in service.output_of_run()
    return service.output_of_run().splitlines()[-1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_journal_that_is_read_only_is_left_as_it_is_and_works_once_it_is_not(
    service: Service,
) -> None:
    service.start()
    accepted = accept(service, 1, 2, 3)
    assert service.stop() == 0
    path = database(service.state)
    before = snapshot(service.state)
    run("mount", "--bind", str(path), str(path))
    try:
        run("mount", "-o", "remount,bind,ro", str(path))
        for _ in range(2):
            line = refused(service)
            assert str(path) in line or str(service.state) in line
            assert "look at the disk" in line or "mend it" in line
    finally:
        unmount(path)
    assert {k: v for k, v in snapshot(service.state).items() if k != "lock"} == {
        k: v for k, v in before.items() if k != "lock"
    }
    service.start()
    assert accepted.items() <= known(service).items()
    assert problems(service) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_damaged_journal_that_cannot_be_renamed_is_said_and_left(
    service: Service,
) -> None:
    service.start()
    accepted = accept(service, 1)
    service.http.post("/state/save").raise_for_status()
    service.kill()
    DAMAGES["garbage"](service.state)
    path = database(service.state)
    run("mount", "--bind", str(path), str(path))  # a mount point cannot be renamed
    try:
        for _ in range(2):  # the second finds the restored one ready
            line = refused(service)
            assert f"the journal {path} is damaged" in line
            assert "the restored one cannot take its place" in line
    finally:
        unmount(path)
    service.start()
    assert accepted.items() <= known(service).items()
