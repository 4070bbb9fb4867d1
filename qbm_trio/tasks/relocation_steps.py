"""What each step of a relocation does in qBittorrent and on the disks.

Each may be taken again from its start: after a restart, or when qBittorrent was away.
What follows a step is ``core/relocation.py``'s.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path, PurePosixPath
from typing import Final

import trio

from ..adapters import disk
from ..adapters.ssd_deletion import JudgedFile, delete_files, judge_files
from ..adapters.ssd_files import real_places
from ..core.client import QbittorrentClient
from ..core.errors import TorrentUnknown
from ..core.model import Torrent, TorrentId
from ..core.relocation import Event, Relocation, Step
from ..core.relocation_polls import (
    Poll,
    judge_rechecked,
    judge_repointed,
    judge_returned,
    judge_seeding,
    judge_stopped,
)
from ..core.roots import Roots
from ..core.space import RELOCATING_TAG
from .relocation_names import OwnNames
from .relocation_proofs import NotAsPlanned, Proofs
from .tiers import Tiers

log = logging.getLogger(__name__)

GONE_AFTER_S: Final = 600.0
"""A qBittorrent that was killed forgets recent torrents for a while."""
GONE_LOOK_S: Final = 30.0
FREED_WITHIN_S: Final = 5.0
"""So long is waited for ``statvfs`` to show what a deletion has freed."""
PLAN_AGE_S: Final = 600.0
"""So old may the list be that tells whose copies are to be hashed again."""
CLAIM_AGE_S: Final = 30.0
"""So old may the list be that tells whose files must not be deleted."""
REFRESH_AGE_S: Final = 60.0
"""So long qBittorrent's refresh interval is taken for unchanged: its user may change it."""
_SHORTEST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 5.0
_POLLS_KEPT: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a step."""

    event: Event
    why: str | None = None  #: unless it is to go on as planned
    tier_anew: bool = False  #: the copy is not what was verified
    freed_bytes: int = 0


_ADVANCE: Final = Result(event=Event.ADVANCE)


class Steps:
    """Takes steps, for one torrent at a time."""

    def __init__(
        self,
        roots: Roots,
        *,
        location_tags: tuple[str, str] | None,
        grace_s: float,
        client: QbittorrentClient,
        tiers: Tiers,
        proofs: Proofs,
        tier_anew: Callable[[Relocation], Awaitable[None]],
        now: Callable[[], float] = time.time,
    ) -> None:
        """``tier_anew`` makes sure that a torrent has a job that makes its copy again."""
        self._roots = roots
        self._location_tags = location_tags
        self._grace_s = grace_s
        self._client = client
        self._tiers = tiers
        self._proofs = proofs
        self._names = OwnNames(roots, tiers=tiers, proofs=proofs)
        self._tier_anew = tier_anew
        self._now = now
        self._refresh = (-inf, 0.0)  #: when it was asked, and qBittorrent's refresh interval
        self._actions: dict[Step, Callable[[Relocation], Awaitable[Result]]] = {
            Step.PREPARING: self._prepare,
            Step.STOPPING: self._stop,
            Step.REPOINTING: self._repoint,
            Step.CHECKING: self._check,
            Step.RESTORING: self._restore,
            Step.WAITING: self._wait,
            Step.REPAIRING: self._repair,
            Step.DELETING: self._delete,
            Step.RETURNING: self._return,
            Step.RECHECKING: self._check_again,
            Step.UNDOING: self._undo,
        }

    async def take(self, row: Relocation) -> Result:
        """Do what the row's step is for; what came of it.

        Raises:
            TorrentUnknown: its user removed the torrent.
            JobError, QbittorrentError: it could not be done now.
        """
        while True:
            try:
                return await self._actions[row.step](row)
            except TorrentUnknown:
                await self._torrent(row.torrent_id)  # raises unless it is known again
                await trio.sleep(_SHORTEST_PAUSE_S)

    # -- forward

    async def _prepare(self, row: Relocation) -> Result:
        await self._client.add_tags([row.torrent_id], {RELOCATING_TAG})
        # While it still seeds: hashing may take long.
        await self._proofs.two_places(await self._proofs.whole_copy(row))
        shared = await self._proofs.claimants(row, max_age_s=PLAN_AGE_S)
        await self._proofs.hash_again(row, frozenset().union(*shared.values()))
        await self._nothing_moves_it(row)
        return _ADVANCE

    async def _stop(self, row: Relocation) -> Result:
        await self._client.stop(row.torrent_id)
        event = await self._watch(row, partial(judge_stopped, place=row.from_path))
        if event is Event.ADVANCE:
            # Asked now, nothing need be rechecked if the answer is no.
            await self._proofs.copy_for_both(row)
        return _said(event, "it did not stop as a complete torrent")

    async def _repoint(self, row: Relocation) -> Result:
        # An HDD that was just unmounted would have qBittorrent move the only data there is
        # into the empty folder below.
        before = await self._proofs.copy_for_both(row)
        await self._client.set_location(row.torrent_id, row.to_path)
        event = await self._watch(row, partial(judge_repointed, place=row.to_path))
        if event is Event.ADVANCE and await self._vanished(before):
            event = Event.MOVED  # some files: it found the others
        return _said(
            event,
            "qBittorrent moved the data instead of finding the copy; nothing is deleted; see "
            "that it has the HDD under the same path as the service, or set PATH_MAPPINGS"
            if event is Event.MOVED
            else "qBittorrent did not take the copy's place for its own",
        )

    async def _check(self, row: Relocation) -> Result:
        event = await self._recheck(row, row.to_path)
        return _said(
            event,
            "qBittorrent's recheck of the copy on the HDD failed",
            tier_anew=event is Event.FAIL,
        )

    async def _restore(self, row: Relocation) -> Result:
        event = await self._at_hdd(row)
        if event is Event.ADVANCE:
            await self._settings_back(row)
        return _said(event, _NOT_THERE)

    async def _wait(self, row: Relocation) -> Result:
        await self._grace(row)
        event = await self._at_hdd(row)
        if event is Event.ADVANCE:
            await self._proofs.whole_copy(row)
        return _said(event, _NOT_THERE)

    # -- deletion

    async def unclaimed(self, group: Sequence[Relocation]) -> Result:
        """Whether no torrent outside the group lists a file that is about to be deleted."""
        try:
            claimed = await self._proofs.claimed(group)
        except TorrentUnknown as error:
            raise NotAsPlanned(f"one of the group was removed meanwhile: {error}") from error
        if not claimed:
            return _ADVANCE
        return Result(
            event=Event.FAIL,
            why=f"another torrent has {min(claimed)!r} too, since after the plan was made",
        )

    async def still_there(self, row: Relocation) -> Result:
        """Whether qBittorrent has on the HDD what it has checked there.

        Killed before it had saved the move, it comes back on the SSD (seen on 5.1.0).
        """
        if await self._at_hdd(row) is Event.ADVANCE:
            return _ADVANCE
        log.warning("%r: qBittorrent forgot the move; repeating it", row.name)
        return Result(event=Event.SLIPPED)

    async def _delete(self, row: Relocation) -> Result:
        await self._grace(row)  # the one after a repair; that before is over
        judged = await self._proofs.whole_copy(row)
        await self._proofs.two_places(judged)
        # Of those that are relocated with it none has a file on the SSD any more.
        claimed = await self._proofs.claimed([row], max_age_s=CLAIM_AGE_S)
        real = await real_places([str(both.path) for both in judged], limiter=self._ssd)
        mine = [both for both in judged if real[str(both.path)] not in claimed]
        before = await self._free_bytes()
        done = await delete_files(
            self._roots.ssd,
            mine,
            save_path=Path(self._roots.mapped(row.from_path)),
            limiter=self._ssd,
        )
        freed_bytes = await self._freed_bytes(before, done.disk_bytes)
        for left in done.left:
            log.warning("%r: left on the SSD: %s", row.name, left.error)
        if len(mine) < len(judged):
            log.warning("%r: left on the SSD, for others have it: %s", row.name, sorted(claimed))
        await self._tag_as_moved(row)
        log.info("relocated %r: %d files deleted on the SSD", row.name, len(done.files))
        return Result(event=Event.ADVANCE, freed_bytes=freed_bytes)

    async def _repair(self, row: Relocation) -> Result:
        await self._client.stop(row.torrent_id)
        await self._nothing_moves_it(row)  # it has forgotten that, too
        await self._client.set_location(row.torrent_id, row.to_path)
        event = await self._watch(row, partial(judge_returned, place=row.to_path))
        if event is Event.ADVANCE:
            event = await self._recheck(row, row.to_path)
        if event is Event.ADVANCE:
            await self._settings_back(row)
        return _said(event, "qBittorrent forgot the move, and did not take the copy again")

    # -- back

    async def _return(self, row: Relocation) -> Result:
        # It may run already, with its settings restored.
        await self._client.stop(row.torrent_id)
        await self._nothing_moves_it(row)
        # What qBittorrent calls unfinished on the HDD it would bring along, and where a good
        # file of the SSD has such a name, it would put the bad one beside it.
        await self._names.on_hdd(row)
        await self._names.on_ssd(row)
        await self._client.set_location(row.torrent_id, row.from_path)
        event = await self._watch(row, partial(judge_returned, place=row.from_path))
        return _said(event, "qBittorrent did not go back to the SSD")

    async def _check_again(self, row: Relocation) -> Result:
        await self._names.on_ssd(row)
        event = await self._recheck(row, row.from_path)
        return _said(event, "qBittorrent's recheck on the SSD failed")

    async def _undo(self, row: Relocation) -> Result:
        torrent = await self._torrent(row.torrent_id)
        at_hdd = PurePosixPath(torrent.content_path).is_relative_to(row.to_path)
        # On the HDD it would move the files back, over the good ones.
        if row.auto_management and not at_hdd:
            await self._client.set_auto_management(row.torrent_id, True)
        await self._settings_back(row)
        if row.tier_anew:
            await self._names.on_hdd(row)
            for other in await self._proofs.claimants(row):
                await self._client.recheck(other)
            await self._tier_anew(row)
        if at_hdd:
            return Result(event=Event.MOVED, why="it could not go back, and stays on the HDD")
        return _ADVANCE

    # -- what several steps do

    async def _nothing_moves_it(self, row: Relocation) -> None:
        """Turn off what has qBittorrent move files by itself: over good ones, unchecked."""
        if row.auto_management:
            await self._client.set_auto_management(row.torrent_id, False)
        if row.download_path:
            await self._client.set_download_path(row.torrent_id, "")

    async def _settings_back(self, row: Relocation) -> None:
        if row.download_path:
            await self._client.set_download_path(row.torrent_id, row.download_path)
        if row.force_start:
            await self._client.set_force_start(row.torrent_id, True)
        elif row.was_running:
            await self._client.start(row.torrent_id)
        await self._client.remove_tags([row.torrent_id], {RELOCATING_TAG})

    async def _tag_as_moved(self, row: Relocation) -> None:
        if self._location_tags is not None:
            ssd, hdd = self._location_tags
            await self._client.add_tags([row.torrent_id], {hdd})
            await self._client.remove_tags([row.torrent_id], {ssd})

    async def _grace(self, row: Relocation) -> None:
        since = row.checked_at if row.checked_at is not None else self._now()
        await trio.sleep(max(0.0, min(self._grace_s, since + self._grace_s - self._now())))

    async def _at_hdd(self, row: Relocation) -> Event:
        return await self._watch(row, partial(judge_seeding, place=row.to_path))

    async def _recheck(self, row: Relocation, place: str) -> Event:
        await self._client.recheck(row.torrent_id)
        called_s = trio.current_time()
        return await self._watch(row, partial(judge_rechecked, called_s=called_s, place=place))

    async def _watch(self, row: Relocation, judge: Callable[..., Event | None]) -> Event:
        refresh_s = await self._refresh_interval_s()
        began_s = trio.current_time()
        polls: list[Poll] = []
        while True:
            at_s = trio.current_time()
            polls = [
                *polls[-_POLLS_KEPT:],
                Poll(at_s=at_s, torrent=await self._torrent(row.torrent_id)),
            ]
            event = judge(polls, refresh_s=refresh_s)
            if event is not None:
                return event
            # A recheck may take hours.
            longest_s = min(_LONGEST_PAUSE_S, (at_s - began_s) / 20)
            await trio.sleep(max(_SHORTEST_PAUSE_S, refresh_s / 2, longest_s))

    async def _refresh_interval_s(self) -> float:
        asked_s, refresh_s = self._refresh
        now_s = trio.current_time()
        if now_s - asked_s > REFRESH_AGE_S:
            refresh_s = await self._client.refresh_interval_s()
            self._refresh = (now_s, refresh_s)
        return refresh_s

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
                await trio.sleep(GONE_LOOK_S)

    async def _vanished(self, before: Sequence[JudgedFile]) -> bool:
        """Whether a file is gone that was on the SSD: qBittorrent never takes one away."""
        now = await judge_files(
            [(both.path, both.copy_path) for both in before], limiter=self._tiers.hdd.limiter
        )
        return any(
            was.file is not None and is_.file is None for was, is_ in zip(before, now, strict=True)
        )

    @property
    def _ssd(self) -> trio.CapacityLimiter:
        return self._tiers.ssd.limiter

    async def _free_bytes(self) -> int:
        return (await disk.disk_space(self._roots.ssd, limiter=self._ssd)).free_bytes

    async def _freed_bytes(self, before: int, expected: int) -> int:
        """What a deletion gave, by ``statvfs``, whose figures may come late."""
        freed = await self._free_bytes() - before
        with trio.move_on_after(FREED_WITHIN_S):
            while freed < expected * 0.9:
                await trio.sleep(_SHORTEST_PAUSE_S)
                freed = await self._free_bytes() - before
        return max(0, freed)


_NOT_THERE: Final = "qBittorrent does not have it complete on the HDD any more"


def _said(event: Event, why: str, *, tier_anew: bool = False) -> Result:
    """The event, with why it is another than hoped for."""
    if event is Event.ADVANCE:
        return _ADVANCE
    return Result(event=event, why=why, tier_anew=tier_anew)
