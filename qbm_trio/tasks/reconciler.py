"""Keep the journal and qBittorrent of one mind: find what each does not know of the other.

One call each interval asks what has changed; only torrents that did, or of which
something could not be told the last time, are compared. All are compared at the start,
when qBittorrent's session is a new one, and now and then.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import floor, inf
from typing import Final, TypeVar

import trio

from ..adapters import journal_reconciling, journal_relocations
from ..adapters.computing import compute
from ..adapters.journal import Journal
from ..adapters.journal_relocations import AlreadyRelocating
from ..core.client import QbittorrentClient
from ..core.errors import Draining, JournalUnwritable, QbittorrentError, QbittorrentTooLate
from ..core.model import Notification, Torrent, TorrentId
from ..core.readiness import SEEDING
from ..core.reconciling import (
    REMOVED,
    Finding,
    Known,
    Rules,
    What,
    could_matter,
    finished_at,
    judge,
)
from ..core.relocation import Event, IllegalStep, Relocation, RunId, Step
from ..core.relocation_polls import STOPPED
from ..core.roots import Roots
from ..core.snapshot import Snapshot, Update, apply, met
from ..core.space import RELOCATING_TAG
from ..logs import about, lines_about, subject
from .jobs import Jobs

log = logging.getLogger(__name__)

T = TypeVar("T")

FOUND_PRIORITY: Final = -10
"""Of the jobs that it asks for: after those of hooks, before those of space management."""
SHARE: Final = 20
"""A twentieth of the time at most: on 4.5 qBittorrent does nothing else meanwhile."""
BELIEVED_AFTER_S: Final = 10.0
"""So long must be found again what contradicts the journal; less with a short interval."""
LATE_LISTS: Final = 2
"""So many in a row did not come in time when they are too long; before, it may have hung."""
WHOLE_EVERY_S: Final = 600.0
"""So often all torrents are compared, and not only those that changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcilerPolicy:
    """The settings that it obeys."""

    roots: Roots
    interval_s: float
    retention_s: float  #: ``JOB_RETENTION_DAYS``: older jobs are forgotten
    dry_run: bool  #: jobs are queued, but nothing is changed in qBittorrent


