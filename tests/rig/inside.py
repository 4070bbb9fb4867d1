"""The real service inside the test's own trio loop: no process, no HTTP, no waiting.

Its parts are within reach, its constants can be patched, and a test waits for its
events. qBittorrent is a real one, or whatever client a test puts in its place.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from qbm_trio.adapters.journal import Journal
from qbm_trio.adapters.journal_restore import open_journal
from qbm_trio.core.client import QbittorrentClient
from qbm_trio.core.lifecycle import ACTIVE
from qbm_trio.core.model import Job, JobId, JobState, Notification
from qbm_trio.service import Service
from qbm_trio.settings.loading import load
from qbm_trio.web.serving import bind
from tests.rig.qbt import Qbt
from tests.rig.torrents import MadeTorrent, Version, make_torrent, write_files
from tests.rig.trees import below

LIMIT_S = 20.0  #: for anything a test waits for


@dataclass(kw_only=True)
class Inside:
    """A running service with its own tiers and state."""

    service: Service
    journal: Journal
    ssd: Path
    hdd: Path
    port: int  #: of its HTTP; 0 without

    async def notify(self, hash_: str, **fields: object) -> JobId:
        """Tell it that a torrent finished; give the job's id."""
        notification = Notification(hash=hash_, **fields)  # type: ignore[arg-type]
        return (await self.service.jobs.accept(notification)).job.id

    async def until(self, job_id: JobId, what: Callable[[Job], bool]) -> Job:
        """The job, as soon as ``what`` is true of it."""
        with trio.move_on_after(LIMIT_S):
            while True:
                changed = self.service.jobs.changed
                job = await self.service.jobs.get(job_id)
                if what(job):
                    return job
                await changed.wait()
        raise AssertionError(f"not within {LIMIT_S} s: {await self.service.jobs.get(job_id)}")

    async def ended(self, job_id: JobId) -> Job:
        """The job, when no work is left to do, its clearing up included."""
        job = await self.until(job_id, lambda job: job.state not in ACTIVE)
        with trio.fail_after(LIMIT_S):
            while job_id in self.service.workers.running:
                await self.service.workers.job_ended.wait()
        return job

    async def in_state(self, job_id: JobId, *states: JobState) -> Job:
        """The job, as soon as it is in one of these states."""
        return await self.until(job_id, lambda job: job.state in states)

    async def waits(self, job_id: JobId, *, again_after: Job | None = None) -> Job:
        """The job, as soon as it waits, again after an earlier wait if that is given."""
        started_at = again_after.started_at if again_after else None
        return await self.until(
            job_id, lambda job: job.state is JobState.WAITING and job.started_at != started_at
        )

    async def look_again(self, job: Job) -> Job:
        """Have a waiting job looked at now; give it when it waits again."""
        await self.until(job.id, lambda _: job.id in self.service.waits._deadlines)
        self.wake_all()
        return await self.waits(job.id, again_after=job)

    async def tier(self, hash_: str) -> Job:
        """Do the whole job of a torrent; give how it ended."""
        return await self.ended(await self.notify(hash_))

    def wake_all(self) -> None:
        """Look at every waiting job now."""
        waits = self.service.waits
        for reason in {reason for _, reason in waits._deadlines.values()}:
            waits.wake(reason)

    def staging(self) -> list[str]:
        """What is left of staging on the HDD: nothing, when no job runs."""
        return [
            str(path.relative_to(self.hdd))
            for path in below(self.hdd)
            if path.parent.parent.name == ".qbm-staging"
        ]

    def contents(self) -> dict[str, bytes]:
        """Every file on the HDD but the service's own."""
        return {
            str(path.relative_to(self.hdd)): path.read_bytes()
            for path in sorted(below(self.hdd))
            if path.is_file() and not path.name.startswith(".qbm-")
        }


