"""Whether what stands on the SSD is still what was copied: its user may have replaced it.

qBittorrent does not notice an edited or replaced file before it reads it. Such a file is
its user's, and perhaps the only one: the copy on the HDD is no copy of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

import trio

from .copy_stream import Input, OpenInput
from .copy_threads import Stop, run_supervised
from .disk_paths import FolderHandle
from .ssd_deletion import FileIdentity, JudgedFile

_AT_ONCE_BYTES: Final = 1024 * 1024
_GRANULARITIES_NS: Final = (100, 10_000_000, 1_000_000_000, 2_000_000_000)
"""Of NTFS, exFAT, ext3 and FAT: they round the time that a copy was given."""


async def changed_since_copied(
    judged: Iterable[JudgedFile], *, limiter: trio.CapacityLimiter, nice: int
) -> frozenset[Path]:
    """Those files on the SSD that differ from their copies on the HDD.

    A copy was given its source's time, unless it was found in its place. Where size and
    time agree nothing is read, else both files are compared byte by byte.

    Args:
        judged: as both disks have them.
        limiter: one token is held meanwhile.
        nice: of the reading thread.

    Cancellation:
        Prompt.

    Raises:
        JobError: a file could not be read, or was changed meanwhile.
    """
    return await run_supervised(partial(_changed, judged), nice=nice, limiter=limiter)


def _changed(judged: Iterable[JudgedFile], stop: Stop) -> frozenset[Path]:
    changed = set()
    for item in judged:
        stop.check()
        file, copy = item.file, item.copy
        if file is None or copy is None or _same_time(file, copy):
            continue
        if file.size_bytes != copy.size_bytes or not _same_bytes(item, file.size_bytes, stop):
            changed.add(item.path)
    return frozenset(changed)


def _same_time(file: FileIdentity, copy: FileIdentity) -> bool:
    if file.size_bytes != copy.size_bytes:
        return False
    away_ns = abs(file.mtime_ns - copy.mtime_ns)
    return away_ns == 0 or any(
        away_ns < rounded_to and copy.mtime_ns % rounded_to == 0 for rounded_to in _GRANULARITIES_NS
    )


def _same_bytes(item: JudgedFile, size_bytes: int, stop: Stop) -> bool:
    one, other = bytearray(_AT_ONCE_BYTES), bytearray(_AT_ONCE_BYTES)
    with (
        FolderHandle() as on_ssd,
        FolderHandle() as on_hdd,
        closing(OpenInput(on_ssd, _input(item.path, size_bytes))) as file,
        closing(OpenInput(on_hdd, _input(item.copy_path, size_bytes, on_hdd=True))) as copy,
    ):
        for done in range(0, size_bytes, _AT_ONCE_BYTES):
            stop.check()
            length = min(_AT_ONCE_BYTES, size_bytes - done)
            for opened, buffer in ((file, one), (copy, other)):
                opened.read_into(memoryview(buffer)[:length], done)
            if one[:length] != other[:length]:
                return False
        file.check_unchanged()
        copy.check_unchanged()
    return True


def _input(path: Path, size_bytes: int, *, on_hdd: bool = False) -> Input:
    # Links among the folders are followed, as they were when it was judged.
    real = Path(os.path.realpath(path.parent)) / path.name
    return Input(path=real, size_bytes=size_bytes, on_hdd=on_hdd)
