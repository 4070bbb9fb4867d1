"""Memory and journal in step: one job a torrent, nothing half-accepted, nothing forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from qbm_trio.adapters import journal_job_queries as queries
from qbm_trio.core.errors import Draining, JournalUnwritable, NoSuchJob, QueueFull, WrongState
from qbm_trio.core.lifecycle import IllegalMove
from qbm_trio.core.model import (
    Job,
    JobId,
    JobState,
    Notification,
    OnConflict,
    Outcome,
    Phase,
    Torrent,
    TorrentId,
    WaitReason,
)
from qbm_trio.tasks.jobs import Accepted, Jobs
from qbm_trio.tasks.queue import JobQueue
from tests.fakes.inline_journal import InlineJournal
from tests.rig.journals import running
from tests.rig.seen import SEEDING

A, B, V2 = TorrentId("a" * 40), TorrentId("b" * 40), "a" * 40 + "c" * 24


class World:
    """One life of the service's jobs; `restart` is the next, from the same journal."""

    def __init__(self, folder: Path, *, capacity: int = 10) -> None:
        journal = InlineJournal.open(folder)
        assert isinstance(journal, InlineJournal)
        self.journal, self._folder, self._capacity = journal, folder, capacity
        self.jobs = Jobs(journal, JobQueue(capacity), clock=lambda: self.now)
        self.now = 1000.0

    async def restart(self) -> World:
        self.journal.end()
        following = World(self._folder, capacity=self._capacity)
        await following.jobs.recover()
        return following

    async def accept(self, hash: str, priority: int = 0) -> Job:
        return (await self.jobs.accept(Notification(hash=hash, priority=priority))).job

    async def running(self, hash: str, *, stop: Callable[[], None] = lambda: None) -> Job:
        job = await self.accept(hash)
        with trio.fail_after(5):
            assert await self.jobs.queue.take() == job.id
        return await self.jobs.begin(job.id, stop)

    def line(self) -> list[JobId]:
        return self.jobs.queue.first(1000)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.journal.end()
    assert_counted(made.jobs)


def assert_counted(jobs: Jobs) -> None:
    """Whatever a test did: what is counted along the way is what is there."""
    reasons = [job.wait_reason for job in jobs.live.waiting()]
    assert jobs.live.waiting_by_reason() == {reason: reasons.count(reason) for reason in WaitReason}
    in_line = [job.accepted_at for id_ in jobs.queue.first(1000) if (job := jobs.live.get(id_))]
    assert jobs.oldest_queued_at() == min(in_line, default=None)


def torrent(id: TorrentId, *, v2: str = "") -> Torrent:
    return replace(
        SEEDING,
        id=id,
        name="as qBittorrent has it",
        category="tv",
        infohash_v1="",
        infohash_v2=v2,
    )


@asynccontextmanager
async def in_background(
    *calls: Callable[[], Awaitable[object]],
) -> AsyncIterator[list[object]]:
    """Start the calls, stop where they wait; at the end of the block they have ended."""
    results: list[object] = []

    async def call(function: Callable[[], Awaitable[object]]) -> None:
        try:
            results.append(await function())
        except Exception as error:
            results.append(error)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for function in calls:
                nursery.start_soon(call, function)
            await wait_all_tasks_blocked()
            yield results


# -- accepting --------------------------------------------------------------


async def test_the_same_torrent_is_the_same_job_while_it_is_queued_waiting_or_running(
    world: World,
) -> None:
    first = await world.jobs.accept(Notification(hash=A))
    assert (first.duplicate, first.position) == (False, 1)

    async def again() -> Accepted:
        return await world.jobs.accept(Notification(hash=A))

    queued = await again()
    assert (queued.job.id, queued.duplicate, queued.position) == (first.job.id, True, 1)
    await world.jobs.wait(first.job.id, WaitReason.SPACE, "full", delay_s=9)
    waiting = await again()
    assert (waiting.job.id, waiting.duplicate, waiting.position) == (first.job.id, True, 0)
    await world.jobs.due(first.job.id)
    await world.jobs.begin(first.job.id, lambda: None)
    running = await again()
    assert (running.job.id, running.duplicate, running.position) == (first.job.id, True, 0)
    await world.jobs.finish(first.job.id, Outcome.TIERED)
    assert (await again()).job.id != first.job.id


