"""What breaks, and by whose hand: each event of the plan, done to a site."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.rig.mounts import is_mounted

from .known import Known, whole
from .plan import Event, Kind
from .site import Site

EARLY = frozenset({"preparing", "stopping", "repointing"})
"""Steps of a relocation after which the copy is still to be rechecked."""
READ_ONLY_TRIES = 40
FULL_LEAVES_BYTES = (0, 300_000)


class Faults:
    """Breaks things, and mends them after a while."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._later: list[tuple[float, Callable[[], object]]] = []

    def do(self, event: Event) -> bool:
        """Have it happen; False if there was nothing to break."""
        site = self._site
        match event.kind:
            case Kind.SERVICE_KILL:
                return self._after(site.kill_service(), event, site.start_service)
            case Kind.SERVICE_TERM:
                return self._terminate(event)
            case Kind.QBITTORRENT_KILL:
                return self._after(site.kill_qbittorrent(), event, site.start_qbittorrent)
            case Kind.BOTH_KILL:
                done = site.kill_service() | site.kill_qbittorrent()
                self._after(done, event, site.start_service)
                return self._after(done, event, site.start_qbittorrent)
            case Kind.QBITTORRENT_FREEZE:
                site.signal_qbittorrent(signal.SIGSTOP)
                return self._after(
                    site.qbittorrent_runs(),
                    event,
                    lambda: site.signal_qbittorrent(signal.SIGCONT),
                )
            case Kind.HDD_FULL | Kind.HDD_READ_ONLY | Kind.HDD_UNMOUNT:
                return self._after(self._break_hdd(event), event, site.mend_hdd)
            case Kind.SPOIL:
                return self._spoil(event.draw)
            case _:
                raise ValueError(f"no fault: {event.kind}")

    def tick(self) -> None:
        """Do what is due, and start what ended by itself."""
        due = [one for one in self._later if one[0] <= time.monotonic()]
        for one in due:
            self._later.remove(one)
            one[1]()
        self._site.service_answers()

    def mend_all(self) -> None:
        """End all faults at once; only the SSD stays short of space."""
        self._later.clear()
        site = self._site
        site.signal_qbittorrent(signal.SIGCONT)
        site.mend_hdd()
        site.start_service()
        site.wait_for(site.start_qbittorrent, "qBittorrent is up", 90)

    def _after(self, done: bool, event: Event, what: Callable[[], object]) -> bool:
        if done:
            self._later.append((time.monotonic() + event.lasts_s, what))
        return done

    def _terminate(self, event: Event) -> bool:
        site = self._site
        if site.service.process is None:
            return False
        answered = site.ready
        began_s = time.monotonic()
        status = site.stop_service()
        took_s = time.monotonic() - began_s
        site.log(f"SIGTERM: status {status} after {took_s:.1f} s")
        if answered and status != 0:
            site.alarm("SIGTERM did not end with 0", f"status {status} after {took_s:.1f} s")
        return self._after(True, event, site.start_service)

    def _break_hdd(self, event: Event) -> bool:
        hdd = self._site.hdd
        if not is_mounted(hdd.at):
            return False
        if event.kind is Kind.HDD_UNMOUNT:
            hdd.unmount()
            return True
        if event.kind is Kind.HDD_FULL:
            with suppress(OSError):  # read-only
                hdd.fill(leave_bytes=FULL_LEAVES_BYTES[event.draw < 0.5])
                return True
            return False
        for _ in range(READ_ONLY_TRIES):  # refused while a file is open for writing
            with suppress(RuntimeError):
                hdd.remount(read_only=True)
                return True
            time.sleep(0.05)
        return False

    # -- corrupt copies

    def _spoil(self, draw: float) -> bool:
        """Flip a byte in a copy on the HDD; size and time stay.

        Only while the torrents that share the file are whole on the SSD, and none of them is
        so far in its relocation that nobody would look at the copy again.
        """
        site = self._site
        found = [path for family in self._families() for path in self._copies(family)]
        if not found:
            return False
        family, path = found[int(draw * len(found))]
        if not self._harmless(family):
            return False
        try:
            at = int(draw * 1e6) % path.stat().st_size
            same = _names_of(path, family)
            _flip(path, at)
        except OSError as error:
            site.log(f"not spoilt: {path}: {error}")
            return False
        site.ledger.spoil(same)
        if self._harmless(family, look_at_files=False):
            site.log(f"SPOILT {path} at {at}")
            return True
        _flip(path, at)  # too late: it may have been checked before
        site.ledger.healed(same)
        site.log(f"spoilt and mended again: {path}")
        return False

    def _families(self) -> list[list[Known]]:
        by_family: dict[int, list[Known]] = {}
        for known in self._site.ledger.torrents():
            by_family.setdefault(known.spec.family, []).append(known)
        return list(by_family.values())

    def _copies(self, family: list[Known]) -> list[tuple[list[Known], Path]]:
        """The files on the HDD that might be spoilt."""
        if any(known.removed for known in family):
            return []  # its copy is nobody's business any more, and nobody would mend it
        bad = self._site.ledger.spoilt()
        paths = {
            known.on_hdd / name
            for known in family
            for name, file in known.files.items()
            if file.size and file.wanted
        }
        if any(path in bad for path in paths):
            return []
        # What has left the SSD is only on the HDD.
        if any(not (k.on_ssd / n).exists() for k in family for n in k.required):
            return []
        return [(family, path) for path in sorted(paths) if path.is_file()]

    def _harmless(self, family: list[Known], *, look_at_files: bool = True) -> bool:
        """Whether a bad copy would be noticed before the SSD's files are deleted."""
        site = self._site
        try:
            steps = _steps(site.service.get("/status"))
            torrents = site.web.torrents()
        except (OSError, RuntimeError):
            return False
        for known in family:
            info = torrents.get(known.id)
            if info is not None and known.tier_of(info["content_path"]) != "SSD":
                return False
            if steps.get(known.id, "preparing") not in EARLY:
                return False
            if look_at_files and whole(known, known.on_ssd) < known.required:
                return False
        return is_mounted(site.hdd.at)


def _steps(status: Any) -> dict[str, str]:
    return {p["hash"]: p["phase"] for p in status["processes"] if p["kind"] == "relocation"}


def _names_of(path: Path, family: list[Known]) -> set[Path]:
    """The file's hardlinks among the copies of its family."""
    copies = {known.on_hdd / name for known in family for name in known.files}
    return {copy for copy in copies if copy.exists() and copy.samefile(path)}


def _flip(path: Path, at: int) -> None:
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 0xFF]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
