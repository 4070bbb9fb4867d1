"""Hardlinks, made in staging, to files that another torrent has on the HDD already.

A hardlink in staging holds on to the very file that is then verified, and is published
like a copy. The file is shared: nothing here writes to it, or changes its owner or mode.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import trio

from ..core.errors import UnsafePath
from .copy_write import Written
from .disk_errors import write_error
from .disk_paths import FolderHandle
from .journal_copies import CopyFile, recorded_inode
from .looking import MANY, Folders, Seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """A published file of another torrent, as it stands and as it was recorded."""

    path: Path  #: a real path below the HDD's base
    known: Written


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardlink:
    """One more name of an original, in staging."""

    staged: Path
    known: Written


async def find_originals(
    hdd: Path,
    seen: Sequence[Seen],
    recorded: Mapping[int, Sequence[CopyFile]],
    *,
    limiter: trio.CapacityLimiter,
) -> dict[int, tuple[Original, ...]]:
    """Which recorded files stand on the HDD unchanged: size, time and inode are as recorded.

    Args:
        hdd: the base folder.
        seen: all files of the torrent that may share them.
        recorded: by index of that torrent.
        limiter: for the thread.

    Returns:
        By index, in the order of ``recorded``. What stands at the file's own places
        already is left out; and so is what cannot be looked at: it is copied instead.
    """
    return await trio.to_thread.run_sync(
        partial(_find_originals, hdd, seen, recorded), limiter=limiter
    )


def _find_originals(
    hdd: Path, seen: Sequence[Seen], recorded: Mapping[int, Sequence[CopyFile]]
) -> dict[int, tuple[Original, ...]]:
    folders = Folders(hdd)
    found: dict[int, tuple[Original, ...]] = {}
    for number, (index, records) in enumerate(recorded.items()):
        if number % MANY == 0:
            trio.from_thread.check_cancelled()
        there = seen[index].there
        own = {seen[index].source_inode, None if there is None else (there.st_dev, there.st_ino)}
        originals = []
        for record in records:
            relative = PurePosixPath(record.path)
            try:
                path = folders.folder(relative) / relative.name
                status = path.lstat()
            except (OSError, UnsafePath):
                continue
            if _is_recorded(status, record) and (status.st_dev, status.st_ino) not in own:
                originals.append(Original(path=path, known=_written(status)))
        if originals:
            found[index] = tuple(originals)
    return found


def _is_recorded(status: os.stat_result, record: CopyFile) -> bool:
    known = record.size_bytes, record.mtime_ns, record.inode
    return (status.st_size, status.st_mtime_ns, recorded_inode(status.st_ino)) == known


def _written(status: os.stat_result) -> Written:
    return Written(size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, inode=status.st_ino)


async def stage_hardlinks(
    originals: Mapping[int, Sequence[Original]],
    staged: Mapping[int, Path],
    *,
    limiter: trio.CapacityLimiter,
) -> tuple[dict[int, Hardlink], str]:
    """Link each file to the first of its originals that allows it.

    Args:
        originals: by index.
        staged: by index; for each original's index a path in staging where nothing is.
        limiter: for the thread.

    Returns:
        The hardlinks by index, and why the last file has none that could not be linked.
        Whatever the reason, it can still be copied: another file system, too many links,
        none at all on this one, or a file of another user (``fs.protected_hardlinks``).

    Cancellation:
        Between two files; what was linked stays in staging.
    """
    return await trio.to_thread.run_sync(
        partial(_stage_hardlinks, originals, staged), limiter=limiter
    )


def _stage_hardlinks(
    originals: Mapping[int, Sequence[Original]], staged: Mapping[int, Path]
) -> tuple[dict[int, Hardlink], str]:
    made: dict[int, Hardlink] = {}
    refused = ""
    with FolderHandle() as old, FolderHandle() as new:
        for number, (index, choices) in enumerate(originals.items()):
            if number % MANY == 0:
                trio.from_thread.check_cancelled()
            for original in choices:
                try:
                    if _link(original, staged[index], old, new):
                        made[index] = Hardlink(staged=staged[index], known=original.known)
                        break
                    refused = f"{original.path} was replaced meanwhile"
                except (OSError, UnsafePath) as error:
                    reason = error.strerror if isinstance(error, OSError) else error
                    refused = f"{original.path}: {reason}"
    return made, refused


def _link(original: Original, staged: Path, old: FolderHandle, new: FolderHandle) -> bool:
    old_fd, new_fd = old.open(str(original.path.parent)), new.open(str(staged.parent))
    os.link(
        original.path.name,
        staged.name,
        src_dir_fd=old_fd,
        dst_dir_fd=new_fd,
        follow_symlinks=False,
    )
    # A file may have been put in its place; a pool may have made something else: mergerfs
    # can be told to make a symbolic link.
    status = os.stat(staged.name, dir_fd=new_fd, follow_symlinks=False)
    if _written(status) == original.known:
        return True
    os.unlink(staged.name, dir_fd=new_fd)
    return False


async def drop_hardlinks(links: Iterable[Hardlink], *, limiter: trio.CapacityLimiter) -> None:
    """Remove them from staging. The originals stay.

    Raises:
        MustWait, DiskError: the system refused.
    """

    def call() -> None:
        for link in links:
            try:
                with suppress(FileNotFoundError):
                    link.staged.unlink()
            except OSError as error:
                raise write_error(error, link.staged) from error

    await trio.to_thread.run_sync(call, limiter=limiter)
