"""What the journal knows of torrents, by any of their hashes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from qbm_trio.adapters import (
    journal_copies,
    journal_facts,
    journal_job_queries,
    journal_jobs,
    journal_relocations,
)
from qbm_trio.adapters.journal import Journal
from qbm_trio.adapters.journal_reconciling import known
from qbm_trio.core.lifecycle import Event
from qbm_trio.core.model import JobId, JobState, Notification, Torrent, TorrentId
from qbm_trio.core.reconciling import Known, LastJob
from qbm_trio.core.relocation import IllegalStep, Step
from tests.rig.records import COPY, RELOCATION
from tests.rig.seen import SEEDING

V1, V2 = "1" * 40, "a" * 40 + "2" * 24
HYBRID = replace(SEEDING, id=TorrentId("a" * 40), infohash_v1=V1, infohash_v2=V2)
NUMBERS = count()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = Journal.open(tmp_path)._connection
    yield connection
    connection.close()


def job(db: sqlite3.Connection, hash: str, *, ends: Event | None = None, code: str = "") -> None:
    job_id = JobId(str(next(NUMBERS)))
    journal_jobs.admit(db, Notification(hash=hash), job_id=job_id, now=1.0)
    if ends is not None:
        journal_jobs.move(db, job_id, ends, now=2.0, changes={"error_code": code or None})


def other(number: int) -> Torrent:
    id = TorrentId(f"{number:040x}")
    return replace(SEEDING, id=id, infohash_v1=id)


@pytest.mark.parametrize("hash", [V1, V2, HYBRID.id])
def test_the_newest_job_counts_whichever_hash_it_was_notified_by(
    db: sqlite3.Connection, hash: str
) -> None:
    for older in (V1, V2, HYBRID.id):
        job(db, older, ends=Event.CANCEL, code="torrent_removed")
    job(db, other(7).id, ends=Event.CANCEL)
    job(db, hash)
    assert known(db, [HYBRID]) == {HYBRID.id: Known(job=LastJob(state=JobState.QUEUED))}


def test_one_that_was_merged_says_nothing(db: sqlite3.Connection) -> None:
    job(db, V1, ends=Event.MERGE)
    assert known(db, [HYBRID]) == {HYBRID.id: Known()}


@pytest.mark.parametrize("others", [0, 200])
def test_each_of_few_and_of_many_has_what_is_its_own(db: sqlite3.Connection, others: int) -> None:
    many = [other(n) for n in range(others)]
    job(db, HYBRID.id, ends=Event.CANCEL, code="torrent_removed")
    copy = replace(COPY, torrent_id=HYBRID.id)
    journal_copies.begin(db, copy, [])
    assert not known(db, [HYBRID, *many])[HYBRID.id].published
    journal_copies.published(db, HYBRID.id, now=2.0)
    row = replace(RELOCATION, torrent_id=HYBRID.id)
    (row,) = journal_relocations.begin(db, [row], now=3.0)
    found = known(db, [HYBRID, *many])
    assert found.pop(HYBRID.id) == Known(
        job=LastJob(state=JobState.CANCELLED, error_code="torrent_removed"),
        published=True,
        relocation=row,
    )
    assert found == dict.fromkeys([t.id for t in many], Known())


def test_an_instance_keeps_its_name_and_when_it_first_ran(db: sqlite3.Connection) -> None:
    name, first_run_at = journal_facts.instance(db, now=5.5)
    assert first_run_at == 5.5
    assert journal_facts.instance(db, now=9.9) == (name, 5.5)


def test_a_repeated_relocation_begins_unless_a_job_is_at_work(db: sqlite3.Connection) -> None:
    """One that only waits can wait for its end, too: it is what the torrent's state made it do."""
    row = replace(RELOCATION, torrent_id=HYBRID.id)
    job(db, HYBRID.id)
    (live,) = journal_job_queries.alive(db)
    with pytest.raises(journal_relocations.AlreadyRelocating):
        journal_relocations.begin(db, [row], now=1.0)
    journal_jobs.begin(db, live.id, now=1.0)
    with pytest.raises(journal_relocations.AlreadyRelocating):
        journal_relocations.begin(db, [row], now=1.0, at=Step.REPEATING)
    journal_jobs.move(db, live.id, Event.WAIT, now=1.0)
    (begun,) = journal_relocations.begin(db, [row], now=1.0, at=Step.REPEATING)
    assert begun.step is Step.REPEATING
    with pytest.raises(journal_relocations.AlreadyRelocating):
        journal_relocations.begin(db, [row], now=1.0, at=Step.REPEATING)


@pytest.mark.parametrize("step", [Step.DELETING, Step.REPAIRING, Step.DONE, Step.CHECKING])
def test_no_relocation_begins_past_a_check(db: sqlite3.Connection, step: Step) -> None:
    with pytest.raises(IllegalStep):
        journal_relocations.begin(db, [], now=1.0, at=step)
