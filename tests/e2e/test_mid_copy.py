"""What changes under a running copy: its source on the SSD, or the folders of a pool.

A real qBittorrent, the real service.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.rig.disks import pooled
from tests.rig.library import MARKER, Library, snapshot
from tests.rig.mounts import mounted
from tests.rig.qbt import Qbt
from tests.rig.service import Service

pytestmark = pytest.mark.qbittorrent

# Larger than what is read ahead, so that most of it is still to be read in mid-copy.
FILES = {"a": 11_000_000, "sub/b": 3_000_000}
SLOW = {"COPY_RATE_LIMIT_MB_S": "5", "COPY_RETRY_ATTEMPTS": "2"}


@contextmanager
def staged(root: Path, qbt: Qbt, **env: str) -> Iterator[tuple[Service, Library]]:
    """A service that is not started yet, and an empty library."""
    service = Service(root, qbt.url, env)
    with service.http:
        try:
            yield service, Library(service, qbt)
        finally:
            service.kill()


def copying(service: Service, hash_: str) -> str:
    """Notify, and wait until its copy has begun; give the job's id."""
    job_id = str(service.notify(hash_).json()["queue_id"])
    service.wait_for(
        lambda: any(p["bytes_done"] for p in service.http.get("/status").json()["processes"]),
        "the copy has begun",
    )
    return job_id


def change(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(bytes(1000))


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1000)


def replace(path: Path) -> None:
    """As a program does that writes anew and renames."""
    new = path.with_name("new")
    new.write_bytes(bytes(path.stat().st_size))
    new.replace(path)


@pytest.mark.parametrize(
    ("spoil", "file", "code"),
    [
        (change, "sub/b", "source_corrupt"),
        (shrink, "a", "source_changed"),
        (replace, "sub/b", "source_corrupt"),
        (Path.unlink, "sub/b", "source_changed"),
    ],
)
def test_a_source_that_is_spoilt_in_mid_copy_is_named_and_nothing_is_published(
    qbt: Qbt, tmp_path: Path, spoil: Callable[[Path], object], file: str, code: str
) -> None:
    with staged(tmp_path, qbt, **SLOW) as (service, library):
        torrent = library.one(f"{spoil.__name__} {file}".replace("/", "-"), FILES)
        path = service.ssd / torrent.name / file
        good = shutil.copy2(path, tmp_path / "good")
        service.start()
        job_id = copying(service, torrent.id)
        spoil(path)
        job = service.wait_for_job(job_id, "failed", "done")
        assert (job["state"], job["error_code"]) == ("failed", code), job
        assert str(path) in job["error"]
        assert "recheck the torrent" in job["error"]
        service.wait_for(
            lambda: snapshot(service.hdd).keys() == {MARKER}, "its staging is cleared away"
        )
        assert "hdd" not in qbt.info(torrent.id)["tags"]
        # It was only its source: mended, it is done.
        shutil.copy2(good, path)
        service.http.post(f"/jobs/{job_id}/retry").raise_for_status()
        assert service.wait_for_job(job_id, "failed", "done")["state"] == "done"
        library.assert_tiered()
        assert "Traceback" not in service.output()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_pool_that_refuses_to_publish_from_another_branch_gets_it_on_the_next_try(
    qbt: Qbt, tmp_path: Path
) -> None:
    """The destination's folder appears in mid-copy, on the branch that has not the staging."""
    one, two = tmp_path / "one", tmp_path / "two"
    options = "category.create=epmfs,minfreespace=0"
    with (
        staged(tmp_path, qbt, **SLOW) as (service, library),
        mounted(one, size="24m"),
        mounted(two, size="48m"),
        pooled([one, two], service.hdd, options),
    ):
        torrent = library.one("Pooled", FILES, category="films")
        service.start()
        job_id = copying(service, torrent.id)
        assert (two / ".qbm-staging").exists()
        (one / "films").mkdir()
        job = service.wait_for_job(job_id, "failed", "done")
        assert (job["state"], job["outcome"]) == ("done", "tiered"), job
        assert "is on another file system than its staging" in service.output()
        library.assert_tiered()
        assert (one / "films/Pooled/a").exists()
        assert not list(tmp_path.glob("*/.qbm-staging"))
        service.kill()  # before its disks go
