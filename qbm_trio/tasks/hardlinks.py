"""What is on the HDD already, elsewhere, is hardlinked there and not copied again.

It is another torrent's, or this one's by the names that it had before. Cross-seeds share
files on the SSD: by the same paths, or by hardlinks elsewhere. The journal knows which file
of the SSD each copy was made from. That is a hint and no more; the torrent's own piece
hashes, compared with what the HDD holds, are the proof.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from ..adapters import journal_copies
from ..adapters.computing import compute
from ..adapters.copying import identical
from ..adapters.hardlinks import (
    Hardlink,
    Original,
    drop_hardlinks,
    find_originals,
    stage_hardlinks,
)
from ..adapters.journal import Journal
from ..adapters.looking import Seen
from ..core.errors import JobError, MustWait
from ..core.model import Verification
from ..core.text import number
from .destinations import items_of
from .planning import Plan
from .published import PAGE
from .tiers import Tiers

log = logging.getLogger(__name__)

Originals = Mapping[int, tuple[Original, ...]]


class Turns:
    """Jobs of torrents that share files on the SSD go one after another.

    At the same time, each would find no copy to share, and make one.
    """

    def __init__(self) -> None:
        self._taken: set[tuple[int, int]] = set()
        self._freed = trio.Event()

    @asynccontextmanager
    async def of(self, inodes: Collection[tuple[int, int]]) -> AsyncIterator[bool]:
        """Hold these files of the SSD, once nobody else does; tell whether that took a wait.

        All at once or none: so no two jobs wait for each other.
        """
        waited = False
        while not self._taken.isdisjoint(inodes):
            if not waited:
                log.info("another torrent's job has files that this one shares; waiting for it")
            waited = True
            await self._freed.wait()
        self._taken.update(inodes)
        try:
            yield waited
        finally:
            self._taken.difference_update(inodes)
            self._freed.set()
            self._freed = trio.Event()


class Hardlinks:
    """Finds what the HDD has already, and stages hardlinks to what of it is right."""

    def __init__(
        self,
        hdd: Path,
        *,
        journal: Journal,
        tiers: Tiers,
        limiter: trio.CapacityLimiter,
        computing: trio.CapacityLimiter,
        verification: Verification,
        nice: int,
    ) -> None:
        """``limiter`` is for the threads that read, ``computing`` for those of `compute`."""
        self._hdd = hdd
        self._journal = journal
        self._disk = tiers.hdd.limiter
        self._limiter = limiter
        self._computing = computing
        self._verification = verification
        self._nice = nice

    async def find(self, plan: Plan, seen: Sequence[Seen]) -> Originals:
        """Published files that may hold what the torrent's wanted files hold. Reads no data."""
        sources = await compute(partial(_sources, plan, seen), limiter=self._computing)
        inodes = list(sources)
        records: list[journal_copies.CopyFile] = []
        for first in range(0, len(inodes), PAGE):
            records += await self._journal.do(
                partial(
                    journal_copies.made_from,
                    source_inodes=inodes[first : first + PAGE],
                    besides=plan.torrent.id,
                )
            )
        records += await self._by_old_names(plan)
        recorded: dict[int, list[journal_copies.CopyFile]] = defaultdict(list)
        for record in records:
            for index in sources.get(record.source_inode or 0, ()):
                if record.size_bytes == plan.files[index].size_bytes:
                    recorded[index].append(record)
        if not recorded:
            return {}
        return await find_originals(self._hdd, seen, recorded, limiter=self._disk)

    async def _by_old_names(self, plan: Plan) -> list[journal_copies.CopyFile]:
        """What its own earlier copy has by names that its user has changed since."""
        if not plan.published_before:
            return []
        files = await self._journal.do(partial(journal_copies.files, torrent_id=plan.torrent.id))

        def renamed() -> list[journal_copies.CopyFile]:
            names = {str(file.on_hdd) for file in plan.files}
            return [file for file in files if file.path not in names]

        old = await compute(renamed, limiter=self._computing)
        if old:
            log.warning(
                "renamed since it was copied: what is on the HDD by the old names stays there, as "
                "%s such as %s, and is yours to delete",
                number(len(old), "file"),
                self._hdd / old[0].path,
            )
        return old

    async def stage(
        self,
        plan: Plan,
        seen: Sequence[Seen],
        originals: Originals,
        staged: Mapping[int, Path],
    ) -> dict[int, Hardlink]:
        """Hardlink what is to be staged, and keep the hardlinks that are proved right.

        Args:
            plan: the torrent's.
            seen: its files.
            originals: from `find`.
            staged: by index; where nothing is yet.

        Returns:
            By index. All other files are to be copied, whatever the reason.

        Raises:
            MustWait: a tier is away.
            DiskError: a hardlink that is wrong cannot be removed from staging.
        """
        usable = {i: originals[i] for i in staged if i in originals}
        if not usable:
            return {}
        links, refused = await stage_hardlinks(usable, staged, limiter=self._disk)
        if refused:
            log.info(
                "%d of %d files cannot be hardlinked to another torrent's and are copied: %s",
                len(usable) - len(links), len(usable), refused,
            )  # fmt: skip
        same = await self._prove(plan, seen, links)
        wrong = [link for index, link in links.items() if index not in same]
        await drop_hardlinks(wrong, limiter=self._disk)
        return {index: link for index, link in links.items() if index in same}

    async def _prove(
        self, plan: Plan, seen: Sequence[Seen], links: Mapping[int, Hardlink]
    ) -> frozenset[int]:
        try:
            same = await identical(
                plan.metainfo,
                await compute(partial(items_of, plan, seen, {}, {}), limiter=self._computing),
                {index: link.staged for index, link in links.items()},
                from_disk=self._verification is Verification.READBACK,
                limiter=self._limiter,
                nice=self._nice,
            )
        except MustWait:
            raise
        except JobError as error:
            # If it is the source that is bad, copying it says so.
            log.warning("what another torrent has on the HDD is copied instead: %s", error)
            return frozenset()
        if len(same) < len(links):
            log.warning(
                "%d files that another torrent has on the HDD do not match this one and are copied",
                len(links) - len(same),
            )
        return same


def _sources(plan: Plan, seen: Sequence[Seen]) -> dict[int, list[int]]:
    """The indexes of the wanted files by inode on the SSD. An empty file has nothing to share."""
    indexes: dict[int, list[int]] = defaultdict(list)
    for f in plan.files:
        inode = seen[f.index].source_inode
        if f.wanted and f.size_bytes and inode is not None:
            indexes[journal_copies.recorded_inode(inode[1])].append(f.index)
    return indexes
