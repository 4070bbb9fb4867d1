"""Whether a torrent that is on the HDD would be whole on the SSD, if it were sent back."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

from ..adapters import disk
from ..adapters.ssd_files import ABSENT, UNFINISHED_SUFFIX
from ..core.placement import PlannedFile
from ..core.relocation import Relocation
from ..core.roots import Roots
from .relocation_proofs import Proofs
from .tiers import Tiers

_UNKNOWN: Final = -1


class WayBack:
    """Looks at both places before a torrent is sent from the HDD to the SSD."""

    def __init__(self, roots: Roots, *, tiers: Tiers, proofs: Proofs) -> None:
        self._roots = roots
        self._tiers = tiers
        self._proofs = proofs

    async def obstacle(self, row: Relocation) -> str | None:
        """Why it must stay on the HDD, which has all of it, while the SSD cannot.

        qBittorrent moves a file that the SSD does not have, and leaves a part of it there
        when there is no room. What is there, whatever is in it, it takes for its own at the
        next move, and the whole file on the HDD stays behind (seen on 5.1.0).

        Raises:
            NotAsPlanned: as `Proofs.planned`.
            MustWait, DiskError: the SSD cannot be asked.
        """
        wanted = [file for file in await self._proofs.planned(row) if file.wanted]
        hdd, ssd = self._tiers.hdd.limiter, self._tiers.ssd.limiter
        places = [self._roots.hdd / file.on_hdd for file in wanted]
        for file, size_bytes in zip(wanted, await _sizes(places, limiter=hdd), strict=True):
            if size_bytes != file.size_bytes:
                return None
        places = [self._roots.ssd / file.on_ssd for file in wanted]
        there = list(zip(wanted, await _sizes(places, limiter=ssd), strict=True))
        for file, size_bytes in there:
            if size_bytes not in (None, _UNKNOWN, file.size_bytes):
                return f"{self._roots.ssd / file.on_ssd} is not the torrent's file any more"
        missing = [file for file, size_bytes in there if size_bytes is None]
        free_bytes = (await disk.disk_space(self._roots.ssd, limiter=ssd)).free_bytes
        if sum(file.size_bytes for file in missing) < free_bytes or not missing:
            return None
        return self._no_room(missing[0])

    def _no_room(self, file: PlannedFile) -> str:
        return (
            f"{self._roots.ssd / file.on_ssd} is not there any more (renamed, or deleted?), and "
            "the SSD has no room for it; what is left of the torrent there is yours to delete"
        )


async def _sizes(paths: Sequence[Path], *, limiter: trio.CapacityLimiter) -> Sequence[int | None]:
    """The size of each file; None for one that is not there."""
    return await trio.to_thread.run_sync(lambda: [_size(path) for path in paths], limiter=limiter)


def _size(path: Path) -> int | None:
    # By either name: when the recheck has failed, the copy may be called unfinished.
    for name in (path, path.with_name(path.name + UNFINISHED_SUFFIX)):
        try:
            status = os.lstat(name)
        except OSError as error:
            if error.errno not in ABSENT:
                return _UNKNOWN
        else:
            return status.st_size if stat.S_ISREG(status.st_mode) else _UNKNOWN - 1
    return None
