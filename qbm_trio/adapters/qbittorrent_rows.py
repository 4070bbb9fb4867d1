"""The rows of qBittorrent's answers as the values of `core.model`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, cast

from ..core.model import Torrent, TorrentFile, TorrentId


def rows_of(answer: object) -> Sequence[Mapping[str, Any]]:
    """See an answer as its rows."""
    return cast(Sequence[Mapping[str, Any]], answer)


def keys_of(torrent: Torrent) -> tuple[str, ...]:
    """Give every hash that means this torrent."""
    return tuple(filter(None, (torrent.infohash_v1, torrent.infohash_v2, torrent.id)))


def torrent_of(row: Mapping[str, Any]) -> Torrent:
    """Read a row of ``torrents/info``."""
    completed_at = row["completion_on"]
    return Torrent(
        id=TorrentId(row["hash"]),
        name=row["name"],
        state=row["state"],
        category=row["category"],
        tags=frozenset(tag for tag in row["tags"].split(", ") if tag),
        save_path=row["save_path"],
        content_path=row["content_path"],
        progress=float(row["progress"]),
        amount_left_bytes=int(row["amount_left"]),
        size_bytes=int(row["size"]),
        # Unset is 0 on 4.5 and -1 on 5.x.
        completed_at=float(completed_at) if completed_at > 0 else None,
        auto_management=bool(row["auto_tmm"]),
        download_path=row.get("download_path", ""),
        infohash_v1=row.get("infohash_v1", ""),
        infohash_v2=row.get("infohash_v2", ""),
        force_start=bool(row["force_start"]),
    )


def file_of(position: int, row: Mapping[str, Any]) -> TorrentFile:
    """Read a row of ``torrents/files``; ``position`` is where it stood."""
    return TorrentFile(
        # 5.x gives the index; where it is absent, the order is the index.
        index=int(row.get("index", position)),
        name=PurePosixPath(row["name"]),
        size_bytes=int(row["size"]),
        priority=int(row["priority"]),
        progress=float(row["progress"]),
    )
