"""The service inside the test, a qBittorrent in memory, and an SSD as full as the test says."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from sqlite3 import Connection

import pytest
import trio
import trio.testing

from qbm_trio.adapters import disk, journal_relocations
from qbm_trio.core import relocation_polls
from qbm_trio.core.model import Outcome, TorrentId
from qbm_trio.core.relocation import OPEN, Relocation, Step
from qbm_trio.core.space_runs import SpaceRun
from qbm_trio.tasks import (
    reconciler,
    relocation,
    relocation_deletion,
    relocation_steps,
    relocation_watch,
)
from qbm_trio.tasks.shutdown import Shutdown
from qbm_trio.tasks.space import SpaceManagement
from qbm_trio.tasks.tiers import Tiers
from tests.fakes.qbittorrent import FakeQbittorrent
from tests.rig.inside import Inside, condition, inside, make
from tests.rig.torrents import make_torrent
from tests.rig.trees import below

FILES: Mapping[str, int] = {"a": 40_000, "b": 20_000}
EACH_BYTES = 40_960 + 20_480  #: what these take on a disk with blocks of 4 KiB
THRESHOLD_BYTES, TARGET_BYTES = 100_000, 150_000
PLENTY_BYTES = 10**9

WRITES = {
    "add_tags", "remove_tags", "stop", "start", "set_force_start", "set_auto_management",
    "set_download_path", "set_location", "recheck",
}  # fmt: skip
"""The calls that change something in qBittorrent."""


class Ssd:
    """How much of the SSD is free, told instead of asked."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._root = root
        self._capacity = PLENTY_BYTES
        self._kept_bytes = 0
        self._kept_since = 0
        self.asked = 0
        real = disk.disk_space

        async def disk_space(path: Path, *, limiter: trio.CapacityLimiter) -> disk.DiskSpace:
            found = await real(path, limiter=limiter)
            if path != root:
                return found
            self.asked += 1
            return disk.DiskSpace(total_bytes=self._capacity, free_bytes=self.free_bytes)

        monkeypatch.setattr(disk, "disk_space", disk_space)

    @property
    def free_bytes(self) -> int:
        """Now."""
        deleted = max(0, self._kept_since - self._used())
        return self._capacity - self._used() - min(deleted, self._kept_bytes)

    @free_bytes.setter
    def free_bytes(self, free_bytes: int) -> None:
        self._capacity = self._used() + free_bytes

    def keep(self, kept_bytes: int) -> None:
        """Of what is deleted from now on, so much stays used: a snapshot has it."""
        self._kept_since, self._kept_bytes = self._used(), kept_bytes

    def _used(self) -> int:
        found = {}
        for folder, _, names in os.walk(self._root):
            for name in names:
                # Files are deleted meanwhile.
                with suppress(FileNotFoundError):
                    status = (Path(folder) / name).stat()
                    found[status.st_ino] = status.st_blocks * 512 * (not name.startswith(".qbm-"))
        return sum(found.values())


class Watched(FakeQbittorrent):
    """A qBittorrent in memory that shows a test each call before it is made."""

    def __init__(self, *, old: bool = False) -> None:
        super().__init__(old=old)
        self.refresh_s = 0.01
        #: Awaited with the call's name and arguments: a place to look, wait, raise, or change.
        self.watch: Callable[..., Awaitable[None]] | None = None

    async def _call(self, name: str, *arguments: object) -> None:
        if self.watch is not None:
            await self.watch(name, *arguments)
        await super()._call(name, *arguments)


