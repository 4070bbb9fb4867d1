"""Start: what stands in its way is said in a line; qBittorrent may be away or refuse us.

Real qBittorrent, real service.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.rig.library import Library, snapshot, stage
from tests.rig.mounts import mounted
from tests.rig.qbt import PASSWORD, running
from tests.rig.service import Service
from tests.rig.wires import Counting

pytestmark = pytest.mark.qbittorrent


def refusal(service: Service, status: int = 1) -> str:
    """Start it in vain: it ends with ``status``, and its last line says why. Gives that line."""
    process, service.process = service.launch(), None
    try:
        assert process.wait(20) == status, service.output_of_run()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)
    *before, line = service.output_of_run().splitlines()
    assert len(before) == (status == 2)  # where the settings are wrong, a headline
    return line


# -- what stands in the way ---------------------------------------------------


def test_a_second_service_on_one_state_directory_says_who_has_it(
    service: Service, tmp_path: Path
) -> None:
    service.start()
    assert service.process is not None
    second = Service(tmp_path / "second", service.qbittorrent_url)
    second.http.close()
    second.env["STATE_DIR"] = str(service.state)
    before = snapshot(tmp_path / "second")
    line = refusal(second)
    assert f"in use by another qbm-trio (process {service.process.pid})" in line
    assert str(service.state) in line
    after = snapshot(tmp_path / "second")
    assert set(after) - set(before) == {"service.log", "qbm.log"}
    # The first one is not disturbed, and a dead one's lock is no lock.
    assert service.notify("1" * 40).status_code == 202
    service.kill()
    service.start()


def test_a_port_in_use_is_one_clear_line_and_nothing_is_changed(service: Service) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        service.env["HTTP_PORT"] = str(port)
        line = refusal(service)
    assert f"HTTP_PORT={port}: another program listens there" in line
    assert set(snapshot(service.root)) == {
        "ssd", "hdd", "state", "state/lock", "service.log", "qbm.log"
    }  # fmt: skip


def test_a_journal_of_a_newer_version_is_left_alone(service: Service) -> None:
    service.start()
    service.stop()
    path = service.state / "journal.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 1000")
    before = path.read_bytes()
    line = refusal(service)
    assert "schema version 1000" in line
    assert "start the newer qbm-trio again" in line
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"not a database " * 1000, b"SQLite format 3\0" + b"\xff" * 9000]
)
def test_a_journal_that_is_no_database_is_set_aside_and_said(
    service: Service, content: bytes
) -> None:
    """What it is restored from: ``test_journal_damage.py``."""
    path = service.state / "journal.sqlite3"
    path.write_bytes(content)
    service.start()
    (aside,) = service.state.glob("journal.sqlite3.damaged-*")
    assert aside.read_bytes() == content
    assert f"the journal {path} is damaged" in service.output_of_run()
    assert "there is no recovery point that can be used" in service.output_of_run()
    assert service.notify("1" * 40).status_code == 202


def test_a_state_directory_that_cannot_be_made_is_said(service: Service) -> None:
    file = service.root / "a file"
    file.touch()
    service.env["STATE_DIR"] = str(file / "state")
    assert f"STATE_DIR: {file / 'state'} cannot be made" in refusal(service, 2)


def test_a_state_directory_that_cannot_be_written_is_said(service: Service) -> None:
    """Root may write anywhere but to a file system that is read-only."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    with mounted(service.state, options="ro"):
        line = refusal(service, 2)
    assert f"STATE_DIR: {service.state} is not writable" in line


# -- order --------------------------------------------------------------------


def test_interrupted_jobs_come_first_then_priority_then_the_oldest(tmp_path: Path) -> None:
    env = {"MAX_CONCURRENT_PROCESSES": "2", "MAX_CONCURRENT_COPY_OPERATIONS": "2"}
    with stage(tmp_path, **env, COPY_RATE_LIMIT_MB_S="1") as (service, library):
        for name, size in (("long 1", 30_000_000), ("long 2", 30_000_000)):
            library.make(name, size)
        for n in range(6):
            library.make(f"short {n}", n + 1)
        library.add()
        service.start()

        def notify(n: int, priority: int) -> str:
            answer = service.notify(library.torrents[n].id, priority=priority)
            return str(answer.json()["queue_id"])

        def both_copy() -> bool:
            processes = service.http.get("/status").json()["processes"]
            return [p["bytes_done"] > 0 for p in processes] == [True, True]

        ids = [notify(0, -9), notify(1, -9)]
        service.wait_for(both_copy, "two jobs copy")
        ids += [notify(n, priority) for n, priority in enumerate((0, 5, 0, 5, -1, 9), start=2)]
        service.kill()  # not even asked
        del service.env["COPY_RATE_LIMIT_MB_S"]
        service.env["MAX_CONCURRENT_PROCESSES"] = "1"
        service.start()
        jobs = [service.wait_for_job(job_id, "done", "failed") for job_id in ids]
        assert {job["outcome"] for job in jobs} == {"tiered"}
        done = sorted(jobs, key=lambda job: job["finished_at"])
        assert [ids.index(job["id"]) for job in done] == [0, 1, 7, 3, 5, 2, 4, 6]
        library.assert_tiered()


