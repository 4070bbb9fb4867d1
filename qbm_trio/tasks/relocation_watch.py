"""Ask qBittorrent of one torrent until its answers can be believed."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from math import inf
from typing import Final

import trio

from ..core.client import QbittorrentClient
from ..core.errors import TorrentUnknown
from ..core.model import Torrent, TorrentId
from ..core.relocation import Event, Relocation
from ..core.relocation_polls import (
    STOPPED,
    Poll,
    judge_rechecked,
    judge_repointed,
    judge_returned,
    judge_seeding,
    judge_stopped,
)
from ..core.space import RELOCATING_TAG

log = logging.getLogger(__name__)

GONE_AFTER_S: Final = 600.0
"""So long one is missed by a qBittorrent of which nothing else is known: it may have been
started without its torrents, as when the folder of its settings is not mounted."""
LOADED_AFTER_S: Final = 60.0
"""So long one is missed while another that is being relocated is shown: these are its
torrents. It answers only when it has loaded them all (read in 4.5 to 5.1, seen on both)."""
GONE_LOOK_S: Final = 30.0
REMOVED_AFTER_S: Final = 5.0
"""So long one is missed that this very qBittorrent, not restarted since, had shown before."""
SEEN_WITHIN_S: Final = 15.0
"""So long is waited until a setting that was changed is shown so."""
REFRESH_AGE_S: Final = 60.0
"""So long qBittorrent's refresh interval is taken for unchanged: its user may change it."""
STANDSTILL_S: Final = 300.0
"""So long a check may show no progress: it waits its turn, or will never end."""
NOT_DUE_S: Final = 5.0
"""The same, where none should be going on."""
_SHORTEST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 5.0
_POLLS_KEPT: Final = 100


class TorrentGone(TorrentUnknown):
    """It was missed for so long that its user must have removed it."""


def _checks(torrent: Torrent) -> bool:
    """Whether it is being checked. Not at a start, when thousands may wait for it."""
    return torrent.state in ("checkingUP", "checkingDL")


