"""Carry a group of torrents over to the HDD, or bring it back whole.

The steps and what follows each are ``core/relocation.py``'s. Each is in the journal
before it is taken, and may be taken again. A group goes step by step together: its
files on the SSD are deleted only when qBittorrent has checked the copies of all.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from sqlite3 import Connection
from typing import Final

import trio

from ..adapters import journal_copies, journal_relocations
from ..adapters.journal import Journal
from ..core.client import QbittorrentClient
from ..core.errors import (
    Fatal,
    JobError,
    JournalUnwritable,
    MustWait,
    QbittorrentError,
    QbittorrentLoginRefused,
    QbittorrentUnreachable,
    TorrentUnknown,
)
from ..core.model import JobId, TorrentId, WaitReason
from ..core.relocation import (
    BACK,
    CAN_FAIL,
    FORWARD,
    OPEN,
    Event,
    GroupState,
    Relocation,
    RunId,
    Step,
    state_of,
)
from ..logs import Subject, lines_about, subject
from .relocation_proofs import CopyChanged, NotAsPlanned
from .relocation_steps import Result, Steps

log = logging.getLogger(__name__)

RETRY_S: Final = 30.0

_TOGETHER: Final = {step: place for place, step in enumerate(Step)}
"""A group goes in the order of `Step`: no torrent is a step ahead of another for long."""
_LOST_BY_RESTART: Final = frozenset({Step.STOPPING, Step.REPOINTING, Step.CHECKING})
"""A qBittorrent that was away may have come back at the old place, or running."""


class GroupWatch:
    """What a run sees of a group that it has begun."""

    def __init__(self, rows: Iterable[Relocation]) -> None:
        self.rows = tuple(rows)
        self.decided = trio.Event()  #: all copies are checked, or it will not be relocated now
        self.settled = trio.Event()  #: ended, or goes on for long without the run
        self.moved = False  #: qBittorrent moved the data instead of finding the copy
        self.tier_away: str | None = None  #: why it could not go on, if a disk was the reason
        self.obstacles: dict[int, str] = {}  #: by row: why its step is not through yet
        self.freed_bytes: dict[int, int] = {}  #: by row: by deletions that are not recorded yet
        self.kept_bytes: dict[int, int] = {}  #: by row: not deleted, for they are its user's

    def update(self, rows: Iterable[Relocation]) -> None:
        """The group is so now."""
        self.rows = tuple(rows)
        state = state_of(row.step for row in self.rows)
        if state is not GroupState.GOING:
            self.decided.set()
        if state is GroupState.BACK or not any(row.step in OPEN for row in self.rows):
            self.stuck()

    def stuck(self) -> None:
        """It waits for something that may take long; it is not given up."""
        self.decided.set()
        self.settled.set()

    def held_up(self, row: Relocation, error: Exception) -> bool:
        """It is `stuck` at this row; whether that, and why, is news."""
        obstacle = str(error) or repr(error)
        news = self.obstacles.get(row.id) != obstacle
        self.obstacles[row.id] = obstacle
        self.stuck()
        return news

    def error_of(self, row: Relocation) -> str | None:
        """What is wrong with a row: why it goes back, and what stands in its way now."""
        return "; now ".join(filter(None, (row.error, self.obstacles.get(row.id)))) or None

    @property
    def relocated(self) -> bool:
        """Whether all that is left of it is on the HDD, and deleted on the SSD."""
        steps = {row.step for row in self.rows}
        return Step.DONE in steps and steps <= {Step.DONE, Step.GONE}


class Relocator:
    """Takes groups through the table; each call has one group."""

    def __init__(
        self,
        steps: Steps,
        *,
        client: QbittorrentClient,
        journal: Journal,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._steps = steps
        self._client = client
        self._journal = journal
        self._now = now
        self._job_ids: dict[TorrentId, JobId] = {}  #: for the log

    async def recover(self) -> list[list[Relocation]]:
        """At start: the groups that were open when the service stopped, to be run again.

        What was not past ``setLocation`` is turned back, the rest goes on.

        Raises:
            JournalUnwritable: that cannot be recorded.
        """
        opened = await self._journal.do(partial(journal_relocations.recover, now=self._now()))
        groups: dict[tuple[RunId, str], list[Relocation]] = defaultdict(list)
        for row in opened:
            groups[row.run_id, row.group].append(row)
        return list(groups.values())

    async def run_group(self, watch: GroupWatch) -> None:
        """Take each torrent of a group through its steps until all have ended.

        Args:
            watch: of rows that the journal holds; is told of each change.

        Cancellation:
            Between two calls to qBittorrent or the disk. The journal knows the step;
            `recover` goes on from it.

        Raises:
            JournalUnwritable: a step cannot be recorded; none is taken then.
        """
        rows = {row.id: row for row in watch.rows}
        jobs_of = partial(
            journal_copies.jobs_of, torrent_ids=[row.torrent_id for row in watch.rows]
        )
        self._job_ids |= await self._journal.do(jobs_of)
        while left := [row for row in rows.values() if row.step in OPEN]:
            row = min(left, key=lambda row: (_TOGETHER[row.step], row.id))
            ids, result = await self._go_on(row, left, list(rows.values()), watch)
            if result.event in (Event.FAIL, Event.MOVED):
                of = rows[ids[0]]
                what = self._about(of)
                log.error("%r is not relocated: %s: %s", of.name, row.step, result.why, extra=what)
            # One that cannot be recorded is taken again, and finds nothing left to delete.
            freed_bytes = watch.freed_bytes.get(ids[0], 0) + result.freed_bytes
            watch.freed_bytes[ids[0]] = freed_bytes
            watch.kept_bytes[ids[0]] = result.kept_bytes
            result = replace(result, freed_bytes=freed_bytes)
            changed = await self._journal.do(
                partial(_record, row=rows[ids[0]], ids=ids, result=result, now=self._now())
            )
            del watch.freed_bytes[ids[0]]
            watch.moved |= (row.step, result.event) == (Step.REPOINTING, Event.MOVED)
            rows |= {row.id: row for row in changed}
            watch.update(rows.values())

    async def _go_on(
        self,
        row: Relocation,
        left: Sequence[Relocation],
        group: Sequence[Relocation],
        watch: GroupWatch,
    ) -> tuple[list[int], Result]:
        """Take the next step of a group; which rows it moves on, and how."""
        if row.step is Step.DELETING:
            if any(other.step in BACK for other in group):
                why = "one that it shares files with could not be kept on the HDD"
                return [row.id], Result(event=Event.FAIL, why=why)
            return await self._delete(row, left, watch)
        log.info("relocating %r: %s", row.name, row.step, extra=self._about(row))
        result = await self._persist(row, watch, self._steps.take)
        if row.step is Step.WAITING and result.event is Event.ADVANCE:
            waiting = [other for other in left if other.step is Step.WAITING]
            for other in waiting[1:]:  # all of them: from there on there is no way back
                result = await self._persist(other, watch, self._steps.take)
                if result.event is not Event.ADVANCE:
                    return [other.id], result
            result = await self._persist(row, watch, lambda _: self._steps.unclaimed(waiting))
            if result.event is Event.ADVANCE:
                return [other.id for other in waiting], result
        return [row.id], result

    async def _delete(
        self, row: Relocation, left: Sequence[Relocation], watch: GroupWatch
    ) -> tuple[list[int], Result]:
        log.info("relocating %r: %s", row.name, row.step, extra=self._about(row))
        of = row

        async def one_try(row: Relocation) -> Result:
            # Anew at each try: between two, qBittorrent may have forgotten the move.
            nonlocal of
            for of in left:
                with lines_about(self._about(of)):
                    there = await self._steps.still_there(of)
                if there.event is not Event.ADVANCE:
                    return there
            of = row
            return await self._steps.take(row)

        result = await self._persist(row, watch, one_try)
        return [of.id], result

    async def _persist(
        self,
        row: Relocation,
        watch: GroupWatch,
        call: Callable[[Relocation], Awaitable[Result]],
    ) -> Result:
        """Call until something came of it that the table knows."""
        with lines_about(self._about(row)):
            return await self._until_known(row, watch, call)

    def _about(self, row: Relocation) -> Subject:
        job_id = self._job_ids.get(row.torrent_id)
        return subject(job_id=job_id, torrent_id=row.torrent_id, name=row.name)

    async def _until_known(
        self,
        row: Relocation,
        watch: GroupWatch,
        call: Callable[[Relocation], Awaitable[Result]],
    ) -> Result:
        while True:
            try:
                result = await call(row)
                watch.obstacles.pop(row.id, None)
                return result
            except TorrentUnknown as error:
                return Result(event=Event.GONE, why=str(error))
            except (QbittorrentUnreachable, QbittorrentLoginRefused) as error:
                watch.held_up(row, error)
                await self._client.wait_reachable()
                if row.step in _LOST_BY_RESTART:
                    return Result(
                        event=Event.FAIL, why=f"qBittorrent went away meanwhile ({error})"
                    )
            except (QbittorrentError, JobError) as error:
                hopeless = isinstance(error, NotAsPlanned | Fatal) and row.step in CAN_FAIL
                if isinstance(error, MustWait) and error.reason is WaitReason.TIER:
                    watch.tier_away = str(error)
                if row.step in FORWARD or hopeless:
                    return _failed(error)
                # From here on only the end helps the user: never given up.
                if watch.held_up(row, error):  # it may last for days
                    log.error("%r: %s: %s; trying again", row.name, row.step, error)
                await trio.sleep(RETRY_S)
            except JournalUnwritable:
                raise
            except Exception as error:
                # Its torrent must not stay stopped for it.
                log.exception("a bug in relocating %r: %s", row.name, row.step)
                if row.step in FORWARD:
                    return Result(event=Event.FAIL, why=f"a bug: {error!r}; see the log")
                watch.held_up(row, error)
                await trio.sleep(RETRY_S)

    async def undo_early(self) -> None:
        """When the service stops: undo what is not past ``setLocation``.

        The rest goes on at the next start; so does what cannot be undone now.

        Raises:
            JournalUnwritable: nothing more can be recorded.
        """
        rows = await self._journal.do(partial(journal_relocations.interrupt, now=self._now()))
        async with trio.open_nursery() as nursery:
            for row in rows:
                with lines_about(self._about(row)):
                    nursery.start_soon(self._undo_early, row)

    async def _undo_early(self, row: Relocation) -> None:
        try:
            result = await self._steps.take(row)
            await self._journal.do(
                partial(
                    journal_relocations.step,
                    ids=[row.id],
                    event=result.event,
                    expected=row.step,
                    now=self._now(),
                )
            )
        except (QbittorrentError, JobError, JournalUnwritable) as error:
            log.warning("%r: its relocation is undone at the next start: %s", row.name, error)
        except Exception:
            # The others, and the journal's clean end, must not suffer for it.
            log.exception("a bug: the relocation of %r is undone at the next start", row.name)
        else:
            log.info("%r: its relocation is undone", row.name)


def _record(
    connection: Connection, row: Relocation, *, ids: Sequence[int], result: Result, now: float
) -> list[Relocation]:
    """Move these rows of a group on; none of it stays on its way if that is back."""
    changed = journal_relocations.step(
        connection,
        ids,
        result.event,
        expected=row.step,
        now=now,
        error=result.why,
        tier_anew=result.tier_anew,
        freed_bytes=result.freed_bytes,
    )
    if result.event not in (Event.FAIL, Event.MOVED):
        return changed
    why = f"its group ends with {row.name!r}"
    return journal_relocations.undo_group(connection, row.run_id, row.group, now=now, error=why)


def _failed(error: Exception) -> Result:
    return Result(event=Event.FAIL, why=str(error), tier_anew=isinstance(error, CopyChanged))
