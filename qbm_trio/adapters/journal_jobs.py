"""What can be done to the journal's jobs: operations for `journal.Journal`.

Each takes the connection first and runs inside the writer's transaction. Moves
go through the lifecycle table, so that two requests which race end as one
legal move and one `IllegalMove`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Final

from ..core.errors import WrongState
from ..core.lifecycle import ACTIVE, Event, after
from ..core.model import (
    Job,
    JobId,
    JobState,
    Notification,
    OnConflict,
    Outcome,
    Phase,
    TorrentId,
)
from . import journal_checkpoints
from .journal_facts import count
from .journal_job_queries import (
    ALIVE,
    COLUMNS,
    alive,
    alive_with,
    get,
    job_of,
    next_end,
    select,
)

COUNTED: Final = {
    Event.FINISH: "torrents_processed",
    Event.FAIL: "torrents_failed",
    Event.INTERRUPT: "jobs_recovered",
}
"""Counters that a move adds one to, in the same transaction; nothing was done for a
torrent outside the tiers, so it does not count."""


def _update(connection: sqlite3.Connection, job_id: JobId, changes: Mapping[str, object]) -> Job:
    sets = ", ".join(f"{name} = ?" for name in changes)
    (row,) = connection.execute(
        f"UPDATE jobs SET {sets} WHERE id = ? RETURNING {COLUMNS}", (*changes.values(), job_id)
    )
    return job_of(row)


def admit(connection: sqlite3.Connection, n: Notification, *, job_id: JobId, now: float) -> Job:
    """Write a new job, or find the live one of this hash and give it the higher priority.

    The caller knows most duplicates from memory; only the journal knows all of them.
    """
    live = alive_with(connection, (n.hash,))
    if live:
        return raise_priority(connection, live[0].id, n.priority, now=now)
    row = connection.execute(
        "INSERT INTO jobs (id, hash, name, category, priority, state, bytes_total,"
        f" accepted_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING {COLUMNS}",
        (
            job_id,
            n.hash,
            n.name,
            n.category,
            n.priority,
            JobState.QUEUED,
            n.size_bytes,
            now,
            now,
        ),
    ).fetchone()
    return job_of(row)


def move(
    connection: sqlite3.Connection,
    job_id: JobId,
    event: Event,
    *,
    now: float,
    changes: Mapping[str, object] | None = None,
    expected: JobState | None = None,
) -> Job:
    """Let ``event`` happen to a job, with other columns changed along with it.

    Args:
        connection: the writer's.
        job_id: of the job.
        event: what happens.
        now: epoch seconds UTC.
        changes: other columns.
        expected: the state in which the caller knows it, if no other will do.

    Raises:
        NoSuchJob: there is none with this id.
        IllegalMove: the lifecycle table does not allow it now.
        WrongState: it is not in the state that was expected.
    """
    job = get(connection, job_id)
    if expected not in (None, job.state):
        raise WrongState(f"the job {job_id} is {job.state}, not {expected} any more")
    state = after(job.state, event)
    if event in COUNTED and (changes or {}).get("outcome") is not Outcome.OUTSIDE_TIERS:
        count(connection, COUNTED[event])
    columns: dict[str, object] = {
        "state": state,
        "updated_at": now,
        "wait_reason": None,
        "next_at": None,
        **(changes or {}),
    }
    if state is not JobState.RUNNING:
        columns["phase"] = None
    if state not in ACTIVE:
        columns |= {"finished_at": now, "end_seq": next_end(connection), "head": 0}
        journal_checkpoints.forget(connection, job_id)
    return _update(connection, job_id, columns)


def begin(connection: sqlite3.Connection, job_id: JobId, *, now: float) -> Job:
    """A worker takes the job: it is resolving."""
    return move(
        connection,
        job_id,
        Event.TAKE,
        now=now,
        changes={
            "phase": Phase.RESOLVING,
            "head": 0,  # it has had its turn: after a wait it lines up by priority again
            "started_at": now,
            "error": None,
            "error_code": None,
        },
    )


def enter(
    connection: sqlite3.Connection,
    job_id: JobId,
    phase: Phase,
    *,
    now: float,
    changes: Mapping[str, object] | None = None,
) -> Job:
    """Record that a running job begins ``phase``.

    Raises:
        WrongState: it does not run any more: it was cancelled meanwhile.
    """
    job = get(connection, job_id)
    if job.state is not JobState.RUNNING:
        raise WrongState(f"the job {job_id} is {job.state}, it cannot begin {phase}")
    return _update(connection, job_id, {"phase": phase, "updated_at": now, **(changes or {})})


def cancel(
    connection: sqlite3.Connection,
    job_id: JobId,
    *,
    now: float,
    changes: Mapping[str, object] | None = None,
) -> Job:
    """Cancel a job, also a running one that has not begun to publish.

    Raises:
        NoSuchJob: there is none with this id.
        WrongState: it has ended, or its files are being put in place.
    """
    job = get(connection, job_id)
    if job.state not in ACTIVE:
        raise WrongState(f"the job {job_id} is {job.state} already; nothing was changed")
    if job.phase in (Phase.PUBLISHING, Phase.TAGGING):
        raise WrongState(
            f"the job {job_id} is {job.phase}: its verified files are being put in place "
            "and it ends in a moment; nothing was changed"
        )
    return move(connection, job_id, Event.CANCEL, now=now, changes=changes)


def clear(connection: sqlite3.Connection, *, now: float) -> list[JobId]:
    """Clear every job that waits or is queued; return them."""
    ids = [
        JobId(job_id)
        for (job_id,) in connection.execute(
            "SELECT id FROM jobs WHERE state IN ('queued', 'waiting')"
        )
    ]
    for job_id in ids:
        move(connection, job_id, Event.CLEAR, now=now)
    return ids


def again(
    connection: sqlite3.Connection, job_id: JobId, *, on_conflict: OnConflict, now: float
) -> Job:
    """Queue a failed, cancelled or cleared job again, as if it were new.

    Raises:
        NoSuchJob: there is none with this id.
        WrongState: it is in another state, or its torrent has another job alive.
    """
    job = get(connection, job_id)
    if job.state not in (JobState.FAILED, JobState.CANCELLED, JobState.CLEARED):
        raise WrongState(
            f"the job {job_id} is {job.state}; only a failed, cancelled or cleared one "
            "can be queued again"
        )
    others = alive_with(connection, (job.hash, job.torrent_id or job.hash))
    if others:
        raise WrongState(
            f"the torrent has the job {others[0].id} already, which is "
            f"{others[0].state}; nothing was changed"
        )
    # A wish to have it compared: what this job has published is no longer its word alone.
    connection.execute("UPDATE copies SET job_id = '' WHERE job_id = ?", (job_id,))
    return move(
        connection,
        job_id,
        Event.RETRY,
        now=now,
        changes={
            "attempts": 0,
            "on_conflict": on_conflict,
            "error": None,
            "error_code": None,
            "finished_at": None,
            "end_seq": None,
        },
    )


def raise_priority(
    connection: sqlite3.Connection, job_id: JobId, priority: int, *, now: float
) -> Job:
    """Give a job the higher of its own priority and ``priority``."""
    job = get(connection, job_id)
    return _update(connection, job_id, {"priority": max(job.priority, priority), "updated_at": now})


def to_head(connection: sqlite3.Connection, job_id: JobId) -> None:
    """Have a job go before all others: it was running when an older tool stopped."""
    connection.execute("UPDATE jobs SET head = 1 WHERE id = ? AND state <> 'running'", (job_id,))


def resolve(
    connection: sqlite3.Connection,
    job_id: JobId,
    torrent_id: TorrentId,
    *,
    hashes: Iterable[str],
    name: str,
    category: str,
    now: float,
) -> tuple[Job, list[Job]]:
    """Record which torrent a running job is about; two jobs of one torrent become one.

    The later one is merged into the earlier, or into one that runs and is known to be
    this torrent's; the one that stays has the highest priority of them.

    Returns:
        The job as it is now (perhaps `JobState.MERGED`), and the others that changed.
    """
    job = enter(
        connection,
        job_id,
        Phase.RESOLVING,
        now=now,
        changes={"torrent_id": torrent_id, "name": name, "category": category},
    )
    names = sorted({torrent_id, *hashes} - {""})
    others = [o for o in alive_with(connection, names) if o.id != job_id]
    # A later job that runs but has not resolved yet will come here and find this one.
    winner = next(
        (
            o
            for o in others
            if o.seq < job.seq or (o.state is JobState.RUNNING and o.torrent_id == torrent_id)
        ),
        None,
    )
    if winner is not None:
        priority = max(winner.priority, job.priority)
        winner = raise_priority(connection, winner.id, priority, now=now)
        merged = move(connection, job_id, Event.MERGE, now=now, changes={"merged_into": winner.id})
        return merged, [winner]
    changed = [
        move(connection, o.id, Event.MERGE, now=now, changes={"merged_into": job_id})
        for o in others
        if o.state is not JobState.RUNNING
    ]
    priority = max((o.priority for o in changed), default=job.priority)
    if priority > job.priority:
        job = raise_priority(connection, job_id, priority, now=now)
    return job, changed


def recover(connection: sqlite3.Connection, *, now: float) -> list[Job]:
    """At start: jobs that ran go to the head of the queue; return all that are alive."""
    for job in select(connection, "WHERE state = 'running'"):
        move(connection, job.id, Event.INTERRUPT, now=now, changes={"head": 1})
    return alive(connection)


def prune(connection: sqlite3.Connection, *, finished_before: float) -> int:
    """Forget jobs that ended before a time; what was published stays recorded."""
    return connection.execute(
        f"DELETE FROM jobs WHERE finished_at < ? AND NOT {ALIVE}",
        (finished_before,),
    ).rowcount
