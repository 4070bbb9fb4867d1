"""What stands where a torrent's files will go: adopted, set aside, or a conflict.

It may belong to Sonarr or Plex. Nothing is changed here; what is to be set aside is
moved by tiering, once the copies that take its place are verified.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import trio

from ..adapters import journal_copies
from ..adapters.computing import compute
from ..adapters.copying import CopyItem, identical
from ..adapters.journal import Journal
from ..adapters.looking import Seen
from ..core.errors import DestinationConflict, SameStorage
from ..core.model import Job, OnConflict, Verification, WaitReason
from ..core.placement import PlannedFile
from .planning import Plan
from .tiers import Tiers


class Destinations:
    """Judges what stands at destinations."""

    def __init__(
        self,
        *,
        journal: Journal,
        tiers: Tiers,
        limiter: trio.CapacityLimiter,
        computing: trio.CapacityLimiter,
        verification: Verification,
        nice: int,
    ) -> None:
        """``limiter`` is for the threads that read, ``computing`` for those of `compute`."""
        self._journal = journal
        self._tiers = tiers
        self._limiter = limiter
        self._computing = computing
        self._verification = verification
        self._nice = nice

    async def published_unchanged(self, job: Job, plan: Plan, seen: Sequence[Seen]) -> bool:
        """Whether this very job has published all wanted files, and none was touched since.

        Then nothing need be read again: a try before this one has proved the copy, and
        only its tags are missing. Size, time and inode say that no file was touched.
        Another job of the same torrent is a wish to have it compared.
        """
        copy = plan.copy
        if (
            copy is None
            or copy.published_at is None
            or copy.job_id != job.id
            or copy.verification is not self._verification
        ):
            return False
        recorded = await self._journal.do(partial(journal_copies.files, torrent_id=copy.torrent_id))

        def unchanged() -> bool:
            wanted = [f for f in plan.files if f.wanted]
            return len(recorded) == len(wanted) and all(
                _unchanged(file, record, seen[file.index])
                for file, record in zip(wanted, recorded, strict=True)
            )

        return await compute(unchanged, limiter=self._computing)

    async def judge(
        self, job: Job, plan: Plan, seen: Sequence[Seen]
    ) -> tuple[frozenset[int], dict[Path, os.stat_result]]:
        """Compare what stands there with the torrent.

        Returns:
            The files that need no copy, and the paths to set aside once the copies of
            the others are verified, with what stood there: nothing else may be moved.

        Raises:
            DestinationConflict: a file is in the way that is not ours to touch.
            SameStorage: the tiers show the same files.
            SourceCorrupt, SourceChanged, DestinationChanged, DiskError, MustWait: as
                `identical` does.
        """
        present = [f for f in plan.files if f.wanted and seen[f.index].there is not None]
        await self._require_two_places(present, seen)
        items = await compute(partial(items_of, plan, seen, {}, {}), limiter=self._computing)
        adopted = await identical(
            plan.metainfo,
            items,
            {f.index: seen[f.index].destination for f in present},
            from_disk=self._verification is Verification.READBACK,
            limiter=self._limiter,
            nice=self._nice,
        )
        in_the_way = {
            seen[f.index].destination: there
            for f in present
            if f.index not in adopted and (there := seen[f.index].there) is not None
        }
        for f in present:
            if f.index not in adopted:
                await self._require_ours(job, plan, f, seen[f.index].destination)
        return adopted, in_the_way

    async def _require_two_places(
        self, present: Sequence[PlannedFile], seen: Sequence[Seen]
    ) -> None:
        for f in present:
            if seen[f.index].same_file:
                raise SameStorage(
                    f"{seen[f.index].source} and {seen[f.index].destination} are one file; "
                    "give each tier a disk of its own",
                    reason=WaitReason.TIER,
                )

        def folders() -> set[tuple[Path, Path]]:
            return {
                (seen[f.index].source.parent, seen[f.index].destination.parent) for f in present
            }

        for on_ssd, on_hdd in await compute(folders, limiter=self._computing):
            await self._tiers.check_not_aliased(on_ssd, on_hdd)

    async def require_still_ours(
        self, job: Job, plan: Plan, seen: Sequence[Seen], in_the_way: Collection[Path]
    ) -> None:
        """Prove again that what `judge` found in the way may be set aside.

        Raises:
            DestinationConflict: another torrent has it by now.
        """

        def found() -> list[PlannedFile]:
            return [f for f in plan.files if f.wanted and seen[f.index].destination in in_the_way]

        for f in await compute(found, limiter=self._computing):
            await self._require_ours(job, plan, f, seen[f.index].destination)

    async def _require_ours(self, job: Job, plan: Plan, file: PlannedFile, path: Path) -> None:
        """Prove that a differing file is this torrent's own, or that its user gave it up."""
        if job.on_conflict is OnConflict.SET_ASIDE:
            return
        claims = await self._journal.do(partial(journal_copies.claims, path=str(file.on_hdd)))
        # Begun is not enough: what stands there may be what kept us from publishing.
        own = plan.published_before and (plan.torrent.id, True) in claims
        others = any(who != plan.torrent.id for who, _ in claims)
        if not own or others:
            raise DestinationConflict(
                f"{path} exists and differs from the torrent's file"
                f"{' (another torrent has it, too)' if others else ''}; move it away, or "
                'retry the job with {"on_conflict": "set_aside"}'
            )


def _unchanged(file: PlannedFile, record: journal_copies.CopyFile, seen: Seen) -> bool:
    there = seen.there
    return (
        there is not None
        and not seen.same_file
        and (record.index, record.path) == (file.index, str(file.on_hdd))
        and (record.size_bytes, record.mtime_ns) == (there.st_size, there.st_mtime_ns)
        and record.size_bytes == file.size_bytes
        and record.inode in (None, journal_copies.recorded_inode(there.st_ino))
    )


def items_of(
    plan: Plan, seen: Sequence[Seen], staged: Mapping[int, Path], on_hdd: Mapping[int, Path]
) -> list[CopyItem]:
    """All files of the torrent, as the copy wants them.

    ``staged`` says where to copy files, ``on_hdd`` where the verified bytes of others are.
    """
    return [
        CopyItem(
            index=f.index,
            source=seen[f.index].source,
            size_bytes=f.size_bytes,
            wanted=f.wanted,
            staged=staged.get(f.index),
            published=on_hdd.get(f.index),
        )
        for f in plan.files
    ]
