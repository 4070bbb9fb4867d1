"""Jobs that wait come back when due, or when what they wait for is there."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qbm_trio.adapters import journal_jobs
from qbm_trio.core.model import JobId, JobState, Notification, WaitReason
from qbm_trio.tasks.jobs import Jobs
from qbm_trio.tasks.queue import JobQueue
from qbm_trio.tasks.waits import Waits
from tests.fakes.inline_journal import InlineJournal


class World:
    def __init__(self, folder: Path) -> None:
        journal = InlineJournal.open(folder)
        assert isinstance(journal, InlineJournal)
        self.journal = journal
        self.wall_clock = time.time
        self.jobs = Jobs(journal, JobQueue(10), clock=lambda: self.wall_clock())
        self.waits = Waits(self.jobs)

    async def waiting(self, n: int, reason: WaitReason, delay_s: float) -> JobId:
        job = (await self.jobs.accept(Notification(hash=f"{n:040x}"))).job
        assert await self.jobs.queue.take() == job.id
        await self.jobs.begin(job.id, lambda: None)
        await self.jobs.wait(job.id, reason, "x", delay_s=delay_s)
        self.waits.add(job.id, reason, delay_s)
        return job.id

    async def comes_back(self) -> tuple[JobId, float]:
        """The next job in line, and when that was."""
        job_id = await self.jobs.queue.take()
        return job_id, trio.current_time()


@asynccontextmanager
async def a_world(folder: Path) -> AsyncIterator[World]:
    world = World(folder)
    with trio.fail_after(10_000):  # virtual
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.waits.run)
            await wait_all_tasks_blocked()
            yield world
            nursery.cancel_scope.cancel()
    world.journal.end()


async def test_each_comes_back_when_its_time_is_over_and_not_before(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with a_world(tmp_path) as world:
        late = await world.waiting(1, WaitReason.RETRY, 300)
        soon = await world.waiting(2, WaitReason.SPACE, 10)
        assert await world.comes_back() == (soon, 10)
        sooner = await world.waiting(3, WaitReason.RETRY, 5)
        assert await world.comes_back() == (sooner, 15)
        assert await world.comes_back() == (late, 300)


async def test_waking_a_reason_brings_back_those_that_wait_for_it_and_no_others(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with a_world(tmp_path) as world:
        retry = await world.waiting(1, WaitReason.RETRY, 50)
        away = [await world.waiting(n, WaitReason.QBITTORRENT, 300) for n in (2, 3)]
        tier = await world.waiting(4, WaitReason.TIER, 300)
        await trio.sleep(7)
        world.waits.wake(WaitReason.QBITTORRENT)
        world.waits.wake(WaitReason.SPACE)
        assert [await world.comes_back() for _ in away] == [(job_id, 7) for job_id in away]
        assert await world.comes_back() == (retry, 50)
        assert await world.comes_back() == (tier, 300)


@pytest.mark.parametrize("jump_s", [-1e9, 1e9])
async def test_a_wall_clock_that_jumps_neither_stalls_nor_wakes_anyone(
    autojump_clock: MockClock, tmp_path: Path, jump_s: float
) -> None:
    async with a_world(tmp_path) as world:
        job_id = await world.waiting(1, WaitReason.RETRY, 60)
        world.wall_clock = lambda: time.time() + jump_s
        assert await world.comes_back() == (job_id, 60)


async def test_a_job_that_was_cancelled_while_it_waited_stays_cancelled(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with a_world(tmp_path) as world:
        gone = await world.waiting(1, WaitReason.RETRY, 5)
        other = await world.waiting(2, WaitReason.RETRY, 6)
        await world.jobs.cancel(gone)
        assert await world.comes_back() == (other, 6)
        assert (await world.jobs.get(gone)).state is JobState.CANCELLED


@pytest.mark.parametrize("end", ["cleared", "cancelled"])
async def test_the_deadline_of_a_job_that_the_journal_forgot_meanwhile_is_harmless(
    autojump_clock: MockClock, tmp_path: Path, end: str
) -> None:
    async with a_world(tmp_path) as world:
        gone = await world.waiting(1, WaitReason.RETRY, 5)
        await (world.jobs.clear() if end == "cleared" else world.jobs.cancel(gone))
        prune = partial(journal_jobs.prune, finished_before=time.time() + 1)
        assert await world.journal.do(prune) == 1
        other = await world.waiting(2, WaitReason.RETRY, 6)
        assert await world.comes_back() == (other, 6)


async def test_a_bounded_wake_looks_at_those_that_wait_longest_and_comes_to_all_in_turn(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with a_world(tmp_path) as world:
        jobs = [await world.waiting(n, WaitReason.SPACE, 300) for n in range(5)]
        await world.jobs.cancel(jobs[0])  # takes nobody's turn
        seen = []
        for _ in range(4):
            await trio.sleep(1)
            world.waits.wake(WaitReason.SPACE, most=2)
            await wait_all_tasks_blocked()
            woken = world.jobs.queue.first(10)
            seen += woken
            assert len(woken) == 2
            for job_id in woken:
                assert await world.jobs.queue.take() == job_id
                await world.jobs.wait(job_id, WaitReason.SPACE, "x", delay_s=300)
                world.waits.add(job_id, WaitReason.SPACE, 300)
        assert seen == [*jobs[1:], *jobs[1:]]


async def test_jobs_that_end_wake_few_that_wait_for_space_at_most_every_five_seconds(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with a_world(tmp_path) as world, trio.open_nursery() as nursery:
        ended = trio.Event()

        async def a_job_ends() -> None:
            nonlocal ended
            ended.set()
            ended = trio.Event()
            await wait_all_tasks_blocked()

        nursery.start_soon(world.waits.wake_for_space, lambda: ended)
        jobs = [await world.waiting(n, WaitReason.SPACE, 300) for n in range(5)]
        tier = await world.waiting(7, WaitReason.TIER, 200)
        for _ in range(20):
            await a_job_ends()
        assert world.jobs.queue.first(10) == jobs[:2]
        for due in (jobs[0], 0), (jobs[1], 0), (jobs[2], 5), (jobs[3], 5):
            assert await world.comes_back() == due  # the ends during the pause count
        await trio.sleep(20)
        await a_job_ends()
        assert await world.comes_back() == (jobs[4], 25)
        assert await world.comes_back() == (tier, 200)
        nursery.cancel_scope.cancel()


async def test_with_thousands_waiting_one_more_costs_no_look_at_them_all(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Counted, not timed: no deadline is read but the one that is next."""
    looks = 0

    class Counting(dict[JobId, tuple[float, WaitReason]]):
        def __getitem__(self, key: JobId) -> tuple[float, WaitReason]:
            nonlocal looks
            looks += 1
            return super().__getitem__(key)

        def get(self, key: JobId, default: Any = None) -> Any:
            nonlocal looks
            looks += 1
            return super().get(key, default)

        def items(self) -> Any:
            nonlocal looks
            looks += len(self)
            return super().items()

        def values(self) -> Any:
            nonlocal looks
            looks += len(self)
            return super().values()

    async with a_world(tmp_path) as world:
        world.waits._deadlines = Counting()
        for n in range(2_000):
            world.waits.add(JobId(f"many-{n}"), WaitReason.QBITTORRENT, 300 + n)
        await wait_all_tasks_blocked()
        looks = 0
        for n in range(100):
            world.waits.add(JobId(f"more-{n}"), WaitReason.QBITTORRENT, 300 - n)
            world.waits.wake(WaitReason.SPACE)
            await wait_all_tasks_blocked()
        assert looks <= 500


