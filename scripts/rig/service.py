"""The service as the demo runs it: a process of its own, asked over HTTP."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.rig.qbt import Qbt, free_port

ROOT = Path(__file__).resolve().parents[2]
POLL_S = 0.15


class DemoFailed(Exception):
    """The demo cannot go on, or did not end as it should; the message says why."""


@dataclass(kw_only=True)
class Service:
    """The service as a process of its own, and its HTTP answers."""

    folder: Path
    ssd: Path
    hdd: Path
    qbittorrent: Qbt
    copy_limit_mb_s: int
    key: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> Path:
        """What it printed."""
        return self.folder / "service.log"

    def start(self) -> None:
        """Start it; return once ``/health`` answers."""
        environ = {
            "HTTP_PORT": str(self.port),
            "HTTP_API_KEY": self.key,
            "QBIT_HOST": "127.0.0.1",
            "QBIT_PORT": str(self.qbittorrent.web_port),
            "DOWNLOAD_PATH_SSD": str(self.ssd),
            "FINAL_DEST_BASE_HDD": str(self.hdd),
            "CONFIG_BASE": str(self.folder),
            "DISK_SPACE_THRESHOLD_GB": "0",
            "HDD_MIN_FREE_GB": "0",
            "COPY_RATE_LIMIT_MB_S": str(self.copy_limit_mb_s),
            "MAX_CONCURRENT_COPY_OPERATIONS": "2",
        }
        # Settings of the user's own service must not leak in.
        kept = {k: v for k, v in os.environ.items() if k.startswith(("COVERAGE", "LANG", "LC_"))}
        kept |= {k: os.environ[k] for k in ("PATH", "HOME", "TMPDIR") if k in os.environ}
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "qbm_trio", "--service"],
                cwd=ROOT,
                env=kept | environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is ours; it gets a SIGTERM from us
            )
        wait_for(lambda: self.alive() and self.get("/health", quiet=True), "the service answers")

    def alive(self) -> bool:
        """Whether the process runs. Raises `DemoFailed` if it ended by itself."""
        if self.process is None or self.process.poll() is None:
            return self.process is not None
        raise DemoFailed(f"the service ended with status {self.process.returncode}")

    def get(self, path: str, *, quiet: bool = False) -> Any:
        """Answer of ``GET path`` as JSON; None, if ``quiet``, while nothing answers."""
        request = urllib.request.Request(self.url + path, headers={"X-API-Key": self.key})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise DemoFailed(f"GET {path} was answered with {error.code}") from error
        except OSError as error:
            if quiet:
                return None
            raise DemoFailed(f"GET {path} was not answered: {error}") from error

    def stop(self) -> int | None:
        """End it with SIGTERM (SIGKILL as the last resort); return its exit status."""
        process, self.process = self.process, None
        if process is None:
            return None
        process.terminate()
        try:
            return process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait(15)


def wait_for(condition: Callable[[], Any], what: str, limit_s: float = 30.0) -> Any:
    """Ask until ``condition`` is true; give what it returned. Raises `DemoFailed`."""
    deadline = time.monotonic() + limit_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise DemoFailed(f"not within {limit_s:.0f} s: {what}")
        time.sleep(POLL_S)
    return found
