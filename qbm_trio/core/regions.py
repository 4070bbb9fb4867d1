"""Whose list could name a path: asked before any list is. Pure.

A list of files is one call to qBittorrent for each torrent; a content path comes with
the list of all torrents. All files of a complete torrent lie at its content path or
below it (shared facts, section 4), so few torrents need be asked.
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Sequence

from .model import Torrent, TorrentFile, TorrentId
from .placement import save_root


def regions_of(torrent: Torrent) -> tuple[str, ...]:
    """The paths, as qBittorrent sees them, at or below which the torrent's files are.

    The save path counts too where the content path does not tell: an unfinished
    torrent's files may lie in a folder of their own and come to the save path later, and
    right after adding 4.5 gives a relative path.
    """
    content, save = torrent.content_path, torrent.save_path
    if not content.startswith("/"):
        return (save,)
    if torrent.progress < 1 or not _at_or_below(content, save):
        return (content, save)
    return (content,)


def roots_of(torrent: Torrent, files: Sequence[TorrentFile]) -> tuple[str, ...]:
    """The folders, as qBittorrent sees them, that the names in its list are relative to.

    Where its files are comes first; where they may come to follows, if that is elsewhere.
    """
    now = save_root(torrent, files)
    if torrent.save_path in regions_of(torrent) and _clean(torrent.save_path) != _clean(now):
        return (now, torrent.save_path)
    return (now,)


class Regions:
    """Which torrents have a region at or above a path."""

    def __init__(self, regions: Iterable[tuple[TorrentId, str]]) -> None:
        """``regions`` and the paths asked for are absolute, without symbolic links."""
        self._owners: dict[str, list[TorrentId]] = defaultdict(list)
        for torrent_id, region in regions:
            self._owners[_clean(region)].append(torrent_id)

    def owners(self, path: str) -> set[TorrentId]:
        """The torrents whose lists could name ``path``."""
        found: set[TorrentId] = set()
        above = _clean(path)
        while True:
            found.update(self._owners.get(above, ()))
            parent = posixpath.dirname(above)
            if parent == above:
                return found
            above = parent


def _clean(path: str) -> str:
    return posixpath.normpath("/" + path.lstrip("/"))


def _at_or_below(path: str, folder: str) -> bool:
    path, folder = _clean(path), _clean(folder)
    return path == folder or path.startswith(folder.rstrip("/") + "/")
