"""Open the journal, whatever has become of its files.

One that is damaged, cut off, unreadable or gone is set aside, and a new one takes its
place: made from the newest recovery point that can be read, and from what can still be
read of the damaged files. The new one is whole on the disk before the old ones are
renamed, so that a kill at any moment loses neither.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ..core.errors import JournalUnwritable
from ..core.model import JobState, OnConflict
from ..core.relocation import Step
from . import (
    journal_copies,
    journal_facts,
    journal_job_queries,
    journal_jobs,
    journal_relocations,
    recovery_point,
)
from .journal import FILE_NAME, Journal
from .journal_damage import JournalDamaged
from .journal_salvage import Row, salvage
from .journal_schema import migrate
from .recovery_point import sync_folder

log = logging.getLogger(__name__)

BUILDING: Final = f"{FILE_NAME}.restoring"  #: half of one, of no use after a kill
BUILT: Final = f"{FILE_NAME}.restored"  #: whole; takes the journal's place
RESTORED_AT: Final = "restored_at"  #: a fact in it, until what it may lack was looked for
DAMAGED: Final = f"{FILE_NAME}.damaged"  #: followed by the time at which it was set aside
_LATE_S: Final = 3600.0
"""So much earlier than a recovery point one may have finished that had no job in it yet."""
SCRATCH: Final = f"{FILE_NAME}.salvage"  #: what can be read of a damaged one; removed again


def open_journal(state_dir: Path, *, now: float) -> Journal:
    """Open the journal; restore it first if need be. Blocks.

    Args:
        state_dir: nobody else may use it now.
        now: epoch seconds UTC; names what is set aside.

    Raises:
        JournalTooNew: a newer program wrote it; it is left as it is.
        JournalUnwritable: the disk refuses to be written; nothing is lost.
    """
    path = state_dir / FILE_NAME
    restored = None
    try:
        if (state_dir / BUILT).exists():
            # Killed while it put the files in their places.
            restored = "the journal was damaged and has been restored; see the log"
            _swap(path, now)
        _require_it_is_there(path)
        journal = Journal.open(state_dir)
    except JournalDamaged as error:
        restored = _restore(path, str(error), now)
        journal = Journal.open(state_dir)
    journal.restored = restored
    return journal


def _require_it_is_there(path: Path) -> None:
    """An empty place means a first start, but not where recovery points lie beside it."""
    size = path.stat().st_size if path.is_file() else None
    if size in (0, None) and not path.is_dir() and any(path.parent.glob(recovery_point.PATTERN)):
        raise JournalDamaged("it is gone" if size is None else "it is empty")


def _restore(path: Path, why: str, now: float) -> str:
    """Make a new journal in its place; say what was done, without a path."""
    log.critical("the journal %s is damaged: %s; restoring it", path, why)
    try:
        building = path.with_name(BUILDING)
        for left in (building, path.with_name(f"{BUILDING}-journal")):
            left.unlink(missing_ok=True)
        point, said = _build(building, path, now)
        building.replace(path.with_name(BUILT))
        sync_folder(path.parent)
        kept = _swap(path, now)
    except (OSError, sqlite3.Error) as error:
        raise JournalUnwritable(
            f"the journal {path} is damaged ({why}) and cannot be restored: {error}; it is left "
            "as it is; look at the disk of STATE_DIR, its free space and the folder's owner, "
            "then start again"
        ) from error
    at = f"from the recovery point of {_time(point.saved_at)}" if point.path else "from nothing"
    log.critical(
        "the journal was restored %s (%s): %s; what was there is kept as %s; what came after the "
        "recovery point may be lost, see docs/durability.md",
        at,
        point.path.name if point.path else "there is no recovery point that can be used",
        said,
        kept or "nothing, for there was nothing",
    )
    return f"the journal was damaged and has been restored {at}: {said}; see the log"


# -- the recovery points


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What a recovery point holds; empty if there is none."""

    path: Path | None = None
    saved_at: float = 0.0
    meta: Mapping[str, str] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    jobs: Sequence[Row] = ()
    copies: Sequence[Row] = ()
    relocations: Sequence[Row] = ()


_UNUSABLE: Final = (
    *(OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError),
    *(sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError),
)
"""What a recovery point can do that is not one; other errors are the disk's."""


def _read(path: Path) -> Point:
    content = recovery_point.load(path)
    return Point(
        path=path,
        saved_at=float(content["saved_at"]),
        meta=content["meta"],
        counters=content["counters"],
        jobs=content["jobs"],
        copies=content["copies"],
        relocations=content["relocations"],
    )


# -- the new journal


def _build(building: Path, damaged: Path, now: float) -> tuple[Point, str]:
    """Make it, whole on the disk, under another name; from what, and what is in it."""
    with closing(sqlite3.connect(building, isolation_level=None)) as connection:
        # What is half built is of no use: its own journal need not be on the disk.
        for pragma in (
            "synchronous=FULL", "journal_mode=MEMORY", "cache_size=-65536", "temp_store=MEMORY",
        ):  # fmt: skip
            connection.execute(f"PRAGMA {pragma}")
        migrate(connection)
        with building.open("rb") as file:
            header = file.read(100)
        rest = salvage(damaged, header=header, scratch=damaged.with_name(SCRATCH))
        connection.execute("BEGIN")
        point, said = _fill_from_newest(connection, damaged.parent)
        for name, value in rest.meta.items():
            if journal_facts.meta(connection, name) is None:
                journal_facts.set_meta(connection, name, value)
        jobs = sum(_add_job(connection, row, now) for row in rest.jobs)
        relocations = sum(_add_relocation(connection, row) for row in rest.relocations)
        if point.path is not None:
            since = repr(point.saved_at - _LATE_S)
            journal_facts.set_meta(connection, journal_facts.ENDS_KNOWN_SINCE, since)
        journal_facts.set_meta(connection, RESTORED_AT, repr(now))
        connection.execute("COMMIT")
    return point, (
        f"{said}, and, from what could be read of the damaged one, {jobs} jobs and "
        f"{relocations} open relocations"
    )


