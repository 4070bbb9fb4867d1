"""Relocations are recorded group by group, moved by the table only, and taken up after a kill."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qbm_trio.adapters import journal_jobs
from qbm_trio.adapters import journal_relocations as ops
from qbm_trio.adapters.journal import Journal
from qbm_trio.adapters.journal_facts import counters
from qbm_trio.adapters.journal_relocations import AlreadyRelocating
from qbm_trio.core.model import JobId, Notification, TorrentId
from qbm_trio.core.relocation import (
    BACK,
    FORWARD,
    MOVES,
    OPEN,
    UNDONE_BY_RESTART,
    Event,
    IllegalStep,
    Relocation,
    RunId,
    Step,
)
from qbm_trio.core.space_runs import FailedGroup, RunFigures, SpaceRun, SparedSum
from tests.rig.journals import running

RUN = RunId("run")
LAST = [Step.PREPARING, Step.STOPPING, Step.REPOINTING, Step.CHECKING, Step.RESTORING, Step.WAITING, Step.DELETING]  # fmt: skip  # noqa: E501


def new(letter: str, *, run: RunId = RUN, group: str = "g") -> Relocation:
    return Relocation(
        run_id=run,
        group=group,
        torrent_id=TorrentId(letter * 40),
        name=f"Ünï 🐉 {letter}",
        from_path="/ssd/tv",
        to_path="/hdd/tv",
        was_running=letter != "b",
        force_start=letter == "a",
        auto_management=letter != "a",
        download_path="/incomplete",
        bytes=2**50,
    )


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = Journal.open(tmp_path)._connection
    yield connection
    connection.close()


def go(db: sqlite3.Connection, to: Step, *rows: Relocation) -> list[Relocation]:
    """Lead them, all at the same step before it, up to a step on the way to the HDD."""
    moved = list(rows)
    while moved[0].step is not to:
        moved = ops.step(
            db, [r.id for r in moved], Event.ADVANCE, expected=moved[0].step, now=100.0
        )
    return moved


def test_a_group_is_recorded_whole_with_every_field_and_nothing_has_been_done_yet(
    db: sqlite3.Connection,
) -> None:
    group = [new("a"), new("b")]
    rows = ops.begin(db, group, now=7.5)
    assert rows == [replace(r, id=n, begun_at=7.5, updated_at=7.5) for n, r in enumerate(group, 1)]
    assert ops.open_ones(db) == rows == ops.group_rows(db, RUN, "g")
    flags = [(row.was_running, row.force_start, row.auto_management) for row in rows]
    assert repr(flags) == "[(True, True, False), (False, False, True)]", "not as 1 and 0"
    assert {row.step for row in rows} == {Step.PREPARING}
    assert ops.last_of(db, group[0].torrent_id) == rows[0]
    assert ops.last_of(db, TorrentId("f" * 40)) is None


def test_a_torrent_is_relocated_once_at_a_time_and_a_refused_group_leaves_nothing(
    db: sqlite3.Connection,
) -> None:
    (open_one,) = ops.begin(db, [new("a")], now=1)
    with pytest.raises(AlreadyRelocating, match="Ünï 🐉 a"):
        ops.begin(db, [new("b", group="h"), new("a", group="h")], now=2)
    assert ops.open_ones(db) == [open_one]
    # The table holds it too, whatever the code does.
    columns = ops._COLUMNS.replace('"id"', "NULL")
    with pytest.raises(sqlite3.IntegrityError):
        db.execute(f"INSERT INTO relocations SELECT {columns} FROM relocations")
    ops.step(db, [open_one.id], Event.GONE, expected=Step.PREPARING, now=3)
    (again,) = ops.begin(db, [new("a")], now=4)
    assert ops.last_of(db, again.torrent_id) == again


@pytest.mark.parametrize("step", sorted(OPEN))
def test_open_means_the_same_to_the_journal_and_to_the_table(
    db: sqlite3.Connection, step: Step
) -> None:
    (row,) = ops.begin(db, [new("a")], now=1)
    for at in Step:
        db.execute("UPDATE relocations SET step = ?", (at,))
        assert bool(ops.open_ones(db)) == (at in OPEN)
    db.execute("UPDATE relocations SET step = ?", (step,))
    with pytest.raises(AlreadyRelocating):
        ops.begin(db, [new("a")], now=2)
    assert ops.get(db, row.id).step is step


def test_a_life_to_its_end_is_recorded_and_counted(db: sqlite3.Connection) -> None:
    rows = go(db, Step.CHECKING, *ops.begin(db, [new("a"), new("b")], now=1))
    assert all(row.checked_at is None for row in rows)
    rows = ops.step(db, [r.id for r in rows], Event.ADVANCE, expected=Step.CHECKING, now=200.0)
    assert [(r.step, r.checked_at, r.updated_at) for r in rows] == [
        (Step.RESTORING, 200.0, 200.0)
    ] * 2
    rows = go(db, Step.DELETING, *rows)
    assert all((row.checked_at, row.begun_at) == (200.0, 1) for row in rows)
    for row in rows:
        ops.step(db, [row.id], Event.ADVANCE, expected=Step.DELETING, now=300.0, freed_bytes=2**40)
    assert ops.open_ones(db) == []
    assert {r.step for r in ops.group_rows(db, RUN, "g")} == {Step.DONE}
    assert counters(db) == {"torrents_relocated": 2, "bytes_freed": 2**41}


def test_a_step_that_is_not_the_expected_one_any_more_is_refused(db: sqlite3.Connection) -> None:
    (row,) = go(db, Step.STOPPING, *ops.begin(db, [new("a")], now=1))
    with pytest.raises(IllegalStep, match="is stopping, not preparing any more"):
        ops.step(db, [row.id], Event.ADVANCE, expected=Step.PREPARING, now=2)
    with pytest.raises(IllegalStep, match="a relocation that is stopping cannot moved"):
        ops.step(db, [row.id], Event.MOVED, expected=Step.STOPPING, now=2)
    with pytest.raises(IllegalStep, match="no relocation 99"):
        ops.step(db, [99], Event.ADVANCE, expected=Step.STOPPING, now=2)
    assert ops.get(db, row.id) == row


async def test_of_a_step_that_one_of_many_cannot_take_nothing_is_recorded(tmp_path: Path) -> None:
    async with running(tmp_path) as journal:
        rows = await journal.do(partial(ops.begin, group=[new("a"), new("b")], now=1))
        ahead = partial(ops.step, event=Event.ADVANCE, expected=Step.PREPARING, now=2)
        await journal.do(partial(ahead, ids=[rows[1].id]))
        with pytest.raises(IllegalStep):
            await journal.do(partial(ahead, ids=[rows[0].id, rows[1].id]))
        found = await journal.do(ops.open_ones)
    assert [row.step for row in found] == [Step.PREPARING, Step.STOPPING]


async def test_no_torrent_of_a_group_is_deleted_while_another_can_still_go_back(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as journal:

        def two_waiting(db: sqlite3.Connection) -> list[Relocation]:
            others = ops.begin(db, [new("c", group="other")], now=1)
            assert others[0].step is Step.PREPARING
            return go(db, Step.WAITING, *ops.begin(db, [new("a"), new("b")], now=1))

        rows = await journal.do(two_waiting)
        delete = partial(ops.step, event=Event.ADVANCE, expected=Step.WAITING, now=2)
        with pytest.raises(IllegalStep, match=r"nothing of the group of .* a' may be deleted"):
            await journal.do(partial(delete, ids=[rows[0].id]))
        assert {r.step for r in await journal.do(ops.open_ones)} == {Step.WAITING, Step.PREPARING}
        moved = await journal.do(partial(delete, ids=[row.id for row in rows]))
        assert {row.step for row in moved} == {Step.DELETING}
        # From here nothing goes back; it may only end early.
        undo = partial(ops.undo_group, run_id=RUN, group="g", now=3, error="no")
        assert {row.step for row in await journal.do(undo)} == {Step.MOVED}


@pytest.mark.parametrize("end", [Event.GONE, Event.FAIL])
def test_a_group_may_be_deleted_without_a_torrent_that_is_gone_but_not_without_one_that_went_back(
    db: sqlite3.Connection, end: Event
) -> None:
    a, b = go(db, Step.WAITING, *ops.begin(db, [new("a"), new("b")], now=1))
    ops.step(db, [a.id], end, expected=Step.WAITING, now=2)
    if end is Event.GONE:
        assert go(db, Step.DELETING, b)
    else:
        with pytest.raises(IllegalStep, match="a' is returning"):
            go(db, Step.DELETING, b)


def test_a_group_goes_back_together_and_each_says_why(db: sqlite3.Connection) -> None:
    _a, b, c = ops.begin(db, [new("a"), new("b"), new("c")], now=1)
    (alone,) = ops.begin(db, [new("d", group="h")], now=1)
    go(db, Step.CHECKING, b)
    ops.step(db, [c.id], Event.FAIL, expected=Step.PREPARING, now=2, error="first")
    rows = ops.undo_group(db, RUN, "g", now=3, error="the recheck of b failed")
    assert rows == ops.group_rows(db, RUN, "g")
    assert [(r.step, r.error, r.updated_at) for r in rows] == [
        (Step.UNDOING, "the recheck of b failed", 3),
        (Step.RETURNING, "the recheck of b failed", 3),
        (Step.UNDOING, "first", 2),
    ]
    assert ops.get(db, alone.id) == alone
    (row,) = ops.step(db, [b.id], Event.FAIL, expected=Step.RETURNING, now=4, error="no room")
    assert row.error == "the recheck of b failed; then no room"
    (row,) = ops.step(db, [b.id], Event.MOVED, expected=Step.UNDOING, now=5)
    assert (row.step, row.error) == (Step.MOVED, "the recheck of b failed; then no room")
    assert counters(db) == {}


@pytest.mark.parametrize("step", LAST)
def test_a_restart_undoes_what_is_not_past_setlocation_and_takes_the_rest_up(
    tmp_path: Path, step: Step
) -> None:
    """Killed right after the step was recorded: the file is read by another process' eyes."""
    db = Journal.open(tmp_path)._connection
    go(db, step, *ops.begin(db, [new("a"), new("b")], now=1))
    db.close()
    db = Journal.open(tmp_path)._connection
    rows = ops.recover(db, now=500)
    assert len(rows) == 2
    if step in UNDONE_BY_RESTART:
        back = Step.RETURNING if step is Step.REPOINTING else Step.UNDOING
        assert [(r.step, r.updated_at) for r in rows] == [(back, 500)] * 2
        assert all(r.error == f"the service stopped while it was {step}" for r in rows)
    else:
        assert [(r.step, r.error) for r in rows] == [(step, None)] * 2
    assert ops.recover(db, now=600) == rows, "a second kill changes nothing"
    db.close()


