"""Delete files on the SSD whose copies on the HDD stand, and nothing else.

Who may call it, and when, is the relocation's business: both tier markers are there,
the tiers are no aliases of each other (`disk_aliases.check_not_aliased`), qBittorrent's recheck
of the copies has passed, no other torrent claims the files. Here is what only the disk
can tell, asked again for each file at the moment of its deletion.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from ..core.errors import (
    DestinationChanged,
    DiskError,
    JobError,
    MustWait,
    SameStorage,
    SourceChanged,
    UnsafePath,
)
from ..core.model import WaitReason
from . import disk_calls
from .disk_errors import read_error, write_error
from .disk_paths import FolderHandle, deepest_existing, is_regular, resolve_beneath
from .ssd_files import ABSENT, UNWANTED_FOLDER, device_of, disk_bytes

_OF_ONE_FILE = {errno.EACCES, errno.EPERM, errno.EBUSY}
"""Refusals that concern one file or its folder. All others are the whole disk's."""
_FOLDER_STAYS = {
    *_OF_ONE_FILE, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENOTEMPTY, errno.EEXIST,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class FileIdentity:
    """By which a file is known again."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        """The identity of the file with this status."""
        return cls(
            device=status.st_dev,
            inode=status.st_ino,
            size_bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedFile:
    """A torrent's file at both places, as the disks had it when it was judged."""

    path: Path  #: below the SSD's folder
    file: FileIdentity | None  #: None: it was gone already; only its folders are tidied
    copy_path: Path  #: on the HDD
    copy: FileIdentity | None  #: None: no copy, so that `file` must be None, too


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftFile:
    """A file that was not deleted."""

    path: Path
    error: JobError  #: why; its message is a sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    """What one call did. What was gone before is in neither list."""

    files: tuple[Path, ...]
    folders: tuple[Path, ...]  #: empty ones, removed
    left: tuple[LeftFile, ...]
    disk_bytes: int  #: of the deleted files that had no other name. `statvfs` measures the gain


async def judge_files(
    pairs: Sequence[tuple[Path, Path]], *, limiter: trio.CapacityLimiter
) -> tuple[JudgedFile, ...]:
    """See what stands at both places of each file, (on the SSD, on the HDD), in order.

    The caller compares what it gets with the journal, then hands it to `delete_files`.

    Cancellation:
        Between two files.

    Raises:
        UnsafePath: something else than a regular file stands at one of them.
        MustWait, DiskError: a disk is away, or refuses.
    """

    def call() -> tuple[JudgedFile, ...]:
        judged = []
        for path, copy_path in pairs:
            trio.from_thread.check_cancelled()
            judged.append(
                JudgedFile(
                    path=path,
                    file=_identify(path),
                    copy_path=copy_path,
                    copy=_identify(copy_path),
                )
            )
        return tuple(judged)

    return await trio.to_thread.run_sync(call, limiter=limiter)


def _identify(path: Path) -> FileIdentity | None:
    try:
        status = path.lstat()
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise read_error(error, path) from error
    if not is_regular(status):
        raise UnsafePath(f"{path} is not a regular file; it is left alone")
    return FileIdentity.of(status)


async def delete_files(
    root: Path,
    judged: Sequence[JudgedFile],
    *,
    save_path: Path,
    limiter: trio.CapacityLimiter,
) -> Deletion:
    """Delete these files from the SSD, then the folders that this leaves empty.

    Safe to repeat after a crash at any point, with the same list or one judged anew.

    Each file is deleted by its name in a folder held open, and only if at that moment
    the folder lies below ``root`` with no link on the way out, and the name is a regular
    file and the very one that was judged, and its copy on the HDD is the very one that
    was judged, and another file. What Linux cannot exclude: that somebody puts another
    file under the name in the microseconds between the last look and the deletion.

    Folders above the files are removed while they are empty, up to the save path, which
    stays, and never outside of ``root``. Folders changed, now or before a crash, are
    synced: when this returns, nothing deleted comes back.

    What goes on and what stops: a file that is not as it was judged, or that the system
    refuses to delete (EACCES, EPERM, EBUSY), is left, and the rest goes on, since each
    file is proven by itself. A copy that is not as it was judged stops everything, since
    the SSD may have the last whole data then; all copies are looked at before the first
    file is deleted, and each again right before its original is.
    A disk that fails (EROFS, EIO, away) stops everything, too.

    Args:
        root: the SSD's folder.
        judged: the torrent's files, fresh from `judge_files`.
        save_path: the torrent's old save path, as the service sees it.
        limiter: one token is held meanwhile.

    Cancellation:
        Between two files. What is deleted stays deleted; repeat to finish.

    Raises:
        DestinationChanged: a copy on the HDD is gone, or is not what was judged.
        SameStorage: a file and its copy are one.
        UnsafePath: the save path does not lie on the SSD.
        MustWait: a tier is away, or the SSD read-only.
        DiskError: a disk refuses otherwise.
    """
    return await trio.to_thread.run_sync(
        partial(_delete_files, root, judged, save_path, trio.from_thread.check_cancelled),
        limiter=limiter,
    )


def _delete_files(
    root: Path, judged: Sequence[JudgedFile], save_path: Path, check: Callable[[], None]
) -> Deletion:
    device_of(root)
    save = _resolve(root, save_path)
    for item in judged:
        check()
        if item.file is not None:
            _check_copy(item)
    files = _Files(root=root)
    for item in judged:
        check()
        files.delete(item)
    folders = _tidy(save, files.folders, check)
    return Deletion(
        files=tuple(files.deleted),
        folders=tuple(folders),
        left=tuple(files.left),
        disk_bytes=files.disk_bytes,
    )


@dataclass(slots=True, kw_only=True)
class _Files:
    root: Path
    deleted: list[Path] = field(default_factory=list)
    left: list[LeftFile] = field(default_factory=list)
    folders: set[Path] = field(default_factory=set)  #: real paths of what the files were in
    disk_bytes: int = 0

    def delete(self, item: JudgedFile) -> None:
        try:
            folder = _folder(self.root, item.path)
            self.folders.add(folder)
            status = _delete_one(item, folder)
        except (SourceChanged, UnsafePath) as error:
            self.left.append(LeftFile(path=item.path, error=error))
        except OSError as error:
            if error.errno not in _OF_ONE_FILE:
                raise write_error(error, item.path) from error
            self.left.append(LeftFile(path=item.path, error=_refused(error, item.path)))
        else:
            if status is not None:
                self.deleted.append(item.path)
                self.disk_bytes += disk_bytes(status) if status.st_nlink == 1 else 0


def _delete_one(item: JudgedFile, folder: Path) -> os.stat_result | None:
    """Delete it and say what it was; None when it was gone."""
    name = item.path.name
    # Opened anew for each file: one held from the last file may have been moved away.
    with FolderHandle() as handle:
        try:
            fd = handle.open(str(folder))
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP) and item.file is not None:
                raise _changed(item) from error
            if error.errno not in {*ABSENT, errno.ELOOP}:
                raise
            _check_mounted(item, folder)
            return None
        if not is_regular(status):
            raise UnsafePath(f"{item.path} is not a regular file; it is left alone")
        if FileIdentity.of(status) != item.file:
            raise _changed(item)
        _check_copy(item)
        try:
            os.unlink(name, dir_fd=fd)
        except FileNotFoundError:
            return None
        return status


