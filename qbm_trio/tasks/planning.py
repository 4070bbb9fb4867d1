"""What a tiering job will do, found out before anything is written.

`Planner` turns a hash into a torrent, and a torrent into files with both their
places. It asks qBittorrent and the journal, and changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Final

import trio

from ..adapters import journal_copies, journal_relocations, metainfo
from ..adapters.computing import compute
from ..adapters.journal import Journal
from ..core.client import QbittorrentClient
from ..core.errors import (
    BadMetainfo,
    DestinationChanged,
    Fatal,
    MustWait,
    TooEarlyToTell,
    TorrentUnknown,
)
from ..core.model import Job, JobId, Torrent, TorrentId, WaitReason
from ..core.pieces import Metainfo
from ..core.placement import (
    Place,
    PlannedFile,
    destination_folders,
    plan_files,
    save_root,
)
from ..core.readiness import why_not_ready
from ..core.relocation import OPEN
from ..core.roots import Roots

UNKNOWN_FOR_S: Final = 60.0
"""How long a job at least waits for a torrent that qBittorrent does not know (yet)."""
UNKNOWN_LOOK_S: Final = 5.0
LOOK_AGAIN_S: Final = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Pauses between looks at a torrent that is not ready; the last one repeats."""


class UnknownForTooLong(Fatal):
    """qBittorrent did not come to know the torrent."""

    code = "unknown_torrent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a job will do, known before anything is written."""

    torrent: Torrent
    metainfo: Metainfo
    files: tuple[PlannedFile, ...]
    destination: PurePosixPath  #: folder below the HDD base
    shown_destination: str  #: the file, or the top folder, that the user will find on the HDD
    save_root: str  #: as qBittorrent sees it
    copy: journal_copies.Copy | None  #: what the journal has of it, begun or published

    @property
    def published_before(self) -> bool:
        """Whether the journal has a published copy of it."""
        return self.copy is not None and self.copy.published_at is not None


