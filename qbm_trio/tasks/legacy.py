"""At start: what the old tool had queued becomes jobs, once.

The jobs and the fact that these files are taken are one commit; the files are renamed
after it, and the fact is dropped when they are. Killed in between, or where they cannot
be renamed, the next start knows them, whatever has become of their jobs.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from sqlite3 import Connection
from typing import Final

import trio

from ..adapters import journal_facts, journal_jobs, legacy_files
from ..adapters.journal import Journal
from ..adapters.legacy_files import FoundFile
from ..adapters.recovery_point import SavedState
from ..core.legacy import LegacyTorrent, in_order
from ..core.model import JobId, Notification
from ..core.text import number

log = logging.getLogger(__name__)

TAKEN: Final = "legacy_taken"  #: the fact: keys of files that are taken and not renamed yet


async def take_legacy(
    journal: Journal, save: Callable[[], Awaitable[SavedState]], *, dry_run: bool
) -> None:
    """Take all that lies beside the journal into it, then rename the files.

    Args:
        journal: its folder is the old tool's state directory, too.
        save: writes a recovery point: one without these jobs must not outlive their files.
        dry_run: only say what would be taken.

    Cancellation: what was committed stays; the next start renames the rest.

    Raises:
        JournalUnwritable: nothing was taken; the files are as they were.
    """
    limiter = trio.CapacityLimiter(1)
    folder = journal.path.parent
    files, unread = await legacy_files.find(folder, limiter=limiter)
    if not files:
        if not unread:
            await journal.do(partial(_note, keys=()))  # killed just before, it did not get there
        return
    for file in files:
        for problem in file.content.problems:
            log.error("%s: %s", file.path, problem)
    if dry_run:
        torrents = in_order(t for file in files for t in file.content.torrents)
        log.warning(
            "dry run: would take over %s from %s of the old tool; all stays as it is",
            number(len(torrents), "torrent"),
            number(len(files), "file"),
        )
        return
    taken, running = await journal.do(partial(_take, files=files, now=time.time()))
    # Also when a start before this one has taken them: it may have been killed right then.
    await save()
    kept = await legacy_files.rename_all(files, limiter=limiter)
    if unread:  # they may be among those that were taken before and kept their names
        renamed = {file.key for file in files} - kept
        await journal.do(lambda connection: _note(connection, keys=_known(connection) - renamed))
    else:
        await journal.do(partial(_note, keys=kept))
    damaged = sum(bool(file.content.problems) for file in files)
    log.info(
        "took over %s of the old tool (%d of them running then) from %s%s",
        number(taken, "torrent"),
        running,
        number(len(files), "file"),
        f"; not taken whole, and now called *{legacy_files.INVALID}: {damaged}" if damaged else "",
    )


def _take(connection: Connection, *, files: Sequence[FoundFile], now: float) -> tuple[int, int]:
    """One commit: the jobs of all files that are new, and that they are taken."""
    known = _known(connection)
    new = [file for file in files if file.key not in known]
    torrents = in_order(t for file in new for t in file.content.torrents)
    for torrent in torrents:
        _admit(connection, torrent, now)
    _note(connection, keys=known | {file.key for file in files})
    return len(torrents), sum(torrent.running for torrent in torrents)


def _admit(connection: Connection, torrent: LegacyTorrent, now: float) -> None:
    queued_at = now if torrent.queued_at is None else min(torrent.queued_at, now)
    job = journal_jobs.admit(
        connection,
        Notification(
            hash=torrent.hash,
            priority=torrent.priority,
            name=torrent.name,
            category=torrent.category,
        ),
        job_id=JobId(secrets.token_hex(8)),
        now=queued_at,
    )
    if torrent.running:
        journal_jobs.to_head(connection, job.id)


def _known(connection: Connection) -> set[str]:
    return set(json.loads(journal_facts.meta(connection, TAKEN) or "[]"))


def _note(connection: Connection, *, keys: Collection[str]) -> None:
    if keys:
        journal_facts.set_meta(connection, TAKEN, json.dumps(sorted(keys)))
    else:
        connection.execute("DELETE FROM meta WHERE name = ?", (TAKEN,))