@asynccontextmanager
async def inside(
    root: Path,
    qbittorrent_url: str = "http://127.0.0.1:1",
    *,
    client: QbittorrentClient | None = None,
    **env: str,
) -> AsyncIterator[Inside]:
    """Run the service with its tiers and state below ``root`` until the block ends.

    Started again on the same ``root``, it goes on where it stopped. ``client``
    takes the place of the adapter to qBittorrent. The reconciler runs only with
    ``RECONCILE_INTERVAL_S``, HTTP only with ``HTTP_ENABLED`` and ``HTTP_API_KEY``.
    """
    ssd, hdd, state = (root / name for name in ("ssd", "hdd", "state"))
    ssd = Path(env.get("DOWNLOAD_PATH_SSD", ssd))
    for folder in (ssd, hdd, state):
        folder.mkdir(parents=True, exist_ok=True)
    settings, _ = load(
        {
            "HTTP_ENABLED": "false",
            "QBIT_HOST": qbittorrent_url,
            "DOWNLOAD_PATH_SSD": str(ssd),
            "FINAL_DEST_BASE_HDD": str(hdd),
            "STATE_DIR": str(state),
            "LOG_FILE": str(root / "qbm.log"),
            "DISK_SPACE_THRESHOLD_GB": "0.001",
            "HDD_MIN_FREE_GB": "0",
            **env,
        }
    )
    listener = bind("127.0.0.1", 0) if settings.http_enabled else None
    port = int(listener.getsockname()[1]) if listener else 0
    journal = open_journal(settings.state_dir, now=time.time())
    thread = trio.CapacityLimiter(1)
    async with trio.open_nursery() as infra:
        await infra.start(journal.run, thread)
        try:
            service = await Service.assemble(settings, journal, client)
            if "RECONCILE_INTERVAL_S" not in env:
                # It would find what a test has put there for another purpose.
                service.reconciler.stop()
            async with trio.open_nursery() as parts:
                await service.start(parts, listener)
                yield Inside(service=service, journal=journal, ssd=ssd, hdd=hdd, port=port)
                parts.cancel_scope.cancel()
        finally:
            journal.close()


@dataclass(frozen=True, kw_only=True)
class Put:
    """A torrent that was made and given to qBittorrent."""

    id: str
    made: MadeTorrent


def make(
    folder: Path,
    name: str,
    sizes: Mapping[str, int] | int,
    *,
    version: Version = Version.V1,
    padded: bool = False,
    piece_length: int = 16 * 1024,
    seed: int = 0,
) -> MadeTorrent:
    """Write random files below ``folder`` and describe them; an integer makes one file."""
    files: Sequence[str] | None = None
    if isinstance(sizes, int):
        write_files(folder, {name: sizes}, seed=seed)
    else:
        write_files(folder / name, sizes, seed=seed)
        files = list(sizes)
    return make_torrent(
        folder, name, files, version=version, padded=padded, piece_length=piece_length
    )


def put(
    qbt: Qbt,
    folder: Path,
    name: str,
    sizes: Mapping[str, int] | int,
    *,
    seen_as: Path | None = None,
    version: Version = Version.V1,
    padded: bool = False,
    piece_length: int = 16 * 1024,
    seed: int = 0,
    **options: object,
) -> Put:
    """Make a torrent and give it, complete, to qBittorrent.

    ``seen_as`` is qBittorrent's name for ``folder``.
    """
    made = make(
        folder, name, sizes, version=version, padded=padded, piece_length=piece_length, seed=seed
    )
    return give(qbt, made, seen_as or folder, **options)


def give(qbt: Qbt, made: MadeTorrent, save_path: Path, **options: object) -> Put:
    """Give a torrent to qBittorrent; its files are there, complete."""
    return Put(id=qbt.add(made.data, save_path=save_path, complete=True, **options), made=made)


async def condition(what: Callable[[], object], *, limit_s: float = LIMIT_S) -> None:
    """Look until ``what`` is true, for what gives no event: disks and figures."""
    with trio.fail_after(limit_s):
        while not what():  # noqa: ASYNC110
            await trio.sleep(0.01)


def tags(qbt: Qbt, id_: str) -> set[str]:
    """The tags that qBittorrent shows."""
    return {tag for tag in str(qbt.info(id_)["tags"]).split(", ") if tag}
