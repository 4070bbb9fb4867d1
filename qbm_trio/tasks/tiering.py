"""One tiering job: resolve, copy, publish, tag.

Every phase is in the journal before it begins, and every phase may be done again
from its start: a job that was interrupted anywhere begins anew, and finds what is
published already by its hashes, or, if it published it itself, by the journal. Only the
copy goes on where it was, as far as that was synced and recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from sqlite3 import Connection
from typing import TypeVar

import trio

from ..adapters import journal_copies, journal_facts
from ..adapters.computing import compute
from ..adapters.copying import CopyOptions, copy_and_verify
from ..adapters.disk import DiskSpace
from ..adapters.journal import Journal
from ..adapters.looking import Seen, look, space_at
from ..adapters.publishing import publish, set_aside, sync_adopted
from ..core.client import QbittorrentClient
from ..core.errors import (
    DestinationChanged,
    DestinationConflict,
    FailingDisk,
    JobError,
    MustWait,
)
from ..core.model import Job, JobId, JobState, Outcome, Phase, TorrentId, WaitReason
from ..core.placement import Place
from ..core.roots import Roots
from ..core.text import number
from ..logs import resolved
from .destinations import Destinations
from .hardlinks import Hardlinks, Turns
from .jobs import Jobs
from .planning import Plan, Planner
from .publication import Publication
from .running import Running
from .stager import Stager
from .staging import Staging
from .tiers import Tiers

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The settings that tiering obeys."""

    roots: Roots
    copies_at_once: int
    copy_options: CopyOptions
    tags: tuple[str, str] | None  #: for the SSD and for the HDD; None: no tags


