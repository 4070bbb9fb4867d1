"""A journal of an older version is brought up to date, whole or not at all."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from qbm_trio.adapters import journal_job_queries, journal_jobs, journal_schema
from qbm_trio.adapters.journal import FILE_NAME, Journal
from qbm_trio.adapters.journal_facts import meta, set_meta
from qbm_trio.core.model import JobId

STEP = "ALTER TABLE meta ADD COLUMN note TEXT NOT NULL DEFAULT 'old'"


@contextmanager
def opened(state: Path) -> Iterator[sqlite3.Connection]:
    journal = Journal.open(state)
    try:
        yield journal._connection
    finally:
        journal._connection.close()


def version_and_tables(state: Path) -> tuple[int, set[str]]:
    """What lies on the disk, read with nothing but SQLite."""
    with closing(sqlite3.connect(state / FILE_NAME)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        return version, {sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master")}


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The state directory of a journal of today's version, with something in it."""
    with opened(tmp_path) as connection:
        set_meta(connection, "kept", "as it was")
    return tmp_path


def release(monkeypatch: pytest.MonkeyPatch, *steps: str) -> int:
    """Make the next version, with these migrations more; give the number of its schema."""
    migrations = (*journal_schema.MIGRATIONS, *steps)
    monkeypatch.setattr(journal_schema, "MIGRATIONS", migrations)
    monkeypatch.setattr(journal_schema, "VERSION", len(migrations))
    return len(migrations)


def test_the_steps_that_a_journal_lacks_are_done_once_and_its_content_stays(
    older: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = release(monkeypatch, STEP, "CREATE TABLE later (a)")
    for _ in range(2):
        with opened(older) as connection:
            assert meta(connection, "kept") == "as it was"
            assert connection.execute("SELECT note FROM meta").fetchall() == [("old",)]
        assert version_and_tables(older)[0] == version


def test_a_new_journal_is_the_same_as_one_brought_up_to_date(
    older: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    new = tmp_path_factory.mktemp("new")
    release(monkeypatch, STEP)
    for state in (older, new):
        with opened(state):
            pass
    assert version_and_tables(older) == version_and_tables(new)


def test_jobs_that_ended_before_their_order_was_kept_are_in_that_of_their_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(journal_schema, "MIGRATIONS", journal_schema.MIGRATIONS[:5])
        patch.setattr(journal_schema, "VERSION", 5)
        with opened(tmp_path) as connection:
            connection.executemany(
                "INSERT INTO jobs (id, hash, name, category, priority, state, accepted_at,"
                " updated_at, finished_at) VALUES (?1, ?1, '', '', 0, ?2, 1, 1, ?3)",
                [
                    ("first", "done", 10),
                    ("third", "failed", 30),
                    ("alive", "queued", None),
                    ("fourth", "cancelled", 30),
                    ("second", "done", 20),
                ],
            )
    with opened(tmp_path) as connection:
        journal_jobs.cancel(connection, JobId("alive"), now=5)
        recent = [job.id for job in journal_job_queries.recent(connection, 9)]
    assert recent == ["alive", "fourth", "third", "second", "first"]


def test_a_step_that_fails_halfway_leaves_nothing_and_the_steps_before_it_stand(
    older: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, tables = version_and_tables(older)
    with monkeypatch.context() as patch:
        release(
            patch, "CREATE TABLE one (a)", "CREATE TABLE two (a); INSERT INTO missing VALUES (1)"
        )
        with pytest.raises(Exception, match="missing"):
            Journal.open(older)
        assert version_and_tables(older) == (version + 1, tables | {"CREATE TABLE one (a)"})
    # Mended in a later release, it goes on from there.
    release(monkeypatch, "CREATE TABLE one (a)", "CREATE TABLE two (a)")
    with opened(older) as connection:
        assert meta(connection, "kept") == "as it was"
    assert version_and_tables(older)[0] == version + 2
