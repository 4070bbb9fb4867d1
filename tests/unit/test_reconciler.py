"""The reconciler's loop, on a real journal and a qBittorrent in memory; a test moves the clock."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qbm_trio.adapters import journal_relocations
from qbm_trio.adapters.journal import Journal
from qbm_trio.core.errors import JournalUnwritable
from qbm_trio.core.model import Job, JobState, Notification, Torrent, TorrentId
from qbm_trio.core.readiness import MISSING_FILES
from qbm_trio.core.reconciling import REMOVED
from qbm_trio.core.relocation import Event, Relocation, Step
from qbm_trio.core.roots import Roots
from qbm_trio.core.snapshot import REMOVED_AFTER_S
from qbm_trio.core.space import RELOCATING_TAG
from qbm_trio.tasks.jobs import Jobs
from qbm_trio.tasks.queue import JobQueue
from qbm_trio.tasks.reconciler import (
    FOUND_PRIORITY,
    LATE_LISTS,
    SHARE,
    WHOLE_EVERY_S,
    Reconciler,
    ReconcilerPolicy,
)
from tests.fakes.qbittorrent import FakeQbittorrent, away, too_late
from tests.rig.inside import make
from tests.rig.records import RELOCATION

INTERVAL_S = 60.0
TOO_LATE_S = 30.0
FIRST_RUN_AT = 1_000_000.0
NOW = FIRST_RUN_AT + 100


@dataclass(kw_only=True)
class Rig:
    """A reconciler and what stands around it."""

    fake: FakeQbittorrent
    jobs: Jobs
    journal: Journal
    clock: MockClock
    reconciler: Reconciler
    folder: Path
    begun: list[tuple[Relocation, Step]] = field(default_factory=list)
    busy: bool = False  #: space management cannot begin anything
    known: bool = True  #: which relocations are open
    ahead_s: float = 0.0  #: by how much the wall clock is

    def add(self, name: str, **fields: object) -> TorrentId:
        """Add a torrent on the SSD that finished a moment ago; fields of `Torrent`."""
        made = make(self.folder / "ssd", name, 2000, seed=len(self.fake._torrents))
        id = self.fake.add(made.data, save_path="/ssd", category="tv")
        self.fake.change(id, **{"completed_at": NOW, **fields})
        return id

    async def look(self, after_s: float = INTERVAL_S) -> None:
        """Let so much time pass, and the look that is due then be over."""
        looked = self.reconciler.looked
        self.clock.jump(after_s)
        await seen(looked)
        await wait_all_tasks_blocked()

    async def looks(self, number: int) -> None:
        for _ in range(number):
            await self.look()

    async def no_look(self, after_s: float) -> None:
        """Let so much time pass, in which none is due."""
        before = list(self.fake.calls)
        self.clock.jump(after_s)
        await wait_all_tasks_blocked(0.02)
        assert self.fake.calls == before

    async def restart(self) -> None:
        """Have qBittorrent away, and back in a new session; the look of then is over."""
        self.fake.down = away()
        with pytest.raises(type(self.fake.down)):
            await self.fake.version()
        await wait_all_tasks_blocked()
        self.fake.down = None
        self.fake.restart()
        looked = self.reconciler.looked
        await self.fake.version()
        await seen(looked)

    async def all_jobs(self) -> list[Job]:
        return await self.jobs.newest(state=None, limit=1000, after=None)

    async def hashes(self) -> list[str]:
        return [job.hash for job in await self.all_jobs()]

    async def relocated(self, id: TorrentId, *, steps: int = 7, **fields: object) -> Relocation:
        """Have a relocation in the journal, by default one that is done."""
        row = replace(RELOCATION, group=id, torrent_id=id)
        row = replace(row, **fields)  # type: ignore[arg-type]
        (row,) = await self.journal.do(partial(journal_relocations.begin, group=[row], now=NOW))
        for _ in range(steps):
            step = partial(journal_relocations.step, ids=[row.id], event=Event.ADVANCE, now=NOW)
            (row,) = await self.journal.do(partial(step, expected=row.step))
        return row

    async def last(self, id: TorrentId) -> Relocation:
        row = await self.journal.do(partial(journal_relocations.last_of, torrent_id=id))
        assert row is not None
        return row


async def seen(looked: trio.Event) -> None:
    """Wait for a look: by the clock on the wall, for the other one stands still."""
    until_s = time.monotonic() + 20
    while not looked.is_set():
        assert time.monotonic() < until_s, "no look"
        await wait_all_tasks_blocked(0.002)


@asynccontextmanager
async def reconciling(
    tmp_path: Path, clock: MockClock, *, dry_run: bool = False, capacity: int = 1000
) -> AsyncIterator[Rig]:
    """A reconciler whose first look is over, of a qBittorrent without torrents."""
    journal = Journal.open(tmp_path)
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run, trio.CapacityLimiter(1))
        try:
            fake = FakeQbittorrent()
            jobs = Jobs(
                journal, JobQueue(capacity), clock=lambda: NOW + trio.current_time() + rig.ahead_s
            )
            begun: list[tuple[Relocation, Step]] = []

            async def begin_again(row: Relocation, *, at: Step) -> bool:
                await trio.lowlevel.checkpoint()
                if not rig.busy:
                    begun.append((row, at))
                return not rig.busy

            async def lost_row(torrent: Torrent) -> Relocation | None:
                await trio.lowlevel.checkpoint()
                return None

            reconciler = Reconciler(
                ReconcilerPolicy(
                    roots=Roots(ssd=Path("/ssd"), hdd=Path("/hdd"), path_mappings=()),
                    interval_s=INTERVAL_S,
                    retention_s=30 * 86400.0,
                    dry_run=dry_run,
                ),
                client=fake,
                jobs=jobs,
                journal=journal,
                begin_again=begin_again,
                lost_row=lost_row,
                relocations_known=lambda: rig.known,
                first_run_at=FIRST_RUN_AT + 0.9,  # qBittorrent tells whole seconds
            )
            rig = Rig(
                fake=fake,
                jobs=jobs,
                journal=journal,
                clock=clock,
                reconciler=reconciler,
                folder=tmp_path,
                begun=begun,
            )
            looked = reconciler.looked
            nursery.start_soon(reconciler.run)
            await fake.version()
            await seen(looked)
            await wait_all_tasks_blocked()
            del fake.calls[:]
            yield rig
            reconciler.stop()
        finally:
            journal.close()


# -- when it looks


async def test_it_looks_once_an_interval_with_one_call(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with reconciling(tmp_path, mock_clock) as it:
        for number in range(2000):
            it.fake.add(make(tmp_path / "ssd", f"t{number}", 1, seed=number).data, save_path="/ssd")
        await it.look()
        del it.fake.calls[:]
        cpu_s = []
        for _ in range(5):
            await it.no_look(INTERVAL_S - 1)
            began_s = time.process_time()
            await it.look(1)
            cpu_s.append(time.process_time() - began_s)
        assert [name for name, *_ in it.fake.calls] == ["changes"] * 5
        assert min(cpu_s) < 0.020
        assert await it.hashes() == []


async def test_it_looks_for_a_twentieth_of_the_time_at_most(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with reconciling(tmp_path, mock_clock) as it:

        async def slow(name: str) -> None:
            mock_clock.jump(6.0)

        it.fake.before = slow
        await it.look()
        await it.no_look(SHARE * 6.0 - 6.0 - 1)
        await it.look(1)


@pytest.mark.parametrize("away_s", [1.0, 10 * INTERVAL_S])
async def test_it_looks_at_once_when_qbittorrent_is_back_and_never_while_it_is_away(
    tmp_path: Path, mock_clock: MockClock, away_s: float
) -> None:
    async with reconciling(tmp_path, mock_clock) as it:
        it.fake.down = away()
        with pytest.raises(type(it.fake.down)):
            await it.fake.version()
        await wait_all_tasks_blocked()
        await it.no_look(away_s)
        it.fake.down = None
        looked = it.reconciler.looked
        await it.fake.version()
        await seen(looked)
        assert it.fake.calls[-1] == ("changes", 1)


async def test_a_call_that_always_fails_is_no_storm_and_its_return_is_seen_in_an_interval(
    tmp_path: Path, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Though another call tells that qBittorrent is there, again and again."""
    caplog.set_level(logging.WARNING)
    async with reconciling(tmp_path, mock_clock) as it:
        failing = True

        async def fail(name: str) -> None:
            if name == "changes" and failing:
                mock_clock.jump(30.0)
                it.fake.failures = [away()]

        it.fake.before = fail
        began = trio.current_time()
        await it.look()
        for _ in range(60):
            await it.fake.version()
            mock_clock.jump(10.0)
            await wait_all_tasks_blocked(0.005)
        asked = [call for call in it.fake.calls if call[0] == "changes"]
        assert len(asked) <= (trio.current_time() - began) / INTERVAL_S + 1
        assert caplog.text.count("does not list its torrents") == 1
        assert set(asked[1:]) == {("changes", 0)}, "a lost answer may have been the next"
        failing = False
        id = it.add("Lost")
        await it.fake.version()
        await it.look()
        assert await it.hashes() == [id]


