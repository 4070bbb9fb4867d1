"""Run jobs, at most ``MAX_CONCURRENT_PROCESSES`` at a time.

The next job is taken only when there is capacity for it, so the order of the
queue is the order of the work. When `Workers.run` returns, no job is running.
What a job's trouble means for the job is decided here, in one place.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from functools import partial

import trio

from ..core.client import QbittorrentClient
from ..core.errors import (
    FailingDisk,
    Fatal,
    JournalUnwritable,
    MustWait,
    QbittorrentError,
    Retryable,
    WrongState,
)
from ..core.lifecycle import IllegalMove
from ..core.model import JobId, JobState, Outcome, WaitReason
from ..core.retry import LONGEST_DELAY_S, backoff_s
from ..core.text import number
from ..logs import about, lines_about, subject
from .jobs import Jobs
from .running import Running
from .waits import JOURNAL_RETRY_S, Waits

log = logging.getLogger(__name__)

INTERRUPT_S = 1.0
"""What recording an interrupted job may take of the drain."""
FIRST_ANSWER_S = 2.0
"""How long at the start jobs are held until qBittorrent has answered, or has not."""


class Workers:
    """The dispatcher and the jobs it has started."""

    def __init__(
        self,
        jobs: Jobs,
        waits: Waits,
        client: QbittorrentClient,
        work: Callable[[Running], Awaitable[Outcome | None]],
        discard: Callable[[JobId], Awaitable[None]],
        staged: Callable[[], Awaitable[Collection[JobId]]],
        *,
        concurrency: int,
        attempts_allowed: int,
    ) -> None:
        """Take what does the work.

        Args:
            jobs: the queue, and where it is recorded how they end.
            waits: of the jobs that wait.
            client: qBittorrent.
            work: does one job; None: it was merged.
            discard: drops its partial data, if the disk lets it.
            staged: the jobs that have partial data on the disk.
            concurrency: how many jobs may run at once.
            attempts_allowed: ``COPY_RETRY_ATTEMPTS``.
        """
        self._jobs = jobs
        self._waits = waits
        self._client = client
        self._work = work
        self._discard = discard
        self._staged = staged
        self._limiter = trio.CapacityLimiter(concurrency)
        self._attempts_allowed = attempts_allowed
        self._taking = trio.CancelScope()
        self._scope = trio.CancelScope()
        self._attempts: dict[JobId, trio.Event] = {}
        self._begun: set[JobId] = set()  #: of which it was said, since they last failed
        self._said: dict[JobId, str] = {}  #: why each waiting job waits, as last logged
        self._failures: dict[JobId, int] = {}  #: of the disk under each job
        self.running: dict[JobId, Running] = {}
        self.job_ended = trio.Event()  #: set, and replaced, whenever a job has ended

    @property
    def concurrency(self) -> int:
        """How many jobs may run at once."""
        return int(self._limiter.total_tokens)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run jobs until drained.

        Cancellation:
            Running jobs stop at their next chunk and are recorded as interrupted:
            after the next start they go first.
        """
        with self._scope:
            async with trio.open_nursery() as nursery:
                with self._taking:
                    task_status.started()
                    # Jobs that find it not asked yet would wait, and come back in any order.
                    with trio.move_on_after(FIRST_ANSWER_S):
                        await self._client.wait_asked()
                    while True:
                        borrower = object()
                        await self._limiter.acquire_on_behalf_of(borrower)
                        try:
                            job_id = await self._jobs.queue.take()
                        except BaseException:
                            self._limiter.release_on_behalf_of(borrower)
                            raise
                        nursery.start_soon(self._one, job_id, borrower, name=f"job {job_id}")

    def drain_within(self, seconds: float) -> None:
        """Start no further job; give running ones ``seconds``, then stop them."""
        self._taking.cancel()
        self._scope.deadline = trio.current_time() + seconds

    async def _one(self, job_id: JobId, borrower: object) -> None:
        job = self._jobs.live.get(job_id)
        try:
            with lines_about(about(job) if job else subject(job_id=job_id)):
                async with self._turn(job_id):
                    with trio.CancelScope() as scope:
                        await self._attempt(job_id, scope)
                    if scope.cancelled_caught:
                        self._forget(job_id)  # here: it may be retried at once
                        log.info("stopped, for it was cancelled")
                        await self._drop_partial_data(job_id)
        finally:
            self._limiter.release_on_behalf_of(borrower)
            if self._jobs.live.get(job_id) is None:
                self._forget(job_id)
                # Not after a wait: jobs that wait for space would wake each other for ever.
                self.job_ended.set()
                self.job_ended = trio.Event()

    async def sweep(
        self,
        usable: Callable[[], trio.Event],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Drop the partial data of jobs that have ended. Runs until cancelled.

        At once what the disk still has of an earlier life of the service: ``nursery.start``
        returns after it, for it may hold the room that jobs need. Then that of jobs that are
        cleared or cancelled while they wait; and what a disk did not drop, when one is back.
        """
        back = usable()
        await self._clear_up_staged()
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sweep_again, back, usable)
            async for job_id in self._jobs.left_behind:
                await self._clear_up(job_id)

    async def _sweep_again(self, back: trio.Event, usable: Callable[[], trio.Event]) -> None:
        while True:
            await back.wait()
            back = usable()
            await self._clear_up_staged()

    async def _clear_up_staged(self) -> None:
        # A job that is accepted from here on is not among them.
        left = [job_id for job_id in await self._staged() if self._jobs.live.get(job_id) is None]
        if left:
            log.info("removing the partial data of %d jobs that are gone", len(left))
        for job_id in left:
            await self._clear_up(job_id)

    async def _clear_up(self, job_id: JobId) -> None:
        if self._jobs.live.get(job_id) is not None:
            return  # its own: that may run for hours, and clears up itself
        with lines_about(subject(job_id=job_id)):
            async with self._turn(job_id):
                if self._jobs.live.get(job_id) is None:
                    self._forget(job_id)
                    await self._drop_partial_data(job_id)

    def _forget(self, job_id: JobId) -> None:
        self._begun.discard(job_id)
        self._said.pop(job_id, None)
        self._failures.pop(job_id, None)

    @asynccontextmanager
    async def _turn(self, job_id: JobId) -> AsyncIterator[None]:
        """Wait for the attempt before: it may still be clearing up.

        A job that was cancelled and then retried by hand would otherwise lose what it
        copies to the clean-up of its first attempt.
        """
        before, ended = self._attempts.get(job_id), trio.Event()
        self._attempts[job_id] = ended
        try:
            if before is not None:
                await before.wait()
            yield
        finally:
            if self._attempts.get(job_id) is ended:
                del self._attempts[job_id]
            ended.set()

    async def _attempt(self, job_id: JobId, scope: trio.CancelScope) -> None:
        contact = self._client.contact
        try:
            if not contact.reachable:
                # No call for each of a thousand jobs: they are looked at when it is back.
                problem = contact.problem or "not reached yet"
                await self._put_aside(
                    job_id, WaitReason.QBITTORRENT, problem, expected=JobState.QUEUED
                )
                if self._client.contact.reachable:  # it came back during the commit
                    self._waits.wake(WaitReason.QBITTORRENT)
                return
            job = await self._jobs.begin(job_id, scope.cancel)
        except (IllegalMove, WrongState):
            return  # cancelled, cleared or merged since it was taken
        except JournalUnwritable:
            await self._hand_back(job_id)
            return
        running = self.running[job_id] = Running(job=job)
        # Once: one that is not ready is looked at again every few seconds.
        level = logging.DEBUG if job_id in self._begun else logging.INFO
        self._begun.add(job_id)
        log.log(level, "%s", running.phase)
        try:
            await self._carry_out(running)
        except JournalUnwritable:
            await self._hand_back(job_id)
        except (IllegalMove, WrongState):
            # Cancelled while it worked; the scope is cancelled too.
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            await self._interrupted(job_id)
            raise
        finally:
            del self.running[job_id]

    async def _carry_out(self, running: Running) -> None:
        """Do the work and record how it ended."""
        job_id = running.job.id
        try:
            try:
                result = await self._work(running)
            except BaseExceptionGroup as group:
                raise _decisive(group) from group
            if result is not None:
                await self._jobs.finish(job_id, result, note=running.note)
                log.info("done: %s", result)
        except MustWait as error:
            await self._put_aside(job_id, error.reason, str(error), delay_s=error.delay_s)
        except QbittorrentError as error:
            await self._put_aside(job_id, WaitReason.QBITTORRENT, str(error))
        except FailingDisk as error:
            # Not the job's failure: it is never given up, but the disk gets ever more rest.
            failures = self._failures[job_id] = self._failures.get(job_id, 0) + 1
            delay_s = backoff_s(failures, jitter=random.random())
            await self._put_aside(job_id, WaitReason.TIER, str(error), delay_s=delay_s)
        except Retryable as error:
            await self._failed_attempt(running, error)
        except Fatal as error:
            await self._fail(running, error.code, str(error))
        except (JournalUnwritable, IllegalMove, WrongState):
            raise
        except Exception:
            # One torrent that trips over a bug must not stop the others, nor
            # trip the service again at each start: it fails, loudly.
            log.exception("a bug ended this job")
            await self._fail(
                running,
                "internal_error",
                "the service met a bug of its own; nothing on the SSD was changed; "
                "the log has the details: please report them, then retry the job",
            )

    async def _put_aside(
        self,
        job_id: JobId,
        reason: WaitReason,
        message: str,
        *,
        delay_s: float = LONGEST_DELAY_S,
        expected: JobState = JobState.RUNNING,
    ) -> None:
        await self._jobs.wait(job_id, reason, message, delay_s=delay_s, expected=expected)
        self._waits.add(job_id, reason, delay_s)
        # Once: a torrent that is not ready is looked at again every few seconds.
        level = logging.DEBUG if self._said.get(job_id) == message else logging.INFO
        self._said[job_id] = message
        # Of one that was never begun and ends while it waits, no worker learns.
        if len(self._said) > 2 * len(self._jobs.live):
            self._said = {id: said for id, said in self._said.items() if self._jobs.live.get(id)}
        log.log(level, "waiting (%s): %s", reason, message)

    async def _failed_attempt(self, running: Running, error: Retryable) -> None:
        job_id, attempts = running.job.id, running.job.attempts + 1
        if attempts >= self._attempts_allowed:
            await self._fail(running, error.code, f"{error} (tried {number(attempts, 'time')})")
            return
        delay_s = backoff_s(attempts, jitter=random.random())
        wait = partial(self._jobs.wait, delay_s=delay_s, expected=JobState.RUNNING)
        await wait(job_id, WaitReason.RETRY, str(error), attempts=attempts)
        self._waits.add(job_id, WaitReason.RETRY, delay_s)
        self._begun.discard(job_id)
        log.warning("attempt %d failed, again in %.0f s: %s", attempts, delay_s, error)

    async def _fail(self, running: Running, code: str, message: str) -> None:
        job = running.job
        self._forget(job.id)  # before: it may be retried at once
        await self._jobs.fail(job.id, code, message, attempts=job.attempts + 1)
        log.error("failed (%s): %s", code, message)
        await self._drop_partial_data(job.id)

    async def _drop_partial_data(self, job_id: JobId) -> None:
        try:
            await self._discard(job_id)
        except Exception:
            # A bug, since `discard` keeps a disk's troubles to itself; the job has ended.
            log.exception("a bug: partial data stays for now")

    async def _interrupted(self, job_id: JobId) -> None:
        """Record that the drain stopped a job. If this fails, recovery does the same."""
        job = self._jobs.live.get(job_id)
        if job is None or job.state is not JobState.RUNNING:
            return
        with trio.CancelScope(shield=True, deadline=trio.current_time() + INTERRUPT_S):
            try:
                await self._jobs.interrupt(job_id)
                log.info("interrupted; it goes on after the next start")
            except (IllegalMove, JournalUnwritable) as error:
                log.warning("interrupted, not recorded: %s", error)

    async def _hand_back(self, job_id: JobId) -> None:
        """The journal refuses: hold the job, and put it back once it writes again."""
        while True:
            await trio.sleep(JOURNAL_RETRY_S)
            try:
                await self._jobs.interrupt(job_id)
            except JournalUnwritable:
                continue
            except IllegalMove:
                job = self._jobs.live.get(job_id)
                if job is not None and job.state is JobState.QUEUED:
                    self._jobs.queue.put(job)
            return


def _decisive(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What ended a work that used nurseries: its cancellation, or else the first error."""
    chosen = group.subgroup(trio.Cancelled) or group
    error: BaseException = chosen
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
