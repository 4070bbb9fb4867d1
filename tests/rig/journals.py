"""A journal with its writer, for tests below the service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from qbm_trio.adapters.journal import Journal


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
