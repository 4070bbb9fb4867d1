"""The service as a process of its own, asked over HTTP: what demo, bench and chaos run."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.rig.qbt import free_port
from scripts.rig.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def clean_environment() -> dict[str, str]:
    """Nothing of a user's own settings; what a Python process needs."""
    kept = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL")
    return {name: os.environ[name] for name in kept if name in os.environ}


@dataclass(kw_only=True)
class Service:
    """One service with a state directory of its own, and its HTTP answers."""

    folder: Path
    ssd: Path
    hdd: Path
    qbittorrent_port: int
    settings: Mapping[str, str] = field(default_factory=dict)  #: beside those that all have
    key: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    module: str = "qbm_trio"  #: what is run; one of the tests' own may spoil the service

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def state(self) -> Path:
        """Its state directory."""
        return self.folder / "state"

    @property
    def output(self) -> Path:
        """What it printed."""
        return self.folder / "service.log"

    def start(self) -> None:
        """Start it; return once ``/health`` answers."""
        self.spawn(new_session=True)  # Ctrl-C is ours; it gets a SIGTERM from us
        wait_for(lambda: self.alive() and self.get("/health", quiet=True), "the service answers")

    def spawn(self, *, new_session: bool = False) -> None:
        """Start it and wait for nothing."""
        environ = {
            "HTTP_PORT": str(self.port),
            "HTTP_API_KEY": self.key,
            "QBIT_HOST": "127.0.0.1",
            "QBIT_PORT": str(self.qbittorrent_port),
            "DOWNLOAD_PATH_SSD": str(self.ssd),
            "FINAL_DEST_BASE_HDD": str(self.hdd),
            "CONFIG_BASE": str(self.folder),
            "STATE_DIR": str(self.state),
            "DISK_SPACE_THRESHOLD_GB": "0",
            "HDD_MIN_FREE_GB": "0",
        }
        self.state.mkdir(parents=True, exist_ok=True)
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module, "--service"],
                cwd=ROOT,
                env={**clean_environment(), **environ, **self.settings},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=new_session,
            )

    def alive(self) -> bool:
        """Whether the process runs. Raises `RuntimeError` if it ended by itself."""
        if self.process is None or self.process.poll() is None:
            return self.process is not None
        raise RuntimeError(f"the service ended with status {self.process.returncode}")

    def get(self, path: str, *, quiet: bool = False) -> Any:
        """Answer of ``GET path`` as JSON; None, if ``quiet``, while nothing answers.

        Raises `RuntimeError` for any other failure.
        """
        try:
            return self._ask(path, None)
        except OSError as error:
            if quiet and not isinstance(error, urllib.error.HTTPError):
                return None
            raise RuntimeError(f"GET {path} failed: {error}") from error

    def post(self, path: str, document: object) -> Any:
        """Answer of ``POST path`` with a JSON body. Raises `RuntimeError` for any failure."""
        try:
            return self._ask(path, json.dumps(document).encode())
        except OSError as error:
            raise RuntimeError(f"POST {path} failed: {error}") from error

    def _ask(self, path: str, body: bytes | None) -> Any:
        headers = {"X-API-Key": self.key}
        if body is not None:
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(self.url + path, data=body, headers=headers)
        with _OPENER.open(request, timeout=30) as answer:
            return json.load(answer)

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

    def kill(self) -> None:
        """Pull the plug: ``kill -9``, and wait until it is gone."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait(30)
