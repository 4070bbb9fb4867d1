"""What each step of a relocation does in qBittorrent and on the disks.

Each may be taken again from its start: after a restart, or when qBittorrent was away.
What follows a step is ``core/relocation.py``'s.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import trio

from ..core.client import QbittorrentClient
from ..core.errors import TorrentUnknown
from ..core.model import Torrent
from ..core.readiness import MISSING_FILES, SEEDING
from ..core.relocation import Event, Relocation, Step
from ..core.relocation_polls import STOPPED
from ..core.roots import Roots
from ..core.space import RELOCATING_TAG
from .relocation_deletion import Deleted, Deletion
from .relocation_locating import way_on
from .relocation_names import OwnNames
from .relocation_proofs import NotAsPlanned, Proofs
from .relocation_settings import TorrentSettings
from .relocation_watch import TorrentGone, TorrentWatch
from .relocation_way_back import WayBack
from .tiers import Tiers

log = logging.getLogger(__name__)

REPAIRS: Final = 3
"""So often is a torrent pointed at its copy again that has slipped back to the SSD."""
RECHECKS: Final = 2
"""So often are its files on the SSD checked: the disk may have been away for a moment."""
PLAN_AGE_S: Final = 600.0
"""So old may the list be that tells whose copies are to be hashed again."""
_PAUSE_S: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a step."""

    event: Event
    why: str | None = None  #: what is not as planned
    tier_anew: bool = False  #: the copy is not what was verified
    freed_bytes: int = 0
    kept_bytes: int = 0  #: on the SSD, for its user has changed them


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
        nice: int,
        tier_anew: Callable[[Relocation], Awaitable[None]],
    ) -> None:
        """``tier_anew`` makes sure that a torrent has a job that makes its copy again.

        ``nice`` is for threads that read whole files.
        """
        self._roots = roots
        self._location_tags = location_tags
        self._grace_s = grace_s
        self._client = client
        self._tiers = tiers
        self._proofs = proofs
        self._names = OwnNames(roots, tiers=tiers, proofs=proofs)
        self._deletion = Deletion(roots, tiers=tiers, proofs=proofs, nice=nice)
        self._way_back = WayBack(roots, tiers=tiers, proofs=proofs)
        self._tier_anew = tier_anew
        self._began_s = trio.current_time()
        self._checked_s: dict[int, float] = {}  #: when each passed its recheck, since then
        self._freed_bytes: dict[int, int] = {}  #: by deletions that are not told yet
        self._deleting = trio.Lock()
        self._watch = TorrentWatch(client, roots.mapped)
        self._settings = TorrentSettings(client, self._watch)
        self._actions: dict[Step, Callable[[Relocation], Awaitable[Result]]] = {
            Step.LOCATING: self._locate,
            Step.PREPARING: self._prepare,
            Step.STOPPING: self._stop,
            Step.REPOINTING: self._repoint,
            Step.CHECKING: self._check,
            Step.RESTORING: self._restore,
            Step.WAITING: self._wait,
            Step.REPAIRING: self._repair,
            Step.REPEATING: self._repeat,
            Step.DELETING: self._delete,
            Step.RETURNING: self._return,
            Step.RECHECKING: self._check_again,
            Step.UNDOING: self._undo,
        }

    async def take(self, row: Relocation) -> Result:
        """Do what the row's step is for; what came of it.

        Raises:
            TorrentGone: its user removed the torrent.
            JobError, QbittorrentError: it could not be done now.
        """
        while True:
            try:
                return await self._actions[row.step](row)
            except TorrentGone:
                raise
            except TorrentUnknown:  # perhaps for a moment only
                await self._watch.torrent(row.torrent_id)
                await trio.sleep(_PAUSE_S)

    async def _locate(self, row: Relocation) -> Result:
        """Go on from what is found: the step that was known, if any, may be long past."""
        torrent = await self._watch.torrent(row.torrent_id)
        event = await way_on(
            row, torrent, roots=self._roots, tiers=self._tiers, proofs=self._proofs
        )
        if event is Event.MOVED:
            await self._settings.run_as_before(row)
            await self._tag_as_moved(row)
        return _said(event, f"found half-way; by then not all its files were at {row.from_path}")

    # -- forward

    async def _prepare(self, row: Relocation) -> Result:
        await self._client.add_tags([row.torrent_id], {RELOCATING_TAG})
        # While it still seeds: hashing may take long.
        await self._proofs.two_places(await self._proofs.whole_copy(row))
        shared = await self._proofs.claimants(row, max_age_s=PLAN_AGE_S)
        await self._proofs.hash_again(row, frozenset().union(*shared.values()))
        await self._settings.nothing_moves_it(row)
        return _ADVANCE

    async def _stop(self, row: Relocation) -> Result:
        await self._client.stop(row.torrent_id)
        event = await self._watch.stopped(row, row.from_path)
        if event is Event.ADVANCE:
            # Asked now, nothing need be rechecked if the answer is no.
            await self._proofs.copy_for_both(row)
        return _said(event, "it did not stop as a complete torrent")

    async def _repoint(self, row: Relocation) -> Result:
        # An HDD that was just unmounted would have qBittorrent move the only data there is
        # into the empty folder below.
        before = await self._proofs.copy_for_both(row)
        # Killed meanwhile, it runs again: it would download into a bad copy, or move it away.
        if (await self._watch.torrent(row.torrent_id)).state not in STOPPED:
            return _said(Event.FAIL, "it did not stay stopped")
        await self._client.set_location(row.torrent_id, row.to_path)
        event = await self._watch.repointed(row, row.to_path)
        if await self._proofs.vanished(before):  # perhaps only some files: it found the others
            return Result(
                event=Event.MOVED,
                why="qBittorrent moved the data instead of finding the copy; nothing is deleted; "
                "see that it has the HDD under the same path as the service, or set PATH_MAPPINGS",
            )
        if event is Event.ADVANCE:
            return _ADVANCE
        if (await self._watch.torrent(row.torrent_id)).state not in STOPPED:
            return Result(event=Event.FAIL, why=_STARTED)
        return _said(Event.FAIL, "qBittorrent did not take the copy's place for its own")

    async def _check(self, row: Relocation) -> Result:
        event = await self._watch.recheck(row, row.to_path)
        if event is not Event.ADVANCE:
            torrent = await self._watch.torrent(row.torrent_id)
            if torrent.state in SEEDING and torrent.state not in STOPPED:
                return Result(event=Event.FAIL, why=_STARTED)
            await self._tiers.hdd.check()  # else the copy need not be bad
        return _said(
            event,
            "qBittorrent's recheck of the copy on the HDD failed",
            tier_anew=event is Event.FAIL,
        )

    async def _restore(self, row: Relocation) -> Result:
        self._checked_s[row.id] = trio.current_time()
        event = await self._watch.seeds_at(row, row.to_path)
        if event is Event.ADVANCE:
            await self._settings.back(row)
        return _said(event, _NOT_THERE)

    async def _wait(self, row: Relocation) -> Result:
        await self._grace(row)
        event = await self._watch.seeds_at(row, row.to_path)
        if event is Event.ADVANCE:
            await self._settings.kept(row)
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
        await self._grace(row)  # the one after a repair; that before is over
        event = await self._watch.seeds_at(row, row.to_path)
        # Only there: on the SSD what is unfinished would be moved. The last look counts.
        if event is Event.ADVANCE and await self._settings.kept(row):
            event = await self._watch.seeds_at(row, row.to_path)
        if event is Event.ADVANCE:
            return _ADVANCE
        log.warning("%r: qBittorrent forgot the move; repeating it", row.name)
        return Result(event=Event.SLIPPED)

    async def _delete(self, row: Relocation) -> Result:
        while (done := await self._delete_proven(row)) is None:
            there = await self.still_there(row)
            if there.event is not Event.ADVANCE:
                return there
        # What follows may have to be tried again, and finds nothing left to delete then.
        self._freed_bytes[row.id] = self._freed_bytes.get(row.id, 0) + done.freed_bytes
        await self._tag_as_moved(row)
        there = await self.still_there(row)
        freed_bytes, kept_bytes = self._freed_bytes.pop(row.id), done.kept_bytes
        return replace(there, freed_bytes=freed_bytes, kept_bytes=kept_bytes, why=done.left)

    async def _delete_proven(self, row: Relocation) -> Deleted | None:
        """Delete its files; None if it is not as it was left: while that is mended, proofs age.

        One torrent's at a time: what is freed is measured, and is not to be another's.
        """
        async with self._deleting:
            proven = await self._deletion.prove(row)
            # The last look: all this took a while.
            if not await self._watch.is_as_left(row, row.to_path):
                return None
            return await self._deletion.delete(row, proven)

    async def _repair(self, row: Relocation) -> Result:
        why = "qBittorrent forgot the move, and did not take the copy again"
        for _ in range(REPAIRS):
            # It runs meanwhile, if it can. Without the HDD, the SSD's files would be moved into
            # the empty folder below; what is downloaded anew would take the good copy's place.
            await self._proofs.copy_for_both(row)
            await self._client.stop(row.torrent_id)
            await self._settings.nothing_moves_it(row)  # it has forgotten that, too
            await self._client.set_location(row.torrent_id, row.to_path)
            event = await self._watch.returned(row, row.to_path)
            if event is Event.ADVANCE:
                event = await self._watch.recheck(row, row.to_path)
            if event is Event.ADVANCE:
                self._checked_s[row.id] = trio.current_time()
                await self._settings.back(row)
                return _ADVANCE
            await self._tiers.require()  # else a disk was away, and is waited for
        if self._at_hdd(row, await self._watch.torrent(row.torrent_id)):
            # On the SSD it would take along what the others of its group have there.
            await self._settings.run_as_before(row)
            return Result(event=Event.MOVED, why=why)
        return Result(event=Event.FAIL, why=why)

    async def _repeat(self, row: Relocation) -> Result:
        # While its user sees nothing of it yet, since this may wait for the HDD.
        await self._proofs.copy_for_both(row)
        await self._client.add_tags([row.torrent_id], {RELOCATING_TAG})
        result = await self._repair(row)
        if result.event is Event.ADVANCE:
            await self._tag_as_moved(row)
        return result

    # -- back

    async def _return(self, row: Relocation) -> Result:
        # Without the SSD, the copy would be moved into the empty folder below.
        await self._tiers.ssd.check()
        # It may run already, with its settings restored.
        await self._client.stop(row.torrent_id)
        await self._settings.nothing_moves_it(row)
        # Where a good file of the SSD is called unfinished, the bad one of the HDD would be
        # brought along, and take its place. Not undone on the HDD now: what is called
        # unfinished there is not brought along under its own name.
        await self._names.on_ssd(row)
        if self._at_hdd(row, await self._watch.torrent(row.torrent_id)):
            obstacle = await self._way_back.obstacle(row)
            if obstacle is not None:
                return Result(event=Event.FAIL, why=obstacle)
        await self._client.set_location(row.torrent_id, row.from_path)
        event = await self._watch.returned(row, row.from_path)
        return _said(event, "qBittorrent did not go back to the SSD")

    async def _check_again(self, row: Relocation) -> Result:
        if self._at_hdd(row, await self._watch.torrent(row.torrent_id)):
            # Killed meanwhile, qBittorrent has come back there.
            result = await self._return(row)
            if result.event is not Event.ADVANCE:
                return result
        event = Event.FAIL
        for _ in range(RECHECKS):
            await self._tiers.ssd.check()
            await self._names.on_ssd(row)
            event = await self._watch.recheck(row, row.from_path)
            if event is Event.ADVANCE:
                break
        return _said(event, "qBittorrent's recheck on the SSD failed")

    async def _undo(self, row: Relocation) -> Result:
        torrent = await self._watch.torrent(row.torrent_id)
        if self._at_hdd(row, torrent):
            # It did not go back, or has come back there with a killed qBittorrent.
            await self._check_again(row)
            torrent = await self._watch.torrent(row.torrent_id)
        at_hdd = self._at_hdd(row, torrent)
        # On the HDD automatic management would move the files back, over the good ones, and
        # a folder for unfinished torrents would get what is unfinished.
        if at_hdd:
            await self._settings.run_as_before(row)
        else:
            if row.auto_management:
                await self._client.set_auto_management(row.torrent_id, True)
            runs = row.was_running or row.force_start
            await self._settings.back(row, start=runs and await self._has_data(row, torrent))
            if row.failed:
                await self._names.on_hdd(row)
        if row.tier_anew:
            for other in await self._proofs.claimants(row):
                # Told so while it checks, qBittorrent would check for ever (4.5.2, 5.1.0).
                if not (await self._client.torrent(other)).state.startswith("checking"):
                    await self._client.recheck(other)
            await self._tier_anew(row)
        if at_hdd:
            return Result(event=Event.MOVED, why="it could not go back, and stays on the HDD")
        return _ADVANCE

    async def _has_data(self, row: Relocation, torrent: Torrent) -> bool:
        """Whether it may be started on the SSD: with nothing there all would be downloaded."""
        missing = torrent.state == MISSING_FILES
        if not missing and (torrent.progress == 1 or await self._proofs.any_on_ssd(row)):
            return True
        log.error(
            "%r is not started, for it has no data on the SSD; see that its copy is whole, then "
            "set its location to %s in qBittorrent",
            row.name,
            row.to_path,
        )
        return False

    # -- what several steps do

    def _at_hdd(self, row: Relocation, torrent: Torrent) -> bool:
        return self._roots.is_below(torrent.content_path, row.to_path)

    async def _tag_as_moved(self, row: Relocation) -> None:
        if self._location_tags is not None:
            ssd, hdd = self._location_tags
            await self._client.add_tags([row.torrent_id], {hdd})
            await self._client.remove_tags([row.torrent_id], {ssd})

    async def _grace(self, row: Relocation) -> None:
        # Not by the journal's time, which may jump; after a restart all of it passes again.
        await trio.sleep_until(self._checked_s.get(row.id, self._began_s) + self._grace_s)
        self._checked_s.pop(row.id, None)  # over, and so is that since the start


_STARTED: Final = (
    "it was started before its copy was checked, by its user or by a program that resumes "
    "stopped torrents; let that leave those alone that have the tag " + RELOCATING_TAG
)
_NOT_THERE: Final = "qBittorrent does not have it complete on the HDD any more"


def _said(event: Event, why: str, *, tier_anew: bool = False) -> Result:
    """The event, with why it is another than hoped for."""
    if event is Event.ADVANCE:
        return _ADVANCE
    return Result(event=event, why=why, tier_anew=tier_anew)
