"""What the journal knows of torrents, for the reconciler: an operation for `journal.Journal`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import Final

from ..core.model import JobState, Torrent, TorrentId
from ..core.reconciling import Known, LastJob
from . import journal_relocations

_FEW: Final = 50
"""Of so many torrents at most each relocation is asked for by itself."""


def known(connection: sqlite3.Connection, torrents: Iterable[Torrent]) -> dict[TorrentId, Known]:
    """What it knows of each of these. One pass over the jobs, however many torrents."""
    asked = {torrent.id: torrent for torrent in torrents}
    jobs = _newest_jobs(connection, {key for t in asked.values() for key in t.hashes})
    published = {
        torrent_id
        for (torrent_id,) in connection.execute(
            "SELECT torrent_id FROM copies WHERE published_at IS NOT NULL"
            " AND torrent_id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(asked)),),
        )
    }
    if len(asked) <= _FEW:
        relocations = {id: journal_relocations.last_of(connection, id) for id in asked}
    else:
        relocations = {**journal_relocations.newest(connection)}
    return {
        id: Known(
            job=max((jobs[key] for key in torrent.hashes if key in jobs), default=(0, None))[1],
            published=id in published,
            relocation=relocations.get(id),
        )
        for id, torrent in asked.items()
    }


def _newest_jobs(
    connection: sqlite3.Connection, hashes: Iterable[str]
) -> dict[str, tuple[int, LastJob]]:
    """The newest job by each of these hashes, as notified and as resolved, with its number."""
    found: dict[str, tuple[int, LastJob]] = {}
    rows = connection.execute(
        # Beside max() SQLite gives the other columns of the same row.
        "SELECT coalesce(torrent_id, hash) AS key, state, error_code, max(seq) FROM jobs"
        " WHERE state <> 'merged' GROUP BY key"
        " HAVING key IN (SELECT value FROM json_each(?))",
        (json.dumps(list(hashes)),),
    )
    for key, state, error_code, seq in rows:
        found[key] = (seq, LastJob(state=JobState(state), error_code=error_code))
    return found
