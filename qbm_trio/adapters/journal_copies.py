"""What was verified and published, kept while the torrent exists.

Apart from the jobs, which are pruned by age: space management may delete from
the SSD only what is recorded here. A copy is *begun* before its first file is
put in place and *published* after the last one has been synced.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..core.model import JobId, TorrentId, Verification


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyFile:
    """One file of a copy, relative to the HDD base."""

    index: int
    path: str
    size_bytes: int
    mtime_ns: int | None  #: as published; None until then
    ours: bool  #: put there by this service, not found there and adopted


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


def find(connection: sqlite3.Connection, torrent_id: TorrentId) -> Copy | None:
    """The copy of a torrent, begun or published."""
    row = connection.execute(
        "SELECT torrent_id, job_id, destination, save_root, category, name, verification,"
        " bytes, begun_at, published_at FROM copies WHERE torrent_id = ?",
        (torrent_id,),
    ).fetchone()
    if row is None:
        return None
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
    return [
        CopyFile(index=idx, path=path, size_bytes=size, mtime_ns=mtime_ns, ours=bool(ours))
        for idx, path, size, mtime_ns, ours in connection.execute(
            "SELECT idx, path, size, mtime_ns, ours FROM copy_files"
            " WHERE torrent_id = ? ORDER BY idx",
            (torrent_id,),
        )
    ]


def claims(
    connection: sqlite3.Connection, paths: Iterable[str]
) -> dict[str, list[tuple[TorrentId, bool]]]:
    """Who has each of these paths, and whether this service put it there for them."""
    return {
        path: [
            (TorrentId(torrent_id), bool(ours))
            for torrent_id, ours in connection.execute(
                "SELECT torrent_id, ours FROM copy_files WHERE path = ?", (path,)
            )
        ]
        for path in paths
    }


def begin(connection: sqlite3.Connection, copy: Copy, entries: Sequence[CopyFile]) -> None:
    """Record what is about to be put in place. Replaces what was recorded before."""
    before = {f.path: f.ours for f in files(connection, copy.torrent_id)}
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
        "INSERT INTO copy_files VALUES (?, ?, ?, ?, ?, ?)",
        [
            # A file that we put there earlier stays ours when it is found again.
            (
                copy.torrent_id,
                f.index,
                f.path,
                f.size_bytes,
                None,
                f.ours or before.get(f.path, False),
            )
            for f in entries
        ],
    )


def published(
    connection: sqlite3.Connection,
    torrent_id: TorrentId,
    mtimes_ns: Iterable[tuple[int, int]],
    *,
    now: float,
) -> None:
    """Record that all files are in place and synced: (index, mtime) of each."""
    connection.executemany(
        "UPDATE copy_files SET mtime_ns = ? WHERE torrent_id = ? AND idx = ?",
        [(mtime_ns, torrent_id, index) for index, mtime_ns in mtimes_ns],
    )
    connection.execute("UPDATE copies SET published_at = ? WHERE torrent_id = ?", (now, torrent_id))
