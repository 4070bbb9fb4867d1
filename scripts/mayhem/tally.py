"""What is counted, and the table of it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from .judge import Copies
from .known import Known


class Uniques:
    """How many bytes had to be copied once: each file as often as it was there at one time."""

    def __init__(self) -> None:
        self._most: dict[tuple[int, str], int] = {}  #: by size and SHA-256

    def look(self, torrents: Sequence[Known], copies: Mapping[int, Copies]) -> None:
        """Count what is on the HDD now; hardlinks are one."""
        inodes: dict[tuple[int, str], set[int]] = {}
        for known in torrents:
            for name in copies[known.spec.number].on_hdd:
                file = known.files[name]
                with suppress(OSError):
                    inode = (known.on_hdd / name).stat().st_ino
                    inodes.setdefault((file.size, file.sha256), set()).add(inode)
        for key, found in inodes.items():
            self._most[key] = max(self._most.get(key, 0), len(found))

    @property
    def total_bytes(self) -> int:
        """Of all that were seen so far."""
        return sum(size * number for (size, _), number in self._most.items())


@dataclass
class Tally:
    """The figures of one world. For all threads."""

    version: str
    counted: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str, number: int = 1) -> None:
        """So many more of it."""
        with self._lock:
            self.counted[what] += number

    def put(self, what: str, number: int) -> None:
        """It is so many now."""
        with self._lock:
            self.counted[what] = number

    def __getitem__(self, what: str) -> int:
        with self._lock:
            return self.counted[what]
