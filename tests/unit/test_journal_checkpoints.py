"""A checkpoint lives as long as its job, and not a moment longer."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from qbm_trio.adapters import journal_checkpoints as checkpoints
from qbm_trio.adapters import journal_jobs as ops
from qbm_trio.adapters.journal import Journal
from qbm_trio.adapters.journal_checkpoints import Checkpoint
from qbm_trio.core.lifecycle import ACTIVE, Event, after
from qbm_trio.core.model import Job, JobId, JobState, Notification

FIRST = Checkpoint(fingerprint="first", position=2**40)
SECOND = Checkpoint(fingerprint="second", position=1)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = Journal.open(tmp_path)._connection
    yield connection
    connection.close()


def running(db: sqlite3.Connection, n: int = 0) -> Job:
    job = ops.admit(db, Notification(hash=f"{n:040x}"), job_id=JobId(f"job {n}"), now=1.0)
    return ops.begin(db, job.id, now=2.0)


def test_the_last_one_of_each_job_is_found(db: sqlite3.Connection) -> None:
    job, other = running(db), running(db, 1)
    assert checkpoints.find(db, job.id) is None
    checkpoints.record(db, job.id, FIRST)
    checkpoints.record(db, other.id, FIRST)
    checkpoints.record(db, job.id, SECOND)
    assert checkpoints.find(db, job.id) == SECOND
    checkpoints.forget(db, job.id)
    assert checkpoints.find(db, job.id) is None
    assert checkpoints.find(db, other.id) == FIRST


@pytest.mark.parametrize("event", Event)
def test_it_ends_with_its_job_and_outlives_any_pause(db: sqlite3.Connection, event: Event) -> None:
    job = running(db)
    checkpoints.record(db, job.id, FIRST)
    if event in (Event.DUE, Event.CLEAR, Event.TAKE, Event.RETRY):
        job = ops.move(db, job.id, Event.FAIL if event is Event.RETRY else Event.WAIT, now=3.0)
        if event is Event.TAKE:
            job = ops.move(db, job.id, Event.DUE, now=4.0)
    ends = after(job.state, event) not in ACTIVE or event is Event.RETRY
    ops.move(db, job.id, event, now=5.0)
    assert checkpoints.find(db, job.id) == (None if ends else FIRST)


def test_a_job_that_runs_no_more_gets_none(db: sqlite3.Connection) -> None:
    job = running(db)
    assert ops.cancel(db, job.id, now=3.0).state is JobState.CANCELLED
    checkpoints.record(db, job.id, FIRST)
    assert checkpoints.find(db, job.id) is None


def test_a_job_that_is_pruned_leaves_none_and_a_live_one_keeps_it(db: sqlite3.Connection) -> None:
    old, live = running(db), running(db, 1)
    checkpoints.record(db, old.id, FIRST)
    checkpoints.record(db, live.id, FIRST)
    db.execute("UPDATE jobs SET state = 'done', finished_at = 3 WHERE id = ?", (old.id,))
    assert ops.prune(db, finished_before=10.0**12) == 1
    assert checkpoints.find(db, old.id) is None
    assert checkpoints.find(db, live.id) == FIRST
