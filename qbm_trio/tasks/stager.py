"""Makes a job's staging ready for the copy: hardlinks, and what an earlier try has left.

A copy that was interrupted goes on from its last checkpoint if nothing it depends on has
changed, and the HDD still has what was synced there. In any doubt it begins anew.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import trio

from ..adapters.computing import compute
from ..adapters.copy_resume import keep_staged, why_not_resumed
from ..adapters.copying import CopyItem
from ..adapters.hardlinks import Hardlink
from ..adapters.journal_checkpoints import Checkpoint
from ..adapters.looking import Seen
from ..core.model import JobId, Verification
from ..core.resuming import is_complete, kept_bytes
from .destinations import items_of
from .hardlinks import Hardlinks, Originals
from .planning import Plan
from .staging import Staging
from .tiers import Tiers

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A job's files, as the copy is to find them."""

    items: Sequence[CopyItem]  #: by index
    linked: Mapping[int, Hardlink]  #: by index
    fingerprint: str  #: of all that the copy depends on
    bytes_total: int  #: of what is to be copied
    resume_at: int = 0  #: where in the torrent's stream the copy goes on
    kept_bytes: int = 0  #: of those to be copied, what is there already


class Stager:
    """Prepares staging, once for each try of a job."""

    def __init__(
        self,
        hdd: Path,
        *,
        staging: Staging,
        hardlinks: Hardlinks,
        tiers: Tiers,
        limiter: trio.CapacityLimiter,
        computing: trio.CapacityLimiter,
        verification: Verification,
        nice: int,
    ) -> None:
        """``limiter`` is for the threads that read, ``computing`` for those of `compute`."""
        self._hdd = hdd
        self._staging = staging
        self._hardlinks = hardlinks
        self._disk = tiers.hdd.limiter
        self._limiter = limiter
        self._computing = computing
        self._verification = verification
        self._nice = nice

    async def kept_bytes(self, job_id: JobId, plan: Plan, indexes: Collection[int]) -> int:
        """How much of these files an earlier try has perhaps staged already."""
        checkpoint = await self._staging.checkpoint(job_id)
        if checkpoint is None:
            return 0

        def count() -> int:
            kept = _kept(plan, checkpoint.position)
            return sum(max(0, kept.get(i, 0)) for i in indexes)

        return await self._compute(count)

    async def stage(
        self,
        job_id: JobId,
        plan: Plan,
        seen: Sequence[Seen],
        *,
        adopted: Collection[int],
        originals: Originals,
    ) -> Staged:
        """Make everything ready for the copy of what is wanted and not ``adopted``.

        Raises:
            JobError: the HDD or a source refused.
            JournalUnwritable: the checkpoint could not be forgotten.
        """
        checkpoint = await self._staging.checkpoint(job_id)
        if checkpoint is not None:
            made = await self._prepare(job_id, plan, seen, adopted, originals, checkpoint)
            reason = await self._why_anew(plan, made, checkpoint)
            if reason is None:
                log.info("going on at %d of %d bytes", made.kept_bytes, made.bytes_total)
                return made
            log.warning("the copy begins anew: %s", reason)
        return await self._prepare(job_id, plan, seen, adopted, originals, None)

    async def _why_anew(self, plan: Plan, made: Staged, checkpoint: Checkpoint) -> str | None:
        if made.fingerprint != checkpoint.fingerprint:
            return "what is to be copied, or its source, has changed since it was interrupted"
        return await why_not_resumed(
            plan.metainfo,
            made.items,
            made.resume_at,
            limiter=self._limiter,
            nice=self._nice,
        )

    async def _prepare(
        self,
        job_id: JobId,
        plan: Plan,
        seen: Sequence[Seen],
        adopted: Collection[int],
        originals: Originals,
        checkpoint: Checkpoint | None,
    ) -> Staged:
        """Stage what is hardlinked; of what is staged keep only what lies before the checkpoint."""
        to_stage = [f.index for f in plan.files if f.wanted and f.index not in adopted]
        paths = await self._staging.prepare(
            job_id,
            await self._compute(lambda: [self._hdd / plan.files[i].on_hdd for i in to_stage]),
            keep=checkpoint is not None,
        )
        staged = dict(zip(to_stage, paths, strict=True))
        at = 0 if checkpoint is None else checkpoint.position
        kept: Mapping[int, int] = {}
        if checkpoint is not None:
            kept = await self._keep(plan, staged, at)
        linked = await self._hardlinks.stage(
            plan, seen, originals, {i: path for i, path in staged.items() if i not in kept}
        )

        def finish() -> Staged:
            to_copy = {i: path for i, path in staged.items() if i not in linked}
            on_hdd = {i: seen[i].destination for i in adopted}
            on_hdd |= {i: link.staged for i, link in linked.items()}
            items = items_of(plan, seen, to_copy, on_hdd)
            return Staged(
                items=items,
                linked=linked,
                fingerprint=_fingerprint(plan, seen, items, self._verification),
                bytes_total=sum(plan.files[i].size_bytes for i in to_copy),
                resume_at=at,
                kept_bytes=sum(max(0, kept.get(i, 0)) for i in to_copy),
            )

        return await self._compute(finish)

    async def _keep(self, plan: Plan, staged: Mapping[int, Path], at: int) -> Mapping[int, int]:
        def keep() -> Mapping[int, int]:
            sizes = _kept(plan, at)
            kept = keep_staged({path: sizes.get(i, 0) for i, path in staged.items()})
            return {i: sizes[i] for i, path in staged.items() if path in kept}

        return await trio.to_thread.run_sync(keep, limiter=self._disk)

    async def _compute(self, call: Callable[[], T]) -> T:
        return await compute(call, limiter=self._computing)


def _kept(plan: Plan, at: int) -> dict[int, int]:
    """By index, how many bytes of each file lie before ``at``; -1 for an empty one."""
    return {
        file.index: kept_bytes(file, at) or -1
        for file in plan.metainfo.files
        if file.index is not None and (kept_bytes(file, at) or is_complete(file, at))
    }


def _fingerprint(
    plan: Plan, seen: Sequence[Seen], items: Sequence[CopyItem], verification: Verification
) -> str:
    """A digest of all that a copy depends on: its place, its proof, and each file's source."""
    meta = plan.metainfo
    state = sha256(
        repr((meta.infohash_v1, meta.infohash_v2, meta.piece_length, verification)).encode()
    )
    for item in items:
        part = (
            item.index,
            item.size_bytes,
            item.wanted,
            os.fspath(item.source),
            seen[item.index].source_mtime_ns,
            item.staged and os.fspath(item.staged),
            item.published and os.fspath(item.published),
            os.fspath(plan.files[item.index].on_hdd),
        )
        state.update(repr(part).encode())
    return state.hexdigest()