async def test_a_duplicate_is_answered_only_after_the_commit_of_the_first(world: World) -> None:
    world.journal.held = True
    async with in_background(*[lambda: world.accept(A)] * 5) as answers:
        assert answers == [], "answered while nothing was on the disk"
        world.journal.let_go()
    assert len({job.id for job in answers if isinstance(job, Job)}) == 1
    assert len(answers) == 5
    assert len(await world.jobs.newest(state=None, limit=9, after=None)) == 1


async def test_when_the_first_cannot_be_written_its_duplicates_are_refused_with_it(
    world: World,
) -> None:
    world.journal.held = world.journal.full = True
    async with in_background(*[lambda: world.accept(A)] * 3) as answers:
        world.journal.let_go()
    assert [type(a) for a in answers] == [JournalUnwritable] * 3
    world.journal.full = False
    assert (await world.accept(A)).state is JobState.QUEUED
    assert len(world.line()) == 1


async def test_duplicates_of_a_job_that_is_cleared_at_once_do_not_both_become_jobs(
    world: World,
) -> None:
    """Both find it gone when the commit has them go on; one of them admits it anew."""
    world.journal.held = True
    accepts = in_background(*[lambda: world.accept(A)] * 3)
    async with accepts as answers, in_background(world.jobs.clear):
        world.journal.let_go()
    jobs = [a for a in answers if isinstance(a, Job)]
    assert len(jobs) == 3, answers
    alive = [
        j for j in await world.jobs.newest(state=None, limit=9, after=None) if not j.finished_at
    ]
    assert len(alive) == 1
    assert [j.id for j in jobs].count(alive[0].id) == 2


async def test_a_client_that_goes_away_during_the_commit_neither_undoes_nor_orphans(
    world: World,
) -> None:
    world.journal.held = True
    with trio.move_on_after(0) as scope:
        await world.accept(A)
    assert scope.cancelled_caught
    assert world.line() == []
    world.journal.let_go()
    assert len(world.line()) == 1
    assert (await world.accept(A)).id == world.line()[0]
    assert len((await world.restart()).line()) == 1


async def test_a_higher_priority_moves_a_job_up_and_a_lower_one_leaves_it(world: World) -> None:
    first, second = await world.accept(A, 1), await world.accept(B, 2)
    assert world.line() == [second.id, first.id]
    raised = await world.jobs.accept(Notification(hash=A, priority=3))
    assert (raised.job.id, raised.job.priority, raised.position) == (first.id, 3, 1)
    lower = await world.jobs.accept(Notification(hash=A, priority=-5))
    assert (lower.job.priority, lower.position) == (3, 1)
    assert world.line() == (await world.restart()).line() == [first.id, second.id]


async def test_a_priority_that_comes_too_late_makes_a_new_job(world: World) -> None:
    """A 2xx must not name a job that was cleared before the notification was written."""
    first = await world.accept(A)
    world.journal.held = True
    clearing = in_background(world.jobs.clear)
    async with clearing, in_background(lambda: world.accept(A, 5)) as answers:
        world.journal.let_go()
    (job,) = answers
    assert isinstance(job, Job)
    assert job.id != first.id
    assert (job.state, job.priority) == (JobState.QUEUED, 5)
    assert world.line() == [job.id]


async def test_a_full_queue_refuses_new_torrents_only_and_a_failure_gives_its_place_back(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, capacity=2)
    world.journal.full = True
    for n in range(5):  # each holds a place for as long as its commit takes
        with pytest.raises(JournalUnwritable):
            await world.accept(f"{n:040x}")
    world.journal.full = False
    first = await world.accept(A)

    world.journal.held = True
    async with in_background(lambda: world.accept(B)):
        with pytest.raises(QueueFull):  # the one on its way counts
            await world.accept(V2)
        world.journal.let_go()
    assert (await world.accept(A, 1)).id == first.id
    with pytest.raises(QueueFull):
        await world.accept(V2)
    await world.jobs.queue.take()
    assert (await world.accept(V2)).state is JobState.QUEUED
    world.journal.end()


