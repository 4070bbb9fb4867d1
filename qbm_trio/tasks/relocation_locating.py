"""Where a relocation goes on of which nobody knows how far it is: by what is on the disks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from ..adapters.ssd_deletion import judge_files
from ..adapters.ssd_files import UNFINISHED_SUFFIX
from ..core.errors import (
    QbittorrentError,
    QbittorrentLoginRefused,
    QbittorrentUnreachable,
    TorrentUnknown,
    UnsafePath,
)
from ..core.model import Torrent
from ..core.relocation import Event, Relocation
from ..core.roots import Roots
from .relocation_proofs import NotAsPlanned, Proofs
from .tiers import Tiers

log = logging.getLogger(__name__)


async def way_on(
    row: Relocation, torrent: Torrent, *, roots: Roots, tiers: Tiers, proofs: Proofs
) -> Event:
    """Find out where it goes on.

    Returns:
        ADVANCE: the SSD has all its wanted files, under their own names or as unfinished.
        SLIPPED: it has not: only the HDD can. MOVED: and that is where it is, with nothing
        left on the SSD that is known to be superfluous; sent back, it would take its
        data along.

    Raises:
        NotAsPlanned: as `Proofs.planned`.
        MustWait: a tier is not mounted.
    """
    await tiers.require()
    wanted = [file for file in await proofs.planned(row) if file.wanted]
    at_hdd = roots.is_below(torrent.content_path, row.to_path)
    there: dict[int, Path] = {}
    for suffix in (UNFINISHED_SUFFIX, ""):
        both = [(Path(f"{roots.ssd / f.on_ssd}{suffix}"), roots.hdd / f.on_hdd) for f in wanted]
        try:
            judged = await judge_files(both, limiter=tiers.ssd.limiter)
        except UnsafePath:  # a link in a file's place, perhaps: it stays where it is
            return Event.MOVED if at_hdd else Event.ADVANCE
        there |= {f.index: now.path for f, now in zip(wanted, judged, strict=True) if now.file}
    await tiers.require()  # else it was not the disk that was looked at
    if len(there) == len(wanted):
        # Its place on the SSD may be a guess. Another torrent's files there would fail its
        # recheck, and it would be downloaded over them.
        own = not at_hdd or await _its_own(row, there, proofs)
        return Event.ADVANCE if own else Event.MOVED
    if at_hdd and not there:
        return Event.MOVED
    try:
        await proofs.whole_copy(row)
    except NotAsPlanned:
        if at_hdd:
            return Event.MOVED
    return Event.SLIPPED


async def _its_own(row: Relocation, on_ssd: Mapping[int, Path], proofs: Proofs) -> bool:
    try:
        return await proofs.its_own(row, on_ssd)
    except (QbittorrentUnreachable, QbittorrentLoginRefused, TorrentUnknown):
        raise
    except QbittorrentError as error:
        # 5.1 gives the .torrent file of a version 2 torrent only after a recheck since its start.
        log.warning("%r: whose files are on the SSD cannot be told: %s", row.name, error)
        return False
