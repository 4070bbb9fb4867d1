"""A disk that hangs: all that does not need it goes on, and what needs it ends when it answers.

A real qBittorrent, the real service, a real file system frozen by the kernel. Needs root.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.rig.disks import Disk, shared_place
from tests.rig.freezing import frozen
from tests.rig.hasty import PROBE_INTERVAL_S, SILENT_S
from tests.rig.library import Library, Shelved
from tests.rig.qbt import Qbt
from tests.rig.service import Service

log = logging.getLogger(__name__)

pytestmark = [
    pytest.mark.qbittorrent,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount"),
]

SLOW = {"COPY_RATE_LIMIT_MB_S": "2"}
ROUNDS = 15
MORE_S = 0.1
MEASUREMENTS = 5
ANSWERED_WITHIN_S = 2.0  #: on a busy machine; the hanging disk is kept for longer
BUSY_S = 5.0  #: what a busy machine may add to a time that the service promises
NO_ANSWER = "does not answer"
NOTIFY = "/notify/torrent-finished"


@contextmanager
def on_disk_of_its_own(root: Path, qbt: Qbt, **env: str) -> Iterator[tuple[Service, Library, Path]]:
    """A service whose HDD is an ext4 of its own. It looks at its disks often."""
    with shared_place(root / "place") as place:
        hdd = Disk(place / "hdd", 48_000_000)
        service = Service(place, qbt.url, env, module="tests.rig.hasty")
        with service.http:
            try:
                yield service, Library(service, qbt), hdd.at
            finally:
                service.kill()


def copying(service: Service, torrent: Shelved) -> str:
    """Notify, and wait until its copy has begun; give the job's id."""
    job_id = str(service.notify(torrent.id).json()["queue_id"])
    service.wait_for(
        lambda: any(
            p["id"] == job_id and p["bytes_done"]
            for p in service.http.get("/status").json()["processes"]
        ),
        "the copy has begun",
    )
    return job_id


def medians_s(service: Service) -> dict[str, float]:
    """What calls take, each measured many times; none takes long."""
    calls: dict[str, Callable[[], httpx.Response]] = {
        "health": lambda: service.http.get("/health"),
        "status": lambda: service.http.get("/status"),
        "notify": lambda: service.notify(secrets.token_hex(20)),
    }
    took_s: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            began = time.monotonic()
            answer = call()
            took_s[name].append(time.monotonic() - began)
            assert answer.status_code in (200, 202), answer.text
    assert max(max(times) for times in took_s.values()) < ANSWERED_WITHIN_S, took_s
    return {name: statistics.median(times) for name, times in took_s.items()}


def assert_as_quick(service: Service, before: dict[str, float]) -> None:
    """While the disk hangs no call takes much longer than otherwise.

    Measured again if it seems so: the machine may be busy just then. The disk hangs on.
    """
    during: dict[str, float] = {}
    for _ in range(MEASUREMENTS):
        during = medians_s(service)
        for name, usual_s in before.items():
            log.info("%s: %.1f ms, hanging %.1f ms", name, usual_s * 1000, during[name] * 1000)
        if all(during[name] - usual_s < MORE_S for name, usual_s in before.items()):
            return
    pytest.fail(f"before {before}, hanging {during}")


def wait_degraded(service: Service, limit_s: float) -> None:
    def degraded() -> bool:
        health: dict[str, Any] = service.http.get("/health").json()
        return health["status"] == "degraded" and NO_ANSWER in health["problems"][0]

    began = time.monotonic()
    service.wait_for(degraded, "/health says that it does not answer", limit_s)
    log.info("degraded after %.1f s", time.monotonic() - began)


def wait_hung(service: Service, job_id: str) -> None:
    """Wait until the job's thread is stuck in the kernel."""

    def stuck() -> bool:
        assert service.process is not None
        tasks = Path(f"/proc/{service.process.pid}/task").iterdir()
        return any(
            (task / "stat").read_text().rpartition(")")[2].split()[0] == "D" for task in tasks
        )

    service.wait_for(stuck, "a thread hangs")
    assert service.job(job_id)["state"] == "running"


def assert_all_done(service: Service, library: Library, *job_ids: str) -> None:
    for job_id in job_ids:
        job = service.wait_for_job(job_id, "done", "failed")
        assert (job["state"], job["outcome"]) == ("done", "tiered"), job
    library.assert_tiered()
    assert "Traceback" not in service.output()