async def test_the_bound_of_the_queue_is_that_of_a_trio_memory_channel(tmp_path: Path) -> None:
    world = World(tmp_path, capacity=4)
    ids = [(await world.accept(f"{n:040x}")).id for n in range(4)]
    world._capacity = 2
    world = await world.restart()  # the journal's own jobs are never dropped
    channel = world.jobs.queue._tickets_out.statistics()
    assert (channel.current_buffer_used, channel.max_buffer_size) == (2, 2)
    with pytest.raises(QueueFull):
        await world.accept(A)
    with trio.fail_after(5):
        assert [await world.jobs.queue.take() for _ in ids] == ids
    world.journal.end()


async def test_draining_refuses_new_and_known_torrents_and_retries(world: World) -> None:
    job = await world.accept(A)
    await world.jobs.cancel(job.id)
    world.jobs.draining = True
    for hash in (A, B):
        with pytest.raises(Draining):
            await world.accept(hash)
    with pytest.raises(Draining):
        await world.jobs.retry(job.id, on_conflict=OnConflict.FAIL)
    assert world.line() == []


async def test_a_closed_journal_refuses_and_the_next_notification_is_refused_alike(
    world: World,
) -> None:
    world.journal.close()
    for _ in range(2):
        with pytest.raises(JournalUnwritable, match="stopping"):
            await world.accept(A)
    assert world.line() == []


async def test_with_the_real_writer_100_clients_and_ten_torrents_make_ten_jobs(
    tmp_path: Path,
) -> None:
    answers: list[Accepted] = []

    async def client(n: int) -> None:
        answers.append(await jobs.accept(Notification(hash=f"{n % 10:040x}", priority=n)))

    async with running(tmp_path) as journal:
        jobs = Jobs(journal, JobQueue(10))
        async with trio.open_nursery() as nursery:
            for n in range(100):
                nursery.start_soon(client, n)
        alive = await journal.do(queries.alive)
    assert sum(not a.duplicate for a in answers) == len({a.job.id for a in answers}) == 10
    assert [j.priority for j in alive] == list(range(99, 89, -1))
    assert jobs.queue.first(10) == [j.id for j in alive]


# -- cancel, clear, retry ---------------------------------------------------


async def test_cancelling_takes_a_job_out_of_line_or_stops_it(world: World) -> None:
    stopped: list[str] = []
    running = await world.running(A, stop=lambda: stopped.append("a"))
    queued = await world.accept(B)
    assert (await world.jobs.cancel(queued.id)).state is JobState.CANCELLED
    assert (world.line(), stopped) == ([], [])
    await world.jobs.enter(running.id, Phase.COPYING)
    await world.jobs.cancel(running.id)
    assert stopped == ["a"]
    with pytest.raises(WrongState):
        await world.jobs.cancel(running.id)
    with pytest.raises(NoSuchJob):
        await world.jobs.cancel(JobId("nobody"))
    assert world.jobs.live.get(running.id) is None
    assert stopped == ["a"]


@pytest.mark.parametrize("phase", [Phase.PUBLISHING, Phase.TAGGING])
async def test_a_job_that_publishes_or_tags_is_not_cancelled(world: World, phase: Phase) -> None:
    job = await world.running(A, stop=lambda: pytest.fail("it was stopped"))
    await world.jobs.enter(job.id, phase, destination="tv")
    with pytest.raises(WrongState, match="put in place"):
        await world.jobs.cancel(job.id)
    done = await world.jobs.finish(job.id, Outcome.TIERED)
    assert (done.outcome, done.destination) == (Outcome.TIERED, "tv")


async def test_only_a_cancel_stops_a_running_job(world: World) -> None:
    job = await world.running(A, stop=lambda: pytest.fail("it was stopped"))
    await world.jobs.wait(job.id, WaitReason.SPACE, "full", delay_s=1)
    await world.jobs.cancel(job.id)  # its worker has let go of it: nothing to stop


