"""What was verified and published, kept while the torrent exists.

Apart from the jobs, which are pruned by age: space management may delete from
the SSD only what is recorded here. A copy is *begun* before its first file is
put in place and *published* after the last one has been synced.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..core.model import JobId, TorrentId, Verification


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyFile:
    """One file of a copy, relative to the HDD base."""

    index: int
    path: str
    size_bytes: int
    mtime_ns: int | None  #: as published, or about to be
    ours: bool  #: put there by this service, not found there and adopted
    inode: int | None = None  #: by `recorded_inode`; tells our file, once begun, from another
    source_inode: int | None = None  #: of the SSD file, by `recorded_inode`; it may be reused


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A torrent's copy on the HDD."""

    torrent_id: TorrentId
    job_id: JobId
    destination: str  #: folder below the HDD base; fixed at the first publishing
    save_root: str  #: where it was copied from, as qBittorrent sees it
    category: str
    name: str
    verification: Verification
    size_bytes: int
    begun_at: float
    published_at: float | None


_PATHS_AT_ONCE: Final = 500  # SQLite's limit of variables was 999 for long

_SELECT: Final = (
    "SELECT torrent_id, job_id, destination, save_root, category, name, verification,"
    " bytes, begun_at, published_at FROM copies"
)
_FILE_COLUMNS: Final = "idx, path, size, mtime_ns, ours, inode, source_inode"


def recorded_inode(inode: int) -> int:
    """An inode as it is kept: pools use all 64 bits, SQLite's integers hold 63."""
    return inode & (2**63 - 1)


def find(connection: sqlite3.Connection, torrent_id: TorrentId) -> Copy | None:
    """The copy of a torrent, begun or published."""
    row = connection.execute(f"{_SELECT} WHERE torrent_id = ?", (torrent_id,)).fetchone()
    return None if row is None else _copy(row)


def all_published(connection: sqlite3.Connection) -> list[Copy]:
    """Every copy that was published, by torrent id."""
    rows = connection.execute(f"{_SELECT} WHERE published_at IS NOT NULL ORDER BY torrent_id")
    return [_copy(row) for row in rows]


def jobs_of(
    connection: sqlite3.Connection, torrent_ids: Iterable[TorrentId]
) -> dict[TorrentId, JobId]:
    """The job that made each torrent's copy, or else its newest one; none for some."""
    found = {}
    for torrent_id in torrent_ids:
        (job_id,) = connection.execute(
            "SELECT coalesce("
            "nullif((SELECT job_id FROM copies WHERE torrent_id = ?1), ''),"
            " (SELECT id FROM jobs WHERE torrent_id = ?1 ORDER BY seq DESC LIMIT 1))",
            (torrent_id,),
        ).fetchone()
        if job_id is not None:
            found[torrent_id] = JobId(job_id)
    return found


def _copy(row: tuple[Any, ...]) -> Copy:
    return Copy(
        torrent_id=TorrentId(row[0]),
        job_id=JobId(row[1]),
        destination=row[2],
        save_root=row[3],
        category=row[4],
        name=row[5],
        verification=Verification(row[6]),
        size_bytes=row[7],
        begun_at=row[8],
        published_at=row[9],
    )


def files(connection: sqlite3.Connection, torrent_id: TorrentId) -> list[CopyFile]:
    """The files of a torrent's copy, in order."""
    rows = connection.execute(
        f"SELECT {_FILE_COLUMNS} FROM copy_files WHERE torrent_id = ? ORDER BY idx", (torrent_id,)
    )
    return [_file(row) for row in rows]


def made_from(
    connection: sqlite3.Connection, source_inodes: Collection[int], *, besides: TorrentId
) -> list[CopyFile]:
    """Published files of other torrents that were made from these files of the SSD.

    The last published come first. It is a hint: an inode's number is used again when
    its file is gone. The device is not kept, for its number changes with a reboot.
    """
    rows = connection.execute(
        f"SELECT {_FILE_COLUMNS} FROM copy_files JOIN copies USING (torrent_id)"
        " WHERE source_inode IN (SELECT value FROM json_each(?))"
        " AND torrent_id != ? AND published_at IS NOT NULL"
        " ORDER BY published_at DESC, torrent_id, idx",
        (json.dumps(list(source_inodes)), besides),
    )
    return [_file(row) for row in rows]


