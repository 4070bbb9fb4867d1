"""Up to where the copy of a job is on the HDD: operations for `journal.Journal`.

A checkpoint is recorded after what it says has been synced, and forgotten before
anything of it is removed. One that ends with its job is forgotten by `journal_jobs.move`.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from ..core.model import JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What an earlier try of a job has copied, proven and synced."""

    fingerprint: str  #: of what it was about to copy; of anything else it says nothing
    position: int  #: in the torrent's stream: all before it is on the HDD


def find(connection: sqlite3.Connection, job_id: JobId) -> Checkpoint | None:
    """The last one of a job."""
    row = connection.execute(
        "SELECT fingerprint, position FROM checkpoints WHERE job_id = ?", (job_id,)
    ).fetchone()
    return None if row is None else Checkpoint(fingerprint=row[0], position=row[1])


def record(connection: sqlite3.Connection, job_id: JobId, checkpoint: Checkpoint) -> None:
    """Replace the one before. A job that has ended meanwhile keeps none."""
    connection.execute(
        "INSERT OR REPLACE INTO checkpoints"
        " SELECT id, ?, ? FROM jobs WHERE id = ? AND state = 'running'",
        (checkpoint.fingerprint, checkpoint.position, job_id),
    )


def forget(connection: sqlite3.Connection, job_id: JobId) -> None:
    """Forget it: nothing that is staged counts any more."""
    connection.execute("DELETE FROM checkpoints WHERE job_id = ?", (job_id,))
