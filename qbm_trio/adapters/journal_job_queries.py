"""What can be asked of the journal's jobs: operations for `journal.Journal`.

They change nothing; ``journal_jobs.py`` does. Each takes the connection first.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final

from ..core.errors import NoSuchJob
from ..core.model import Job, JobId, JobState, OnConflict, Outcome, Phase, WaitReason

COLUMNS: Final = ", ".join(Job.__dataclass_fields__)
ALIVE: Final = "state IN ('queued', 'waiting', 'running')"
ENDED: Final = "end_seq IS NOT NULL"
IN_ORDER: Final = "ORDER BY head DESC, priority DESC, seq"


def job_of(row: tuple[object, ...]) -> Job:
    """The job in a row of `COLUMNS`."""
    values = dict(zip(Job.__dataclass_fields__, row, strict=True))
    for name, kind in _ENUMS.items():
        if values[name] is not None:
            values[name] = kind(str(values[name]))
    values["head"] = bool(values["head"])
    return Job(**values)  # type: ignore[arg-type]  # the schema holds the types


_ENUMS: Final[Mapping[str, type[StrEnum]]] = {
    "state": JobState,
    "phase": Phase,
    "wait_reason": WaitReason,
    "outcome": Outcome,
    "on_conflict": OnConflict,
}


def select(connection: sqlite3.Connection, rest: str, values: Iterable[object] = ()) -> list[Job]:
    """The jobs that a query finds; ``rest`` is what follows ``FROM jobs``."""
    rows = connection.execute(f"SELECT {COLUMNS} FROM jobs {rest}", tuple(values))
    return [job_of(row) for row in rows]


def get(connection: sqlite3.Connection, job_id: JobId) -> Job:
    """One job.

    Raises:
        NoSuchJob: there is none with this id.
    """
    found = select(connection, "WHERE id = ?", (job_id,))
    if not found:
        raise NoSuchJob(f"there is no job {job_id}; GET /jobs lists those the journal has")
    return found[0]


def newest(
    connection: sqlite3.Connection,
    *,
    state: JobState | None = None,
    limit: int = 100,
    before: JobId | None = None,
) -> list[Job]:
    """Jobs, newest first, optionally those admitted before the job ``before``.

    Raises:
        NoSuchJob: ``before`` is not in the journal.
    """
    where, values = ["1"], list[object]()
    if state is not None:
        where.append("state = ?")
        values.append(state)
    if before is not None:
        where.append("seq < ?")
        values.append(get(connection, before).seq)
    return select(
        connection, f"WHERE {' AND '.join(where)} ORDER BY seq DESC LIMIT ?", (*values, limit)
    )


def recent(connection: sqlite3.Connection, limit: int) -> list[Job]:
    """The jobs that ended last, the last one first."""
    return select(connection, f"WHERE {ENDED} ORDER BY end_seq DESC LIMIT ?", (limit,))


def next_end(connection: sqlite3.Connection) -> int:
    """The number of the next job that ends: in which order they did, no clock can say."""
    (last,) = connection.execute(f"SELECT max(end_seq) FROM jobs WHERE {ENDED}").fetchone()
    return 1 if last is None else int(last) + 1


def by_state(connection: sqlite3.Connection) -> dict[JobState, int]:
    """How many jobs are in each state, also those in which there is none.

    A walk along an index without a look at the rows: half a millisecond for 10,000.
    """
    counted = connection.execute("SELECT state, count(*) FROM jobs GROUP BY state")
    return dict.fromkeys(JobState, 0) | {JobState(state): count for state, count in counted}


def newest_states(connection: sqlite3.Connection) -> dict[str, tuple[int, JobState]]:
    """How the newest job of each torrent stands, by torrent id; by hash while that is unknown.

    With its ``seq``: of a torrent that was notified by several hashes it tells the newest.
    """
    return {
        key: (seq, JobState(state))
        for key, state, seq in connection.execute(
            # Beside max() SQLite gives the other columns of the same row.
            "SELECT coalesce(torrent_id, hash), state, max(seq) FROM jobs"
            " WHERE state <> 'merged' GROUP BY 1"
        )
    }


def alive(connection: sqlite3.Connection) -> list[Job]:
    """Every job with work to do, in the order of the queue."""
    return select(connection, f"WHERE {ALIVE} {IN_ORDER}")


def alive_with(connection: sqlite3.Connection, hashes: Sequence[str]) -> list[Job]:
    """Live jobs of any of these hashes, notified or resolved, oldest first.

    The indexes are named: with 10,000 live jobs the planner would go through them all.
    """
    marks = ", ".join("?" * len(hashes))
    return select(
        connection,
        "WHERE seq IN ("
        f"SELECT seq FROM jobs INDEXED BY jobs_alive WHERE {ALIVE} AND hash IN ({marks})"
        " UNION SELECT seq FROM jobs INDEXED BY jobs_by_torrent"
        f" WHERE torrent_id IN ({marks}) AND {ALIVE}) ORDER BY seq",
        (*hashes, *hashes),
    )