# -- qBittorrent --------------------------------------------------------------


def test_qbittorrent_may_start_later(tmp_path: Path) -> None:
    with stage(tmp_path) as (service, library):
        torrent = library.one("Film.mkv", 300_000)
        library.qbt.stop()
        service.start()
        answer = service.notify(torrent.id)
        assert answer.status_code == 202
        job_id = answer.json()["queue_id"]
        waiting = service.wait_for_job(job_id, "waiting")
        assert waiting["wait_reason"] == "qbittorrent"
        assert "is it running" in waiting["error"]
        health = service.http.get("/health").json()
        assert health["status"] == "degraded"
        assert health["problems"] == [
            "qBittorrent is unreachable or refuses the login; see /status"
        ]
        library.qbt.start()
        job = service.wait_for_job(job_id, "done", "failed", limit_s=45)
        assert (job["outcome"], job["attempts"]) == ("tiered", 0)
        library.assert_tiered()
        assert service.http.get("/health").json()["status"] == "healthy"


def test_a_qbittorrent_that_dies_in_mid_copy_and_comes_back_costs_no_job(tmp_path: Path) -> None:
    env = {"COPY_RATE_LIMIT_MB_S": "4", "MAX_CONCURRENT_PROCESSES": "2"}
    with stage(tmp_path, **env) as (service, library):
        library.make("Film 0.mkv", 12_000_000)  # at the rate for two: long enough to be seen
        for n in range(1, 5):
            library.make(f"Film {n}.mkv", 1_500_000)
        library.add()
        # It forgets, at a kill, what it added just now.
        library.qbt.stop()
        library.qbt.start()
        library.qbt.wait_for(lambda: len(library.qbt.ids()) == 5, "it has its torrents again")
        service.start()
        ids = [service.notify(torrent.id).json()["queue_id"] for torrent in library.torrents]
        service.wait_for(
            lambda: any(
                p["phase"] == "copying" and p["bytes_done"] > 0
                for p in service.http.get("/status").json()["processes"]
            ),
            "a copy runs",
        )
        library.qbt.stop(signal.SIGKILL)
        service.wait_for(
            lambda: "is it running" in str(service.http.get("/status").json()["qbittorrent"]),
            "it notices",
        )
        library.qbt.start()
        for job_id in ids:
            job = service.wait_for_job(job_id, "done", "failed", limit_s=60)
            assert (job["outcome"], job["attempts"]) == ("tiered", 0)
        library.assert_tiered()


def test_a_wrong_password_is_said_is_not_hammered_and_costs_no_job(tmp_path: Path) -> None:
    with running(tmp_path / "qbt", login=True) as qbt, Counting(qbt.web_port) as relay:
        # The relay's port is not the one that qBittorrent listens on.
        qbt.api.app_set_preferences({"web_ui_host_header_validation_enabled": False})
        service = Service(tmp_path / "service", relay.url)
        service.env |= {"QBIT_USERNAME": "admin", "QBIT_PASSWORD": "not the one"}
        library = Library(service, qbt)
        try:
            for n in range(50):
                library.make(f"{n}.txt", n + 1)
            library.add()
            service.start()
            ids = [service.notify(torrent.id).json()["queue_id"] for torrent in library.torrents]
            for job_id in ids:
                job = service.wait_for_job(job_id, "waiting")
                assert job["wait_reason"] == "qbittorrent"

            def refused() -> dict[str, Any] | None:
                told: dict[str, Any] = service.http.get("/status").json()["qbittorrent"]
                return told if told["problem"] else None

            # Jobs wait for it before it is asked, too.
            told = service.wait_for(refused, "it says why")
            assert told["reachable"] is False
            assert "check QBIT_USERNAME and QBIT_PASSWORD" in told["problem"]
            assert "refuses the login" in service.http.get("/health").text
            logged = [
                line
                for line in service.output().splitlines()
                if re.search(r"ERROR .*check QBIT_USERNAME and QBIT_PASSWORD", line)
            ]
            assert len(logged) == 1
            everything = service.output() + service.http.get("/status").text
            assert "not the one" not in everything

            until = time.monotonic() + 5
            service.wait_for(lambda: time.monotonic() > until, "five seconds have passed")
            assert 1 <= relay.requests["/api/v2/auth/login"] <= 3
            assert relay.requests.total() < 15, relay.requests
            refusals = [m for m in qbt.api.log_main() if "login failure" in str(m["message"])]
            assert 1 <= len(refusals) <= 3
            assert {service.job(job_id)["state"] for job_id in ids} == {"waiting"}

            assert service.stop() == 0
            service.env["QBIT_PASSWORD"] = PASSWORD
            service.start()
            for job_id in ids:
                job = service.wait_for_job(job_id, "done", "failed")
                assert (job["outcome"], job["attempts"]) == ("tiered", 0)
            library.assert_tiered()
        finally:
            service.kill()
            service.http.close()
