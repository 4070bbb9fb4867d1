"""Torrents that share files: relocated together or not at all, stored once, never robbed."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import pytest
import trio

from qbm_trio.core.model import JobState, Outcome
from qbm_trio.core.relocation import Step
from tests.rig.inside import Put, condition, give
from tests.rig.library import snapshot
from tests.rig.relocations import FILES, FILES_BYTES, OnBoth, World, corrupt
from tests.rig.torrents import make_torrent

pytestmark = pytest.mark.qbittorrent


async def cross_seed(
    w: World, name: str, *files: str, disk: Path | None = None, folder: str = "tv"
) -> str:
    """Another torrent of files that are there already, for all or some of them."""
    there = (disk or w.ssd.at) / folder
    made = make_torrent(there, name, list(files or FILES), piece_length=32 * 1024)
    put: Put = await trio.to_thread.run_sync(partial(give, w.qbt, made, there, category=folder))
    return await w.know(put, there)


async def test_cross_seeds_of_the_same_files_go_together(on_both: OnBoth) -> None:
    async def scenario(w: World) -> None:
        one = await w.tiered("Twins")
        other = await cross_seed(w, "Twins")
        await w.tier(other)
        figures = await w.run()
        assert (figures.relocated, figures.failed_groups) == (2, 0)
        assert FILES_BYTES <= figures.freed_bytes <= FILES_BYTES + 10_000
        for id_ in (one, other):
            assert (await w.at_step(id_, Step.DONE)).error is None
            await w.whole(id_, at=w.hdd)
            assert w.on(w.ssd, id_) == set()

    await on_both(scenario)


async def test_cross_seeds_of_a_corrupt_copy_come_back_together(on_both: OnBoth) -> None:
    async def scenario(w: World) -> None:
        one = await w.tiered("Twins")
        other = await cross_seed(w, "Twins")
        await w.tier(other)
        corrupt(w.hdd.at / "tv/Twins/sub/b")
        figures = await w.run()
        assert (figures.relocated, figures.failed_groups, figures.freed_bytes) == (0, 1, 0)
        for id_ in (one, other):
            await w.at_step(id_, Step.UNDONE)
            await w.whole(id_, at=w.ssd)
            assert w.on(w.ssd, id_) == w.files(id_)

    await on_both(scenario)


async def test_a_cross_seed_without_a_copy_keeps_the_other_on_the_ssd(on_both: OnBoth) -> None:
    async def scenario(w: World) -> None:
        one = await w.tiered("Late twin")
        other = await cross_seed(w, "Late twin")
        figures = await w.run()
        assert (figures.relocated, figures.failed_groups, figures.tiered_first) == (0, 0, 1)
        assert figures.spared["shared"].torrents == 1
        for id_ in (one, other):
            await w.whole(id_, at=w.ssd)
        assert (await w.newest_job(other)).outcome is Outcome.TIERED
        assert (await w.run()).relocated == 2
        for id_ in (one, other):
            await w.whole(id_, at=w.hdd)

    await on_both(scenario)


async def test_an_unwanted_file_that_another_one_wants_is_taken_from_nobody(
    on_both: OnBoth,
) -> None:
    """``setLocation`` would move it away from under the other one."""

    async def scenario(w: World) -> None:
        one = await w.tiered("Extra", {"a": 40_000, "b": 50_000})
        other = await cross_seed(w, "Extra", "b")
        w.qbt.api.torrents_file_priority(one, file_ids=[1], priority=0)
        await condition(lambda: w.qbt.api.torrents_files(one)[1]["priority"] == 0)
        await w.tier(other)
        figures = await w.run()
        assert figures.relocated == 2, figures
        for id_ in (one, other):
            await w.whole(id_, at=w.hdd)
            assert w.on(w.ssd, id_) == set()

    await on_both(scenario)


async def test_an_unwanted_file_that_only_another_category_has_stays(on_both: OnBoth) -> None:
    """The one that does not want it has no copy of it: nothing goes, nothing is moved."""

    async def scenario(w: World) -> None:
        one = await w.shelve("Extra", {"a": 40_000, "b": 50_000})
        other = await cross_seed(w, "Extra", "b")
        w.qbt.api.torrents_file_priority(one, file_ids=[1], priority=0)
        await condition(lambda: w.qbt.api.torrents_files(one)[1]["priority"] == 0)
        w.qbt.api.torrents_create_category("films")
        w.qbt.api.torrents_set_category("films", torrent_hashes=other)
        await condition(lambda: w.qbt.info(other)["category"] == "films")
        for id_ in (one, other):
            await w.tier(id_)
        before = snapshot(w.ssd.at)
        figures = await w.run()
        assert (figures.relocated, figures.freed_bytes) == (0, 0)
        assert figures.spared["unwanted_file"].torrents == 1
        assert figures.spared["shared"].torrents == 1
        for id_ in (one, other):
            await w.whole(id_, at=w.ssd)
        assert snapshot(w.ssd.at) == before

    await on_both(scenario)


async def seeding_from_the_hdd(w: World, name: str) -> tuple[str, str]:
    """A torrent whose copy is what another one seeds from the HDD already."""
    one = await w.shelve(name)
    for file in FILES:
        (w.hdd.at / "tv" / name / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(w.ssd.at / "tv" / name / file, w.hdd.at / "tv" / name / file)
    there = await cross_seed(w, name, disk=w.hdd.at)
    await w.tier(one)
    return one, there


async def test_files_that_another_one_seeds_from_the_hdd_are_shared_with_it(
    on_both: OnBoth,
) -> None:
    async def scenario(w: World) -> None:
        one, there = await seeding_from_the_hdd(w, "Adopted")
        before = snapshot(w.hdd.at)
        figures = await w.run()
        assert (figures.relocated, figures.failed_groups) == (1, 0)
        for id_ in (one, there):
            await w.whole(id_, at=w.hdd)
        assert w.on(w.ssd, one) == set()
        assert snapshot(w.hdd.at) == before

    await on_both(scenario)


async def test_files_that_another_one_has_spoilt_on_the_hdd_are_noticed_before_the_move(
    on_both: OnBoth,
) -> None:
    async def scenario(w: World) -> None:
        one, there = await seeding_from_the_hdd(w, "Spoilt")
        corrupt(w.hdd.at / "tv/Spoilt/a")
        before = snapshot(w.hdd.at)
        figures = await w.run()
        assert (figures.relocated, figures.failed_groups, figures.freed_bytes) == (0, 1, 0)
        assert "not whole" in figures.failures[0].error
        await w.at_step(one, Step.UNDONE)
        await w.whole(one, at=w.ssd)
        # Theirs, not ours to mend or to move: their owner is told, and so is our user.
        await condition(lambda: w.qbt.info(there)["progress"] < 1)  # it is rechecked
        job = await w.newest_job(one)
        assert (job.state, job.error_code) == (JobState.FAILED, "destination_conflict")
        assert snapshot(w.hdd.at) == before

    await on_both(scenario)


async def hardlinked(w: World, name: str) -> tuple[str, str]:
    """Two cross-seeds, tiered, whose files on the SSD are links to each other, in ``cross``."""
    one = await w.tiered(name)
    for file in FILES:
        link = w.ssd.at / "cross" / name / file
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(w.ssd.at / "tv" / name / file, link)
    other = await cross_seed(w, name, folder="cross")
    await w.tier(other)
    return one, other


async def test_cross_seeds_that_are_hardlinked_on_the_ssd_are_hardlinked_on_the_hdd(
    on_both: OnBoth,
) -> None:
    async def scenario(w: World) -> None:
        one, other = await hardlinked(w, "Linked")
        for file in FILES:
            assert (w.hdd.at / "tv/Linked" / file).samefile(w.hdd.at / "cross/Linked" / file)
        figures = await w.run()
        assert (figures.relocated, figures.failed_groups) == (2, 0)
        assert FILES_BYTES <= figures.freed_bytes <= FILES_BYTES + 10_000
        for id_, folder in ((one, "tv"), (other, "cross")):
            await w.whole(id_, at=w.hdd)
            assert w.on(w.ssd, id_, folder=folder) == set()
        for file in FILES:
            assert (w.hdd.at / "tv/Linked" / file).samefile(w.hdd.at / "cross/Linked" / file)

    await on_both(scenario)


@pytest.mark.parametrize("step", [Step.RETURNING, Step.RECHECKING])
async def test_one_that_is_removed_with_its_files_on_the_way_back_leaves_the_other_whole(
    on_both: OnBoth, step: Step
) -> None:
    """Where qBittorrent has marked the good file as unfinished, too."""

    async def scenario(w: World) -> None:
        w.qbt.api.app_set_preferences({"incomplete_files_ext": True})
        one, other = await hardlinked(w, "Left")
        corrupt(w.hdd.at / "tv/Left/a")

        def remove() -> None:
            w.qbt.api.torrents_delete(delete_files=True, torrent_hashes=other)

        w.strikes.before(step, remove)
        await w.run()
        await w.strikes.come()
        await w.at_step(one, Step.UNDONE)
        await w.whole(one, at=w.ssd)

    await on_both(scenario)


async def test_a_library_that_is_hardlinked_keeps_its_torrent_with_the_reason(
    on_both: OnBoth,
) -> None:
    async def scenario(w: World) -> None:
        id_ = await w.tiered("In the library")
        for n, file in enumerate(FILES):
            link = w.ssd.at / "library" / str(n)
            link.parent.mkdir(exist_ok=True)
            os.link(w.ssd.at / "tv/In the library" / file, link)
        before = snapshot(w.ssd.at)
        figures = await w.run()
        assert (figures.relocated, figures.failed_groups, figures.freed_bytes) == (0, 0, 0)
        spared = figures.spared["frees_nothing"]
        assert spared.torrents == 1
        assert spared.bytes >= FILES_BYTES
        assert not figures.target_met
        await w.whole(id_, at=w.ssd)
        assert snapshot(w.ssd.at) == before
        assert w.qbt.info(id_)["tags"] == "hdd, ssd"

    await on_both(scenario)
