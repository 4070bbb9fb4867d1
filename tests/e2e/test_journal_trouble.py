"""The disk of the state directory is full: refused honestly, nothing half-done, and it recovers.

A real file system of four megabytes, a real qBittorrent, the real service. Needs root.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.rig.library import Library, stage
from tests.rig.mounts import mounted
from tests.rig.service import Service

pytestmark = [
    pytest.mark.qbittorrent,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount"),
]


@contextmanager
def small_state(root: Path, **env: str) -> Iterator[tuple[Service, Library]]:
    """As `stage`, with the state directory on a small disk of its own."""
    with stage(root, **env) as (service, library), mounted(service.state, size="4m"):
        try:
            yield service, library
        finally:
            service.kill()


def fill(service: Service) -> Path:
    """Leave no byte free on the state directory's disk."""
    ballast = service.state / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    assert os.statvfs(service.state).f_bavail == 0
    return ballast


def notify_until_refused(service: Service, first: int = 1) -> tuple[dict[str, str], list[str]]:
    """Notify unknown torrents until ten in a row are refused; who was accepted, who was not."""
    accepted: dict[str, str] = {}
    refused: list[str] = []
    n = first
    in_a_row = 0
    while in_a_row < 10:
        hash_ = f"{n:040x}"
        answer = service.notify(hash_)
        if answer.status_code == 202:
            accepted[hash_] = answer.json()["queue_id"]
            in_a_row = 0
        else:
            assert (answer.status_code, answer.json()["code"]) == (503, "journal_unwritable")
            assert int(answer.headers["retry-after"]) > 0
            assert "STATE_DIR" in answer.json()["error"]
            refused.append(hash_)
            in_a_row += 1
        n += 1
        assert n < first + 5000, "a full disk refuses nothing"
    return accepted, refused


def known(service: Service) -> dict[str, str]:
    """Every job the service knows, by hash."""
    found: dict[str, str] = {}
    after: str | None = None
    while True:
        page = service.http.get(
            "/jobs", params={"limit": 500, **({"after": after} if after else {})}
        ).json()
        for job in page["jobs"]:
            assert job["hash"] not in found
            found[job["hash"]] = job["id"]
        after = page["next_after"]
        if after is None:
            return found


def assert_kept(service: Service, accepted: dict[str, str], refused: Sequence[str] = ()) -> None:
    """Every accepted notification is a job under its own id; no refused one is a job."""
    jobs = known(service)
    assert {h: jobs.get(h) for h in accepted} == accepted
    assert not set(jobs) & set(refused)


def begin_copy(service: Service, library: Library) -> str:
    """Start the service and a copy of 9 MB; give the id of its job, which runs."""
    torrent = library.one("Film.mkv", 9_000_000)
    service.start()
    job_id = str(service.notify(torrent.id).json()["queue_id"])
    service.wait_for(lambda: service.http.get("/status").json()["processes"], "it runs")
    return job_id


def test_a_full_disk_refuses_notifications_and_loses_none_that_it_accepted(
    tmp_path: Path,
) -> None:
    env = {"COPY_RATE_LIMIT_MB_S": "3", "MAX_CONCURRENT_PROCESSES": "1"}
    with small_state(tmp_path, **env) as (service, library):
        torrent = library.one("Film.mkv", 6_000_000)
        service.start()
        running = service.notify(torrent.id).json()["queue_id"]
        service.wait_for(
            lambda: any(
                p["bytes_done"] > 0 for p in service.http.get("/status").json()["processes"]
            ),
            "the copy runs",
        )
        ballast = fill(service)
        accepted, refused = notify_until_refused(service)
        health = service.http.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "degraded")
        assert any("journal cannot be written" in p for p in health.json()["problems"])
        # Still refused when the copy has come to its end: it cannot be recorded.
        copied = service.hdd / ".qbm-staging"
        service.wait_for(
            lambda: (
                sum(p.stat().st_size for p in copied.rglob("*") if p.is_file()) == 6_000_000
                or not copied.exists()
            ),
            "the copy is whole",
        )
        assert service.http.get(f"/jobs/{running}").json()["state"] == "running"
        assert service.http.post("/state/save").status_code == 503
        assert service.http.get("/status").status_code == 200

        ballast.unlink()
        after = service.notify("f" * 40)
        service.wait_for(
            lambda: service.http.get("/health").json()["status"] == "healthy", "it recovers"
        )
        assert after.status_code == 202
        job = service.wait_for_job(running, "done", "failed")
        assert (job["state"], job["outcome"]) == ("done", "tiered")
        library.assert_tiered()
        assert_kept(service, accepted, refused)
        again = service.notify(refused[0])
        assert (again.status_code, again.json().get("duplicate")) == (202, None)
        assert "Traceback" not in service.output()


