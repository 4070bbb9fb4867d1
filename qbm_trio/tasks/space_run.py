"""One run of space management: what was planned is relocated, and what it gave is measured."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from ..adapters import journal_relocations
from ..adapters.journal import Journal
from ..adapters.journal_relocations import AlreadyRelocating
from ..core.client import QbittorrentClient
from ..core.errors import Draining, JobError, MustWait, QbittorrentError, QueueFull, TorrentUnknown
from ..core.model import Notification, Torrent, TorrentId, WaitReason
from ..core.readiness import why_not_ready
from ..core.relocation import Relocation, RunId, Step
from ..core.relocation_polls import STOPPED_COMPLETE
from ..core.roots import Roots
from ..core.space import PIN_TAG, Relocate, SpacePlan
from ..core.space_runs import FAILURES_KEPT, FailedGroup, RunFigures, spared_sums
from ..logs import subject
from .jobs import Jobs
from .relocation import GroupWatch
from .relocation_proofs import NotAsPlanned
from .space_survey import Survey
from .ssd_lists import SsdLists

log = logging.getLogger(__name__)

TIERING_PRIORITY: Final = -100
"""Of the jobs that a run asks for: after everything that a hook asked for."""

_KEPT: Final = "a snapshot keeps them, or the file system frees them later; remove the snapshot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What runs work with."""

    roots: Roots
    client: QbittorrentClient
    jobs: Jobs
    journal: Journal
    lists: SsdLists
    now: Callable[[], float] = time.time


