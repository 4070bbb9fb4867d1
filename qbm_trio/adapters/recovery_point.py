"""A recovery point: one JSON file beside the journal that alone can restore the queue.

Written whole to a temporary name, synced, then renamed: a reader never sees half
of one. The newest few are kept.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import trio

from ..core.errors import JournalUnwritable
from . import journal_copies, journal_jobs
from .journal import Journal

FORMAT: Final = 1
KEPT: Final = 5
PATTERN: Final = "recovery-*.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedState:
    """A recovery point that is on disk."""

    path: str
    counts: Mapping[str, int]  #: what is in it: jobs, copies, copy_files
    saved_at: float


def document(connection: sqlite3.Connection, *, now: float) -> dict[str, Any]:
    """Everything that must outlive the journal. An operation for `Journal.do`."""
    copies = [
        journal_copies.find(connection, torrent_id)
        for (torrent_id,) in connection.execute("SELECT torrent_id FROM copies ORDER BY 1")
    ]
    return {
        "format": FORMAT,
        "saved_at": now,
        "meta": dict(connection.execute("SELECT name, value FROM meta").fetchall()),
        "counters": journal_jobs.counters(connection),
        "jobs": [dataclasses.asdict(job) for job in journal_jobs.alive(connection)],
        "copies": [
            dataclasses.asdict(copy)
            | {
                "files": [
                    dataclasses.asdict(f) for f in journal_copies.files(connection, copy.torrent_id)
                ]
            }
            for copy in copies
            if copy is not None
        ],
    }


async def save(journal: Journal, *, now: float, limiter: trio.CapacityLimiter) -> SavedState:
    """Write a recovery point and drop the oldest beyond `KEPT`.

    Cancellation: honoured between the steps; the file is then whole or absent.

    Raises:
        JournalUnwritable: it could not be written; earlier ones are untouched.
    """
    content = await journal.do(lambda connection: document(connection, now=now))
    counts = {
        "jobs": len(content["jobs"]),
        "copies": len(content["copies"]),
        "copy_files": sum(len(copy["files"]) for copy in content["copies"]),
    }
    folder = journal.path.parent
    path = await trio.to_thread.run_sync(_write, folder, content, now, limiter=limiter)
    return SavedState(path=str(path), counts=counts, saved_at=now)


def _write(folder: Path, content: dict[str, Any], now: float) -> Path:
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    path = folder / f"recovery-{stamp}.json"
    part = folder / ".recovery.part"  # one name: a killed save leaves one file, once
    try:
        with part.open("w", encoding="utf-8") as stream:
            json.dump(content, stream, ensure_ascii=True, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        # This one stays even if the clock was ahead when the others were named.
        others = sorted(other for other in folder.glob(PATTERN) if other != path)
        for old in others[: 1 - KEPT]:
            old.unlink(missing_ok=True)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise JournalUnwritable(
            f"the recovery point {path} cannot be written: {error.strerror}; "
            "free space on the disk of STATE_DIR or mend it, then ask again"
        ) from error
    return path
