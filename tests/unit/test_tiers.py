"""Tiers: markers, aliases, disks that do not answer, and room that is promised once."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from qbm_trio.adapters import disk, disk_aliases, journal_facts
from qbm_trio.adapters.journal import Journal
from qbm_trio.core.errors import DiskError, FailingDisk, MustWait, SameStorage
from qbm_trio.core.model import JobId, Progress, WaitReason
from qbm_trio.tasks import tiers as tiers_module
from qbm_trio.tasks.tiers import SILENT_S, Tiers
from tests.rig.inside import condition
from tests.rig.journals import running
from tests.rig.mounts import mounted, run


@asynccontextmanager
async def tiers_on(
    tmp_path: Path, *, read_only: bool = False, min_free_bytes: int = 0
) -> AsyncIterator[tuple[Tiers, Journal]]:
    for name in ("ssd", "hdd", "state"):
        (tmp_path / name).mkdir(exist_ok=True)
    async with running(tmp_path / "state") as journal:
        yield (
            Tiers(
                ssd=tmp_path / "ssd",
                hdd=tmp_path / "hdd",
                journal=journal,
                instance_id="abc",
                hdd_min_free_bytes=min_free_bytes,
                read_only=read_only,
            ),
            journal,
        )


async def test_prepared_tiers_are_fit_for_use(tmp_path: Path) -> None:
    async with tiers_on(tmp_path) as (tiers, _):
        await tiers.prepare()
        await tiers.require()
        assert tiers.problems == []
        for figures in tiers.figures:
            assert figures.total_bytes
            assert figures.free_bytes


async def test_unprepared_tiers_are_not(tmp_path: Path) -> None:
    async with tiers_on(tmp_path) as (tiers, _):
        with pytest.raises(MustWait, match="no marker yet"):
            await tiers.require()


async def test_jobs_wait_for_a_disk_that_answers_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does that was pulled out: EIO, not a missing folder. No job fails for that."""
    async with tiers_on(tmp_path) as (tiers, _):
        await tiers.prepare()

        async def refuse(root: Path, *_: object, **__: object) -> None:
            raise DiskError(f"{root}: input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(disk, "check_marker", refuse)
            with pytest.raises(MustWait, match="input/output") as caught:
                await tiers.require()
        assert caught.value.reason is WaitReason.TIER
        assert tiers.problems


async def test_in_a_dry_run_no_marker_is_made(tmp_path: Path) -> None:
    async with tiers_on(tmp_path, read_only=True) as (tiers, _):
        await tiers.prepare()
        assert tiers.problems == []
        assert [list((tmp_path / name).iterdir()) for name in ("ssd", "hdd")] == [[], []]


async def test_an_alias_is_refused_its_marker_is_not_remembered_and_it_can_be_mended(
    tmp_path: Path,
) -> None:
    (tmp_path / "ssd").mkdir()
    (tmp_path / "hdd").symlink_to("ssd")
    async with tiers_on(tmp_path) as (tiers, journal):
        await tiers.prepare()
        with pytest.raises(SameStorage, match="same marker") as first:
            await tiers.require()
        assert first.value.reason is WaitReason.TIER
        assert tiers.problems == ["both tiers show the same files"]
        assert await journal.do(partial(journal_facts.meta, name="tier.hdd")) is None

        # The right disk is mounted at last.
        (tmp_path / "hdd").unlink()
        (tmp_path / "hdd").mkdir()
        await tiers.prepare()
        await tiers.require()
        assert tiers.problems == []
        assert tiers.ssd.marker != tiers.hdd.marker


async def test_an_alias_with_markers_of_its_own_is_found_by_a_probe_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool can show other markers and inodes than its members do."""
    async with tiers_on(tmp_path) as (tiers, _):

        async def aliased(*_: object, **__: object) -> None:
            raise SameStorage("two views", reason=WaitReason.TIER)

        with monkeypatch.context() as patched:
            patched.setattr(disk_aliases, "check_not_aliased", aliased)
            await tiers.prepare()
            with pytest.raises(SameStorage):
                await tiers.require()
            await tiers.hdd.probe()  # a good probe alone is no proof
            with pytest.raises(SameStorage):
                await tiers.require()
        await tiers.prepare()
        await tiers.require()


async def test_a_trouble_is_logged_once_and_said_to_be_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with tiers_on(tmp_path) as (tiers, _):
        await tiers.prepare()
        (tmp_path / "hdd").rename(tmp_path / "away")
        for _ in range(3):
            await tiers.hdd.probe()
        with pytest.raises(MustWait):
            await tiers.require()
        assert caplog.text.count("is not there; mount its disk") == 1
        assert tiers.problems == ["the HDD is not usable: its disk is missing, full or failing"]
        (tmp_path / "away").rename(tmp_path / "hdd")
        await tiers.hdd.probe()
        assert "HDD tier: usable again" in caplog.text
        assert tiers.problems == []


async def test_a_disk_that_is_remounted_read_only_is_called_so_without_a_write(
    tmp_path: Path,
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    with mounted(tmp_path / "ssd") as ssd, mounted(tmp_path / "hdd") as hdd:
        async with tiers_on(tmp_path) as (tiers, _):
            await tiers.prepare()
            for tier, root in ((tiers.ssd, ssd), (tiers.hdd, hdd)):
                run("mount", "-o", "remount,ro", str(root))
                await tier.probe()
                assert tiers.problems == [f"the {tier.name}'s disk is read-only"]
                assert "mount it writable again" in (tier.figures.problem or "")
                assert tier.figures.free_bytes
                run("mount", "-o", "remount,rw", str(root))
                before = root.stat().st_mtime_ns
                await tier.probe()
                assert tiers.problems == []
                assert root.stat().st_mtime_ns == before


async def test_a_job_that_finds_the_disk_missing_makes_it_known(tmp_path: Path) -> None:
    async with tiers_on(tmp_path) as (tiers, _):
        await tiers.prepare()
        (tmp_path / "hdd" / disk.MARKER_NAME).unlink()
        with pytest.raises(MustWait, match="not mounted"):
            await tiers.require()
        assert tiers.problems != []


async def test_a_disk_that_does_not_answer_is_called_so_and_blocks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tiers_on(tmp_path) as (tiers, _):
        await tiers.prepare()
        asked = trio.Event()

        async def hangs(*_: object, **__: object) -> None:
            asked.set()
            await trio.sleep_forever()

        monkeypatch.setattr(disk, "check_marker", hangs)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tiers.hdd.probe)
            await asked.wait()
            assert tiers.problems == []
            now = trio.current_time()
            monkeypatch.setattr(trio, "current_time", lambda: now + SILENT_S + 1)
            assert tiers.problems == ["the HDD's disk does not answer"]
            assert tiers.figures[1].free_bytes is not None  # the last known
            nursery.cancel_scope.cancel()


async def test_a_disk_that_hangs_does_not_keep_the_other_from_being_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tiers_on(tmp_path) as (tiers, _):
        (tmp_path / "hdd").rmdir()
        await tiers.prepare()
        assert tiers.hdd.marker is None
        (tmp_path / "hdd").mkdir()
        check_marker = disk.check_marker

        async def ssd_hangs(root: Path, expected: str, *, limiter: trio.CapacityLimiter) -> None:
            if root == tiers.ssd.root:
                await trio.sleep_forever()
            await check_marker(root, expected, limiter=limiter)

        monkeypatch.setattr(disk, "check_marker", ssd_hangs)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tiers.run)
            with trio.fail_after(10):
                while tiers.hdd.space is None:
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert tiers.hdd.marker is not None


async def test_who_asks_a_disk_that_does_not_answer_waits_until_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tiers_on(tmp_path) as (tiers, _):
        await tiers.prepare()
        answers, asked = trio.Event(), trio.Event()
        disk_space = disk.disk_space

        async def hangs(root: Path, *, limiter: trio.CapacityLimiter) -> disk.DiskSpace:
            if root == tiers.hdd.root:
                asked.set()
                await answers.wait()
            return await disk_space(root, limiter=limiter)

        monkeypatch.setattr(disk, "disk_space", hangs)
        monkeypatch.setattr(tiers_module, "SILENT_S", 0.2)
        usable = tiers.usable
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tiers.run)
            await asked.wait()
            await condition(lambda: tiers.hdd.silent)
            with pytest.raises(MustWait, match="does not answer") as caught:
                await tiers.hdd.check()
            assert caught.value.reason is WaitReason.TIER
            assert not usable.is_set()
            answers.set()
            with trio.fail_after(10):
                await usable.wait()
            await tiers.hdd.check()
            nursery.cancel_scope.cancel()


async def test_a_disk_is_written_to_only_while_it_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What hangs or fails may still read and tell figures from the cache; else it may sleep."""
    monkeypatch.setattr(tiers_module, "PROBE_INTERVAL_S", 0.01)
    async with tiers_on(tmp_path) as (tiers, _):
        await tiers.prepare()
        written: list[Path] = []
        probed = 0
        check_writes, check_takes_writes = disk.check_writes, disk.check_takes_writes

        async def note(root: Path, *, limiter: trio.CapacityLimiter) -> None:
            await check_writes(root, limiter=limiter)
            written.append(root)

        async def count(root: Path, *, limiter: trio.CapacityLimiter) -> None:
            nonlocal probed
            probed += 1
            await check_takes_writes(root, limiter=limiter)

        monkeypatch.setattr(disk, "check_writes", note)
        monkeypatch.setattr(disk, "check_takes_writes", count)
        marker = tiers.hdd.root / disk.MARKER_NAME
        os.utime(marker, (0, 0))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tiers.run)
            await condition(lambda: probed >= 10)
            assert written == []
            progress = Progress(bytes_total=1)
            device = tiers.hdd.root.stat().st_dev
            with tiers.room(JobId("1"), device=device, free_bytes=9, progress=progress):
                await condition(lambda: written)
            assert set(written) == {tiers.hdd.root}
            assert marker.stat().st_mtime > 0
            written.clear()
            async with tiers.ssd.limiter:  # a call to the SSD is under way
                await condition(lambda: tiers.ssd.root in written)
            nursery.cancel_scope.cancel()