async def test_a_second_worker_does_not_take_the_first_ones_stop_away(world: World) -> None:
    stopped: list[str] = []
    job = await world.accept(A)
    world.journal.held = True
    first = in_background(lambda: world.jobs.begin(job.id, lambda: stopped.append("first")))
    second = in_background(lambda: world.jobs.begin(job.id, lambda: stopped.append("second")))
    async with first as won, second as lost:
        world.journal.let_go()
    assert [type(a) for a in (*won, *lost)] == [Job, IllegalMove]
    await world.jobs.cancel(job.id)
    assert stopped == ["first"]


async def test_clearing_spares_what_runs_and_stays_in_force_after_a_restart(world: World) -> None:
    running = await world.running(A)
    waiting = await world.running(B)
    await world.jobs.wait(waiting.id, WaitReason.RETRY, "x", delay_s=1, attempts=1)
    queued = await world.accept(V2)
    assert await world.jobs.clear() == 2
    assert await world.jobs.clear() == 0
    assert (world.line(), world.jobs.live.waiting()) == ([], [])
    after = await world.restart()
    assert after.line() == [running.id]
    for job_id in (waiting.id, queued.id):
        assert (await after.jobs.get(job_id)).state is JobState.CLEARED
    assert (await after.accept(B)).id != waiting.id


async def test_jobs_that_wait_are_counted_by_reason_until_they_go_on_or_end(world: World) -> None:
    for hash, reason in ((A, WaitReason.SPACE), (B, WaitReason.SPACE), (V2, WaitReason.TIER)):
        job = await world.running(hash)
        await world.jobs.wait(job.id, reason, "x", delay_s=1)
        assert_counted(world.jobs)
    counts = world.jobs.live.waiting_by_reason()
    assert (counts[WaitReason.SPACE], counts[WaitReason.TIER], sum(counts.values())) == (2, 1, 3)
    after = await world.restart()
    assert after.jobs.live.waiting_by_reason() == counts
    first, second, third = after.jobs.live.waiting()
    await after.jobs.due(first.id)
    await after.jobs.cancel(second.id)
    assert_counted(after.jobs)
    await after.jobs.clear()
    assert_counted(after.jobs)
    assert sum(after.jobs.live.waiting_by_reason().values()) == 0
    assert third.id not in after.line()


async def test_a_retried_job_is_in_line_again_also_after_a_restart(world: World) -> None:
    job = await world.running(A)
    await world.jobs.fail(job.id, "io_error", "disk", attempts=3)
    other = await world.accept(B)
    again = await world.jobs.retry(job.id, on_conflict=OnConflict.SET_ASIDE)
    assert (again.attempts, again.on_conflict) == (0, OnConflict.SET_ASIDE)
    assert world.line() == [job.id, other.id]
    after = await world.restart()
    assert after.line() == [job.id, other.id]
    assert (await after.accept(A)).id == job.id
    with pytest.raises(WrongState):
        await after.jobs.retry(job.id, on_conflict=OnConflict.FAIL)


async def test_a_restart_finds_every_live_job_as_it_was_and_the_running_ones_first(
    world: World,
) -> None:
    ran = await world.running(A)
    await world.jobs.enter(ran.id, Phase.COPYING, bytes_total=7)
    waiting = await world.running(B)
    await world.jobs.wait(waiting.id, WaitReason.TIER, "not mounted", delay_s=30)
    urgent = await world.accept(V2, 9)
    after = await world.restart()
    assert after.line() == [ran.id, urgent.id]
    found = after.jobs.live.get(ran.id)
    assert found is not None
    assert (found.head, found.phase, found.bytes_total) == (True, None, 7)
    (still,) = after.jobs.live.waiting()
    assert (still.id, still.wait_reason, still.next_at) == (waiting.id, WaitReason.TIER, 1030.0)
    assert still.attempts == 0
    assert after.jobs.oldest_queued_at() == 1000.0


