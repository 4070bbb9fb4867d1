"""Jobs that wait for a time or a condition, and their way back into line.

Deadlines are on trio's clock, so that a wall clock that jumps neither stalls a
job nor wakes all of them. The wall time in the journal is for people to read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from math import inf

import trio

from ..core.errors import JournalUnwritable, NoSuchJob
from ..core.lifecycle import IllegalMove
from ..core.model import JobId, WaitReason
from ..core.retry import LONGEST_DELAY_S
from ..logs import subject
from .jobs import Jobs

log = logging.getLogger(__name__)

JOURNAL_RETRY_S = 5.0
"""When what the journal refused is tried again."""
SPACE_LOOKS = 2
"""How many jobs that wait for space are looked at when another job has ended."""
SPACE_PAUSE_S = 5.0
"""What passes between two such looks."""


class Waits:
    """Who waits, for what, and until when."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._deadlines: dict[JobId, tuple[float, WaitReason]] = {}
        # Ten thousand jobs may wait: neither one more nor a wake for a reason that
        # none of them has may cost a look at them all. Both keep the order of arrival.
        self._by_reason: dict[WaitReason, dict[JobId, None]] = {r: {} for r in WaitReason}
        # An entry that `_deadlines` does not confirm is out of date.
        self._heap: list[tuple[float, int, JobId]] = []
        self._number = count()
        self._nudge = trio.Event()

    def add(self, job_id: JobId, reason: WaitReason, delay_s: float) -> None:
        """Look at the job again after ``delay_s``, or earlier by `wake`."""
        self._forget(job_id)
        self._by_reason[reason][job_id] = None
        self._set(job_id, trio.current_time() + delay_s, reason)

    def wake(self, reason: WaitReason, most: float = inf) -> None:
        """What these jobs waited for may be there now: look at them at once.

        With ``most``, only at so many, those that wait longest: a job that waits anew
        goes behind the others, so repeated calls come to every one.
        """
        now = trio.current_time()
        woken = 0
        for job_id in list(self._by_reason[reason]):
            if woken >= most:
                break
            if self._jobs.live.get(job_id) is None:
                self._forget(job_id)  # it ended while it waited
            elif self._deadlines[job_id][0] > now:
                self._set(job_id, now, reason)
                woken += 1

    def recover(self) -> None:
        """At start: take over the journal's waiting jobs.

        Their conditions are looked at anew, at once; a retry waits out its delay,
        which no clock can make longer than the longest.
        """
        for job in self._jobs.live.waiting():
            reason = job.wait_reason or WaitReason.RETRY
            left_s = (job.next_at or 0.0) - job.updated_at
            delay_s = min(max(left_s, 0.0), LONGEST_DELAY_S) if reason is WaitReason.RETRY else 0.0
            self.add(job.id, reason, delay_s)

    async def run(self) -> None:
        """Put jobs back into line as they come due. Runs until cancelled."""
        while True:
            self._nudge = trio.Event()
            next_at = await self._end_due_waits()
            with trio.CancelScope(deadline=next_at):
                await self._nudge.wait()

    async def wake_for_space(self, next_end: Callable[[], trio.Event]) -> None:
        """Look at jobs that wait for space when another has ended. Runs until cancelled.

        ``next_end`` returns the event that is set when the next job ends.
        """
        # A look costs calls to qBittorrent and a turn ahead of newer jobs that may
        # fit: were all looked at each time, a hundred that wait would slow the others
        # tenfold. What a few cannot use, the rest find when their own time is up.
        ended = next_end()
        while True:
            await ended.wait()
            ended = next_end()  # now: an end during the pause counts too
            self.wake(WaitReason.SPACE, most=SPACE_LOOKS)
            await trio.sleep(SPACE_PAUSE_S)

    async def _end_due_waits(self) -> float:
        """Put every job that is due back into line; return when the next one will be."""
        while self._heap:
            at, _, job_id = self._heap[0]
            if self._deadlines.get(job_id, (None,))[0] != at:
                heappop(self._heap)
            elif at <= trio.current_time():
                heappop(self._heap)
                await self._end_wait(job_id)
            else:
                return at
        return inf

    async def _end_wait(self, job_id: JobId) -> None:
        # Taken out first: it may be waiting anew before the commit is reported here.
        reason = self._deadlines[job_id][1]
        self._forget(job_id)
        try:
            await self._jobs.due(job_id)
        except (IllegalMove, NoSuchJob):
            pass  # cancelled, cleared, merged while it waited; perhaps even forgotten since
        except JournalUnwritable as error:
            log.error("cannot go on yet: %s", error, extra=subject(job_id=job_id))
            self.add(job_id, reason, JOURNAL_RETRY_S)

    def _set(self, job_id: JobId, at: float, reason: WaitReason) -> None:
        self._deadlines[job_id] = (at, reason)
        heappush(self._heap, (at, next(self._number), job_id))
        if self._heap[0][0] == at:  # no later than what `run` sleeps for
            self._nudge.set()

    def _forget(self, job_id: JobId) -> None:
        known = self._deadlines.pop(job_id, None)
        if known is not None:
            del self._by_reason[known[1]][job_id]
