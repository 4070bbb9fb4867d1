"""What torrents have on the SSD: their files as the disk has them, and other links to these.

qBittorrent lists a file under its own name, wherever on the disk it is: an incomplete one
may end in ``.!qB``, and an unwanted one may lie in ``.unwanted/`` beside its place
(shared facts, section 3: ``TorrentImpl::makeActualPath``). All of these are looked for.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import trio

from ..core.errors import JobError, MustWait, UnsafePath
from ..core.model import TorrentId, WaitReason
from ..core.placement import safe_relative
from ..core.sharing import SsdFile
from .disk_errors import read_error
from .disk_paths import FolderHandle, is_regular, resolve_beneath
from .publish_staging import STAGING_NAME

UNFINISHED_SUFFIX = ".!qB"
UNWANTED_FOLDER = ".unwanted"

ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}
"""By which the system says that no such file is, or can be, there."""

_MANY = 256
"""So many files are looked at between two looks for a cancellation."""
_BLOCK_BYTES = 512  # the unit of st_blocks, whatever the file system's own block is
_CLOSED = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedFile:
    """A file as a torrent lists it."""

    on_ssd: PurePosixPath  #: below the SSD's folder
    wanted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFiles:
    """What the torrents have on the SSD."""

    files: tuple[SsdFile, ...]  #: those that exist, in the order of the lists
    problems: Mapping[TorrentId, JobError]
    """The first trouble of each torrent that has one. Its other files are in `files` all
    the same: they tell which torrents share data with it, and must be spared too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundLinks:
    """Other names of files, found by a walk."""

    paths: Mapping[tuple[int, int], tuple[str, ...]]  #: by (device, inode), sorted
    unreadable: tuple[str, ...]  #: folders that could not be looked into, sorted


async def stat_files(
    root: Path,
    lists: Mapping[TorrentId, Sequence[ListedFile]],
    *,
    limiter: trio.CapacityLimiter,
) -> FoundFiles:
    """Look at the files of many torrents.

    Links among the folders are followed while they stay on the SSD, so that one file
    has one path. A link in a file's own place is a problem of its torrent: what it
    leads to may be somebody else's. That file is listed none the less.

    Args:
        root: the SSD's folder.
        lists: of each torrent, its list.
        limiter: one token is held meanwhile.

    Cancellation:
        Between two files, in steps of some hundred.

    Raises:
        MustWait: the SSD is away.
    """
    return await trio.to_thread.run_sync(
        partial(_stat_files, root, lists, trio.from_thread.check_cancelled), limiter=limiter
    )


def _stat_files(
    root: Path, lists: Mapping[TorrentId, Sequence[ListedFile]], check: Callable[[], None]
) -> FoundFiles:
    device_of(root)
    folders = _Folders(root)
    files: list[SsdFile] = []
    problems: dict[TorrentId, JobError] = {}
    number = 0
    for torrent_id, listed in lists.items():
        found: dict[str, SsdFile] = {}
        for file in listed:
            if number % _MANY == 0:
                check()
            number += 1
            for path, status, problem in _places(root, folders, file.on_ssd):
                if isinstance(problem, MustWait):
                    raise problem
                if problem is not None:
                    problems.setdefault(torrent_id, problem)
                if status is not None:
                    found[path] = SsdFile(
                        torrent_id=torrent_id,
                        path=path,
                        wanted=file.wanted or (path in found and found[path].wanted),
                        inode=(status.st_dev, status.st_ino),
                        links=status.st_nlink,
                        disk_bytes=disk_bytes(status),
                    )
        files += found.values()
    return FoundFiles(files=tuple(files), problems=problems)


_Place = tuple[str, os.stat_result | None, JobError | None]


def _places(root: Path, folders: _Folders, relative: PurePosixPath) -> Iterator[_Place]:
    """Wherever the file is: real path, what is there, and what is wrong with it."""
    try:
        candidates = folders.candidates(relative)
    except UnsafePath as error:
        yield "", None, error
        return
    for path in candidates:
        try:
            status = os.lstat(path)
        except OSError as error:
            if error.errno not in ABSENT:
                yield path, None, read_error(error, path)
            continue
        if is_regular(status):
            yield path, status, None
        elif stat.S_ISLNK(status.st_mode):
            yield _linked(root, path)
        else:
            yield path, None, UnsafePath(f"{path} is not a regular file; it is left alone")


def _linked(root: Path, path: str) -> _Place:
    """Where a link in a file's place leads, if that is a file on the SSD."""
    problem = UnsafePath(f"{path} is a symbolic link; the file it leads to may be another's")
    try:
        real = str(resolve_beneath(root, os.path.relpath(path, os.path.realpath(root))))
        status = os.lstat(real)
    except (OSError, UnsafePath):
        return path, None, problem
    return real, status if is_regular(status) else None, problem


