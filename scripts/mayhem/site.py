"""One world: two small disks, a real qBittorrent, the service, and what must not change."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from scripts.rig.qbt import Qbt
from scripts.rig.service import Service
from tests.rig.disks import Disk
from tests.rig.mounts import is_mounted

from .judge import Finding, wrong
from .known import Ledger, files_below
from .sentinels import snapshot, write_sentinels
from .tally import Tally
from .webui import WebUi

THRESHOLD_BYTES = 48_000_000
TARGET_BYTES = 54_000_000
VERSIONS = ("4.5.2", "5.1.0")
STAGING = ".qbm-staging"
OURS = frozenset({"ssd", "hdd", "ssd.img", "hdd.img", "qbittorrent", "config", "outside"})


@dataclass(kw_only=True)
class Site:
    """The programs and the disks. Its user's hand, its faults and the checker use it."""

    place: Path
    ssd: Disk
    hdd: Disk
    qbt: Qbt
    service: Service
    ledger: Ledger
    tally: Tally
    log: Callable[[str], None]
    stop: threading.Event  #: set when all is to end
    began_without_hdd: bool = False  #: qBittorrent, so that it gave up what is there
    ready: bool = False  #: the service that runs has answered
    _alarms: list[Finding] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.web = WebUi(self.qbt.url)
        self.outside = self.place / "outside"
        write_sentinels(self.outside)
        self.sentinels = snapshot(self.outside)

    def alarm(self, what: str, text: str) -> None:
        """Something is wrong that no look at the files would show."""
        with self._lock:
            self._alarms.append(wrong(what, "", text))
        self.log(f"{what}: {text}")

    def alarms(self) -> list[Finding]:
        """Those since the last time."""
        with self._lock:
            alarms, self._alarms = self._alarms, []
        return alarms

    # -- the service

    def start_service(self) -> bool:
        """Start it unless it runs; whether it does."""
        with self._lock:
            if self.service.process is None:
                self.service.spawn(new_session=True)
                self.ready = False
            return True

    def service_answers(self) -> bool:
        """Whether it runs and is ready. One that could not start is started again.

        A read-only or absent disk is a reason not to start; what had answered and then
        ended by itself has crashed, which is told once.
        """
        with self._lock:
            process = self.service.process
            if process is None:
                return False
            if process.poll() is not None:
                text = f"status {process.returncode}"
                if self.ready:
                    self.alarm("the service ended by itself", text)
                else:
                    self.log(f"the service did not start: {text}")
                    self.tally.count("starts refused")
                self.service.process = None
                self.start_service()
                return False
            with suppress(RuntimeError):  # a 503 while it drains
                self.ready = self.ready or self.service.get("/health", quiet=True) is not None
            return self.ready

    def kill_service(self) -> bool:
        """``kill -9``; whether it ran."""
        with self._lock:
            if self.service.process is None:
                return False
            self.service.kill()
            return True

    def stop_service(self) -> int | None:
        """SIGTERM, and wait; its exit status."""
        with self._lock:
            return self.service.stop()

    # -- qBittorrent

    def qbittorrent_runs(self) -> bool:
        """Whether its process is there."""
        process = self.qbt.process
        return process is not None and process.poll() is None

    def start_qbittorrent(self) -> bool:
        """Start it unless it runs; whether it answers."""
        with self._lock:
            if self.qbittorrent_runs():
                return True
            if self.qbt.process is not None:
                self.log(f"qBittorrent ended by itself: {self.qbt.process.returncode}")
                self.tally.count("ends of qBittorrent by itself")
            self.began_without_hdd |= not is_mounted(self.hdd.at)
            try:
                self.qbt.start()
            except (RuntimeError, TimeoutError) as error:
                self.log(f"qBittorrent did not start: {error}")
                self.qbt.stop(signal.SIGKILL)
                return False
            return True

    def kill_qbittorrent(self) -> bool:
        """``kill -9``; whether it ran."""
        with self._lock:
            if not self.qbittorrent_runs():
                return False
            self.qbt.stop(signal.SIGKILL)
            return True

    def signal_qbittorrent(self, signum: signal.Signals) -> None:
        """SIGSTOP or SIGCONT."""
        process = self.qbt.process
        if process is not None and process.poll() is None:
            process.send_signal(signum)

    # -- the disks

    def mend_hdd(self) -> None:
        """Mounted, writable, not full."""
        if not is_mounted(self.hdd.at):
            self._look_below_the_mount()
            self.hdd.mount()
        self.hdd.remount(read_only=False)
        (self.hdd.at / "filler").unlink(missing_ok=True)

    def _look_below_the_mount(self) -> None:
        """What was written where the disk should have been.

        qBittorrent makes a torrent's empty files there: they are counted and cleared away.
        Data is an alarm, and stays, to be looked into: the disk will hide it.
        """
        for path in files_below(self.hdd.at):
            size_bytes = path.lstat().st_size
            if size_bytes or path.name.startswith(".qbm"):
                self.alarm("data below the HDD's mount point", f"{path}, {size_bytes} bytes")
            else:
                self.tally.count("empty files below the mount point")
                path.unlink()
        for folder in sorted(self.hdd.at.rglob("*"), reverse=True):
            with suppress(OSError):
                folder.rmdir()

    def squeeze_ssd(self, free_bytes: int) -> None:
        """Another download takes or frees space, until about this much is free."""
        ballast = self.ssd.at / "another download"
        has_bytes = ballast.stat().st_size if ballast.exists() else 0
        want_bytes = max(0, has_bytes + self.ssd.free_bytes - free_bytes)
        with ballast.open("ab") as file:
            if want_bytes > has_bytes:
                with suppress(OSError):
                    os.posix_fallocate(file.fileno(), 0, want_bytes)
            else:
                file.truncate(want_bytes)

    def release_ssd(self) -> None:
        """The other download is gone."""
        (self.ssd.at / "another download").unlink(missing_ok=True)

    def pause(self, seconds: float) -> None:
        """Wait, but not when all is to end. Raises `Stopped`."""
        if self.stop.wait(seconds):
            raise Stopped

    def wait_for(self, condition: Callable[[], object], what: str, limit_s: float) -> None:
        """Ask until it is true. Raises `TimeoutError`, `Stopped`."""
        deadline_s = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"not within {limit_s:.0f} s: {what}")
            self.pause(0.1)


class Stopped(Exception):
    """All is to end now."""