class Reconciler:
    """Compares. One object for the service."""

    def __init__(
        self,
        policy: ReconcilerPolicy,
        *,
        client: QbittorrentClient,
        jobs: Jobs,
        journal: Journal,
        begin_again: Callable[..., Awaitable[bool]],
        lost_row: Callable[[Torrent], Awaitable[Relocation | None]],
        relocations_known: Callable[[], bool],
        first_run_at: float,
    ) -> None:
        """Take what it works with.

        Args:
            policy: what it obeys.
            client: qBittorrent.
            jobs: where it queues and ends jobs.
            journal: what it compares with.
            begin_again: takes up an ended relocation, as `SpaceManagement.begin_again`.
            lost_row: a relocation that the journal does not know, as `SpaceManagement.lost_row`.
            relocations_known: whether the journal has all that are open: right after it was
                restored, a tag may be all that is left of one.
            first_run_at: epoch seconds; what finished earlier is not looked for.
        """
        self._policy = policy
        self._client = client
        self._jobs = jobs
        self._journal = journal
        self._begin_again = begin_again
        self._lost_row = lost_row
        self._relocations_known = relocations_known
        self._first_run_at = first_run_at
        self._began_s = trio.current_time()
        self._computing = trio.CapacityLimiter(1)
        self._scope = trio.CancelScope()
        self._number = 0  #: of the last answer; 0 asks for everything
        self._snapshot = Snapshot()
        self._found: dict[TorrentId, tuple[Finding, float]] = {}  #: not acted on yet; since when
        self._removed: list[Torrent] = []
        self._ran: dict[TorrentId, bool] = {}  #: whether each seeded when it last was complete
        self._late_lists = 0  #: in a row: not given in time, while other calls were answered
        self._not_before_s = -inf
        self._next_s = -inf
        self._whole_at_s = -inf
        self.looked = trio.Event()  #: set, and replaced, after each look
        self._problem = ""  #: as last said
        self._said: set[TorrentId] = set()  #: of which it was said what a dry run leaves undone

    def stop(self) -> None:
        """Begin nothing more."""
        self._scope.cancel()

    async def run(self) -> None:
        """Look at once, each interval, and when qBittorrent is back; until stopped or cancelled."""
        with self._scope:
            while True:
                # While it is away the prober alone calls it.
                await self._client.wait_reachable()
                await self._look_or_say()
                self.looked.set()
                self.looked = trio.Event()
                await self._pause()

    async def _pause(self) -> None:
        """Until the next look is due: early when qBittorrent is back, at once when restarted."""
        due_s, sessions = max(self._next_s, self._not_before_s), self._client.sessions
        while trio.current_time() < due_s:
            with trio.CancelScope(deadline=due_s):
                await self._client.wait_unreachable()
                await self._client.wait_reachable()
                if self._client.sessions != sessions:
                    return
                due_s = self._not_before_s

    async def listed(self) -> Sequence[Torrent]:
        """All torrents, as last told; waits for the first answer."""
        while not self._snapshot.number:
            await self.looked.wait()
        return tuple(self._snapshot.torrents.values())

    async def _look_or_say(self) -> None:
        began_s = trio.current_time()
        try:
            await self.look()
        except Exception:
            # As of a job (ADR 2): its own end, said loudly, not that of the service.
            log.exception("a bug ends this look of the reconciler; the next one is a whole one")
            self._number, self._whole_at_s = 0, -inf
            self._not_before_s = self._next_s = began_s + self._policy.interval_s

    async def look(self) -> None:
        """Ask once what has changed, and do what must be done about it."""
        began_s = trio.current_time()
        since, self._number = self._number, 0  # unless this is answered, ask for everything
        others = [
            met(job.torrent_id, job.name, job.hash)
            for job in self._jobs.live.all()
            if job.torrent_id is not None and job.torrent_id not in self._snapshot.torrents
        ]
        try:
            changes = await self._client.changes(since)
        except QbittorrentError as error:
            self._say(f"qBittorrent does not list its torrents: {error}")
            pause_s = SHARE * (trio.current_time() - began_s)
            # A list that is not waited for any more is made all the same. But the return of
            # one that was away must not go unnoticed for longer than an interval.
            late = isinstance(error, QbittorrentTooLate)
            self._late_lists = self._late_lists + 1 if late else 0
            if self._late_lists < LATE_LISTS:
                pause_s = min(pause_s, self._policy.interval_s)
            self._not_before_s = began_s + pause_s
            self._next_s = began_s + self._policy.interval_s
            return
        self._late_lists = 0
        now_s = trio.current_time()
        self._not_before_s = began_s + SHARE * (now_s - began_s)
        self._next_s = began_s + self._policy.interval_s
        self._number = changes.number
        if changes.whole:
            self._whole_at_s = -inf
        update = await self._compute(
            partial(apply, self._snapshot, changes, now_s=now_s, others=others)
        )
        self._snapshot = update.snapshot
        self._removed += update.removed
        try:
            await self._end_jobs()
            await self._compare(update, now_s)
        except JournalUnwritable as error:
            self._whole_at_s = -inf  # nothing that was to be done is forgotten
            self._say(f"nothing is reconciled until the next look: {error}")
        except Draining:
            return
        else:
            self._problem = ""

    async def _compare(self, update: Update, now_s: float) -> None:
        torrents = update.snapshot.torrents
        whole = now_s - self._whole_at_s >= WHOLE_EVERY_S
        ids: Iterable[TorrentId] = torrents if whole else update.changed | self._found.keys()
        rules = self._rules()
        matter = await self._compute(
            lambda: [t for id in ids if (t := torrents.get(id)) and could_matter(t, rules)]
        )
        known: Mapping[TorrentId, Known] = {}
        if matter:
            read = partial(journal_reconciling.known, torrents=matter)
            known = await self._journal.do(read)
        found = await self._compute(
            lambda: [(t, f) for t in matter if (f := judge(t, known[t.id], rules)) is not None]
        )
        before, self._found = self._found, {}
        for torrent, finding in found:
            first, since_s = before.get(torrent.id, (finding, now_s))
            self._found[torrent.id] = (finding, since_s if first == finding else now_s)
        # Two looks may follow each other at once, when qBittorrent comes and goes.
        believed_s = now_s - min(BELIEVED_AFTER_S, self._policy.interval_s / 2)
        for torrent, finding in found:
            twice = torrent.id in before and self._found[torrent.id][1] <= believed_s
            if finding.what is not None and (finding.at_once or twice):
                with lines_about(subject(torrent_id=torrent.id, name=torrent.name)):
                    await self._act(torrent, finding, known[torrent.id])
        for torrent in matter:
            if torrent.state in SEEDING and torrent.id not in self._found:
                self._ran[torrent.id] = torrent.state not in STOPPED
        if whole:
            self._whole_at_s = now_s

    def _rules(self) -> Rules:
        now = self._jobs.now()
        # The first run was not after the start of this one: the wall clock was put back.
        began_at = now - (trio.current_time() - self._began_s)
        first_run_at = floor(min(self._first_run_at, began_at))  # qBittorrent tells whole seconds
        # Older jobs are forgotten: that there was none cannot be told any more.
        remembered_since = now - self._policy.retention_s
        return Rules(roots=self._policy.roots, finished_after=max(first_run_at, remembered_since))

    async def _end_jobs(self) -> None:
        """End the jobs of torrents that were removed; what is on the HDD stays."""
        while self._removed:
            torrent = self._removed[-1]
            why = (
                f"{torrent.name!r} was removed from qBittorrent; nothing more is copied, and what "
                "is on the HDD stays; add it again, then retry the job"
            )
            for job in await self._jobs.end_for(torrent.hashes, code=REMOVED, why=why):
                log.info("cancelled: %s", why, extra=about(job))
            self._removed.pop()
            self._ran.pop(torrent.id, None)

    # -- what was found

    async def _act(self, torrent: Torrent, finding: Finding, known: Known) -> None:
        """Do what is to be done. What cannot be done now is found again the next time."""
        what, last = finding.what, known.relocation
        if what is What.TIER:
            log.info(
                "found %r: finished %.0f s ago and %s; queued",
                torrent.name,
                self._jobs.now() - finished_at(torrent),
                "never notified" if known.job is None else "notified when it was not there",
            )
            await self._tier(torrent)
        elif what is What.TIER_ANEW and last is not None:
            log.info("found %r on the SSD again, by its user's hand; copied anew", torrent.name)
            await self._tier(torrent)
            taken_back = partial(
                journal_relocations.step,
                ids=[last.id],
                event=Event.TAKEN_BACK,
                expected=Step.DONE,
                now=self._jobs.now(),
                error="its user moved it back to the SSD",
            )
            try:
                await self._journal.do(taken_back)
            except IllegalStep as error:
                log.debug("%r: %s", torrent.name, error)
        elif self._policy.dry_run:
            if torrent.id not in self._said:
                self._said.add(torrent.id)
                log.info("dry run: would %s %r: see its relocation", what, torrent.name)
        elif not self._relocations_known():
            return
        elif what in _BEGINS:
            await self._take_up(torrent, last, at=_BEGINS[what])
            return
        else:
            await self._release(torrent, start=finding.start, last=last)
        self._found.pop(torrent.id, None)

    async def _tier(self, torrent: Torrent) -> None:
        await self._jobs.accept(
            Notification(
                hash=torrent.id,
                priority=FOUND_PRIORITY,
                name=torrent.name,
                category=torrent.category,
                size_bytes=torrent.size_bytes,
            ),
            bounded=False,
        )

    async def _take_up(self, torrent: Torrent, last: Relocation | None, *, at: Step) -> None:
        if last is None:
            try:
                last = await self._lost_row(torrent)
            except QbittorrentError as error:
                log.warning("%r: %s", torrent.name, error)
                return
        if last is None:  # it has said what to do
            await self._release(torrent, start=False, last=None)
            return
        row = replace(
            last,
            id=0,
            run_id=RunId(secrets.token_hex(8)),
            group=torrent.id,
            was_running=self._ran.get(torrent.id, last.was_running),
            force_start=last.force_start and self._ran.get(torrent.id, True),
            bytes=0,
        )
        if at is Step.REPEATING:
            row = replace(
                row,
                # To be turned off: what was forgotten may be that it was.
                auto_management=last.auto_management or torrent.auto_management,
                download_path=last.download_path or torrent.download_path,
            )
        try:
            begun = await self._begin_again(row, at=at)
        except AlreadyRelocating as error:
            log.debug("%r: %s", torrent.name, error)
            return
        if begun:
            log.warning(
                "%r is %s at %s, but %s; %s",
                torrent.name,
                torrent.state,
                torrent.content_path,
                "no relocation of it is known"
                if at is Step.LOCATING
                else f"its relocation is {last.step}: a killed qBittorrent has forgotten it",
                at,
            )

    async def _release(self, torrent: Torrent, *, start: bool, last: Relocation | None) -> None:
        log.warning(
            "%r has the tag %s, but is not being relocated: it is taken off%s",
            torrent.name,
            RELOCATING_TAG,
            ", and the torrent started" if start else "",
        )
        try:
            if start and last is not None and last.force_start:
                await self._client.set_force_start(torrent.id, True)
            elif start:
                await self._client.start(torrent.id)
            await self._client.remove_tags([torrent.id], {RELOCATING_TAG})
        except QbittorrentError as error:
            log.warning("%r: %s", torrent.name, error)

    async def _compute(self, call: Callable[[], T]) -> T:
        return await compute(call, limiter=self._computing)

    def _say(self, problem: str) -> None:
        """Once, however often it is so."""
        if problem != self._problem:
            log.warning("%s", problem)
        self._problem = problem


_BEGINS: Final[Mapping[What | None, Step]] = {
    What.REPEAT: Step.REPEATING,
    What.RETURN: Step.RETURNING,
    What.LOCATE: Step.LOCATING,
}