def _check_copy(item: JudgedFile) -> None:
    """Prove that the HDD holds the copy that was judged, and that it is another file."""
    try:
        status = item.copy_path.lstat()
    except OSError as error:
        if error.errno not in {*ABSENT, errno.ELOOP}:
            raise read_error(error, item.copy_path) from error
        now = None
    else:
        now = FileIdentity.of(status) if is_regular(status) else None
    if now is None or now != item.copy:
        raise DestinationChanged(
            f"{item.copy_path} is not the copy that was verified; its original on the SSD, "
            f"{item.path}, is kept until it is"
        )
    if item.file is not None and (now.device, now.inode) == (item.file.device, item.file.inode):
        raise SameStorage(
            f"{item.path} and {item.copy_path} are one file; deleting it would lose it: give "
            "the service the real disks, not two views of one",
            reason=WaitReason.TIER,
        )


def _check_mounted(item: JudgedFile, folder: Path) -> None:
    """Prove that the file is gone, rather than the file system that it was on."""
    if item.file is None:
        return
    existing = deepest_existing(folder)
    if existing.stat().st_dev != item.file.device:
        raise MustWait(
            f"the file system of {item.path} is away; mount it again", reason=WaitReason.TIER
        )


def _changed(item: JudgedFile) -> SourceChanged:
    return SourceChanged(
        f"{item.path} was changed, replaced or put back since it was judged; it is left alone"
    )


def _refused(error: OSError, path: Path) -> JobError:
    if error.errno == errno.EBUSY:
        return DiskError(f"{path} is in use by the system (something is mounted there)")
    return write_error(error, path)


def _folder(root: Path, path: Path) -> Path:
    try:
        return _resolve(root, path.parent)
    except UnsafePath as error:
        raise UnsafePath(f"{path} is left alone: {error}") from error


def _resolve(root: Path, path: Path) -> Path:
    """The real path, proven to lie below the real ``root``."""
    for base in (root, Path(os.path.realpath(root))):
        if path.is_relative_to(base):
            return resolve_beneath(root, path.relative_to(base))
    raise UnsafePath(f"{path} is not below {root}")


# -- folders -----------------------------------------------------------------


def _tidy(save: Path, used: Iterable[Path], check: Callable[[], None]) -> list[Path]:
    """Remove what is empty of the folders below ``save``, then sync what is left of them."""
    used = set(used)
    below = {folder for start in used for folder in _chain(start, save)}
    # A call before this one may have emptied it, and have been killed right then.
    below |= {f / UNWANTED_FOLDER for f in below if f.name != UNWANTED_FOLDER}
    inner_first = sorted(below, key=lambda folder: len(folder.parts), reverse=True)
    removed = []
    for folder in inner_first:
        check()
        if _remove_empty(folder):
            removed.append(folder)
    # Not only those changed now: a call before this one may have been killed unsynced.
    for folder in {*below, *used, deepest_existing(save)}:
        check()
        _sync(folder)
    return removed


def _chain(folder: Path, save: Path) -> Iterator[Path]:
    """The folder and those above it, as far as they are strictly below ``save``."""
    while folder != save and folder.is_relative_to(save):
        yield folder
        folder = folder.parent


def _remove_empty(folder: Path) -> bool:
    try:
        with FolderHandle() as handle:
            os.rmdir(folder.name, dir_fd=handle.open(str(folder.parent)))
    except UnsafePath:
        return False  # a link was put in its way
    except OSError as error:
        if error.errno in _FOLDER_STAYS:
            return False
        raise write_error(error, folder) from error
    return True


def _sync(folder: Path) -> None:
    try:
        with FolderHandle() as handle:
            disk_calls.fsync(handle.open(str(folder)))
    except UnsafePath:
        return  # nothing was deleted there
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES):
            raise write_error(error, folder) from error
