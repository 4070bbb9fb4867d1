"""A torrent as qBittorrent shows it; change what a test is about with ``replace``."""

from __future__ import annotations

from typing import Final

from qbm_trio.core.model import Torrent, TorrentId

SEEDING: Final = Torrent(
    id=TorrentId("a" * 40),
    name="t",
    state="stalledUP",
    category="",
    tags=frozenset(),
    save_path="/ssd",
    content_path="/ssd/t",
    progress=1.0,
    amount_left_bytes=0,
    size_bytes=2,
    completed_at=1.0,
    auto_management=False,
    download_path="",
    infohash_v1="a" * 40,
    infohash_v2="",
)
