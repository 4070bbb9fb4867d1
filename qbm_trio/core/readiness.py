"""Whether a torrent can be copied now. Pure: what qBittorrent says in, reason out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .model import Torrent, TorrentFile

SEEDING: Final = frozenset(
    {"uploading", "stalledUP", "queuedUP", "forcedUP", "pausedUP", "stoppedUP"}
)
"""States of a torrent whose wanted files are all there; 4.x says paused, 5.x stopped."""
MISSING_FILES: Final = "missingFiles"
"""The state of one whose files qBittorrent did not find when it started."""


def why_not_ready(torrent: Torrent, files: Sequence[TorrentFile]) -> str | None:
    """Say why the torrent cannot be copied now, or None if it can.

    ``progress`` is 1 already while qBittorrent still moves the files out of its
    incomplete folder (seen on 4.5.2), so the state must be one of `SEEDING` too.
    """
    if torrent.state == "moving":
        return "qBittorrent is moving its files"
    if torrent.state.startswith("checking"):
        return "qBittorrent is checking its files"
    if torrent.state in ("error", MISSING_FILES):
        return f"qBittorrent reports {torrent.state}; mend it there (force recheck)"
    if torrent.progress < 1 or torrent.amount_left_bytes > 0:
        return f"it is incomplete ({torrent.progress:.1%}, {torrent.amount_left_bytes} bytes left)"
    if torrent.state not in SEEDING:
        return f"its state is {torrent.state}, not a seeding one"
    for file in files:
        if file.wanted and file.progress < 1:
            return f"its file {str(file.name)!r} is incomplete ({file.progress:.1%})"
    return None
