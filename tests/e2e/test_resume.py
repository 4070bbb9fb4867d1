"""An interrupted copy goes on where it was: what that costs, says the kernel.

Real qBittorrent, real service, ``kill -9``. ``rchar`` in ``/proc/PID/io`` counts every
byte that a process has read, from the page cache too.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.rig.library import Library, stage
from tests.rig.service import Service
from tests.rig.torrents import Version

pytestmark = [pytest.mark.qbittorrent, pytest.mark.slow]

log = logging.getLogger(__name__)

MIB = 1024 * 1024


def bytes_read(service: Service) -> int:
    """What the process has read since it was started."""
    assert service.process is not None
    lines = Path(f"/proc/{service.process.pid}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


def bytes_done(service: Service) -> int:
    """How far the only job is."""
    processes = service.http.get("/status").json()["processes"]
    return sum(process["bytes_done"] for process in processes)


class Rests:
    """Whether it has read next to nothing for a second."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._seen = (bytes_read(service), time.monotonic())

    def __call__(self) -> bool:
        now = (bytes_read(self._service), time.monotonic())
        if now[0] - self._seen[0] > MIB:
            self._seen = now
        return now[1] - self._seen[1] >= 1


@pytest.mark.parametrize(
    ("version", "sizes", "piece_length", "kill_at_bytes"),
    [
        (Version.V1, 220 * MIB, 4 * MIB, 120 * MIB),
        (Version.HYBRID, {f"{n:04}": 30_000 for n in range(4000)}, MIB, 70 * MIB),
    ],
    ids=["a large file", "small files"],
)
def test_after_a_kill_in_mid_copy_at_most_64_mib_are_read_again(
    tmp_path: Path,
    version: Version,
    sizes: Mapping[str, int] | int,
    piece_length: int,
    kill_at_bytes: int,
) -> None:
    total_bytes = sizes if isinstance(sizes, int) else sum(sizes.values())
    with stage(tmp_path, COPY_RATE_LIMIT_MB_S="40") as (service, library):
        torrent = library.make("Film", sizes, version=version, piece_length=piece_length)
        library.add()
        service.start()
        idle = bytes_read(service)
        job_id = service.notify(torrent.id).json()["queue_id"]
        service.wait_for(lambda: bytes_done(service) > kill_at_bytes, "it is in mid-copy")
        first = kill(service) - idle
        service.env.pop("COPY_RATE_LIMIT_MB_S")
        finish(service, library, job_id, total_bytes, first, idle)
        assert service.on_disk("SELECT * FROM checkpoints") == []


def test_a_disk_that_takes_no_more_holds_the_copy_up_before_it_is_too_far_ahead(
    tmp_path: Path,
) -> None:
    with stage(tmp_path) as (service, library):
        torrent = library.make("Film", 250 * MIB, piece_length=16 * MIB)
        library.add()
        service.module = "tests.rig.stuck_disk"
        service.start()
        idle = bytes_read(service)
        job_id = service.notify(torrent.id).json()["queue_id"]
        service.wait_for(lambda: "stuck\n" in service.output(), "the copy waits for the disk")
        service.wait_for(Rests(service), "it reads no further")
        first = kill(service) - idle
        assert first > 40 * MIB
        service.module = "qbm_trio"
        finish(service, library, job_id, 250 * MIB, first, idle)


def kill(service: Service) -> int:
    """Kill it; give what it has read."""
    assert service.process is not None
    service.process.send_signal(signal.SIGSTOP)  # what it has read is all it will read
    read = bytes_read(service)
    service.kill()
    ((position,),) = service.on_disk("SELECT position FROM checkpoints")
    assert position % MIB == 0  # between two pieces
    return read


def finish(
    service: Service, library: Library, job_id: str, total_bytes: int, first: int, idle: int
) -> None:
    """The next start finishes the job; what both read is not much more than all there is."""
    service.start()
    job = service.wait_for_job(job_id, "done", "failed")
    second = bytes_read(service) - idle
    assert (job["state"], job["outcome"]) == ("done", "tiered")
    assert job["bytes_copied"] == total_bytes
    library.assert_tiered()
    assert service.http.get("/status").json()["statistics"]["bytes_copied"] == total_bytes
    assert "going on at" in service.output_of_run()
    again = first + second - total_bytes
    log.info("read again: %.1f MiB of %.1f", again / MIB, first / MIB)
    assert again <= 64 * MIB
    assert "Traceback" not in service.output()
    service.kill()
