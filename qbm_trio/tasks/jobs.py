"""Jobs in memory and in the journal, kept in step.

HTTP and the workers meet here and nowhere else. Each change is committed to the
journal first; what follows in memory happens in the commit's callback, so that
a caller who goes away in between leaves nothing half-done.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import outcome
import trio

from ..adapters import journal_job_queries as queries
from ..adapters import journal_jobs as ops
from ..adapters.journal import Journal, Operation, Pending
from ..core.errors import Draining, NoSuchJob, WrongState
from ..core.lifecycle import ACTIVE, Event
from ..core.model import (
    Job,
    JobId,
    JobState,
    Notification,
    OnConflict,
    Outcome,
    Phase,
    Torrent,
    WaitReason,
)
from ..logs import about
from .live_jobs import LiveJobs
from .queue import JobQueue

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The answer to a notification, once it is on disk."""

    job: Job
    duplicate: bool
    position: int  #: in the queue from 1; 0 when it is not in line


class Jobs:
    """Every live job, its place in the queue, and the moves of its life."""

    def __init__(
        self, journal: Journal, queue: JobQueue, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._journal = journal
        self.queue = queue
        self._clock = clock
        self.live = LiveJobs()
        self._arriving: dict[str, Pending[Job]] = {}
        self._stop_running: dict[JobId, Callable[[], None]] = {}
        # Jobs that ended while no worker had them, but one had before: they may have
        # left partial data. Unbounded, since their number is the number of jobs.
        self._left_behind, self.left_behind = trio.open_memory_channel[JobId](math.inf)
        self.draining = False
        self.last_activity_at: float | None = None
        self.changed = trio.Event()  #: set, and replaced, at each change of a job

    # -- from HTTP

    async def accept(self, n: Notification, *, bounded: bool = True) -> Accepted:
        """Take a notification; return once its job is on disk.

        Args:
            n: what is notified.
            bounded: False for what the service itself needs done: never refused for want
                of a place.

        Cancellation: the job is accepted all the same.

        Raises:
            Draining: the service is stopping.
            QueueFull: no place in the queue.
            JournalUnwritable: nothing was accepted.
        """
        while True:
            if self.draining:
                raise Draining("the service is stopping; nothing was accepted; send again later")
            arriving = self._arriving.get(n.hash)
            if arriving is not None:
                await arriving.wait()
                continue
            known = self.live.with_hash(n.hash)
            if known is None:
                break
            again = await self._accept_again(known, n.priority)
            if again.job.state in ACTIVE:
                return again
            # It ended while its higher priority was on the way to the disk: a new job.
        # No checkpoint from here to `_arriving`: two tasks would both admit the hash.
        self.queue.reserve(bounded=bounded)
        job_id = JobId(secrets.token_hex(8))
        position: list[int] = []
        pending = self._journal.submit(
            partial(ops.admit, n=n, job_id=job_id, now=self._clock()),
            partial(self._arrived, n, position),
        )
        self._arriving[n.hash] = pending
        job = await pending.wait()
        # The position is that of the commit: a worker may have taken the job since. Another
        # id is the job of another hash of this torrent, found only in the journal.
        return Accepted(job=job, duplicate=job.id != job_id, position=position[0])

    async def _accept_again(self, job: Job, priority: int) -> Accepted:
        if priority > job.priority:
            job = await self._write(
                partial(ops.raise_priority, job_id=job.id, priority=priority, now=self._clock())
            )
        return Accepted(job=job, duplicate=True, position=self.queue.position(job.id))

    def _arrived(self, n: Notification, position: list[int], result: outcome.Outcome[Job]) -> None:
        self.queue.release()
        del self._arriving[n.hash]
        if isinstance(result, outcome.Value):
            job: Job = result.value
            self._follow(job)
            position.append(self.queue.position(job.id))
            log.info("accepted: %s, priority %d", job.hash, job.priority, extra=about(job))

    async def cancel(self, job_id: JobId) -> Job:
        """Cancel a job; a running copy is told to stop.

        Raises:
            NoSuchJob: there is none with this id.
            WrongState: it has ended, or its files are being put in place.
        """
        operation = partial(ops.cancel, job_id=job_id, now=self._clock())
        return await self._write(operation, "cancelled by a client")

    async def end_for(self, hashes: Iterable[str], *, code: str, why: str) -> list[Job]:
        """Cancel the jobs of a torrent that is gone; those that publish end by themselves.

        Raises:
            JournalUnwritable: not all were cancelled; call it again.
        """
        ended = []
        for job_id in self.live.ids_with(hashes):
            cancel = partial(
                ops.cancel,
                job_id=job_id,
                now=self._clock(),
                changes={"error_code": code, "error": why},
            )
            with suppress(NoSuchJob, WrongState):  # it has ended meanwhile, or will in a moment
                ended.append(await self._write(cancel))
        return ended

    async def retry(self, job_id: JobId, *, on_conflict: OnConflict) -> Job:
        """Queue a failed, cancelled or cleared job again.

        Raises:
            Draining: the service is stopping.
            NoSuchJob: there is none with this id.
            WrongState: it is in another state, or its torrent has a live job.
        """
        if self.draining:
            raise Draining("the service is stopping; nothing was changed; ask again later")
        again = partial(ops.again, job_id=job_id, on_conflict=on_conflict, now=self._clock())
        # A user's consent to have a file moved must be found again.
        return await self._write(again, f"is to be retried, on_conflict={on_conflict}")

    async def clear(self) -> int:
        """Clear every job that is not running; return how many there were."""
        cleared = await self._journal.submit(
            partial(ops.clear, now=self._clock()), self._cleared
        ).wait()
        return len(cleared)

    def _cleared(self, result: outcome.Outcome[list[JobId]]) -> None:
        if isinstance(result, outcome.Value):
            for job_id in result.value:
                job = self._forget(job_id)
                log.info("cleared by a client", extra=about(job) if job else None)

    async def get(self, job_id: JobId) -> Job:
        """One job, as the journal has it.

        Raises:
            NoSuchJob: there is none with this id.
        """
        return await self._journal.do(partial(queries.get, job_id=job_id))

    async def newest(self, *, state: JobState | None, limit: int, after: JobId | None) -> list[Job]:
        """Jobs, newest first, from the one after ``after``.

        Raises:
            NoSuchJob: ``after`` is not in the journal.
        """
        return await self._journal.do(
            partial(queries.newest, state=state, limit=limit, before=after)
        )

    # -- from the workers

    async def begin(self, job_id: JobId, stop: Callable[[], None]) -> Job:
        """A worker takes the job; ``stop`` is called when it is cancelled meanwhile.

        Raises:
            IllegalMove: it is not queued any more.
        """

        def begun(result: outcome.Outcome[Job]) -> None:
            # Only now: a worker that comes second must not replace the first one's.
            if isinstance(result, outcome.Value):
                self._stop_running[job_id] = stop
            self._written(result)

        operation: Operation[Job] = partial(ops.begin, job_id=job_id, now=self._clock())
        return await self._journal.submit(operation, begun).wait()

    async def enter(self, job_id: JobId, phase: Phase, **changes: object) -> Job:
        """Record that the running job begins ``phase``.

        Raises:
            WrongState: it was cancelled meanwhile.
        """
        return await self._write(
            partial(ops.enter, job_id=job_id, phase=phase, now=self._clock(), changes=changes)
        )

    async def resolve(self, job_id: JobId, torrent: Torrent) -> Job:
        """Record which torrent the job is about; see `journal_jobs.resolve`."""
        job, changed = await self._journal.submit(
            partial(
                ops.resolve,
                job_id=job_id,
                torrent_id=torrent.id,
                hashes=(torrent.infohash_v1, torrent.infohash_v2),
                name=torrent.name,
                category=torrent.category,
                now=self._clock(),
            ),
            self._resolved,
        ).wait()
        for other in changed:
            log.info("merged: the same torrent as job %s", other.id, extra=about(job))
            log.info("merged: the same torrent as job %s", job.id, extra=about(other))
        return job

    def _resolved(self, result: outcome.Outcome[tuple[Job, list[Job]]]) -> None:
        if isinstance(result, outcome.Value):
            job, changed = result.value
            for each in (job, *changed):
                self._follow(each)

    async def wait(
        self,
        job_id: JobId,
        reason: WaitReason,
        message: str,
        *,
        delay_s: float,
        attempts: int | None = None,
        expected: JobState | None = None,
    ) -> Job:
        """Put a job aside until ``delay_s`` from now, or until its reason is gone.

        ``attempts`` is how many have failed; None: this wait is no failure.

        Raises:
            WrongState: it is not ``expected`` any more. One that was cancelled and retried is
                in line again: put aside by its last worker, nobody would take it up.
        """
        now = self._clock()
        changes: dict[str, object] = {
            "wait_reason": reason,
            "next_at": now + delay_s,
            "error": message,
        }
        if attempts is not None:
            changes["attempts"] = attempts
        return await self._move(job_id, Event.WAIT, changes, now=now, expected=expected)

    async def due(self, job_id: JobId) -> Job:
        """The wait is over: back into line."""
        return await self._move(job_id, Event.DUE, {})

    async def finish(self, job_id: JobId, result: Outcome, *, note: str | None = None) -> Job:
        """The job ended well; ``note`` is what its user should know all the same."""
        return await self._move(
            job_id, Event.FINISH, {"outcome": result, "error": note, "error_code": None}
        )

    async def fail(self, job_id: JobId, code: str, message: str, *, attempts: int) -> Job:
        """The job failed for good, after so many ``attempts``; its user can retry it."""
        changes = {"error_code": code, "error": message, "attempts": attempts}
        return await self._move(job_id, Event.FAIL, changes)

    async def interrupt(self, job_id: JobId) -> Job:
        """The service stops while the job runs: at the next start it goes first."""
        return await self._move(job_id, Event.INTERRUPT, {"head": 1})

    def now(self) -> float:
        """The wall clock, epoch seconds UTC."""
        return self._clock()

    def oldest_queued_at(self) -> float | None:
        """When the job in line that was accepted first was."""
        return self.queue.oldest_at

    async def recover(self) -> int:
        """At start: line up everything the journal has; return how many jobs."""
        for job in await self._journal.do(partial(ops.recover, now=self._clock())):
            self._follow(job)
            if job.head:
                log.info("was interrupted by the end of the service; goes on", extra=about(job))
        for last in await self._journal.do(partial(queries.recent, limit=1)):
            self.last_activity_at = self.last_activity_at or last.finished_at
        return len(self.live)

    # -- keeping step

    async def _move(
        self,
        job_id: JobId,
        event: Event,
        changes: Mapping[str, object],
        now: float | None = None,
        expected: JobState | None = None,
    ) -> Job:
        at = self._clock() if now is None else now
        move = partial(ops.move, job_id=job_id, event=event, now=at, changes=changes)
        return await self._write(partial(move, expected=expected))

    async def _write(self, operation: Operation[Job], told: str = "") -> Job:
        done = partial(self._written, told=told)  # also when who asked is gone by then
        job: Job = await self._journal.submit(operation, done).wait()
        return job

    def _written(self, result: outcome.Outcome[Job], *, told: str = "") -> None:
        if isinstance(result, outcome.Value):
            self._follow(result.value)
            if told:
                log.info("%s", told, extra=about(result.value))

    def _follow(self, job: Job) -> None:
        """Bring memory to what the journal now says of ``job``."""
        if job.state not in ACTIVE:
            self._forget(job.id)
        else:
            before = self.live.put(job)
            if job.state is JobState.QUEUED:
                # Still queued, but not in line: a worker is about to begin it.
                taken = before is not None and before.state is JobState.QUEUED
                if not taken or self.queue.position(job.id):
                    self.queue.put(job)
            else:
                self.queue.discard(job.id)
        if job.state is not JobState.RUNNING:
            stop = self._stop_running.pop(job.id, None)
            if stop is not None and job.state is JobState.CANCELLED:
                stop()
        self._note_change()

    def _forget(self, job_id: JobId) -> Job | None:
        self.queue.discard(job_id)
        job = self.live.forget(job_id)
        if job is not None and job.state is not JobState.RUNNING and job.started_at is not None:
            self._left_behind.send_nowait(job_id)
        self._note_change()
        return job

    def _note_change(self) -> None:
        self.last_activity_at = self._clock()
        self.changed.set()
        self.changed = trio.Event()
