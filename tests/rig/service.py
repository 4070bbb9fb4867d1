"""Run the real service as a process of its own, on loopback, ended by pid.

Standard library and httpx only, no pytest.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from scripts.rig.waiting import wait_for

KEY = "a-test-key-of-32-characters-0000"

T = TypeVar("T")


@dataclass
class Service:
    """One service with its own tiers and state below ``root``."""

    root: Path
    qbittorrent_url: str
    env: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    url: str = ""
    ssd: Path = Path()  #: below ``root`` unless told otherwise
    module: str = "qbm_trio"  #: what is run; one of the tests' own may spoil the service

    def __post_init__(self) -> None:
        if self.ssd == Path():
            self.ssd = self.root / "ssd"
        self.hdd = self.root / "hdd"
        self.state = self.root / "state"
        for folder in (self.ssd, self.hdd, self.state):
            folder.mkdir(parents=True, exist_ok=True)
        self.output_path = self.root / "service.log"
        self.http = httpx.Client(headers={"X-API-Key": KEY}, timeout=30)
        self._begin = 0  #: of this run, in its output

    def start(self, *, limit_s: float = 30) -> Service:
        """Start it, and return once it says that it is ready."""
        self.launch()
        return self.wait_ready(limit_s=limit_s)

    def launch(self) -> subprocess.Popen[bytes]:
        """Start it, and return at once."""
        self._begin = self.output_path.stat().st_size if self.output_path.exists() else 0
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
            "HTTP_API_KEY": KEY,
            "HTTP_PORT": "0",
            "QBIT_HOST": self.qbittorrent_url,
            "DOWNLOAD_PATH_SSD": str(self.ssd),
            "FINAL_DEST_BASE_HDD": str(self.hdd),
            "STATE_DIR": str(self.state),
            "LOG_FILE": str(self.root / "qbm.log"),
            "DISK_SPACE_THRESHOLD_GB": "0.001",
            "HDD_MIN_FREE_GB": "0",
            "SHUTDOWN_GRACE_S": "1",
            **self.env,
        }
        with self.output_path.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module, "--service"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
            )
        return self.process

    def wait_ready(self, *, limit_s: float = 30) -> Service:
        """Wait until it says that it is ready, and where it listens."""
        ready = re.compile(r"\bready(?:, without HTTP| (http://\S+))\n")

        def said() -> re.Match[str] | None:
            return ready.search(self.output_of_run())

        found = self.wait_for(said, "it says ready", limit_s)
        self.url = found[1] or ""
        self.http.base_url = httpx.URL(self.url)
        return self

    def past_this_second(self) -> None:
        """Before a first start: wait until what is complete by now completed a second ago.

        A service that starts for the first time in the very second in which a torrent completed
        takes it for a new one, and asks for its job itself. qBittorrent tells whole seconds.
        """
        completed_s = int(time.time())
        self.wait_for(lambda: time.time() >= completed_s + 1, "the next second")

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> int:
        """End it with a signal; give its exit status."""
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(signum)
        try:
            return process.wait(30)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(10)

    def kill(self) -> None:
        """Pull the plug: ``kill -9``, and wait until it is gone."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait(30)

    def on_disk(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the journal as it lies on the disk, from a copy. The service must be dead."""
        assert self.process is None
        with tempfile.TemporaryDirectory() as folder:
            for file in self.state.glob("journal.sqlite3*"):
                shutil.copy(file, folder)
            with closing(sqlite3.connect(Path(folder) / "journal.sqlite3")) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                return connection.execute(query).fetchall()

    def output(self) -> str:
        """What it has written to its terminal so far."""
        return self.output_path.read_text(errors="replace")

    def output_of_run(self) -> str:
        """What it has written since it was last started."""
        with self.output_path.open("rb") as file:
            file.seek(self._begin)
            return file.read().decode(errors="replace")

    def notify(self, hash_: str, **body: Any) -> httpx.Response:
        """Tell it that a torrent finished."""
        return self.http.post("/notify/torrent-finished", json={"hash": hash_, **body})

    def job(self, job_id: str) -> dict[str, Any]:
        """One job, as the API shows it."""
        document: dict[str, Any] = self.http.get(f"/jobs/{job_id}").json()
        return document

    def wait_for_job(self, job_id: str, *states: str, limit_s: float = 30) -> dict[str, Any]:
        """Wait until a job is in one of ``states``."""

        def there() -> dict[str, Any] | None:
            job = self.job(job_id)
            return job if job["state"] in states else None

        return self.wait_for(there, f"job {job_id} is {' or '.join(states)}", limit_s)

    def wait_for(self, condition: Callable[[], T | None], what: str, limit_s: float = 30) -> T:
        """Ask until ``condition`` gives something; fail loudly if the process ends first."""
        return wait_for(condition, what, limit_s, process=self.process, output=self.output)


@contextmanager
def serving(root: Path, qbittorrent_url: str, **env: str) -> Iterator[Service]:
    """Run a service for as long as the block lasts."""
    service = Service(root, qbittorrent_url, env)
    try:
        yield service.start()
    finally:
        service.stop(signal.SIGKILL)
        service.http.close()