@dataclass(kw_only=True)
class Shelf:
    """A running service, and what stands around it."""

    inside: Inside
    fake: Watched
    ssd: Ssd
    runs: dict[str, SpaceRun]  #: all that were recorded, by id
    _numbers: count[int] = field(default_factory=lambda: count(1))

    @property
    def space(self) -> SpaceManagement:
        """What is under test."""
        return self.inside.service.space

    def add(self, name: str, *, save: str = "tv", **fields: object) -> TorrentId:
        """Add a torrent of `EACH_BYTES`, completed after those before; fields of `Torrent`."""
        number = next(self._numbers)
        folder = self.inside.ssd / save
        made = make(folder, name, FILES, seed=number)
        id_ = self.fake.add(made.data, save_path=str(folder), category="tv")
        self.fake.change(id_, completed_at=float(number), **fields)
        return id_

    async def tiered(self, name: str, **fields: object) -> TorrentId:
        """Add a torrent and have it copied to the HDD."""
        id_ = self.add(name, **fields)  # type: ignore[arg-type]
        assert (await self.inside.tier(id_)).outcome is Outcome.TIERED
        return id_

    async def shelf_of(self, number: int) -> list[TorrentId]:
        """Several such: T0 is the oldest."""
        return [await self.tiered(f"T{n}") for n in range(number)]

    async def twins(self, name: str) -> list[TorrentId]:
        """Two torrents of the same files, both copied to the HDD; by their ids."""
        first = await self.tiered(name)
        folder = self.inside.ssd / "tv"
        made = make_torrent(folder, name, [*FILES], piece_length=32 * 1024)
        second = self.fake.add(made.data, save_path=str(folder), category="tv")
        self.fake.change(second, completed_at=float(next(self._numbers)), name=f"{name} twin")
        assert (await self.inside.tier(second)).outcome is Outcome.TIERED
        return sorted([first, second])

    def slip(self, id_: TorrentId) -> None:
        """Have qBittorrent back on the SSD: it was killed before it had saved the move."""
        self.fake._now(id_)
        place = self.inside.ssd / "tv"
        folder = Path(self.fake._torrents[id_].content_path).name
        whole = len(list(below(place / folder))) == len(FILES)
        self.fake.change(
            id_,
            save_path=str(place),
            content_path=str(place / folder),
            state="stalledUP" if whole else "missingFiles",
            progress=1.0 if whole else 0.0,
        )

    # -- runs

    async def run_now(self) -> SpaceRun:
        """Trigger a run by hand; give it when it has ended."""
        return await self.ended(self.space.trigger().run_id)

    async def ended(self, run_id: str) -> SpaceRun:
        """A run, when it has ended."""
        # It is in memory, too, when it is not the current one any more.
        await condition(lambda: run_id in self.runs and self.space._current != run_id)
        await trio.testing.wait_all_tasks_blocked()  # what goes on without it has gone on
        return self.runs[run_id]

    @property
    def last(self) -> SpaceRun | None:
        """The last run that ended."""
        return self.space.overview().last_run

    async def leave_free(self, free_bytes: int) -> None:
        """Have so much free on the SSD, once no run is asked for or under way."""
        await self.idle()
        self.ssd.free_bytes = free_bytes

    async def idle(self) -> None:
        """Wait until no run is asked for or under way."""
        await trio.testing.wait_all_tasks_blocked()  # who waits for the end of a job has seen it
        await condition(lambda: self.space._asked is None and self.space._current is None)

    # -- relocations

    async def rows(self) -> dict[str, Relocation]:
        """The newest relocation of each torrent, by its name."""
        newest = await self.inside.journal.do(journal_relocations.newest)
        return {row.name: row for row in newest.values()}

    async def at(self, name: str, *steps: Step) -> Relocation:
        """The newest relocation of a torrent, as soon as it is at one of these steps."""
        with trio.fail_after(20):
            while True:
                row = (await self.rows()).get(name)
                if row is not None and row.step in steps:
                    return row
                await trio.sleep(0.005)

    async def all_ended(self) -> dict[str, Relocation]:
        """All relocations, when none is open any more, nor shown as open."""
        with trio.fail_after(20):
            while True:
                rows = await self.rows()
                # What is shown follows the journal.
                shown = self.space.overview().relocations
                if not shown and not any(row.step in OPEN for row in rows.values()):
                    return rows
                await trio.sleep(0.005)

    # -- disks

    def unmount(self, tier: str) -> None:
        """Take a tier's disk away; the empty folder below it shows."""
        root = self.inside.ssd if tier == "ssd" else self.inside.hdd
        root.rename(root.with_name(f"{tier} away"))
        root.mkdir()

    def mount(self, tier: str) -> None:
        """Have it back, over whatever was put into the folder."""
        root = self.inside.ssd if tier == "ssd" else self.inside.hdd
        root.rename(root.with_name(f"{tier} below"))
        root.with_name(f"{tier} away").rename(root)

    # -- what is seen

    def state(self, id_: TorrentId) -> tuple[str, str]:
        """A torrent's state in qBittorrent, settled, and the tier it is on."""
        self.fake._now(id_)
        torrent = self.fake._torrents[id_]
        place = Path(torrent.content_path)
        tier = next(
            name
            for name, root in (("ssd", self.inside.ssd), ("hdd", self.inside.hdd))
            if place.is_relative_to(root)
        )
        return torrent.state, tier

    def files(self, name: str, *, tier: str = "ssd", save: str = "tv") -> set[str]:
        """The files that a torrent has on a tier."""
        root = (self.inside.ssd if tier == "ssd" else self.inside.hdd) / save / name
        return {str(path.relative_to(root)) for path in below(root) if path.is_file()}

    def calls(self) -> Counter[str]:
        """The calls to qBittorrent since the last look, by name."""
        made = Counter(str(name) for name, *_ in self.fake.calls if name != "version")
        del self.fake.calls[:]
        return made

    async def drain(self) -> None:
        """Stop the service, as SIGTERM does."""
        stop = Shutdown(whole_s=60)
        stop.signum = 15
        with trio.fail_after(20):
            await self.inside.service.drain(stop)


