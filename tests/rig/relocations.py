"""A service on real disks, strikes at a chosen moment of a relocation, and a judge.

The judge knows every file by its SHA-256 from before the service saw it, and knows what
belongs to nobody: that must be untouched whatever happened.
"""

from __future__ import annotations

import inspect
import os
import signal
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio

from qbm_trio.adapters import journal_relocations
from qbm_trio.core.model import Job, Outcome, TorrentId
from qbm_trio.core.relocation import Relocation, Step
from qbm_trio.core.space import RELOCATING_TAG
from qbm_trio.core.space_runs import RunFigures
from qbm_trio.service import Service
from tests.rig.disks import Disk, two_disks
from tests.rig.forgetting import remember
from tests.rig.inside import Inside, Put, condition, inside, put
from tests.rig.library import sha256
from tests.rig.qbt import Qbt
from tests.rig.trees import below

LIMIT_S = 30.0  #: for anything a test waits for
CALM_S = 0.4  #: so long must qBittorrent say the same: it refreshes what it says each 0.1 s
LEFT_FREE_BYTES = 1_000_000  #: on the SSD when a run begins
RUNNING = frozenset({"stalledUP", "uploading", "queuedUP", "forcedUP"})
STOPPED = frozenset({"pausedUP", "stoppedUP"})
FILES = {"a": 40_000, "sub/b": 70_000}
FILES_BYTES = 110_000

SETTINGS = {
    "DISK_SPACE_THRESHOLD_GB": "0.02",
    "DISK_SPACE_TARGET_GB": "0.06",  # of 64 MiB: all that may go is to go
    "DELETE_GRACE_S": "0",
    "SPACE_CHECK_INTERVAL_S": "86400",
}
PLAIN = {"temp_path_enabled": False, "incomplete_files_ext": False}
"""QBittorrent's preferences, unless a test wants others."""
SPED_UP = {
    "qbm_trio.core.relocation_polls.SETTLED_S": 0.7,
    "qbm_trio.tasks.relocation.RETRY_S": 0.2,
    "qbm_trio.tasks.relocation_watch._SHORTEST_PAUSE_S": 0.05,
    "qbm_trio.tasks.relocation_watch.SEEN_WITHIN_S": 2.0,
    "qbm_trio.tasks.relocation_watch.STANDSTILL_S": 2.0,
    "qbm_trio.tasks.relocation_watch.NOT_DUE_S": 0.5,
    "qbm_trio.tasks.relocation_watch.GONE_AFTER_S": 0.5,
    "qbm_trio.tasks.relocation_watch.GONE_LOOK_S": 0.1,
    "qbm_trio.tasks.tiers.PROBE_INTERVAL_S": 0.1,
    "qbm_trio.tasks.prober.LONGEST_S": 0.2,
    "qbm_trio.tasks.reconciler.SHARE": 1,
}
"""Waits that would only make the tests slow, with a qBittorrent that refreshes each 0.1 s.

``SHARE``: one list that takes a second on a busy machine has no other asked for in twenty.
"""