async def test_an_io_error_of_a_job_is_a_trouble_until_the_disk_takes_a_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiers_module, "PROBE_INTERVAL_S", 0.01)
    async with tiers_on(tmp_path) as (tiers, _):
        await tiers.prepare()
        check_writes, failing, refused = disk.check_writes, True, 0

        async def fails(root: Path, *, limiter: trio.CapacityLimiter) -> None:
            nonlocal refused
            if failing:
                refused += 1
                raise FailingDisk(f"cannot write {root}")
            await check_writes(root, limiter=limiter)

        usable = tiers.usable
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tiers.run)
            # The disk took the probe's write: the job that came first is not called back.
            tiers.hdd.failed_a_job(FailingDisk("cannot write x"))
            assert tiers.problems != []
            await condition(lambda: not tiers.problems)
            assert not usable.is_set()
            # It refused that, too: whoever waits is told when it does not.
            monkeypatch.setattr(disk, "check_writes", fails)
            tiers.hdd.failed_a_job(FailingDisk("cannot write x"))
            await condition(lambda: refused >= 3)
            assert tiers.problems != []
            failing = False
            with trio.fail_after(10):
                await usable.wait()
            assert tiers.problems == []
            nursery.cancel_scope.cancel()


# -- room --------------------------------------------------------------------------


async def test_room_is_what_is_free_less_promises_and_what_must_stay_free(
    tmp_path: Path,
) -> None:
    async with tiers_on(tmp_path, min_free_bytes=10) as (tiers, _):

        def room(name: str, need: int, device: int = 1, done: int = 0) -> ExitStack:
            with ExitStack() as stack:
                progress = Progress(bytes_total=need, bytes_done=done)
                stack.enter_context(
                    tiers.room(JobId(name), device=device, free_bytes=100, progress=progress)
                )
                return stack.pop_all()
            raise AssertionError

        with pytest.raises(MustWait) as refused:
            room("a", 91)
        assert refused.value.reason is WaitReason.SPACE
        with room("a", 90):
            with pytest.raises(MustWait):
                room("b", 1)
            with room("b", 90, device=2):  # another disk of the pool
                pass
        with room("a", 50, done=20), room("b", 60):  # 30 are still to come
            with pytest.raises(MustWait):
                room("c", 1)
            room("empty", 0).close()
        room("c", 90).close()  # promises end with their jobs

        # Nothing always has room: a job whose files are all there must end.
        with tiers.room(JobId("d"), device=1, free_bytes=5, progress=Progress()):
            pass
