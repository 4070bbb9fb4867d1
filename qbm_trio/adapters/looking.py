"""Look at both places of each of a torrent's files, before anything is written."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import trio

from ..core.errors import DestinationConflict, SourceChanged, UnsafePath
from ..core.placement import PlannedFile
from . import disk
from .disk_errors import read_error, write_error
from .disk_paths import deepest_existing, is_regular, resolve_beneath

MANY = 256
"""So many files are looked at between two looks for a cancellation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One file as the disks have it. Paths are real ones, proven to lie in their tiers."""

    source: Path
    destination: Path  #: where it goes; its folder may not exist yet
    there: os.stat_result | None  #: of what stands at the destination
    same_file: bool  #: both paths lead to one inode
    source_inode: tuple[int, int] | None  #: device and inode; None: it is missing
    source_mtime_ns: int | None  #: None: it is missing


async def look(
    ssd: Path, hdd: Path, files: Sequence[PlannedFile], *, limiter: trio.CapacityLimiter
) -> tuple[Seen, ...]:
    """Resolve and examine both places of every file, in order.

    A wanted file must be where qBittorrent says, as the service sees it, with its
    size: this proves the path mappings before the first write.

    Raises:
        SourceChanged: a wanted file is missing, or has another size.
        UnsafePath: a link leads out of a tier, or a source is no regular file.
        DestinationConflict: something that is no regular file is in the way.
        MustWait, DiskError: a disk is away, or refuses.
    """
    return await trio.to_thread.run_sync(partial(_look, ssd, hdd, files), limiter=limiter)


async def names_are_text(folder: Path, *, limiter: trio.CapacityLimiter) -> bool:
    """Whether all names in a folder are UTF-8.

    Raises:
        MustWait, DiskError: the disk is away, or refuses.
    """

    def call() -> bool:
        try:
            return not any(_SURROGATE & set(name) for name in os.listdir(folder))
        except OSError as error:
            raise read_error(error, folder) from error

    return await trio.to_thread.run_sync(call, limiter=limiter)


_SURROGATE = frozenset(map(chr, range(0xDC80, 0xDD00)))
"""How Python spells bytes of a name that are no text."""


async def space_at(folder: Path, *, limiter: trio.CapacityLimiter) -> tuple[int, disk.DiskSpace]:
    """The device, and its figures, that files put into ``folder`` will use.

    The folder need not exist yet: the deepest one that does decides.

    Raises:
        MustWait, DiskError: the disk is away, or refuses.
    """

    def device() -> tuple[Path, int]:
        existing = deepest_existing(folder)
        try:
            return existing, existing.stat().st_dev
        except OSError as error:
            raise write_error(error, existing) from error

    existing, number = await trio.to_thread.run_sync(device, limiter=limiter)
    return number, await disk.disk_space(existing, limiter=limiter)


def _look(ssd: Path, hdd: Path, files: Sequence[PlannedFile]) -> tuple[Seen, ...]:
    on_ssd, on_hdd = Folders(ssd), Folders(hdd)
    found = []
    for number, file in enumerate(files):
        if number % MANY == 0:
            trio.from_thread.check_cancelled()
        source = on_ssd.resolve(file.on_ssd)
        # A link in the file's own place is something foreign, not a way to another file.
        destination = on_hdd.folder(file.on_hdd) / file.on_hdd.name
        from_stat = _source(source, file)
        # What stands where an unwanted file would go is in nobody's way.
        there = _at(destination) if file.wanted else None
        inode = None if from_stat is None else (from_stat.st_dev, from_stat.st_ino)
        found.append(
            Seen(
                source=source,
                destination=destination,
                there=there,
                same_file=there is not None and (there.st_dev, there.st_ino) == inode,
                source_inode=inode,
                source_mtime_ns=None if from_stat is None else from_stat.st_mtime_ns,
            )
        )
    return tuple(found)


def _source(path: Path, file: PlannedFile) -> os.stat_result | None:
    try:
        status = path.lstat()
    except FileNotFoundError as error:
        if not file.wanted:
            return None
        raise SourceChanged(
            f"{path} is missing, though qBittorrent lists it: check PATH_MAPPINGS "
            "(qBittorrent's path = the service's path), or recheck the torrent there"
        ) from error
    except OSError as error:
        raise read_error(error, path) from error
    if file.wanted and not is_regular(status):
        raise UnsafePath(f"{path} is not a regular file; recheck the torrent in qBittorrent")
    if file.wanted and status.st_size != file.size_bytes:
        raise SourceChanged(
            f"{path} has {status.st_size} bytes, qBittorrent says {file.size_bytes}: "
            "check PATH_MAPPINGS, or recheck the torrent there"
        )
    return status


def _at(path: Path) -> os.stat_result | None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise DestinationConflict(
            f"a file stands where {path.parent} should be a folder; move it away, "
            "then retry the job"
        ) from error
    except OSError as error:
        raise write_error(error, path) from error
    if not stat.S_ISREG(status.st_mode):
        raise DestinationConflict(
            f"{path} exists and is not a regular file; move it away, then retry the job"
        )
    return status


class Folders:
    """Resolve many files of few folders: each folder's links are followed once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._real: dict[PurePosixPath, Path] = {}

    def folder(self, relative: PurePosixPath) -> Path:
        """The real folder that a file is in."""
        parent = relative.parent
        real = self._real.get(parent)
        if real is None:
            real = self._real[parent] = resolve_beneath(self._root, parent)
        return real

    def resolve(self, relative: PurePosixPath) -> Path:
        """The real file, where it is a link, too."""
        path = self.folder(relative) / relative.name
        try:
            is_link = path.is_symlink()
        except OSError as error:
            raise read_error(error, path) from error
        return resolve_beneath(self._root, relative) if is_link else path
