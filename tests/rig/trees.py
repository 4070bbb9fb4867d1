"""What lies below a folder of a tier, while a service runs on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

MOMENTARY = (".qbm-check-", ".qbm-probe-")


def below(folder: Path, pattern: str = "*") -> Iterator[Path]:
    """Everything whose name fits, folders too. As ``rglob``, but for two things.

    What vanishes meanwhile is no error; and what a service puts on a tier for a moment, when it
    starts, to see whether qBittorrent or the other tier shows it, is left out.
    """
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(MOMENTARY)]
        for name in (*folders, *files):
            if fnmatchcase(name, pattern) and not name.startswith(MOMENTARY):
                yield Path(root, name)
