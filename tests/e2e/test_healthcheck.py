"""The container's health check against a real service: it passes while that lives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from container.healthcheck import LIMIT_S, SILENT_S
from tests.rig.qbt import free_port
from tests.rig.service import Service

CHECK = Path(__file__).resolve().parents[2] / "container/healthcheck.py"
NOWHERE = "http://127.0.0.1:9"  # qBittorrent is away: the service is degraded


def check(**env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(CHECK)],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S + 10,
    )


@contextmanager
def frozen(service: Service) -> Iterator[None]:
    """A service that hangs."""
    assert service.process is not None
    service.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        service.process.send_signal(signal.SIGCONT)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path, NOWHERE)
    yield service
    service.kill()
    service.http.close()


def test_with_http_whoever_answers_lives(service: Service, tmp_path: Path) -> None:
    port = str(free_port())
    service.env |= {"HTTP_PORT": port, "HTTP_HOST": "0.0.0.0"}
    (tmp_path / "port").write_text(f"{port}\n")
    asked = {"HTTP_HOST": "0.0.0.0", "HTTP_PORT_FILE": str(tmp_path / "port")}
    service.start()
    done = check(**asked)
    assert (done.returncode, done.stdout, done.stderr) == (0, "degraded\n", "")

    with frozen(service):
        done = check(**asked)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "not healthy: timed out\n"

    service.kill()
    done = check(**asked)
    assert done.returncode == 1
    assert "Connection refused" in done.stderr


@pytest.mark.parametrize("answer", [b"{}", b"[1]", b"<html>", b'{"service": "other"}', b"\xff"])
def test_another_program_at_that_port_is_not_the_service(answer: bytes) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        done = check(HTTP_PORT=str(server.server_port))
        thread.join(10)
    assert done.returncode == 1
    assert done.stderr.startswith("not healthy: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["STATE_DIR", "LOCK_DIR", "CONFIG_BASE"])
def test_without_http_the_last_beat_counts(service: Service, tmp_path: Path, name: str) -> None:
    state = service.state
    if name == "CONFIG_BASE":
        state = service.state / "qbit-manager-state"
    service.env |= {"HTTP_ENABLED": "False", "STATE_DIR": str(state)}
    asked = {"HTTP_ENABLED": "False", name: str(service.state)}
    done = check(**asked)
    assert done.returncode == 1  # never started
    service.start()
    done = check(**asked)
    assert (done.returncode, done.stdout) == (0, "alive, without HTTP\n"), done.stderr
    with frozen(service):
        # As it is after so long without a beat.
        long_ago = time.time() - SILENT_S - 5
        os.utime(state / "lock", (long_ago, long_ago))
        done = check(**asked)
    assert done.returncode == 1
    assert done.stderr.startswith("not healthy: no sign of life for 6")
