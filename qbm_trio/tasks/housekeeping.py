"""Small regular work: counters into the journal, old jobs out of it, recovery points."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from sqlite3 import Connection
from typing import Final

import trio
from trio_util import periodic

from ..adapters import (
    journal_facts,
    journal_jobs,
    journal_relocations,
    recovery_point,
    state_dir,
)
from ..adapters.journal import Journal
from ..adapters.recovery_point import SavedState
from ..core.errors import JournalUnwritable
from .observer import Observer

log = logging.getLogger(__name__)

INTERVAL_S = 15.0
SAVE_INTERVAL_S = 900.0
BEAT_S = 10.0
"""``container/healthcheck.py`` calls the service dead after a minute without."""
PRUNE_EVERY = 240
"""Old jobs are looked for once in so many rounds: once an hour."""
_PRUNED: Final = (("jobs", journal_jobs.prune), ("relocations", journal_relocations.prune))


async def keep_house(observer: Observer, journal: Journal, retention_s: float) -> None:
    """Runs until cancelled."""
    began_at, began_s = time.time(), trio.current_time()
    number = 0
    async with aclosing(periodic(INTERVAL_S)) as ticks:
        async for _ in ticks:
            try:
                if journal.problem is not None:
                    # Only a write tells whether it writes again, and nobody may come.
                    await journal.do(_touch)
                await observer.save_counters()
                if number % PRUNE_EVERY == 0:
                    # A wall clock that jumps ahead makes nothing old: only what passes does.
                    lived_s = trio.current_time() - began_s
                    before = min(time.time(), began_at + lived_s) - retention_s
                    for what, prune in _PRUNED:
                        gone = await journal.do(partial(prune, finished_before=before))
                        if gone:
                            log.info("forgot %d %s that ended long ago", gone, what)
            except JournalUnwritable as error:
                log.error("%s", error)
            number += 1


async def keep_recovery_points(journal: Journal, save: Callable[[], Awaitable[SavedState]]) -> None:
    """Write one every `SAVE_INTERVAL_S` if something has changed. Runs until cancelled."""
    last = None
    while True:
        await trio.sleep(SAVE_INTERVAL_S)
        try:
            # Asked before: what changes during the save is in the next one.
            now = await journal.do(recovery_point.fingerprint)
            if now != last:
                saved = await save()
                log.info("recovery point %s: %s", saved.path, dict(saved.counts))
                last = now
        except JournalUnwritable as error:
            log.error("no recovery point: %s", error)


async def keep_beating(folder: Path) -> None:
    """Show that this loop goes round, where nobody can ask. Runs until cancelled."""
    limiter = trio.CapacityLimiter(1)
    while True:
        try:
            await state_dir.beat(folder, limiter=limiter)
        except OSError as error:
            # What it means for the jobs is said by the journal, which is in this folder too.
            log.debug("no sign of life can be left in %s: %s", folder, error)
        await trio.sleep(BEAT_S)


def _touch(connection: Connection) -> None:
    journal_facts.set_meta(connection, "touched_at", repr(time.time()))
