"""Jobs that wait come back when due, or when what they wait for is there."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

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
        await self.jobs.wait(job.id, reason, "x", delay_s=delay_s, failed=False)
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
        world.waits.wake(WaitReason.QBITTORRENT, WaitReason.SPACE)
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
        await world.jobs.wait(job_id, WaitReason.SPACE, "x", delay_s=20, failed=False)
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
