"""Give files back the names that qBittorrent took for unfinished ones.

With "append .!qB" on, a failed recheck renames ``x`` to ``x.!qB``. When such a torrent
is moved or rechecked, qBittorrent renames a whole ``x`` that it finds at the new place,
too. Until it is through there, the good file has the name of a bad one, and
libtorrent's renames and moves *replace*: see ``tests/contract/test_qbittorrent_names.py``
for how that loses data, and for when to call this.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

import trio

from ..core.errors import JobError, UnsafePath
from . import disk_calls
from .disk_errors import write_error
from .disk_paths import FolderHandle, is_regular, resolve_beneath
from .ssd_files import ABSENT, UNFINISHED_SUFFIX

_OF_ONE_FILE = {errno.EACCES, errno.EPERM, errno.EBUSY, errno.ELOOP}
"""Refusals that concern one file or its folder. All others are the whole disk's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftName:
    """A file that is still named as unfinished."""

    path: Path  #: as it is named now
    error: JobError  #: why; its message is a sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoneNames:
    """What one call did. Files that had their own names already are in no list."""

    renamed: tuple[Path, ...]  #: by the names that they have again
    both: tuple[Path, ...]
    """Files beside which another stands under the name of an unfinished one. Both stay."""
    left: tuple[LeftName, ...]


async def undo_unfinished_names(
    root: Path, paths: Sequence[PurePosixPath], *, limiter: trio.CapacityLimiter
) -> UndoneNames:
    """Rename ``x.!qB`` to ``x`` on one tier, wherever ``x`` does not exist.

    Nothing is replaced or deleted, and only regular files are renamed. Safe to repeat
    after a crash at any point. The folders are synced: when this returns, what was
    undone stays undone.

    Args:
        root: the tier's folder.
        paths: *wanted* files of a torrent, below ``root``, without ``.!qB``. Of an
            unwanted file it is the rightful name, and qBittorrent, which looks for an
            unfinished wanted file under either name, looks for that one under it only.
        limiter: one token is held meanwhile.

    Cancellation:
        Between two files. What is renamed stays so; repeat to finish.

    Raises:
        UnsafePath: a path is none below the tier.
        MustWait: the tier is away or read-only.
        DiskError: the disk refuses. Where it refuses one file only, that is `left`.
    """
    return await trio.to_thread.run_sync(
        partial(_undo, root, tuple(paths), trio.from_thread.check_cancelled), limiter=limiter
    )


def _undo(root: Path, paths: Iterable[PurePosixPath], check: Callable[[], None]) -> UndoneNames:
    try:
        root.stat()
    except OSError as error:
        raise write_error(error, root) from error
    names = _Names()
    with FolderHandle() as handle:
        for path in paths:
            check()
            names.undo(handle, resolve_beneath(root, path.parent) / path.name)
        # Not only those changed now: a call before this one may have been killed unsynced.
        for folder in sorted(names.folders):
            check()
            _sync(handle, folder)
    return UndoneNames(renamed=tuple(names.renamed), both=tuple(names.both), left=tuple(names.left))


@dataclass(slots=True)
class _Names:
    renamed: list[Path] = field(default_factory=list)
    both: list[Path] = field(default_factory=list)
    left: list[LeftName] = field(default_factory=list)
    folders: set[Path] = field(default_factory=set)  #: that exist

    def undo(self, handle: FolderHandle, path: Path) -> None:
        marked = path.with_name(path.name + UNFINISHED_SUFFIX)
        try:
            fd = handle.open(str(path.parent))
            self.folders.add(path.parent)
            status = os.stat(marked.name, dir_fd=fd, follow_symlinks=False)
            if not is_regular(status):
                raise UnsafePath(f"{marked} is not a regular file; it is left alone")
            if _rename(fd, marked.name, path.name, status):
                self.renamed.append(path)
            else:
                self.both.append(path)
        except UnsafePath as error:
            self.left.append(LeftName(path=marked, error=error))
        except OSError as error:
            if error.errno in ABSENT:  # or qBittorrent was faster
                return
            if error.errno not in _OF_ONE_FILE:
                raise write_error(error, marked) from error
            self.left.append(LeftName(path=marked, error=write_error(error, marked)))


def _rename(fd: int, marked: str, name: str, status: os.stat_result) -> bool:
    """Rename, unless another file has the name."""
    try:
        disk_calls.move_noreplace(fd, marked, fd, name)
    except FileExistsError:
        there = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if (there.st_dev, there.st_ino) != (status.st_dev, status.st_ino):
            return False
        os.unlink(marked, dir_fd=fd)  # linked before a crash
    return True


def _sync(handle: FolderHandle, folder: Path) -> None:
    try:
        disk_calls.fsync(handle.open(str(folder)))
    except UnsafePath:
        return  # a link was put in its place; nothing was renamed behind it
    except OSError as error:
        if error.errno not in {*ABSENT, errno.ELOOP, errno.EACCES}:
            raise write_error(error, folder) from error
