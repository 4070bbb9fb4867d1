"""Jobs that wait for a time or a condition, and their way back into line.

Deadlines are on trio's clock, so that a wall clock that jumps neither stalls a
job nor wakes all of them. The wall time in the journal is for people to read.
"""

from __future__ import annotations

import logging

import trio

from ..core.errors import JournalUnwritable
from ..core.lifecycle import IllegalMove
from ..core.model import JobId, WaitReason
from ..core.retry import LONGEST_DELAY_S
from .jobs import Jobs

log = logging.getLogger(__name__)


class Waits:
    """Who waits, for what, and until when."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._deadlines: dict[JobId, tuple[float, WaitReason]] = {}
        self._nudge = trio.Event()

    def add(self, job_id: JobId, reason: WaitReason, delay_s: float) -> None:
        """Look at the job again after ``delay_s``, or earlier by `wake`."""
        self._deadlines[job_id] = (trio.current_time() + delay_s, reason)
        self._nudge.set()

    def wake(self, *reasons: WaitReason) -> None:
        """What these jobs waited for may be there now: look at them at once."""
        now = trio.current_time()
        for job_id, (_, reason) in self._deadlines.items():
            if reason in reasons:
                self._deadlines[job_id] = (now, reason)
        self._nudge.set()

    def recover(self) -> None:
        """At start: take over the journal's waiting jobs.

        Their conditions are looked at anew, at once; a retry waits out its delay,
        which no clock can make longer than the longest.
        """
        for job in self._jobs.waiting():
            reason = job.wait_reason or WaitReason.RETRY
            left_s = (job.next_at or 0.0) - job.updated_at
            delay_s = min(max(left_s, 0.0), LONGEST_DELAY_S) if reason is WaitReason.RETRY else 0.0
            self.add(job.id, reason, delay_s)

    async def run(self) -> None:
        """Put jobs back into line as they come due. Runs until cancelled."""
        while True:
            self._nudge = trio.Event()
            now = trio.current_time()
            for job_id in [j for j, (at, _) in self._deadlines.items() if at <= now]:
                await self._end_wait(job_id)
            next_at = min((at for at, _ in self._deadlines.values()), default=float("inf"))
            with trio.CancelScope(deadline=next_at):
                await self._nudge.wait()

    async def _end_wait(self, job_id: JobId) -> None:
        # Taken out first: it may be waiting anew before the commit is reported here.
        _, reason = self._deadlines.pop(job_id)
        try:
            await self._jobs.due(job_id)
        except IllegalMove:
            pass  # cancelled, cleared or merged while it waited
        except JournalUnwritable as error:
            log.error("job %s cannot go on yet: %s", job_id, error)
            self.add(job_id, reason, 5.0)
