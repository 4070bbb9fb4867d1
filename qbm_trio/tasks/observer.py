"""What the service says about itself, gathered from cached facts.

Nothing here asks a disk or qBittorrent: `health` and `overview` answer at once,
whatever hangs outside. Only the journal is read, for counters and past jobs: not again
until something has changed in it, and once for all who ask meanwhile. So scrapes,
however many, never keep its thread from what a copy has to record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from sqlite3 import Connection
from typing import Final

import outcome
import trio

from .. import __version__
from ..adapters import journal_facts
from ..adapters import journal_job_queries as queries
from ..adapters.journal import Journal, Pending
from ..core.checks import Finding
from ..core.client import QbittorrentClient
from ..core.model import Job, JobState
from ..core.overview import Condition, Health, JobCounts, Overview, QueueFigures
from ..core.space_runs import SpaceOverview
from .jobs import Jobs
from .tiers import Tiers
from .workers import Workers

PATIENCE_S: Final = 0.01
"""How long who is in haste waits for the journal. Its commits take ten times as long while copies
keep its disk busy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recorded:
    """What the journal tells."""

    changes: int  #: `Journal.changes` of then
    counters: Mapping[str, int]
    recent: tuple[Job, ...]
    by_state: Mapping[JobState, int]


class Observer:
    """Answers ``/health`` and ``/status``."""

    def __init__(
        self,
        *,
        jobs: Jobs,
        workers: Workers,
        client: QbittorrentClient,
        tiers: Tiers,
        journal: Journal,
        threshold_bytes: int,
        target_bytes: int,
        hdd_min_free_bytes: int,
        dry_run: bool,
        space: Callable[[], SpaceOverview],
        checks: Callable[[], tuple[Finding, ...]],
    ) -> None:
        """``space`` and ``checks`` tell of their parts, from cached facts: they must not wait."""
        self._jobs = jobs
        self._workers = workers
        self._client = client
        self._tiers = tiers
        self._journal = journal
        self._threshold_bytes = threshold_bytes
        self._target_bytes = target_bytes
        self._hdd_min_free_bytes = hdd_min_free_bytes
        self._dry_run = dry_run
        self._space = space
        self._checks = checks
        self._started_at = time.time()
        self._started_at_trio = trio.current_time()
        self.api_requests = 0  #: since start; the journal has those of earlier runs
        self._api_requests_handed_in = 0
        self._api_requests_saved = 0
        self._api_requests_before = 0  #: this start; once something was recorded
        self._recorded: _Recorded | None = None
        self._look: Pending[_Recorded] | None = None  #: at the journal, on its way

    def count_request(self) -> None:
        """A client asked something."""
        self.api_requests += 1

    def health(self) -> Health:
        """Whether all is well. Never waits."""
        if self._jobs.draining:
            return Health(status="draining")
        problems = list(self._tiers.problems)
        if not self._client.contact.reachable:
            # Anyone may ask: the address and the user's name are for /status.
            problems.insert(0, "qBittorrent is unreachable or refuses the login; see /status")
        if self._journal.restored is not None:
            problems.insert(0, self._journal.restored)
        if self._journal.problem is not None:
            problems.insert(0, "the journal cannot be written; notifications are refused")
        elif self._journal.hangs:
            problems.insert(0, "the journal's disk does not answer; all but /health waits for it")
        return Health(status="degraded" if problems else "healthy", problems=tuple(problems))

    def _degraded_by(self) -> frozenset[Condition]:
        wrong = {
            Condition.JOURNAL_UNWRITABLE: self._journal.problem is not None,
            Condition.JOURNAL_RESTORED: self._journal.restored is not None,
            Condition.QBITTORRENT: not self._client.contact.reachable,
            Condition.SSD: self._tiers.ssd.problem is not None,
            Condition.HDD: self._tiers.hdd.problem is not None,
        }
        return frozenset(condition for condition, is_so in wrong.items() if is_so)

    async def overview(self, *, in_haste: bool = False) -> Overview:
        """Everything ``/status`` shows.

        Args:
            in_haste: show what the journal told last, rather than wait for its disk.

        Raises:
            JournalUnwritable: it cannot be read.
        """
        recorded = await self._look_up(in_haste=in_haste)
        now = time.time()
        counters = {
            **recorded.counters,
            "api_requests": self._api_requests_before + self.api_requests,
        }
        ssd, hdd = self._tiers.figures
        return Overview(
            status=self.health().status,
            degraded_by=self._degraded_by(),
            version=__version__,
            dry_run=self._dry_run,
            started_at=self._started_at,
            now=now,
            uptime_s=trio.current_time() - self._started_at_trio,
            last_activity_at=self._jobs.last_activity_at,
            qbittorrent=self._client.contact,
            max_concurrent=self._workers.concurrency,
            running=tuple(r.shown() for r in self._workers.running.values()),
            queue=self._queue_figures(now),
            jobs=JobCounts(by_state=recorded.by_state, waiting=self._jobs.live.waiting_by_reason()),
            ssd=ssd,
            hdd=hdd,
            threshold_bytes=self._threshold_bytes,
            target_bytes=self._target_bytes,
            hdd_min_free_bytes=self._hdd_min_free_bytes,
            space=self._space(),
            checks=self._checks(),
            statistics=counters,
            recent=recorded.recent,
        )

    async def _look_up(self, *, in_haste: bool) -> _Recorded:
        # With a disk that hangs a scrape must fail: no other sign of it gets to an alarm.
        known = None if self._journal.hangs else self._recorded
        if known is not None and known.changes == self._journal.changes:
            return known
        if self._look is None:
            self._look = self._journal.submit(self._read, self._looked)
        look = self._look
        if known is not None and in_haste:
            with trio.move_on_after(PATIENCE_S):
                return await look.wait()
            return known
        return await look.wait()

    def _read(self, connection: Connection) -> _Recorded:
        return _Recorded(
            changes=self._journal.changes,  # here, in its thread, all of them are committed
            counters=journal_facts.counters(connection),
            recent=tuple(queries.recent(connection, 20)),
            by_state=queries.by_state(connection),
        )

    def _looked(self, result: outcome.Outcome[_Recorded]) -> None:
        self._look = None
        if isinstance(result, outcome.Value):
            self._recorded = result.value
            # Nobody else counts them, so that from now on this is known without a look.
            saved = result.value.counters.get("api_requests", 0)
            self._api_requests_before = saved - self._api_requests_saved

    def _queue_figures(self, now: float) -> QueueFigures:
        queue = self._jobs.queue
        shown = [self._jobs.live.get(job_id) for job_id in queue.first(20)]
        oldest = self._jobs.oldest_queued_at()
        return QueueFigures(
            size=len(queue),
            capacity=queue.capacity,
            waiting=sum(self._jobs.live.waiting_by_reason().values()),
            oldest_s=None if oldest is None else max(0.0, now - oldest),
            items=tuple(job for job in shown if job is not None),
        )

    async def save_counters(self) -> None:
        """Put the counters that are kept in memory into the journal."""
        delta = self.api_requests - self._api_requests_handed_in
        if delta:

            def write(connection: Connection) -> None:
                journal_facts.count(connection, "api_requests", delta)

            def written(result: outcome.Outcome[None]) -> None:
                if isinstance(result, outcome.Value):
                    self._api_requests_saved += delta
                else:
                    self._api_requests_handed_in -= delta

            # Noted first: the drain's call may come while another one is being committed.
            self._api_requests_handed_in += delta
            # What is shown is counted here: nobody need look for it.
            await self._journal.submit(write, written, shown=False).wait()