def test_while_it_hangs_in_mid_copy_everything_else_goes_on(qbt: Qbt, tmp_path: Path) -> None:
    with on_disk_of_its_own(tmp_path, qbt, **SLOW) as (service, library, hdd):
        torrent, later = library.make("Hung", 9_000_000), library.make("Later", 100_000)
        library.add()
        service.start()
        job_id = copying(service, torrent)
        before = medians_s(service)
        with frozen(hdd) as thaw:
            wait_hung(service, job_id)
            wait_degraded(service, PROBE_INTERVAL_S + SILENT_S + BUSY_S)
            assert_as_quick(service, before)
            # Whoever needs the disk says so, and keeps no worker busy.
            waiting = service.notify(later.id).json()["queue_id"]
            assert NO_ANSWER in service.wait_for_job(waiting, "waiting")["error"]
            status = service.http.get("/status").json()
            assert [p["id"] for p in status["processes"]] == [job_id]
            assert NO_ANSWER in status["space"]["hdd"]["problem"]
            assert service.http.post("/tags/existing").status_code == 200
            assert service.http.post("/state/save").status_code == 200
            seen_at = status["qbittorrent"]["last_contact"]
            service.wait_for(
                lambda: service.http.get("/status").json()["qbittorrent"]["last_contact"] > seen_at,
                "qBittorrent is looked after",
            )
            thaw()
            assert_all_done(service, library, job_id, waiting)
        assert service.http.get("/health").json()["status"] == "healthy"


def test_a_disk_that_hangs_before_anybody_needs_it_is_found_by_the_first_that_does(
    qbt: Qbt, tmp_path: Path
) -> None:
    with on_disk_of_its_own(tmp_path, qbt) as (service, library, hdd):
        torrents = [library.make(f"Idle {n}", 100_000 + n) for n in range(5)]
        library.add()
        service.start()
        service.wait_for((hdd / ".qbm-tier").exists, "the tiers are marked")
        before = medians_s(service)
        # What was notified to be measured would come back, and perhaps hang before the first.
        assert service.http.post("/queue/clear").json()["success"]
        with frozen(hdd) as thaw:
            first = service.notify(torrents[0].id).json()["queue_id"]
            wait_hung(service, first)
            assert_as_quick(service, before)
            wait_degraded(service, PROBE_INTERVAL_S + SILENT_S + BUSY_S)
            job_ids = [service.notify(t.id).json()["queue_id"] for t in torrents[1:]]
            for job_id in job_ids:
                assert NO_ANSWER in service.wait_for_job(job_id, "waiting")["error"]
            thaw()
            assert_all_done(service, library, first, *job_ids)


def test_on_sigterm_the_journal_is_closed_in_time_and_the_kernel_holds_the_process_only(
    qbt: Qbt, tmp_path: Path
) -> None:
    with on_disk_of_its_own(tmp_path, qbt, **SLOW) as (service, library, hdd):
        torrent = library.one("Stopped", 6_000_000)
        service.start()
        job_id = copying(service, torrent)
        process = service.process
        assert process is not None
        with frozen(hdd) as thaw:
            wait_hung(service, job_id)
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            service.wait_for(
                lambda: (
                    "stopped: the journal is closed, recovery point /" in service.output_of_run()
                ),
                "the journal is closed",
                2 + BUSY_S,  # the grace and a second
            )
            log.info("the journal was closed after %.1f s", time.monotonic() - began)
            assert not list(service.state.glob("journal.sqlite3-*"))
            assert process.poll() is None
            thaw()
            assert process.wait(20) == 0
            service.process = None
        assert service.on_disk("SELECT state FROM jobs") == [("running",)]
        del service.env["COPY_RATE_LIMIT_MB_S"]
        service.start()
        assert_all_done(service, library, job_id)


def test_when_the_journals_disk_hangs_health_says_so_and_what_was_sent_is_kept(
    qbt: Qbt, tmp_path: Path
) -> None:
    with shared_place(tmp_path / "place") as place:
        state = Disk(place / "state", 48_000_000)
        service = Service(place, qbt.url, module="tests.rig.hasty")
        with service.http:
            try:
                library = Library(service, qbt)
                torrent = library.one("Kept", 100_000)
                service.start()
                with frozen(state.at) as thaw:
                    with pytest.raises(httpx.ReadTimeout):
                        service.http.post(NOTIFY, json={"hash": torrent.id}, timeout=1)
                    wait_degraded(service, SILENT_S + BUSY_S)
                    assert "journal's disk" in service.http.get("/health").json()["problems"][0]
                    thaw()
                (job,) = service.http.get("/jobs").json()["jobs"]
                assert_all_done(service, library, job["id"])
                assert service.http.get("/health").json()["status"] == "healthy"
            finally:
                service.kill()
