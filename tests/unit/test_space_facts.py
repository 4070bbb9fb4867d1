"""What the journal, the disk and PATH_MAPPINGS say of each torrent in a survey."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from qbm_trio.adapters import journal_jobs, journal_relocations
from qbm_trio.core.lifecycle import Event as JobEvent
from qbm_trio.core.model import JobState, TorrentId
from qbm_trio.core.relocation import Event, RunId, Step
from qbm_trio.core.space import Spared
from tests.rig.records import RELOCATION
from tests.rig.surveys import BLOCK, Library, library

HOUR_S = 3600.0
V1, V2 = "1" * 40, "2" * 64


async def verdict(shelf: Library, torrent_id: TorrentId, **options: float | bool) -> str:
    """What a plan that needs all there is makes of a torrent."""
    plan = await shelf.plan(10**12, **options)  # type: ignore[arg-type]
    return shelf.verdicts(plan)[shelf.names[torrent_id]]


# -- jobs -------------------------------------------------------------------------


def hybrid(shelf: Library) -> TorrentId:
    id_ = shelf.add("hybrid")
    shelf.fake.change(id_, infohash_v1=V1, infohash_v2=V2)
    return id_


@pytest.mark.parametrize("by", ["id", "v1", "v2"])
@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED, JobState.CLEARED])
async def test_a_last_job_that_ended_badly_is_known_by_each_hash_of_its_torrent(
    tmp_path: Path, by: str, state: JobState
) -> None:
    async with library(tmp_path) as shelf:
        id_ = hybrid(shelf)
        assert await verdict(shelf, id_) == "tier_first"
        await shelf.job({"id": id_, "v1": V1, "v2": V2}[by], state)
        assert await verdict(shelf, id_) == "last_job_ended_badly"


@pytest.mark.parametrize("by", ["id", "v1", "v2"])
@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING])
async def test_a_job_alive_is_known_by_each_hash_of_its_torrent(
    tmp_path: Path, by: str, state: JobState
) -> None:
    async with library(tmp_path) as shelf:
        id_ = hybrid(shelf)
        await shelf.job(id_, JobState.FAILED)
        await shelf.job({"id": id_, "v1": V1, "v2": V2}[by], state)
        assert await verdict(shelf, id_) == "tiering"


@pytest.mark.parametrize("hashes", [("v1", "v2"), ("v2", "v1"), ("id", "v1"), ("v1", "id")])
async def test_of_jobs_by_several_hashes_the_newest_counts(
    tmp_path: Path, hashes: tuple[str, str]
) -> None:
    async with library(tmp_path) as shelf:
        id_ = hybrid(shelf)
        first, second = ({"id": id_, "v1": V1, "v2": V2}[by] for by in hashes)
        await shelf.job(first, JobState.DONE)
        await shelf.job(second, JobState.CLEARED)
        assert await verdict(shelf, id_) == "last_job_ended_badly"
        await shelf.job(first, JobState.DONE)
        assert await verdict(shelf, id_) == "tier_first"


async def test_a_job_that_was_merged_says_nothing_the_one_it_went_into_does(
    tmp_path: Path,
) -> None:
    async with library(tmp_path) as shelf:
        id_ = hybrid(shelf)
        kept = await shelf.job(id_, JobState.RUNNING, torrent_id=id_)
        merged = await shelf.job(V1, JobState.RUNNING, torrent_id=id_)
        move = partial(journal_jobs.move, now=1.0)
        await shelf.journal.do(partial(move, job_id=merged, event=JobEvent.MERGE))
        await shelf.journal.do(partial(move, job_id=kept, event=JobEvent.FAIL))
        assert await verdict(shelf, id_) == "last_job_ended_badly"


# -- relocations ------------------------------------------------------------------


async def relocated_in_vain(
    shelf: Library, id_: TorrentId, *, at: float, by_a_fault: bool = True
) -> None:
    """Have a relocation that went back: for a fault, or because the service stopped."""
    row = replace(RELOCATION, group=id_, torrent_id=id_)
    (row,) = await shelf.journal.do(partial(journal_relocations.begin, group=[row], now=at))
    first = Event.FAIL if by_a_fault else Event.INTERRUPT
    for step, event in ((Step.PREPARING, first), (Step.UNDOING, Event.ADVANCE)):
        await shelf.journal.do(
            partial(
                journal_relocations.step,
                ids=[row.id],
                event=event,
                expected=step,
                now=at,
                error="too hot",
            )
        )


async def test_a_relocation_that_failed_spares_its_torrent_for_an_hour(tmp_path: Path) -> None:
    async with library(tmp_path) as shelf:
        id_ = shelf.add("t")
        await shelf.copied(id_)
        await relocated_in_vain(shelf, id_, at=1000.0)
        spared = partial(verdict, shelf, id_)
        assert await spared(now=1000.0) == "relocation_failed"
        assert await spared(now=1000.0 + HOUR_S - 1) == "relocation_failed"
        assert await spared(now=1000.0 + HOUR_S) == "relocate"
        assert await spared(now=1000.0, forgive=True) == "relocate", "by hand"
        assert await spared(now=999.0) == "relocate", "a clock that was set back spares nobody"
        assert "too hot" in shelf.sentence(await shelf.plan(1, now=1000.0), id_)
        by_hand = shelf.sentence(await shelf.plan(1, now=1000.0, forgive=True), id_)
        assert "a run that begins by itself would not: its relocation failed" in by_hand


async def test_a_copy_that_was_made_anew_since_is_tried_at_once(tmp_path: Path) -> None:
    async with library(tmp_path) as shelf:
        id_ = shelf.add("t")
        await shelf.copied(id_, at=999.0)
        await relocated_in_vain(shelf, id_, at=1000.0)
        assert await verdict(shelf, id_, now=1001.0) == "relocation_failed"
        await shelf.copied(id_, at=1000.5)
        assert await verdict(shelf, id_, now=1001.0) == "relocate"


async def test_a_copy_that_was_made_anew_in_vain_is_left_alone_for_an_hour(
    tmp_path: Path,
) -> None:
    """Where each copy is spoilt, or qBittorrent looks at another, that would have no end."""
    async with library(tmp_path) as shelf:
        id_ = shelf.add("t")
        for at in (1000.0, 1010.0):
            await shelf.copied(id_, at=at - 1)
            await relocated_in_vain(shelf, id_, at=at)
        await shelf.copied(id_, at=1011.0)
        spared = partial(verdict, shelf, id_)
        assert await spared(now=1012.0) == "relocation_failed"
        assert "PATH_MAPPINGS" in shelf.sentence(await shelf.plan(1, now=1012.0), id_)
        assert await spared(now=1012.0, forgive=True) == "relocate", "by hand"
        assert await spared(now=1010.0 + HOUR_S) == "relocate"
        await relocated_in_vain(shelf, id_, at=1010.0 + HOUR_S)
        await shelf.copied(id_, at=1011.0 + HOUR_S)
        assert await spared(now=1012.0 + HOUR_S) == "relocate", "once an hour"


async def test_a_relocation_that_the_services_stop_turned_back_is_no_failure(
    tmp_path: Path,
) -> None:
    async with library(tmp_path) as shelf:
        id_ = shelf.add("t")
        await shelf.copied(id_)
        await relocated_in_vain(shelf, id_, at=1000.0, by_a_fault=False)
        assert await verdict(shelf, id_, now=1001.0) == "relocate"


async def test_a_torrent_that_is_being_relocated_is_left_to_that(tmp_path: Path) -> None:
    async with library(tmp_path) as shelf:
        id_ = shelf.add("t")
        await shelf.copied(id_)
        await relocated_in_vain(shelf, id_, at=1000.0)
        row = replace(
            (await shelf.journal.do(journal_relocations.newest))[id_], run_id=RunId("next")
        )
        await shelf.journal.do(partial(journal_relocations.begin, group=[row], now=1001.0))
        assert await verdict(shelf, id_, now=1002.0, forgive=True) == "relocating"


# -- files ------------------------------------------------------------------------


async def test_a_file_that_is_wanted_since_the_copy_was_made_is_copied_first(
    tmp_path: Path,
) -> None:
    async with library(tmp_path) as shelf:
        id_ = shelf.add("t", ["T/a", "T/b"])
        await shelf.copied(id_, without=["T/b"])
        assert await verdict(shelf, id_) == "tier_first"


@pytest.mark.parametrize("there", ["T/b", "T/b.!qB", "T/.unwanted/b", "T/.unwanted/b.!qB"])
async def test_an_unwanted_file_on_the_ssd_without_a_copy_keeps_its_torrent_there(
    tmp_path: Path, there: str
) -> None:
    """qBittorrent would move it to the HDD, by whatever name it has (4.5.2, 5.1.0)."""
    async with library(tmp_path) as shelf:
        id_ = shelf.add("t", ["T/a", "T/b"], unwanted=["T/b"])
        await shelf.copied(id_)
        assert await verdict(shelf, id_) == "relocate", "it is not on the SSD"
        path = shelf.ssd / "tv" / there
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * BLOCK)
        plan = await shelf.plan(1)
        assert shelf.verdicts(plan) == {"t": "unwanted_file"}
        assert "'T/b'" in shelf.sentence(plan, id_)


async def test_an_unwanted_file_with_a_copy_is_no_obstacle(tmp_path: Path) -> None:
    """It was wanted when the copy was made, or another torrent's job has copied it."""
    async with library(tmp_path) as shelf:
        other = shelf.add("other", ["T/b", "T/c"])
        id_ = shelf.add("t", ["T/a", "T/b"], unwanted=["T/b"])
        await shelf.copied(id_, other)
        assert await verdict(shelf, id_) == "relocate"


