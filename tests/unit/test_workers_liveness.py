"""Whatever clients, disks, qBittorrent and the journal do: in the end no job is left behind."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from qbm_trio.core.errors import (
    DiskError,
    FailingDisk,
    Fatal,
    JournalUnwritable,
    MustWait,
    QbittorrentError,
    QbittorrentUnreachable,
    Refused,
)
from qbm_trio.core.lifecycle import IllegalMove
from qbm_trio.core.model import JobId, OnConflict, Outcome, Phase, WaitReason
from qbm_trio.tasks.prober import keep_contact
from qbm_trio.tasks.running import Running
from tests.fakes.qbittorrent import away
from tests.rig.workers import World, a_world


class Trouble:
    """Work that meets any trouble, and clients that do anything, until `over`."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.dice = random.Random(seed)
        self.over = False

    async def work(self, running: Running) -> Outcome:
        dice = self.dice
        for _ in range(0 if self.over else dice.randrange(1, 4)):
            # A thread at a disk that hangs cannot be cancelled.
            with trio.CancelScope(shield=dice.random() < 0.5):
                await trio.sleep(dice.random() * 60)
            if dice.random() < 0.3:
                await self.world.jobs.enter(running.job.id, dice.choice(list(Phase)))
        errors = [
            *[MustWait("x", reason=reason, delay_s=dice.random() * 400) for reason in WaitReason],
            *(DiskError("x"), FailingDisk("x"), Fatal("x"), ZeroDivisionError()),
            *(QbittorrentUnreachable("x"), QbittorrentError("x"), JournalUnwritable("x")),
        ]
        if not self.over and dice.random() < 0.7:
            raise dice.choice(errors)
        return Outcome.TIERED

    async def client(self) -> None:
        for _ in range(60):
            with suppress(Refused, IllegalMove):
                await self.do_something()
            await trio.sleep(self.dice.choice([0, 0, 1, 5, 30, 100]) * self.dice.random())

    async def do_something(self) -> None:
        world, dice, jobs = self.world, self.dice, self.world.jobs
        known = [job.id for job in await jobs.newest(state=None, limit=99, after=None)]
        any_job = dice.choice([JobId("of nobody"), *known])
        match dice.choice("nnnnnccrrrbbxjjqqw"):
            case "n":
                await world.accept(dice.randrange(8), priority=dice.randrange(3))
            case "c":
                await jobs.cancel(any_job)
            case "r":
                await jobs.retry(any_job, on_conflict=OnConflict.FAIL)
            case "b" if world.workers.running:
                job_id = dice.choice(list(world.workers.running))
                await jobs.cancel(job_id)
                await jobs.retry(job_id, on_conflict=OnConflict.FAIL)
            case "x":
                await jobs.clear()
            case "j":
                world.journal.full = not world.journal.full
            case "q":
                world.client.down = None if world.client.down else away()
            case "w":
                world.waits.wake(dice.choice(list(WaitReason)))


@pytest.mark.parametrize("seed", range(12))
async def test_every_job_ends_and_nothing_of_it_is_left(
    autojump_clock: MockClock, tmp_path: Path, seed: int
) -> None:
    async with a_world(tmp_path, concurrency=1 + seed % 3) as world, trio.open_nursery() as nursery:
        trouble = Trouble(world, seed)
        world.work = trouble.work
        nursery.start_soon(keep_contact, world.client, world.waits)
        nursery.start_soon(world.workers.sweep, trio.Event)
        nursery.start_soon(world.waits.wake_for_space, lambda: world.workers.job_ended)
        async with trio.open_nursery() as clients:
            for _ in range(3):
                clients.start_soon(trouble.client)
        trouble.over, world.journal.full, world.client.down = True, False, None
        with trio.fail_after(3600):
            while world.jobs.live.all():
                await world.jobs.changed.wait()
        await trio.sleep(3600)  # what was still to be looked at has been
        jobs, workers, waits = world.jobs, world.workers, world.waits
        left: list[Any] = [
            jobs.live._by_hash,
            jobs._arriving,
            jobs._stop_running,
            jobs.queue.first(99),
        ]
        left += [workers.running, workers._attempts, workers._begun, workers._failures]
        left += [waits._deadlines, *waits._by_reason.values()]
        assert not any(left)
        assert jobs.queue._reserved == 0
        nursery.cancel_scope.cancel()
