"""What is on the SSD, found out with as few calls as the plan needs. Changes nothing.

All torrents are one call; their lists of files are one call each, and cached. So a plan
is first made with qBittorrent's sizes, then what it chose is looked at on the disk, with
all that might share files with it, and planned again, until nothing chosen is unknown.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import PurePosixPath
from sqlite3 import Connection

import trio

from ..adapters import journal_copies, journal_job_queries, journal_relocations
from ..adapters.computing import compute
from ..adapters.journal import Journal
from ..adapters.journal_copies import Copy
from ..adapters.ssd_files import FoundFiles, find_links
from ..adapters.ssd_symlinks import Symlinks, find_symlinks
from ..core.errors import TorrentUnknown
from ..core.lifecycle import ACTIVE
from ..core.model import JobState, Torrent, TorrentFile, TorrentId
from ..core.regions import Regions, regions_of
from ..core.relocation import ENDS, Relocation
from ..core.roots import Roots
from ..core.sharing import Group, SsdFile, groups
from ..core.space import Facts, SpacePlan, Spared, plan_space
from .published import published_files
from .ssd_lists import Listed, SsdLists
from .tiers import Tiers

FAILED_FOR_S = 3600.0
"""So long a torrent whose relocation failed is left alone by runs that begin by themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """How much is wanted."""

    free_bytes: int
    target_bytes: int  #: 0: nothing is to be freed
    pending_bytes: int
    tier_room: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Journal:
    """What the journal knows of all torrents."""

    copies: Mapping[TorrentId, Copy]  #: published ones
    jobs: Mapping[str, tuple[int, JobState]]  #: see `journal_job_queries.newest_states`
    relocations: Mapping[TorrentId, Relocation]  #: the newest of each, open or ended
    failures: Mapping[TorrentId, int]  #: relocations that failed within `FAILED_FOR_S`


