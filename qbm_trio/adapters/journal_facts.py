"""Lasting facts and counters: operations for `journal.Journal`."""

from __future__ import annotations

import math
import secrets
import sqlite3


def count(connection: sqlite3.Connection, name: str, by: int = 1) -> None:
    """Add to one of the counters that ``/status`` shows."""
    connection.execute(
        "INSERT INTO counters VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        (name, by),
    )


def counters(connection: sqlite3.Connection) -> dict[str, int]:
    """All counters, since the journal began."""
    return dict(connection.execute("SELECT name, value FROM counters").fetchall())


def meta(connection: sqlite3.Connection, name: str) -> str | None:
    """A lasting fact, such as this instance's id."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def set_meta(connection: sqlite3.Connection, name: str, value: str) -> None:
    """Record a lasting fact."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def instance(connection: sqlite3.Connection, *, now: float) -> tuple[str, float]:
    """This instance's name, and when it first ran: both made at the first start."""
    known = meta(connection, "instance_id")
    if known is None:
        known = secrets.token_hex(6)
        set_meta(connection, "instance_id", known)
        set_meta(connection, "first_run_at", repr(now))
    first_run_at = meta(connection, "first_run_at")
    # Unknown, no torrent has finished after it.
    return known, math.inf if first_run_at is None else float(first_run_at)