def test_after_a_restart_a_group_goes_back_when_one_of_it_does(db: sqlite3.Connection) -> None:
    a, b, c = ops.begin(db, [new("a"), new("b"), new("c")], now=1)
    (alone,) = ops.begin(db, [new("d", group="h")], now=1)
    go(db, Step.WAITING, a)
    go(db, Step.REPOINTING, b)
    go(db, Step.CHECKING, c)
    go(db, Step.CHECKING, alone)
    rows = ops.recover(db, now=5)
    assert [row.step for row in rows] == [Step.RETURNING] * 3 + [Step.CHECKING]
    assert rows[0].error == f"its group ends with {b.name!r}"
    assert rows[1].error == "the service stopped while it was repointing"


def test_after_a_restart_a_group_goes_back_also_with_one_that_had_ended_before(
    db: sqlite3.Connection,
) -> None:
    a, b = ops.begin(db, [new("a"), new("b")], now=1)
    go(db, Step.WAITING, a)
    ops.step(db, [b.id], Event.FAIL, expected=Step.PREPARING, now=2, error="no")
    ops.step(db, [b.id], Event.ADVANCE, expected=Step.UNDOING, now=3)
    assert [row.step for row in ops.recover(db, now=5)] == [Step.RETURNING]


Happening = tuple[str, int, Event]
LETTERS = "abc"
happenings = st.lists(
    st.one_of(
        st.tuples(st.just("one"), st.integers(1, 3), st.sampled_from(Event)),
        st.tuples(st.just("all"), st.just(0), st.just(Event.ADVANCE)),
        st.tuples(st.just("undo"), st.just(0), st.just(Event.FAIL)),
        st.tuples(st.just("restart"), st.just(0), st.just(Event.INTERRUPT)),
    ),
    max_size=60,
)


