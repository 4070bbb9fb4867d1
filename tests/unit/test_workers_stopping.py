"""How jobs stop: a journal that refuses, cancelling, the drain."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qbm_trio.core.errors import (
    DestinationConflict,
    DiskError,
    FailingDisk,
    JournalUnwritable,
    MustWait,
    QbittorrentUnreachable,
    WrongState,
)
from qbm_trio.core.model import JobId, JobState, OnConflict, Outcome, WaitReason
from qbm_trio.tasks.running import Running
from tests.rig.workers import World, a_world, failing


@pytest.fixture(autouse=True)
def log_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


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


@pytest.mark.parametrize(
    "trouble",
    [
        DiskError("x"),
        DestinationConflict("x"),
        FailingDisk("x"),
        MustWait("x", reason=WaitReason.SPACE),
        QbittorrentUnreachable("x"),
    ],
    ids=lambda trouble: type(trouble).__name__,
)
@pytest.mark.parametrize("concurrency", [1, 2])
async def test_the_trouble_of_an_attempt_that_was_cancelled_says_nothing_of_the_retry(
    autojump_clock: MockClock, tmp_path: Path, concurrency: int, trouble: Exception
) -> None:
    """A disk that hangs has its error ready long after the job was cancelled and retried."""

    async def work(running: Running) -> Outcome:
        world.work = world.quick
        with trio.CancelScope(shield=True):
            await world.jobs.cancel(running.job.id)
            await world.jobs.retry(running.job.id, on_conflict=OnConflict.FAIL)
            await trio.sleep(60)
        raise trouble

    async with a_world(tmp_path, concurrency=concurrency) as world:
        world.work = work
        job_id = await world.accept(1)
        with trio.fail_after(62):
            done = await world.until(job_id, JobState.DONE)
        assert done.attempts == 0
        assert len(world.begun) == 2


async def test_what_was_said_of_jobs_that_ended_while_they_waited_is_forgotten(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with a_world(tmp_path, reachable=False) as world:
        for number in range(20):
            job_id = await world.accept(number)
            await world.until(job_id, JobState.WAITING)
            await world.jobs.cancel(job_id)
        assert len(world.workers._said) <= 2


@pytest.mark.parametrize("how", ["clear", "cancel"])
async def test_a_job_that_ends_while_it_waits_leaves_no_partial_data(
    autojump_clock: MockClock, tmp_path: Path, how: str
) -> None:
    async with a_world(tmp_path) as world, trio.open_nursery() as nursery:
        nursery.start_soon(world.workers.sweep, trio.Event)
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


@pytest.mark.parametrize("end", ["cancelled", "failed"])
async def test_what_a_disk_did_not_drop_is_dropped_when_a_disk_is_back(
    autojump_clock: MockClock, tmp_path: Path, end: str
) -> None:
    there, usable = False, trio.Event()

    async def discard(job_id: JobId) -> None:
        await world.drop(job_id)
        world.staged = [] if there else [job_id]

    async def back() -> None:
        nonlocal usable
        usable.set()
        usable = trio.Event()
        await wait_all_tasks_blocked()

    async with a_world(tmp_path) as world, trio.open_nursery() as nursery:
        nursery.start_soon(world.workers.sweep, lambda: usable)
        world.discard = discard
        waits = MustWait("x", reason=WaitReason.TIER, delay_s=1e6)
        world.work = failing(waits if end == "cancelled" else DestinationConflict("x"))
        job_id = await world.accept(1)
        if end == "cancelled":
            await world.until(job_id, JobState.WAITING)
            await world.jobs.cancel(job_id)
        else:
            await world.until(job_id, JobState.FAILED)
        await wait_all_tasks_blocked()
        await back()  # it was the other one
        assert world.discarded == [job_id] * 2
        there = True
        await back()
        await back()
        assert world.discarded == [job_id] * 3
        nursery.cancel_scope.cancel()


async def test_what_a_disk_did_not_drop_stays_for_a_job_that_is_retried_meanwhile(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    usable = trio.Event()

    async def refuse(job_id: JobId) -> None:
        await world.drop(job_id)
        world.staged = [job_id]

    async with a_world(tmp_path) as world, trio.open_nursery() as nursery:
        nursery.start_soon(world.workers.sweep, lambda: usable)
        world.discard = refuse
        world.work = failing(DestinationConflict("x"))
        job_id = await world.accept(1)
        await world.until(job_id, JobState.FAILED)
        await wait_all_tasks_blocked()
        world.work = world.endless
        await world.jobs.retry(job_id, on_conflict=OnConflict.FAIL)
        await wait_all_tasks_blocked()
        usable.set()
        usable = trio.Event()
        await wait_all_tasks_blocked()
        assert world.discarded == [job_id]
        nursery.cancel_scope.cancel()


async def test_of_what_the_disk_has_only_that_of_jobs_that_are_gone_is_dropped(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    gone = JobId("gone")
    async with a_world(tmp_path, concurrency=2) as world, trio.open_nursery() as nursery:
        world.work = failing(MustWait("x", reason=WaitReason.TIER, delay_s=1e6))
        waiting = await world.accept(1)
        await world.until(waiting, JobState.WAITING)
        world.work = world.endless
        running = await world.accept(2)
        await wait_all_tasks_blocked()
        world.staged = [running, waiting, gone]
        await nursery.start(world.workers.sweep, trio.Event)  # a running job holds up nothing
        assert world.discarded == [gone]
        nursery.cancel_scope.cancel()


async def test_a_disk_that_comes_back_during_a_sweep_is_swept_again(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    usable = trio.Event()
    later = ["second", "third"]

    async def discard(job_id: JobId) -> None:
        nonlocal usable
        await world.drop(job_id)
        world.staged = [JobId(later.pop(0))] if later else []
        usable.set()
        usable = trio.Event()

    async with a_world(tmp_path) as world, trio.open_nursery() as nursery:
        world.discard = discard
        world.staged = [JobId("first")]
        await nursery.start(world.workers.sweep, lambda: usable)
        await wait_all_tasks_blocked()
        assert world.discarded == ["first", "second", "third"]
        nursery.cancel_scope.cancel()


async def test_a_job_that_is_retried_before_a_sweep_comes_to_it_is_left_alone(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async def discard(job_id: JobId) -> None:
        await trio.sleep(3)
        await world.drop(job_id)

    async with a_world(tmp_path, concurrency=2) as world, trio.open_nursery() as nursery:
        world.work, world.discard = world.endless, discard
        job_id = await world.accept(1)
        await wait_all_tasks_blocked()
        await world.jobs.cancel(job_id)  # its worker clears up for 3 s
        world.staged = [job_id]
        nursery.start_soon(world.workers.sweep, trio.Event)
        await wait_all_tasks_blocked()
        await world.jobs.retry(job_id, on_conflict=OnConflict.FAIL)
        await trio.sleep(10)
        assert (world.discarded, list(world.workers.running)) == ([job_id], [job_id])
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
        j.id: (j.state, j.head) for j in await world.jobs.newest(state=None, limit=9, after=None)
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
    found = after.jobs.live.get(job_id)
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