async def overburden(it: Rig, looks: int) -> None:
    """Have looks for which qBittorrent takes too long; other calls are answered."""

    async def late(name: str) -> None:
        if name == "changes":
            it.clock.jump(TOO_LATE_S)
            it.fake.failures = [too_late()]

    it.fake.before = late
    for _ in range(looks):
        await it.look()
        await it.fake.version()
        await wait_all_tasks_blocked()
    del it.fake.calls[:]
    it.fake.before = None


async def test_lists_that_do_not_come_in_time_are_asked_for_a_twentieth_of_the_time_too(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with reconciling(tmp_path, mock_clock) as it:
        await overburden(it, LATE_LISTS)
        id = it.add("Lost")
        await it.no_look((SHARE - 1) * TOO_LATE_S - 1)
        await it.look(1)
        assert await it.hashes() == [id]
        await overburden(it, LATE_LISTS - 1)
        await it.look()  # that one had come in time, so it is the first again


async def test_after_one_such_list_it_looks_at_the_next_interval(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    """It may have hung for a moment."""
    async with reconciling(tmp_path, mock_clock) as it:
        await overburden(it, LATE_LISTS - 1)
        id = it.add("Lost")
        await it.no_look(INTERVAL_S - TOO_LATE_S - 1)
        await it.look(1)
        assert await it.hashes() == [id]


async def test_after_such_lists_it_looks_at_once_when_qbittorrent_was_restarted(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with reconciling(tmp_path, mock_clock) as it:
        await overburden(it, LATE_LISTS)
        id = it.add("Lost")
        await it.restart()
        assert await it.hashes() == [id]


async def test_a_bug_ends_a_look_and_not_the_service_and_the_next_asks_for_everything(
    tmp_path: Path, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """As when something that is no qBittorrent answers in its place."""
    async with reconciling(tmp_path, mock_clock) as it:

        async def trip(name: str) -> None:
            it.fake.before = None
            raise KeyError("rid")

        it.fake.before = trip
        id = it.add("Lost")
        await it.look()
        assert "a bug ends this look" in caplog.text
        assert await it.hashes() == []
        await it.no_look(INTERVAL_S - 1)
        await it.look(1)
        assert it.fake.calls[-1] == ("changes", 0)
        assert await it.hashes() == [id]


# -- what it finds


async def test_a_lost_hook_is_found_at_the_next_look(tmp_path: Path, mock_clock: MockClock) -> None:
    async with reconciling(tmp_path, mock_clock) as it:
        id = it.add("Lost", completed_at=FIRST_RUN_AT)
        it.add("Old", completed_at=FIRST_RUN_AT - 1)
        unfinished = it.add("Unfinished", progress=0.5, state="downloading", completed_at=None)
        await it.look()
        (job,) = await it.all_jobs()
        assert (job.hash, job.priority, job.name) == (id, FOUND_PRIORITY, "Lost")
        it.fake.change(unfinished, progress=1.0, state="stalledUP", completed_at=NOW)
        await it.look()
        assert await it.hashes() == [unfinished, id]
        await it.looks(3)
        assert len(await it.all_jobs()) == 2


async def test_a_wall_clock_that_was_put_back_hides_no_lost_hook(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    """By that clock, what finishes now did so before the service first ran."""
    async with reconciling(tmp_path, mock_clock) as it:
        it.ahead_s = -86_400.0
        id = it.add("Lost", completed_at=NOW + it.ahead_s)
        it.add("Old", completed_at=NOW + it.ahead_s - 1)
        await it.look()
        assert await it.hashes() == [id]


async def test_a_full_queue_drops_nothing_that_is_found(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with reconciling(tmp_path, mock_clock, capacity=2) as it:
        ids = {it.add(f"T{n}") for n in range(5)}
        await it.look()
        assert set(await it.hashes()) == ids


async def test_one_that_finished_before_the_journal_remembers_is_left_to_space_management(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its user may have cancelled its job, which is forgotten by now."""
    async with reconciling(tmp_path, mock_clock) as it:
        later = NOW + 40 * 86400.0
        monkeypatch.setattr(it.jobs, "_clock", lambda: later)
        it.add("Long ago")
        id = it.add("Of late", completed_at=later - 29 * 86400.0)
        await it.look()
        assert await it.hashes() == [id]


async def test_a_hook_that_comes_late_finds_its_job(tmp_path: Path, mock_clock: MockClock) -> None:
    async with reconciling(tmp_path, mock_clock) as it:
        id = it.add("Late")
        await it.look()
        accepted = await it.jobs.accept(Notification(hash=id))
        assert accepted.duplicate
        assert accepted.job.priority == 0


async def test_one_that_was_cancelled_is_left_alone(tmp_path: Path, mock_clock: MockClock) -> None:
    async with reconciling(tmp_path, mock_clock) as it:
        id = it.add("Cancelled")
        job = (await it.jobs.accept(Notification(hash=id))).job
        await it.jobs.cancel(job.id)
        await it.look()
        await it.restart()
        await it.look(WHOLE_EVERY_S)
        assert len(await it.all_jobs()) == 1


async def test_what_the_journal_refused_is_found_again(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with reconciling(tmp_path, mock_clock) as it:
        id = it.add("Refused")
        accept = it.jobs.accept
        monkeypatch.setattr(it.jobs, "accept", _refusing)
        await it.look()
        assert await it.hashes() == []
        monkeypatch.setattr(it.jobs, "accept", accept)
        await it.look()
        assert await it.hashes() == [id]


async def test_what_could_not_be_compared_is_compared_at_the_next_look(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with reconciling(tmp_path, mock_clock) as it:
        id = it.add("Refused")
        with monkeypatch.context() as patch:
            patch.setattr(it.journal, "do", _refusing)
            await it.look()
        await it.look()
        assert await it.hashes() == [id]


async def _refusing(*_: object, **__: object) -> None:
    await trio.lowlevel.checkpoint()
    raise JournalUnwritable("no room")


# -- what is removed


async def test_a_removed_torrents_job_is_cancelled_and_says_why(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with reconciling(tmp_path, mock_clock) as it:
        id, kept = it.add("Removed"), it.add("Kept")
        await it.look()
        it.fake.remove(id)
        await it.look()
        jobs = {job.hash: job for job in await it.all_jobs()}
        assert jobs[id].state is JobState.CANCELLED
        assert jobs[id].error_code == REMOVED
        assert "was removed from qBittorrent" in str(jobs[id].error)
        assert jobs[kept].state is JobState.QUEUED


async def test_the_job_of_one_that_came_and_went_between_two_looks_ends(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with reconciling(tmp_path, mock_clock) as it:
        id = it.add("Quick")
        job = (await it.jobs.accept(Notification(hash=id))).job
        await it.jobs.begin(job.id, lambda: None)
        await it.jobs.resolve(job.id, await it.fake.torrent(id))
        it.fake.remove(id)
        await it.look()
        (job,) = await it.all_jobs()
        assert (job.state, job.error_code) == (JobState.CANCELLED, REMOVED)


async def test_a_job_that_the_journal_did_not_let_end_ends_at_the_next_look(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with reconciling(tmp_path, mock_clock) as it:
        id = it.add("Removed")
        await it.look()
        it.fake.remove(id)
        with monkeypatch.context() as patch:
            patch.setattr(it.jobs, "end_for", _refusing)
            await it.look()
        assert [job.state for job in await it.all_jobs()] == [JobState.QUEUED]
        await it.look()
        assert [job.state for job in await it.all_jobs()] == [JobState.CANCELLED]


async def test_a_killed_qbittorrent_that_forgets_one_has_ten_minutes(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with reconciling(tmp_path, mock_clock) as it:
        ids = [it.add(f"T{n}") for n in range(20)]
        await it.look()
        it.fake.remove(ids[0])
        await it.restart()
        await it.looks(int(REMOVED_AFTER_S / INTERVAL_S) - 1)
        assert {job.state for job in await it.all_jobs()} == {JobState.QUEUED}
        await it.looks(2)
        states = {job.hash: job.state for job in await it.all_jobs()}
        assert states.pop(ids[0]) is JobState.CANCELLED
        assert set(states.values()) == {JobState.QUEUED}


async def test_a_list_that_lost_a_tenth_removes_nothing(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with reconciling(tmp_path, mock_clock) as it:
        ids = [it.add(f"T{n}") for n in range(20)]
        await it.look()
        for id in ids[:3]:
            it.fake.remove(id)
        await it.restart()
        await it.looks(30)
        assert {job.state for job in await it.all_jobs()} == {JobState.QUEUED}


async def test_a_job_that_ends_since_another_qbittorrent_was_there_is_found_again(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    """At a start nobody knows how many torrents there were: any list is long enough."""
    async with reconciling(tmp_path, mock_clock) as it:
        id = it.add("Mine", completed_at=FIRST_RUN_AT - 1)
        job = (await it.jobs.accept(Notification(hash=id))).job
        await it.jobs.begin(job.id, lambda: None)
        await it.jobs.resolve(job.id, await it.fake.torrent(id))
        await it.jobs.interrupt(job.id)
        kept = it.fake._torrents[id], it.fake._files[id], it.fake._metainfo[id]
        it.fake.remove(id)
        it.add("Another's", completed_at=FIRST_RUN_AT - 1)
        await it.restart()
        await it.looks(int(REMOVED_AFTER_S / INTERVAL_S) + 1)
        assert [job.state for job in await it.all_jobs()] == [JobState.CANCELLED]
        it.fake._torrents[id], it.fake._files[id], it.fake._metainfo[id] = kept
        await it.restart()
        states = [(job.hash, job.state) for job in await it.all_jobs()]
        assert states == [(id, JobState.QUEUED), (id, JobState.CANCELLED)]


async def test_one_that_was_removed_and_is_back_is_found_again(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with reconciling(tmp_path, mock_clock) as it:
        id = it.add("Back")
        await it.look()
        kept = it.fake._torrents[id], it.fake._files[id], it.fake._metainfo[id]
        it.fake.remove(id)
        await it.look()
        it.fake._torrents[id], it.fake._files[id], it.fake._metainfo[id] = kept
        await it.look()
        assert [job.state for job in await it.all_jobs()] == [JobState.QUEUED, JobState.CANCELLED]


# -- what contradicts the journal


async def test_a_forgotten_relocation_is_repeated_when_it_is_seen_twice(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with reconciling(tmp_path, mock_clock) as it:
        id = it.add("Forgotten", completed_at=1.0)
        await it.relocated(id, download_path="/incomplete")
        it.fake.change(id, state=MISSING_FILES, progress=0.0, auto_management=True)
        await it.restart()
        assert it.begun == []
        await it.look()
        ((row, at),) = it.begun
        assert at is Step.REPEATING
        assert (row.from_path, row.to_path, row.was_running) == ("/ssd", "/hdd/tv", True)
        assert row.auto_management
        assert row.download_path == "/incomplete"


async def test_what_is_seen_only_once_is_not_believed(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    """A qBittorrent that starts says so until it has looked; so does one between two answers."""
    async with reconciling(tmp_path, mock_clock) as it:
        id = it.add("Starting", completed_at=1.0, state=MISSING_FILES)
        await it.relocated(id)
        await it.restart()
        it.fake.change(id, state="stalledUP", content_path="/hdd/tv/Starting")
        await it.looks(3)
        assert it.begun == []


async def test_what_is_seen_twice_at_once_is_not_believed_yet(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    """QBittorrent comes and goes while it starts, and there is a look at each return."""
    async with reconciling(tmp_path, mock_clock) as it:
        id = it.add("Starting", completed_at=1.0, state=MISSING_FILES)
        await it.relocated(id)
        for _ in range(5):
            await it.restart()
        assert it.begun == []
        await it.look()
        assert len(it.begun) == 1


async def test_what_cannot_be_begun_now_is_begun_later(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with reconciling(tmp_path, mock_clock) as it:
        id = it.add("Later", completed_at=1.0, state=MISSING_FILES)
        await it.relocated(id)
        it.busy = True
        await it.looks(4)
        assert it.begun == []
        it.busy = False
        await it.look()
        assert len(it.begun) == 1


async def test_one_that_its_user_had_stopped_stays_stopped(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with reconciling(tmp_path, mock_clock) as it:
        id = it.add("Stopped", completed_at=1.0, content_path="/ssd/x", state="stalledUP")
        await it.look()
        it.fake.change(id, state="stoppedUP", tags=frozenset({"x"}))
        await it.look()
        await it.relocated(id, force_start=True)
        it.fake.change(id, state=MISSING_FILES, progress=0.0)
        await it.looks(2)
        ((row, _),) = it.begun
        assert (row.was_running, row.force_start) == (False, False)


async def test_one_that_a_relocation_had_stopped_is_not_taken_for_stopped_by_its_user(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    """Killed before it had saved the end, qBittorrent has it stopped, with the tag."""
    async with reconciling(tmp_path, mock_clock) as it:
        id = it.add("Half", completed_at=1.0)
        await it.relocated(id)
        it.fake.change(
            id, state="stoppedUP", content_path="/hdd/tv/x", tags=frozenset({RELOCATING_TAG})
        )
        await it.looks(2)
        ((row, at),) = it.begun
        assert (at, row.was_running) == (Step.REPEATING, True)


@pytest.mark.parametrize("steps", range(7))
async def test_nothing_is_done_about_one_with_an_open_relocation(
    tmp_path: Path, mock_clock: MockClock, steps: int
) -> None:
    async with reconciling(tmp_path, mock_clock) as it:
        id = it.add("Open", state=MISSING_FILES, tags=frozenset({RELOCATING_TAG}))
        await it.relocated(id, steps=steps)
        await it.looks(3)
        it.fake.change(id, state="stalledUP")
        await it.looks(3)
        assert it.begun == []
        assert await it.hashes() == []
        assert {name for name, *_ in it.fake.calls} == {"changes"}


async def test_one_that_is_back_on_the_ssd_by_its_users_hand_is_tiered_anew_once(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with reconciling(tmp_path, mock_clock) as it:
        id = it.add("Home", completed_at=1.0)
        await it.relocated(id)
        await it.look()
        assert await it.hashes() == []
        await it.look()
        assert await it.hashes() == [id]
        assert (await it.last(id)).step is Step.UNDONE
        await it.jobs.cancel((await it.all_jobs())[0].id)
        await it.restart()
        await it.looks(3)
        assert len(await it.all_jobs()) == 1


async def test_a_tag_that_no_relocation_needs_is_taken_off(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with reconciling(tmp_path, mock_clock) as it:
        id = it.add("Tagged", completed_at=1.0, tags=frozenset({RELOCATING_TAG, "mine"}))
        await it.look()
        assert RELOCATING_TAG in it.fake.tags(id)
        await it.looks(2)
        assert it.fake.tags(id) == {"mine"}
        assert ("start", id) not in it.fake.calls


async def test_right_after_a_start_a_tag_may_be_all_that_is_left_of_a_relocation(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    """The journal was restored, and space management has not looked yet."""
    async with reconciling(tmp_path, mock_clock) as it:
        id = it.add("Lost", tags=frozenset({RELOCATING_TAG}))
        it.known = False
        await it.looks(4)
        assert it.fake.tags(id) == {RELOCATING_TAG}
        assert await it.hashes() == []
        it.known = True
        await it.look()
        assert it.fake.tags(id) == frozenset()


async def test_one_that_stayed_on_the_hdd_stopped_is_started(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with reconciling(tmp_path, mock_clock) as it:
        id = it.add("Moved", completed_at=1.0)
        row = await it.relocated(id, steps=6)
        failed = partial(journal_relocations.step, ids=[row.id], event=Event.FAIL, now=NOW)
        await it.journal.do(partial(failed, expected=row.step))
        it.fake.change(
            id, content_path="/hdd/tv/x", state="stoppedUP", tags=frozenset({RELOCATING_TAG})
        )
        await it.looks(2)
        assert ("start", id) in it.fake.calls
        assert it.fake.tags(id) == frozenset()


async def test_a_dry_run_queues_jobs_and_changes_nothing_in_qbittorrent(
    tmp_path: Path, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with reconciling(tmp_path, mock_clock, dry_run=True) as it:
        lost = it.add("Lost")
        missing = it.add("Missing", completed_at=1.0, state=MISSING_FILES)
        await it.relocated(missing)
        it.add("Tagged", completed_at=1.0, tags=frozenset({RELOCATING_TAG}))
        await it.looks(5)
        assert await it.hashes() == [lost]
        assert it.begun == []
        assert {name for name, *_ in it.fake.calls} == {"changes"}
        assert caplog.text.count("would repeat 'Missing'") == 1


async def test_all_are_compared_now_and_then(tmp_path: Path, mock_clock: MockClock) -> None:
    """What the journal has forgotten of one that did not change is noticed then."""
    async with reconciling(tmp_path, mock_clock) as it:
        id = it.add("Forgotten")
        job = (await it.jobs.accept(Notification(hash=id))).job
        await it.looks(2)
        await it.jobs.cancel(job.id)

        def forget(connection: object) -> None:
            connection.execute("DELETE FROM jobs")  # type: ignore[attr-defined]

        await it.journal.do(forget)
        await it.look()
        assert await it.hashes() == []
        await it.look(WHOLE_EVERY_S)
        assert await it.hashes() == [id]
