"""The wall clock jumps by a day, ahead and back: nothing stalls, no order is lost.

Real qBittorrent, and the real service with another function for the time of day.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.rig.library import Library, stage
from tests.rig.moved_clock import WallClock
from tests.rig.service import Service

pytestmark = pytest.mark.qbittorrent

DAY_S = 86_400


@contextmanager
def on_a_clock(root: Path, **env: str) -> Iterator[tuple[Service, Library, WallClock]]:
    clock = WallClock(root / "clock")
    with stage(root, MAX_CONCURRENT_PROCESSES="1", **clock.env, **env) as (service, library):
        service.module = "tests.rig.moved_clock"
        yield service, library, clock


def ahead_s(document: dict[str, Any], name: str) -> float:
    """How far a time that the service shows is ahead of ours."""
    return datetime.fromisoformat(document[name]).timestamp() - time.time()


def assert_sane(status: dict[str, Any], began_s: float) -> None:
    """No duration is negative, or a day long."""
    lived_s = time.monotonic() - began_s
    assert 0 <= status["service"]["uptime_seconds"] <= lived_s
    assert (status["queue"]["oldest_seconds"] or 0) >= 0
    for process in status["processes"]:
        assert 0 <= process["bytes_per_second"] < 1e9
        assert 0 <= (process["eta_seconds"] or 0) < 600


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S], ids=["ahead", "back"])
def test_a_jump_while_jobs_copy_and_wait_stalls_nothing(tmp_path: Path, jump_s: int) -> None:
    env = {"COPY_RATE_LIMIT_MB_S": "2", "COPY_RETRY_ATTEMPTS": "9"}
    with on_a_clock(tmp_path, **env) as (service, library, clock):
        for name, size in (("missing", 1000), ("long", 6_000_000), ("later", 1000)):
            library.make(name, size)
        library.add()
        source = service.ssd / "missing"
        data, times = source.read_bytes(), source.stat()
        source.unlink()
        began_s = time.monotonic()
        service.start()
        ids = [service.notify(torrent.id).json()["queue_id"] for torrent in library.torrents]
        # It waits for its second or third try when the clock jumps.
        waiting = service.wait_for(
            lambda: (job := service.job(ids[0]))["state"] == "waiting" and job, "it waits"
        )
        assert waiting["wait_reason"] == "retry"
        service.wait_for(
            lambda: any(
                process["bytes_done"] > 0
                for process in service.http.get("/status").json()["processes"]
            ),
            "one copies",
        )
        assert abs(ahead_s(service.job(ids[2]), "accepted_at")) < 60
        clock.ahead(jump_s)
        status = service.http.get("/status").json()
        assert_sane(status, began_s)
        assert status["processes"][0]["bytes_per_second"] > 0
        source.write_bytes(data)
        os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
        done = [service.wait_for_job(job_id, "done", "failed", limit_s=20) for job_id in ids]
        assert [job["outcome"] for job in done] == ["tiered"] * 3
        assert 1 <= done[0]["attempts"] <= 4  # 1, 2, 4 s after the one before
        assert all(abs(ahead_s(job, "finished_at") - jump_s) < 60 for job in done)
        status = service.http.get("/status").json()
        assert_sane(status, began_s)
        library.assert_tiered()


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S], ids=["ahead", "back"])
def test_a_jump_and_a_kill_lose_no_order_and_no_job(tmp_path: Path, jump_s: int) -> None:
    with on_a_clock(tmp_path) as (service, library, clock):
        for n in range(8):
            library.make(f"{n}", 1000 + n)
        library.add()
        service.start()
        ids = [service.notify(t.id).json()["queue_id"] for t in library.torrents[:2]]
        for job_id in ids:
            service.wait_for_job(job_id, "done")
        library.qbt.stop(signal.SIGTERM)
        ids += [service.notify(t.id).json()["queue_id"] for t in library.torrents[2:5]]
        clock.ahead(jump_s)
        ids += [service.notify(t.id).json()["queue_id"] for t in library.torrents[5:]]
        for job_id in ids[2:]:
            service.wait_for_job(job_id, "waiting")
        service.kill()
        began_s = time.monotonic()
        service.start()
        assert_sane(service.http.get("/status").json(), began_s)
        # Each is looked at once after the start. One that qBittorrent comes back to in the
        # middle of that waits for its turn behind the others.
        service.wait_for(
            lambda: service.output_of_run().count("waiting (qbittorrent)") == len(ids[2:]),
            "each has been looked at",
        )
        library.qbt.start()
        done = [service.wait_for_job(job_id, "done", "failed", limit_s=40) for job_id in ids]
        assert {job["outcome"] for job in done} == {"tiered"}
        assert {job["attempts"] for job in done} == {0}
        # One at a time, in the order of their notifications.
        after = [job["finished_at"] for job in done[2:]]
        assert after == sorted(after)
        listed = [job["id"] for job in service.http.get("/jobs").json()["jobs"]]
        assert listed == ids[::-1]
        recent = [job["id"] for job in service.http.get("/status").json()["recent"]]
        assert recent == ids[::-1]
        library.assert_tiered()
