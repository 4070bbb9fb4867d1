"""The service as a process of its own, its journal, and the programs that load it."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio

from qbm_trio.adapters import journal_jobs
from qbm_trio.adapters.journal import FILE_NAME, Journal
from qbm_trio.core.model import JobId, Notification
from scripts.rig.service import ROOT, Service, clean_environment
from scripts.rig.waiting import wait_for

from .model import BenchFailed

T = TypeVar("T")


@dataclass(kw_only=True)
class Server(Service):
    """A service that takes any number of jobs, perhaps on a core of its own."""

    core: int | None = None  #: pinned to it

    def __post_init__(self) -> None:
        self.settings = {"QUEUE_CAPACITY": "1000000", **self.settings}

    def start(self) -> None:
        """Start it; return once it answers."""
        self.spawn()
        self.wait_for_health(("healthy", "degraded"))

    def spawn(self, *, new_session: bool = False) -> None:
        """Start it and wait for nothing."""
        self._begin = self.output.stat().st_size if self.output.exists() else 0
        super().spawn(new_session=new_session)
        assert self.process is not None
        if self.core is not None:
            # It has one thread yet; those to come inherit this.
            os.sched_setaffinity(self.process.pid, {self.core})

    def wait_for_health(self, statuses: Sequence[str], limit_s: float = 60) -> float:
        """Ask until ``/health`` says one of ``statuses``; return when it did (perf_counter)."""
        until = time.perf_counter() + limit_s
        while time.perf_counter() < until:
            if self.process is not None and self.process.poll() is not None:
                break
            answer = self.get("/health", quiet=True)
            if answer is not None and answer["status"] in statuses:
                return time.perf_counter()
            time.sleep(0.002)
        raise BenchFailed(f"the service does not say {' or '.join(statuses)}:\n{self._words()}")

    def _wait_for(self, condition: Callable[[], T | None], what: str, limit_s: float) -> T:
        try:
            return wait_for(condition, what, limit_s, process=self.process, output=self._words)
        except (TimeoutError, RuntimeError) as error:
            raise BenchFailed(str(error)) from error

    def _words(self) -> str:
        return self.output.read_text(errors="replace")[-2000:]

    def wait_for_checks(self, limit_s: float = 60) -> None:
        """Until what it checks at its start is over: that asks qBittorrent, too."""
        self._wait_for(
            lambda: b" checked: " in self.output.read_bytes()[self._begin :],
            "the service says what it has checked",
            limit_s,
        )

    def copying(self) -> int:
        """How many copies run right now."""
        return sum(p["phase"] == "copying" for p in self.get("/status")["processes"])

    def wait_for_copies(self, count: int, limit_s: float = 30) -> None:
        """Wait until so many copies run. Raises `BenchFailed`."""
        self._wait_for(lambda: self.copying() >= count, f"{count} copies run", limit_s)

    def tier(self, ids: Iterable[str], limit_s: float = 120) -> None:
        """Notify torrents; return once all of them have copies. Raises `BenchFailed`."""
        jobs = [self.post("/notify/torrent-finished", {"hash": id})["queue_id"] for id in ids]
        until = time.monotonic() + limit_s
        for job in jobs:

            def ended(job: str = job) -> dict[str, Any] | None:
                found: dict[str, Any] = self.get(f"/jobs/{job}")
                return found if found["state"] in ("done", "failed") else None

            found = self._wait_for(ended, f"job {job} has ended", until - time.monotonic())
            if found["state"] == "failed":
                raise BenchFailed(f"a torrent is not tiered: {found}")

    def idle(self) -> bool:
        """Whether no run of space management is under way, and no relocation open."""
        status = self.get("/status")
        open_ones = [each for each in status["processes"] if each["kind"] == "relocation"]
        return status["space"]["current_run"] is None and not open_ones

    def space_run(self, *, relocated: int, limit_s: float = 300) -> dict[str, Any]:
        """Have a run made; return what came of it once nothing of it is open.

        Raises `BenchFailed` if it has not relocated so many torrents.
        """
        run_id = self.post("/space-management/trigger", {})["run_id"]
        return self.end_of_run(run_id, relocated=relocated, limit_s=limit_s)

    def end_of_run(self, run_id: str, *, relocated: int, limit_s: float = 300) -> dict[str, Any]:
        """The same for a run that was triggered before."""

        def ended() -> dict[str, Any] | None:
            last: dict[str, Any] | None = self.get("/status")["space"]["last_run"]
            return last if last is not None and last["id"] == run_id and self.idle() else None

        last = self._wait_for(ended, f"the run {run_id} has ended", limit_s)
        if last["relocated"] != relocated or last["problem"]:
            raise BenchFailed(f"{relocated} torrents should have been relocated: {last}")
        return last

    def memory_bytes(self, name: str = "VmRSS") -> int:
        """What the kernel says of its memory."""
        assert self.process is not None
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise BenchFailed(f"the kernel does not tell {name}")

    def loop_cpu_s(self) -> float:
        """What its event loop's thread, the first one, has used so far."""
        assert self.process is not None
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[0]) / 1e9

    def kill(self) -> None:
        """End it as a power cut would: nothing is flushed."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait(30)

    def journal_hashes(self) -> set[str]:
        """The hash of every job in the journal. Only when it does not run."""
        connection = sqlite3.connect(self.state / FILE_NAME)
        try:
            return {row[0] for row in connection.execute("SELECT hash FROM jobs")}
        finally:
            connection.close()


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Run a service for the length of a block; it is killed at the end."""
    server.folder.mkdir(parents=True, exist_ok=True)
    try:
        server.start()
        yield server
    except (BenchFailed, RuntimeError) as error:
        words = server.output.read_text(errors="replace")[-2000:]
        raise BenchFailed(f"{error}\nthe service's last words:\n{words}") from error
    finally:
        server.kill()


def fill_journal(state: Path, notifications: Sequence[Notification]) -> None:
    """Put jobs into a new journal, as if they had been accepted by a service before."""

    async def fill() -> None:
        journal = Journal.open(state)
        async with trio.open_nursery() as nursery:
            await nursery.start(journal.run, trio.CapacityLimiter(1))
            pending = [
                journal.submit(
                    partial(
                        journal_jobs.admit,
                        n=notification,
                        job_id=JobId(secrets.token_hex(8)),
                        now=time.time(),
                    )
                )
                for notification in notifications
            ]
            for each in pending:
                await each.wait()
            journal.close()

    state.mkdir(parents=True, exist_ok=True)
    trio.run(fill)


def start_load(*arguments: object, core: int | None) -> subprocess.Popen[bytes]:
    """Start a program of ``load.py``."""
    environ = clean_environment()
    if core is not None:
        environ["QBM_BENCH_CORE"] = str(core)
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.benchmarks.load", *map(str, arguments)],
        cwd=ROOT,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )


def end_load(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What it printed, once it has ended. Raises `BenchFailed`."""
    try:
        output, _ = process.communicate(timeout=180)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode != 0:
        raise BenchFailed(f"a load program ended with {process.returncode}")
    result: dict[str, Any] = json.loads(output)
    if result.get("problem_count"):
        raise BenchFailed(
            f"{result['problem_count']} answers were not as they should be: {result['problems']}"
        )
    return result


def cores() -> tuple[int | None, int | None]:
    """One for the service and one for the load; None where there are not two."""
    usable = sorted(os.sched_getaffinity(0))
    return (usable[0], usable[1]) if len(usable) > 1 else (None, None)
