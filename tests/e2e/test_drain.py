"""SIGTERM and SIGINT: the service ends in time, whatever hangs, and goes on where it was.

Real qBittorrent, real service.
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.rig.library import Library, frozen, stage
from tests.rig.service import KEY, Service
from tests.rig.wires import Silent

log = logging.getLogger(__name__)

pytestmark = pytest.mark.qbittorrent

GRACE_S = 1.0  #: what the rig sets
AT_ONCE_S = 2.0  #: on a busy machine; the grace is much longer then
SIGNALS = pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])


def end(service: Service, signum: signal.Signals = signal.SIGTERM) -> float:
    """End it as the system would; it must exit with 0 in time. Gives how long it took."""
    grace_s = float(service.env.get("SHUTDOWN_GRACE_S", GRACE_S))
    began = time.monotonic()
    status = service.stop(signum)
    took_s = time.monotonic() - began
    output = service.output_of_run()
    assert status == 0, output
    assert took_s < grace_s + 1.1, output  # a tenth for the system to reap it
    assert "Traceback" not in output
    return took_s


def recovery_point(service: Service) -> list[dict[str, object]]:
    """The jobs in the recovery point that the last log line names."""
    last = service.output_of_run().splitlines()[-1]
    assert "the journal is closed, recovery point " in last
    path = Path(last.partition("recovery point ")[2])
    assert path.parent == service.state
    assert not list(service.state.glob("journal.sqlite3-wal"))
    jobs: list[dict[str, object]] = json.loads(path.read_text())["jobs"]
    return jobs


def copying(service: Service, library: Library, name: str = "Film.mkv", **body: object) -> str:
    """Have a copy of many seconds run; give its job."""
    torrent = library.one(name, 20_000_000)
    job_id: str = service.notify(torrent.id, **body).json()["queue_id"]

    def begun() -> bool:
        processes = service.http.get("/status").json()["processes"]
        return any(p["id"] == job_id and p["bytes_done"] > 0 for p in processes)

    service.wait_for(begun, "the copy has begun")
    return job_id


SLOW = {"COPY_RATE_LIMIT_MB_S": "2", "MAX_CONCURRENT_COPY_OPERATIONS": "3"}


@SIGNALS
def test_an_idle_service_ends_at_once(tmp_path: Path, signum: signal.Signals) -> None:
    with stage(tmp_path, SHUTDOWN_GRACE_S="20") as (service, _):
        service.start()
        assert end(service, signum) < AT_ONCE_S
        assert recovery_point(service) == []


@pytest.mark.parametrize("env", [{"HTTP_ENABLED": "false"}, {"DRY_RUN": "true"}])
def test_without_http_and_in_a_dry_run_it_ends_at_once_too(
    tmp_path: Path, env: dict[str, str]
) -> None:
    with stage(tmp_path, **env, SHUTDOWN_GRACE_S="20") as (service, _):
        service.start()
        assert end(service) < AT_ONCE_S
        assert recovery_point(service) == []


@SIGNALS
def test_a_running_copy_is_interrupted_goes_first_and_is_finished(
    tmp_path: Path, signum: signal.Signals
) -> None:
    env = SLOW | {"MAX_CONCURRENT_PROCESSES": "1", "SHUTDOWN_GRACE_S": "0.3"}
    with stage(tmp_path, **env) as (service, library):
        service.start()
        long = copying(service, library, priority=-5)
        others = [library.make(f"{n}.txt", n + 1) for n in range(4)]
        library.add()
        queued = [
            service.notify(shelved.id, priority=priority).json()["queue_id"]
            for shelved, priority in zip(others, (0, 1, 0, 1), strict=True)
        ]
        end(service, signum)
        in_order = [long, queued[1], queued[3], queued[0], queued[2]]
        assert [job["id"] for job in recovery_point(service)] == in_order
        assert service.on_disk("SELECT id FROM jobs WHERE head") == [(long,)]
        assert "interrupted" in service.output_of_run()
        assert not (service.hdd / "Film.mkv").exists()

        del service.env["COPY_RATE_LIMIT_MB_S"]
        service.start()
        jobs = [service.wait_for_job(job_id, "done", "failed") for job_id in in_order]
        assert {job["outcome"] for job in jobs} == {"tiered"}
        assert sorted(jobs, key=lambda job: job["finished_at"]) == jobs
        library.assert_tiered()


def test_two_hundred_queued_jobs_are_there_after_the_next_start(tmp_path: Path) -> None:
    env = SLOW | {"MAX_CONCURRENT_PROCESSES": "1"}
    with stage(tmp_path, **env) as (service, library):
        service.start()
        long = copying(service, library)
        ids = [long]
        ids += [service.notify(f"{n:040x}").json()["queue_id"] for n in range(1, 201)]
        end(service)
        assert [job["id"] for job in recovery_point(service)] == ids
        service.start()
        assert service.http.get("/status").json()["queue"]["size"] >= 200
        assert service.http.get(f"/jobs/{ids[-1]}").json()["state"] == "queued"
        end(service)


def test_while_it_drains_notifications_are_sent_away_and_nothing_else_changes(
    tmp_path: Path,
) -> None:
    env = SLOW | {"SHUTDOWN_GRACE_S": "3", "MAX_CONCURRENT_PROCESSES": "1"}
    with stage(tmp_path, **env) as (service, library):
        service.start()
        copying(service, library)
        other = library.one("other", 5)
        assert service.process is not None
        service.process.send_signal(signal.SIGTERM)
        service.wait_for(lambda: service.http.get("/health").status_code == 503, "it drains")
        for http in (service.http, httpx.Client(headers={"X-API-Key": KEY})):
            health = http.get(f"{service.url}/health")
            assert (health.status_code, health.json()["status"]) == (503, "draining")
            refused = http.post(f"{service.url}/notify/torrent-finished", json={"hash": other.id})
            assert (refused.status_code, refused.json()["code"]) == (503, "draining")
            assert int(refused.headers["retry-after"]) > 0
            assert http.get(f"{service.url}/status").json()["service"]["status"] == "draining"
            http.close()
        service.http = httpx.Client(headers={"X-API-Key": KEY}, timeout=30)
        assert service.process.wait(4.1) == 0
        service.process = None
        assert [job["hash"] for job in recovery_point(service)] == [
            t.id for t in library.torrents if t.id != other.id
        ]


def test_a_copy_that_ends_within_the_grace_is_finished(tmp_path: Path) -> None:
    env = {"COPY_RATE_LIMIT_MB_S": "8", "SHUTDOWN_GRACE_S": "10"}
    with stage(tmp_path, **env) as (service, library):
        service.start()
        copying(service, library)
        assert end(service) < 6  # it does not sit the grace out
        assert recovery_point(service) == []
        library.assert_tiered()


@SIGNALS
def test_a_second_signal_ends_it_at_once(tmp_path: Path, signum: signal.Signals) -> None:
    with stage(tmp_path, **SLOW, SHUTDOWN_GRACE_S="20") as (service, library):
        service.start()
        job_id = copying(service, library)
        assert service.process is not None
        service.process.send_signal(signal.SIGTERM)
        service.wait_for(lambda: service.http.get("/health").status_code == 503, "it drains")
        began = time.monotonic()
        assert service.stop(signum) == 128 + signum
        assert time.monotonic() - began < AT_ONCE_S
        del service.env["COPY_RATE_LIMIT_MB_S"]
        service.start()
        assert service.wait_for_job(job_id, "done", "failed")["outcome"] == "tiered"


# -- what hangs ---------------------------------------------------------------


@contextmanager
def connection(service: Service) -> Iterator[socket.socket]:
    """A connection of our own to the service."""
    address = urlsplit(service.url)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(10)
        sock.connect((address.hostname, address.port))
        yield sock


def request(method: str, path: str, length: int = 0) -> bytes:
    return (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def never_reads(sock: socket.socket) -> None:
    """Ask for megabytes, and read nothing."""
    sock.setblocking(False)
    data = request("GET", "/openapi.json") * 500
    deadline = time.monotonic() + 10
    silent_since = time.monotonic()
    # Until nothing more is taken: the service is stuck in sending.
    while time.monotonic() - silent_since < 0.3:
        try:
            data = data[sock.send(data) :]
            silent_since = time.monotonic()
        except BlockingIOError:
            pass
        if not data:
            break
        assert time.monotonic() < deadline


def stalls_in_body(sock: socket.socket) -> None:
    sock.sendall(request("POST", "/notify/torrent-finished", 1000) + b'{"hash": "')


def stalls_in_head(sock: socket.socket) -> None:
    sock.sendall(b"POST /notify/torrent-finished HT")


def keeps_alive(sock: socket.socket) -> None:
    sock.sendall(request("GET", "/health"))
    assert sock.recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("behave", [never_reads, stalls_in_body, stalls_in_head, keeps_alive])
def test_a_client_cannot_hold_it_up(
    tmp_path: Path, behave: Callable[[socket.socket], None]
) -> None:
    with stage(tmp_path) as (service, _), ExitStack() as stack:
        service.start()
        for _ in range(3):
            behave(stack.enter_context(connection(service)))
        end(service)
        recovery_point(service)


@pytest.mark.parametrize("phase", ["resolving", "tagging"])
def test_a_qbittorrent_that_hangs_cannot_hold_it_up(tmp_path: Path, phase: str) -> None:
    with stage(tmp_path, COPY_RATE_LIMIT_MB_S="4") as (service, library):
        torrent = library.one("Film.mkv", 4_000_000)
        service.start()
        service.wait_for(lambda: service.http.get("/health").json()["status"] == "healthy", "well")

        def in_phase(wanted: str) -> bool:
            return wanted in [p["phase"] for p in service.http.get("/status").json()["processes"]]

        with ExitStack() as freezer:
            if phase == "resolving":
                freezer.enter_context(frozen(library.qbt))
            job_id = service.notify(torrent.id).json()["queue_id"]
            if phase == "tagging":
                service.wait_for(lambda: in_phase("copying"), "it copies")
                freezer.enter_context(frozen(library.qbt))
            service.wait_for(lambda: in_phase(phase), f"it is {phase}")
            end(service)
            assert [job["id"] for job in recovery_point(service)] == [job_id]
        service.start()
        assert service.wait_for_job(job_id, "done", "failed")["outcome"] == "tiered"
        library.assert_tiered()


def test_a_qbittorrent_that_never_answers_at_all_cannot_hold_it_up(tmp_path: Path) -> None:
    with Silent() as silent:
        service = Service(tmp_path / "service", silent.url)
        try:
            service.start()
            for n in range(5):
                assert service.notify(f"{n:040x}").status_code == 202
            end(service)
            assert len(recovery_point(service)) == 5
        finally:
            service.kill()
            service.http.close()


def test_sigterm_at_any_moment_of_the_start_leaves_everything_in_order(tmp_path: Path) -> None:
    """From the first instruction to ready: the moment is the loop's variable."""
    with stage(tmp_path, **SLOW) as (service, library):
        service.start()
        job_id = copying(service, library)
        end(service)
        began = time.monotonic()
        service.start()
        whole_s = time.monotonic() - began
        end(service)  # killed, it would leave the job running: also where nothing is touched
        for n in range(12):
            service.launch()
            at = time.monotonic() + whole_s * n / 10
            service.wait_for(lambda at=at: time.monotonic() >= at, "the moment")  # type: ignore[misc]
            status = service.stop()
            output = service.output_of_run()
            # While Python loads it is the system's default: nothing was touched.
            assert status == 0 or (status == -signal.SIGTERM and not output), output
            assert "Traceback" not in output
            assert service.on_disk("SELECT id, state FROM jobs") == [(job_id, "queued")]
        service.start()
        end(service)


def test_how_long_sigterm_takes_while_copies_run(tmp_path: Path) -> None:
    with stage(tmp_path, **SLOW, SHUTDOWN_GRACE_S="0") as (service, library):
        service.start()
        for name in ("a", "b"):
            copying(service, library, name)
        copying(service, library, "c")
        took = []
        for _ in range(7):
            took.append(end(service))
            assert len(recovery_point(service)) == 3
            service.start()
            service.wait_for(
                lambda: len(service.http.get("/status").json()["processes"]) == 3, "all run"
            )
        log.info("exit after median %.3f s, most %.3f s", statistics.median(took), max(took))
        assert statistics.median(took) < 0.5
