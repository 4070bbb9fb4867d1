"""Carry a group of torrents over to the HDD, or bring it back whole.

The steps and what follows each are ``core/relocation.py``'s. Each is in the journal
before it is taken, and may be taken again. A group goes step by step together: its
files on the SSD are deleted only when qBittorrent has checked the copies of all.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final

import trio

from ..adapters import journal_relocations
from ..adapters.journal import Journal
from ..adapters.ssd_deletion import delete_files
from ..core.client import QbittorrentClient
from ..core.errors import (
    JobError,
    QbittorrentError,
    QbittorrentLoginRefused,
    QbittorrentUnreachable,
    TorrentUnknown,
)
from ..core.model import Torrent, TorrentId
from ..core.relocation import (
    FORWARD,
    OPEN,
    Event,
    Poll,
    Relocation,
    RunId,
    Step,
    judge_rechecked,
    judge_repointed,
    judge_returned,
    judge_stopped,
)
from ..core.space import RELOCATING_TAG
from .relocation_proofs import Proofs, Roots, require_at_hdd
from .tiers import Tiers

log = logging.getLogger(__name__)

GONE_AFTER_S: Final = 600.0
"""A qBittorrent that was killed forgets recent torrents for a while."""
RETRY_S: Final = 30.0
_SHORTEST_PAUSE_S: Final = 0.25
_POLLS_KEPT: Final = 100

_TOGETHER: Final = {step: place for place, step in enumerate(Step)}
"""A group goes in the order of `Step`: no torrent is a step ahead of another for long."""


class Relocator:
    """Takes groups through the table, one group at a time for each call."""

    def __init__(
        self,
        roots: Roots,
        *,
        location_tags: tuple[str, str] | None,
        grace_s: float,
        client: QbittorrentClient,
        journal: Journal,
        tiers: Tiers,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._roots = roots
        self._location_tags = location_tags
        self._grace_s = grace_s
        self._client = client
        self._journal = journal
        self._tiers = tiers
        self._proofs = Proofs(roots, client=client, journal=journal, tiers=tiers)
        self._now = now
        self._actions: dict[Step, Callable[[Relocation], Awaitable[Event]]] = {
            Step.PREPARING: self._prepare,
            Step.STOPPING: self._stop,
            Step.REPOINTING: self._repoint,
            Step.CHECKING: self._check,
            Step.RESTORING: self._restore,
            Step.WAITING: self._wait,
            Step.DELETING: self._delete,
            Step.RETURNING: self._return,
            Step.RECHECKING: self._check_again,
            Step.UNDOING: self._undo,
        }

    async def recover(self) -> list[Relocation]:
        """At start: finish or undo what was open when the service stopped.

        Raises:
            JournalUnwritable: a step cannot be recorded.
        """
        opened = await self._journal.do(partial(journal_relocations.recover, now=self._now()))
        groups: dict[tuple[RunId, str], list[Relocation]] = defaultdict(list)
        for row in opened:
            groups[row.run_id, row.group].append(row)
        return [row for group in groups.values() for row in await self.run_group(group)]

    async def run_group(self, group: Sequence[Relocation]) -> list[Relocation]:
        """Take each torrent of a group through its steps until all have ended.

        Args:
            group: rows that the journal holds.

        Returns:
            The rows as they ended.

        Cancellation:
            Between two calls to qBittorrent or the disk. The journal knows the step;
            `recover` goes on from it.

        Raises:
            JournalUnwritable: a step cannot be recorded; none is taken then.
        """
        rows = {row.id: row for row in group}
        while left := [row for row in rows.values() if row.step in OPEN]:
            row = min(left, key=lambda row: (_TOGETHER[row.step], row.id))
            event, why = await self._take(row)
            ids = [row.id]
            if row.step is Step.WAITING and event is Event.ADVANCE:
                ids = [other.id for other in left if other.step is Step.WAITING]
                event, why = await self._unclaimed(left)
                ids = ids if event is Event.ADVANCE else [row.id]
            changed = await self._journal.do(
                partial(
                    journal_relocations.step,
                    ids=ids,
                    event=event,
                    expected=row.step,
                    now=self._now(),
                    error=why,
                )
            )
            if event in (Event.FAIL, Event.MOVED):
                log.error("%r is not relocated: %s: %s", row.name, row.step, why)
                changed = await self._journal.do(
                    partial(
                        journal_relocations.undo_group,
                        run_id=row.run_id,
                        group=row.group,
                        now=self._now(),
                        error=f"its group goes back with {row.name!r}",
                    )
                )
            rows |= {row.id: row for row in changed}
        return list(rows.values())

    async def _take(self, row: Relocation) -> tuple[Event, str | None]:
        """Do what a step is for, as often as it takes; what came of it, and why."""
        while True:
            try:
                log.info("relocating %r: %s", row.name, row.step)
                event = await self._actions[row.step](row)
                return event, None if event is Event.ADVANCE else _why(row.step, event)
            except TorrentUnknown as error:
                return Event.GONE, str(error)
            except (QbittorrentUnreachable, QbittorrentLoginRefused) as error:
                await self._client.wait_reachable()
                if row.step in (Step.STOPPING, Step.REPOINTING, Step.CHECKING):
                    # It may have come back at the old place, or running.
                    return Event.FAIL, f"qBittorrent went away meanwhile ({error})"
            except (QbittorrentError, JobError) as error:
                if row.step in FORWARD:
                    return Event.FAIL, str(error)
                # From here on only the end helps the user: never given up.
                log.error("%r: %s: %s; trying again", row.name, row.step, error)
                await trio.sleep(RETRY_S)

    # -- forward

    async def _prepare(self, row: Relocation) -> Event:
        await self._client.add_tags([row.torrent_id], {RELOCATING_TAG})
        if row.auto_management:
            await self._client.set_auto_management(row.torrent_id, False)
        if row.download_path:
            await self._client.set_download_path(row.torrent_id, "")
        return Event.ADVANCE

    async def _stop(self, row: Relocation) -> Event:
        await self._client.stop(row.torrent_id)
        event = await self._watch(row, partial(judge_stopped, place=row.from_path))
        if event is Event.ADVANCE:
            await self._proofs.whole_copy(row)
        return event

    async def _repoint(self, row: Relocation) -> Event:
        # An HDD that was just unmounted would have qBittorrent move the only data there is
        # into the empty folder below.
        await self._proofs.whole_copy(row)
        await self._client.set_location(row.torrent_id, row.to_path)
        return await self._watch(row, partial(judge_repointed, place=row.to_path))

    async def _check(self, row: Relocation) -> Event:
        return await self._recheck(row, row.to_path)

    async def _restore(self, row: Relocation) -> Event:
        require_at_hdd(row, await self._torrent(row.torrent_id))
        await self._settings_back(row)
        return Event.ADVANCE

    async def _wait(self, row: Relocation) -> Event:
        since = row.checked_at if row.checked_at is not None else self._now()
        await trio.sleep(max(0.0, min(self._grace_s, since + self._grace_s - self._now())))
        # A qBittorrent that was killed can come back at the old place.
        require_at_hdd(row, await self._torrent(row.torrent_id))
        await self._proofs.whole_copy(row)
        return Event.ADVANCE

    async def _delete(self, row: Relocation) -> Event:
        require_at_hdd(row, await self._torrent(row.torrent_id))
        judged = await self._proofs.whole_copy(row)
        for on_ssd, on_hdd in {
            (file.path.parent, file.copy_path.parent) for file in judged if file.file is not None
        }:
            await self._tiers.check_not_aliased(on_ssd, on_hdd)
        done = await delete_files(
            self._roots.ssd,
            judged,
            save_path=Path(self._roots.mapped(row.from_path)),
            limiter=self._tiers.ssd.limiter,
        )
        for left in done.left:
            log.warning("%r: left on the SSD: %s", row.name, left.error)
        if self._location_tags is not None:
            ssd, hdd = self._location_tags
            await self._client.add_tags([row.torrent_id], {hdd})
            await self._client.remove_tags([row.torrent_id], {ssd})
        log.info("relocated %r: %d files deleted on the SSD", row.name, len(done.files))
        return Event.ADVANCE

    # -- back

    async def _return(self, row: Relocation) -> Event:
        await self._client.set_location(row.torrent_id, row.from_path)
        return await self._watch(row, partial(judge_returned, place=row.from_path))

    async def _check_again(self, row: Relocation) -> Event:
        return await self._recheck(row, row.from_path)

    async def _undo(self, row: Relocation) -> Event:
        if row.auto_management:
            await self._client.set_auto_management(row.torrent_id, True)
        await self._settings_back(row)
        torrent = await self._torrent(row.torrent_id)
        at_hdd = PurePosixPath(torrent.content_path).is_relative_to(row.to_path)
        return Event.MOVED if at_hdd else Event.ADVANCE

    # -- what several steps do

    async def _settings_back(self, row: Relocation) -> None:
        if row.download_path:
            await self._client.set_download_path(row.torrent_id, row.download_path)
        if row.force_start:
            await self._client.set_force_start(row.torrent_id, True)
        elif row.was_running:
            await self._client.start(row.torrent_id)
        await self._client.remove_tags([row.torrent_id], {RELOCATING_TAG})

    async def _recheck(self, row: Relocation, place: str) -> Event:
        await self._client.recheck(row.torrent_id)
        called_s = trio.current_time()
        return await self._watch(row, partial(judge_rechecked, called_s=called_s, place=place))

    async def _watch(self, row: Relocation, judge: Callable[..., Event | None]) -> Event:
        refresh_s = await self._client.refresh_interval_s()
        polls: list[Poll] = []
        while True:
            at_s = trio.current_time()
            polls = [*polls, Poll(at_s=at_s, torrent=await self._torrent(row.torrent_id))]
            event = judge(polls, refresh_s=refresh_s)
            if event is not None:
                return event
            polls = polls[-_POLLS_KEPT:]
            await trio.sleep(max(_SHORTEST_PAUSE_S, refresh_s / 2))

    async def _torrent(self, torrent_id: TorrentId) -> Torrent:
        first_missed_at = None
        while True:
            try:
                return await self._client.torrent(torrent_id)
            except TorrentUnknown:
                now = trio.current_time()
                first_missed_at = now if first_missed_at is None else first_missed_at
                if now - first_missed_at >= GONE_AFTER_S:
                    raise
                await trio.sleep(RETRY_S)

    async def _unclaimed(self, group: Sequence[Relocation]) -> tuple[Event, str | None]:
        """Whether no other torrent lists a file that is about to be deleted."""
        try:
            await self._proofs.require_unclaimed(group)
        except TorrentUnknown:
            return Event.FAIL, "another torrent was removed meanwhile"
        except (QbittorrentError, JobError) as error:
            return Event.FAIL, str(error)
        return Event.ADVANCE, None


def _why(step: Step, event: Event) -> str:
    if event is Event.MOVED:
        return "qBittorrent moved the data instead of finding the copy; nothing is deleted"
    return {
        Step.STOPPING: "it did not stop as a complete torrent",
        Step.REPOINTING: "qBittorrent did not take the copy's place for its own",
        Step.CHECKING: "qBittorrent's recheck of the copy on the HDD failed",
        Step.RETURNING: "qBittorrent did not go back to the SSD",
        Step.RECHECKING: "qBittorrent's recheck on the SSD failed",
    }.get(step, f"{step} failed")