async def test_a_link_in_a_files_place_makes_its_torrent_unusable(tmp_path: Path) -> None:
    async with library(tmp_path) as shelf:
        id_ = shelf.add("t", ["T/a", "T/b"])
        await shelf.copied(id_)
        (shelf.ssd / "tv/T/b").rename(shelf.ssd / "b")
        (shelf.ssd / "tv/T/b").symlink_to(shelf.ssd / "b")
        plan = await shelf.plan(1)
        assert shelf.verdicts(plan) == {"t": "unusable"}
        assert "symbolic link" in shelf.sentence(plan, id_)


async def test_a_save_path_that_is_not_where_the_data_is_makes_its_torrent_unusable(
    tmp_path: Path,
) -> None:
    """4.5 after a move that failed."""
    async with library(tmp_path) as shelf:
        id_ = shelf.add("t")
        await shelf.copied(id_)
        shelf.fake.change(id_, save_path=str(shelf.roots.hdd / "tv"))
        plan = await shelf.plan(1)
        assert shelf.verdicts(plan) == {"t": "unusable"}
        assert "a move of it failed" in shelf.sentence(plan, id_)


# -- PATH_MAPPINGS ----------------------------------------------------------------


@pytest.mark.parametrize(
    "mappings",
    [
        pytest.param({"/theirs/ssd": "ssd", "/theirs/hdd": "hdd"}, id="one for each tier"),
        pytest.param({"/theirs": ""}, id="one for both"),
        pytest.param(
            {"/theirs": "", "/fast/tv": "ssd/tv", "/theirs/ssd/tv": "elsewhere"}, id="nested"
        ),
    ],
)
async def test_a_torrent_is_found_and_led_to_the_hdd_by_the_paths_that_qbittorrent_has(
    tmp_path: Path, mappings: Mapping[str, str]
) -> None:
    ours = {theirs: str(tmp_path / path) for theirs, path in mappings.items()}
    nested = "/fast/tv" in ours
    async with library(tmp_path, path_mappings=ours) as shelf:
        id_ = shelf.add("t")
        save = "/fast/tv" if nested else "/theirs/ssd/tv"
        shelf.fake.change(id_, save_path=save, content_path=f"{save}/t")
        await shelf.copied(id_)
        assert await verdict(shelf, id_) == "relocate"
        destination = shelf.survey()
        await destination._begin()
        assert shelf.roots.hdd_folder(destination.destination(id_)) == "/theirs/hdd/tv"


