"""A recovery point: one JSON file beside the journal that alone can restore the queue.

Written whole to a temporary name, synced, then renamed: a reader never sees half
of one. The newest few are kept.
"""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from ..core.errors import JournalUnwritable
from ..core.model import Job
from . import journal_facts, journal_relocations
from .journal import Journal
from .journal_job_queries import ALIVE, IN_ORDER
from .journal_relocations import STILL_OPEN

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


def fingerprint(connection: sqlite3.Connection) -> tuple[tuple[object, ...], ...]:
    """Changes with all that a recovery point is written for: not with a mere request.

    Sums, for a clock that was put back makes the latest time no later.
    """
    return tuple(
        connection.execute(query).fetchone()
        for query in (
            f"SELECT count(*), total(seq), total(updated_at) FROM jobs WHERE {ALIVE}",
            "SELECT count(*), total(begun_at), total(published_at) FROM copies",
            f"SELECT count(*), total(id), total(updated_at) FROM relocations WHERE {STILL_OPEN}",
            "SELECT group_concat(name || value) FROM meta WHERE name != 'touched_at'",
        )
    )


# -- what is in it: read and written in pages, so that neither the memory nor the
# journal's other users feel how many files were ever copied


def _pieces(journal: Journal, counts: dict[str, int], now: float) -> Iterator[str]:
    """The text but for its end, for the thread that writes it; ``counts`` is filled in.

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
    yield "\n]"


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


def load(path: Path) -> dict[str, Any]:
    """What a recovery point holds. Blocks.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not whole, not what was written, or of another format.
    """
    data = path.read_bytes()
    body, mark, end = data.rpartition(_CHECKSUM.encode())
    if mark and end.strip(b" }\n") != str(zlib.crc32(body)).encode():
        raise ValueError("its checksum is wrong")
    content = json.loads(data)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError("its format is none that this program knows")
    return content


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_CHECKSUM: Final = ',\n"crc32": '
"""Stands last, before the CRC-32 of all that is before it."""


def _checked(pieces: Iterable[str]) -> Iterator[bytes]:
    """The text as bytes, ended with its checksum."""
    checksum = 0
    for piece in pieces:
        data = piece.encode()
        checksum = zlib.crc32(data, checksum)
        yield data
    yield f"{_CHECKSUM}{checksum}}}\n".encode()


def _name(folder: Path, now: float) -> str:
    """A name later than all there are, also when the clock was put back since."""
    latest = max((p.name for p in folder.glob(PATTERN)), default="")
    name = _name_at(datetime.fromtimestamp(now, UTC))
    if name <= latest:
        with suppress(ValueError, OverflowError):
            name = _name_at(datetime.strptime(latest, _NAME) + timedelta(microseconds=1))
    return name


def _name_at(time: datetime) -> str:
    return time.strftime(_NAME)


_NAME: Final = "recovery-%Y%m%dT%H%M%S.%fZ.json"


def _write(folder: Path, pieces: Iterable[str], now: float) -> Path:
    path = folder / _name(folder, now)
    part = folder / ".recovery.part"  # one name: a killed save leaves one file, once
    try:
        with part.open("wb") as stream:
            stream.writelines(_checked(pieces))
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
        sync_folder(folder)
        # This one stays even if another has a later name that tells no time.
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
