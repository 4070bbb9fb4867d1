"""Good files under their own names: ``.!qB`` comes off when a recheck has failed.

qBittorrent calls all files of an unfinished torrent so, if it is set to: also good ones.
"""

from __future__ import annotations

import logging

from ..adapters.unfinished_names import UndoneNames, undo_unfinished_names
from ..core.errors import JobError
from ..core.relocation import Relocation
from ..core.roots import Roots
from .relocation_proofs import Proofs
from .tiers import Tiers

log = logging.getLogger(__name__)


class OwnNames:
    """Gives files their own names back, on either tier."""

    def __init__(self, roots: Roots, *, tiers: Tiers, proofs: Proofs) -> None:
        self._roots = roots
        self._tiers = tiers
        self._proofs = proofs

    async def on_ssd(self, row: Relocation) -> None:
        """Take ``.!qB`` off the good files: unfinished is what qBittorrent takes them for.

        Raises:
            JobError: it cannot be done now.
        """
        paths = [file.on_ssd for file in await self._proofs.planned(row) if file.wanted]
        limiter = self._tiers.ssd.limiter
        _say(row, await undo_unfinished_names(self._roots.ssd, paths, limiter=limiter))

    async def on_hdd(self, row: Relocation) -> None:
        """The same for the copy, so that it can be compared and set aside; if it can be."""
        paths = [file.on_hdd for file in await self._proofs.planned(row) if file.wanted]
        limiter = self._tiers.hdd.limiter
        try:
            await self._tiers.hdd.check()
            _say(row, await undo_unfinished_names(self._roots.hdd, paths, limiter=limiter))
        except JobError as error:
            # The torrent must not stay stopped for it; nothing is brought along from there.
            log.warning("%r: names on the HDD stay as they are: %s", row.name, error)


def _say(row: Relocation, done: UndoneNames) -> None:
    for path in done.both:
        log.warning("%r: %s stays beside %s.!qB", row.name, path, path)
    for left in done.left:
        log.warning("%r: %s", row.name, left.error)
