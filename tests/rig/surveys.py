"""An SSD with torrents, a qBittorrent in memory that lists them, and a journal that knows them.

For what only looks: nothing of it can be checked, moved or exported.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path, PurePosixPath
from sqlite3 import Connection

from qbm_trio.adapters import journal_copies, journal_jobs
from qbm_trio.adapters.journal import Journal
from qbm_trio.adapters.journal_copies import Copy, CopyFile
from qbm_trio.core.lifecycle import Event
from qbm_trio.core.model import (
    JobId,
    JobState,
    Notification,
    TorrentFile,
    TorrentId,
    Verification,
)
from qbm_trio.core.roots import Roots
from qbm_trio.core.space import SpacePlan
from qbm_trio.tasks.space_survey import Need, Survey
from qbm_trio.tasks.ssd_lists import SsdLists
from qbm_trio.tasks.tiers import Tiers
from tests.fakes.qbittorrent import FakeQbittorrent
from tests.fakes.qbittorrent_disk import content_path
from tests.rig.journals import running
from tests.rig.seen import SEEDING

BLOCK = 4096  #: what a file of up to so many bytes takes on the disk

_COPY = Copy(
    torrent_id=TorrentId(""),
    job_id=JobId("j"),
    destination="",
    save_root="",
    category="",
    name="",
    verification=Verification.PIECES,
    size_bytes=BLOCK,
    begun_at=1.0,
    published_at=None,
)
_HISTORY = {
    JobState.DONE: [Event.TAKE, Event.FINISH],
    JobState.FAILED: [Event.TAKE, Event.FAIL],
    JobState.CANCELLED: [Event.CANCEL],
    JobState.CLEARED: [Event.CLEAR],
    JobState.QUEUED: [],
    JobState.RUNNING: [Event.TAKE],
}


@dataclass(kw_only=True)
class Library:
    """What surveys look at."""

    roots: Roots
    fake: FakeQbittorrent
    journal: Journal
    tiers: _ToldTiers
    lists: SsdLists
    names: dict[TorrentId, str] = field(default_factory=dict)
    _number: count[int] = field(default_factory=lambda: count(1))

    @property
    def ssd(self) -> Path:
        """The SSD's folder, as it is configured."""
        return self.roots.ssd

    def theirs(self, path: Path | str) -> str:
        """The path as qBittorrent sees it: by the first mapping that covers it."""
        for theirs, ours in self.roots.path_mappings:
            if PurePosixPath(path).is_relative_to(ours):
                return str(PurePosixPath(theirs) / PurePosixPath(path).relative_to(ours))
        return str(path)

    def add(
        self,
        name: str,
        files: Collection[str] | None = None,
        *,
        save: Path | None = None,
        unwanted: Collection[str] = (),
        **fields: object,
    ) -> TorrentId:
        """Add a torrent, completed after all that were added before.

        Args:
            name: its file, unless ``files`` are given.
            files: names relative to its save path; written where they are not there.
            save: its save path, as the service sees it; by default ``tv`` on the SSD.
            unwanted: those of the files that its user does not want; not written.
            fields: of `Torrent`, to be different.
        """
        save = self.ssd / "tv" if save is None else save
        listed = [PurePosixPath(file) for file in (files or [name])]
        number = next(self._number)
        id_ = TorrentId(f"{number:040x}")
        for file in listed:
            path = save / file
            if str(file) not in unwanted and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"x" * BLOCK)
        torrent = replace(
            SEEDING,
            id=id_,
            name=name,
            save_path=self.theirs(save),
            content_path=str(content_path(PurePosixPath(self.theirs(save)), listed)),
            size_bytes=BLOCK * (len(listed) - len(unwanted)),
            completed_at=float(number),
            infohash_v1=id_,
        )
        self.fake._torrents[id_] = replace(torrent, **fields)  # type: ignore[arg-type]
        self.fake._files[id_] = tuple(
            TorrentFile(
                index=index,
                name=file,
                size_bytes=BLOCK,
                priority=0 if str(file) in unwanted else 1,
                progress=1.0,
            )
            for index, file in enumerate(listed)
        )
        self.fake._metainfo[id_] = b""
        self.names[id_] = name
        return id_

    async def copied(
        self,
        *torrent_ids: TorrentId,
        destination: str = "tv",
        without: Collection[str] = (),
        at: float = 1.0,
    ) -> None:
        """Record that the wanted files of these torrents were published."""

        def record(connection: Connection) -> None:
            for torrent_id in torrent_ids:
                entries = [
                    CopyFile(
                        index=file.index,
                        path=str(PurePosixPath(destination) / file.name),
                        size_bytes=file.size_bytes,
                        mtime_ns=1,
                        ours=True,
                    )
                    for file in self.fake._files[torrent_id]
                    if file.wanted and str(file.name) not in without
                ]
                copy = replace(_COPY, torrent_id=torrent_id, destination=destination)
                journal_copies.begin(connection, copy, entries)
                journal_copies.published(connection, torrent_id, now=at)

        await self.journal.do(record)

    async def job(
        self, hash_: str, state: JobState, *, torrent_id: TorrentId | None = None
    ) -> JobId:
        """Have a job, notified by this hash, in this state; resolved if the torrent is given."""
        job_id = JobId(f"job {next(self._number)}")

        def make(connection: Connection) -> None:
            journal_jobs.admit(connection, Notification(hash=hash_), job_id=job_id, now=1.0)
            for event in _HISTORY[state]:
                journal_jobs.move(connection, job_id, event, now=1.0)
                if event is Event.TAKE and torrent_id is not None:
                    connection.execute(
                        "UPDATE jobs SET torrent_id = ? WHERE id = ?", (torrent_id, job_id)
                    )

        await self.journal.do(make)
        return job_id

    def survey(self, *, forgive: bool = False, now: float | None = None) -> Survey:
        """A survey of it all."""
        return Survey(
            self.roots,
            lists=self.lists,
            journal=self.journal,
            tiers=self.tiers,
            now=time.time() if now is None else now,
            forgive=forgive,
        )

    async def plan(
        self,
        missing: int,
        *,
        room: int = 1000,
        forgive: bool = False,
        now: float | None = None,
    ) -> SpacePlan:
        """The plan when so many bytes are missing."""
        need = Need(free_bytes=0, target_bytes=missing, pending_bytes=0, tier_room=room)
        return await self.survey(forgive=forgive, now=now).plan(need)

    def verdicts(self, plan: SpacePlan) -> dict[str, str]:
        """What becomes of each torrent, by name: the choice, or the reason for sparing it."""
        return {self.names[one.torrent_id]: one.choice.value for one in plan.chosen} | {
            self.names[one.torrent_id]: one.reason.value for one in plan.spared
        }

    def sentence(self, plan: SpacePlan, torrent_id: TorrentId) -> str:
        """Why it is chosen, or spared."""
        said = {one.torrent_id: one.sentence for one in plan.chosen}
        said |= {one.torrent_id: one.sentence for one in plan.spared}
        return said[torrent_id]

    def calls(self) -> Counter[str]:
        """The calls since the last look at them, by name."""
        made = Counter(str(name) for name, *_ in self.fake.calls)
        del self.fake.calls[:]
        return made

    def asked(self) -> set[str]:
        """Whose lists of files were asked for since the last look."""
        found = {self.names[args[0]] for name, *args in self.fake.calls if name == "files"}  # type: ignore[index]
        del self.fake.calls[:]
        return found