class Run:
    """A run that has its plan."""

    def __init__(
        self,
        outside: Outside,
        run_id: RunId,
        *,
        survey: Survey,
        plan: SpacePlan,
        start: Callable[[Sequence[Relocation]], GroupWatch],
    ) -> None:
        """``start`` has a group relocated, in a task of its own."""
        self._outside = outside
        self._id = run_id
        self._survey = survey
        self._plan = plan
        self._start = start
        self._begun: list[tuple[Relocate, GroupWatch]] = []
        self._failures: list[FailedGroup] = []
        self._tiered_first = 0
        self._problem: str | None = None
        self._paused: str | None = None

    async def carry_out(self) -> None:
        """Do what the plan says, and no more.

        Returns when all groups have ended, or go on for long without the run.

        Raises:
            JournalUnwritable: nothing more can be recorded.
        """
        try:
            await self._tier_first()
            for relocate in self._plan.relocate:
                if not await self._relocate(relocate):
                    break
        except QbittorrentError as error:
            self._problem = f"qBittorrent: {error}"
            log.warning("space management ends this run early: %s", self._problem)
        for _, watch in self._begun:
            await watch.settled.wait()

    def figures(self, *, missing_bytes: int) -> RunFigures:
        """What came of it.

        Args:
            missing_bytes: to the target, as the SSD is now.
        """
        failures = [*self._failures]
        freed_bytes = relocated = 0
        expected_bytes = given_bytes = 0  #: of groups that went over whole: by plan, in truth
        left: list[str] = []  #: what was not deleted
        for relocate, watch in self._begun:
            freed = sum(row.freed_bytes for row in watch.rows)
            done = sum(row.step is Step.DONE for row in watch.rows)
            freed_bytes += freed
            if not watch.relocated:
                failures.append(_failed_group(watch))
                continue
            relocated += done
            left.extend(row.error for row in watch.rows if row.step is Step.DONE and row.error)
            if done == len(watch.rows):
                # What its user has changed is left for good: the next run is not in vain for it.
                expected_bytes += max(0, relocate.bytes - sum(watch.kept_bytes.values()))
                given_bytes += freed
        paused = self._paused
        if given_bytes * 2 < expected_bytes:
            why = left[0] if left else _KEPT
            paused = (
                f"deleting {expected_bytes} bytes has freed {given_bytes}: {why}; then trigger "
                "a run by hand"
            )
        return RunFigures(
            freed_bytes=freed_bytes,
            planned_bytes=self._plan.planned_bytes,
            shortfall_bytes=missing_bytes,
            target_met=missing_bytes == 0,
            relocated=relocated,
            tiered_first=self._tiered_first,
            failed_groups=len(failures),
            failures=tuple(failures[:FAILURES_KEPT]),
            spared=spared_sums(self._plan),
            problem=self._problem,
            paused=paused,
        )

    # -- copies that come first

    async def _tier_first(self) -> None:
        for torrent_id in self._plan.tier_first:
            torrent = self._survey.torrents[torrent_id]
            try:
                await self._outside.jobs.accept(
                    Notification(
                        hash=torrent_id,
                        priority=TIERING_PRIORITY,
                        name=torrent.name,
                        category=torrent.category,
                    )
                )
            except (QueueFull, Draining):  # hooks come first; and after the next start
                return
            self._tiered_first += 1

    # -- groups

    async def _relocate(self, relocate: Relocate) -> bool:
        """Begin one group and wait until it is decided; whether the run may go on."""
        first = self._survey.torrents[relocate.group.torrent_ids[0]].name
        try:
            rows = await self._begin(relocate)
        except (NotAsPlanned, AlreadyRelocating, TorrentUnknown, JobError) as error:
            what = subject(torrent_id=relocate.group.torrent_ids[0], name=first)
            log.warning("%r is not relocated: %s", first, error, extra=what)
            count = len(relocate.group.torrent_ids)
            self._failures.append(FailedGroup(name=first, torrents=count, error=str(error)))
            return True
        watch = self._start(rows)
        self._begun.append((relocate, watch))
        await watch.decided.wait()
        if watch.moved:
            self._problem = self._paused = (
                f"qBittorrent moved the data of {first!r} instead of finding its copy; see that "
                "it has the HDD mounted under the path that PATH_MAPPINGS tells, then trigger a "
                "run by hand"
            )
        elif watch.tier_away is not None:
            # The others would fail one after another, and be left alone for an hour.
            self._problem = watch.tier_away
            log.warning("space management ends this run early: %s", self._problem)
        return self._problem is None

    async def _begin(self, relocate: Relocate) -> list[Relocation]:
        group = []
        for number, torrent_id in enumerate(relocate.group.torrent_ids):
            torrent = await self._outside.client.torrent(torrent_id)
            group.append(
                Relocation(
                    run_id=self._id,
                    group=relocate.group.torrent_ids[0],
                    torrent_id=torrent_id,
                    name=torrent.name,
                    from_path=await self._still_as_planned(torrent),
                    to_path=self._to_path(torrent_id),
                    was_running=torrent.state not in STOPPED_COMPLETE,
                    force_start=torrent.force_start,
                    auto_management=torrent.auto_management,
                    download_path=torrent.download_path,
                    # Of a group as a whole: what its torrents share is freed once.
                    bytes=relocate.bytes if number == 0 else 0,
                )
            )
        return await self._outside.journal.do(
            partial(journal_relocations.begin, group=group, now=self._outside.now())
        )

    async def _still_as_planned(self, torrent: Torrent) -> str:
        """The folder that its files are in, if all is as it was when the plan was made."""
        listed = await self._outside.lists.of(torrent)
        reason = why_not_ready(torrent, listed.files)
        if reason is None and PIN_TAG in torrent.tags:
            reason = f"it is tagged {PIN_TAG}"
        if reason is None and listed.root != self._survey.listed(torrent.id).root:
            reason = "its files were moved"
        if reason is not None:
            raise NotAsPlanned(f"since the plan was made, {torrent.name!r} changed: {reason}")
        return listed.root

    def _to_path(self, torrent_id: TorrentId) -> str:
        path = self._outside.roots.hdd_folder(self._survey.destination(torrent_id))
        if path is None:
            raise NotAsPlanned("PATH_MAPPINGS leads to no path of qBittorrent's on the HDD")
        return path


async def tier_anew(jobs: Jobs, row: Relocation) -> None:
    """Have a torrent's copy made again; it is not what was verified.

    Raises:
        JournalUnwritable: it cannot be recorded.
        MustWait: the service stops. The step is taken again at the next start.
    """
    n = Notification(hash=row.torrent_id, priority=TIERING_PRIORITY, name=row.name)
    try:
        await jobs.accept(n, bounded=False)
    except Draining as error:
        raise MustWait(str(error), reason=WaitReason.RETRY) from error


def _failed_group(watch: GroupWatch) -> FailedGroup:
    rows = watch.rows
    faulty = next((row for row in rows if watch.error_of(row)), rows[0])
    error = watch.error_of(faulty)
    if error is None or watch.obstacles:
        going = f"it is {faulty.step} for now, and goes on by itself"
        error = f"{going} ({error})" if error else going
    return FailedGroup(name=faulty.name, torrents=len(rows), error=error)
