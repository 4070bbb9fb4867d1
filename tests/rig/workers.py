"""Workers in virtual time, on a journal without threads, whose work the test writes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from qbm_trio.core.errors import QbittorrentUnreachable
from qbm_trio.core.model import Job, JobId, JobState, Notification, Outcome
from qbm_trio.tasks.jobs import Jobs
from qbm_trio.tasks.queue import JobQueue
from qbm_trio.tasks.running import Running
from qbm_trio.tasks.waits import Waits
from qbm_trio.tasks.workers import Workers
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
        self.staged: list[JobId] = []  #: the jobs of which the disk has partial data
        self.work: Work = self.quick
        self.discard: Callable[[JobId], Awaitable[None]] = self.drop
        self.workers = Workers(
            self.jobs,
            self.waits,
            self.client,
            self._begin,
            lambda job_id: self.discard(job_id),
            self.list_staged,
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

    async def list_staged(self) -> list[JobId]:
        return list(self.staged)

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
    folder: Path, *, concurrency: int = 1, reachable: bool | None = True
) -> AsyncIterator[World]:
    """Run workers. ``reachable``: how qBittorrent's first call went; None: it was not made yet."""
    world = World(folder, concurrency=concurrency)
    if reachable is not None:
        world.client.down = None if reachable else away()
        with suppress(QbittorrentUnreachable):
            await world.client.version()
        world.client.down = None
        world.client.calls.clear()
    with trio.fail_after(10_000):  # virtual
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.waits.run)
            await nursery.start(world.workers.run)
            yield world
            world.workers.drain_within(0)
            nursery.cancel_scope.cancel()
    assert world.workers.running == {}
    world.journal.end()
