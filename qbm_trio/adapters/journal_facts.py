"""Lasting facts and counters: operations for `journal.Journal`."""

from __future__ import annotations

import math
import secrets
import sqlite3
from typing import Final


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


ENDS_KNOWN_SINCE: Final = "ends_known_since"
"""Of a restored journal: of what finished earlier it does not know any more how its job ended."""


def instance(connection: sqlite3.Connection, *, now: float) -> tuple[str, float]:
    """This instance's name, and since when what has no job never had one.

    The name is made at the first start, which is that time, too; unless the journal was restored.
    """
    known = meta(connection, "instance_id")
    if known is None:
        known = secrets.token_hex(6)
        set_meta(connection, "instance_id", known)
        if meta(connection, "first_run_at") is None:  # else it was all that could be read
            set_meta(connection, "first_run_at", repr(now))
    first_run_at = meta(connection, "first_run_at")
    # Unknown, this start takes its place.
    since = meta(connection, ENDS_KNOWN_SINCE) or 0.0
    return known, math.inf if first_run_at is None else max(float(first_run_at), float(since))