def _file(row: tuple[Any, ...]) -> CopyFile:
    index, path, size_bytes, mtime_ns, ours, inode, source_inode = row
    return CopyFile(
        index=index,
        path=path,
        size_bytes=size_bytes,
        mtime_ns=mtime_ns,
        ours=bool(ours),
        inode=inode,
        source_inode=source_inode,
    )


def claims(connection: sqlite3.Connection, path: str) -> list[tuple[TorrentId, bool]]:
    """Who has this path, and whether this service put it there for them."""
    return [
        (TorrentId(torrent_id), bool(ours))
        for torrent_id, ours in connection.execute(
            "SELECT torrent_id, ours FROM copy_files WHERE path = ?", (path,)
        )
    ]


def others_at(
    connection: sqlite3.Connection, paths: Collection[str], *, besides: TorrentId
) -> list[Copy]:
    """The copies of other torrents, begun or published, that have one of these files."""
    rows = connection.execute(
        f"{_SELECT} WHERE torrent_id != ? AND torrent_id IN"
        " (SELECT torrent_id FROM copy_files WHERE path IN (SELECT value FROM json_each(?)))",
        (besides, json.dumps(list(paths))),
    )
    return [_copy(row) for row in rows]


def published_files(
    connection: sqlite3.Connection, paths: Sequence[str]
) -> dict[str, list[tuple[TorrentId, CopyFile]]]:
    """What is published at these paths, by path: whose it is, and how it was recorded."""
    found: dict[str, list[tuple[TorrentId, CopyFile]]] = {}
    for start in range(0, len(paths), _PATHS_AT_ONCE):
        some = paths[start : start + _PATHS_AT_ONCE]
        for torrent_id, *row in connection.execute(
            f"SELECT torrent_id, {_FILE_COLUMNS} FROM copy_files JOIN copies USING (torrent_id)"
            f" WHERE path IN ({', '.join('?' * len(some))}) AND published_at IS NOT NULL",
            some,
        ):
            file = _file(tuple(row))
            found.setdefault(file.path, []).append((TorrentId(torrent_id), file))
    return found


def begin(connection: sqlite3.Connection, copy: Copy, entries: Sequence[CopyFile]) -> None:
    """Record what is about to be put in place. Replaces what was recorded before.

    A file that is found again at its place stays ours if it was recorded as published,
    or if it is the very file that was about to be: a foreign one may have come first.
    """
    earlier = find(connection, copy.torrent_id)
    published_before = earlier is not None and earlier.published_at is not None
    before = {f.path: f for f in files(connection, copy.torrent_id) if f.ours}
    connection.execute("DELETE FROM copies WHERE torrent_id = ?", (copy.torrent_id,))
    connection.execute(
        "INSERT INTO copies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)",
        (
            copy.torrent_id,
            copy.job_id,
            copy.destination,
            copy.save_root,
            copy.category,
            copy.name,
            copy.verification,
            copy.size_bytes,
            copy.begun_at,
        ),
    )
    connection.executemany(
        f"INSERT INTO copy_files (torrent_id, {_FILE_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                copy.torrent_id,
                f.index,
                f.path,
                f.size_bytes,
                f.mtime_ns,
                f.ours or (f.path in before and (published_before or _same(before[f.path], f))),
                f.inode,
                f.source_inode,
            )
            for f in entries
        ],
    )


def _same(begun: CopyFile, found: CopyFile) -> bool:
    """Whether what stands there is the file that an earlier try was about to publish."""
    known = (begun.inode, begun.mtime_ns, begun.size_bytes)
    return None not in known and known == (found.inode, found.mtime_ns, found.size_bytes)


def published(connection: sqlite3.Connection, torrent_id: TorrentId, *, now: float) -> None:
    """Record that all files are in place and synced."""
    connection.execute("UPDATE copies SET published_at = ? WHERE torrent_id = ?", (now, torrent_id))
