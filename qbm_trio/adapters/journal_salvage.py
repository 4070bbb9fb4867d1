"""What can still be read of a damaged journal: jobs with work left, open relocations, and facts.

Only what must not be lost, and only whole rows that can be what was written. The files
are read, never opened by SQLite, which would change them: what it reads is a copy in
which the log's pages stand at their places, the damaged ones too, under a header that
is known to be right.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import sqlite3
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ..core.model import Job, JobState
from ..core.relocation import Relocation
from .journal_damage import PAGE_BYTES, frames, wal_of
from .journal_job_queries import ALIVE
from .journal_relocations import STILL_OPEN

log = logging.getLogger(__name__)

_HEADER_BYTES: Final = 100

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Salvaged:
    """Rows of the damaged journal, by the names of their columns."""

    jobs: list[Row] = field(default_factory=list)
    relocations: list[Row] = field(default_factory=list)
    meta: dict[str, str] = field(default_factory=dict)  #: lasting facts: see `_FACTS`


def salvage(damaged: Path, *, header: bytes, scratch: Path) -> Salvaged:
    """Read what can be read. Blocks.

    Args:
        damaged: the journal; its log beside it is read, too.
        header: of a journal that is whole.
        scratch: a file to make and remove again, as large as the journal.

    Raises:
        OSError: there is no room for ``scratch``.
    """
    try:
        _copy(damaged, header, scratch)
        with closing(sqlite3.connect(f"{scratch.as_uri()}?mode=ro", uri=True)) as connection:
            connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
            connection.row_factory = _as_dict
            for pragma in ("cell_size_check=ON", "query_only=ON", "temp_store=MEMORY"):
                connection.execute(f"PRAGMA {pragma}")
            return Salvaged(
                jobs=_jobs(connection),
                relocations=_rows(connection, "relocations", "id", _RELOCATION, STILL_OPEN),
                meta={
                    row["name"]: row["value"]
                    for row in _rows(connection, "meta", "name", _META, "1")
                    if _FACTS.get(row["name"], _never)(row["value"])
                },
            )
    except sqlite3.Error as error:
        log.warning("nothing can be read of the damaged journal any more: %s", error)
        return Salvaged()
    finally:
        scratch.unlink(missing_ok=True)


def _copy(damaged: Path, header: bytes, scratch: Path) -> None:
    pages = 0
    with scratch.open("wb") as copy:
        for page in _pages(damaged):
            copy.write(page)
            pages += 1
        logged: bytes = b""
        with suppress(OSError):
            logged = wal_of(damaged).read_bytes()
        for frame in _committed(logged):
            copy.seek((frame[0] - 1) * PAGE_BYTES)
            copy.write(frame[1])
            pages = max(pages, frame[0])
        # Its size in pages, and no free ones: https://www.sqlite.org/fileformat2.html
        fixed = bytearray(header[:_HEADER_BYTES])
        fixed[18:20] = b"\1\1"  # no write-ahead log
        fixed[28:32] = struct.pack(">I", pages)
        fixed[32:40] = bytes(8)
        copy.seek(0)
        copy.write(fixed)
        copy.truncate(pages * PAGE_BYTES)


def _pages(damaged: Path) -> Iterator[bytes]:
    """Each page of the file; zeros for one that the disk does not give."""
    try:
        descriptor = os.open(damaged, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        size = os.fstat(descriptor).st_size
        for at in range(0, size, PAGE_BYTES):
            page = b""
            with suppress(OSError):
                page = os.pread(descriptor, PAGE_BYTES, at)
            yield page.ljust(PAGE_BYTES, b"\0")
    finally:
        os.close(descriptor)


def _committed(logged: bytes) -> list[tuple[int, bytes]]:
    """The pages of the log, in their order, up to its last commit."""
    found: list[tuple[int, bytes]] = []
    end = 0
    for frame in frames(logged):
        # A page's number that is itself damaged must not make a giant of the copy.
        if frame.current and 0 < frame.page <= _MOST_PAGES:
            found.append((frame.page, frame.data))
            if frame.pages:
                end = len(found)
    return found[:end]


_MOST_PAGES: Final = 2**22  # 16 GiB


def _as_dict(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> Row:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


# -- rows

_Check = Callable[[Any], bool]


def _jobs(connection: sqlite3.Connection) -> list[Row]:
    """The jobs that are alive; of those that only the indexes still have, id and hash."""
    found = {row["seq"]: row for row in _rows(connection, "jobs", "seq", _JOB, ALIVE)}
    ids = _by_index(connection, "id", "sqlite_autoindex_jobs_1", "1")
    for seq, hash_ in _by_index(connection, "hash", "jobs_alive", ALIVE).items():
        row = {**_UNKNOWN, "seq": seq, "hash": hash_, "id": ids.get(seq, secrets.token_hex(8))}
        if seq not in found and all(check(row[name]) for name, check in _JOB.items()):
            found[seq] = row
    return [found[seq] for seq in sorted(found)]


_UNKNOWN: Final[Row] = {
    "name": "",
    "category": "",
    "priority": 0,
    "head": 0,
    "state": JobState.QUEUED,
    "accepted_at": 0.0,
}


def _by_index(
    connection: sqlite3.Connection, column: str, index: str, where: str
) -> dict[int, Any]:
    """A column of each job that an index has, before its first damaged page and after the last."""
    found: dict[int, Any] = {}
    for order in ("ASC", "DESC"):
        with suppress(sqlite3.Error):
            for row in connection.execute(
                f"SELECT seq, {column} FROM jobs INDEXED BY {index} WHERE {where}"
                f" ORDER BY {column} {order}"
            ):
                found[row["seq"]] = row[column]
    return found


def _rows(
    connection: sqlite3.Connection,
    table: str,
    key: str,
    columns: Mapping[str, _Check],
    where: str,
) -> list[Row]:
    """The rows before the first damaged page of a table, and those after the last."""
    names = ", ".join(f'"{name}"' for name in columns)
    found: dict[int, Row] = {}
    for order in ("ASC", "DESC"):
        with suppress(sqlite3.Error):
            for row in connection.execute(
                # By the table itself: an index may be what is damaged.
                f"SELECT {names} FROM {table} NOT INDEXED WHERE {where} ORDER BY {key} {order}"
            ):
                if all(check(row[name]) for name, check in columns.items()):
                    found[row[key]] = row
    return [found[value] for value in sorted(found)]


def _text(value: object) -> bool:
    return isinstance(value, str) and "\ufffd" not in value


def _hex(*lengths: int) -> _Check:
    def check(value: object) -> bool:
        text = value if isinstance(value, str) else ""
        return len(text) in lengths and re.fullmatch("[0-9a-f]+", text) is not None

    return check


def _any_text(value: object) -> bool:
    return isinstance(value, str)


def _whole(value: object) -> bool:
    return isinstance(value, int)


def _number(value: object) -> bool:
    return isinstance(value, int | float)


def _never(_: object) -> bool:
    return False


def _like(pattern: str) -> _Check:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _flag(value: object) -> bool:
    return value in (0, 1)


def _absolute(value: object) -> bool:
    return _text(value) and str(value).startswith("/")


_JOB: Final[Mapping[str, _Check]] = {
    "id": _hex(16),
    "seq": _whole,
    "hash": _hex(40, 64),
    "name": _any_text,
    "category": _any_text,
    "priority": _whole,
    "head": _flag,
    "state": _text,
    "accepted_at": _number,
}
_RELOCATION: Final[Mapping[str, _Check]] = {
    "id": _whole,
    "run_id": _text,
    "group": _text,
    "torrent_id": _hex(40),
    "name": _any_text,
    "from_path": _absolute,
    "to_path": _absolute,
    "was_running": _flag,
    "force_start": _flag,
    "auto_management": _flag,
    "download_path": _text,
    "bytes": _whole,
    "begun_at": _number,
}
_META: Final[Mapping[str, _Check]] = {"name": _text, "value": _text}
_UUID: Final = "-".join(f"[0-9a-f]{{{digits}}}" for digits in (8, 4, 4, 4, 12))
_FACTS: Final[Mapping[str, _Check]] = {
    # Without these, the next start would mark what is mounted then, were it the folder below
    # the disk, and what the last one has staged would be nobody's.
    "tier.ssd": _like(_UUID),
    "tier.hdd": _like(_UUID),
    "instance_id": _hex(12),
    "first_run_at": _like(r"[0-9]{1,12}(\.[0-9]{1,20})?"),
}
assert _JOB.keys() <= set(Job.__dataclass_fields__)
assert _RELOCATION.keys() <= set(Relocation.__dataclass_fields__)
