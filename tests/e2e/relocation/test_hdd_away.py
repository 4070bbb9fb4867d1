"""The HDD goes away, read-only or full in mid-relocation; the data is whole whatever happens."""

from __future__ import annotations

import pytest
import trio

from qbm_trio.core.model import Outcome
from qbm_trio.core.relocation import Step
from tests.rig.inside import condition
from tests.rig.relocations import FILES_BYTES, OnBoth, World

pytestmark = pytest.mark.qbittorrent


async def relocated(w: World, id_: str) -> None:
    """The torrent is on the HDD, deleted on the SSD, and whole."""
    assert (await w.at_step(id_, Step.DONE)).error is None
    await w.whole(id_, at=w.hdd)
    assert w.on(w.ssd, id_) == set()
    assert w.on(w.hdd, id_) == w.files(id_)


async def test_without_trouble_it_seeds_from_the_hdd_and_the_ssd_is_freed(on_both: OnBoth) -> None:
    async def scenario(w: World) -> None:
        id_ = await w.tiered("Good")
        figures = await w.run()
        assert (figures.relocated, figures.failed_groups, figures.problem) == (1, 0, None)
        assert FILES_BYTES <= figures.freed_bytes <= FILES_BYTES + 10_000
        assert not figures.target_met  # what fills the SSD is nobody's
        await relocated(w, id_)

    await on_both(scenario)


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
async def test_unmounted_just_before_set_location_the_moved_data_comes_back(
    on_both: OnBoth, caplog: pytest.LogCaptureFixture, running: bool
) -> None:
    """After our last look: qBittorrent moves the only data into the empty mount point."""

    async def scenario(w: World) -> None:
        id_ = await w.tiered("Empty mount point")
        if not running:
            w.qbt.api.torrents_stop(torrent_hashes=id_)
            await w.settled(id_, at=w.ssd, running=False)
        w.strikes.before_call("set_location", w.hdd.unmount)
        figures = await w.run()
        await w.strikes.come()
        assert (figures.relocated, figures.failed_groups, figures.freed_bytes) == (0, 1, 0)
        assert "moved the data" in figures.failures[0].error
        assert "moved the data" in (figures.problem or "")
        row = await w.at_step(id_, Step.UNDONE)
        assert "moved the data" in (row.error or "")
        assert [path for path in w.hdd.at.rglob("*") if path.is_file()] == []  # all came back
        w.hdd.mount()
        await w.whole(id_, at=w.ssd, running=running)
        assert w.on(w.ssd, id_) == w.on(w.hdd, id_) == w.files(id_)
        await w.run()
        assert (await w.at_step(id_, Step.DONE)).error is None
        await w.whole(id_, at=w.hdd, running=running)

    await on_both(scenario)
    assert "moved the data" in caplog.text


async def test_unmounted_from_over_an_old_file_of_the_torrent_no_file_is_left_there(
    on_both: OnBoth,
) -> None:
    """QBittorrent takes the old one for its own, and moves the other one to it."""

    async def scenario(w: World) -> None:
        id_ = await w.tiered("Below")
        w.hdd.unmount()
        below = w.hdd.at / "tv/Below/a"
        below.parent.mkdir(parents=True)
        below.write_bytes((w.ssd.at / "tv/Below/a").read_bytes())
        w.hdd.mount()
        await condition(lambda: w.service.service.observer.health().status == "healthy")
        w.strikes.before_call("set_location", w.hdd.unmount)
        figures = await w.run()
        await w.strikes.come()
        assert (figures.relocated, figures.failed_groups, figures.freed_bytes) == (0, 1, 0)
        assert "moved the data" in figures.failures[0].error
        await w.at_step(id_, Step.UNDONE)
        assert [path for path in w.hdd.at.rglob("*") if path.is_file()] == [below]
        w.hdd.mount()
        await w.whole(id_, at=w.ssd)
        assert w.on(w.ssd, id_) == w.on(w.hdd, id_) == w.files(id_)

    await on_both(scenario)


async def test_unmounted_just_for_set_location_nothing_is_lost(on_both: OnBoth) -> None:
    """The moved data is hidden below the mount, and the copy is all that is left to see."""

    async def scenario(w: World) -> None:
        id_ = await w.tiered("Hidden")

        async def mount_when_moved() -> None:
            await condition(lambda: w.on(w.ssd, id_) == set() and w.on(w.hdd, id_) == w.files(id_))
            w.hdd.mount()

        w.strikes.before_call("set_location", w.hdd.unmount)
        w.strikes.after_call("set_location", mount_when_moved)
        figures = await w.run()
        await w.strikes.come()
        assert (figures.relocated, figures.failed_groups) == (0, 1)
        await w.at_step(id_, Step.UNDONE)
        await w.whole(id_, at=w.ssd)
        assert w.on(w.ssd, id_) == w.files(id_)
        await w.run()  # finds the copy gone: qBittorrent has brought it back to the SSD
        await w.at_step(id_, Step.UNDONE)
        assert (await w.newest_job(id_)).outcome is Outcome.TIERED
        await w.run()
        await relocated(w, id_)

    await on_both(scenario)


