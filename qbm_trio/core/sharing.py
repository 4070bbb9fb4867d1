"""Which torrents share data on the SSD. Pure: files in, groups out.

qBittorrent's setLocation moves every file of a torrent, also unwanted ones, so
a file that stands in the lists of two torrents ties them together, whoever
wants it. So does a hardlink: deleting one name of an inode frees nothing.
Equal content paths prove nothing; only files do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter, itemgetter

from .model import TorrentId


@dataclass(frozen=True, slots=True, kw_only=True)
class SsdFile:
    """One file of a torrent's list that exists on the SSD."""

    torrent_id: TorrentId
    path: str  #: the service's path, without symbolic links
    wanted: bool
    inode: tuple[int, int]  #: device and inode number
    links: int  #: names that the inode has, on the whole file system
    disk_bytes: int  #: what it occupies


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Torrents that share files on the SSD, directly or through others. Often just one."""

    torrent_ids: tuple[TorrentId, ...]  #: sorted
    files: tuple[SsdFile, ...]  #: by torrent, then path
    frees_bytes: int  #: what deleting the files would free; data that is shared counts once
    held_bytes: int  #: what would stay, as it is hardlinked from outside the group
    estimated: bool = False  #: not looked for on the disk yet: no files, and qBittorrent's size


def groups(torrent_ids: Iterable[TorrentId], files: Iterable[SsdFile]) -> tuple[Group, ...]:
    """Put torrents that share a path or an inode into one group.

    Each torrent named, alone or by a file, is in exactly one group. Equal
    inputs give equal groups, whatever their order.
    """
    files_of: dict[TorrentId, list[SsdFile]] = {torrent_id: [] for torrent_id in torrent_ids}
    by_path: dict[str, SsdFile] = {}
    by_inode: dict[tuple[int, int], SsdFile] = {}
    names: dict[tuple[int, int], set[str]] = {}  #: of inodes that have several
    ties: list[tuple[TorrentId, TorrentId]] = []
    for file in files:
        torrent_id, path, inode = file.torrent_id, file.path, file.inode
        if torrent_id in files_of:
            files_of[torrent_id].append(file)
        else:
            files_of[torrent_id] = [file]
        # A path has one inode at a time, but the files of two torrents are looked at one
        # after the other: one that is replaced in between must tie them all the same.
        if (same_path := by_path.setdefault(path, file)) is not file:
            ties.append((same_path.torrent_id, torrent_id))
        if (same_inode := by_inode.setdefault(inode, file)) is not file:
            ties.append((same_inode.torrent_id, torrent_id))
        if file.links > 1:
            names.setdefault(inode, set()).add(path)

    # Each inode counts once, for one of the torrents that list it: these are in one group.
    freed_of, held_of = dict.fromkeys(files_of, 0), dict.fromkeys(files_of, 0)
    for inode, file in by_inode.items():
        freed = file.links <= 1 or len(names[inode]) >= file.links
        (freed_of if freed else held_of)[file.torrent_id] += file.disk_bytes

    found: list[Group] = []
    for members in _tied(files_of, ties):
        group_files: list[SsdFile] = []
        frees_bytes = held_bytes = 0
        for torrent_id in members:
            own_files = files_of[torrent_id]
            if len(own_files) > 1:  # most have one: 10,000 calls less
                own_files.sort(key=attrgetter("path"))
            group_files += own_files
            frees_bytes += freed_of[torrent_id]
            held_bytes += held_of[torrent_id]
        found.append(
            Group(
                torrent_ids=tuple(members),
                files=tuple(group_files),
                frees_bytes=frees_bytes,
                held_bytes=held_bytes,
            )
        )
    return tuple(found)


def _tied(
    torrent_ids: Iterable[TorrentId], ties: Iterable[tuple[TorrentId, TorrentId]]
) -> list[list[TorrentId]]:
    """Return who is tied to whom, each list sorted, and the lists by their first."""
    members_of = {torrent_id: [torrent_id] for torrent_id in torrent_ids}
    for a, b in ties:
        larger, smaller = members_of[a], members_of[b]
        if larger is smaller:
            continue
        # The smaller joins the larger: so a torrent changes its list log(n) times at most.
        if len(larger) < len(smaller):
            larger, smaller = smaller, larger
        larger += smaller
        for torrent_id in smaller:
            members_of[torrent_id] = larger
    distinct = {id(members): members for members in members_of.values()}
    # No two have the same first: comparing those alone is several times as fast as lists.
    return sorted(map(sorted, distinct.values()), key=itemgetter(0))