def attempt(db: sqlite3.Connection, operation: Callable[[], object]) -> None:
    """As the journal does it: what an operation refused, it has not done."""
    db.execute("SAVEPOINT operation")
    try:
        operation()
    except IllegalStep:
        db.execute("ROLLBACK TO operation")
    db.execute("RELEASE operation")


@settings(deadline=None, max_examples=60)
@example([*[("all", 0, Event.ADVANCE)] * 6, ("one", 1, Event.ADVANCE), ("undo", 0, Event.FAIL)])
@given(happenings)
def test_whatever_happens_nothing_of_a_group_is_deleted_while_one_may_go_back(
    happened: list[Happening],
) -> None:
    with TemporaryDirectory() as folder:
        db = Journal.open(Path(folder))._connection
        db.execute("PRAGMA synchronous=OFF")
        before = ops.begin(db, [new(letter) for letter in LETTERS], now=0)
        for now, (what, which, event) in enumerate(happened):
            if what == "one":
                row = ops.get(db, which)
                attempt(db, partial(ops.step, db, [which], event, expected=row.step, now=now))
            elif what == "all":
                first = ops.get(db, 1)
                ids = [r.id for r in before if r.step is first.step]
                attempt(db, partial(ops.step, db, ids, event, expected=first.step, now=now))
            elif what == "undo":
                ops.undo_group(db, RUN, "g", now=now, error="no")
            else:
                ops.recover(db, now=now)
            rows = ops.group_rows(db, RUN, "g")
            steps = {row.step for row in rows}
            if steps & {Step.DELETING, Step.DONE}:
                # `MOVED` after that is on the HDD, and keeps its files on the SSD.
                assert not steps & (FORWARD | BACK - {Step.MOVED})
            for was, is_ in zip(before, rows, strict=True):
                moved = [to for (step, _), to in MOVES.items() if step is was.step]
                assert is_.step is was.step or is_.step in moved
            if what == "restart":
                assert not steps & UNDONE_BY_RESTART
                assert not (steps & BACK and steps & FORWARD)
            before = rows
        db.close()


