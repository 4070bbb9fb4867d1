"""An HDD that answers with I/O errors: jobs are tried again until it works, and none is lost.

A real qBittorrent, the real service, and a file system that fails when told. Needs root.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.rig.failing_disk import ALL, FailingDisk, failing_disk
from tests.rig.library import MARKER, Library, sha256
from tests.rig.qbt import Qbt
from tests.rig.service import Service

pytestmark = [
    pytest.mark.qbittorrent,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount"),
]

SLOW = {"COPY_RATE_LIMIT_MB_S": "2"}
SMALL = {"a": 300_000, "sub/b": 100_000}
FILES = {"a": 2_200_000, "b": 1_500_000, "sub/c": 300_000}


@contextmanager
def on_failing_hdd(
    root: Path, qbt: Qbt, **env: str
) -> Iterator[tuple[Service, Library, FailingDisk]]:
    """A service whose HDD can be told to fail. It looks at its disks often."""
    service = Service(root, qbt.url, env, module="tests.rig.hasty")
    with service.http, failing_disk(service.hdd, root / "disk") as disk:
        try:
            yield service, Library(service, qbt), disk
        finally:
            service.kill()


def begun(service: Service, hash_: str) -> str:
    """Notify, and wait until its copy has begun; give the job's id."""
    job_id = str(service.notify(hash_).json()["queue_id"])
    service.wait_for(
        lambda: any(p["bytes_done"] for p in service.http.get("/status").json()["processes"]),
        "the copy has begun",
    )
    return job_id


def assert_waits(service: Service, job_id: str, *, tries: int = 2) -> dict[str, Any]:
    """It is tried again, and each time it is seen to wait for the disk, with the reason."""
    seen: dict[str, dict[str, Any]] = {}

    def enough() -> bool:
        job = service.job(job_id)
        assert job["state"] in ("queued", "running", "waiting"), job
        if job["state"] == "waiting":
            seen[job["started_at"]] = job
        return len(seen) >= tries

    service.wait_for(enough, f"it was tried {tries} times")
    job = list(seen.values())[-1]
    assert (job["wait_reason"], job["attempts"]) == ("tier", 0)
    assert "Input/output error" in job["error"]
    assert str(service.hdd) in job["error"]
    return job


def assert_nothing_half_published(disk: FailingDisk, library: Library) -> None:
    """What stands at a destination is a whole file. Looked at below the file system."""
    for shelved in library.torrents:
        for path, right in shelved.copies.items():
            there = disk.backing / path
            assert not there.exists() or sha256(there) == right, path


def assert_degraded(service: Service) -> None:
    def degraded() -> bool:
        health = service.http.get("/health").json()
        return health["status"] == "degraded" and "HDD" in health["problems"][0]

    service.wait_for(degraded, "/health says so")


@pytest.mark.parametrize(
    "calls",
    [("write",), ("fsync", "marker"), ("open", "create"), (ALL,)],
    ids=" ".join,
)
def test_an_error_in_mid_copy_is_waited_out(
    qbt: Qbt, tmp_path: Path, calls: tuple[str, ...]
) -> None:
    with on_failing_hdd(tmp_path, qbt, **SLOW) as (service, library, disk):
        torrent = library.one(f"Torn by {calls}", FILES)
        service.start()
        job_id = begun(service, torrent.id)
        disk.fail(*calls)
        assert_waits(service, job_id, tries=1 if ALL in calls else 2)
        assert_degraded(service)
        assert {name for name, _ in disk.refused()} & {*calls} or ALL in calls
        assert_ends_well(service, library, disk, job_id)


def assert_ends_well(
    service: Service, library: Library, disk: FailingDisk, job_id: str
) -> dict[str, Any]:
    """The disk works again: all is done, on it is what belongs there, and all is well."""
    assert_nothing_half_published(disk, library)
    disk.fail()
    job = service.wait_for_job(job_id, "done", "failed")
    assert (job["state"], job["outcome"]) == ("done", "tiered"), job
    library.assert_tiered()
    service.wait_for(
        lambda: service.http.get("/health").json()["status"] == "healthy", "it recovers"
    )
    assert "Traceback" not in service.output()
    return job


@pytest.mark.parametrize("call", ["link", "rename", "fsyncdir"])
def test_an_error_in_publishing_is_waited_out(qbt: Qbt, tmp_path: Path, call: str) -> None:
    with on_failing_hdd(tmp_path, qbt) as (service, library, disk):
        torrent = library.one(f"Nearly there, {call}", SMALL, category="films")
        (disk.backing / "films").mkdir()  # so that a rename is tried, staging to there
        service.start()
        service.wait_for((service.hdd / MARKER).exists, "the tiers are marked")
        disk.fail(call)
        job_id = str(service.notify(torrent.id).json()["queue_id"])
        assert_waits(service, job_id)
        assert call in {name for name, _ in disk.refused()}
        assert_degraded(service)
        assert_ends_well(service, library, disk, job_id)


def test_an_error_in_reading_back_is_waited_out(qbt: Qbt, tmp_path: Path) -> None:
    with on_failing_hdd(tmp_path, qbt, VERIFICATION="readback") as (service, library, disk):
        torrent = library.one("Read back", SMALL)
        service.start()
        service.wait_for((service.hdd / MARKER).exists, "the tiers are marked")
        disk.fail("read")
        job_id = str(service.notify(torrent.id).json()["queue_id"])
        job = assert_waits(service, job_id)
        assert ".qbm-staging" in job["error"]
        assert not (disk.backing / torrent.name).exists()
        assert_degraded(service)
        assert_ends_well(service, library, disk, job_id)


@pytest.mark.parametrize("call", ["read", "open"])
def test_an_error_in_comparing_what_is_there_is_waited_out(
    qbt: Qbt, tmp_path: Path, call: str
) -> None:
    """What cannot be read is neither adopted nor taken for another file."""
    with on_failing_hdd(tmp_path, qbt) as (service, library, disk):
        torrent = library.one(f"There already, {call}", SMALL)
        shutil.copytree(service.ssd / torrent.name, disk.backing / torrent.name)
        service.start()
        service.wait_for((service.hdd / MARKER).exists, "the tiers are marked")
        disk.fail(call)
        job_id = str(service.notify(torrent.id).json()["queue_id"])
        assert_waits(service, job_id)
        assert call in {name for name, _ in disk.refused()}
        assert_degraded(service)
        assert_ends_well(service, library, disk, job_id)
