"""What must be true before a step of a relocation that cannot be taken back.

Asked anew each time: a plan is old as soon as it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from sqlite3 import Connection
from typing import TypeVar

import trio

from ..adapters import journal_copies, metainfo
from ..adapters.computing import compute
from ..adapters.copying import CopyItem, identical
from ..adapters.journal import Journal
from ..adapters.journal_copies import CopyFile
from ..adapters.looking import names_are_text
from ..adapters.ssd_deletion import FileIdentity, JudgedFile, judge_files
from ..adapters.ssd_files import real_places
from ..core.client import QbittorrentClient
from ..core.errors import DiskError, Fatal, JobError, MustWait, SourceChanged, TorrentUnknown
from ..core.model import TorrentId, WaitReason
from ..core.placement import PlannedFile, plan_files
from ..core.relocation import Relocation
from ..core.roots import Roots
from .published import published_files
from .ssd_lists import Listed, SsdLists
from .tiers import Tiers

T = TypeVar("T")


class NotAsPlanned(JobError):
    """The torrent is not, or not any more, as it must be to go on."""

    code = "not_as_planned"


class CopyChanged(NotAsPlanned):
    """The HDD does not hold the copy that was verified: it must be made again."""

    code = "copy_changed"


class Proofs:
    """Proves what relocations depend on. Changes nothing."""

    def __init__(
        self,
        roots: Roots,
        *,
        lists: SsdLists,
        client: QbittorrentClient,
        journal: Journal,
        tiers: Tiers,
        nice: int,
    ) -> None:
        """``nice`` is for the threads that read whole copies again."""
        self._roots = roots
        self._lists = lists
        self._client = client
        self._journal = journal
        self._tiers = tiers
        self._nice = nice
        self._computing = trio.CapacityLimiter(1)
        self._reading = trio.CapacityLimiter(1)
        self._last: Listed | None = None  #: each step begins with a new one

    async def _planned(
        self, row: Relocation, *, anew: bool = False
    ) -> tuple[Listed, tuple[PlannedFile, ...]]:
        """The torrent's files at both places, as they are listed now, or were in this step."""
        listed = self._last
        if anew or listed is None or listed.torrent.id != row.torrent_id:
            listed = await self._lists.of(await self._client.torrent(row.torrent_id))
            self._last = listed
        root = self._roots.on_ssd(row.from_path)
        destination = self._roots.on_hdd(row.to_path)
        if root is None or destination is None:
            raise NotAsPlanned(
                f"{row.from_path} or {row.to_path} is not on its tier any more; set "
                "DOWNLOAD_PATH_SSD, FINAL_DEST_BASE_HDD and PATH_MAPPINGS as they were, until "
                "this relocation has ended"
            )
        planned = await self._compute(
            partial(plan_files, listed.files, root_on_ssd=root, destination=destination)
        )
        return listed, planned

    async def planned(self, row: Relocation) -> tuple[PlannedFile, ...]:
        """The torrent's files as they are listed now, at both places.

        Raises:
            NotAsPlanned: a place is not on its tier any more (other settings?).
        """
        return (await self._planned(row, anew=True))[1]

    async def whole_copy(self, row: Relocation) -> tuple[JudgedFile, ...]:
        """Prove that each file on the SSD, wanted or not, has its recorded copy on the HDD.

        Raises:
            CopyChanged: one has not, or its copy was changed.
            NotAsPlanned: a file is there that qBittorrent would move along.
            MustWait: a tier is not mounted.
        """
        await self._tiers.require()
        listed, planned = await self._planned(row, anew=True)
        recorded = await published_files(
            self._journal, await self._compute(lambda: [str(f.on_hdd) for f in planned])
        )
        ssd, hdd = self._roots.ssd, self._roots.hdd
        judged = await judge_files(
            await self._compute(lambda: [(ssd / f.on_ssd, hdd / f.on_hdd) for f in planned]),
            limiter=self._tiers.hdd.limiter,
        )
        for file, both in zip(planned, judged, strict=True):
            if both.copy is None and file.wanted:
                await self._tiers.require()  # the HDD may be away by now
                raise CopyChanged(f"{both.copy_path} is missing")
            if both.copy is not None and not _is_recorded(
                both.copy, recorded.get(str(file.on_hdd), ())
            ):
                raise CopyChanged(f"{both.copy_path} is not the copy that was verified")
        await self._require_nothing_else(listed, judged)
        return judged

    async def copy_for_both(self, row: Relocation) -> tuple[JudgedFile, ...]:
        """Prove `whole_copy`, and that qBittorrent sees that copy, too.

        Its HDD may be unmounted, or mounted elsewhere, when ours is not: in a container of
        its own. It would move the data there. Before 5.0 it cannot be asked.

        Raises:
            MustWait: it does not, or a tier is not mounted.
            NotAsPlanned: as `whole_copy`.
        """
        judged = await self.whole_copy(row)
        listed, _ = await self._planned(row)
        for file, both in zip(listed.files, judged, strict=True):
            if both.copy is not None and not file.name.name.startswith("."):  # which is not listed
                await self._require_seen(PurePosixPath(row.to_path) / file.name, both.copy_path)
                break
        return judged

    async def _require_seen(self, path: PurePosixPath, ours: Path) -> None:
        """Prove that qBittorrent has at ``path`` the file that we have at ``ours``."""
        entries = await self._client.folder(str(path.parent))
        if entries is None or str(path) in entries:
            return
        # Its list ends at a name that is no text (seen on 5.1.0).
        if await names_are_text(ours.parent, limiter=self._tiers.hdd.limiter):
            raise MustWait(
                f"qBittorrent does not see {path}: mount the HDD for it too, and see that "
                "PATH_MAPPINGS tells under which path",
                reason=WaitReason.TIER,
            )

    async def _require_nothing_else(self, listed: Listed, judged: Sequence[JudgedFile]) -> None:
        """Prove that no file is on the SSD but those with a copy, under whatever name.

        An unfinished or unwanted file may be there as ``x.!qB`` or in ``.unwanted/``.
        """
        found = await self._lists.found([listed])
        for problem in found.problems.values():
            raise problem if isinstance(problem, DiskError) else NotAsPlanned(str(problem))
        inodes = {
            (both.file.device, both.file.inode)
            for both in judged
            if both.file is not None and both.copy is not None
        }
        for file in found.files:
            if file.inode not in inodes:
                raise NotAsPlanned(
                    f"{file.path} is on the SSD and has no copy{'' if file.wanted else ': it is '}"
                    f"{'' if file.wanted else 'not wanted in qBittorrent'}; qBittorrent would "
                    "move it; delete it, or have it copied (select it, then notify the torrent)"
                )

    async def vanished(self, before: Sequence[JudgedFile]) -> bool:
        """Whether a file is gone that was on the SSD: qBittorrent never takes one away.

        Raises:
            MustWait: the SSD itself is away.
        """
        now = await judge_files(
            [(both.path, both.copy_path) for both in before], limiter=self._tiers.hdd.limiter
        )
        gone = any(
            was.file is not None and is_.file is None for was, is_ in zip(before, now, strict=True)
        )
        if gone:
            await self._tiers.ssd.check()
        return gone

    async def any_on_ssd(self, row: Relocation) -> bool:
        """Whether any of its files is on the SSD, by any name. Raises `MustWait`: it is away."""
        await self._tiers.ssd.check()
        listed, _ = await self._planned(row, anew=True)
        return bool((await self._lists.found([listed.at(row.from_path)])).files)

    async def two_places(self, judged: Sequence[JudgedFile]) -> None:
        """Prove that each copy is on another file system than its file on the SSD.

        Within one nothing would be freed, and a move that fails there costs the copy: what
        qBittorrent found at the destination it "moves back", over the file on the SSD (seen
        on 4.5.2 and 5.1.0).

        Raises:
            SameStorage: a folder of the HDD is one of the SSD's under another name.
            NotAsPlanned: both are on one file system.
        """
        folders = await self._compute(
            lambda: {(f.path.parent, f.copy_path.parent) for f in judged if f.file and f.copy}
        )
        for on_ssd, on_hdd in sorted(folders):
            await self._tiers.check_not_aliased(on_ssd, on_hdd)
            if await self._tiers.on_one_file_system(on_ssd, on_hdd):
                raise NotAsPlanned(
                    f"{on_ssd} and {on_hdd} are on one file system, so that relocating frees "
                    "nothing; mount the HDD there"
                )

    # -- other torrents

    async def claimed(
        self, group: Sequence[Relocation], *, max_age_s: float = 0.0
    ) -> frozenset[str]:
        """The real paths on the SSD that stand in the list of a torrent outside the group.

        One call, none if all were listed that recently, and one more for each torrent
        that could list one of them.

        Raises:
            QbittorrentError: it cannot be found out.
        """
        lists = [(await self._planned(row))[0].at(row.from_path) for row in group]
        ours = {file.path for file in (await self._lists.found(lists)).files}
        others = await self._others(
            group, ours, max_age_s=max_age_s, limiter=self._tiers.ssd.limiter
        )
        theirs = {file.path for file in (await self._lists.found(others)).files}
        # Links elsewhere may lead to a file of ours.
        for listed in others:
            theirs |= await self._real_places(listed, limiter=self._tiers.ssd.limiter)
        return frozenset(ours & theirs)

    async def _real_places(self, listed: Listed, *, limiter: trio.CapacityLimiter) -> set[str]:
        """Where the names in a torrent's list lead, as the service sees it."""
        paths = [
            str(PurePosixPath(self._roots.mapped(root)) / file.name)
            for root in listed.roots
            for file in listed.files
        ]
        return set((await real_places(paths, limiter=limiter)).values())

    async def claimants(
        self, row: Relocation, *, max_age_s: float = 0.0
    ) -> dict[TorrentId, frozenset[str]]:
        """Which other torrents list files of this one's copy on the HDD, by whatever name.

        Returns:
            Real paths of this one's files, by torrent.
        """
        _, planned = await self._planned(row)
        limiter = self._tiers.hdd.limiter
        ours = await self._names(row, [str(file.on_hdd) for file in planned])
        found = {}
        for listed in await self._others([row], ours, max_age_s=max_age_s, limiter=limiter):
            theirs = await self._real_places(listed, limiter=limiter)
            shared = frozenset(ours[name] for name in ours.keys() & theirs)
            if shared:
                found[listed.torrent.id] = shared
        return found

    async def _names(self, row: Relocation, paths: list[str]) -> dict[str, str]:
        """All names of these files on the HDD: real paths, each with that of the file.

        Other names are hardlinks that were made for cross-seeds.
        """

        def read(connection: Connection) -> dict[str, str]:
            own = {
                file.path: file
                for files in journal_copies.published_files(connection, paths).values()
                for torrent_id, file in files
                if torrent_id == row.torrent_id
            }
            sources = [f.source_inode for f in own.values() if f.source_inode is not None]
            others = journal_copies.made_from(connection, sources, besides=row.torrent_id)
            by_inode = {file.inode: path for path, file in own.items() if file.inode is not None}
            return {o.path: by_inode[o.inode] for o in others if o.inode in by_inode}

        linked = await self._journal.do(read)
        own_of = {**linked, **dict(zip(paths, paths, strict=True))}
        placed = await self._compute(lambda: {path: str(self._roots.hdd / path) for path in own_of})
        real = await real_places(placed.values(), limiter=self._tiers.hdd.limiter)
        return {real[placed[path]]: real[placed[own]] for path, own in own_of.items()}

    async def _others(
        self,
        group: Sequence[Relocation],
        paths: Collection[str],
        *,
        max_age_s: float,
        limiter: trio.CapacityLimiter,
    ) -> list[Listed]:
        """The lists of torrents outside the group that could name one of these paths."""
        members = {row.torrent_id for row in group}
        torrents = await self._lists.torrents(max_age_s=max_age_s)
        others = [torrent for torrent in torrents if torrent.id not in members]
        lists = []
        for torrent in await self._lists.could_list(others, paths, limiter=limiter):
            try:
                lists.append(await self._lists.of(torrent))
            except TorrentUnknown:
                continue  # removed since all were listed
        return lists

    async def hash_again(self, row: Relocation, shared: Collection[str]) -> None:
        """Prove by the torrent's piece hashes that these files of its copy are whole.

        Another torrent has them too, and may have written to them since.

        Args:
            row: whose copy.
            shared: real paths; those of other copies are ignored.

        Cancellation:
            Prompt.

        Raises:
            CopyChanged: one is not.
        """
        _, planned = await self._planned(row)
        paths = {file.index: str(self._roots.hdd / file.on_hdd) for file in planned if file.wanted}
        real = await real_places(paths.values(), limiter=self._tiers.hdd.limiter)
        sought = {index: Path(real[p]) for index, p in paths.items() if real[p] in shared}
        whole = await self._whole(row, planned, sought, sources={})
        for index, path in sought.items():
            if index not in whole:
                raise CopyChanged(f"{path}, which another torrent has too, is not whole any more")

    async def its_own(self, row: Relocation, on_ssd: Mapping[int, Path]) -> bool:
        """Whether these files, by index, are the torrent's own, and not of another's same names.

        So it is known if it has been tiered from there; else their piece hashes tell.

        Raises:
            MustWait, DiskError: they cannot be read now.
        """
        find = partial(journal_copies.find, torrent_id=row.torrent_id)
        if await self._journal.do(find) is not None:
            return True
        _, planned = await self._planned(row)
        try:
            return on_ssd.keys() <= await self._whole(row, planned, on_ssd, sources=on_ssd)
        except (Fatal, SourceChanged):
            return False

    async def _whole(
        self,
        row: Relocation,
        planned: Sequence[PlannedFile],
        sought: Mapping[int, Path],
        *,
        sources: Mapping[int, Path],
    ) -> frozenset[int]:
        """Which of these files, by index, are whole; see `identical`."""
        if not sought:
            return frozenset()
        exported = await self._client.export(row.torrent_id)
        meta = await self._compute(partial(metainfo.parse, exported))
        places = [str(self._roots.ssd / file.on_ssd) for file in planned]
        real = await real_places(places, limiter=self._tiers.ssd.limiter)
        items = [
            CopyItem(
                index=file.index,
                source=sources.get(file.index, Path(real[place])),
                size_bytes=file.size_bytes,
                wanted=file.wanted,
                staged=None,
            )
            for file, place in zip(planned, places, strict=True)
        ]
        return await identical(meta, items, sought, limiter=self._reading, nice=self._nice)

    async def _compute(self, call: Callable[[], T]) -> T:
        return await compute(call, limiter=self._computing)


def _is_recorded(copy: FileIdentity, records: Sequence[tuple[TorrentId, CopyFile]]) -> bool:
    return any(
        (file.size_bytes, file.mtime_ns) == (copy.size_bytes, copy.mtime_ns) for _, file in records
    )