class _Standstill:
    """Notices a check that shows no progress for long."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._since_s = 0.0
        self._progress: float | None = None  #: of the check; None while there is none

    def lasts(self, poll: Poll) -> bool:
        """Whether it has lasted, with this poll; if so, it begins anew."""
        checks = _checks(poll.torrent)
        progress = poll.torrent.progress if checks else None
        if progress != self._progress:
            self._progress, self._since_s = progress, poll.at_s
        lasts = checks and poll.at_s - self._since_s >= self._patience_s
        if lasts:
            self._progress = None
        return lasts


class TorrentWatch:
    """Polls, at the pace at which qBittorrent renews what it says."""

    def __init__(self, client: QbittorrentClient, mapped: Callable[[str], str]) -> None:
        """``mapped`` gives the service's path for one of qBittorrent's."""
        self._client = client
        self._mapped = mapped
        self._shown_in: dict[TorrentId, int] = {}  #: in which session it was shown last
        self._refresh = (-inf, 0.0)  #: when it was asked, and qBittorrent's refresh interval

    async def torrent(self, torrent_id: TorrentId) -> Torrent:
        """The torrent; one that is not known is waited for.

        Raises:
            TorrentGone: it is not known for long: its user removed it.
        """
        first_missed_at = None
        list_after_s = LOADED_AFTER_S
        while True:
            try:
                torrent = await self._client.torrent(torrent_id)
            except TorrentUnknown as error:
                now = trio.current_time()
                first_missed_at = now if first_missed_at is None else first_missed_at
                missed_s = now - first_missed_at
                sessions = self._client.sessions
                unbroken = sessions > 0 and self._shown_in.get(torrent_id) == sessions
                after_s = min(REMOVED_AFTER_S, GONE_AFTER_S) if unbroken else GONE_AFTER_S
                gone = missed_s >= after_s
                if not gone and missed_s >= list_after_s:
                    gone = await self._shows_another(torrent_id)
                    list_after_s = 2 * missed_s  # a list takes seconds on 4.5
                if gone:
                    raise TorrentGone(str(error)) from error
                await trio.sleep(min(GONE_LOOK_S, after_s / 2))
            else:
                self._shown_in[torrent_id] = self._client.sessions
                return torrent

    async def _shows_another(self, missed: TorrentId) -> bool:
        """Whether there is a torrent that is being relocated, and the missed one is not.

        The others of a group, which stand still for it, have the tag.
        """
        torrents = await self._client.torrents()
        if any(torrent.id == missed for torrent in torrents):
            return False
        return any(RELOCATING_TAG in torrent.tags for torrent in torrents)

    async def judged(
        self,
        row: Relocation,
        judge: Callable[..., Event | None],
        place: str,
        *,
        wake: Callable[[], Awaitable[None]] | None = None,
        due: bool = True,
    ) -> Event:
        """What ``judge`` makes of the answers, as soon as it makes anything of them.

        It is given the service's paths: of qBittorrent's, one tier may be mounted below the
        other, and what is there would seem to be on both.

        Args:
            row: whose torrent.
            judge: gets all polls, in order.
            place: what it is asked about.
            wake: ends a check that does not get on, or begins it anew. Told to check once
                more while it checks, or moved, qBittorrent checks for ever (seen on 4.5.2
                and 5.1.0), and its user may tell it so at any time.
            due: whether a check may go on: then it is given its time, and its turn.
        """
        refresh_s = await self._refresh_interval_s()
        began_s = trio.current_time()
        polls: list[Poll] = []
        standstill = _Standstill(STANDSTILL_S if due else NOT_DUE_S)
        while True:
            at_s = trio.current_time()
            polls = [*polls[-_POLLS_KEPT:], self._poll(at_s, await self.torrent(row.torrent_id))]
            event = judge(polls, place=self._mapped(place), refresh_s=refresh_s)
            if event is not None:
                return event
            lasts = wake is not None and standstill.lasts(polls[-1])
            if wake and lasts and not (due and await self._may_begin(polls[-1].torrent)):
                log.info("%r: its check does not get on; it is ended, or begun anew", row.name)
                await wake()
            # A recheck may take hours.
            longest_s = min(_LONGEST_PAUSE_S, (at_s - began_s) / 20)
            await trio.sleep(max(_SHORTEST_PAUSE_S, refresh_s / 2, longest_s))

    async def stopped(self, row: Relocation, place: str) -> Event:
        """Whether one that was told to has stopped, complete and at ``place``."""
        return await self.judged(row, judge_stopped, place, wake=self._stop(row))

    async def repointed(self, row: Relocation, place: str) -> Event:
        """How ``setLocation`` of a stopped torrent to files at ``place`` has ended."""
        return await self._moved(row, judge_repointed, place)

    async def returned(self, row: Relocation, place: str) -> Event:
        """How ``setLocation`` of a stopped torrent to ``place``, where it was, has ended."""
        return await self._moved(row, judge_returned, place)

    async def _moved(
        self, row: Relocation, judge: Callable[..., Event | None], place: str
    ) -> Event:
        # Stopped, it waits for the check that is to come.
        return await self.judged(row, judge, place, wake=self._stop(row), due=False)

    async def _may_begin(self, seen: Torrent) -> bool:
        """Whether one waits its turn to be checked, or has it just now."""
        others = (torrent for torrent in await self._client.torrents() if torrent.id != seen.id)
        if any(_checks(other) and other.progress > 0 for other in others):
            return True
        await trio.sleep(NOT_DUE_S)
        now = await self.torrent(seen.id)
        return not _checks(now) or now.progress != seen.progress

    def _stop(self, row: Relocation) -> Callable[[], Awaitable[None]]:
        return partial(self._client.stop, row.torrent_id)

    async def runs_after_checks(
        self, row: Relocation, *, wake: Callable[[Relocation], Awaitable[None]]
    ) -> bool:
        """Whether one that was started runs, once no check goes on; ``wake`` as in `judged`."""

        def judge(polls: list[Poll], **_: object) -> Event | None:
            state = polls[-1].torrent.state
            if state.startswith("checking"):
                return None
            return Event.FAIL if state in STOPPED else Event.ADVANCE

        event = await self.judged(row, judge, row.from_path, wake=partial(wake, row))
        return event is Event.ADVANCE

    async def seeds_at(self, row: Relocation, place: str) -> Event:
        """Whether a torrent that had passed its recheck is still complete at ``place``."""
        return await self.judged(row, judge_seeding, place)

    async def is_as_left(self, row: Relocation, place: str) -> bool:
        """As `seeds_at`, by the next answer alone, and with nothing to be told again.

        Raises:
            TorrentUnknown: it is not known, perhaps for a moment only.
        """
        refresh_s, at_s = await self._refresh_interval_s(), trio.current_time()
        poll = self._poll(at_s, await self._client.torrent(row.torrent_id))
        event = judge_seeding([poll], place=self._mapped(place), refresh_s=refresh_s)
        return event is Event.ADVANCE and RELOCATING_TAG not in poll.torrent.tags

    def _poll(self, at_s: float, said: Torrent) -> Poll:
        torrent = replace(
            said,
            save_path=self._mapped(said.save_path),
            content_path=self._mapped(said.content_path),
        )
        return Poll(at_s=at_s, torrent=torrent)

    async def recheck(self, row: Relocation, place: str) -> Event:
        """Have the files at ``place`` rechecked; whether they are whole.

        A qBittorrent that was killed meanwhile can show the torrent as complete, from what
        it had saved before (seen on 5.1.0): that is no check.
        """
        # It may be checking already: since before a restart of the service, or started by its
        # user. Told so once more it would check for ever (seen on 4.5.2 and 5.1.0).
        called_s = -inf

        async def begin() -> None:
            nonlocal called_s
            await self._client.stop(row.torrent_id)
            await self._client.recheck(row.torrent_id)
            called_s = trio.current_time()

        def judge(polls: list[Poll], *, place: str, refresh_s: float) -> Event | None:
            return judge_rechecked(polls, called_s=called_s, place=place, refresh_s=refresh_s)

        await begin()
        sessions = self._client.sessions
        event = await self.judged(row, judge, place, wake=begin)
        return event if self._client.sessions == sessions else Event.FAIL

    async def seen(self, row: Relocation, condition: Callable[[Torrent], bool]) -> bool:
        """Whether the torrent is shown so, soon."""
        refresh_s = await self._refresh_interval_s()
        until_s = trio.current_time() + SEEN_WITHIN_S
        # No deadline for the call: that it is not known any more takes longer to be sure of.
        while not condition(await self.torrent(row.torrent_id)):
            if trio.current_time() >= until_s:
                return False
            await trio.sleep(max(_SHORTEST_PAUSE_S, refresh_s / 2))
        return True

    async def _refresh_interval_s(self) -> float:
        asked_s, refresh_s = self._refresh
        now_s = trio.current_time()
        if now_s - asked_s > REFRESH_AGE_S:
            refresh_s = await self._client.refresh_interval_s()
            self._refresh = (now_s, refresh_s)
        return refresh_s