async def test_unmounted_before_the_recheck_it_goes_back(on_both: OnBoth) -> None:
    async def scenario(w: World) -> None:
        id_ = await w.tiered("Before recheck")
        w.strikes.before_call("recheck", w.hdd.unmount)
        figures = await w.run()
        await w.strikes.come()
        assert (figures.relocated, figures.failed_groups, figures.freed_bytes) == (0, 1, 0)
        await w.at_step(id_, Step.UNDONE)
        assert list(w.hdd.at.iterdir()) == []
        await w.settled(id_, at=w.ssd)
        assert w.on(w.ssd, id_) == w.files(id_)
        w.hdd.mount()
        await w.whole(id_, at=w.ssd)
        # For all that qBittorrent said, the copy may be bad: it is compared.
        assert (await w.newest_job(id_)).outcome is Outcome.TIERED
        await w.run()
        await relocated(w, id_)

    await on_both(scenario)


async def test_unmounted_during_the_grace_period_it_goes_back(on_both: OnBoth) -> None:
    async def scenario(w: World) -> None:
        id_ = await w.tiered("Grace")
        w.strikes.before(Step.WAITING, w.hdd.unmount)
        figures = await w.run()
        await w.strikes.come()
        assert (figures.relocated, figures.failed_groups, figures.freed_bytes) == (0, 1, 0)
        assert "not mounted" in figures.failures[0].error
        row = await w.at_step(id_, Step.UNDONE)
        assert list(w.hdd.at.iterdir()) == []
        await w.settled(id_, at=w.ssd)
        w.hdd.mount()
        await w.whole(id_, at=w.ssd)
        assert w.on(w.ssd, id_) == w.on(w.hdd, id_) == w.files(id_)
        assert "recheck on the SSD failed" not in (row.error or "")  # for it did not
        await w.run()
        await relocated(w, id_)

    await on_both(scenario)


@pytest.mark.parametrize("restarted", [False, True], ids=["", "qBittorrent restarted"])
async def test_unmounted_before_the_deletion_nothing_is_deleted_until_it_is_back(
    on_both: OnBoth, caplog: pytest.LogCaptureFixture, restarted: bool
) -> None:
    async def scenario(w: World) -> None:
        id_ = await w.tiered("Late")
        w.strikes.after_looks(Step.DELETING, w.hdd.unmount)
        figures = await w.run()  # it is not held up
        await w.strikes.come()
        assert figures.freed_bytes == 0
        if restarted:
            await trio.to_thread.run_sync(w.kill_and_start)
            broken = ("missingFiles", "error", "stalledDL")
            await condition(lambda: w.qbt.info(id_)["state"] in broken)
        (open_one,) = w.service.service.space.overview().relocations
        assert open_one.step in (Step.DELETING, Step.REPAIRING)
        assert w.on(w.ssd, id_) == w.files(id_)
        w.hdd.mount()
        await relocated(w, id_)

    await on_both(scenario)
    assert "not mounted" in caplog.text


@pytest.mark.parametrize("step", [Step.REPOINTING, Step.WAITING])
async def test_read_only_nothing_is_deleted_until_it_can_be_written_again(
    on_both: OnBoth, step: Step
) -> None:
    """That both tiers are two places can only be proven by writing."""

    async def scenario(w: World) -> None:
        id_ = await w.tiered("Read-only")
        w.strikes.before(step, lambda: w.hdd.remount(read_only=True))
        figures = await w.run()
        await w.strikes.come()
        assert (figures.relocated, figures.freed_bytes) == (0, 0)
        assert w.on(w.ssd, id_) == w.on(w.hdd, id_) == w.files(id_)
        health = w.service.service.observer.health
        await condition(lambda: health().problems == ("the HDD's disk is read-only",))
        w.hdd.remount(read_only=False)
        await relocated(w, id_)

    await on_both(scenario)


async def test_a_full_hdd_takes_what_is_there_and_the_rest_waits_on_the_ssd(
    on_both: OnBoth,
) -> None:
    async def scenario(w: World) -> None:
        there = await w.tiered("There")
        missing = await w.shelve("Missing", 300_000)
        filler = w.hdd.fill(leave_bytes=0)
        figures = await w.run()
        assert (figures.relocated, figures.tiered_first, figures.failed_groups) == (1, 1, 0)
        await relocated(w, there)
        (job,) = w.service.service.jobs.live.waiting()
        assert "no room" in (job.error or "")
        await w.whole(missing, at=w.ssd)
        filler.unlink()
        await condition(lambda: job.id in w.service.service.waits._deadlines)
        w.service.wake_all()
        assert (await w.newest_job(missing)).outcome is Outcome.TIERED
        await w.run()
        await relocated(w, missing)

    await on_both(scenario)
