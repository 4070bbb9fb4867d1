"""A torrent's settings in qBittorrent, changed for its relocation, and as they were again."""

from __future__ import annotations

import logging
from typing import Final

from ..core.client import QbittorrentClient
from ..core.errors import (
    QbittorrentError,
    QbittorrentLoginRefused,
    QbittorrentUnreachable,
    TorrentUnknown,
)
from ..core.relocation import Relocation
from ..core.relocation_polls import STOPPED
from ..core.space import RELOCATING_TAG
from .relocation_proofs import NotAsPlanned
from .relocation_watch import TorrentWatch

log = logging.getLogger(__name__)

STARTS: Final = 3
"""So often a torrent is started that does not: its user may be stopping it."""


class TorrentSettings:
    """Changes them and puts them back; each call may be made again."""

    def __init__(self, client: QbittorrentClient, watch: TorrentWatch) -> None:
        self._client = client
        self._watch = watch

    async def nothing_moves_it(self, row: Relocation) -> None:
        """Turn off what has qBittorrent move files by itself: over good ones, unchecked.

        In this order, and again until it is so: the folder for unfinished torrents cannot
        be cleared while automatic management is on.
        """
        for whatever in (False, True):  # was set when it began: its user may have since
            if row.auto_management or whatever:
                await self._client.set_auto_management(row.torrent_id, False)
            if row.download_path or whatever:
                await self._client.set_download_path(row.torrent_id, "")
            if await self._watch.seen(
                row, lambda torrent: not (torrent.auto_management or torrent.download_path)
            ):
                return
        raise NotAsPlanned(
            "qBittorrent keeps automatic management or the folder for unfinished torrents on, "
            "although told otherwise"
        )

    async def kept(self, row: Relocation) -> bool:
        """Tell a qBittorrent again what it has forgotten: killed, it comes back as it was.

        The tag is saved with the rest, so it tells. Its user may have stopped the torrent.
        Returns whether that was needed.
        """
        forgotten = RELOCATING_TAG in (await self._watch.torrent(row.torrent_id)).tags
        if forgotten:
            await self.back(row)
        return forgotten

    async def back(self, row: Relocation, *, start: bool = True) -> None:
        """All but automatic management, and `run_as_before`."""
        if row.download_path:
            await self._set_download_path(row)
        await self.run_as_before(row, start=start)

    async def _set_download_path(self, row: Relocation) -> None:
        """Set the folder for unfinished torrents again, if qBittorrent can still use it."""
        for last in (False, True):
            try:
                await self._client.set_download_path(row.torrent_id, row.download_path)
                return
            except (QbittorrentUnreachable, QbittorrentLoginRefused, TorrentUnknown):
                raise
            except QbittorrentError as error:
                if last:  # it must not stay stopped for that
                    log.error(
                        "%r: its folder for unfinished torrents, %s, is not set again: %s; "
                        "mend the folder, then set it in qBittorrent",
                        row.name,
                        row.download_path,
                        error,
                    )

    async def run_as_before(self, row: Relocation, *, start: bool = True) -> None:
        """Start it if it ran, and take the tag off.

        Not with ``start=False``: one whose files are missing would be downloaded anew.
        """
        if start and (row.was_running or row.force_start):
            await self._start(row)
        await self._client.remove_tags([row.torrent_id], {RELOCATING_TAG})

    async def _start(self, row: Relocation) -> None:
        """Start it as it ran; qBittorrent may not hear it while it checks: then again."""
        for _ in range(STARTS):
            await self._tell_to_start(row)
            sessions = self._client.sessions
            seen = await self._watch.seen(row, lambda torrent: torrent.state not in STOPPED)
            # One that was stopped when its user asked for a check is so after it again.
            seen = seen and await self._watch.runs_after_checks(row, wake=self._tell_to_start)
            # Killed right then, it looks through its torrents first, then stops it again.
            if seen and self._client.sessions == sessions:
                return
        log.error("%r does not start; start it in qBittorrent", row.name)

    async def _tell_to_start(self, row: Relocation) -> None:
        if row.force_start:
            await self._client.set_force_start(row.torrent_id, True)
        else:
            await self._client.start(row.torrent_id)
