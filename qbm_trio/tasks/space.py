"""Space management: runs that free the SSD, one at a time.

A run plans, relocates its plan and no more, and measures what that gave. Its groups are
tasks of their own: one that waits for its deletion, or that goes back for long, does not
hold up the next. What was asked for during a run is one run more.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from ..adapters import journal_relocations
from ..core.errors import (
    Draining,
    JobError,
    JournalUnwritable,
    QbittorrentAway,
    QbittorrentError,
    TierAway,
)
from ..core.model import Torrent
from ..core.relocation import CAN_STOP, OPEN, Relocation, RunId, Step
from ..core.space_runs import (
    DryRun,
    OpenRelocation,
    Requested,
    RunFigures,
    SpaceOverview,
    SpaceRun,
    no_plan,
    summary,
    to_be_shown,
)
from .relocation import GroupWatch, Relocator
from .relocation_lost import find_lost, lost_row
from .space_plans import SpacePlans, SpacePolicy, say_open, say_plan
from .space_run import Outside, Run
from .space_survey import Need
from .tiers import Tiers
from .waits import JOURNAL_RETRY_S

log = logging.getLogger(__name__)

LIST_SHARE: Final = 20
"""Runs by themselves list all torrents for a twentieth of the time at most."""


@dataclass(slots=True, kw_only=True)
class _Asked:
    """The run that was asked for and has not begun."""

    run_id: RunId
    by_hand: bool = False


class SpaceManagement:
    """Plans and makes runs. One object for the service."""

    def __init__(
        self,
        policy: SpacePolicy,
        outside: Outside,
        *,
        tiers: Tiers,
        relocator: Relocator,
    ) -> None:
        self._policy = policy
        self._outside = outside
        self._jobs = outside.jobs
        self._journal = outside.journal
        self._now = outside.now
        self._tiers = tiers
        self._relocator = relocator
        self._plans = SpacePlans(policy, outside, tiers=tiers)
        self._asked: _Asked | None = None
        self._asking = trio.Event()
        self._by_hand = trio.Event()
        self._scope = trio.CancelScope()
        self._groups: set[GroupWatch] = set()
        self._current: RunId | None = None
        self._last: SpaceRun | None = None
        self._not_before_s = -math.inf
        self._nursery: trio.Nursery | None = None  #: of the groups, once the open ones are in it

    # -- from HTTP

    @property
    def only_plans(self) -> bool:
        """Whether nothing is ever done (``DRY_RUN``)."""
        return self._policy.dry_run

    def trigger(self) -> Requested:
        """Ask for a run; one that was asked for and has not begun is the same.

        Raises:
            Draining: the service is stopping.
        """
        if self._jobs.draining:
            raise Draining("the service is stopping; no run was begun; ask again later")
        joined = self._asked is not None
        return Requested(run_id=self._ask(by_hand=True), joined=joined)

    async def dry_run(self) -> DryRun:
        """What a run triggered by hand would do now. Changes nothing.

        Raises:
            QbittorrentAway: it does not list its torrents.
            TierAway: the SSD gives no figures.
            JournalUnwritable: the journal cannot be asked.
        """
        try:
            space = await self._plans.space()
            need = await self._need()
            _, plan = await self._plans.make(need, by_hand=True)
        except QbittorrentError as error:
            raise QbittorrentAway(f"no plan can be made: {error}; ask again later") from error
        except JobError as error:
            raise TierAway(f"no plan can be made: {error}") from error
        return DryRun(
            plan=plan,
            ssd_free_bytes=space.free_bytes,
            ssd_total_bytes=space.total_bytes,
            threshold_bytes=self._policy.threshold_bytes,
            target_bytes=self._policy.target_bytes,
            pending_bytes=need.pending_bytes,
        )

    def overview(self) -> SpaceOverview:
        """What ``/status`` shows, from memory."""
        return SpaceOverview(
            last_run=self._last,
            current_run=self._current,
            paused=self._paused,
            relocations=tuple(
                OpenRelocation(
                    id=str(row.id),
                    torrent_id=row.torrent_id,
                    name=row.name,
                    step=row.step,
                    begun_at=row.begun_at,
                    bytes=row.bytes,
                    error=watch.error_of(row),
                )
                for watch in self._groups
                for row in watch.rows
                if row.step in OPEN
            ),
        )

    @property
    def _paused(self) -> str | None:
        return self._last.figures.paused if self._last else None

    # -- the tasks

    async def run(self, job_ended: Callable[[], trio.Event]) -> None:
        """Finish what was open, then make runs until stopped or cancelled.

        Args:
            job_ended: returns the event that is set when the next job ends.

        Cancellation:
            Between two calls to qBittorrent or the disk; see `Relocator.run_group`.
        """
        with self._scope:
            async with trio.open_nursery() as nursery:
                await self._recover(nursery)
                self._nursery = nursery
                nursery.start_soon(self._ask_after_jobs, job_ended)
                nursery.start_soon(self._ask_when_back)
                nursery.start_soon(self._ask_when_mounted)
                self._ask()
                while True:
                    with trio.move_on_after(self._policy.interval_s):
                        await self._asking.wait()
                    # Of its own accord it may have to wait longer; a person need not.
                    with trio.CancelScope(deadline=self._not_before_s):
                        await self._by_hand.wait()
                    await self._run(nursery)

    def stop(self) -> None:
        """Begin nothing more; let go of what is under way."""
        self._scope.cancel()

    def relocations_known(self) -> bool:
        """Whether all that were open when the service last stopped have been found."""
        return self._nursery is not None

    async def begin_again(self, row: Relocation, *, at: Step) -> bool:
        """Take up a relocation that has ended, with a row of its own; whether that was possible.

        Not while what was open at the start is not known yet, nor when the service stops.

        Raises:
            AlreadyRelocating: it is being relocated, or a job is at work on it.
            JournalUnwritable: nothing was begun.
        """
        if self._nursery is None or self._scope.cancel_called or self.only_plans:
            return False
        begin = partial(journal_relocations.begin, group=[row], now=self._now(), at=at)
        rows = await self._journal.do(begin)
        if not self._scope.cancel_called:  # else the next start goes on with it
            self._start(self._nursery, rows)
        return True

    async def lost_row(self, torrent: Torrent) -> Relocation | None:
        """A relocation that the journal does not know; see `relocation_lost.lost_row`."""
        return await lost_row(self._outside, torrent)

    async def undo_early(self) -> None:
        """After `run` has ended: undo what is not past ``setLocation``."""
        if not self.only_plans:
            await self._relocator.undo_early()

    async def _recover(self, nursery: trio.Nursery) -> None:
        while True:
            try:
                self._last = await self._journal.do(journal_relocations.last_run)
                if self.only_plans:
                    say_open(await self._journal.do(journal_relocations.open_ones))
                    return
                groups = await self._relocator.recover() + await find_lost(self._outside)
            except JournalUnwritable as error:
                log.error("open relocations stand still: %s", error)
                await trio.sleep(JOURNAL_RETRY_S)
            else:
                for group in groups:
                    self._start(nursery, group)
                return

    async def _ask_after_jobs(self, job_ended: Callable[[], trio.Event]) -> None:
        while True:
            await job_ended().wait()
            self._ask()

    async def _ask_when_back(self) -> None:
        """A run that qBittorrent's absence has ended is made up for as soon as it is back."""
        while True:
            await self._outside.client.wait_unreachable()
            await self._outside.client.wait_reachable()
            self._ask()

    async def _ask_when_mounted(self) -> None:
        while True:
            await self._tiers.usable.wait()
            self._ask()

    def _ask(self, *, by_hand: bool = False) -> RunId:
        if self._asked is None:
            self._asked = _Asked(run_id=RunId(secrets.token_hex(8)))
        self._asking.set()
        if by_hand:
            self._asked.by_hand = True
            self._by_hand.set()
        return self._asked.run_id

    async def _run(self, nursery: trio.Nursery) -> None:
        """Make the run that was asked for, by a person or by the clock."""
        self._ask()
        asked, self._asked = self._asked, None
        self._asking, self._by_hand = trio.Event(), trio.Event()
        assert asked is not None
        if not asked.by_hand and self._paused is not None:
            return
        self._current = asked.run_id
        begun_at = self._now()
        try:
            try:
                await self._one_run(nursery, asked, begun_at)
            except JournalUnwritable:
                raise
            except Exception as error:
                # As of a job (ADR 2): its own end, said loudly, not that of the service. What
                # it had begun goes on.
                log.exception("a bug ends this run of space management")
                await self._no_run(asked, begun_at, f"a bug: {error!r}; see the log")
        except JournalUnwritable as error:
            log.error("space management: %s", error)
        finally:
            self._current = None

    async def _one_run(self, nursery: trio.Nursery, asked: _Asked, begun_at: float) -> None:
        began_s = trio.current_time()
        try:
            need = await self._need()
            if not (asked.by_hand or need.target_bytes or self._fell_short):
                return  # room enough: qBittorrent is not even asked
            survey, plan = await self._plans.make(need, by_hand=asked.by_hand)
        except (QbittorrentError, JobError) as error:
            # A list whose end is not waited for any more is made all the same.
            pause_s = LIST_SHARE * (trio.current_time() - began_s)
            self._not_before_s = began_s + min(pause_s, self._policy.interval_s)
            log.warning("space management: no plan can be made: %s", error)
            await self._no_run(asked, begun_at, str(error))
            return
        log.info(
            "space management: run %s begins%s: %d bytes are missing, %d planned",
            asked.run_id,
            ", triggered by hand" if asked.by_hand else "",
            plan.missing_bytes,
            plan.planned_bytes,
        )
        self._not_before_s = began_s + LIST_SHARE * (trio.current_time() - began_s)
        if self.only_plans:
            say_plan(plan)
            return
        run = Run(
            self._outside,
            asked.run_id,
            survey=survey,
            plan=plan,
            start=partial(self._start, nursery),
        )
        await run.carry_out()
        try:
            space = await self._plans.space()
            self._tiers.ssd.space = space  # for who looks now
            missing_bytes = max(0, need.target_bytes - space.free_bytes)
        except JobError:  # said by the probes
            missing_bytes = plan.shortfall_bytes
        await self._record(asked, begun_at, run.figures(missing_bytes=missing_bytes))

    async def _no_run(self, asked: _Asked, begun_at: float, problem: str) -> None:
        """Who asked for a run must learn that it could not be made."""
        if asked.by_hand and not self.only_plans:
            await self._record(asked, begun_at, no_plan(problem, self._paused))

    async def _record(self, asked: _Asked, begun_at: float, figures: RunFigures) -> None:
        run = SpaceRun(
            id=asked.run_id,
            by_hand=asked.by_hand,
            begun_at=begun_at,
            ended_at=self._now(),
            figures=figures,
        )
        if to_be_shown(run, after=self._last, interval_s=self._policy.interval_s):
            await self._journal.do(partial(journal_relocations.add_run, run=run))
            self._last = run
        else:
            await self._journal.do(journal_relocations.count_run)
        # Below the threshold, and nothing was to be done about it.
        between_bytes = self._policy.target_bytes - self._policy.threshold_bytes
        in_vain = not (figures.relocated or figures.tiered_first)
        stuck = in_vain and figures.shortfall_bytes > between_bytes
        level = logging.WARNING if stuck else logging.INFO
        log.log(level, "space management: %s", summary(run))
        if figures.paused is not None:
            log.error("space management makes no more runs by itself: %s", figures.paused)

    @property
    def _fell_short(self) -> bool:
        """Whether the last run says that the target is missed: it may be met by now."""
        return self._last is not None and not self._last.figures.target_met

    async def _need(self) -> Need:
        last = self._last
        on_the_way = last is not None and last.figures.shortfall_bytes > 0
        return await self._plans.need(self._pending_bytes, on_the_way=on_the_way)

    # -- groups

    @property
    def _pending_bytes(self) -> int:
        """What the deletions to come will free."""
        return sum(
            row.bytes for watch in self._groups for row in watch.rows if row.step in CAN_STOP
        )

    def _start(self, nursery: trio.Nursery, group: Sequence[Relocation]) -> GroupWatch:
        watch = GroupWatch(group)
        self._groups.add(watch)
        nursery.start_soon(self._relocate, watch, name=f"relocation of {group[0].name!r}")
        return watch

    async def _relocate(self, watch: GroupWatch) -> None:
        try:
            while True:
                try:
                    await self._relocator.run_group(watch)
                    return
                except JournalUnwritable as error:
                    # None of its steps was taken that is not recorded.
                    log.error("a relocation stands still: %s", error)
                    watch.stuck()
                    await trio.sleep(JOURNAL_RETRY_S)
        except Exception:
            # As of a job (ADR 2): its own end, said loudly, not that of the service.
            log.exception("a bug: a relocation stands still until the next start")
        finally:
            watch.stuck()
            self._groups.discard(watch)
