"""Small regular work: what is kept in memory is saved, what is old is forgotten."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock

from qbm_trio.adapters import (
    journal_copies,
    journal_facts,
    journal_job_queries,
    journal_jobs,
    journal_relocations,
    state_dir,
)
from qbm_trio.adapters.journal import FILE_NAME
from qbm_trio.adapters.recovery_point import SavedState
from qbm_trio.core.errors import JournalUnwritable
from qbm_trio.core.model import Job, JobId, Notification
from qbm_trio.core.relocation import Event, Step
from qbm_trio.service import Service
from qbm_trio.settings import load
from qbm_trio.tasks import housekeeping
from qbm_trio.tasks.housekeeping import (
    INTERVAL_S,
    PRUNE_EVERY,
    SAVE_INTERVAL_S,
    keep_house,
    keep_recovery_points,
)
from tests.fakes.inline_journal import InlineJournal
from tests.fakes.qbittorrent import FakeQbittorrent
from tests.rig.inside import condition, inside
from tests.rig.records import COPY, RELOCATION

DAY_S = 86_400


def counted_on_disk(state: Path) -> int:
    """The saved requests as a ``kill -9`` would leave them: read from a copy of the files."""
    with tempfile.TemporaryDirectory() as folder:
        for file in state.glob(f"{FILE_NAME}*"):
            shutil.copy(file, folder)
        with closing(sqlite3.connect(Path(folder) / FILE_NAME)) as connection:
            return journal_facts.counters(connection).get("api_requests", 0)


def end_earlier(connection: sqlite3.Connection, job_id: JobId, by_s: float) -> None:
    found = connection.execute(
        "UPDATE jobs SET finished_at = ? WHERE id = ?", (time.time() - by_s, job_id)
    )
    assert found.rowcount == 1


async def test_requests_are_saved_and_old_jobs_forgotten_again_and_again(
    autojump_clock: MockClock, environ: dict[str, str]
) -> None:
    settings, _ = load(environ)
    settings.state_dir.mkdir()
    journal = InlineJournal.open(settings.state_dir)
    assert isinstance(journal, InlineJournal)
    service = Service(settings, journal, "x")

    async def ended(n: int, ago_s: float) -> JobId:
        job = (await service.jobs.accept(Notification(hash=f"{n:040x}"))).job
        await service.jobs.cancel(job.id)
        await journal.do(partial(end_earlier, job_id=job.id, by_s=ago_s))
        return job.id

    async def kept() -> set[JobId]:
        def read(connection: sqlite3.Connection) -> list[Job]:
            return journal_job_queries.recent(connection, 99)

        return {job.id for job in await journal.do(read)}

    alive = (await service.jobs.accept(Notification(hash="ab" * 20))).job.id
    await ended(1, 1001)
    young = await ended(2, 900)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_house, service.observer, journal, 1000)
        await trio.sleep(INTERVAL_S / 2)
        assert await kept() == {young}
        for requests in (3, 5):
            service.observer.api_requests = requests
            await trio.sleep(INTERVAL_S)
            assert counted_on_disk(settings.state_dir) == requests
        await ended(3, 1001)
        await trio.sleep(INTERVAL_S * PRUNE_EVERY)
        assert await kept() == {young}
        nursery.cancel_scope.cancel()
    assert (await service.jobs.get(alive)).id == alive
    journal.end()


async def test_jobs_are_kept_as_long_as_the_settings_say(tmp_path: Path) -> None:
    async with inside(tmp_path, client=FakeQbittorrent()) as service:
        ids = []
        for n, ago_s in enumerate((1.9 * DAY_S, 2.1 * DAY_S)):
            job_id = await service.notify(f"{n + 1:040x}")
            await service.waits(job_id)
            await service.service.jobs.cancel(job_id)
            await service.ended(job_id)
            await service.journal.do(partial(end_earlier, job_id=job_id, by_s=ago_s))
            ids.append(job_id)
    async with inside(tmp_path, client=FakeQbittorrent(), JOB_RETENTION_DAYS="2") as service:
        shown: set[JobId] = set(ids)
        with trio.fail_after(20):
            while len(shown) == 2:
                shown = {job.id for job in (await service.service.observer.overview()).recent}
    assert shown == {ids[0]}


async def test_a_recovery_point_is_written_every_quarter_of_an_hour_if_something_has_changed(
    autojump_clock: MockClock, environ: dict[str, str]
) -> None:
    settings, _ = load(environ)
    settings.state_dir.mkdir()
    journal = InlineJournal.open(settings.state_dir)
    assert isinstance(journal, InlineJournal)
    service = Service(settings, journal, "x")
    saves = 0
    refused = False

    async def save() -> SavedState:
        nonlocal saves
        if refused:
            raise JournalUnwritable("the disk is full")
        saves += 1
        return SavedState(path="a point", counts={}, saved_at=0.0)

    async def after_an_interval() -> int:
        await trio.sleep(SAVE_INTERVAL_S)
        return saves

    assert SAVE_INTERVAL_S == 15 * 60
    changes: list[Callable[[sqlite3.Connection], object]] = [
        partial(journal_jobs.admit, n=Notification(hash="a" * 40), job_id=JobId("1"), now=1.0),
        partial(journal_jobs.raise_priority, job_id=JobId("1"), priority=3, now=0.5),
        partial(journal_jobs.cancel, job_id=JobId("1"), now=0.5),
        partial(journal_copies.begin, copy=COPY, entries=[]),
        partial(journal_copies.published, torrent_id=COPY.torrent_id, now=9.0),
        partial(journal_relocations.begin, group=[RELOCATION], now=1.0),
        partial(
            journal_relocations.step, ids=[1], event=Event.ADVANCE, expected=Step.PREPARING, now=2.0
        ),
        partial(journal_facts.set_meta, name="tier.ssd", value="new"),
    ]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_recovery_points, journal, save)
        await trio.sleep(SAVE_INTERVAL_S / 2)
        assert saves == 0
        assert await after_an_interval() == 1, "what it was before this start is not known"
        assert await after_an_interval() == 1, "nothing has changed"
        for number, change in enumerate(changes, start=2):
            await journal.do(change)
            assert await after_an_interval() == number, change
            # What is only counted is no reason to write hundreds of megabytes a day.
            service.observer.api_requests += 1
            await service.observer.save_counters()
            await journal.do(partial(journal_facts.set_meta, name="touched_at", value=str(number)))
            assert await after_an_interval() == number
        refused = True
        await journal.do(partial(journal_facts.set_meta, name="tier.hdd", value="new"))
        before = await after_an_interval()
        refused = False
        assert await after_an_interval() == before + 1, "made up for"
        nursery.cancel_scope.cancel()
    journal.end()


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S])
async def test_a_wall_clock_that_jumps_makes_no_ended_job_old(
    autojump_clock: MockClock,
    environ: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    jump_s: float,
) -> None:
    wall_at = 1_800_000_000.0
    began_s = trio.current_time()
    wall = SimpleNamespace(time=lambda: wall_at + trio.current_time() - began_s)
    monkeypatch.setattr("qbm_trio.tasks.housekeeping.time", wall)
    settings, _ = load(environ)
    settings.state_dir.mkdir()
    journal = InlineJournal.open(settings.state_dir)
    assert isinstance(journal, InlineJournal)
    service = Service(settings, journal, "x")
    service.jobs._clock = wall.time
    round_s = INTERVAL_S * PRUNE_EVERY

    async def ended(n: int) -> JobId:
        job = (await service.jobs.accept(Notification(hash=f"{n:040x}"))).job
        await service.jobs.cancel(job.id)
        return job.id

    async def kept() -> set[JobId]:
        return {job.id for job in await service.jobs.newest(state=None, limit=9, after=None)}

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_house, service.observer, journal, 2.5 * round_s)
        await trio.sleep(1)
        before = await ended(1)
        wall_at += jump_s
        after = await ended(2)
        await trio.sleep(2 * round_s)
        assert await kept() == {before, after}
        await trio.sleep(2 * round_s)
        # The one that is dated a day later is kept for a day more.
        assert await kept() == ({after} if jump_s > 0 else {before})
        nursery.cancel_scope.cancel()
    journal.end()


async def test_without_http_a_sign_of_life_is_left_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "BEAT_S", 0.01)
    beat = state_dir.beat
    refused: list[OSError] = []

    async def noted(path: Path, *, limiter: trio.CapacityLimiter) -> None:
        try:
            await beat(path, limiter=limiter)
        except OSError as error:
            refused.append(error)
            raise

    monkeypatch.setattr(state_dir, "beat", noted)
    lock = tmp_path / "state" / "lock"
    lock.parent.mkdir()
    lock.touch()
    async with inside(tmp_path, client=FakeQbittorrent()):
        for _ in range(3):
            os.utime(lock, (0, 0))
            await condition(lambda: abs(time.time() - lock.stat().st_mtime) < 60)
        # A folder that refuses ends nothing.
        lock.unlink()
        await condition(lambda: refused)
        lock.touch()
        os.utime(lock, (0, 0))
        await condition(lambda: abs(time.time() - lock.stat().st_mtime) < 60)