class Survey:
    """One look at the SSD, for one plan."""

    def __init__(
        self,
        roots: Roots,
        *,
        lists: SsdLists,
        journal: Journal,
        tiers: Tiers,
        now: float,
        forgive: bool,
    ) -> None:
        """``forgive``: also plan what failed to be relocated a short while ago."""
        self._roots = roots
        self._lists = lists
        self._journal = journal
        self._tiers = tiers
        self._limiter = tiers.ssd.limiter
        self._computing = trio.CapacityLimiter(1)
        self._now = now
        self._forgive = forgive
        self._torrents: dict[TorrentId, Torrent] = {}
        self._known: _Journal
        self._regions: Regions
        self._one_file_system: bool
        self._looked: dict[TorrentId, Listed] = {}
        self._found: dict[TorrentId, list[SsdFile]] = {}
        self._facts: dict[TorrentId, Facts] = {}
        self._sought: set[tuple[int, int]] = set()  #: inodes whose other names were looked for
        self._symlinks: Symlinks | None = None  #: on the SSD; looked for when something is chosen

    async def plan(self, need: Need) -> SpacePlan:
        """Plan with what qBittorrent and the disk say now.

        Raises:
            QbittorrentError: it gives no list.
            MustWait, DiskError: a tier cannot be read.
            JournalUnwritable: the journal cannot be asked.
        """
        await self._begin()
        looks = 0
        while True:
            plan = await compute(partial(self._plan, need), limiter=self._computing)
            unknown = [t.torrent_id for t in plan.chosen if t.torrent_id not in self._looked]
            if not unknown:
                return plan
            # Of a library whose files have links elsewhere each look frees nothing: twice as
            # many each time, lest a thousand plans be made.
            more = (t.torrent_id for t in plan.spared if t.reason in _NEXT)
            unknown += [id_ for id_ in more if id_ not in self._looked][:looks]
            await self._look(unknown)
            looks = max(1, 2 * looks)

    @property
    def torrents(self) -> Mapping[TorrentId, Torrent]:
        """Those that have, or may come to have, files on the SSD."""
        return self._torrents

    def destination(self, torrent_id: TorrentId) -> str:
        """The folder of a torrent's copy, relative to the HDD."""
        return self._known.copies[torrent_id].destination

    def listed(self, torrent_id: TorrentId) -> Listed:
        """The files of a torrent that was looked at."""
        return self._looked[torrent_id]

    async def _begin(self) -> None:
        torrents = await self._lists.torrents()
        # After the list, which takes seconds on 4.5: what was published meanwhile counts.
        self._known = await self._journal.do(partial(_read, failed_since=self._now - FAILED_FOR_S))
        places = await self._lists.on_ssd({torrent.save_path for torrent in torrents})
        self._torrents = await compute(
            partial(self._on_ssd, torrents, places), limiter=self._computing
        )
        self._one_file_system = await self._tiers.on_one_file_system(
            self._roots.ssd, self._roots.hdd
        )
        self._regions = await self._lists.regions(self._torrents.values(), limiter=self._limiter)
        self._facts = await compute(self._all_facts, limiter=self._computing)

    def _on_ssd(
        self, torrents: Iterable[Torrent], places: Container[str]
    ) -> dict[TorrentId, Torrent]:
        """Those with files there, or to come; ``places`` are save paths on the SSD."""
        return {
            torrent.id: torrent
            for torrent in torrents
            if torrent.save_path in places
            or any(self._roots.on_ssd(region) is not None for region in regions_of(torrent))
        }

    def _all_facts(self) -> dict[TorrentId, Facts]:
        return {id_: self._facts_of(torrent) for id_, torrent in self._torrents.items()}

    def _facts_of(self, torrent: Torrent) -> Facts:
        keys = {torrent.id, torrent.infohash_v1, torrent.infohash_v2}
        jobs = [job for key in keys if (job := self._known.jobs.get(key)) is not None]
        relocation = self._known.relocations.get(torrent.id)
        copy = self._known.copies.get(torrent.id)
        failed = None if relocation is None else self._failed(relocation, copy)
        return Facts(
            torrent=torrent,
            tiered=copy is not None,
            last_job=max(jobs)[1] if jobs else None,
            alive_job=any(state in ACTIVE for _, state in jobs),
            relocating=relocation is not None and relocation.step not in ENDS,
            obstacle=self._in_vain() or (None if self._forgive else failed),
            forgiven=failed[1] if failed is not None and self._forgive else None,
        )

    def _in_vain(self) -> tuple[Spared, str] | None:
        """Whether relocating can free anything at all."""
        if not self._one_file_system:
            return None
        return Spared.FREES_NOTHING, (
            "both tiers are on one file system, so relocating it would free nothing; mount the "
            f"HDD at {self._roots.hdd}"
        )

    def _failed(self, last: Relocation, copy: Copy | None) -> tuple[Spared, str] | None:
        """Why its last relocation speaks against another one now."""
        if not last.failed or last.step not in ENDS:
            return None
        # A wall clock that was set back must not spare it for ever.
        if not 0 <= self._now - last.updated_at < FAILED_FOR_S:
            return None
        if self._known.failures.get(last.torrent_id, 0) > 1:
            # A copy made anew each time would be no end: the disk may spoil each one, or
            # qBittorrent look at another.
            return Spared.RELOCATION_FAILED, (
                f"its relocation has failed again and again ({last.error}); see that the HDD is "
                "sound, that qBittorrent may read it, and that PATH_MAPPINGS leads to the same "
                "folder; it is tried again an hour after that, or in a run triggered by hand"
            )
        if copy is not None and (copy.published_at or 0.0) > last.updated_at:
            return None
        return Spared.RELOCATION_FAILED, (
            f"its relocation failed not long ago ({last.error}); it is tried again an hour after "
            "that, when its copy has been made anew, or in a run triggered by hand"
        )

    # -- the plan

    def _plan(self, need: Need) -> SpacePlan:
        known = groups(self._looked, (file for files in self._found.values() for file in files))
        rest = (
            Group(
                torrent_ids=(torrent.id,),
                files=(),
                frees_bytes=torrent.size_bytes,
                held_bytes=0,
                estimated=True,
            )
            for torrent in self._torrents.values()
            if torrent.id not in self._looked
        )
        return plan_space(
            [*known, *rest],
            self._facts,
            free_bytes=need.free_bytes,
            target_bytes=need.target_bytes,
            pending_bytes=need.pending_bytes,
            tier_room=need.tier_room,
        )

    # -- the disk

    async def _look(self, wanted: Collection[TorrentId]) -> None:
        """Find what these torrents have on the SSD, and all that might share it."""
        waiting = set(wanted)
        while waiting:
            lists = []
            for id_ in sorted(waiting):
                try:
                    lists.append(await self._lists.of(self._torrents[id_], cached=True))
                except TorrentUnknown:  # removed since it was listed
                    del self._torrents[id_], self._facts[id_]
            found = await self._lists.found(lists)
            for listed in lists:
                self._looked[listed.torrent.id] = listed
                self._found[listed.torrent.id] = []
            for file in found.files:
                self._found[file.torrent_id].append(file)
            await self._judge(lists, found)
            waiting = await self._sharing(found) & self._torrents.keys() - self._looked.keys()

    async def _sharing(self, found: FoundFiles) -> set[TorrentId]:
        """The torrents that may share these files, by path or by a link of either kind."""
        paths = {file.path for file in found.files}
        linked = {file.inode for file in found.files if file.links > 1} - self._sought
        if linked:
            self._sought |= linked
            known = (file for files in self._found.values() for file in files)
            others = await find_links(
                self._roots.ssd,
                [file for file in known if file.inode in linked],
                limiter=self._limiter,
            )
            paths.update(path for several in others.paths.values() for path in several)
        if self._symlinks is None:
            self._symlinks = await find_symlinks(self._roots.ssd, limiter=self._limiter)
        symlinks = self._symlinks

        def owners() -> set[TorrentId]:
            names = chain(paths, chain.from_iterable(map(symlinks.leading_to, paths)))
            return set().union(*map(self._regions.owners, names))

        return await compute(owners, limiter=self._computing)

    async def _judge(self, lists: Sequence[Listed], found: FoundFiles) -> None:
        """Note what the disk and the journal say against relocating these torrents."""
        copied = [listed for listed in lists if listed.torrent.id in self._known.copies]
        paths = await compute(
            lambda: [self._on_hdd(listed, file) for listed in copied for file in listed.files],
            limiter=self._computing,
        )
        recorded = await published_files(self._journal, paths)
        self._facts |= await compute(
            partial(self._judged, lists, found, recorded), limiter=self._computing
        )

    def _judged(
        self, lists: Iterable[Listed], found: FoundFiles, recorded: Container[str]
    ) -> dict[TorrentId, Facts]:
        judged = {}
        for listed in lists:
            facts = self._facts[listed.torrent.id]
            missing = [
                file
                for file in (listed.files if facts.tiered else ())
                if self._on_hdd(listed, file) not in recorded
            ]
            unwanted = [str(file.name) for file in missing if not file.wanted]
            judged[listed.torrent.id] = replace(
                facts,
                # More files may be wanted now than when it was copied.
                tiered=facts.tiered and not any(file.wanted for file in missing),
                obstacle=facts.obstacle
                or self._unusable(listed, found)
                or _unwanted(unwanted, self._found[listed.torrent.id]),
            )
        return judged

    def _on_hdd(self, listed: Listed, file: TorrentFile) -> str:
        return str(PurePosixPath(self.destination(listed.torrent.id)) / file.name)

    def _unusable(self, listed: Listed, found: FoundFiles) -> tuple[Spared, str] | None:
        torrent = listed.torrent
        problem = found.problems.get(torrent.id)
        if problem is not None:
            return Spared.UNUSABLE, str(problem)
        if PurePosixPath(torrent.save_path) != PurePosixPath(listed.root):
            # 4.5 says so after a move that failed; its next check would move the files.
            return Spared.UNUSABLE, (
                f"its save path in qBittorrent, {torrent.save_path}, is not where its data is, "
                f"{listed.root}: a move of it failed, perhaps; set its location there anew"
            )
        if self._roots.on_ssd(listed.root) is None:
            return Spared.UNUSABLE, (
                f"its data is on the SSD, but under another name: {listed.root}; set its location "
                "to the folder below DOWNLOAD_PATH_SSD, or set PATH_MAPPINGS"
            )
        if _of_one_file_by_v2(listed):
            return Spared.UNUSABLE, (
                "it is a version 2 torrent of a single file: qBittorrent fails to take over the "
                "copy of one (4.5.2 and 5.1.0 take the file for the folder of its padding); to "
                "have it moved, delete the copy, then set its location in qBittorrent"
            )
        if torrent.id in self._known.copies:
            destination = self.destination(torrent.id)
            if self._roots.hdd_folder(destination) is None:
                return Spared.UNUSABLE, (
                    "PATH_MAPPINGS does not tell under which path qBittorrent sees "
                    f"{self._roots.hdd / destination}"
                )
        return None


