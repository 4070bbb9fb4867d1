"""A job whose copy was interrupted: it goes on, or begins anew, and never guesses."""

from __future__ import annotations

import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from qbm_trio.adapters import copy_stream, copying, journal_checkpoints, journal_facts
from qbm_trio.adapters.copying import copy_and_verify
from qbm_trio.adapters.journal_checkpoints import Checkpoint
from qbm_trio.core.errors import DiskError, JournalUnwritable, MustWait
from qbm_trio.core.model import Job, JobId, JobState, Outcome, TorrentId, WaitReason
from qbm_trio.core.resuming import Pace
from qbm_trio.tasks.staging import Staging
from qbm_trio.tasks.tiers import Tiers
from tests.fakes.qbittorrent import FakeQbittorrent
from tests.rig.inside import Inside, condition, inside, make
from tests.rig.torrents import make_torrent, write_files

PIECE = 16 * 1024
FILES = {"a": 200_000, "b": 20_000, "c": 300_000}
TOTAL = sum(FILES.values())


@dataclass
class Tries:
    """Each try's copy; the first one is ended at a checkpoint."""

    resumed_at: list[int] = field(default_factory=list)
    begun_with: list[int] = field(default_factory=list)  #: bytes that count as done
    end: Callable[[], None] | None = None  #: called in a thread at the first that is so far
    end_at: int = 14 * PIECE  #: within the last file
    begin: Callable[[], Awaitable[None]] | None = None  #: called before each is begun

    async def copy(self, *arguments: Any, record: Callable[[int], None], **more: Any) -> Any:
        self.resumed_at.append(more["resume_at"])
        self.begun_with.append(more["progress"].bytes_done)
        if self.begin is not None:
            await self.begin()

        def noted(position: int) -> None:
            record(position)
            end, first = self.end, len(self.resumed_at) == 1
            if first and end is not None and position >= self.end_at:
                self.end = None
                end()

        return await copy_and_verify(*arguments, record=noted, **more)


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> Tries:
    tries = Tries()
    monkeypatch.setattr("qbm_trio.tasks.tiering.copy_and_verify", tries.copy)
    monkeypatch.setattr(copy_stream, "BUFFER_BYTES", PIECE)
    found = Pace(interval_bytes=PIECE, lead_bytes=6 * PIECE)
    monkeypatch.setattr(copying, "pace", lambda *_, **__: found)
    return tries


def away() -> None:
    raise MustWait("the disk is away", reason=WaitReason.TIER)


def full() -> None:
    raise MustWait("the disk is full", reason=WaitReason.SPACE)


def broken() -> None:
    raise DiskError("an I/O error")


def add(fake: FakeQbittorrent, service: Inside, name: str = "T") -> TorrentId:
    return fake.add(make(service.ssd, name, FILES).data, save_path=str(service.ssd))


async def checkpoint(service: Inside, job_id: JobId) -> Checkpoint | None:
    return await service.journal.do(partial(journal_checkpoints.find, job_id=job_id))


async def interrupted(service: Inside, id_: TorrentId, tries: Tries) -> tuple[Job, Checkpoint]:
    """A job that waits for its disk in mid-copy."""
    tries.end = away
    job = await service.waits(await service.notify(id_))
    assert job.wait_reason is WaitReason.TIER
    found = await checkpoint(service, job.id)
    assert found is not None
    assert tries.end_at <= found.position < TOTAL
    return job, found


async def go_on(service: Inside, job: Job) -> Job:
    """Have a waiting job looked at, and done."""
    await service.until(job.id, lambda _: job.id in service.service.waits._deadlines)
    service.wake_all()
    return await service.ended(job.id)


async def assert_done(service: Inside, job: Job) -> None:
    assert job.outcome is Outcome.TIERED, job.error
    assert service.contents() == {f"T/{f}": (service.ssd / "T" / f).read_bytes() for f in FILES}
    assert service.staging() == []
    assert await checkpoint(service, job.id) is None