async def test_a_failed_attempt_of_a_job_cancelled_meanwhile_is_an_illegal_move_and_no_bug(
    world: World,
) -> None:
    job = await world.running(A)
    await world.jobs.cancel(job.id)
    for attempts in (1, None):
        with pytest.raises(IllegalMove):
            await world.jobs.wait(job.id, WaitReason.RETRY, "late", delay_s=1, attempts=attempts)


# -- two hashes of one torrent ----------------------------------------------


async def test_a_later_hash_of_the_torrent_is_merged_and_leaves_the_line(world: World) -> None:
    running = await world.running(A)
    later = await world.accept(V2, 6)
    stranger = await world.accept(B)
    now = await world.jobs.resolve(running.id, torrent(A, v2=V2))
    assert (now.state, now.priority, now.category) == (JobState.RUNNING, 6, "tv")
    assert world.line() == [stranger.id]
    assert (await world.jobs.get(later.id)).merged_into == running.id
    assert (await world.accept(A)).id == running.id


async def test_the_later_one_that_runs_is_merged_into_the_earlier_which_moves_up(
    world: World,
) -> None:
    earlier = await world.running(V2)
    await world.jobs.wait(earlier.id, WaitReason.RETRY, "x", delay_s=1, attempts=1)
    later = await world.accept(A, 8)
    await world.jobs.begin(later.id, lambda: pytest.fail("it was stopped"))
    await world.jobs.due(earlier.id)
    stranger = await world.accept(B, 7)
    assert world.line() == [stranger.id, earlier.id]
    merged = await world.jobs.resolve(later.id, torrent(A, v2=V2))
    assert (merged.state, merged.merged_into) == (JobState.MERGED, earlier.id)
    assert world.line() == [earlier.id, stranger.id]
    assert world.jobs.live.get(later.id) is None


async def test_the_resolved_torrent_id_is_known_as_a_duplicate_also_after_a_restart(
    world: World,
) -> None:
    job = await world.running(V2)
    await world.jobs.resolve(job.id, torrent(A, v2=V2))
    assert (await world.accept(A)).id == job.id
    after = await world.restart()
    assert (await after.accept(A)).id == (await after.accept(V2)).id == job.id
    await after.jobs.cancel(job.id)
    assert (await after.accept(A)).id != job.id


async def test_every_change_is_announced(world: World) -> None:
    seen = world.jobs.changed
    job = await world.accept(A)
    assert seen.is_set()
    seen = world.jobs.changed
    world.now = 2000.0
    await world.jobs.cancel(job.id)
    assert seen.is_set()
    assert world.jobs.last_activity_at == 2000.0
    assert (await world.restart()).jobs.last_activity_at == 2000.0


async def test_a_notification_that_races_with_a_retry_is_the_same_job(world: World) -> None:
    job = await world.accept(A)
    await world.jobs.cancel(job.id)
    world.journal.held = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(world.jobs.retry, job.id, on_conflict=OnConflict.FAIL))
        await wait_all_tasks_blocked()
        answers: list[Accepted] = []

        async def notify() -> None:
            answers.append(await world.jobs.accept(Notification(hash=A)))

        nursery.start_soon(notify)
        await wait_all_tasks_blocked()
        world.journal.let_go()
    assert [(a.job.id, a.duplicate) for a in answers] == [(job.id, True)]
    assert world.line() == [job.id]


async def test_a_torrent_known_by_another_hash_in_the_journal_alone_is_a_duplicate(
    world: World,
) -> None:
    job = await world.running(V2)
    await world.jobs.resolve(job.id, torrent(A, v2=V2))
    world.jobs.live._by_hash.clear()  # as after the other of two jobs of one torrent has ended
    again = await world.jobs.accept(Notification(hash=A))
    assert (again.job.id, again.duplicate) == (job.id, True)


async def test_a_priority_raised_while_a_worker_begins_the_job_lines_nothing_up_again(
    world: World,
) -> None:
    job = await world.accept(A)
    assert await world.jobs.queue.take() == job.id
    assert (await world.accept(A, priority=9)).priority == 9
    assert world.line() == []
    assert (await world.jobs.begin(job.id, lambda: None)).priority == 9
