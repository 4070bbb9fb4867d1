"""Relocations and the runs of space management: operations for `journal.Journal`.

Each takes the connection first and runs inside the writer's transaction. Moves go
through the table of ``core/relocation.py``, and so do the rules for a group: its
torrents go on to the deletion together, and back together.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Final

from ..core.errors import QbmError
from ..core.model import JobState, TorrentId
from ..core.relocation import (
    BACK,
    BEGINS,
    CAN_STOP,
    UNDONE_BY_RESTART,
    Event,
    IllegalStep,
    Relocation,
    RunId,
    Step,
    after,
    may_delete,
)
from ..core.space_runs import FailedGroup, RunFigures, SpaceRun, SparedSum
from .journal_facts import count
from .journal_job_queries import alive_with

_NAMES: Final = tuple(Relocation.__dataclass_fields__)
_COLUMNS: Final = ", ".join(f'"{name}"' for name in _NAMES)
STILL_OPEN: Final = "step NOT IN ('done', 'undone', 'moved', 'gone')"
_FLAGS: Final = ("was_running", "force_start", "auto_management", "failed", "tier_anew")


class AlreadyRelocating(QbmError):
    """A torrent of the group has an open relocation or a live job; nothing was recorded."""

    code = "already_relocating"


# -- relocations


def begin(
    connection: sqlite3.Connection,
    group: Sequence[Relocation],
    *,
    now: float,
    at: Step = Step.PREPARING,
) -> list[Relocation]:
    """Record the torrents of a group, all or none, before anything is done to the first.

    Args:
        connection: the writer's.
        group: what is to be relocated.
        now: epoch seconds UTC.
        at: the step to begin with, one of `BEGINS`. Later than the first, a job that does
            not run is no hindrance: it waits for the relocation's end.

    Returns:
        The rows as they are now, with their ids.

    Raises:
        AlreadyRelocating: one of them is being relocated, or copied to the HDD.
        IllegalStep: no relocation begins with this step.
    """
    if at not in BEGINS:
        raise IllegalStep(f"no relocation begins with {at}")
    torrent_ids = [relocation.torrent_id for relocation in group]
    marks = ", ".join("?" * len(group))
    taken = _select(connection, f"WHERE {STILL_OPEN} AND torrent_id IN ({marks})", torrent_ids)
    if taken:
        raise AlreadyRelocating(f"{taken[0].name!r} is being relocated already: {taken[0].step}")
    jobs = alive_with(connection, torrent_ids)
    if at is not Step.PREPARING:
        jobs = [job for job in jobs if job.state is JobState.RUNNING]
    if jobs:
        raise AlreadyRelocating(f"{jobs[0].name!r} has a job: {jobs[0].id} is {jobs[0].state}")
    return [insert(connection, replace(row, step=at), now=now) for row in group]


def insert(connection: sqlite3.Connection, relocation: Relocation, *, now: float) -> Relocation:
    """Record a relocation at its first step; the row as it is now, with its id."""
    values = asdict(relocation) | {
        "id": None,  # SQLite gives one
        "error": None,
        "begun_at": now,
        "updated_at": now,
        "checked_at": None,
        "failed": False,
        "tier_anew": False,
        "freed_bytes": 0,
    }
    (row,) = connection.execute(
        f"INSERT INTO relocations ({_COLUMNS})"
        f" VALUES ({', '.join('?' * len(_NAMES))}) RETURNING {_COLUMNS}",
        [values[name] for name in _NAMES],
    )
    return _relocation(row)


def step(
    connection: sqlite3.Connection,
    ids: Iterable[int],
    event: Event,
    *,
    expected: Step,
    now: float,
    error: str | None = None,
    tier_anew: bool = False,
    freed_bytes: int = 0,
) -> list[Relocation]:
    """Move relocations from ``expected`` to what the table says, all or none.

    Args:
        connection: the writer's.
        ids: of rows; the torrents of a group go on to `Step.DELETING` in one call.
        event: what happened to them.
        expected: the step at which the caller knows them.
        now: epoch seconds UTC.
        error: why; added to what the row says already.
        tier_anew: the copy is not what was verified; kept once it is said.
        freed_bytes: by the deletion; added to what the row says already.

    Returns:
        The rows as they are now.

    Raises:
        IllegalStep: not in the table; or a row is at another step by now; or another
            torrent of the group is not ready for the deletion. Nothing was recorded.
    """
    target = after(expected, event)
    moved = []
    for relocation_id in ids:
        was = get(connection, relocation_id)
        if was.step is not expected:
            raise IllegalStep(
                f"the relocation {relocation_id} of {was.name!r} is {was.step},"
                f" not {expected} any more; it cannot {event}"
            )
        was = replace(
            was,
            failed=was.failed or event in (Event.FAIL, Event.MOVED),
            tier_anew=was.tier_anew or tier_anew,
            freed_bytes=was.freed_bytes + freed_bytes,
        )
        moved.append(_move(connection, was, target, now=now, error=error))
    if (expected, target) == (Step.WAITING, Step.DELETING):
        for relocation in moved:
            _check_group(connection, relocation)
    return moved


def undo_group(
    connection: sqlite3.Connection, run_id: RunId, group: str, *, now: float, error: str
) -> list[Relocation]:
    """Turn back what is still on its way to the HDD; return the whole group.

    Once its deletion has begun there is no way back: nothing more is deleted then.
    """
    return [
        _move(
            connection, replace(row, failed=True), after(row.step, Event.FAIL), now=now, error=error
        )
        if row.step in CAN_STOP
        else row
        for row in group_rows(connection, run_id, group)
    ]


def recover(connection: sqlite3.Connection, *, now: float) -> list[Relocation]:
    """At start: what a restart undoes is turned back, its group with it; return all open ones.

    The caller takes the step of each again.
    """
    for row in open_ones(connection):
        if row.step in UNDONE_BY_RESTART:
            target = after(row.step, Event.INTERRUPT)
            why = f"the service stopped while it was {row.step}"
            _move(connection, row, target, now=now, error=why)
    for run_id, group in {(r.run_id, r.group) for r in open_ones(connection) if r.step in CAN_STOP}:
        others = [row for row in group_rows(connection, run_id, group) if row.step in BACK]
        if others:
            why = f"its group ends with {others[0].name!r}"
            undo_group(connection, run_id, group, now=now, error=why)
    return open_ones(connection)


def interrupt(connection: sqlite3.Connection, *, now: float) -> list[Relocation]:
    """The service stops: what is not past ``setLocation`` is to be undone.

    Returns:
        That, and what was being undone already.
    """
    for row in open_ones(connection):
        if row.step in (Step.PREPARING, Step.STOPPING):
            target = after(row.step, Event.INTERRUPT)
            why = f"the service stopped while it was {row.step}"
            _move(connection, row, target, now=now, error=why)
    return [row for row in open_ones(connection) if row.step is Step.UNDOING]


def get(connection: sqlite3.Connection, relocation_id: int) -> Relocation:
    """One relocation.

    Raises:
        IllegalStep: there is none with this id.
    """
    rows = _select(connection, "WHERE id = ?", [relocation_id])
    if not rows:
        raise IllegalStep(f"there is no relocation {relocation_id}")
    return rows[0]


def open_ones(connection: sqlite3.Connection) -> list[Relocation]:
    """Those with work left, oldest first."""
    return _select(connection, f"WHERE {STILL_OPEN} ORDER BY id")


def group_rows(connection: sqlite3.Connection, run_id: RunId, group: str) -> list[Relocation]:
    """The torrents of one group of a run, open or ended."""
    return _select(connection, 'WHERE run_id = ? AND "group" = ? ORDER BY id', [run_id, group])


def last_of(connection: sqlite3.Connection, torrent_id: TorrentId) -> Relocation | None:
    """The torrent's newest relocation, open or ended."""
    rows = _select(connection, "WHERE torrent_id = ? ORDER BY id DESC LIMIT 1", [torrent_id])
    return rows[0] if rows else None


