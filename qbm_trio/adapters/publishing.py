"""Put staged files into place: whole or not at all, and never over another file.

A file is staged on the file system of its destination, so that one rename, or a link
and an unlink, publishes it. Every step may be repeated after a crash.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import gmtime, strftime

import trio

from ..core.errors import (
    DestinationChanged,
    DestinationConflict,
    DiskError,
    JobError,
    UnsafePath,
)
from . import disk_calls
from .copy_write import Written
from .disk_errors import read_error, write_error
from .disk_owner import follow_owner_and_mode
from .disk_paths import FolderHandle, is_regular, resolve_beneath
from .publish_folders import make_folders, set_folder_times
from .publish_staging import note_beside

_NAME_BYTES = 255
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishItem:
    """One staged file and where it goes."""

    staged: Path
    destination: Path  #: below the HDD's base; not yet resolved
    source: Path  #: real path on the SSD, whose owner, group and mode are followed
    written: Written  #: from the copy's report; knows the file again after a crash
    shared: bool = False  #: a hardlink to another torrent's file


async def publish(
    base: Path,
    items: Sequence[PublishItem],
    *,
    source_root: Path,
    limiter: trio.CapacityLimiter,
) -> None:
    """Publish verified, synced files, and sync the folders. Safe to repeat.

    Folders that are missing are made, like their counterparts on the SSD in owner,
    group, mode and times where permitted. Files get the owner, group and mode of their
    sources; their times were set when they were written. Shared ones are left as they are.

    Args:
        base: the HDD's base folder.
        items: in any order; fastest when files of one folder follow each other.
        source_root: the SSD's folder: nothing above it serves as a model.
        limiter: one token is held meanwhile.

    Cancellation:
        Between two files. What is published stays; repeat to finish.

    Raises:
        DestinationConflict: something stands at a destination; it was not touched.
        DestinationChanged: a shared file was written to since it was verified.
        UnsafePath: a link leads out of the tier.
        MustWait: the HDD is full, read-only or away.
        DiskError: the system refused otherwise. After EXDEV the next
            `publish_staging.prepare_staging` stages beside the destination.
    """
    await trio.to_thread.run_sync(
        partial(_publish, base, items, source_root, trio.from_thread.check_cancelled),
        limiter=limiter,
    )


def _publish(
    base: Path,
    items: Sequence[PublishItem],
    source_root: Path,
    check: Callable[[], None],
) -> None:
    source_root = Path(os.path.realpath(source_root))
    made: list[tuple[Path, Path]] = []
    folders: dict[Path, str] = {}
    with FolderHandle() as staging, FolderHandle() as target:
        for item in items:
            check()
            parent = item.destination.parent
            if parent not in folders:
                folders[parent] = _folder(base, item, source_root, made)
            folder = folders[parent]
            try:
                _publish_one(item, staging, target, folder)
            except OSError as error:
                raise _publish_error(error, base, item, folder) from error
    at = str(base)
    try:
        for folder_path, model in reversed(made):
            set_folder_times(folder_path, model)
        for at in (*_names_to_sync(items, folders), *_chains(base, folders.values())):
            check()
            _sync(at)
    except OSError as error:
        raise write_error(error, at) from error


def _folder(
    base: Path,
    item: PublishItem,
    source_root: Path,
    made: list[tuple[Path, Path]],
) -> str:
    """The real path of the item's folder, made where it is missing."""
    if not item.destination.is_relative_to(base) or item.destination == base:
        raise UnsafePath(f"{item.destination} is not below {base}")
    real = resolve_beneath(base, item.destination.parent.relative_to(base))
    try:
        fresh = make_folders(
            real, staging=item.staged.parent, model=item.source.parent,
            model_root=source_root,
        )  # fmt: skip
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTDIR):
            raise DestinationConflict(
                f"{real} or a folder above it is not a folder; move that file away, "
                "then retry the job"
            ) from error
        raise write_error(error, real) from error
    made += fresh
    return str(real)


def _names_to_sync(items: Sequence[PublishItem], folders: Mapping[Path, str]) -> list[str]:
    """The published files, in those folders whose own sync may not reach the disk."""
    fuse = {folder for folder in set(folders.values()) if _is_fuse(folder)}
    places = ((folders[i.destination.parent], i.destination.name) for i in items)
    return [os.path.join(folder, name) for folder, name in places if folder in fuse]


def _chains(base: Path, folders: Iterable[str]) -> list[str]:
    """The folders and all above them up to the base, innermost first, each once.

    All of them, not only those changed now: a try before this one may have made a folder
    and have been killed before it synced it.
    """
    top = os.path.realpath(base)
    found = {top}
    for folder in folders:
        while folder not in found and len(folder) > len(top):
            found.add(folder)
            folder = os.path.dirname(folder)
    return sorted(found, key=len, reverse=True)


def _sync(path: str) -> None:
    fd = os.open(path, _OPEN)
    try:
        disk_calls.fsync(fd)
    finally:
        os.close(fd)


def _is_fuse(folder: str) -> bool:
    fd = os.open(folder, _OPEN)
    try:
        return disk_calls.is_fuse(fd)
    finally:
        os.close(fd)