def _fill_from_newest(connection: sqlite3.Connection, folder: Path) -> tuple[Point, str]:
    for path in sorted(folder.glob(recovery_point.PATTERN), reverse=True):
        connection.execute("SAVEPOINT trial")
        try:
            point = _read(path)
            said = _fill(connection, point)
        except _UNUSABLE as error:
            connection.execute("ROLLBACK TO trial")
            log.critical("the recovery point %s cannot be used (%r): the one before?", path, error)
        else:
            connection.execute("RELEASE trial")
            return point, said
    return Point(), "no jobs"


def _fill(connection: sqlite3.Connection, point: Point) -> str:
    for name, value in point.meta.items():
        journal_facts.set_meta(connection, name, value)
    for name, number in point.counters.items():
        journal_facts.count(connection, name, number)
    # One may have ended since: the consent to have a file moved was for that try alone.
    _insert(connection, "jobs", *(row | {"on_conflict": OnConflict.FAIL} for row in point.jobs))
    files = sum(_add_copy(connection, row) for row in point.copies)
    for row in point.relocations:
        _add_relocation(connection, row)
    # Read as the service will read it: a word that it does not know must not end its start.
    jobs = journal_job_queries.alive(connection)
    journal_copies.all_published(connection)
    relocations = journal_relocations.open_ones(connection)
    if (len(jobs), len(relocations)) != (len(point.jobs), len(point.relocations)):
        raise ValueError("it holds jobs or relocations that are not open")
    return (
        f"{len(jobs)} jobs, {len(point.copies)} copies of {files} files and "
        f"{len(relocations)} open relocations"
    )


def _add_job(connection: sqlite3.Connection, row: Row, now: float) -> int:
    """Add a job that only the damaged file has, to be done from its start; 0 if it is there."""
    there = journal_job_queries.alive_with(connection, [row["hash"]])
    if there or _has(connection, "jobs", "id", row["id"]):
        for job in there:
            journal_jobs.raise_priority(connection, job.id, row["priority"], now=job.updated_at)
        return 0
    values = row | {
        "seq": None if _has(connection, "jobs", "seq", row["seq"]) else row["seq"],
        "state": JobState.QUEUED,
        "head": row["head"] or row["state"] == JobState.RUNNING,
        "accepted_at": row["accepted_at"] or now,
        "updated_at": now,
    }
    _insert(connection, "jobs", values)
    return 1


def _add_copy(connection: sqlite3.Connection, row: Row) -> int:
    """Record a copy as found, not as made: much may have happened to it since.

    No job takes it for proof, and nothing of it is set aside without being asked for.
    """
    _insert(connection, "copies", row | {"bytes": row["size_bytes"], "job_id": ""})
    of = {"torrent_id": row["torrent_id"], "ours": 0}
    files = [
        file | of | {"idx": file["index"], "size": file["size_bytes"]} for file in row["files"]
    ]
    _insert(connection, "copy_files", *files)
    return len(files)


def _add_relocation(connection: sqlite3.Connection, row: Row) -> int:
    """Add an open relocation; 0 if its torrent has one. Where it really is, must be found out."""
    if any(other.torrent_id == row["torrent_id"] for other in _open(connection)):
        return 0
    id_ = None if _has(connection, "relocations", "id", row["id"]) else row["id"]
    values = {"updated_at": row["begun_at"]} | row | {"id": id_, "step": Step.LOCATING}
    _insert(connection, "relocations", values)
    return 1


_open = journal_relocations.open_ones


def _has(connection: sqlite3.Connection, table: str, column: str, value: object) -> bool:
    rows = connection.execute(f"SELECT 1 FROM {table} WHERE {column} = ?", (value,))
    return rows.fetchone() is not None


def _insert(connection: sqlite3.Connection, table: str, *rows: Row) -> None:
    """Insert what of these rows, all of one kind, this version of the table knows."""
    if not rows:
        return
    columns = [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]
    known = [name for name in columns if name in rows[0]]
    names, marks = ", ".join(f'"{name}"' for name in known), ", ".join("?" * len(known))
    connection.executemany(
        f"INSERT INTO {table} ({names}) VALUES ({marks})",
        ([row[name] for name in known] for row in rows),
    )


# -- the files


def _swap(path: Path, now: float) -> str | None:
    """Set aside what stands in the journal's place, and put the new one there.

    A kill in between is finished by the next start, for it finds the new one. Returns the
    name that the damaged one has now.

    Raises:
        JournalUnwritable: a file cannot be renamed; the next start tries again.
    """
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    name, number = f"{DAMAGED}-{stamp}", 1
    while any(os.path.lexists(path.with_name(f"{name}{end}")) for end in _ENDS):
        number += 1
        name = f"{DAMAGED}-{stamp}-{number}"
    moved = None
    try:
        for end in reversed(_ENDS):
            with suppress(FileNotFoundError):
                path.with_name(f"{FILE_NAME}{end}").rename(path.with_name(f"{name}{end}"))
                moved = name
        path.with_name(BUILT).rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise JournalUnwritable(
            f"the journal {path} is damaged, and the restored one cannot take its place: {error}; "
            "nothing of either is lost; look at the disk of STATE_DIR and the folder's owner, "
            "then start again"
        ) from error
    return moved


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_ENDS: Final = ("", "-journal", "-shm", "-wal")
