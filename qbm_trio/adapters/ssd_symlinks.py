"""Symbolic links on the SSD, by what they lead to.

Some tools make cross-seeds of them: a torrent's folder is real, and each of its files a
link to another torrent's.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import trio

from .ssd_files import device_of


class Symlinks:
    """What leads where."""

    def __init__(self, by_target: dict[str, list[str]]) -> None:
        """``by_target`` has real paths, and the links to each."""
        self._by_target = by_target

    def leading_to(self, path: str) -> Iterator[str]:
        """The other names of a real path: by a link to it, or to a folder above it."""
        target, rest = path, ""
        while self._by_target and target not in ("/", ""):
            for link in self._by_target.get(target, ()):
                yield link + rest
            target, name = os.path.split(target)
            rest = f"/{name}{rest}"


async def find_symlinks(root: Path, *, limiter: trio.CapacityLimiter) -> Symlinks:
    """Find the links on the SSD that lead to something on it; folders are not left by them.

    Cancellation:
        Between two folders.

    Raises:
        MustWait: the SSD is away.
    """

    def call() -> Symlinks:
        device_of(root)
        by_target: dict[str, list[str]] = defaultdict(list)
        waiting = [os.path.realpath(root)]
        while waiting:
            trio.from_thread.check_cancelled()
            try:
                with os.scandir(waiting.pop()) as entries:
                    for entry in entries:
                        if entry.is_symlink():
                            by_target[os.path.realpath(entry.path)].append(entry.path)
                        elif entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
            except OSError:
                continue  # gone by now, or closed to us: nobody's files are found in it
        return Symlinks(dict(by_target))

    return await trio.to_thread.run_sync(call, limiter=limiter)