async def sync_adopted(
    base: Path, judged: Mapping[Path, os.stat_result], *, limiter: trio.CapacityLimiter
) -> None:
    """Get files that were adopted, not copied, onto the disk, and their folders.

    Whoever put them there, an earlier try of ours too, may not have synced them. Since
    they were hashed, hours may have gone by in which the others were copied: each must
    still be the file that was judged.

    Args:
        base: the HDD's base folder.
        judged: real paths below it, with what stood there before it was hashed.
        limiter: one token is held meanwhile.

    Cancellation:
        Between two files.

    Raises:
        DestinationChanged: one was changed or replaced since.
        MustWait, DiskError: they did not get there.
    """

    def call() -> None:
        at = str(base)
        try:
            for path, then in judged.items():
                trio.from_thread.check_cancelled()
                at = str(path)
                _sync(at)
                if _identity(path.lstat()) != _identity(then):
                    raise _changed(path)
            for at in _chains(base, {str(path.parent) for path in judged}):
                trio.from_thread.check_cancelled()
                _sync(at)
        except OSError as error:
            raise write_error(error, at) from error

    await trio.to_thread.run_sync(call, limiter=limiter)


def _publish_one(
    item: PublishItem,
    staging: FolderHandle,
    target: FolderHandle,
    folder: str,
) -> None:
    staged_folder, staged_name = os.path.split(item.staged)
    name = item.destination.name
    target_fd = target.open(folder)
    try:
        staging_fd = staging.open(staged_folder)
        staged = os.stat(staged_name, dir_fd=staging_fd, follow_symlinks=False)
    except FileNotFoundError:
        if _is_published(item, target_fd, name):
            return
        raise
    if item.shared:
        if not _is_written(item, staged):
            raise DestinationChanged(
                f"what {item.destination} was to share with another torrent was changed while "
                "the job worked; the next try looks at it anew"
            )
    else:
        try:
            model = item.source.stat()
        except OSError as error:
            raise read_error(error, item.source) from error
        follow_owner_and_mode(staged_name, model, dir_fd=staging_fd, now=staged)
    try:
        disk_calls.move_noreplace(staging_fd, staged_name, target_fd, name)
    except FileExistsError:
        there = os.stat(name, dir_fd=target_fd, follow_symlinks=False)
        if (there.st_dev, there.st_ino) != (staged.st_dev, staged.st_ino):
            raise DestinationConflict(
                f"{item.destination} exists and is not this service's; move it away, or "
                'retry the job with {"on_conflict": "set_aside"}'
            ) from None
        os.unlink(staged_name, dir_fd=staging_fd)  # linked before a crash


def _is_published(item: PublishItem, folder_fd: int, name: str) -> bool:
    """Whether the file stands there already, by what the copy said of it."""
    try:
        there = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return is_regular(there) and _is_written(item, there)


def _is_written(item: PublishItem, status: os.stat_result) -> bool:
    known = item.written
    return (status.st_ino, status.st_size, status.st_mtime_ns) == (
        known.inode, known.size_bytes, known.mtime_ns
    )  # fmt: skip


def _publish_error(error: OSError, base: Path, item: PublishItem, folder: str) -> JobError:
    if error.errno == errno.EXDEV:
        # A pool whose members differ. The next try stages beside the destination.
        note_beside(item.staged, base, Path(folder))
        return DiskError(
            f"{item.destination} is on another file system than its staging (a pool?); "
            "the next try stages it there"
        )
    return write_error(error, item.destination)


# -- setting aside -----------------------------------------------------------


async def set_aside(
    path: Path, seen: os.stat_result, *, limiter: trio.CapacityLimiter
) -> Path | None:
    """Rename the file that was judged, within its folder, to a name that says so.

    The name is ``<name>.qbm-conflict-<UTC time>``, shortened to fit; nothing is
    replaced. The folder is synced.

    Args:
        path: a real path on the HDD.
        seen: what stood there when it was decided to set it aside.
        limiter: for the thread.

    Returns:
        The new path; None when nothing stands there any more.

    Raises:
        DestinationChanged: another file stands there now, or it was written to. It was
            not touched.
        MustWait, DiskError: the system refused.
        UnsafePath: a link now stands on the way.
    """
    return await trio.to_thread.run_sync(_set_aside, path, seen, limiter=limiter)


def _set_aside(path: Path, seen: os.stat_result) -> Path | None:
    when = strftime("%Y%m%dT%H%M%SZ", gmtime())
    with FolderHandle() as folders:
        try:
            fd = folders.open(str(path.parent))
            # A copy takes hours. What came meanwhile was compared with nothing.
            if _identity(os.stat(path.name, dir_fd=fd, follow_symlinks=False)) != _identity(seen):
                raise _changed(path)
            for number in range(1000):
                more = f"-{number}" if number else ""
                new = shortened(path.name, f".qbm-conflict-{when}{more}")
                try:
                    disk_calls.move_noreplace(fd, path.name, fd, new)
                except FileExistsError:
                    continue
                disk_calls.fsync(fd)
                return path.with_name(new)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise write_error(error, path) from error
    raise UnsafePath(f"{path} could not be set aside: too many such names exist")


def _changed(path: Path) -> DestinationChanged:
    return DestinationChanged(
        f"{path} was changed or replaced while the job worked; it was not touched, "
        "and the next try compares it anew"
    )


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def shortened(name: str, suffix: str) -> str:
    """``name`` plus ``suffix``, the name cut at a character so that both fit 255 bytes."""
    room = _NAME_BYTES - len(os.fsencode(suffix))
    raw = os.fsencode(name)
    if len(raw) > room:
        while room and raw[room] & 0xC0 == 0x80:  # inside a UTF-8 sequence
            room -= 1
        raw = raw[:room]
    return os.fsdecode(raw) + suffix
