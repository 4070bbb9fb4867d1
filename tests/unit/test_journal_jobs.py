"""The journal's jobs: legal moves only, merges in both directions, what a restart finds."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from qbm_trio.adapters import journal_facts
from qbm_trio.adapters import journal_job_queries as queries
from qbm_trio.adapters import journal_jobs as ops
from qbm_trio.adapters.journal import Journal
from qbm_trio.core.errors import NoSuchJob, WrongState
from qbm_trio.core.lifecycle import Event, IllegalMove
from qbm_trio.core.model import (
    Job,
    JobId,
    JobState,
    Notification,
    OnConflict,
    Outcome,
    Phase,
    TorrentId,
    WaitReason,
)

A, B, V2 = TorrentId("a" * 40), TorrentId("b" * 40), "a" * 40 + "c" * 24


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = Journal.open(tmp_path)._connection
    yield connection
    connection.close()


def admit(db: sqlite3.Connection, hash: str, *, priority: int = 0, now: float = 1.0) -> Job:
    return ops.admit(
        db, Notification(hash=hash, priority=priority), job_id=JobId(f"job {hash}"), now=now
    )


def run(db: sqlite3.Connection, job: Job) -> Job:
    return ops.begin(db, job.id, now=2.0)


def test_what_is_admitted_is_what_is_read(db: sqlite3.Connection) -> None:
    notified = Notification(
        hash=V2, priority=-7, name="Ünï\n'\";--🐉", category="a/b", size_bytes=2**62
    )
    job = ops.admit(db, notified, job_id=JobId("x"), now=5.5)
    assert job == queries.get(db, JobId("x"))
    assert (job.hash, job.priority, job.name) == (V2, -7, notified.name)
    assert (job.category, job.bytes_total, job.accepted_at) == ("a/b", 2**62, 5.5)
    assert job.state is JobState.QUEUED
    assert not job.head


@pytest.mark.parametrize("state", list(JobState))
def test_one_hash_never_has_two_live_jobs(db: sqlite3.Connection, state: JobState) -> None:
    admit(db, A)
    db.execute("UPDATE jobs SET state = ?", (state,))
    second = Notification(hash=A)
    if state in (JobState.QUEUED, JobState.WAITING, JobState.RUNNING):
        urgent = Notification(hash=A, priority=3)
        found = ops.admit(db, urgent, job_id=JobId("second"), now=2)
        assert (found.seq, found.priority) == (1, 3)
    else:
        assert ops.admit(db, second, job_id=JobId("second"), now=2).seq > 1


def test_a_move_that_is_not_in_the_table_changes_nothing(db: sqlite3.Connection) -> None:
    job = run(db, admit(db, A))
    done = ops.move(db, job.id, Event.FINISH, now=3, changes={"outcome": Outcome.TIERED})
    assert (done.finished_at, done.phase) == (3, None)
    before = list(db.iterdump())
    with pytest.raises(IllegalMove):
        ops.move(db, job.id, Event.FAIL, now=4)
    with pytest.raises(WrongState):
        ops.enter(db, job.id, Phase.COPYING, now=4)
    with pytest.raises(NoSuchJob, match="GET /jobs"):
        ops.move(db, JobId("nobody"), Event.CANCEL, now=4)
    assert list(db.iterdump()) == before
    assert journal_facts.counters(db) == {"torrents_processed": 1}


def test_interrupted_jobs_go_first_once_then_priority_then_age(db: sqlite3.Connection) -> None:
    low, high, oldest, ran = (
        admit(db, h, priority=p) for h, p in zip("1234", (0, 5, 5, -9), strict=True)
    )
    run(db, ran)
    assert [j.id for j in ops.recover(db, now=9)] == [ran.id, high.id, oldest.id, low.id]
    assert journal_facts.counters(db)["jobs_recovered"] == 1
    assert queries.get(db, ran.id).phase is None

    # Its turn is over: after a wait it has no head start any more.
    again = run(db, queries.get(db, ran.id))
    ops.move(db, again.id, Event.WAIT, now=10, changes={"wait_reason": WaitReason.SPACE})
    ops.move(db, again.id, Event.DUE, now=11)
    assert [j.id for j in queries.alive(db)] == [high.id, oldest.id, low.id, ran.id]


def test_a_cancel_is_refused_once_files_are_put_in_place(db: sqlite3.Connection) -> None:
    job = run(db, admit(db, A))
    for phase in (Phase.PUBLISHING, Phase.TAGGING):
        ops.enter(db, job.id, phase, now=3)
        with pytest.raises(WrongState, match="nothing was changed"):
            ops.cancel(db, job.id, now=4)
    ops.enter(db, job.id, Phase.COPYING, now=5)
    assert ops.cancel(db, job.id, now=6).state is JobState.CANCELLED
    with pytest.raises(WrongState, match="cancelled already"):
        ops.cancel(db, job.id, now=7)


def test_clearing_spares_what_runs_and_what_has_ended(db: sqlite3.Connection) -> None:
    queued, waiting, running, ended = (admit(db, h) for h in "1234")
    ops.move(db, waiting.id, Event.WAIT, now=2)
    run(db, running)
    ops.cancel(db, ended.id, now=2)
    assert sorted(ops.clear(db, now=3)) == sorted([queued.id, waiting.id])
    assert [j.id for j in queries.alive(db)] == [running.id]
    assert queries.get(db, ended.id).state is JobState.CANCELLED


@pytest.mark.parametrize("event", [Event.CANCEL, Event.CLEAR, Event.FAIL])
def test_a_retry_begins_anew_and_keeps_its_place_by_age(
    db: sqlite3.Connection, event: Event
) -> None:
    job = admit(db, A, priority=3)
    if event is Event.FAIL:
        run(db, job)
    ops.move(db, job.id, event, now=3, changes={"attempts": 3, "error": "x", "error_code": "y"})
    again = ops.again(db, job.id, on_conflict=OnConflict.SET_ASIDE, now=4)
    assert (again.state, again.attempts, again.error, again.error_code, again.finished_at) == (
        JobState.QUEUED,
        0,
        None,
        None,
        None,
    )
    assert (again.seq, again.priority, again.on_conflict) == (1, 3, OnConflict.SET_ASIDE)
    with pytest.raises(WrongState, match="is queued"):
        ops.again(db, job.id, on_conflict=OnConflict.FAIL, now=5)


@pytest.mark.parametrize("known_as", ["hash", "torrent id", "torrent id of the other"])
def test_a_retry_is_refused_while_the_torrent_has_a_live_job(
    db: sqlite3.Connection, known_as: str
) -> None:
    job = admit(db, A if known_as == "hash" else V2)
    if known_as != "hash":
        run(db, job)
        resolve(db, job, hashes=())
    ops.cancel(db, job.id, now=3)
    other = admit_again(db, B if known_as == "torrent id of the other" else A)
    if known_as == "torrent id of the other":
        ops.begin(db, other.id, now=4)
        resolve(db, other, hashes=())
    with pytest.raises(WrongState, match=other.id):
        ops.again(db, job.id, on_conflict=OnConflict.FAIL, now=5)


def admit_again(db: sqlite3.Connection, hash: str) -> Job:
    return ops.admit(db, Notification(hash=hash), job_id=JobId("the other"), now=3)


# -- two hashes of one torrent ----------------------------------------------


@pytest.mark.parametrize("other_state", ["queued", "waiting", "running", "resolved"])
@pytest.mark.parametrize("earlier", [True, False])
def test_two_jobs_of_one_torrent_become_one_with_the_higher_priority(
    db: sqlite3.Connection, other_state: str, earlier: bool
) -> None:
    """The later is merged into the earlier, or into one that is known to copy already."""
    jobs = [admit(db, h, priority=p) for h, p in ((V2, 1), (A, 4))]
    other, job = jobs if earlier else jobs[::-1]
    stranger = admit(db, B)
    if other_state == "waiting":
        ops.move(db, other.id, Event.WAIT, now=2)
    if other_state in ("running", "resolved"):
        run(db, other)
    run(db, job)
    if other_state == "resolved":
        resolve(db, other, hashes=())
    mine, changed = resolve(db, job, hashes=(V2, ""))
    assert mine == queries.get(db, job.id)
    assert all(c == queries.get(db, c.id) for c in changed)
    if other_state == "running" and not earlier:
        # It runs, and may be past stopping; it finds out by itself.
        assert (mine.state, changed) == (JobState.RUNNING, [])
        assert resolve(db, other, hashes=())[0].state is JobState.MERGED

    stays, goes = (other, job) if earlier or other_state == "resolved" else (job, other)
    merged, kept = queries.get(db, goes.id), queries.get(db, stays.id)
    assert (merged.state, merged.merged_into, merged.finished_at) == (JobState.MERGED, stays.id, 5)
    assert kept.state == (
        JobState.RUNNING if stays is job or other_state == "resolved" else JobState(other_state)
    )
    assert kept.priority == 4
    assert {j.id for j in queries.alive(db)} == {stays.id, stranger.id}


def resolve(db: sqlite3.Connection, job: Job, *, hashes: tuple[str, ...]) -> tuple[Job, list[Job]]:
    return ops.resolve(db, job.id, A, hashes=hashes, name="seen", category="c", now=5)


def test_all_later_ones_are_merged_and_the_ended_are_left_alone(db: sqlite3.Connection) -> None:
    job = admit(db, "1" * 40)
    ended = admit(db, A)
    ops.cancel(db, ended.id, now=2)
    later = [ops.admit(db, Notification(hash=h, priority=p), job_id=JobId(h), now=2)
             for h, p in ((A, 7), (V2, 9))]  # fmt: skip
    run(db, job)
    mine, changed = resolve(db, job, hashes=(V2,))
    assert [c.merged_into for c in changed] == [job.id, job.id]
    assert {c.id for c in changed} == {j.id for j in later}
    assert (mine.priority, mine.torrent_id, mine.name) == (9, A, "seen")
    assert queries.get(db, ended.id).state is JobState.CANCELLED


def test_a_cancelled_job_resolves_to_nothing(db: sqlite3.Connection) -> None:
    job = run(db, admit(db, A))
    ops.cancel(db, job.id, now=2)
    with pytest.raises(WrongState):
        resolve(db, job, hashes=())


# -- listing, pruning -------------------------------------------------------


def test_pages_are_newest_first_without_gap_or_overlap(db: sqlite3.Connection) -> None:
    ids = [admit(db, f"{n:040x}").id for n in range(7)][::-1]
    pages, before = list[JobId](), None
    while page := queries.newest(db, limit=3, before=before):
        pages += [j.id for j in page]
        before = page[-1].id
    assert pages == ids
    ops.cancel(db, ids[2], now=2)
    assert [j.id for j in queries.newest(db, state=JobState.CANCELLED)] == [ids[2]]
    with pytest.raises(NoSuchJob):
        queries.newest(db, before=JobId("nobody"))


def test_what_ended_last_comes_first_whatever_the_clock_did_meanwhile(
    db: sqlite3.Connection,
) -> None:
    ids = [admit(db, h).id for h in "12345"]
    for job_id, now in zip(ids, (50, 86_400, 10, 60, 86_399), strict=True):
        ops.cancel(db, job_id, now=now)
    assert [j.id for j in queries.recent(db, 9)] == ids[::-1]
    assert [j.id for j in queries.recent(db, 2)] == ids[:2:-1]
    ops.again(db, ids[1], on_conflict=OnConflict.FAIL, now=61)
    assert ids[1] not in {j.id for j in queries.recent(db, 9)}
    ops.cancel(db, ids[1], now=5)
    ops.prune(db, finished_before=11)  # the last to end is gone, and what ends now is the last
    assert [j.id for j in queries.recent(db, 9)] == [ids[4], ids[3], ids[0]]
    latest = admit(db, "6").id
    ops.cancel(db, latest, now=20)
    assert [j.id for j in queries.recent(db, 9)] == [latest, ids[4], ids[3], ids[0]]


def test_what_is_asked_all_the_time_sorts_nothing_and_reads_no_row_in_vain(
    db: sqlite3.Connection,
) -> None:
    asked: list[str] = []
    db.set_trace_callback(asked.append)
    queries.recent(db, 20)
    queries.next_end(db)
    queries.by_state(db)
    db.set_trace_callback(None)
    plans = [row[3] for query in asked for row in db.execute(f"EXPLAIN QUERY PLAN {query}")]
    assert len(plans) == 3
    assert "INDEX jobs_by_end" in plans[0]
    assert "COVERING INDEX jobs_by_end" in plans[1]
    assert "COVERING INDEX jobs_by_state" in plans[2]


def test_jobs_are_counted_in_each_state_also_where_there_are_none(db: sqlite3.Connection) -> None:
    assert queries.by_state(db) == dict.fromkeys(JobState, 0)
    for hash in "1234":
        admit(db, hash)
    run(db, queries.get(db, JobId("job 1")))
    for hash in "23":
        ops.cancel(db, JobId(f"job {hash}"), now=2.0)
    assert queries.by_state(db) == dict.fromkeys(JobState, 0) | {
        JobState.RUNNING: 1,
        JobState.CANCELLED: 2,
        JobState.QUEUED: 1,
    }


def test_only_jobs_that_ended_long_ago_are_pruned_and_no_number_is_used_twice(
    db: sqlite3.Connection,
) -> None:
    old, young, alive = (admit(db, h) for h in "123")
    ops.cancel(db, old.id, now=10)
    ops.cancel(db, young.id, now=20)
    assert [j.id for j in queries.recent(db, 5)] == [young.id, old.id]
    assert ops.prune(db, finished_before=15) == 1
    assert {j.id for j in queries.newest(db)} == {young.id, alive.id}
    assert ops.prune(db, finished_before=1e12) == 1
    ops.cancel(db, alive.id, now=30)
    assert ops.prune(db, finished_before=1e12) == 1
    assert admit(db, "4").seq == 4


def test_lasting_facts_and_counters_are_kept(db: sqlite3.Connection) -> None:
    assert journal_facts.meta(db, "instance") is None
    journal_facts.set_meta(db, "instance", "one")
    journal_facts.set_meta(db, "instance", "two")
    assert journal_facts.meta(db, "instance") == "two"
    journal_facts.count(db, "bytes_copied", 2**40)
    journal_facts.count(db, "bytes_copied", 1)
    assert journal_facts.counters(db) == {"bytes_copied": 2**40 + 1}