async def test_a_version_2_torrent_of_a_single_file_is_unusable(tmp_path: Path) -> None:
    """See ``test_a_version_2_torrent_of_a_single_file_does_not_take_over_a_copy``."""
    async with library(tmp_path) as shelf:
        v2: dict[str, Any] = {"infohash_v1": "", "infohash_v2": "b" * 64}
        single = shelf.add("single", **v2)
        others = [
            shelf.add("in a folder", ["dir/a"], **v2),
            shelf.add("two", ["a", "b"], **v2),
            shelf.add("hybrid", infohash_v2="c" * 64),
        ]
        await shelf.copied(single, *others)
        plan = await shelf.plan(10 * BLOCK)
        assert shelf.verdicts(plan) == {
            "single": "unusable",
            "in a folder": "relocate",
            "two": "relocate",
            "hybrid": "relocate",
        }
        assert "version 2 torrent of a single file" in shelf.sentence(plan, single)


async def test_a_torrent_whose_place_on_the_hdd_qbittorrent_cannot_name_is_unusable(
    tmp_path: Path,
) -> None:
    """What qBittorrent has at the HDD's path leads elsewhere, and nothing leads to the HDD."""
    ours = {"/theirs": str(tmp_path / "ssd"), str(tmp_path / "hdd"): "/elsewhere"}
    async with library(tmp_path, path_mappings=ours) as shelf:
        id_ = shelf.add("t")
        await shelf.copied(id_)
        plan = await shelf.plan(1)
        assert shelf.verdicts(plan) == {"t": "unusable"}
        assert "PATH_MAPPINGS does not tell" in shelf.sentence(plan, id_)


async def test_within_one_file_system_nothing_is_relocated_nor_copied_for_it(
    tmp_path: Path,
) -> None:
    async with library(tmp_path) as shelf:
        await shelf.copied(shelf.add("copied"))
        shelf.add("not copied")
        shelf.tiers.one_file_system = True
        plan = await shelf.plan(10 * BLOCK)
        assert (plan.relocate, plan.tier_first) == ((), ())
        assert {one.reason for one in plan.spared} == {Spared.FREES_NOTHING}
        assert "one file system" in plan.spared[0].sentence
        assert plan.shortfall_bytes == plan.missing_bytes > 0
        assert "files" not in shelf.calls(), "no list can change that"
