"""The journal's tables, one migration per schema version.

``PRAGMA user_version`` holds the version. A migration is never edited once it
has been released: it is what stands on users' disks.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from ..core.errors import QbmError

MIGRATIONS: Final = (
    # 1: jobs, apart from them what was verified and published, and what was relocated.
    """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE jobs (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        hash TEXT NOT NULL,
        torrent_id TEXT,
        name TEXT NOT NULL,
        category TEXT NOT NULL,
        priority INTEGER NOT NULL,
        head INTEGER NOT NULL DEFAULT 0,
        state TEXT NOT NULL,
        phase TEXT,
        wait_reason TEXT,
        next_at REAL,
        attempts INTEGER NOT NULL DEFAULT 0,
        error_code TEXT,
        error TEXT,
        outcome TEXT,
        merged_into TEXT,
        on_conflict TEXT NOT NULL DEFAULT 'fail',
        destination TEXT,
        bytes_total INTEGER,
        bytes_copied INTEGER NOT NULL DEFAULT 0,
        accepted_at REAL NOT NULL,
        started_at REAL,
        finished_at REAL,
        updated_at REAL NOT NULL
    );
    -- Two jobs for one hash cannot both be alive, whatever the code above does.
    CREATE UNIQUE INDEX jobs_alive ON jobs (hash)
        WHERE state IN ('queued', 'waiting', 'running');
    CREATE INDEX jobs_by_torrent ON jobs (torrent_id) WHERE torrent_id IS NOT NULL;
    CREATE INDEX jobs_by_state ON jobs (state, seq);
    CREATE TABLE copies (
        torrent_id TEXT PRIMARY KEY,
        job_id TEXT NOT NULL,
        destination TEXT NOT NULL,
        save_root TEXT NOT NULL,
        category TEXT NOT NULL,
        name TEXT NOT NULL,
        verification TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        begun_at REAL NOT NULL,
        published_at REAL
    ) WITHOUT ROWID;
    CREATE TABLE copy_files (
        torrent_id TEXT NOT NULL REFERENCES copies (torrent_id) ON DELETE CASCADE,
        idx INTEGER NOT NULL,
        path TEXT NOT NULL,
        size INTEGER NOT NULL,
        mtime_ns INTEGER,
        ours INTEGER NOT NULL,
        inode INTEGER,
        PRIMARY KEY (torrent_id, idx)
    ) WITHOUT ROWID;
    CREATE INDEX copy_files_by_path ON copy_files (path);
    CREATE TABLE space_runs (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        by_hand INTEGER NOT NULL,
        begun_at REAL NOT NULL,
        ended_at REAL,
        figures TEXT
    );
    CREATE TABLE relocations (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        run_id TEXT NOT NULL,
        "group" TEXT NOT NULL,
        torrent_id TEXT NOT NULL,
        name TEXT NOT NULL,
        step TEXT NOT NULL,
        from_path TEXT NOT NULL,
        to_path TEXT NOT NULL,
        was_running INTEGER NOT NULL,
        force_start INTEGER NOT NULL,
        auto_management INTEGER NOT NULL,
        download_path TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        error TEXT,
        begun_at REAL NOT NULL,
        updated_at REAL NOT NULL,
        checked_at REAL
    );
    -- A torrent is relocated once at a time, whatever the code above does.
    CREATE UNIQUE INDEX relocations_open ON relocations (torrent_id)
        WHERE step NOT IN ('done', 'undone', 'moved', 'gone');
    CREATE INDEX relocations_by_group ON relocations (run_id, "group");
    """,
    """
    ALTER TABLE relocations ADD COLUMN failed INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE relocations ADD COLUMN tier_anew INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE relocations ADD COLUMN freed_bytes INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX relocations_by_torrent ON relocations (torrent_id);
    """,
    # The SSD file that each was made from, to find what its hardlinks can share on the HDD.
    """
    ALTER TABLE copy_files ADD COLUMN source_inode INTEGER;
    CREATE INDEX copy_files_by_source ON copy_files (source_inode)
        WHERE source_inode IS NOT NULL;
    """,
    # Up to where a running job's copy is synced, while it is alive.
    """
    CREATE TABLE checkpoints (
        job_id TEXT PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
        fingerprint TEXT NOT NULL,
        position INTEGER NOT NULL
    ) WITHOUT ROWID;
    """,
    # The jobs that ended last, for those who ask for /status every few seconds.
    """
    CREATE INDEX jobs_by_end ON jobs (finished_at, seq) WHERE finished_at IS NOT NULL;
    """,
    # In which order they ended: a wall clock that is put back would mix them up.
    """
    ALTER TABLE jobs ADD COLUMN end_seq INTEGER;
    UPDATE jobs SET end_seq = ended.number FROM (
        SELECT seq, row_number() OVER (ORDER BY finished_at, seq) AS number
        FROM jobs WHERE finished_at IS NOT NULL
    ) AS ended WHERE ended.seq = jobs.seq;
    DROP INDEX jobs_by_end;
    CREATE INDEX jobs_by_end ON jobs (end_seq) WHERE end_seq IS NOT NULL;
    """,
)

VERSION: Final = len(MIGRATIONS)


class JournalTooNew(QbmError):
    """A newer qbm-trio wrote this journal."""

    code = "journal_too_new"


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables up to `VERSION`, each step in one transaction.

    Raises:
        JournalTooNew: the file is from a newer version; it is left as it is.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise JournalTooNew(
            f"the journal has schema version {version}, this program knows up to {VERSION}; "
            "start the newer qbm-trio again, or move the state directory away"
        )
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.executescript(f"BEGIN; {script}; PRAGMA user_version = {number}; COMMIT;")