@dataclass(kw_only=True)
class World:
    """Two disks, a service on them, and the torrents that it is tried on."""

    qbt: Qbt
    ssd: Disk
    hdd: Disk
    service: Inside
    nursery: trio.Nursery
    content: dict[str, dict[str, str]] = field(default_factory=dict)
    """Of each torrent: its files below the save path, and their SHA-256."""
    foreign: dict[Path, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.strikes = Strikes(self.service.service)

    def all_options(self) -> dict[str, Any]:
        """Of a torrent with an incomplete folder, ``.!qB`` on and automatic management."""
        self.qbt.api.app_set_preferences(
            {
                "temp_path_enabled": True,
                "temp_path": str(self.ssd.at / "incomplete"),
                "incomplete_files_ext": True,
            }
        )
        self.qbt.api.torrents_create_category("managed", save_path=str(self.ssd.at / "managed"))
        return {"folder": "managed", "use_auto_torrent_management": True}

    async def shelve(
        self,
        name: str,
        sizes: Mapping[str, int] | int = FILES,
        *,
        folder: str = "tv",
        **options: Any,
    ) -> str:
        """A complete torrent in a folder of the SSD, in the category of the same name."""
        made = await trio.to_thread.run_sync(
            partial(
                put,
                self.qbt,
                self.ssd.at / folder,
                name,
                sizes,
                category=folder,
                seed=zlib.crc32(name.encode()),
                **options,
            )
        )
        return await self.know(made, self.ssd.at / folder)

    async def know(self, put: Put, folder: Path) -> str:
        """Remember a torrent's files as they are, once it seeds them; give its id."""
        # 5.1 takes a second to look through what it is given.
        await condition(lambda: self.qbt.info(put.id)["state"] in RUNNING)
        self.content[put.id] = {
            str(p.relative_to(folder)): sha256(p) for p in put.made.paths if p.exists()
        }
        return put.id

    def put_foreign(self, *paths: Path) -> None:
        """Files that belong to nobody the service knows."""
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"mine: {path}")
            self.foreign[path] = sha256(path)

    async def tier(self, id_: str) -> None:
        """Have its verified copy made."""
        job = await self.service.tier(id_)
        assert job.outcome is Outcome.TIERED, job.error

    async def tiered(self, name: str, *more: Any, folder: str = "tv", **options: Any) -> str:
        """A torrent with a verified copy, and somebody's files beside both."""
        id_ = await self.shelve(name, *more, folder=folder, **options)
        await self.tier(id_)
        for disk in (self.ssd, self.hdd):
            beside = disk.at / folder / name
            self.put_foreign(disk.at / folder / "mine.txt")
            if beside.is_dir():
                self.put_foreign(beside / "mine.txt", beside / "mine/too.txt")
        return id_

    # -- runs

    async def begin(self) -> str:
        """Fill up the SSD and ask for a run; give its id."""
        space = self.service.service.space
        # What was asked for before, by the end of a job, must not find it full.
        while True:
            await self.ended(str(space.trigger().run_id))
            if space._asked is None and space.overview().current_run is None:
                break
        await trio.to_thread.run_sync(partial(self.ssd.fill, leave_bytes=LEFT_FREE_BYTES))
        return str(space.trigger().run_id)

    async def ended(self, run_id: str) -> RunFigures:
        """What came of a run, once it has ended."""
        space = self.service.service.space
        await condition(
            lambda: (last := space.overview().last_run) is not None and last.id == run_id,
            limit_s=LIMIT_S,
        )
        last = space.overview().last_run
        assert last is not None
        return last.figures

    async def run(self) -> RunFigures:
        """One run of space management; what came of it. No other follows by itself."""
        figures = await self.ended(await self.begin())
        self.make_room()
        return figures

    def make_room(self) -> None:
        """Delete what fills up the SSD: no run has anything to do any more."""
        (self.ssd.at / "filler").unlink(missing_ok=True)

    async def at_step(self, id_: str, *steps: Step) -> Relocation:
        """The newest relocation of a torrent, once it is at one of these steps."""
        last_of = partial(journal_relocations.last_of, torrent_id=TorrentId(id_))
        row = None
        with trio.move_on_after(LIMIT_S):
            while True:
                row = await self.service.journal.do(last_of)
                if row is not None and row.step in steps:
                    return row
                await trio.sleep(0.02)
        raise AssertionError(f"not within {LIMIT_S} s {steps}: {row}")

    async def newest_job(self, id_: str) -> Job:
        """The newest job of a torrent, once it has ended."""
        jobs = await self.service.service.jobs.newest(state=None, limit=20, after=None)
        jobs = [job for job in jobs if job.hash == id_]
        return await self.service.ended(jobs[0].id)

    # -- after

    async def settled(self, id_: str, *, at: Disk, running: bool = True) -> dict[str, Any]:
        """What qBittorrent says, once it goes on saying that it has all of it on this disk."""
        states, good_since = RUNNING if running else STOPPED, None
        deadline = trio.current_time() + LIMIT_S
        while True:
            said = await trio.to_thread.run_sync(self.qbt.info, id_)
            now = trio.current_time()
            good = (
                said["state"] in states
                and said["progress"] == 1
                and Path(said["content_path"]).is_relative_to(at.at)
                and RELOCATING_TAG not in said["tags"]
            )
            good_since = (good_since or now) if good else None
            if good_since is not None and now - good_since >= CALM_S:
                return said
            if now > deadline:
                shown = ("state", "progress", "content_path", "save_path", "tags")
                raise AssertionError({name: str(said[name])[-40:] for name in shown})
            await trio.sleep(0.05)

    async def whole(self, id_: str, *, at: Disk, running: bool = True) -> None:
        """QBittorrent goes on with it on this disk, where its data is whole; foreign files are."""
        said = await self.settled(id_, at=at, running=running)
        root = Path(said["save_path"])
        assert {name: sha256(root / name) for name in self.content[id_]} == self.content[id_]
        self.nothing_foreign_touched()

    def nothing_foreign_touched(self) -> None:
        """What belongs to nobody is as it was, and nothing unfinished lies about."""
        for path, digest in self.foreign.items():
            assert path.is_file(), path
            assert sha256(path) == digest, path
        for disk in (self.ssd, self.hdd):
            names = [str(path.relative_to(disk.at)) for path in below(disk.at)]
            unfinished = [name for name in names if name.endswith((".!qB", ".parts"))]
            assert not unfinished, names

    def on(self, disk: Disk, id_: str, *, folder: str = "tv") -> set[str]:
        """Those of a torrent's files that stand whole on this disk."""
        root = disk.at / folder
        return {
            name
            for name, digest in self.content[id_].items()
            if (root / name).exists() and sha256(root / name) == digest
        }

    def files(self, id_: str) -> set[str]:
        """All of a torrent's files."""
        return set(self.content[id_])

    def kill_and_start(self) -> None:
        """Kill qBittorrent and start it again, so fast that nobody may notice."""
        self.qbt.stop(signal.SIGKILL)
        self.qbt.start()

    async def kill_until_noticed(self) -> None:
        """Kill qBittorrent; it is started again as soon as the service has noticed."""
        await trio.to_thread.run_sync(self.qbt.stop, signal.SIGKILL)

        async def start() -> None:
            await self.service.service.client.wait_unreachable()
            await trio.to_thread.run_sync(self.qbt.start)

        self.nursery.start_soon(start)

    def remember(self) -> Callable[[], None]:
        """Give what brings qBittorrent back to how it is now, as if it had saved nothing since."""
        return remember(self.qbt)


