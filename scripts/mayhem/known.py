"""What is known of every torrent and file, whatever the service or qBittorrent say."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .specs import Layout, Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFile:
    """A file as it was made."""

    sha256: str
    size: int
    wanted: bool
    required: bool  #: False for what is not there on purpose


@dataclass(eq=False, kw_only=True)
class Known:
    """One torrent that was added."""

    spec: Spec
    id: str
    hashes: tuple[str, ...]  #: all that mean it
    on_ssd: Path  #: what its files' names are below, there
    on_hdd: Path
    files: dict[str, KnownFile]
    stopped: bool  #: by its user
    removed: bool = False  #: from qBittorrent; its files are to stay

    def __str__(self) -> str:
        spec = self.spec
        return f"{spec.name} ({spec.layout}, {spec.version}, {self.id[:8]})"

    @property
    def wanted(self) -> set[str]:
        """The names of the files that its user wants."""
        return {name for name, file in self.files.items() if file.wanted}

    @property
    def required(self) -> set[str]:
        """The names of the files that must be somewhere."""
        return {name for name, file in self.files.items() if file.required}

    def tier_of(self, content_path: str) -> str:
        """Which of the two places qBittorrent's content path is; empty for another."""
        content = Path(content_path)
        for tier, root in (("SSD", self.on_ssd), ("HDD", self.on_hdd)):
            if content == self._content(root):
                return tier
        return ""

    def _content(self, root: Path) -> Path:
        return root if self.spec.layout is Layout.FLAT else root / self.spec.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A notification that got a 2xx."""

    job_id: str
    torrent_id: str
    at: float  #: seconds since 1970

    def __str__(self) -> str:
        return f"job {self.job_id} of torrent {self.torrent_id[:8]}"


class Ledger:
    """All torrents, foreign files and accepted notifications of a world. For all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._torrents: dict[int, Known] = {}
        self._foreign: dict[Path, str] = {}
        self._accepted: list[Accepted] = []
        self._spoilt: dict[Path, float] = {}
        self._mended: dict[Path, tuple[float, float]] = {}
        self._broken_families: set[int] = set()

    def add(self, known: Known) -> None:
        """A torrent is there."""
        with self._lock:
            self._torrents[known.spec.number] = known

    def get(self, number: int) -> Known | None:
        """The torrent with this number, if it is there and not removed."""
        with self._lock:
            known = self._torrents.get(number)
        return None if known is None or known.removed else known

    def forget(self, number: int) -> Known | None:
        """Its user wants nothing of it any more."""
        with self._lock:
            known = self._torrents.pop(number, None)
            if known is not None:
                self._broken_families.add(known.spec.family)
            return known

    def broken_families(self) -> set[int]:
        """Those of which one is forgotten."""
        with self._lock:
            return set(self._broken_families)

    def torrents(self) -> list[Known]:
        """All that are known, also those that were removed and left their files."""
        with self._lock:
            return list(self._torrents.values())

    def family(self, known: Known) -> list[Known]:
        """All that share files with it, itself included."""
        return [one for one in self.torrents() if one.spec.family == known.spec.family]

    def accept(self, accepted: Accepted) -> None:
        """A client read a 2xx."""
        with self._lock:
            self._accepted.append(accepted)

    def drop_accepted(self, accepted: Accepted) -> None:
        """One is told of once."""
        with self._lock:
            self._accepted = [one for one in self._accepted if one.job_id != accepted.job_id]

    def accepted(self) -> list[Accepted]:
        """All of them."""
        with self._lock:
            return list(self._accepted)

    def plant(self, path: Path, sha256: str) -> None:
        """A file that is nobody's was written."""
        with self._lock:
            self._foreign[path] = sha256

    def foreign(self) -> dict[Path, str]:
        """All of them, with their SHA-256."""
        with self._lock:
            return dict(self._foreign)

    def drop_foreign(self, path: Path) -> None:
        """One is told of once."""
        with self._lock:
            self._foreign.pop(path, None)

    def spoil(self, paths: set[Path]) -> None:
        """These copies on the HDD are bad, and we did it."""
        with self._lock:
            self._spoilt |= dict.fromkeys(paths, time.time())

    def healed(self, paths: set[Path]) -> None:
        """They are whole again."""
        with self._lock:
            for path in paths & self._spoilt.keys():
                self._mended[path] = (self._spoilt.pop(path), time.time())

    def spoilt(self) -> set[Path]:
        """The copies that we spoilt and nobody has mended."""
        with self._lock:
            return set(self._spoilt)

    def mended(self) -> dict[Path, tuple[float, float]]:
        """Those that somebody has: spoilt from when until when at most, the last time."""
        with self._lock:
            return dict(self._mended)


def sha256(path: Path) -> str | None:
    """The file's SHA-256 in hex; None when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def whole(known: Known, root: Path, *, in_mid_relocation: bool = False) -> set[str]:
    """The names of the torrent's files that are below ``root`` as they were made.

    After a recheck that has failed qBittorrent may call them ``x.!qB``, until it has checked
    them again, on the way back.
    """
    ends = ("", ".!qB") if in_mid_relocation else ("",)
    return {
        name
        for name, file in known.files.items()
        if any(sha256(root / f"{name}{end}") == file.sha256 for end in ends)
    }


def files_below(root: Path) -> Iterator[Path]:
    """All files, whatever they are."""
    yield from (path for path in root.rglob("*") if not path.is_dir() or path.is_symlink())