# -- runs


FIGURES = RunFigures(
    freed_bytes=2**45,
    planned_bytes=2**45 + 1,
    shortfall_bytes=5,
    target_met=False,
    relocated=3,
    tiered_first=4,
    failed_groups=21,
    failures=(FailedGroup(name="Ünï 🐉", torrents=2, error="the recheck failed"),),
    spared={
        "pinned": SparedSum(torrents=2, bytes=2**50),
        "frees_nothing": SparedSum(torrents=1, bytes=0),
    },
    problem="told to stop",
)


def test_the_last_run_is_the_newest_and_runs_are_counted(db: sqlite3.Connection) -> None:
    assert ops.last_run(db) is None
    first = SpaceRun(id=RUN, by_hand=True, begun_at=1.25, ended_at=2.5, figures=FIGURES)
    ops.add_run(db, first)
    assert ops.last_run(db) == first
    # The clock was set back meanwhile.
    lost = replace(FIGURES, target_met=True, spared={}, failures=(), problem=None, paused="why")
    second = SpaceRun(id=RunId("second"), by_hand=False, begun_at=0.5, ended_at=0.75, figures=lost)
    ops.add_run(db, second)
    assert ops.last_run(db) == second
    assert counters(db) == {"space_management_runs": 2}


def test_what_ended_long_ago_is_forgotten_but_never_what_is_open_nor_the_last_run(
    db: sqlite3.Connection,
) -> None:
    for n in range(3):
        ops.add_run(
            db,
            SpaceRun(id=RunId(str(n)), by_hand=False, begun_at=n, ended_at=n, figures=FIGURES),
        )
    old, open_one = ops.begin(db, [new("a"), new("b")], now=1)
    ops.step(db, [old.id], Event.GONE, expected=Step.PREPARING, now=2)
    assert ops.prune(db, finished_before=2) == 0
    assert ops.prune(db, finished_before=1e9) == 1
    assert ops.group_rows(db, RUN, "g") == [open_one]
    assert [run for (run,) in db.execute("SELECT id FROM space_runs")] == ["2"]


def test_what_failed_is_told_from_what_a_stop_interrupted(db: sqlite3.Connection) -> None:
    a, b = ops.begin(db, [new("a"), new("b")], now=1)
    (c,) = ops.begin(db, [new("c", group="h")], now=1)
    (a,) = ops.step(
        db, [a.id], Event.FAIL, expected=Step.PREPARING, now=2, error="bad", tier_anew=True
    )
    assert (a.failed, a.tier_anew) == (True, True)
    rows = ops.undo_group(db, RUN, "g", now=3, error="with a")
    assert [(row.failed, row.tier_anew) for row in rows] == [(True, True), (True, False)]
    assert ops.interrupt(db, now=4)[:2] == rows, "on their way back already, to be finished too"
    c = ops.get(db, c.id)
    assert (c.step, c.failed) == (Step.UNDOING, False)
    assert "the service stopped" in (c.error or "")
    for row in (a, b, c):
        ops.step(db, [row.id], Event.ADVANCE, expected=Step.UNDOING, now=5)
    newest = ops.newest(db)
    assert {id_: row.failed for id_, row in newest.items()} == {
        a.torrent_id: True, b.torrent_id: True, c.torrent_id: False,
    }  # fmt: skip


def test_a_torrent_that_has_a_job_is_not_relocated(db: sqlite3.Connection) -> None:
    journal_jobs.admit(db, Notification(hash=new("a").torrent_id), job_id=JobId("j"), now=1)
    with pytest.raises(ops.AlreadyRelocating, match="has a job: j is queued"):
        ops.begin(db, [new("b"), new("a")], now=2)
    assert ops.open_ones(db) == []
