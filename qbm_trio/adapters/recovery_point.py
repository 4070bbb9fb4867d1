"""A recovery point: one JSON file beside the journal that alone can restore the queue.

Written whole to a temporary name, synced, then renamed: a reader never sees half
of one. The newest few are kept.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from ..core.errors import JournalUnwritable
from ..core.model import Job
from . import journal_facts, journal_relocations
from .journal import Journal
from .journal_jobs import ALIVE, IN_ORDER

FORMAT: Final = 1
KEPT: Final = 5
PATTERN: Final = "recovery-*.json"
PAGE: Final = 2000
"""About how many records are read from the journal at once: some milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedState:
    """A recovery point that is on disk."""

    path: str
    counts: Mapping[str, int]  #: what is in it: relocations, jobs, copies, copy_files
    saved_at: float


async def save(journal: Journal, *, now: float, limiter: trio.CapacityLimiter) -> SavedState:
    """Write a recovery point and drop the oldest beyond `KEPT`.

    Args:
        journal: its ``run`` must run.
        now: epoch seconds UTC; names the file.
        limiter: of one token, so that one is written at a time.

    Cancellation: honoured between the pages; the file is then whole or absent.

    Raises:
        JournalUnwritable: it could not be written; earlier ones are untouched.
    """
    counts: dict[str, int] = {}

    def work() -> Path:
        return _write(journal.path.parent, _pieces(journal, counts, now), now)

    path = await trio.to_thread.run_sync(work, limiter=limiter)
    return SavedState(path=str(path), counts=counts, saved_at=now)


# -- what is in it: read and written in pages, so that neither the memory nor the
# journal's other users feel how many files were ever copied


def _pieces(journal: Journal, counts: dict[str, int], now: float) -> Iterator[str]:
    """The text, piece by piece, for the thread that writes it; ``counts`` is filled in.

    Each piece is a committed state of the journal, a later one than the piece before.
    That does no harm: a copy comes with all its files from one moment, and what is
    missing between a job and its copy is what recovery looks at anyway.
    """
    head, jobs, relocations = trio.from_thread.run(journal.do, partial(_head, now=now))
    counts |= {"relocations": relocations, "jobs": len(jobs), "copies": 0, "copy_files": 0}
    yield head.removesuffix("}") + ', "jobs": ['
    for first in range(0, len(jobs), PAGE):
        yield (",\n" if first else "\n") + ",\n".join(map(_encode, jobs[first : first + PAGE]))
    yield '\n], "copies": ['
    after = ""
    while True:
        page = trio.from_thread.run(journal.do, partial(_copies, after=after))
        if not page.texts:
            break
        yield (",\n" if after else "\n") + ",\n".join(page.texts)
        counts["copies"] += len(page.texts)
        counts["copy_files"] += page.files
        after = page.last
    yield "\n]}\n"


def _head(connection: sqlite3.Connection, *, now: float) -> tuple[str, list[dict[str, Any]], int]:
    """All but the copies: as text, the jobs apart, and how many relocations are in it."""
    relocations = journal_relocations.open_ones(connection)
    content = {
        "format": FORMAT,
        "saved_at": now,
        "meta": dict(connection.execute("SELECT name, value FROM meta").fetchall()),
        "counters": journal_facts.counters(connection),
        "relocations": [asdict(relocation) for relocation in relocations],
    }
    # Plain rows: as text they are what the dataclass would be, in a tenth of the time.
    rows = connection.execute(_JOBS).fetchall()
    jobs = [dict(zip(Job.__dataclass_fields__, row, strict=True)) for row in rows]
    jobs = [job | {"head": bool(job["head"])} for job in jobs]
    return _encode(content), jobs, len(relocations)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    texts: list[str]  #: a copy each
    files: int  #: in all of them
    last: str  #: the torrent id of the last one


def _copies(connection: sqlite3.Connection, *, after: str) -> _Page:
    texts: list[str] = []
    files, last = 0, after
    rows = connection.execute(_COPIES_AFTER, (after,))
    names = [column[0] for column in rows.description]
    for row in rows:
        last = row[0]
        # SQLite writes the list: in a third of the time and without Python's lock.
        # Not the copy itself, for its times would lose digits.
        number, listed = connection.execute(_FILES_AS_JSON, (last,)).fetchone()
        copy = _encode(dict(zip(names, row, strict=True)))
        texts.append(f'{copy.removesuffix("}")}, "files": {listed}}}')
        files += number
        if files + len(texts) >= PAGE:
            break
    return _Page(texts=texts, files=files, last=last)


_JOBS: Final = f"""
    SELECT {", ".join(Job.__dataclass_fields__)}
    FROM jobs WHERE {ALIVE} {IN_ORDER}
"""

_COPIES_AFTER: Final = """
    SELECT torrent_id, job_id, destination, save_root, category, name, verification,
        bytes AS size_bytes, begun_at, published_at
    FROM copies WHERE torrent_id > ? ORDER BY torrent_id
"""

_FILES_AS_JSON: Final = """
    SELECT count(*), json_group_array(json_object(
        'index', idx, 'path', path, 'size_bytes', size, 'mtime_ns', mtime_ns,
        'ours', json(CASE WHEN ours THEN 'true' ELSE 'false' END), 'inode', inode,
        'source_inode', source_inode))
    FROM (SELECT * FROM copy_files WHERE torrent_id = ? ORDER BY idx)
"""

_encode = json.JSONEncoder().encode


# -- the file


def _write(folder: Path, pieces: Iterable[str], now: float) -> Path:
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    path = folder / f"recovery-{stamp}.json"
    part = folder / ".recovery.part"  # one name: a killed save leaves one file, once
    try:
        with part.open("w", encoding="utf-8") as stream:
            stream.writelines(pieces)
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
    except BaseException as error:  # also when it is cancelled between two pieces
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise JournalUnwritable(
            f"the recovery point {path} cannot be written: {error.strerror}; "
            "free space on the disk of STATE_DIR or mend it, then ask again"
        ) from error
    return path
