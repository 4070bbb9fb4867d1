"""What docs/recover.md says to do after a loss, done by hand as it says, on a real qBittorrent."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.rig.inside import tags
from tests.rig.library import MARKER, Library, Shelved, sha256
from tests.rig.mounts import in_memory
from tests.rig.qbt import Qbt, running
from tests.rig.service import Service

pytestmark = pytest.mark.qbittorrent

LIMIT_S = 60.0


@pytest.fixture
def qbt(tmp_path: Path) -> Iterator[Qbt]:
    """One of its own for each: disks are taken away below it."""
    with running(tmp_path / "qbittorrent") as started:
        yield started
        # Asked to end after its disks went away, it may take its time: nothing of it is needed.
        started.stop(signal.SIGKILL)


@contextmanager
def with_two_copies(folder: Path, qbt: Qbt) -> Iterator[tuple[Service, Library]]:
    """A service that is stopped; two torrents of its SSD are on its HDD as well, a third is not."""
    with in_memory() as hdd:
        service = Service(folder, qbt.url, {"DISK_SPACE_THRESHOLD_GB": "0", "DELETE_GRACE_S": "0"})
        service.hdd = hdd
        library = Library(service, qbt)
        library.make("Folder", {"a": 300_000, "b/c": 40_000}, category="tv")
        library.make("Film.mkv", 200_000, category="films/old")
        library.make("Alone.mkv", 100_000)
        library.add()
        try:
            service.start()
            for torrent in library.torrents[:2]:
                job = service.notify(torrent.id).json()["queue_id"]
                assert service.wait_for_job(job, "done", "failed")["outcome"] == "tiered"
            assert service.stop() == 0
            yield service, library
        finally:
            service.kill()
            service.http.close()


def emptied(tier: Path) -> None:
    """Another disk is mounted there: nothing is on it."""
    for path in tier.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def assert_whole_on_hdd(service: Service, *torrents: Shelved) -> None:
    for torrent in torrents:
        for path, digest in torrent.copies.items():
            assert sha256(service.hdd / path) == digest


def marker_asked_for(service: Service, tier: Path) -> str:
    """What the log says to write on a replaced disk."""

    def said() -> str:
        asked = rf"If you replaced the disk, write (\S+) into {re.escape(str(tier / MARKER))}"
        return next(iter(re.findall(asked, service.output_of_run())), "")

    return service.wait_for(said, "it says what to write")


def test_any_one_recovery_point_alone_restores_the_queue_as_it_was_then(
    qbt: Qbt, tmp_path: Path
) -> None:
    first, second = "1" * 40, "2" * 40
    service = Service(tmp_path / "service", qbt.url, {"DRY_RUN": "true"})
    try:
        service.start()
        service.notify(first)
        chosen = Path(service.http.post("/state/save").json()["path"])
        service.notify(second)
        service.http.post("/state/save")
        assert service.stop() == 0

        aside = tmp_path / "aside"
        aside.mkdir()
        points = set(service.state.glob("recovery-*.json"))
        assert len(points) == 3
        for file in [*service.state.glob("journal.sqlite3*"), *(points - {chosen})]:
            shutil.move(file, aside)
        service.start()
        assert [job["hash"] for job in service.http.get("/jobs").json()["jobs"]] == [first]
        assert "restored from the recovery point" in service.http.get("/health").text
        assert service.stop() == 0
        service.start()
        assert "restored" not in service.http.get("/health").text
    finally:
        service.kill()
        service.http.close()


def test_a_new_hdd_takes_the_marker_that_the_log_names_and_then_copies_again(
    qbt: Qbt, tmp_path: Path
) -> None:
    with with_two_copies(tmp_path / "service", qbt) as (service, library):
        notified, left, _ = library.torrents
        emptied(service.hdd)
        service.env["DISK_SPACE_THRESHOLD_GB"] = "100000"  # and as much as that is never free
        service.start()
        marker = marker_asked_for(service, service.hdd)
        job = service.notify(notified.id).json()["queue_id"]
        service.wait_for_job(job, "waiting")
        assert list(service.hdd.iterdir()) == []

        (service.hdd / MARKER).write_text(marker)  # as an editor that ends no line
        assert service.wait_for_job(job, "done", limit_s=LIMIT_S)["bytes_copied"] == 340_000

        # The other one was not notified. Space management finds out, and copies it first.
        def on_hdd() -> bool:
            row = qbt.info(left.id)
            there = row["content_path"] == str(service.hdd / "films/old/Film.mkv")
            return bool(there and row["state"] == "stalledUP")

        qbt.wait_for(on_hdd, "it seeds from the new HDD", LIMIT_S)
        assert_whole_on_hdd(service, notified, left)


def test_after_the_ssd_is_lost_torrents_seed_from_their_copies(qbt: Qbt, tmp_path: Path) -> None:
    with with_two_copies(tmp_path / "service", qbt) as (service, library):
        qbt.stop()
        emptied(service.ssd)
        qbt.start()
        missing = {torrent.id for torrent in library.torrents}
        qbt.wait_for(
            lambda: all(qbt.info(id_)["state"] == "missingFiles" for id_ in missing),
            "qBittorrent notices",
        )
        service.start()
        (service.ssd / MARKER).write_text(marker_asked_for(service, service.ssd))
        for torrent in library.torrents[:2]:
            folder = service.hdd / torrent.category
            qbt.api.torrents_set_location(torrent_hashes=torrent.id, location=str(folder))
            qbt.api.torrents_recheck(torrent_hashes=torrent.id)
        for torrent in library.torrents[:2]:
            qbt.wait_for(
                lambda id_=torrent.id: (  # type: ignore[misc]
                    qbt.info(id_)["state"] == "stalledUP" and qbt.info(id_)["progress"] == 1
                ),
                "it seeds from the HDD",
                LIMIT_S,
            )
        tagged = service.http.post("/tags/existing", json={})
        assert tagged.is_success, tagged.text
        assert [tags(qbt, torrent.id) for torrent in library.torrents[:2]] == [{"hdd"}] * 2
        assert_whole_on_hdd(service, *library.torrents[:2])


def test_after_the_state_directory_is_lost_copies_are_found_again(qbt: Qbt, tmp_path: Path) -> None:
    with with_two_copies(tmp_path / "service", qbt) as (service, library):
        markers = [(tier / MARKER).read_bytes() for tier in (service.ssd, service.hdd)]
        emptied(service.state)
        service.env["RECONCILE_INTERVAL_S"] = "0.2"
        service.start()
        service.wait_for(
            lambda: service.output_of_run().count(" is marked as ") == 2, "both tiers are known"
        )
        assert markers == [(tier / MARKER).read_bytes() for tier in (service.ssd, service.hdd)]
        job = service.notify(library.torrents[0].id).json()["queue_id"]
        done = service.wait_for_job(job, "done", "failed")
        assert (done["outcome"], done["bytes_copied"]) == ("tiered", 0)
        # None for the two that nobody notified, several looks later.
        assert [job["id"] for job in service.http.get("/jobs").json()["jobs"]] == [job]
        assert_whole_on_hdd(service, library.torrents[0])