@asynccontextmanager
async def shelf(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    fake: Watched | None = None,
    **env: str,
) -> AsyncIterator[Shelf]:
    """Such a service on an SSD with plenty of room; ``fake`` is one of an earlier service."""
    be_quick(monkeypatch)
    fake = fake or Watched()
    options = {
        "DISK_SPACE_THRESHOLD_GB": str(THRESHOLD_BYTES / 1e9),
        "DISK_SPACE_TARGET_GB": str(TARGET_BYTES / 1e9),
        "SPACE_CHECK_INTERVAL_S": "86400",
        "DELETE_GRACE_S": "0",
        **env,
    }
    two_disks_said(monkeypatch)
    (root / "ssd").mkdir(parents=True, exist_ok=True)
    with monkeypatch.context() as patch:
        ssd = Ssd(root / "ssd", patch)
        runs: dict[str, SpaceRun] = {}
        real = journal_relocations.add_run

        def add_run(connection: Connection, run: SpaceRun) -> None:
            real(connection, run)
            runs[run.id] = run

        patch.setattr(journal_relocations, "add_run", add_run)
        async with inside(root, client=fake, **options) as service:
            await condition(lambda: fake.contact.reachable)
            yield Shelf(inside=service, fake=fake, ssd=ssd, runs=runs)


@dataclass(kw_only=True)
class Held:
    """A step at which relocations stand still."""

    reached: trio.Event = field(default_factory=trio.Event)
    go_on: trio.Event = field(default_factory=trio.Event)

    async def wait(self) -> None:
        """Until one of them has come to it."""
        with trio.fail_after(20):
            await self.reached.wait()


@contextmanager
def held(
    monkeypatch: pytest.MonkeyPatch,
    step: Step,
    when: str = "recorded",
    *,
    name: str | None = None,
    seen: list[Step] | None = None,
) -> Iterator[Held]:
    """Hold relocations, or the one of this name, at a step until told to go on.

    ``when`` it is ``recorded``: before its first call, when only the journal knows it; or
    ``taken``: after its last. ``seen`` gets each step that is taken.
    """
    hold = Held()
    take = relocation_steps.Steps.take

    async def stand_still() -> None:
        hold.reached.set()
        await hold.go_on.wait()

    async def taken(self: relocation_steps.Steps, row: Relocation) -> relocation_steps.Result:
        if seen is not None:
            seen.append(row.step)
        here = row.step is step and name in (None, row.name)
        if here and when == "recorded":
            await stand_still()
        result = await take(self, row)
        if here and when == "taken":
            await stand_still()
        return result

    with monkeypatch.context() as patch:
        patch.setattr(relocation_steps.Steps, "take", taken)
        yield hold


def corrupt_copy(service: Inside, name: str) -> None:
    """Spoil a torrent's copy on the HDD; only hashing it can tell."""
    path = service.hdd / "tv" / name / "a"
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


async def run(it: Shelf) -> dict[str, Relocation]:
    """Make a run by hand; all relocations, when they have ended."""
    await it.leave_free(0)
    await it.run_now()
    return await it.all_ended()


def be_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have qBittorrent's answers believed after a moment instead of seconds."""
    monkeypatch.setattr(relocation_polls, "SETTLED_S", 0.02)
    monkeypatch.setattr(relocation_watch, "_SHORTEST_PAUSE_S", 0.005)
    monkeypatch.setattr(relocation_deletion, "FREED_WITHIN_S", 0.1)
    monkeypatch.setattr(relocation_deletion, "FREED_LOOK_S", 0.005)
    monkeypatch.setattr(relocation, "RETRY_S", 0.05)
    # A list that took a second on a busy machine is no reason to rest for twenty.
    monkeypatch.setattr(reconciler, "SHARE", 1)


def two_disks_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the tiers on two file systems, as far as the service is told."""

    async def asked(self: Tiers, on_ssd: Path, on_hdd: Path) -> bool:
        return False

    monkeypatch.setattr(Tiers, "on_one_file_system", asked)


def said(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """What was logged at this level or above."""
    return [record.getMessage() for record in caplog.records if record.levelno >= level]
