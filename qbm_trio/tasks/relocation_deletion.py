"""The deletion of a relocated torrent's files on the SSD, and what it frees."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from ..adapters import disk
from ..adapters.ssd_deletion import JudgedFile, LeftFile, delete_files
from ..adapters.ssd_files import real_places
from ..adapters.ssd_originals import changed_since_copied
from ..core.errors import SourceChanged
from ..core.relocation import Relocation
from ..core.roots import Roots
from ..core.text import number
from .relocation_proofs import Proofs
from .tiers import Tiers

log = logging.getLogger(__name__)

CLAIM_AGE_S: Final = 5.0
"""So old may the list be that tells whose files must not be deleted."""
FREED_WITHIN_S: Final = 5.0
"""So long is waited for ``statvfs`` to show what a deletion has freed."""
FREED_LOOK_S: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletable:
    """What may be deleted, and what is kept though it is the torrent's by its name."""

    files: tuple[JudgedFile, ...]
    kept: tuple[LeftFile, ...]
    kept_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """What came of a deletion."""

    freed_bytes: int  #: by ``statvfs``
    left: str | None  #: what stays on the SSD, and why
    kept_bytes: int  #: of that, what is its user's


class Deletion:
    """Deletes what is proven to have its copy, and to be nobody else's."""

    def __init__(self, roots: Roots, *, tiers: Tiers, proofs: Proofs, nice: int) -> None:
        """``nice`` is for the thread that compares files with their copies."""
        self._roots = roots
        self._limiter = tiers.ssd.limiter
        self._proofs = proofs
        self._nice = nice
        self._reading = trio.CapacityLimiter(1)

    async def prove(self, row: Relocation) -> Deletable:
        """The files of a torrent that may be deleted on the SSD now.

        Raises:
            JobError, QbittorrentError: it cannot be proven.
        """
        judged = await self._proofs.whole_copy(row)
        await self._proofs.two_places(judged)
        # Those that are relocated with it are listed on the HDD by now, and claim nothing here.
        claimed = await self._proofs.claimed([row], max_age_s=CLAIM_AGE_S)
        real = await real_places([str(both.path) for both in judged], limiter=self._limiter)
        files = tuple(both for both in judged if real[str(both.path)] not in claimed)
        if len(files) < len(judged):
            log.warning("%r: left on the SSD, for others have it: %s", row.name, sorted(claimed))
        changed = await changed_since_copied(files, limiter=self._reading, nice=self._nice)
        return Deletable(
            files=tuple(both for both in files if both.path not in changed),
            kept=tuple(LeftFile(path=path, error=_edited(path)) for path in sorted(changed)),
            kept_bytes=sum(f.file.size_bytes for f in files if f.file and f.path in changed),
        )

    async def delete(self, row: Relocation, proven: Deletable) -> Deleted:
        """Delete them, but for those that the disk refuses to delete one by one.

        Raises:
            JobError: it cannot be done now; repeat it.
        """
        before = await self._free_bytes()
        done = await delete_files(
            self._roots.ssd,
            proven.files,
            save_path=Path(self._roots.mapped(row.from_path)),
            limiter=self._limiter,
        )
        left = (*proven.kept, *done.left)
        for file in left:
            log.warning("%r: left on the SSD: %s", row.name, file.error)
        log.info("relocated %r: %s deleted on the SSD", row.name, number(len(done.files), "file"))
        freed_bytes = await self._freed_bytes(before, done.disk_bytes)
        return Deleted(freed_bytes=freed_bytes, left=_said(left), kept_bytes=proven.kept_bytes)

    async def _free_bytes(self) -> int:
        return (await disk.disk_space(self._roots.ssd, limiter=self._limiter)).free_bytes

    async def _freed_bytes(self, before: int, expected: int) -> int:
        """What a deletion gave; the figures may come late."""
        freed = await self._free_bytes() - before
        with trio.move_on_after(FREED_WITHIN_S):
            while freed < expected * 0.9:
                await trio.sleep(FREED_LOOK_S)
                freed = await self._free_bytes() - before
        return max(0, freed)


def _edited(path: Path) -> SourceChanged:
    return SourceChanged(
        f"{path} was edited or replaced since it was copied, so the HDD does not have it; it is "
        "yours to move or delete"
    )


def _said(left: Sequence[LeftFile]) -> str | None:
    if not left:
        return None
    more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
    return f"left on the SSD: {left[0].error}{more}"
