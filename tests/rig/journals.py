"""A journal with its writer, for tests below the service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from qbm_trio.adapters.journal import Journal
from qbm_trio.core.lifecycle import ACTIVE
from qbm_trio.core.model import JobState, WaitReason
from qbm_trio.core.retry import LONGEST_DELAY_S


@asynccontextmanager
async def running(state_dir: Path) -> AsyncIterator[Journal]:
    """An open journal with its writer; closed, and the writer gone, at the end."""
    journal = Journal.open(state_dir)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(journal.run, trio.CapacityLimiter(1))
            try:
                yield journal
            finally:
                journal.close()


def fill(state_dir: Path, counts: Mapping[JobState, int], *, now: float) -> None:
    """Put so many jobs of each state into a journal that nobody has open.

    Those that wait do so for their retry, for as long as one may last.
    """
    journal = Journal.open(state_dir)
    rows: list[tuple[object, ...]] = []
    for state, count in counts.items():
        for _ in range(count):
            n = len(rows) + 1
            waits = state is JobState.WAITING
            ended_at = None if state in ACTIVE else now - n
            until = (WaitReason.RETRY, now + LONGEST_DELAY_S) if waits else (None, None)
            ended = (ended_at, ended_at and -n)
            rows.append((f"{n:016x}", f"{n:040x}", f"Torrent {n}", state, *until, *ended, now))
    try:
        journal._connection.execute("BEGIN")  # else each row would be synced by itself
        journal._connection.executemany(
            "INSERT INTO jobs (id, hash, name, category, priority, state, wait_reason, next_at,"
            " finished_at, end_seq, accepted_at, updated_at)"
            " VALUES (?, ?, ?, 'movies', 0, ?, ?, ?, ?, ?, ?9, ?9)",
            rows,
        )
        journal._connection.execute("COMMIT")
    finally:
        journal._connection.close()