def newest(connection: sqlite3.Connection) -> dict[TorrentId, Relocation]:
    """Each torrent's newest relocation, open or ended."""
    rows = _select(connection, "WHERE id IN (SELECT max(id) FROM relocations GROUP BY torrent_id)")
    return {row.torrent_id: row for row in rows}


def failures(connection: sqlite3.Connection, *, since: float) -> dict[TorrentId, int]:
    """How many relocations of each torrent have failed since then, if any."""
    rows = connection.execute(
        "SELECT torrent_id, count(*) FROM relocations WHERE failed AND updated_at > ?"
        " GROUP BY torrent_id",
        (since,),
    )
    return {TorrentId(id_): number for id_, number in rows}


# -- runs


def add_run(connection: sqlite3.Connection, run: SpaceRun) -> None:
    """Record a run that has ended, as the last one, and count it; a dry run is none."""
    connection.execute(
        "INSERT INTO space_runs (id, by_hand, begun_at, ended_at, figures) VALUES (?, ?, ?, ?, ?)",
        (run.id, run.by_hand, run.begun_at, run.ended_at, json.dumps(asdict(run.figures))),
    )
    count_run(connection)


def count_run(connection: sqlite3.Connection) -> None:
    """Count a run that has ended."""
    count(connection, "space_management_runs")