async def test_what_was_copied_before_a_disk_went_away_is_not_copied_again(
    tmp_path: Path, tries: Tries, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    needs: list[int] = []
    real = Tiers.require_room

    def require_room(self: Tiers, need: int, **more: Any) -> None:
        needs.append(need)
        real(self, need, **more)

    monkeypatch.setattr(Tiers, "require_room", require_room)
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        job, found = await interrupted(service, add(fake, service), tries)
        await assert_done(service, await go_on(service, job))
        assert tries.resumed_at == [0, found.position]
        assert tries.begun_with == [0, found.position]
        assert needs == [TOTAL, TOTAL, TOTAL - found.position, TOTAL - found.position]
        assert f"going on at {found.position} of {TOTAL} bytes" in caplog.text
        # Each byte of the copy counts once, whoever wrote it.
        counters = await service.journal.do(journal_facts.counters)
        assert (counters["bytes_copied"], counters["bytes_verified"]) == (TOTAL, TOTAL)
        assert (await service.service.jobs.get(job.id)).bytes_copied == TOTAL


async def test_a_copy_that_the_drain_stopped_goes_on_after_the_next_start(
    tmp_path: Path, tries: Tries
) -> None:
    fake = FakeQbittorrent()
    reached = trio.Event()
    async with inside(tmp_path, client=fake, COPY_RATE_LIMIT_MB_S="1") as service:
        token = trio.lowlevel.current_trio_token()
        tries.end_at = 3 * PIECE
        tries.end = lambda: token.run_sync_soon(reached.set)
        job_id = await service.notify(add(fake, service))
        with trio.fail_after(20):
            await reached.wait()
    async with inside(tmp_path, client=fake) as service:
        await assert_done(service, await service.ended(job_id))
    assert tries.resumed_at[1] >= 3 * PIECE
    assert tries.begun_with[1] == tries.resumed_at[1]


def staged(service: Inside) -> Iterator[Path]:
    return (p for p in sorted(service.hdd.rglob(".qbm-staging/*/*/*")) if p.name.isdigit())


def change_source(service: Inside) -> None:
    os.utime(service.ssd / "T/c", ns=(1, 1))


def change_first_source(service: Inside) -> None:
    os.utime(service.ssd / "T/a", ns=(1, 1))


def lose_staging(service: Inside) -> None:
    shutil.rmtree(service.hdd / ".qbm-staging")


def lose_a_file(service: Inside) -> None:
    next(staged(service)).unlink()


def spoil_the_seam(service: Inside) -> None:
    path = list(staged(service))[-1]
    path.write_bytes(bytes(path.stat().st_size))


def adopt(service: Inside) -> None:
    (service.hdd / "T").mkdir()
    shutil.copy2(service.ssd / "T/b", service.hdd / "T/b")


@pytest.mark.parametrize(
    "change",
    [change_source, change_first_source, lose_staging, lose_a_file, spoil_the_seam, adopt],
)
async def test_anything_that_changed_since_makes_the_copy_begin_anew(
    tmp_path: Path,
    tries: Tries,
    caplog: pytest.LogCaptureFixture,
    change: Callable[[Inside], None],
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        job, _ = await interrupted(service, add(fake, service), tries)
        change(service)

        async def begin() -> None:
            # Else a kill now would leave it speaking of what is only about to be written.
            assert await checkpoint(service, job.id) is None

        tries.begin = begin
        await assert_done(service, await go_on(service, job))
        assert tries.resumed_at == [0, 0]
        assert "the copy begins anew: " in caplog.text


async def test_another_verification_makes_the_copy_begin_anew(tmp_path: Path, tries: Tries) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        job, _ = await interrupted(service, add(fake, service), tries)
    async with inside(tmp_path, client=fake, VERIFICATION="readback") as service:
        await assert_done(service, await service.ended(job.id))
        assert tries.resumed_at == [0, 0]


@pytest.mark.parametrize("end", [full, broken])
async def test_what_fails_a_try_drops_its_staging_and_its_checkpoint(
    tmp_path: Path, tries: Tries, end: Callable[[], None]
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        tries.end = end
        job = await service.waits(await service.notify(add(fake, service)))
        assert service.staging() == []
        assert await checkpoint(service, job.id) is None
        await assert_done(service, await go_on(service, job))
        assert tries.resumed_at == [0, 0]


async def test_a_disk_that_is_away_keeps_what_is_staged_there_and_its_checkpoint(
    tmp_path: Path, tries: Tries
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        marker = service.hdd / ".qbm-tier"

        def unmount() -> None:
            marker.rename(tmp_path / "kept")
            raise DiskError("an I/O error")  # what the copy happens to meet

        tries.end = unmount
        job = await service.waits(await service.notify(add(fake, service)))
        found = await checkpoint(service, job.id)
        assert found is not None
        (tmp_path / "kept").rename(marker)
        await assert_done(service, await go_on(service, job))
        assert tries.resumed_at == [0, found.position]


async def test_a_journal_that_refuses_after_the_end_of_a_job_keeps_none_of_its_staging(
    tmp_path: Path, tries: Tries, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuses(*_: object) -> None:
        raise JournalUnwritable("the disk is full")

    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        job, _ = await interrupted(service, add(fake, service), tries)
        monkeypatch.setattr(Staging, "_forget", refuses)
        await service.service.jobs.cancel(job.id)
        assert await checkpoint(service, job.id) is None
        await condition(lambda: service.staging() == [])


@pytest.mark.parametrize("by", ["cancel", "clear"])
async def test_a_job_that_ends_in_between_leaves_neither(
    tmp_path: Path, tries: Tries, by: str
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        job, _ = await interrupted(service, add(fake, service), tries)
        jobs = service.service.jobs
        await (jobs.cancel(job.id) if by == "cancel" else jobs.clear())
        assert await checkpoint(service, job.id) is None
        await condition(lambda: service.staging() == [])
        assert (await jobs.get(job.id)).state in (JobState.CANCELLED, JobState.CLEARED)


async def test_what_another_torrent_shares_is_shared_again_and_the_rest_goes_on(
    tmp_path: Path, tries: Tries
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        assert (await service.tier(add(fake, service))).outcome is Outcome.TIERED
        # The same paths, and one file more.
        write_files(service.ssd / "T", {"d": 300_000}, seed=7)
        made = make_torrent(service.ssd, "T", [*FILES, "d"], piece_length=2 * PIECE)
        id_ = fake.add(made.data, save_path=str(service.ssd), category="cross")
        del tries.resumed_at[:], tries.begun_with[:]
        tries.end, tries.end_at = away, TOTAL + 4 * PIECE
        job = await service.waits(await service.notify(id_))
        found = await checkpoint(service, job.id)
        assert found is not None
        job = await go_on(service, job)
        assert (job.outcome, job.bytes_copied) == (Outcome.TIERED, 300_000)
        assert tries.resumed_at == [0, found.position]
        assert tries.begun_with == [0, found.position - TOTAL]
        for file in FILES:
            assert (service.hdd / "cross/T" / file).samefile(service.hdd / "T" / file)
        copy = (service.hdd / "cross/T/d").read_bytes()
        assert copy == (service.ssd / "T/d").read_bytes()


async def test_a_checkpoint_that_comes_late_does_not_speak_for_the_next_try(
    tmp_path: Path, tries: Tries
) -> None:
    """A thread that hung in its sync goes on when the try that began it is long over."""
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        staging = service.service.tiering._staging
        job, found = await interrupted(service, add(fake, service), tries)
        with staging.recording(job.id, "fingerprint") as record:
            pass
        late: list[Checkpoint | None] = []

        async def begin() -> None:
            await trio.to_thread.run_sync(record, 2**40)
            late.append(await checkpoint(service, job.id))

        tries.begin = begin
        await assert_done(service, await go_on(service, job))
        assert late == [found]
