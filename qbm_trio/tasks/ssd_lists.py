"""The lists of torrents' files, and what of them the SSD has. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import PurePosixPath

import trio

from ..adapters.computing import compute
from ..adapters.ssd_files import FoundFiles, ListedFile, real_places, stat_files
from ..core.client import QbittorrentClient
from ..core.model import Torrent, TorrentFile, TorrentId
from ..core.placement import below
from ..core.regions import Regions, regions_of, roots_of
from ..core.roots import Roots
from .tiers import Tiers


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A torrent and its files, as qBittorrent lists them."""

    torrent: Torrent
    files: tuple[TorrentFile, ...]
    roots: tuple[str, ...]  #: what the names in `files` are relative to; see `roots_of`

    @property
    def root(self) -> str:
        """Where the files are, as qBittorrent sees it."""
        return self.roots[0]

    def at(self, root: str) -> Listed:
        """The same files at another save path."""
        return replace(self, roots=(root,))


class SsdLists:
    """Asks qBittorrent for lists, and the SSD for the files in them."""

    def __init__(self, roots: Roots, *, client: QbittorrentClient, tiers: Tiers) -> None:
        self._roots = roots
        self._client = client
        self._limiter = tiers.ssd.limiter
        self._computing = trio.CapacityLimiter(1)
        self._known: dict[TorrentId, Listed] = {}
        self._all: tuple[Torrent, ...] = ()
        self._all_asked_s = -inf

    async def torrents(self, *, max_age_s: float = 0.0) -> tuple[Torrent, ...]:
        """All torrents: one call, none if the last list was asked for that recently.

        For thousands of torrents 4.5 takes seconds, in which it does nothing else.
        """
        asked_s = trio.current_time()
        if asked_s - self._all_asked_s > max_age_s:
            self._all = await self._client.torrents()
            self._all_asked_s = asked_s
            ids = {torrent.id for torrent in self._all}
            self._known = {id_: known for id_, known in self._known.items() if id_ in ids}
        return self._all

    async def of(self, torrent: Torrent, *, cached: bool = False) -> Listed:
        """The torrent's list: one call, none if it is ``cached`` and looks unchanged.

        A list changes by renames and priorities only. Both show in what all torrents are
        listed with, but for a rename below the content path: enough for planning.

        Raises:
            TorrentUnknown: qBittorrent does not have it.
        """
        known = self._known.get(torrent.id) if cached else None
        if known is not None and _key(known.torrent) == _key(torrent):
            files = known.files
        else:
            files = await self._client.files(torrent.id)
        roots = await compute(partial(roots_of, torrent, files), limiter=self._computing)
        listed = Listed(torrent=torrent, files=files, roots=roots)
        self._known[torrent.id] = listed
        return listed

    async def found(self, lists: Iterable[Listed]) -> FoundFiles:
        """What the SSD has of these torrents, wherever qBittorrent may have put it.

        Raises:
            MustWait: the SSD is away.
        """
        lists = tuple(lists)
        places = await self.on_ssd({root for listed in lists for root in listed.roots})
        wanted = await compute(partial(_wanted, lists, places), limiter=self._computing)
        return await stat_files(self._roots.ssd, wanted, limiter=self._limiter)

    async def on_ssd(self, folders: Iterable[str]) -> dict[str, PurePosixPath]:
        """Those of qBittorrent's folders that are on the SSD, relative to the SSD's own.

        Also under another name: by links, qBittorrent may have some torrents there.
        """
        named: dict[str, PurePosixPath] = {}
        foreign: dict[str, str] = {}
        for folder in folders:
            place = self._roots.on_ssd(folder)
            if place is not None:
                named[folder] = place
            elif self._roots.on_hdd(folder) is None:  # not asked, for it may sleep
                foreign[folder] = self._roots.mapped(folder)
        if foreign:
            ssd = str(self._roots.ssd)
            real = await real_places({*foreign.values(), ssd}, limiter=self._limiter)
            for folder, path in foreign.items():
                place = below(real[path], real[ssd])
                if place is not None:
                    named[folder] = place
        return named

    async def could_list(
        self, torrents: Iterable[Torrent], paths: Iterable[str], *, limiter: trio.CapacityLimiter
    ) -> list[Torrent]:
        """Those of the torrents whose lists could name one of these paths.

        Args:
            torrents: of any tier.
            paths: as the service sees them; on either tier.
            limiter: for the thread that follows symbolic links there.
        """
        by_id = {torrent.id: torrent for torrent in torrents}
        regions = await self.regions(by_id.values(), limiter=limiter)
        real = await real_places(set(paths), limiter=limiter)

        def owners() -> set[TorrentId]:
            return set().union(*map(regions.owners, real.values()))

        found = await compute(owners, limiter=self._computing)
        return [by_id[id_] for id_ in sorted(found)]

    async def regions(
        self, torrents: Iterable[Torrent], *, limiter: trio.CapacityLimiter
    ) -> Regions:
        """Where these torrents' files may be: real paths, as the service sees them."""
        mapped = [
            (torrent.id, self._roots.mapped(region))
            for torrent in torrents
            for region in regions_of(torrent)
        ]
        real = await real_places({path for _, path in mapped}, limiter=limiter)
        return Regions((torrent_id, real[path]) for torrent_id, path in mapped)


def _wanted(
    lists: Iterable[Listed], places: Mapping[str, PurePosixPath]
) -> dict[TorrentId, list[ListedFile]]:
    return {
        listed.torrent.id: [
            ListedFile(on_ssd=places[root] / file.name, wanted=file.wanted)
            for root in listed.roots
            if root in places
            for file in listed.files
        ]
        for listed in lists
    }


def _key(torrent: Torrent) -> tuple[object, ...]:
    return torrent.content_path, torrent.save_path, torrent.size_bytes
