"""A real Prometheus on loopback, and its promtool: Debian's, ended by pid.

The package is only unpacked, below ``QBM_TEST_CACHE``: installed, it would start a service
of its own on this machine. One that is on the PATH is used as it is.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from scripts.rig.waiting import wait_for
from tests.rig.qbt import cache_dir, free_port

T = TypeVar("T")


def program(name: str) -> str:
    """The path of ``prometheus`` or ``promtool``; the package is fetched once, in seconds."""
    found = shutil.which(name)
    if found is not None:
        return found
    unpacked = cache_dir() / "prometheus"
    if not (unpacked / "usr/bin" / name).exists():
        _unpack(unpacked)
    return str(unpacked / "usr/bin" / name)


def _unpack(target: Path) -> None:
    fresh = target.with_name(f"{target.name}.{os.getpid()}")
    fresh.mkdir(parents=True)
    fetch = ["apt-get", "-q", "download", "prometheus"]
    done = _run(fetch, cwd=fresh)
    if done.returncode:  # the package lists may be absent or stale
        _run(["apt-get", "-q", "update"], cwd=fresh)
        done = _run(fetch, cwd=fresh)
    if done.returncode:
        raise RuntimeError(f"please install prometheus first (sudo apt-get install): {done.stdout}")
    (package,) = fresh.glob("*.deb")
    done = _run(["dpkg", "-x", str(package), str(fresh)], cwd=fresh)
    if done.returncode:
        raise RuntimeError(f"dpkg could not unpack {package.name}: {done.stdout}")
    package.unlink()
    # The file system decides between two that did this at once.
    try:
        fresh.rename(target)
    except OSError:
        shutil.rmtree(fresh)


def promtool(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run promtool; its words are in ``stdout``."""
    return _run([program("promtool"), *arguments], stdin=stdin)


def _run(
    command: list[str], *, stdin: str = "", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )


@dataclass
class Prometheus:
    """One Prometheus with its data below ``folder``."""

    folder: Path
    config: str
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)

    def start(self) -> None:
        """Start it; return once it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "prometheus.yml"
        config.write_text(self.config, encoding="utf-8")
        with (self.folder / "output.log").open("wb") as output:
            self.process = subprocess.Popen(
                [
                    program("prometheus"),
                    f"--config.file={config}",
                    f"--storage.tsdb.path={self.folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.wait_for(self._ready, "it is ready")

    def stop(self) -> None:
        """End it; SIGKILL as the last resort."""
        process, self.process = self.process, None
        self.http.close()
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)

    def get(self, path: str, **params: str) -> Any:
        """The data of an answer of its API."""
        answer = self.http.get(f"/api/v1/{path}", params=params)
        document = answer.json()
        if document["status"] != "success":
            raise ValueError(f"{path} {params}: {document['error']}")
        return document["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """What an expression gives now: labels and value of each series."""
        data = self.get("query", query=expression)
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(row["metric"], float(row["value"][1])) for row in data["result"]]

    def wait_for(self, condition: Callable[[], T | None], what: str, limit_s: float = 30) -> T:
        """Ask until ``condition`` is true; give what it returned."""
        return wait_for(condition, what, limit_s, process=self.process, output=self.output)

    def output(self) -> str:
        """The end of what it printed."""
        return (self.folder / "output.log").read_text(errors="replace")[-4000:]

    def _ready(self) -> bool:
        try:
            return self.http.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def scraping(folder: Path, config: str) -> Iterator[Prometheus]:
    """Run a Prometheus with this configuration for as long as the block lasts."""
    prometheus = Prometheus(folder, config)
    try:
        prometheus.start()
        yield prometheus
    finally:
        prometheus.stop()