def test_a_kill_while_the_disk_is_full_loses_nothing_that_was_accepted(tmp_path: Path) -> None:
    env = {"COPY_RATE_LIMIT_MB_S": "3", "MAX_CONCURRENT_PROCESSES": "1"}
    with small_state(tmp_path, **env) as (service, library):
        running = begin_copy(service, library)
        ballast = fill(service)
        accepted, refused = notify_until_refused(service)
        service.kill()
        ballast.unlink()
        del service.env["COPY_RATE_LIMIT_MB_S"]
        service.start()
        job = service.wait_for_job(running, "done", "failed")
        assert (job["state"], job["outcome"]) == ("done", "tiered")
        assert_kept(service, accepted, refused)
        library.assert_tiered()


def test_a_start_on_a_full_disk_says_why_and_what_is_safe_and_loses_nothing(
    tmp_path: Path,
) -> None:
    with small_state(tmp_path, MAX_CONCURRENT_PROCESSES="1", COPY_RATE_LIMIT_MB_S="1") as (
        service,
        library,
    ):
        begin_copy(service, library)
        hashes = [f"{n:040x}" for n in range(1, 50)]
        accepted = {hash_: service.notify(hash_).json()["queue_id"] for hash_ in hashes}
        service.kill()
        ballast = fill(service)
        for _ in range(2):  # a supervisor tries again and again
            process, service.process = service.launch(), None
            try:
                assert process.wait(20) == 1
            finally:
                process.kill()
                process.wait()
            line = service.output_of_run().splitlines()[-1]
            assert f"cannot start: the journal in STATE_DIR {service.state} cannot be" in line
            assert "every accepted job is safe in it; free space on that disk" in line
        for wrong in ("nothing was accepted", "send again", "Traceback", "ready"):
            assert wrong not in service.output_of_run()
        ballast.unlink()
        service.start()
        assert_kept(service, accepted)


def test_a_drain_on_a_full_disk_ends_in_time_and_loses_nothing(tmp_path: Path) -> None:
    env = {"COPY_RATE_LIMIT_MB_S": "1", "MAX_CONCURRENT_PROCESSES": "1"}
    with small_state(tmp_path, **env) as (service, library):
        running = begin_copy(service, library)
        ballast = fill(service)
        accepted, _ = notify_until_refused(service)
        assert service.stop() == 0, service.output()
        assert "the journal is closed" in service.output_of_run().splitlines()[-1]
        assert "Traceback" not in service.output()
        ballast.unlink()
        del service.env["COPY_RATE_LIMIT_MB_S"]
        service.start()
        assert service.wait_for_job(running, "done", "failed")["outcome"] == "tiered"
        assert_kept(service, accepted)


def test_markers_that_cannot_be_recorded_now_are_recorded_later(tmp_path: Path) -> None:
    """No job runs before they are; the service stays."""
    with small_state(tmp_path) as (service, library):
        torrent = library.one("Film.mkv", 100_000)
        service.start()
        service.stop()
        with closing(sqlite3.connect(service.state / "journal.sqlite3")) as connection:
            connection.execute("DELETE FROM meta WHERE name LIKE 'tier.%'")
            connection.commit()
        ballast = fill(service)
        service.start()
        service.wait_for(
            lambda: "HDD tier: the journal cannot be written" in service.output(), "it tried"
        )
        assert service.http.get("/health").json()["status"] == "degraded"
        ballast.unlink()
        answer = service.notify(torrent.id)
        assert answer.status_code == 202
        job = service.wait_for_job(answer.json()["queue_id"], "done", "failed", limit_s=45)
        assert job["outcome"] == "tiered"
        library.assert_tiered()