def last_run(connection: sqlite3.Connection) -> SpaceRun | None:
    """The newest that was recorded; one in which the service was killed has left no trace."""
    row = connection.execute(
        "SELECT id, by_hand, begun_at, ended_at, figures FROM space_runs ORDER BY seq DESC LIMIT 1"
    ).fetchone()
    if row is None:
        return None
    figures = json.loads(row[4])
    figures["spared"] = {r: SparedSum(**total) for r, total in figures["spared"].items()}
    figures["failures"] = tuple(FailedGroup(**group) for group in figures["failures"])
    return SpaceRun(
        id=RunId(row[0]),
        by_hand=bool(row[1]),
        begun_at=row[2],
        ended_at=row[3],
        figures=RunFigures(**figures),
    )


def prune(connection: sqlite3.Connection, *, finished_before: float) -> int:
    """Forget relocations that ended before a time, and runs but the last; return how many."""
    gone = connection.execute(
        f"DELETE FROM relocations WHERE updated_at < ? AND NOT {STILL_OPEN}", (finished_before,)
    ).rowcount
    connection.execute(
        "DELETE FROM space_runs WHERE begun_at < ? AND seq < (SELECT max(seq) FROM space_runs)",
        (finished_before,),
    )
    return gone


# -- rows

_CHECKED: Final = {
    (Step.CHECKING, Step.RESTORING),
    (Step.REPAIRING, Step.DELETING),
    (Step.REPEATING, Step.DONE),
}
"""Moves that mean that qBittorrent's recheck on the HDD has passed."""


def _move(
    connection: sqlite3.Connection, was: Relocation, to: Step, *, now: float, error: str | None
) -> Relocation:
    if to is Step.DONE and was.step is not Step.REPEATING:  # which was counted before
        count(connection, "torrents_relocated")
        count(connection, "bytes_freed", was.freed_bytes)
    said = "; then ".join(filter(None, (was.error, error))) or None
    (row,) = connection.execute(
        "UPDATE relocations SET step = ?, updated_at = ?, error = ?, checked_at = ?,"
        f" failed = ?, tier_anew = ?, freed_bytes = ? WHERE id = ? RETURNING {_COLUMNS}",
        (
            to,
            now,
            said,
            now if (was.step, to) in _CHECKED else was.checked_at,
            was.failed,
            was.tier_anew,
            was.freed_bytes,
            was.id,
        ),
    )
    return _relocation(row)


def _check_group(connection: sqlite3.Connection, relocation: Relocation) -> None:
    rows = group_rows(connection, relocation.run_id, relocation.group)
    if not may_delete(row.step for row in rows):
        late = next(row for row in rows if not may_delete([row.step]))
        raise IllegalStep(
            f"nothing of the group of {relocation.name!r} may be deleted:"
            f" {late.name!r} is {late.step}"
        )


def _select(
    connection: sqlite3.Connection, rest: str, values: Sequence[object] = ()
) -> list[Relocation]:
    rows = connection.execute(f"SELECT {_COLUMNS} FROM relocations {rest}", tuple(values))
    return [_relocation(row) for row in rows]


def _relocation(row: tuple[object, ...]) -> Relocation:
    values = dict(zip(_NAMES, row, strict=True))
    values["step"] = Step(str(values["step"]))
    values |= {name: bool(values[name]) for name in _FLAGS}
    return Relocation(**values)  # type: ignore[arg-type]  # the schema holds the types