def _of_one_file_by_v2(listed: Listed) -> bool:
    """Whether the torrent is one that qBittorrent cannot point at a file that is there.

    Where its last piece is full it can; not worth a call to find out.
    """
    by_v2 = bool(listed.torrent.infohash_v2) and not listed.torrent.infohash_v1
    return by_v2 and len(listed.files) == 1 and len(listed.files[0].name.parts) == 1


_NEXT = {Spared.TARGET_MET, Spared.NOT_TIERED}
"""What is next if what was chosen turns out to free too little."""


def _unwanted(missing_names: list[str], files: list[SsdFile]) -> tuple[Spared, str] | None:
    """Whether an unwanted file without a copy is on the SSD, by whatever name it has there."""
    for file in files:
        if file.wanted:
            continue
        plain = file.path.removesuffix(".!qB").replace("/.unwanted/", "/")
        name = next((name for name in missing_names if plain.endswith(f"/{name}")), None)
        if name is not None:
            return Spared.UNWANTED_FILE, (
                f"its file {name!r} is not wanted in qBittorrent, but is on the SSD and has no "
                "copy; qBittorrent would move it; delete it there, or select it in qBittorrent "
                "and notify the torrent again"
            )
    return None


def _read(connection: Connection, failed_since: float) -> _Journal:
    return _Journal(
        copies={copy.torrent_id: copy for copy in journal_copies.all_published(connection)},
        jobs=journal_job_queries.newest_states(connection),
        relocations=journal_relocations.newest(connection),
        failures=journal_relocations.failures(connection, since=failed_since),
    )
