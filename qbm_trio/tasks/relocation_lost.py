"""Relocations that the journal does not know: begun after the recovery point of a restored one.

Their torrents have our tag in qBittorrent, and are perhaps stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import PurePosixPath
from sqlite3 import Connection
from typing import Final

import trio

from ..adapters import journal_copies, journal_facts, journal_relocations
from ..adapters.computing import compute
from ..adapters.journal_restore import RESTORED_AT
from ..core.errors import QbittorrentError, UnsafePath
from ..core.model import Torrent, TorrentFile
from ..core.placement import destination_folders, unmap_path
from ..core.relocation import Relocation, RunId, Step
from ..core.space import RELOCATING_TAG
from ..logs import subject
from .space_run import Outside
from .ssd_lists import Listed

log = logging.getLogger(__name__)

RETRY_S: Final = 30.0


async def find_lost(outside: Outside) -> list[list[Relocation]]:
    """After a restore: record what is being relocated and is not known; once. A group each.

    Cancellation: it is looked for at the next start.

    Raises:
        JournalUnwritable: it cannot be recorded.
    """
    while True:
        try:
            if await outside.journal.do(partial(journal_facts.meta, name=RESTORED_AT)) is None:
                return []
            await outside.client.wait_reachable()
            torrents = await outside.client.torrents()
            rows = [
                await lost_row(outside, torrent)
                for torrent in torrents
                if RELOCATING_TAG in torrent.tags
            ]
            found = await outside.journal.do(
                partial(_add, rows=[row for row in rows if row is not None], now=outside.now())
            )
            return [[row] for row in found]
        except QbittorrentError as error:
            log.warning("relocations that the restored journal lacks are not found: %s", error)
            await trio.sleep(RETRY_S)


async def lost_row(outside: Outside, torrent: Torrent) -> Relocation | None:
    """What can be known of one; a torrent must not stay stopped for what cannot.

    Raises:
        QbittorrentError: it cannot be asked.
        JournalUnwritable: the journal cannot.
    """
    listed = await outside.lists.of(torrent)
    roots, root = outside.roots, listed.root
    copy = await outside.journal.do(partial(journal_copies.find, torrent_id=torrent.id))
    on_hdd = roots.on_hdd(root)
    if on_hdd is None:
        from_path: str | None = root if roots.on_ssd(root) is not None else None
        destination = copy.destination if copy else await _destination(outside, listed)
        to_path = roots.hdd_folder(destination)
    else:
        beside = str(PurePosixPath(roots.ssd) / on_hdd)
        from_path = copy.save_root if copy else unmap_path(beside, roots.path_mappings)
        to_path = root
    if from_path is None or to_path is None:
        log.error(
            "%r has the tag %s, and nothing is known of it: recheck and start it in qBittorrent, "
            "and take the tag off",
            torrent.name,
            RELOCATING_TAG,
            extra=subject(torrent_id=torrent.id, name=torrent.name),
        )
        return None
    return Relocation(
        run_id=RunId("restored"),
        group=torrent.id,
        torrent_id=torrent.id,
        name=torrent.name,
        from_path=from_path,
        to_path=to_path,
        was_running=True,
        force_start=False,
        auto_management=False,
        download_path="",
        bytes=torrent.size_bytes,
        step=Step.LOCATING,
    )


async def _destination(outside: Outside, listed: Listed) -> str:
    """Where its copy must be if its category is as it was, and it has a place of its own.

    At another torrent's copy it would fail its recheck, and be downloaded over it.
    """
    torrent, on_ssd = listed.torrent, outside.roots.on_ssd(listed.root)
    try:
        folders = destination_folders(torrent.category, on_ssd or PurePosixPath(), torrent.id)
        for folder in folders:
            names = partial(_paths, folder, listed.files)
            paths = await compute(names, limiter=trio.CapacityLimiter(1))
            others = await outside.journal.do(
                partial(journal_copies.others_at, paths=paths, besides=torrent.id)
            )
            if all(other.save_root == listed.root for other in others):
                break
        return str(folder)
    except UnsafePath:
        return ""


def _paths(folder: PurePosixPath, files: Sequence[TorrentFile]) -> list[str]:
    return [str(folder / file.name) for file in files]


def _add(connection: Connection, *, rows: list[Relocation], now: float) -> list[Relocation]:
    known = {row.torrent_id for row in journal_relocations.open_ones(connection)}
    added = []
    for row in rows:
        if row.torrent_id not in known:
            added.append(journal_relocations.insert(connection, row, now=now))
            log.warning(
                "%r was being relocated, which the restored journal does not know: it goes back "
                "or on, and is started; its automatic management stays off",
                row.name,
                extra=subject(torrent_id=row.torrent_id, name=row.name),
            )
    connection.execute("DELETE FROM meta WHERE name = ?", (RESTORED_AT,))
    return added
