"""A survey finds out what is on the SSD, and who shares it, with few calls to qBittorrent."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from sqlite3 import Connection
from typing import Any

import pytest

from qbm_trio.adapters import journal_copies
from qbm_trio.adapters.ssd_files import ListedFile
from qbm_trio.core.errors import TorrentUnknown
from qbm_trio.core.model import TorrentId
from qbm_trio.core.regions import Regions
from qbm_trio.core.space import PIN_TAG, SpacePlan
from qbm_trio.tasks import published, ssd_lists
from qbm_trio.tasks.space_survey import Survey
from tests.rig.surveys import BLOCK, Library, library

ROOT_FOLDER = ["Show/a", "Show/b"]


def groups(library: Library, plan: SpacePlan) -> list[set[str]]:
    """Who goes together."""
    return [{library.names[id_] for id_ in one.group.torrent_ids} for one in plan.relocate]


# -- calls ------------------------------------------------------------------------


@pytest.mark.parametrize("count", [10, 2000])
async def test_with_nothing_to_do_all_that_is_asked_is_the_list_of_torrents(
    tmp_path: Path, count: int
) -> None:
    async with library(tmp_path) as shelf:
        await shelf.copied(*(shelf.add(f"{n}") for n in range(count)))
        plan = await shelf.plan(0)
        assert dict(shelf.calls()) == {"torrents": 1}
        assert len(plan.spared) == count


async def test_in_a_flat_folder_only_the_lists_of_the_chosen_are_asked_for(
    tmp_path: Path,
) -> None:
    async with library(tmp_path) as shelf:
        await shelf.copied(*(shelf.add(f"{n}") for n in range(200)))
        plan = await shelf.plan(3 * BLOCK)
        assert groups(shelf, plan) == [{"0"}, {"1"}, {"2"}]
        assert dict(shelf.calls()) == {"torrents": 1, "files": 3}


async def test_those_whose_folders_hold_the_chosen_ones_are_asked_too_and_nobody_else(
    tmp_path: Path,
) -> None:
    async with library(tmp_path) as shelf:
        await shelf.copied(
            shelf.add("chosen", ROOT_FOLDER),
            shelf.add("same folder", ["Show/c", "Show/d"]),
            shelf.add("no folder of its own", ["e", "f"]),
            shelf.add("deeper", ["S1/a", "S1/b"], save=shelf.ssd / "tv/Show"),
            shelf.add("beside", ["Show 2/a", "Show 2/b"]),
            shelf.add("a file beside", ["g"]),
        )
        plan = await shelf.plan(1)
        assert groups(shelf, plan) == [{"chosen"}]
        assert shelf.asked() == {"chosen", "same folder", "no folder of its own"}


async def test_a_second_plan_asks_for_no_list_of_files_that_is_known(tmp_path: Path) -> None:
    async with library(tmp_path) as shelf:
        ids = [shelf.add(f"{n}") for n in range(9)]
        await shelf.copied(*ids)
        first = await shelf.plan(5 * BLOCK)
        assert shelf.calls()["files"] == 5
        assert await shelf.plan(5 * BLOCK) == first
        assert dict(shelf.calls()) == {"torrents": 1}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"content_path": "/elsewhere/x"}, id="renamed"),
        pytest.param({"save_path": "/elsewhere"}, id="moved"),
        pytest.param({"size_bytes": 3}, id="other files are wanted"),
    ],
)
async def test_a_torrent_that_looks_changed_is_asked_again_and_only_it(
    tmp_path: Path, change: dict[str, object]
) -> None:
    async with library(tmp_path) as shelf:
        ids = [shelf.add(f"{n}") for n in range(3)]
        torrents = [await shelf.fake.torrent(id_) for id_ in ids]
        for torrent in torrents:
            await shelf.lists.of(torrent, cached=True)
        shelf.calls()
        for torrent in (replace(torrents[1], **change), torrents[0], torrents[2]):  # type: ignore[arg-type]
            await shelf.lists.of(torrent, cached=True)
        assert shelf.asked() == {"1"}


async def test_a_torrent_that_was_removed_is_not_kept_in_memory(tmp_path: Path) -> None:
    async with library(tmp_path) as shelf:
        ids = [shelf.add(f"{n}") for n in range(2)]
        await shelf.copied(*ids)
        await shelf.plan(2 * BLOCK)
        shelf.fake.remove(ids[0])
        plan = await shelf.plan(2 * BLOCK)
        assert shelf.verdicts(plan) == {"1": "relocate"}
        assert shelf.lists._known.keys() == {ids[1]}


async def test_a_torrent_removed_between_the_list_and_its_files_is_left_out_of_the_plan(
    tmp_path: Path,
) -> None:
    async with library(tmp_path) as shelf:
        ids = [shelf.add(f"{n}") for n in range(3)]
        await shelf.copied(*ids)

        async def before(name: str) -> None:
            if name == "files" and shelf.fake.calls[-1][1] == ids[0]:
                raise TorrentUnknown("gone")

        shelf.fake.before = before
        assert shelf.verdicts(await shelf.plan(BLOCK)) == {"1": "relocate", "2": "target_met"}


async def test_a_library_that_frees_nothing_is_planned_a_few_times_not_once_a_torrent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    plan_once = Survey._plan

    def counted(self: Survey, *args: object) -> SpacePlan:
        made.append(1)
        return plan_once(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Survey, "_plan", counted)
    async with library(tmp_path) as shelf:
        (tmp_path / "media").mkdir()
        for n in range(200):
            await shelf.copied(shelf.add(f"{n}"))
            os.link(shelf.ssd / f"tv/{n}", tmp_path / f"media/{n}")
        plan = await shelf.plan(10 * BLOCK)
        assert set(shelf.verdicts(plan).values()) == {"frees_nothing"}
        assert len(made) <= 2 + math.log2(200) + 1


# -- who shares -------------------------------------------------------------------


async def test_sharing_is_followed_by_path_and_by_inode_from_torrent_to_torrent(
    tmp_path: Path,
) -> None:
    """The first shares a path with the second, the second an inode with the third."""
    async with library(tmp_path) as shelf:
        first = shelf.add("first", ROOT_FOLDER)
        alone = shelf.add("alone")
        second = shelf.add("second", ["Show/b", "Show/c"])
        (shelf.ssd / "cross").mkdir()
        os.link(shelf.ssd / "tv/Show/c", shelf.ssd / "cross/other name")
        third = shelf.add("third", ["other name"], save=shelf.ssd / "cross")
        await shelf.copied(first, second, third, alone)
        plan = await shelf.plan(1)
        assert groups(shelf, plan) == [{"alone"}], "the group is as young as its youngest"
        plan = await shelf.plan(2 * BLOCK)
        assert groups(shelf, plan) == [{"alone"}, {"first", "second", "third"}]
        assert plan.planned_bytes == 4 * BLOCK


async def test_a_torrent_saved_in_another_ones_folder_is_found_from_either_side(
    tmp_path: Path,
) -> None:
    for inner_first in (True, False):
        root = tmp_path / str(inner_first)
        root.mkdir()
        async with library(root) as shelf:

            def inner(shelf: Library = shelf) -> TorrentId:
                return shelf.add("inner", ["S1/x", "S1/y"], save=shelf.ssd / "tv/Show")

            def outer(shelf: Library = shelf) -> TorrentId:
                return shelf.add("outer", ["Show/a", "Show/S1/x"])

            makers = (inner, outer) if inner_first else (outer, inner)
            await shelf.copied(*(make() for make in makers))
            plan = await shelf.plan(1)
            assert groups(shelf, plan) == [{"inner", "outer"}]
            assert plan.planned_bytes == 3 * BLOCK


async def test_a_folder_that_is_a_symbolic_link_to_another_ones_is_the_same_folder(
    tmp_path: Path,
) -> None:
    async with library(tmp_path) as shelf:
        await shelf.copied(shelf.add("one", ROOT_FOLDER))
        (shelf.ssd / "films").symlink_to("tv")
        await shelf.copied(shelf.add("other", ROOT_FOLDER, save=shelf.ssd / "films"))
        plan = await shelf.plan(1)
        assert groups(shelf, plan) == [{"one", "other"}]
        assert plan.planned_bytes == 2 * BLOCK


@pytest.mark.parametrize("kind", ["each file is a link", "a folder in it is a link"])
async def test_a_torrent_whose_files_are_links_to_another_ones_keeps_those_there(
    tmp_path: Path, kind: str
) -> None:
    """So some tools make cross-seeds: they would be left with links to nothing."""
    async with library(tmp_path) as shelf:
        one = shelf.add("one", ["Show/sub/a", "Show/sub/b"])
        await shelf.copied(one, shelf.add("neighbour"))
        cross = shelf.ssd / "cross/Linked"
        cross.mkdir(parents=True)
        if kind == "a folder in it is a link":
            (cross / "sub").symlink_to(shelf.ssd / "tv/Show/sub")
        else:
            (cross / "sub").mkdir()
            for name in ("a", "b"):
                (cross / "sub" / name).symlink_to(f"../../../tv/Show/sub/{name}")
        linked = shelf.add("linked", ["Linked/sub/a", "Linked/sub/b"], save=cross.parent)
        shelf.fake.change(linked, tags=frozenset({PIN_TAG}))  # or it would be chosen itself
        verdicts = shelf.verdicts(await shelf.plan(1))
        assert verdicts == {"one": "shared", "neighbour": "relocate", "linked": "pinned"}


async def test_an_ssd_under_the_name_of_a_symbolic_link_is_searched_as_any(
    tmp_path: Path,
) -> None:
    (tmp_path / "ssd").mkdir()
    (tmp_path / "link").symlink_to("ssd")
    async with library(tmp_path, ssd=tmp_path / "link") as shelf:
        one, other = shelf.add("one", ROOT_FOLDER), shelf.add("other", ["Show/b", "Show/c"])
        os.link(shelf.ssd / "tv/Show/c", shelf.ssd / "linked")
        linked = shelf.add("linked", save=shelf.ssd)
        await shelf.copied(one, other, linked)
        plan = await shelf.plan(1)
        assert groups(shelf, plan) == [{"one", "other", "linked"}]
        assert plan.planned_bytes == 3 * BLOCK


async def test_a_torrent_that_qbittorrent_has_under_the_ssds_real_name_shares_all_the_same(
    tmp_path: Path,
) -> None:
    (tmp_path / "ssd").mkdir()
    (tmp_path / "link").symlink_to("ssd")
    async with library(tmp_path, ssd=tmp_path / "link") as shelf:
        await shelf.copied(shelf.add("one", ROOT_FOLDER))
        other = shelf.add("by its real name", ROOT_FOLDER, save=tmp_path / "ssd/tv")
        plan = await shelf.plan(1)
        assert shelf.verdicts(plan) == {"one": "shared", "by its real name": "unusable"}
        assert "under another name" in shelf.sentence(plan, other)


async def test_hard_links_in_a_library_outside_are_the_reason_that_nothing_is_freed(
    tmp_path: Path,
) -> None:
    async with library(tmp_path) as shelf:
        ids = [shelf.add(name) for name in ("linked", "alone")]
        await shelf.copied(*ids)
        (shelf.ssd / "media").mkdir()
        os.link(shelf.ssd / "tv/linked", shelf.ssd / "media/linked")
        plan = await shelf.plan(1)
        assert shelf.verdicts(plan) == {"linked": "frees_nothing", "alone": "relocate"}
        assert "hardlinked from elsewhere" in shelf.sentence(plan, ids[0])


async def test_a_file_that_one_does_not_want_and_another_does_ties_them(tmp_path: Path) -> None:
    async with library(tmp_path) as shelf:
        wants = shelf.add("wants", ROOT_FOLDER)
        does_not = shelf.add("does not", ["Show/b", "Show/c"], unwanted=["Show/b"])
        await shelf.copied(wants, does_not)
        plan = await shelf.plan(1)
        assert groups(shelf, plan) == [{"wants", "does not"}]
        assert plan.planned_bytes == 3 * BLOCK


async def test_an_unfinished_torrent_that_will_come_to_the_same_place_holds_the_group(
    tmp_path: Path,
) -> None:
    """Its files are in a folder for unfinished ones, off the SSD."""
    async with library(tmp_path) as shelf:
        one = shelf.add("one", ROOT_FOLDER)
        await shelf.copied(one)
        unfinished = shelf.add("unfinished", ROOT_FOLDER)
        shelf.fake.change(
            unfinished,
            content_path=str(tmp_path / "incomplete/Show"),
            progress=0.5,
            amount_left_bytes=9,
            state="downloading",
            completed_at=None,
        )
        plan = await shelf.plan(1)
        assert shelf.verdicts(plan) == {"one": "shared", "unfinished": "incomplete"}


# -- the event loop ---------------------------------------------------------------


async def test_what_grows_with_the_files_is_neither_on_the_loop_nor_long_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else notifications and ``/health`` wait: half a second for 50,000 files."""
    here = threading.current_thread()
    asked: list[int] = []

    def off_the_loop(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            assert threading.current_thread() is not here, call
            return call(*args, **kwargs)

        return called

    def published_files(connection: Connection, paths: Sequence[str]) -> Any:
        asked.append(len(paths))
        return real(connection, paths)

    real = journal_copies.published_files
    monkeypatch.setattr(journal_copies, "published_files", published_files)
    monkeypatch.setattr(published, "PAGE", 2)
    monkeypatch.setattr(Survey, "_on_hdd", off_the_loop(Survey._on_hdd))
    monkeypatch.setattr(Regions, "owners", off_the_loop(Regions.owners))
    monkeypatch.setattr(ssd_lists, "ListedFile", off_the_loop(ListedFile))
    async with library(tmp_path) as shelf:
        one = shelf.add("one", ["Show/a", "Show/b", "Show/c"])
        await shelf.copied(one)
        plan = await shelf.plan(1)
        assert groups(shelf, plan) == [{"one"}]
    assert asked == [2, 1]
