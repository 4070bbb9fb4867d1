"""How often ``/status`` looks into the journal, and who waits for it."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from math import inf

import pytest
import trio
from trio.testing import MockClock

from qbm_trio.adapters import journal_checkpoints, journal_facts
from qbm_trio.core.errors import JournalUnwritable
from qbm_trio.core.model import JobState, Notification
from qbm_trio.service import Service
from qbm_trio.settings import load
from qbm_trio.tasks.observer import PATIENCE_S, Observer
from tests.fakes.inline_journal import InlineJournal


@dataclass(kw_only=True)
class Site:
    """A service that was wired and not started, and its journal."""

    journal: InlineJournal
    service: Service
    looks: int = 0

    @property
    def observer(self) -> Observer:
        return self.service.observer

    async def notify(self, n: int) -> None:
        """Have one more job."""
        await self.service.jobs.accept(Notification(hash=f"{n:040x}"))

    async def queued(self, *, in_haste: bool = False) -> int:
        """How many jobs are queued, by ``/status``."""
        overview = await self.observer.overview(in_haste=in_haste)
        return overview.jobs.by_state[JobState.QUEUED]

    async def requests(self) -> int:
        """How many requests there were, by ``/status``."""
        return (await self.observer.overview(in_haste=True)).statistics["api_requests"]

    def trace(self, statement: str) -> None:
        self.looks += "FROM counters" in statement


@pytest.fixture
async def site(environ: dict[str, str]) -> AsyncIterator[Site]:
    settings, _ = load(environ)
    settings.state_dir.mkdir()
    journal = InlineJournal.open(settings.state_dir)
    assert isinstance(journal, InlineJournal)
    site = Site(journal=journal, service=Service(settings, journal, "x"))
    journal._connection.set_trace_callback(site.trace)
    yield site
    journal.end()


async def test_the_journal_is_looked_into_again_when_it_has_changed(site: Site) -> None:
    await site.notify(1)
    for looks in (1, 2):
        for in_haste in (False, True, False):
            assert await site.queued(in_haste=in_haste) == looks
            assert site.looks == looks
        await site.notify(looks + 1)
    # Whoever it was that changed it.
    await site.journal.do(lambda connection: journal_facts.count(connection, "bytes_freed", 7))
    assert (await site.observer.overview()).statistics["bytes_freed"] == 7
    assert site.looks == 3


async def test_neither_reads_nor_checkpoints_are_changes(site: Site) -> None:
    await site.notify(1)
    await site.queued()
    await site.journal.do(journal_facts.counters)
    (job_id,) = site.service.jobs.live.ids()
    await site.service.jobs.begin(job_id, lambda: None)
    await site.queued()
    looks = site.looks
    with site.service.tiering._staging.recording(job_id, "f") as record:
        for position in range(100):
            await trio.to_thread.run_sync(record, position)
    assert await site.journal.do(partial(journal_checkpoints.find, job_id=job_id))
    await site.queued()
    assert site.looks == looks


async def test_what_is_written_behind_a_look_is_not_forgotten(site: Site) -> None:
    site.journal.held = True
    shown: list[int] = []

    async def look() -> None:
        shown.append(await site.queued())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(site.notify, 1)  # shares the look's commit, and comes after it
        await trio.testing.wait_all_tasks_blocked()
        site.journal.let_go()
    assert shown == [0]
    assert await site.queued() == 1


async def test_all_who_ask_meanwhile_share_one_look(site: Site) -> None:
    site.journal.held = True
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(site.queued)
        await trio.testing.wait_all_tasks_blocked()
        site.journal.let_go()
    assert site.looks == 1


async def test_who_is_in_haste_gets_the_last_figures_rather_than_wait_for_a_commit(
    autojump_clock: MockClock, site: Site
) -> None:
    assert await site.queued() == 0
    await site.notify(1)
    site.journal.held = True
    began_s = trio.current_time()
    with trio.fail_after(60):
        assert await site.queued(in_haste=True) == 0
    assert trio.current_time() - began_s == pytest.approx(PATIENCE_S)
    with trio.move_on_after(60) as scope:
        await site.queued()
    assert scope.cancelled_caught, "who is not waits"
    site.journal.let_go()
    assert await site.queued(in_haste=True) == 1


@pytest.mark.parametrize("changed", [True, False])
async def test_a_journal_that_hangs_lets_no_scrape_succeed(
    autojump_clock: MockClock, site: Site, changed: bool
) -> None:
    """Else no alarm would tell of it."""
    await site.queued()
    if changed:
        await site.notify(1)
    site.journal.held = True
    await site.queued(in_haste=True)
    assert "journal" not in str(site.observer.health().problems)
    site.journal._commit_began_s = -inf
    assert site.journal.hangs
    assert "the journal's disk does not answer" in site.observer.health().problems[0]
    for in_haste in (True, False):
        with trio.move_on_after(60) as scope:
            await site.queued(in_haste=in_haste)
        assert scope.cancelled_caught
    site.journal._commit_began_s = None
    site.journal.let_go()
    assert await site.queued(in_haste=True) == changed


async def test_with_no_figures_yet_even_who_is_in_haste_waits(
    autojump_clock: MockClock, site: Site
) -> None:
    site.journal.held = True
    with trio.move_on_after(60) as scope:
        await site.queued(in_haste=True)
    assert scope.cancelled_caught


async def test_a_look_that_failed_is_repeated(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: sqlite3.Connection) -> dict[str, int]:
        raise sqlite3.OperationalError("disk I/O error")

    await site.queued()
    await site.notify(1)
    with monkeypatch.context() as patch:
        patch.setattr(journal_facts, "counters", broken)
        for in_haste in (True, False):
            with pytest.raises(JournalUnwritable):
                await site.queued(in_haste=in_haste)
    assert await site.queued() == 1


async def test_requests_are_counted_on_while_they_are_being_saved(site: Site) -> None:
    """A counter that goes back is a restart to Prometheus."""
    site.observer.api_requests = 5
    assert await site.requests() == 5
    site.journal.held = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(site.observer.save_counters)
        await trio.testing.wait_all_tasks_blocked()
        site.observer.api_requests = 6
        assert await site.requests() == 6
        site.journal.let_go()
    assert await site.requests() == 6
    await site.observer.save_counters()
    assert (await site.journal.do(journal_facts.counters))["api_requests"] == 6


async def test_requests_that_are_saved_behind_the_first_look_are_counted_once(site: Site) -> None:
    site.observer.api_requests = 5
    site.journal.held = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(site.requests)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(site.observer.save_counters)
        await trio.testing.wait_all_tasks_blocked()
        site.journal.let_go()
        site.journal.held = True  # no other look comes to the help
        assert await site.requests() == 5
        site.journal.let_go()


async def test_requests_that_could_not_be_saved_are_saved_later(site: Site) -> None:
    site.observer.api_requests = 5
    site.journal.full = True
    with pytest.raises(JournalUnwritable):
        await site.observer.save_counters()
    site.journal.full = False
    assert await site.requests() == 5
    await site.observer.save_counters()
    assert await site.requests() == 5
    assert (await site.journal.do(journal_facts.counters))["api_requests"] == 5