Scenario = Callable[[World], Awaitable[None]]
OnBoth = Callable[[Scenario], Awaitable[None]]
"""Plays a scenario on both real versions of qBittorrent."""


def corrupt(path: Path) -> None:
    """Change a byte: the same size, the same time."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[7] ^= 0xFF
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@asynccontextmanager
async def world(root: Path, qbt: Qbt, *, url: str | None = None) -> AsyncIterator[World]:
    """Two disks below a shared place, and a service; what qBittorrent had is forgotten after.

    ``url`` is where the service finds it, if there is something between.
    """
    with two_disks(root) as (ssd, hdd):
        try:
            async with (
                inside(root, url or qbt.url, client=None, **SETTINGS) as service,
                trio.open_nursery() as nursery,
            ):
                made = World(qbt=qbt, ssd=ssd, hdd=hdd, service=service, nursery=nursery)
                made.put_foreign(ssd.at / "mine.txt", hdd.at / "mine.txt")
                yield made
                nursery.cancel_scope.cancel()
        finally:
            # For the next test, also when this one is cancelled.
            with trio.move_on_after(LIMIT_S, shield=True):
                await trio.to_thread.run_sync(_forget_all, qbt)


def _forget_all(qbt: Qbt) -> None:
    if qbt.process is None:
        qbt.start()
    if ids := qbt.ids():
        qbt.api.torrents_delete(delete_files=False, torrent_hashes=list(ids))
    qbt.api.torrents_remove_categories(list(qbt.api.torrents_categories()))
    qbt.api.app_set_preferences(PLAIN)


class Strikes:
    """Lets something happen at a chosen moment of a relocation, once."""

    def __init__(self, service: Service) -> None:
        self._client = service.client
        self._steps = service.space._relocator._steps
        self._to_come: set[str] = set()

    async def come(self) -> None:
        """Wait until all of them have."""
        await condition(lambda: not self._to_come, limit_s=LIMIT_S)

    def count(self, name: str) -> Callable[[], int]:
        """Give what tells how often this call to qBittorrent has come since."""
        call = getattr(self._client, name)
        came: list[object] = []

        async def counted(*arguments: Any) -> object:
            came.append(arguments)
            return await call(*arguments)

        setattr(self._client, name, counted)
        return lambda: len(came)

    def before(self, step: Step, strike: Callable[[], object]) -> None:
        """As soon as ``step`` is in the journal, before any look or call that it needs."""
        # What comes first in a deletion is whether qBittorrent still has the copy.
        first = "still_there" if step is Step.DELETING else "take"
        self._put_in(self._steps, first, f"before {step}", strike, step=step)

    def after_looks(self, step: Step, strike: Callable[[], object]) -> None:
        """Right before ``step`` is taken, after what is asked between two steps."""
        self._put_in(self._steps, "take", f"after looks for {step}", strike, step=step)

    def before_call(self, name: str, strike: Callable[[], object]) -> None:
        """Right before this call to qBittorrent, after all looks that come before it."""
        self._put_in(self._client, name, f"before {name}", strike)

    def after_call(self, name: str, strike: Callable[[], object]) -> None:
        """As soon as this call to qBittorrent is answered."""
        self._put_in(self._client, name, f"after {name}", strike, late=True)

    def _put_in(
        self,
        owner: object,
        name: str,
        moment: str,
        strike: Callable[[], object],
        *,
        step: Step | None = None,
        late: bool = False,
    ) -> None:
        call = getattr(owner, name)
        moment = f"{len(self._to_come)}: {moment}"  # several strikes at once: the last one first
        self._to_come.add(moment)

        async def struck(*arguments: Any) -> object:
            if step is not None and arguments[0].step is not step:
                return await call(*arguments)
            if not late:
                await self._once(moment, strike)
            answer = await call(*arguments)
            if late:
                await self._once(moment, strike)
            return answer

        setattr(owner, name, struck)

    async def _once(self, moment: str, strike: Callable[[], object]) -> None:
        if moment in self._to_come:
            if inspect.iscoroutinefunction(strike):
                await strike()
            else:
                await trio.to_thread.run_sync(strike)
            self._to_come.discard(moment)