class _Folders:
    """Where the files of a folder may be; each folder's links are followed once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._real: dict[PurePosixPath, str] = {}
        self._with_unwanted: set[str] = set()

    def candidates(self, relative: PurePosixPath) -> list[str]:
        """Each path that the file can have on the disk.

        Raises:
            UnsafePath: its name cannot be used, or a link leads out of the SSD.
        """
        name = str(safe_relative(relative.name, what="the file name"))
        parent = relative.parent
        folder = self._real.get(parent)
        if folder is None:
            if parent.parts:
                safe_relative(parent, what="the folder")
            folder = self._real[parent] = str(resolve_beneath(self._root, parent))
            beside = os.path.join(folder, UNWANTED_FOLDER)
            # Not through a link: qBittorrent makes a folder.
            if os.path.isdir(beside) and not os.path.islink(beside):
                self._with_unwanted.add(folder)
        path = os.path.join(folder, name)
        paths = [path, path + UNFINISHED_SUFFIX]
        if folder in self._with_unwanted:
            beside = os.path.join(folder, UNWANTED_FOLDER, name)
            paths += [beside, beside + UNFINISHED_SUFFIX]
        return paths


async def real_places(paths: Iterable[str], *, limiter: trio.CapacityLimiter) -> dict[str, str]:
    """Follow the symbolic links in paths; what does not exist is taken as named.

    Cancellation:
        In steps of some hundred paths.
    """

    def call() -> dict[str, str]:
        found: dict[str, str] = {}
        folders: dict[str, str] = {}  # thousands of torrents lie in a few folders
        for number, path in enumerate(paths):
            if number % _MANY == 0:
                trio.from_thread.check_cancelled()
            parent, name = os.path.split(path.rstrip("/") or "/")
            if parent not in folders:
                folders[parent] = os.path.realpath(parent)
            real = os.path.join(folders[parent], name)
            found[path] = os.path.realpath(real) if os.path.islink(real) else real
        return found

    return await trio.to_thread.run_sync(call, limiter=limiter)


async def find_links(
    root: Path, files: Iterable[SsdFile], *, limiter: trio.CapacityLimiter
) -> FoundLinks:
    """Find the other names, on the SSD, of files with more links than known paths.

    One walk of the SSD for all of them, over when the last name is found; none when
    no file has such links. It follows no symbolic link, and enters no other file
    system but those that the sought files are on (a dataset or subvolume of the SSD),
    nor ``.qbm-staging``. A folder that shows up twice (bind mounts) is walked once.

    Args:
        root: the SSD's folder.
        files: all that is known; their real paths are not reported again.
        limiter: one token is held meanwhile.

    Returns:
        The names found. A link that stays unfound is in an unreadable folder, or not
        below ``root``.

    Cancellation:
        Between two folders, and in steps of some hundred files.

    Raises:
        MustWait: the SSD is away.
        DiskError: it cannot be read.
    """
    return await trio.to_thread.run_sync(
        partial(_find_links, root, tuple(files), trio.from_thread.check_cancelled),
        limiter=limiter,
    )


def _find_links(root: Path, files: Collection[SsdFile], check: Callable[[], None]) -> FoundLinks:
    known: dict[tuple[int, int], set[str]] = {}
    links: dict[tuple[int, int], int] = {}
    for file in files:
        known.setdefault(file.inode, set()).add(file.path)
        links[file.inode] = max(file.links, links.get(file.inode, 0))
    missing = {i: links[i] - len(paths) for i, paths in known.items() if links[i] > len(paths)}
    found: dict[tuple[int, int], list[str]] = {}
    unreadable: list[str] = []
    if not missing:
        return FoundLinks(paths={}, unreadable=())
    devices = {device_of(root)} | {device for device, _ in missing}
    with closing(_walk(os.path.realpath(root), devices, unreadable, check)) as walk:
        for path, inode in walk:
            if inode in missing and path not in known[inode]:
                found.setdefault(inode, []).append(path)
                missing[inode] -= 1
                if missing[inode] == 0:
                    del missing[inode]
                    if not missing:
                        break
    return FoundLinks(
        paths={inode: tuple(sorted(paths)) for inode, paths in found.items()},
        unreadable=tuple(sorted(unreadable)),
    )


def _walk(
    root: str, devices: Collection[int], unreadable: list[str], check: Callable[[], None]
) -> Generator[tuple[str, tuple[int, int]], None, None]:
    """Each regular file below ``root`` that has several links."""
    waiting = [root]
    walked: set[tuple[int, int]] = set()
    number = 0
    with FolderHandle() as handle:
        while waiting:
            check()
            folder = waiting.pop()
            try:
                fd = handle.open(folder)
                here = os.fstat(fd)
                if here.st_dev not in devices or (here.st_dev, here.st_ino) in walked:
                    continue
                walked.add((here.st_dev, here.st_ino))
                with os.scandir(fd) as entries:
                    for entry in entries:
                        number += 1
                        if number % _MANY == 0:
                            check()
                        path = os.path.join(folder, entry.name)
                        if entry.is_dir(follow_symlinks=False):
                            if entry.name != STAGING_NAME:
                                waiting.append(path)
                            continue
                        status = _file_at(fd, entry)
                        if status is not None and status.st_nlink > 1:
                            yield path, (status.st_dev, status.st_ino)
            except UnsafePath:
                continue  # moved away, or a link in its place: not where we were sent
            except OSError as error:
                if error.errno in _CLOSED:
                    unreadable.append(folder)
                elif error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise read_error(error, folder) from error


def _file_at(fd: int, entry: os.DirEntry[str]) -> os.stat_result | None:
    """Of a regular file. Asked of the file, since FUSE may not tell its number in the folder."""
    try:
        if entry.is_file(follow_symlinks=False):
            return os.stat(entry.name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        pass  # gone since the folder was read
    return None


def device_of(root: Path) -> int:
    """The device that the SSD's folder is on.

    Raises:
        MustWait: it is not there.
        DiskError: it cannot be read.
    """
    try:
        return root.stat().st_dev
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MustWait(
            f"{root} has vanished; mount the SSD again", reason=WaitReason.TIER
        ) from error
    except OSError as error:
        raise read_error(error, root) from error


def disk_bytes(status: os.stat_result) -> int:
    """The bytes that a file takes on its disk: none for holes, more than its size for its end."""
    return status.st_blocks * _BLOCK_BYTES
