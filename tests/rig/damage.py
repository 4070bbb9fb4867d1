"""What disks, programs and people do to a journal's files."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from qbm_trio.adapters.journal import FILE_NAME
from qbm_trio.adapters.journal_damage import PAGE_BYTES

_LOG_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24


def database(state: Path) -> Path:
    """The journal's database."""
    return state / FILE_NAME


def wal(state: Path) -> Path:
    """Its write-ahead log: there after a kill only."""
    return state / f"{FILE_NAME}-wal"


def flip(path: Path, at: int, length: int = 16) -> None:
    """Flip bits in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[at : at + length] = bytes(byte ^ 0xA5 for byte in content[at : at + length])
    path.write_bytes(content)


def checkpoint(state: Path) -> None:
    """Have all that was committed in the database itself, and no log."""
    with closing(sqlite3.connect(database(state))) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _root_page(state: Path, name: str) -> int:
    with closing(sqlite3.connect(database(state))) as connection:
        rows = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,))
        return int(rows.fetchone()[0])


def _flip_header(state: Path) -> None:
    checkpoint(state)
    flip(database(state), 0)


def _flip_page_size(state: Path) -> None:
    checkpoint(state)
    flip(database(state), 16, 2)


def _flip_root_of(name: str) -> Callable[[Path], None]:
    def damage(state: Path) -> None:
        checkpoint(state)
        flip(database(state), (_root_page(state, name) - 1) * PAGE_BYTES, 100)

    return damage


def _change_letter_in_index(state: Path) -> None:
    """The page is well-formed, and finds another hash than the table has."""
    checkpoint(state)
    content = bytearray(database(state).read_bytes())
    begin = (_root_page(state, "jobs_alive") - 1) * PAGE_BYTES
    hash_ = re.search(b"[0-9a-f]{40}", content[begin : begin + PAGE_BYTES])
    assert hash_ is not None
    content[begin + hash_.start()] ^= 1
    database(state).write_bytes(content)


def _zero_pages(state: Path) -> None:
    checkpoint(state)
    content = bytearray(database(state).read_bytes())
    begin = (_root_page(state, "jobs") - 1) * PAGE_BYTES
    content[begin : begin + 2 * PAGE_BYTES] = bytes(2 * PAGE_BYTES)
    database(state).write_bytes(content)


def _flip_frame(state: Path) -> None:
    """In the middle of the log: the commits behind it are whole."""
    flip(wal(state), _LOG_HEADER_BYTES + 20 * (_FRAME_HEADER_BYTES + PAGE_BYTES) + 500)


def _flip_log_header(state: Path) -> None:
    flip(wal(state), 0)


def _cut_to(size: int | None) -> Callable[[Path], None]:
    def damage(state: Path) -> None:
        checkpoint(state)
        path = database(state)
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2 if size is None else size)

    return damage


def _cut_but_for_the_log(state: Path) -> None:
    database(state).write_bytes(b"")


def _only_the_log(state: Path) -> None:
    database(state).unlink()


def _folder(state: Path) -> None:
    checkpoint(state)
    database(state).unlink()
    (database(state) / "x").mkdir(parents=True)


def _garbage(state: Path) -> None:
    checkpoint(state)
    database(state).write_bytes(b"not a database " * 1000)


def _gone(state: Path) -> None:
    checkpoint(state)
    database(state).unlink()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "bits flipped in the header": _flip_header,
    "bits flipped in the page size": _flip_page_size,
    "bits flipped in the table of jobs": _flip_root_of("jobs"),
    "bits flipped in an index": _flip_root_of("jobs_alive"),
    "a letter changed in an index": _change_letter_in_index,
    "bits flipped in the copies": _flip_root_of("copies"),
    "pages of zeros": _zero_pages,
    "bits flipped in the log": _flip_frame,
    "bits flipped in the log's header": _flip_log_header,
    "cut to nothing": _cut_to(0),
    "cut to a byte": _cut_to(1),
    "cut to half a page": _cut_to(2048),
    "cut to a page": _cut_to(PAGE_BYTES),
    "cut to half": _cut_to(None),
    "cut to nothing, with its log": _cut_but_for_the_log,
    "gone, but for its log": _only_the_log,
    "a folder in its place": _folder,
    "garbage": _garbage,
    "gone": _gone,
}
"""Each does one thing to the files of a service that was killed."""
