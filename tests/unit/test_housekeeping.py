"""Small regular work: what is kept in memory is saved, what is old is forgotten."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import trio
from trio.testing import MockClock

from qbm_trio.adapters import journal_facts, journal_jobs
from qbm_trio.adapters.journal import FILE_NAME
from qbm_trio.core.model import Job, JobId, Notification
from qbm_trio.service import Service
from qbm_trio.settings import load
from qbm_trio.tasks.housekeeping import INTERVAL_S, PRUNE_EVERY, keep_house
from tests.fakes.inline_journal import InlineJournal
from tests.fakes.qbittorrent import FakeQbittorrent
from tests.rig.inside import inside

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
            return journal_jobs.recent(connection, 99)

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
