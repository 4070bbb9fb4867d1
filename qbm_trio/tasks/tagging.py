"""The location tags of all torrents at once, and what there is to say about them.

Both calls cost one list of all torrents. A change costs one more for each tag that is
added or removed, four at most, however many torrents there are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from sqlite3 import Connection
from typing import TypeVar

import trio

from ..adapters import journal_copies, journal_relocations
from ..adapters.computing import compute
from ..adapters.journal import Journal
from ..adapters.journal_copies import Copy
from ..core import tags
from ..core.client import QbittorrentClient
from ..core.errors import Draining, QbittorrentAway, QbittorrentError, TaggingDisabled
from ..core.model import Torrent, TorrentId
from ..core.roots import Roots
from ..core.tags import Amount, Located, Location, LocationTags, TagChange
from .jobs import Jobs

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggingPolicy:
    """The settings that tagging obeys."""

    roots: Roots
    tags: LocationTags
    enabled: bool  #: ``ENABLE_LOCATION_TAGGING``
    dry_run: bool  #: ``DRY_RUN``: nothing is written in qBittorrent


@dataclass(frozen=True, slots=True, kw_only=True)
class Tagged:
    """What was changed, or would be."""

    dry_run: bool
    torrents: int  #: all there are
    changes: tuple[TagChange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TagSummary:
    """Where all torrents are, and how they are tagged."""

    enabled: bool
    tags: LocationTags
    by_location: Mapping[Location, Amount]
    by_tag: Mapping[str, Amount]
    mismatches: tuple[TagChange, ...]
    without_torrent: tuple[Copy, ...]  #: published copies whose torrent is gone


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    located: tuple[Located, ...]
    changes: tuple[TagChange, ...]
    copies: tuple[Copy, ...]

    @property
    def torrents(self) -> tuple[Torrent, ...]:
        return tuple(item.torrent for item in self.located)


class Tagging:
    """Tags torrents by where their data is. One object for the service."""

    def __init__(
        self, policy: TaggingPolicy, *, client: QbittorrentClient, jobs: Jobs, journal: Journal
    ) -> None:
        self._policy = policy
        self._client = client
        self._jobs = jobs
        self._journal = journal
        self._computing = trio.CapacityLimiter(1)
        self._one_at_a_time = trio.Lock()

    async def tag_existing(self, *, dry_run: bool) -> Tagged:
        """Give every torrent the location tags that fit where its data is.

        Other tags are left alone, and so are torrents that have no data yet. One such
        call at a time: a second finds the work of the first done.

        Args:
            dry_run: only say what would be changed. With ``DRY_RUN`` it always is so.

        Cancellation:
            What qBittorrent was told stays; the log says that not all was. Calling
            again does the rest: each change is one that may be made twice.

        Raises:
            TaggingDisabled: ``ENABLE_LOCATION_TAGGING`` is false.
            Draining: the service is stopping.
            QbittorrentAway: with what was done before, if anything was.
            JournalUnwritable: the journal cannot be asked.
        """
        if not self._policy.enabled:
            raise TaggingDisabled(
                "ENABLE_LOCATION_TAGGING is false, so no location tag is changed; set it to "
                "true and restart the service; GET /tags/summary shows what would be changed"
            )
        dry_run = dry_run or self._policy.dry_run
        async with self._one_at_a_time:
            if self._jobs.draining:
                raise Draining("the service is stopping; no tag was changed; ask again later")
            seen = await self._look()
            if not dry_run:
                await self._change(seen.changes)
        return Tagged(dry_run=dry_run, torrents=len(seen.located), changes=seen.changes)

    async def summary(self) -> TagSummary:
        """Where all torrents are and how they are tagged. Changes nothing.

        Raises:
            QbittorrentAway: it gives no list of its torrents.
            JournalUnwritable: the journal cannot be asked.
        """
        seen = await self._look()
        return await self._compute(partial(self._sum_up, seen))

    async def _look(self) -> _Seen:
        relocating = await self._journal.do(_relocating)
        try:
            torrents = await self._client.torrents()
        except QbittorrentError as error:
            raise QbittorrentAway(
                f"the torrents cannot be listed: {error}; ask again later"
            ) from error
        # After the list, which takes seconds on 4.5: a copy that was published meanwhile
        # counts. A relocation that was open before or after it was so during it, perhaps:
        # where the list has such a torrent says nothing.
        copies = await self._journal.do(journal_copies.all_published)
        relocating |= await self._journal.do(_relocating)
        return await self._compute(partial(self._judge, torrents, copies, relocating))

    def _judge(
        self, torrents: tuple[Torrent, ...], copies: list[Copy], relocating: set[TorrentId]
    ) -> _Seen:
        policy = self._policy
        located = tags.locate(
            torrents,
            place_of=policy.roots.place_of,
            published={copy.torrent_id for copy in copies},
            relocating=relocating,
        )
        return _Seen(
            located=located, changes=tags.changes(located, policy.tags), copies=tuple(copies)
        )

    async def _change(self, changes: tuple[TagChange, ...]) -> None:
        requests = tags.requests(changes, self._policy.tags)
        done = 0
        try:
            for request in requests:
                call = self._client.add_tags if request.add else self._client.remove_tags
                await call(request.torrent_ids, [request.tag])
                done += 1
        except QbittorrentError as error:
            raise QbittorrentAway(
                f"{done} of {len(requests)} tag changes were made, then: {error}; "
                "call again for the rest"
            ) from error
        finally:
            if done < len(requests):
                log.warning(
                    "location tags: only %d of %d changes were made; POST /tags/existing again "
                    "does the rest",
                    done,
                    len(requests),
                )
            elif requests:
                log.info("location tags of %d torrents are set right", len(changes))

    def _sum_up(self, seen: _Seen) -> TagSummary:
        torrents = seen.torrents
        present = {torrent.id for torrent in torrents}
        return TagSummary(
            enabled=self._policy.enabled,
            tags=self._policy.tags,
            by_location=tags.amounts_by_location(seen.located),
            by_tag=tags.amounts_by_tag(torrents, self._policy.tags),
            mismatches=seen.changes,
            without_torrent=tuple(c for c in seen.copies if c.torrent_id not in present),
        )

    async def _compute(self, call: Callable[[], T]) -> T:
        return await compute(call, limiter=self._computing)


def _relocating(connection: Connection) -> set[TorrentId]:
    return {row.torrent_id for row in journal_relocations.open_ones(connection)}