class Tiering:
    """Does tiering jobs. One object for the service; jobs run beside each other."""

    def __init__(
        self,
        policy: Policy,
        *,
        client: QbittorrentClient,
        jobs: Jobs,
        journal: Journal,
        tiers: Tiers,
    ) -> None:
        self._policy = policy
        self._client = client
        self._jobs = jobs
        self._journal = journal
        self._tiers = tiers
        # More than one copy at a time makes a disk seek; the rest of a job may overlap.
        self._copies = trio.CapacityLimiter(policy.copies_at_once)
        self._computing = trio.CapacityLimiter(1)
        self._staging = Staging(policy.roots.hdd, tiers=tiers, journal=journal)
        self._destinations = Destinations(
            journal=journal,
            tiers=tiers,
            limiter=self._copies,
            computing=self._computing,
            verification=policy.copy_options.verification,
            nice=policy.copy_options.nice,
        )
        self._hardlinks = Hardlinks(
            policy.roots.hdd,
            journal=journal,
            tiers=tiers,
            limiter=self._copies,
            computing=self._computing,
            verification=policy.copy_options.verification,
            nice=policy.copy_options.nice,
        )
        self._stager = Stager(
            policy.roots.hdd,
            staging=self._staging,
            hardlinks=self._hardlinks,
            tiers=tiers,
            limiter=self._copies,
            computing=self._computing,
            verification=policy.copy_options.verification,
            nice=policy.copy_options.nice,
        )
        self._turns = Turns()
        self._planner = Planner(
            roots=policy.roots,
            client=client,
            journal=journal,
            computing=self._computing,
        )

    async def work(self, running: Running) -> Outcome | None:
        """Do one job; None when it was merged into another.

        Cancellation: prompt; the staging is left for `discard` or for the next try.

        Raises:
            JobError, QbittorrentError: what the job must wait or fail for.
            WrongState: it was cancelled meanwhile.
        """
        try:
            outcome = await self._work(running)
        except FailingDisk as error:
            self._tiers.hdd.failed_a_job(error)
            raise
        self._planner.forget(running.job.id)
        if outcome is not Outcome.TIERED:  # else its staging went with the publishing
            # A try before this one may have been killed in mid-copy.
            await self._staging.drop(running.job.id, ended=outcome is None)
        return outcome

    async def _work(self, running: Running) -> Outcome | None:
        # First: qBittorrent is not asked while a disk is away.
        await self._tiers.require()
        torrent = await self._planner.find(running.job)
        running.job = await self._jobs.resolve(running.job.id, torrent)
        if running.job.state is JobState.MERGED:
            return None
        resolved(torrent.id, torrent.name)  # the notification's name was only a hint
        await self._planner.require_not_relocating(running.job, torrent)
        place = self._planner.place(running.job, torrent)
        if place is Place.ELSEWHERE:
            running.note = self._planner.why_elsewhere(torrent)
            log.warning("%s", running.note)
            return Outcome.OUTSIDE_TIERS
        if place is Place.HDD:
            await self._enter(running, Phase.TAGGING)
            await self._tag(torrent.id, torrent.tags, on_ssd=False)
            return Outcome.ALREADY_ON_HDD
        plan = await self._planner.plan(running.job, torrent)
        await self._copy_and_publish(running, plan)
        await self._enter(running, Phase.TAGGING)
        # Until its first copy was there, POST /tags/existing may have taken the HDD's tag away.
        has = torrent.tags if plan.published_before else frozenset()
        await self._tag(torrent.id, has, on_ssd=True)
        return Outcome.TIERED

    async def describe(self, job: Job) -> str:
        """Say what `work` would do. Reads only (``DRY_RUN``)."""
        torrent = await self._planner.find(job)
        place = self._planner.place(job, torrent)
        if place is Place.ELSEWHERE:
            return f"{torrent.name!r}: nothing to do: {self._planner.why_elsewhere(torrent)}"
        if place is Place.HDD:
            return f"{torrent.name!r}: nothing to copy, its data is on the HDD"
        plan = await self._planner.plan(job, torrent)
        seen = await self._look(plan)
        originals = await self._hardlinks.find(plan, seen)
        wanted = [f for f in plan.files if f.wanted]
        missing = [f for f in wanted if seen[f.index].there is None]
        to_copy = [f for f in missing if f.index not in originals]
        there, shared = len(wanted) - len(missing), len(missing) - len(to_copy)
        return (
            f"{torrent.name!r}: would copy {sum(f.size_bytes for f in to_copy)} bytes in "
            f"{number(len(to_copy), 'file')} to {self._policy.roots.hdd / plan.shown_destination}, "
            + (f"compare {number(there, 'file')} already there, " if there else "")
            + (f"hardlink {number(shared, 'file')} of another torrent there, " if shared else "")
            + "verify and tag it"
        )

    async def discard(self, job_id: JobId) -> None:
        """Drop the partial data of a job that has ended. What is published stays."""
        self._planner.forget(job_id)
        await self._staging.drop(job_id, ended=True)

    async def staged(self) -> Sequence[JobId]:
        """The jobs of which the HDD holds partial data; none while it is away."""
        return await self._staging.staged()

    # -- copying

    async def _copy_and_publish(self, running: Running, plan: Plan) -> None:
        seen = await self._look(plan)
        sources = {s.source_inode for s in seen if s.source_inode is not None}
        async with self._turns.of(sources) as waited:
            if waited:  # whoever was first has a place on the HDD now
                plan = await self._planner.plan(running.job, plan.torrent)
                seen = await self._look(plan)
            await self._copy_in_turn(running, plan, seen)

    async def _copy_in_turn(self, running: Running, plan: Plan, seen: Sequence[Seen]) -> None:
        if await self._destinations.published_unchanged(running.job, plan, seen):
            log.info("published before and unchanged since: only the tags are left")
            await self._staging.drop(running.job.id)
            return
        await self._enter(running, Phase.COPYING, destination=plan.shown_destination)
        originals = await self._hardlinks.find(plan, seen)
        await self._require_room(running, plan, seen, besides=originals)
        await self._planner.require_own(plan)  # before what stands there is called a conflict
        adopted, in_the_way = await self._destinations.judge(running.job, plan, seen)
        progress = running.progress
        # The disk may have been unmounted during a long comparison.
        await self._tiers.require()
        try:
            # Before the room is measured: what an earlier try staged in vain is removed here.
            staged = await self._stager.stage(
                running.job.id, plan, seen, adopted=adopted, originals=originals
            )
            running.will_copy(staged.bytes_total, kept_bytes=staged.kept_bytes)
            await self._enter(running, Phase.COPYING, bytes_total=progress.bytes_total)
            with (
                await self._room(running, seen),
                self._staging.recording(running.job.id, staged.fingerprint) as record,
            ):
                if not self._copies.available_tokens:
                    log.info("waits for its turn: another copy has the disk")
                report = await copy_and_verify(
                    plan.metainfo,
                    staged.items,
                    options=self._policy.copy_options,
                    progress=progress,
                    limiter=self._copies,
                    require=self._tiers.hdd.require_mounted,
                    resume_at=staged.resume_at,
                    record=record,
                    begins=running.copy_begins,
                )
                running.copy_ended()
            await self._publish(
                running,
                Publication(
                    plan=plan,
                    seen=seen,
                    items=staged.items,
                    report=report,
                    linked=staged.linked,
                    in_the_way=in_the_way,
                ),
            )
        except DestinationConflict as error:
            # There was none when we looked. It may be the same file, from another
            # torrent's job: the next try compares it.
            await self._staging.drop(running.job.id)
            raise DestinationChanged(str(error)) from error
        except JobError as error:
            # A job that waits holds no room on the disk, unless it waits for the disk.
            if not _waits_for_the_disk(error):
                await self._staging.drop(running.job.id)
            raise

    async def _look(self, plan: Plan) -> Sequence[Seen]:
        return await look(
            self._policy.roots.ssd,
            self._policy.roots.hdd,
            plan.files,
            limiter=self._tiers.ssd.limiter,
        )

    async def _require_room(
        self, running: Running, plan: Plan, seen: Sequence[Seen], *, besides: Collection[int]
    ) -> None:
        """Prove that what is surely to be copied has room, before anything is read.

        ``besides`` are files that are perhaps only hardlinked: that needs no room.
        A job that waits for space would else compare all that is there at each look.
        """
        missing = [
            f.index
            for f in plan.files
            if f.wanted and seen[f.index].there is None and f.index not in besides
        ]
        need = sum(plan.files[i].size_bytes for i in missing)
        for last in (False, True):
            kept = await self._stager.kept_bytes(running.job.id, plan, missing)
            device, space = await self._space(seen)
            try:
                self._tiers.require_room(need - kept, device=device, free_bytes=space.free_bytes)
                return
            except MustWait:
                if last:
                    raise
                # A try that was killed may hold the room itself.
                await self._staging.drop(running.job.id)

    async def _space(self, seen: Sequence[Seen]) -> tuple[int, DiskSpace]:
        return await space_at(seen[0].destination.parent, limiter=self._tiers.hdd.limiter)

    async def _room(self, running: Running, seen: Sequence[Seen]) -> AbstractContextManager[None]:
        """Hold room on the file system that the files will go to."""
        device, space = await self._space(seen)
        return self._tiers.room(
            running.job.id,
            device=device,
            free_bytes=space.free_bytes,
            progress=running.progress,
        )

    # -- publishing

    async def _publish(self, running: Running, made: Publication) -> None:
        plan, report = made.plan, made.report
        copy = made.record(
            job_id=running.job.id,
            verification=self._policy.copy_options.verification,
            begun_at=self._jobs.now(),
        )
        entries = await self._compute(made.entries)
        staged = await self._compute(lambda: made.staged(self._policy.roots.hdd))
        adopted = await self._compute(made.adopted)

        def begin(connection: Connection) -> None:
            journal_copies.begin(connection, copy, entries)
            journal_facts.count(connection, "bytes_copied", report.bytes_copied)
            journal_facts.count(connection, "bytes_verified", report.bytes_verified)

        # The disk may have been unmounted during a long copy.
        await self._tiers.require()
        await self._enter(
            running,
            Phase.PUBLISHING,
            bytes_total=running.progress.bytes_total,
            bytes_copied=report.bytes_copied,
        )
        # Another torrent may have taken the place, or adopted one of them, during a long copy.
        async with self._planner.own_place(plan):
            await self._destinations.require_still_ours(
                running.job, plan, made.seen, made.in_the_way
            )
            for path, judged in made.in_the_way.items():
                moved = await set_aside(path, judged, limiter=self._tiers.hdd.limiter)
                if moved is not None:
                    log.warning("%s differed and was set aside as %s", path, moved.name)
            await self._journal.do(begin)
        await publish(
            self._policy.roots.hdd,
            staged,
            source_root=self._policy.roots.ssd,
            limiter=self._tiers.hdd.limiter,
        )
        await sync_adopted(self._policy.roots.hdd, adopted, limiter=self._tiers.hdd.limiter)
        done = partial(journal_copies.published, torrent_id=plan.torrent.id, now=self._jobs.now())
        await self._journal.do(done)
        await self._staging.drop(running.job.id)
        log.info(
            "published in %s: %s, %d bytes copied, %d verified, %d adopted, %d hardlinked",
            self._policy.roots.hdd / plan.shown_destination,
            number(len(entries), "file"),
            report.bytes_copied,
            report.bytes_verified,
            len(entries) - len(staged),
            len(made.linked),
        )

    # -- tagging

    async def _tag(self, id_: TorrentId, has: frozenset[str], *, on_ssd: bool) -> None:
        if self._policy.tags is None:
            return
        ssd, hdd = self._policy.tags
        right = {ssd, hdd} if on_ssd else {hdd}
        await self._client.add_tags([id_], right - has)
        await self._client.remove_tags([id_], ({ssd, hdd} - right) & has)

    async def _compute(self, call: Callable[[], T]) -> T:
        return await compute(call, limiter=self._computing)

    async def _enter(self, running: Running, phase: Phase, **changes: object) -> None:
        running.job = await self._jobs.enter(running.job.id, phase, **changes)
        if running.phase is not phase:
            log.info("%s", phase)
        running.phase = phase


def _waits_for_the_disk(error: JobError) -> bool:
    return isinstance(error, FailingDisk) or (
        isinstance(error, MustWait) and error.reason is WaitReason.TIER
    )
