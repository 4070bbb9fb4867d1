"""How jobs run and end: order, capacity, retries, drain, and troubles of every kind."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qbm_trio.core.errors import (
    DestinationConflict,
    DiskError,
    JournalUnwritable,
    MustWait,
    QbittorrentError,
    SameStorage,
    WrongState,
)
from qbm_trio.core.model import Job, JobId, JobState, Notification, OnConflict, Outcome, WaitReason
from qbm_trio.tasks.jobs import Jobs
from qbm_trio.tasks.queue import JobQueue
from qbm_trio.tasks.waits import Waits
from qbm_trio.tasks.workers import Running, Workers
from tests.fakes.inline_journal import InlineJournal
from tests.fakes.qbittorrent import FakeQbittorrent, away

Work = Callable[[Running], Awaitable[Outcome | None]]


class World:
    """Workers whose work the test writes. Time is virtual."""

    def __init__(self, folder: Path, *, concurrency: int = 1) -> None:
        journal = InlineJournal.open(folder)
        assert isinstance(journal, InlineJournal)
        self.journal = journal
        self.jobs = Jobs(journal, JobQueue(100))
        self.waits = Waits(self.jobs)
        self.client = FakeQbittorrent()
        self.begun: list[tuple[JobId, float]] = []
        self.discarded: list[JobId] = []
        self.work: Work = self.quick
        self.discard: Callable[[JobId], Awaitable[None]] = self.drop
        self.workers = Workers(
            self.jobs,
            self.waits,
            self.client,
            self._begin,
            lambda job_id: self.discard(job_id),
            concurrency=concurrency,
            attempts_allowed=3,
        )

    async def _begin(self, running: Running) -> Outcome | None:
        self.begun.append((running.job.id, trio.current_time()))
        assert len(self.workers.running) <= self.workers.concurrency
        return await self.work(running)

    async def quick(self, _: Running) -> Outcome:
        await trio.sleep(1)
        return Outcome.TIERED

    async def endless(self, _: Running) -> Outcome:
        await trio.sleep_forever()
        raise AssertionError

    async def drop(self, job_id: JobId) -> None:
        self.discarded.append(job_id)

    async def accept(self, n: int, *, priority: int = 0) -> JobId:
        return (await self.jobs.accept(Notification(hash=f"{n:040x}", priority=priority))).job.id

    async def until(self, job_id: JobId, state: JobState) -> Job:
        """The job, as soon as the journal has it in this state."""
        while True:
            changed = self.jobs.changed
            job = await self.jobs.get(job_id)
            if job.state is state:
                return job
            await changed.wait()


def failing(*errors: Exception | None) -> Work:
    """Work that meets one trouble after another, then goes well."""
    troubles = list(errors)

    async def work(_: Running) -> Outcome:
        await trio.lowlevel.checkpoint()
        if troubles and (trouble := troubles.pop(0)) is not None:
            raise trouble
        return Outcome.TIERED

    return work


@asynccontextmanager
async def a_world(
    folder: Path, *, concurrency: int = 1, reachable: bool = True
) -> AsyncIterator[World]:
    world = World(folder, concurrency=concurrency)
    if reachable:
        await world.client.version()
    with trio.fail_after(10_000):  # virtual
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.waits.run)
            await nursery.start(world.workers.run)
            yield world
            world.workers.drain_within(0)
            nursery.cancel_scope.cancel()
    assert world.workers.running == {}
    world.journal.end()


# -- order and capacity -----------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_jobs_run_in_the_order_of_the_queue_never_more_than_allowed(
    autojump_clock: MockClock, tmp_path: Path, concurrency: int
) -> None:
    async with a_world(tmp_path, concurrency=concurrency) as world:
        await world.client.version()
        world.work = world.endless
        blockers = [await world.accept(100 + n) for n in range(concurrency)]
        await wait_all_tasks_blocked()
        world.work = world.quick
        low = [await world.accept(n) for n in range(3)]
        high = [await world.accept(10 + n, priority=5) for n in range(3)]
        await wait_all_tasks_blocked()
        assert [job_id for job_id, _ in world.begun] == blockers
        for job_id in blockers:
            await world.jobs.cancel(job_id)
        for job_id in (*high, *low):
            await world.until(job_id, JobState.DONE)
        assert [job_id for job_id, _ in world.begun[concurrency:]] == high + low
        times = [at for _, at in world.begun[concurrency:]]
        assert times == [float(n // concurrency) for n in range(6)]


# -- how a job can end ------------------------------------------------------


async def test_a_job_ends_with_its_outcome_and_is_counted(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with a_world(tmp_path) as world:
        job_id = await world.accept(1)
        done = await world.until(job_id, JobState.DONE)
        assert (done.outcome, done.error, done.attempts) == (Outcome.TIERED, None, 0)
        assert world.discarded == []


async def test_a_failed_attempt_backs_off_and_the_last_one_fails_the_job(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.random", lambda: 1.0)
    async with a_world(tmp_path) as world:
        world.work = failing(*(DiskError(f"trouble {n}") for n in range(9)))
        job_id = await world.accept(1)
        waiting = await world.until(job_id, JobState.WAITING)
        assert (waiting.attempts, waiting.wait_reason) == (1, WaitReason.RETRY)
        assert waiting.error == "trouble 0"
        failed = await world.until(job_id, JobState.FAILED)
        assert [at for _, at in world.begun] == [0, 1, 3]
        assert (failed.attempts, failed.error_code) == (3, "io_error")
        assert failed.error == "trouble 2 (tried 3 times)"
        await wait_all_tasks_blocked()
        assert world.discarded == [job_id]


@pytest.mark.parametrize(
    ("trouble", "reason", "delay_s"),
    [
        (MustWait("full", reason=WaitReason.SPACE, delay_s=20), WaitReason.SPACE, 20),
        (SameStorage("alias", reason=WaitReason.TIER), WaitReason.TIER, 30),
        (QbittorrentError("409"), WaitReason.QBITTORRENT, 300),
        (away(), WaitReason.QBITTORRENT, 300),
    ],
)
async def test_waiting_is_no_failed_attempt_and_never_gives_up(
    autojump_clock: MockClock,
    tmp_path: Path,
    trouble: Exception,
    reason: WaitReason,
    delay_s: float,
) -> None:
    async with a_world(tmp_path) as world:
        world.work = failing(*[trouble] * 6)
        job_id = await world.accept(1)
        waiting = await world.until(job_id, JobState.WAITING)
        assert (waiting.wait_reason, waiting.attempts) == (reason, 0)
        assert waiting.error == str(trouble)
        done = await world.until(job_id, JobState.DONE)
        assert [at for _, at in world.begun] == [n * delay_s for n in range(7)]
        assert (done.attempts, done.error, done.wait_reason) == (0, None, None)
        assert world.discarded == [], "what is copied stays for the next look"


async def test_what_cannot_be_helped_fails_at_once_with_its_code(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with a_world(tmp_path) as world:
        world.work = failing(DestinationConflict("the file x differs"))
        job_id = await world.accept(1)
        failed = await world.until(job_id, JobState.FAILED)
        assert (failed.error_code, failed.error) == ("destination_conflict", "the file x differs")
        await wait_all_tasks_blocked()
        assert world.discarded == [job_id]


@pytest.mark.parametrize("grouped", [False, True])
async def test_a_bug_fails_its_job_loudly_and_the_others_go_on(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture, grouped: bool
) -> None:
    bug = ZeroDivisionError("a secret detail")
    async with a_world(tmp_path) as world:
        world.work = failing(ExceptionGroup("", [ExceptionGroup("", [bug])]) if grouped else bug)
        tripped, other = await world.accept(1), await world.accept(2)
        failed = await world.until(tripped, JobState.FAILED)
        assert failed.error_code == "internal_error"
        assert "a secret detail" not in str(failed.error)
        assert "a secret detail" in caplog.text
        await world.until(other, JobState.DONE)


async def test_trouble_inside_a_nursery_of_the_work_counts_as_the_trouble_it_is(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with a_world(tmp_path) as world:
        world.work = failing(ExceptionGroup("", [DestinationConflict("in a nursery")]))
        job_id = await world.accept(1)
        failed = await world.until(job_id, JobState.FAILED)
        assert (failed.error_code, failed.error) == ("destination_conflict", "in a nursery")


async def test_partial_data_that_cannot_be_removed_ends_no_service(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(job_id: JobId) -> None:
        raise OSError(5, "Input/output error")

    async with a_world(tmp_path) as world:
        world.discard = refuse
        world.work = failing(DestinationConflict("x"))
        await world.until(await world.accept(1), JobState.FAILED)
        world.work = world.endless
        cancelled = await world.accept(2)
        await wait_all_tasks_blocked()
        await world.jobs.cancel(cancelled)
        world.work = world.quick
        await world.until(await world.accept(3), JobState.DONE)
    assert caplog.text.count("partial data stays until the next start") == 2


async def test_a_merged_job_just_ends(autojump_clock: MockClock, tmp_path: Path) -> None:
    async def merged(running: Running) -> None:
        world.journal._connection.execute("UPDATE jobs SET state = 'merged'")

    async with a_world(tmp_path) as world:
        world.work = merged
        job_id = await world.accept(1)
        await world.until(job_id, JobState.MERGED)
        await wait_all_tasks_blocked()
        assert (world.workers.running, world.discarded) == ({}, [])


# -- qBittorrent away -------------------------------------------------------


async def test_with_qbittorrent_away_jobs_are_put_aside_without_a_call_and_come_back_with_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with a_world(tmp_path, reachable=False) as world:
        ids = [await world.accept(n) for n in range(20)]
        for job_id in ids:
            waiting = await world.until(job_id, JobState.WAITING)
            assert (waiting.wait_reason, waiting.attempts) == (WaitReason.QBITTORRENT, 0)
        assert (world.begun, world.client.calls) == ([], [])
        await trio.sleep(7)
        await world.client.version()
        world.waits.wake(WaitReason.QBITTORRENT)
        await world.until(ids[-1], JobState.DONE)
        assert [job_id for job_id, _ in world.begun] == ids
        assert world.begun[0][1] == 7


async def test_a_return_of_qbittorrent_during_the_commit_is_not_missed(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with a_world(tmp_path, reachable=False) as world:
        job_id = await world.accept(1)
        world.journal.held = True
        await wait_all_tasks_blocked()
        await world.client.version()
        world.waits.wake(WaitReason.QBITTORRENT)  # nobody is waiting yet
        world.journal.let_go()
        await world.until(job_id, JobState.DONE)
        assert trio.current_time() < 5


# -- a journal that cannot be written ---------------------------------------


@pytest.mark.parametrize("reachable", [True, False])
async def test_a_job_taken_while_the_journal_refuses_is_handed_back_and_done_later(
    autojump_clock: MockClock, tmp_path: Path, reachable: bool
) -> None:
    async with a_world(tmp_path, reachable=reachable, concurrency=2) as world:
        world.work = world.endless
        blockers = [await world.accept(n) for n in (1, 2)] if reachable else []
        await wait_all_tasks_blocked()
        world.work = world.quick
        job_id = await world.accept(3)
        for blocker in blockers:
            await world.jobs.cancel(blocker)
        world.journal.full = True
        await trio.sleep(22)
        assert [j for j, _ in world.begun] == blockers
        await world.client.version()
        world.journal.full = False
        world.waits.wake(WaitReason.QBITTORRENT)
        await world.until(job_id, JobState.DONE)
        assert trio.current_time() <= 22 + 5 + 1


@pytest.mark.parametrize("where", ["at the end", "in the middle", "failing", "waiting", "in group"])
async def test_a_journal_that_refuses_while_a_job_runs_costs_a_second_attempt_and_no_job(
    autojump_clock: MockClock, tmp_path: Path, where: str
) -> None:
    async def work(_: Running) -> Outcome:
        world.journal.full = len(world.begun) == 1
        if world.journal.full:
            if where == "in the middle":
                raise JournalUnwritable("no room")
            if where == "in group":
                raise ExceptionGroup("", [JournalUnwritable("no room")])
            if where == "failing":
                raise DestinationConflict("x")
            if where == "waiting":
                raise MustWait("x", reason=WaitReason.SPACE)
        return Outcome.TIERED

    async with a_world(tmp_path) as world:
        world.work = work
        job_id = await world.accept(1)
        await trio.sleep(12)
        assert len(world.begun) == 1
        world.journal.full = False
        done = await world.until(job_id, JobState.DONE)
        assert [at for _, at in world.begun] == [0, 15]
        assert done.attempts == 0
        assert world.discarded == []


# -- cancelling -------------------------------------------------------------


async def test_a_cancelled_job_stops_at_once_and_its_partial_data_is_dropped(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with a_world(tmp_path) as world:
        world.work = world.endless
        job_id = await world.accept(1)
        await wait_all_tasks_blocked()
        assert list(world.workers.running) == [job_id]
        await world.jobs.cancel(job_id)
        await wait_all_tasks_blocked()
        assert (world.discarded, world.workers.running) == ([job_id], {})
        world.work = world.quick
        await world.until(await world.accept(2), JobState.DONE)
        assert (await world.jobs.get(job_id)).state is JobState.CANCELLED


@pytest.mark.parametrize("trouble", [DiskError("x"), DestinationConflict("x"), WrongState("x")])
async def test_a_job_that_fails_in_the_instant_it_is_cancelled_stays_cancelled(
    autojump_clock: MockClock, tmp_path: Path, trouble: Exception
) -> None:
    """A thread that cannot be cancelled returns its error after the cancellation."""

    async def work(running: Running) -> Outcome:
        with trio.CancelScope(shield=True):
            await world.jobs.cancel(running.job.id)
        raise trouble

    async with a_world(tmp_path) as world:
        world.work = work
        job_id = await world.accept(1)
        await world.until(job_id, JobState.CANCELLED)
        await wait_all_tasks_blocked()
        assert (world.discarded, world.workers.running) == ([job_id], {})
        world.work = world.quick
        await world.until(await world.accept(2), JobState.DONE)


@pytest.mark.parametrize("how", ["clear", "cancel"])
async def test_a_job_that_ends_while_it_waits_leaves_no_partial_data(
    autojump_clock: MockClock, tmp_path: Path, how: str
) -> None:
    async with a_world(tmp_path) as world, trio.open_nursery() as nursery:
        nursery.start_soon(world.workers.sweep)
        world.work = failing(MustWait("x", reason=WaitReason.TIER, delay_s=1e6))
        waiting = await world.accept(1)
        await world.until(waiting, JobState.WAITING)
        world.work = world.endless
        await world.accept(2)
        untouched = await world.accept(3)
        await wait_all_tasks_blocked()
        if how == "clear":
            assert await world.jobs.clear() == 2
        else:
            await world.jobs.cancel(waiting)
            await world.jobs.cancel(untouched)
        await wait_all_tasks_blocked()
        assert world.discarded == [waiting]
        nursery.cancel_scope.cancel()


async def test_a_retry_begins_only_after_the_cancelled_attempt_has_cleared_up(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    events: list[tuple[str, float]] = []

    async def slow_to_stop(running: Running) -> Outcome:
        events.append(("begun", trio.current_time()))
        if len(events) > 1:
            return Outcome.TIERED
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.4)  # a chunk of the copy
        raise AssertionError

    async def discard(job_id: JobId) -> None:
        await trio.sleep(3)
        events.append(("cleared up", trio.current_time()))

    async with a_world(tmp_path, concurrency=3) as world:
        world.work, world.discard = slow_to_stop, discard
        job_id = await world.accept(1)
        await wait_all_tasks_blocked()
        await world.jobs.cancel(job_id)
        await world.jobs.retry(job_id, on_conflict=OnConflict.FAIL)
        await world.until(job_id, JobState.DONE)
        assert events == [("begun", 0), ("cleared up", 3.4), ("begun", 3.4)]


# -- drain ------------------------------------------------------------------


@pytest.mark.parametrize("nursery_inside", [False, True])
async def test_a_drain_starts_nothing_lets_short_jobs_end_and_interrupts_the_rest(
    autojump_clock: MockClock, tmp_path: Path, nursery_inside: bool
) -> None:
    async def work(running: Running) -> Outcome:
        if running.job.id == long:
            if nursery_inside:  # a group of Cancelled comes out of it
                async with trio.open_nursery() as inner:
                    for _ in range(2):
                        inner.start_soon(trio.sleep_forever)
            await trio.sleep_forever()
        await trio.sleep(20)
        return Outcome.TIERED

    world = World(tmp_path, concurrency=2)
    await world.client.version()
    world.work = work
    long, short, queued = [await world.accept(n) for n in (1, 2, 3)]
    async with trio.open_nursery() as nursery:
        await nursery.start(world.workers.run)
        await wait_all_tasks_blocked()
        world.workers.drain_within(30)
    # Leaving the nursery proves that nothing runs; the clock, that it ended in time.
    assert trio.current_time() == 30
    assert [job_id for job_id, _ in world.begun] == [long, short]
    states = {
        j.id: (j.state, j.head) for j in await world.jobs.list(state=None, limit=9, after=None)
    }
    assert states == {
        long: (JobState.QUEUED, True),
        short: (JobState.DONE, False),
        queued: (JobState.QUEUED, False),
    }
    assert world.discarded == [], "what was copied is there for the next start"
    world.journal.end()


async def test_a_drain_ends_in_time_though_the_journal_refuses(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = World(tmp_path)
    await world.client.version()
    world.work = world.endless
    job_id = await world.accept(1)
    async with trio.open_nursery() as nursery:
        await nursery.start(world.workers.run)
        await wait_all_tasks_blocked()
        world.journal.full = True
        world.workers.drain_within(5)
    assert trio.current_time() <= 6
    world.journal.end()
    # Start is recovery: what was not recorded is found.
    after = World(tmp_path)
    await after.jobs.recover()
    found = after.jobs.of(job_id)
    assert found is not None
    assert (found.state, found.head) == (JobState.QUEUED, True)
    after.journal.end()


async def test_an_idle_service_drains_at_once(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path)
    async with trio.open_nursery() as nursery:
        await nursery.start(world.workers.run)
        await wait_all_tasks_blocked()
        world.workers.drain_within(30)
    assert trio.current_time() == 0
    world.journal.end()


# -- what /status shows -----------------------------------------------------


async def test_rate_and_remaining_time_are_those_since_the_copy_began(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with a_world(tmp_path) as world:
        world.work = world.endless
        job_id = await world.accept(1)
        await wait_all_tasks_blocked()
        running = world.workers.running[job_id]
        assert (running.shown().bytes_per_second, running.shown().eta_s) == (0, None)
        await trio.sleep(100)
        running.restart_clock()
        running.progress.bytes_total = 1000
        await trio.sleep(10)
        running.progress.bytes_done = 200
        shown = running.shown()
        assert (shown.bytes_per_second, shown.eta_s) == (20, 40)
        assert (shown.id, shown.hash, shown.kind) == (job_id, f"{1:040x}", "tiering")


@pytest.fixture(autouse=True)
def log_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