class Planner:
    """Finds torrents and plans their copies."""

    def __init__(
        self,
        *,
        roots: Roots,
        client: QbittorrentClient,
        journal: Journal,
        computing: trio.CapacityLimiter,
    ) -> None:
        """``computing`` limits the threads for `compute`."""
        self._roots = roots
        self._client = client
        self._journal = journal
        self._computing = computing
        self._unknown: dict[JobId, tuple[float, int]] = {}  #: since when, and after which list
        self._looks: Counter[JobId] = Counter()
        self._placing = trio.Lock()

    def forget(self, job_id: JobId) -> None:
        """The job has ended: how often it was looked at matters no more."""
        self._unknown.pop(job_id, None)
        self._looks.pop(job_id, None)

    async def find(self, job: Job) -> Torrent:
        """The torrent that the job's hash means.

        Raises:
            MustWait: qBittorrent does not know it yet.
            UnknownForTooLong: it still does not, after a while, says a list of all its
                torrents that was asked for since the job first asked.
        """
        now = trio.current_time()
        since, lists = self._unknown.get(job.id, (now, self._client.lists_asked))
        try:
            torrent = await self._look_up(job.torrent_id or job.hash, list_after=lists)
        except (TorrentUnknown, TooEarlyToTell) as error:
            self._unknown[job.id] = since, lists
            if isinstance(error, TooEarlyToTell) or now - since < UNKNOWN_FOR_S:
                raise MustWait(
                    f"qBittorrent does not know {job.hash} yet; looking again for a minute or two",
                    reason=WaitReason.UNKNOWN_TORRENT,
                    delay_s=UNKNOWN_LOOK_S,
                ) from error
            raise UnknownForTooLong(
                f"qBittorrent has no torrent with the hash {job.hash}; it was removed, or the "
                "notification came from another qBittorrent; check QBIT_HOST, then retry the job"
            ) from error
        self._unknown.pop(job.id, None)
        return torrent

    async def _look_up(self, hash_: str, *, list_after: int) -> Torrent:
        try:
            # Known from the reconciler's lists; or an id, or the v2 hash that an id begins.
            id = self._client.known(hash_) or TorrentId(hash_[:40])
            torrent = await self._client.torrent(id)
            if hash_ in torrent.hashes:
                return torrent
        except TorrentUnknown:
            if len(hash_) != 40:
                raise
        # The v1 hash of a hybrid that was just added: only the list of all torrents tells.
        return await self._client.torrent(await self._client.find(hash_, list_after=list_after))

    async def require_not_relocating(self, job: Job, torrent: Torrent) -> None:
        """Prove that no relocation of the torrent is under way.

        One that begins later sees this job, which is running, and does not.

        Raises:
            MustWait: there is one.
        """
        last = await self._journal.do(partial(journal_relocations.last_of, torrent_id=torrent.id))
        if last is not None and last.step in OPEN:
            raise self._not_ready(job, f"it is being relocated ({last.step})")

    def place(self, job: Job, torrent: Torrent) -> Place:
        """On which tier its data is, once it stays there.

        Raises:
            MustWait: the torrent is incomplete, or on its way from one place to
                another; or qBittorrent does not say yet (4.5, right after adding).
        """
        reason = why_not_ready(torrent, ())
        if reason is not None:
            raise self._not_ready(job, reason)
        place = self._roots.place_of(torrent)
        if place is Place.UNKNOWN:
            raise self._not_ready(job, "qBittorrent has no absolute content path for it yet")
        return place

    def why_elsewhere(self, torrent: Torrent) -> str:
        """Say which path lies outside both tiers: the mapping may be missing."""
        mapped = self._roots.mapped(torrent.content_path)
        return (
            f"its data is at {mapped!r} (in qBittorrent: {torrent.content_path!r}), neither below "
            "DOWNLOAD_PATH_SSD nor below FINAL_DEST_BASE_HDD; if it should be, set PATH_MAPPINGS"
        )

    def _not_ready(self, job: Job, reason: str) -> MustWait:
        pauses = LOOK_AGAIN_S[min(self._looks[job.id], len(LOOK_AGAIN_S) - 1)]
        self._looks[job.id] += 1
        return MustWait(f"not ready: {reason}", reason=WaitReason.NOT_READY, delay_s=pauses)

    async def plan(self, job: Job, torrent: Torrent) -> Plan:
        """Both places of each of its files, and the hashes that prove them.

        Raises:
            MustWait: the torrent is not ready to be copied.
            BadMetainfo, UnsafePath: it cannot be.
        """
        files = await self._client.files(torrent.id)
        reason = why_not_ready(torrent, files) if files else "qBittorrent lists no file of it"
        if reason is not None:
            raise self._not_ready(job, reason)
        exported = await self._client.export(torrent.id)

        def read() -> tuple[Metainfo, str]:
            return metainfo.parse(exported), save_root(torrent, files)

        meta, root = await compute(read, limiter=self._computing)
        if meta.torrent_id != torrent.id:
            raise BadMetainfo(
                f"qBittorrent exported the .torrent of {meta.torrent_id} for {torrent.id}; "
                "restart qBittorrent, then retry the job"
            )
        root_on_ssd = self._roots.on_ssd(root)
        if root_on_ssd is None:
            raise self._not_ready(job, f"its save path {root} is not below DOWNLOAD_PATH_SSD")
        copy = await self._journal.do(partial(journal_copies.find, torrent_id=torrent.id))

        def draft(destination: PurePosixPath) -> Plan:
            planned = plan_files(files, root_on_ssd=root_on_ssd, destination=destination)
            return Plan(
                torrent=torrent,
                metainfo=meta,
                files=planned,
                destination=destination,
                shown_destination=_shown(planned, destination),
                save_root=root,
                copy=copy,
            )

        if copy is not None:
            # Fixed at the first publishing: Sonarr's later category moves nothing.
            fixed = PurePosixPath(copy.destination)
            return await compute(partial(draft, fixed), limiter=self._computing)
        destinations = destination_folders(torrent.category, root_on_ssd, torrent.id)
        plan = await compute(partial(draft, next(destinations)), limiter=self._computing)
        for destination in destinations:
            if not await self._is_anothers(plan):
                break
            plan = await compute(partial(draft, destination), limiter=self._computing)
        return plan

    async def require_own(self, plan: Plan) -> None:
        """Prove that the files it has on the HDD are not another torrent's by now.

        Raises:
            DestinationChanged: they are.
        """
        if await self._is_anothers(plan):
            raise DestinationChanged(
                f"{plan.shown_destination} on the HDD became another torrent's meanwhile; the "
                "next try takes another folder"
            )

    @asynccontextmanager
    async def own_place(self, plan: Plan) -> AsyncIterator[None]:
        """Prove `require_own`; it holds while the block records the copy as begun.

        One at a time: who is recorded first has the place, and the next one sees that.

        Raises:
            DestinationChanged: as `require_own`.
        """
        async with self._placing:
            await self.require_own(plan)
            yield

    async def _is_anothers(self, plan: Plan) -> bool:
        """Whether one of its files on the HDD is a torrent's that does not share it on the SSD.

        With the same save path there both have the same files, and share the copy, too; not
        with one that has left the SSD: what came after it is another download.
        """
        if plan.copy is not None:
            return False
        paths = await compute(
            lambda: [str(file.on_hdd) for file in plan.files], limiter=self._computing
        )
        others = await self._journal.do(
            partial(journal_copies.others_at, paths=paths, besides=plan.torrent.id)
        )
        for other in others:
            try:
                now = await self._client.torrent(other.torrent_id)
            except TorrentUnknown:
                continue  # removed: what it has left is anybody's
            if other.save_root != plan.save_root or self._roots.on_ssd(now.content_path) is None:
                return True
        return False


def _shown(files: Sequence[PlannedFile], destination: PurePosixPath) -> str:
    if len(files) == 1:
        return str(files[0].on_hdd)
    depth = len(destination.parts)
    tops = {f.on_hdd.parts[depth] for f in files}
    return str(destination / tops.pop() if len(tops) == 1 else destination)