async def test_while_the_journal_refuses_a_due_job_is_looked_at_again_until_it_writes(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with a_world(tmp_path) as world:
        job_id = await world.waiting(1, WaitReason.RETRY, 10)
        world.journal.full = True
        await trio.sleep(33)
        assert len(world.jobs.queue) == 0
        world.journal.full = False
        assert await world.comes_back() == (job_id, 35)


async def test_a_job_that_waits_again_before_its_return_was_reported_is_not_forgotten(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with a_world(tmp_path) as world:
        job_id = await world.waiting(1, WaitReason.SPACE, 10)
        world.journal.held = True
        await trio.sleep(11)  # `due` is on its way to the disk
        world.waits.add(job_id, WaitReason.SPACE, 20)
        world.journal.let_go()
        assert (await world.comes_back())[0] == job_id
        await world.jobs.wait(job_id, WaitReason.SPACE, "x", delay_s=20)
        assert await world.comes_back() == (job_id, 31)


@pytest.mark.parametrize("wall_jump_s", [0, 1e9, -1e9])
async def test_after_a_restart_conditions_are_looked_at_at_once_and_retries_wait_their_delay(
    autojump_clock: MockClock, tmp_path: Path, wall_jump_s: float
) -> None:
    before = World(tmp_path)
    retry = await before.waiting(1, WaitReason.RETRY, 64)
    absurd = await before.waiting(2, WaitReason.RETRY, 1e9)
    space = await before.waiting(3, WaitReason.SPACE, 300)
    before.journal.end()
    start = trio.current_time()
    async with a_world(tmp_path) as world:
        world.wall_clock = lambda: time.time() + wall_jump_s
        await world.jobs.recover()
        world.waits.recover()
        assert await world.comes_back() == (space, start)
        assert await world.comes_back() == (retry, start + 64)
        assert await world.comes_back() == (absurd, start + 300)
