"""How jobs run and end: order, capacity, retries, waiting, and what is shown of them."""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qbm_trio.core.errors import (
    DestinationConflict,
    DiskError,
    FailingDisk,
    MustWait,
    QbittorrentError,
    SameStorage,
)
from qbm_trio.core.model import JobId, JobState, OnConflict, Outcome, WaitReason
from qbm_trio.tasks.running import Running
from qbm_trio.tasks.workers import FIRST_ANSWER_S
from tests.fakes.qbittorrent import away
from tests.rig.workers import a_world, failing


@pytest.fixture(autouse=True)
def log_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


# -- order and capacity -----------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_jobs_run_in_the_order_of_the_queue_never_more_than_allowed(
    autojump_clock: MockClock, tmp_path: Path, concurrency: int
) -> None:
    async with a_world(tmp_path, concurrency=concurrency) as world:
        await world.client.version()
        world.work = world.endless
        blockers = [await world.accept(100 + n) for n in range(concurrency)]
        await wait_all_tasks_blocked()
        world.work = world.quick
        low = [await world.accept(n) for n in range(3)]
        high = [await world.accept(10 + n, priority=5) for n in range(3)]
        await wait_all_tasks_blocked()
        assert [job_id for job_id, _ in world.begun] == blockers
        for job_id in blockers:
            await world.jobs.cancel(job_id)
        for job_id in (*high, *low):
            await world.until(job_id, JobState.DONE)
        assert [job_id for job_id, _ in world.begun[concurrency:]] == high + low
        times = [at for _, at in world.begun[concurrency:]]
        assert times == [float(n // concurrency) for n in range(6)]


# -- how a job can end ------------------------------------------------------


async def test_a_job_ends_with_its_outcome_and_is_counted(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with a_world(tmp_path) as world:
        job_id = await world.accept(1)
        done = await world.until(job_id, JobState.DONE)
        assert (done.outcome, done.error, done.attempts) == (Outcome.TIERED, None, 0)
        assert world.discarded == []


async def test_why_a_job_waits_is_said_once_and_again_when_it_changes(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_world(tmp_path) as world:
        unready = [
            MustWait(message, reason=WaitReason.NOT_READY, delay_s=1)
            for message in ("checking", "checking", "moving", "checking")
        ]
        world.work = failing(*unready)
        job_id = await world.accept(1)
        await world.until(job_id, JobState.DONE)
        await wait_all_tasks_blocked()
        assert world.workers._said == {}
    said = [r.message for r in caplog.records if r.levelno >= logging.INFO]
    assert [m for m in said if "waiting" in m] == [
        f"waiting (not_ready): {message}" for message in ("checking", "moving", "checking")
    ]


async def test_a_failed_attempt_backs_off_and_the_last_one_fails_the_job(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.random", lambda: 1.0)
    async with a_world(tmp_path) as world:
        world.work = failing(*(DiskError(f"trouble {n}") for n in range(9)))
        job_id = await world.accept(1)
        waiting = await world.until(job_id, JobState.WAITING)
        assert (waiting.attempts, waiting.wait_reason) == (1, WaitReason.RETRY)
        assert waiting.error == "trouble 0"
        failed = await world.until(job_id, JobState.FAILED)
        assert [at for _, at in world.begun] == [0, 1, 3]
        assert (failed.attempts, failed.error_code) == (3, "io_error")
        assert failed.error == "trouble 2 (tried 3 times)"
        await wait_all_tasks_blocked()
        assert world.discarded == [job_id]


async def test_a_job_on_a_failing_disk_is_never_given_up_and_comes_back_ever_later(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.random", lambda: 1.0)
    async with a_world(tmp_path) as world:
        world.work = failing(*(FailingDisk(f"trouble {n}") for n in range(11)))
        job_id = await world.accept(1)
        waiting = await world.until(job_id, JobState.WAITING)
        assert (waiting.attempts, waiting.wait_reason) == (0, WaitReason.TIER)
        assert waiting.error == "trouble 0"
        done = await world.until(job_id, JobState.DONE)
        at = [at for _, at in world.begun]
        rests = [later - before for before, later in pairwise(at)]
        assert rests == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
        assert done.attempts == 0
        await wait_all_tasks_blocked()
        assert world.workers._failures == {}


@pytest.mark.parametrize(
    ("trouble", "reason", "delay_s"),
    [
        (MustWait("full", reason=WaitReason.SPACE, delay_s=20), WaitReason.SPACE, 20),
        (SameStorage("alias", reason=WaitReason.TIER), WaitReason.TIER, 30),
        (QbittorrentError("409"), WaitReason.QBITTORRENT, 300),
        (away(), WaitReason.QBITTORRENT, 300),
    ],
)
async def test_waiting_is_no_failed_attempt_and_never_gives_up(
    autojump_clock: MockClock,
    tmp_path: Path,
    trouble: Exception,
    reason: WaitReason,
    delay_s: float,
) -> None:
    async with a_world(tmp_path) as world:
        world.work = failing(*[trouble] * 6)
        job_id = await world.accept(1)
        waiting = await world.until(job_id, JobState.WAITING)
        assert (waiting.wait_reason, waiting.attempts) == (reason, 0)
        assert waiting.error == str(trouble)
        done = await world.until(job_id, JobState.DONE)
        assert [at for _, at in world.begun] == [n * delay_s for n in range(7)]
        assert (done.attempts, done.error, done.wait_reason) == (0, None, None)
        assert world.discarded == [], "what is copied stays for the next look"


async def test_jobs_that_wait_for_space_look_again_when_another_ends_not_when_they_wait_anew(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with a_world(tmp_path) as world, trio.open_nursery() as nursery:
        nursery.start_soon(world.waits.wake_for_space, lambda: world.workers.job_ended)
        full = MustWait("full", reason=WaitReason.SPACE, delay_s=300)
        world.work = failing(full, full)
        waiting = [await world.accept(n) for n in range(2)]
        await world.until(waiting[1], JobState.WAITING)
        await trio.sleep(100)
        world.work = world.quick
        other = await world.accept(2)
        for job_id in waiting:
            await world.until(job_id, JobState.DONE)
        assert world.begun[2:] == [(other, 100), (waiting[0], 101), (waiting[1], 102)]
        nursery.cancel_scope.cancel()


async def test_what_cannot_be_helped_fails_at_once_with_its_code(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with a_world(tmp_path) as world:
        world.work = failing(DestinationConflict("the file x differs"))
        job_id = await world.accept(1)
        failed = await world.until(job_id, JobState.FAILED)
        assert (failed.error_code, failed.error) == ("destination_conflict", "the file x differs")
        await wait_all_tasks_blocked()
        assert world.discarded == [job_id]


@pytest.mark.parametrize("grouped", [False, True])
async def test_a_bug_fails_its_job_loudly_and_the_others_go_on(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture, grouped: bool
) -> None:
    bug = ZeroDivisionError("a secret detail")
    async with a_world(tmp_path) as world:
        world.work = failing(ExceptionGroup("", [ExceptionGroup("", [bug])]) if grouped else bug)
        tripped, other = await world.accept(1), await world.accept(2)
        failed = await world.until(tripped, JobState.FAILED)
        assert failed.error_code == "internal_error"
        assert "a secret detail" not in str(failed.error)
        assert "a secret detail" in caplog.text
        await world.until(other, JobState.DONE)


async def test_trouble_inside_a_nursery_of_the_work_counts_as_the_trouble_it_is(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with a_world(tmp_path) as world:
        world.work = failing(ExceptionGroup("", [DestinationConflict("in a nursery")]))
        job_id = await world.accept(1)
        failed = await world.until(job_id, JobState.FAILED)
        assert (failed.error_code, failed.error) == ("destination_conflict", "in a nursery")


async def test_a_bug_while_partial_data_is_removed_is_shown_and_ends_no_service(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def stumble(job_id: JobId) -> None:
        raise KeyError("no such file")

    async with a_world(tmp_path) as world:
        world.discard = stumble
        world.work = failing(DestinationConflict("x"))
        await world.until(await world.accept(1), JobState.FAILED)
        world.work = world.endless
        cancelled = await world.accept(2)
        await wait_all_tasks_blocked()
        await world.jobs.cancel(cancelled)
        world.work = world.quick
        await world.until(await world.accept(3), JobState.DONE)
    assert caplog.text.count("partial data stays for now") == 2
    assert caplog.text.count("in stumble") == 2


async def test_a_merged_job_just_ends(autojump_clock: MockClock, tmp_path: Path) -> None:
    async def merged(running: Running) -> None:
        world.journal._connection.execute("UPDATE jobs SET state = 'merged'")

    async with a_world(tmp_path) as world:
        world.work = merged
        job_id = await world.accept(1)
        await world.until(job_id, JobState.MERGED)
        await wait_all_tasks_blocked()
        assert (world.workers.running, world.discarded) == ({}, [])


@pytest.mark.parametrize("end", [JobState.FAILED, JobState.CANCELLED])
async def test_one_that_is_retried_as_soon_as_it_has_ended_says_again_that_it_begins(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture, end: JobState
) -> None:
    async with a_world(tmp_path) as world:
        dropped = trio.Event()

        async def drop(_: JobId) -> None:
            await dropped.wait()

        world.work, world.discard = failing(DestinationConflict("x")), drop
        if end is JobState.CANCELLED:
            world.work = world.endless
        job_id = await world.accept(1)
        if end is JobState.CANCELLED:
            await wait_all_tasks_blocked()
            await world.jobs.cancel(job_id)
        await world.until(job_id, end)
        world.work = world.quick
        await world.jobs.retry(job_id, on_conflict=OnConflict.FAIL)
        dropped.set()
        await world.until(job_id, JobState.DONE)
    assert [r.levelname for r in caplog.records if r.message == "resolving"] == ["INFO"] * 2


# -- qBittorrent asked for the first time ------------------------------------


async def test_jobs_keep_their_order_when_qbittorrent_answers_a_moment_after_the_start(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Were some put aside until then, others would come before them."""
    async with a_world(tmp_path, reachable=None) as world:
        ids = [await world.accept(n) for n in range(5)]
        await trio.sleep(FIRST_ANSWER_S / 2)
        await world.client.version()
        world.waits.wake(WaitReason.QBITTORRENT)
        for job_id in ids:
            await world.until(job_id, JobState.DONE)
        assert [job_id for job_id, _ in world.begun] == ids
        assert "waiting" not in caplog.text


async def test_jobs_are_not_held_for_long_by_a_qbittorrent_that_does_not_answer(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with a_world(tmp_path, reachable=None) as world:
        waiting = await world.until(await world.accept(1), JobState.WAITING)
        assert (waiting.wait_reason, waiting.error) == (WaitReason.QBITTORRENT, "not reached yet")
        assert trio.current_time() == FIRST_ANSWER_S


# -- qBittorrent away -------------------------------------------------------


async def test_with_qbittorrent_away_jobs_are_put_aside_without_a_call_and_come_back_with_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with a_world(tmp_path, reachable=False) as world:
        ids = [await world.accept(n) for n in range(20)]
        for job_id in ids:
            waiting = await world.until(job_id, JobState.WAITING)
            assert (waiting.wait_reason, waiting.attempts) == (WaitReason.QBITTORRENT, 0)
        assert (world.begun, world.client.calls) == ([], [])
        await trio.sleep(7)
        await world.client.version()
        world.waits.wake(WaitReason.QBITTORRENT)
        await world.until(ids[-1], JobState.DONE)
        assert [job_id for job_id, _ in world.begun] == ids
        assert world.begun[0][1] == 7


async def test_a_return_of_qbittorrent_during_the_commit_is_not_missed(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with a_world(tmp_path, reachable=False) as world:
        job_id = await world.accept(1)
        world.journal.held = True
        await wait_all_tasks_blocked()
        await world.client.version()
        world.waits.wake(WaitReason.QBITTORRENT)  # nobody is waiting yet
        world.journal.let_go()
        await world.until(job_id, JobState.DONE)
        assert trio.current_time() < 5


# -- what /status shows -----------------------------------------------------


async def test_rate_and_remaining_time_are_those_since_the_copy_began(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_world(tmp_path) as world:
        world.work = world.endless
        job_id = await world.accept(1)
        await wait_all_tasks_blocked()
        running = world.workers.running[job_id]
        assert (running.shown().bytes_per_second, running.shown().eta_s) == (0, None)
        running.will_copy(2000, kept_bytes=1000)
        await trio.sleep(100)  # for its turn
        assert (running.shown().bytes_per_second, running.shown().eta_s) == (0, None)
        running.copy_begins()
        await trio.sleep(10)
        running.progress.bytes_done = 1200
        shown = running.shown()
        assert (shown.bytes_per_second, shown.eta_s) == (20, 40)
        assert (shown.id, shown.hash) == (job_id, f"{1:040x}")
        running.copy_ended()
        running.will_copy(2000, kept_bytes=2000)  # as where all is on the HDD already
        running.copy_begins()
        running.copy_ended()
    said = [r.message for r in caplog.records if "bytes" in r.message]
    assert said == [
        "1000 bytes to copy",
        "200 bytes copied in 10.0 s, 0.0 MB/s",
        "no bytes are left to copy",
    ]