class _ToldTiers(Tiers):
    """On one file system or on two, as the test says."""

    one_file_system = False

    async def on_one_file_system(self, on_ssd: Path, on_hdd: Path) -> bool:
        return self.one_file_system


@asynccontextmanager
async def library(
    root: Path,
    *,
    ssd: Path | None = None,
    path_mappings: Mapping[str, str] | None = None,
) -> AsyncIterator[Library]:
    """An empty one below ``root``; ``ssd`` is another name for the SSD's folder.

    ``path_mappings`` are qBittorrent's prefix to the service's.
    """
    for name in ("ssd", "hdd", "state"):
        (root / name).mkdir(exist_ok=True)
    roots = Roots(
        ssd=ssd or root / "ssd",
        hdd=root / "hdd",
        path_mappings=tuple((path_mappings or {}).items()),
    )
    fake = FakeQbittorrent()
    async with running(root / "state") as journal:
        tiers = _ToldTiers(
            ssd=roots.ssd,
            hdd=roots.hdd,
            journal=journal,
            instance_id="i",
            hdd_min_free_bytes=0,
            read_only=False,
        )
        lists = SsdLists(roots, client=fake, tiers=tiers)
        yield Library(roots=roots, fake=fake, journal=journal, tiers=tiers, lists=lists)
