"""Whose list could name a path: every torrent whose list does, and few others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbm_trio.core.model import Torrent, TorrentId
from qbm_trio.core.placement import map_path, unmap_path
from qbm_trio.core.regions import Regions, regions_of
from tests.rig.seen import SEEDING

NAMES = st.sampled_from(("a", "b", "Show", "S1", "x.mkv", " ", "é", "..a"))
FOLDERS = st.lists(NAMES, max_size=3).map(lambda parts: "/".join(["/ssd", *parts]))


def content_path(folder: str, names: list[str]) -> str:
    """The table of the shared facts, section 4, seen on 4.5.2, 5.1.0 and 5.3.0."""
    tops = {name.split("/")[0] for name in names}
    if len(names) == 1:
        return f"{folder}/{names[0]}"
    if len(tops) == 1 and all("/" in name for name in names):
        return f"{folder}/{tops.pop()}"
    return folder


@st.composite
def listed(draw: st.DrawFn) -> tuple[Torrent, list[str]]:
    """A torrent, and where the files in its list are or will come to be."""
    layout = draw(st.sampled_from(("one file", "one in a folder", "root folder", "no folder")))
    save = draw(FOLDERS)
    files = draw(st.lists(NAMES, min_size=2, max_size=4, unique=True))
    names = {
        "one file": files[:1],
        "one in a folder": ["/".join(files)],
        "root folder": [f"Root/{name}" for name in files],
        "no folder": [*files, "sub/f"],
    }[layout]
    complete = draw(st.booleans())
    incomplete_folder = "" if complete else draw(st.sampled_from(("", "/ssd/tmp", "/other")))
    place = incomplete_folder or save
    torrent = replace(
        SEEDING,
        id=TorrentId(draw(st.text("0123456789abcdef", min_size=40, max_size=40))),
        save_path=draw(st.sampled_from((save, f"{save}/"))),
        content_path=content_path(place, names),
        download_path=incomplete_folder,
        progress=1.0 if complete else 0.5,
    )
    return torrent, [f"{folder}/{name}" for folder in {place, save} for name in names]


@given(st.lists(listed(), max_size=6, unique_by=lambda one: one[0].id))
def test_each_torrent_whose_list_holds_a_path_is_named_whatever_its_layout(
    torrents: list[tuple[Torrent, list[str]]],
) -> None:
    regions = Regions((torrent.id, path) for torrent, _ in torrents for path in regions_of(torrent))
    for _, paths in torrents:
        for path in paths:
            having = {torrent.id for torrent, others in torrents if path in others}
            assert having <= regions.owners(path)


@given(st.lists(listed(), max_size=6, unique_by=lambda one: one[0].id), FOLDERS)
def test_no_torrent_is_named_whose_folders_do_not_lead_to_the_path(
    torrents: list[tuple[Torrent, list[str]]], path: str
) -> None:
    regions = Regions((torrent.id, path) for torrent, _ in torrents for path in regions_of(torrent))
    for torrent, _ in torrents:
        if torrent.id in regions.owners(path):
            above = (torrent.content_path, torrent.save_path)
            assert any(PurePosixPath(path).is_relative_to(one) for one in above)


def test_of_a_flat_folder_full_of_single_files_only_the_one_with_the_path_is_named() -> None:
    flat = [
        replace(SEEDING, id=TorrentId(f"{n:040x}"), content_path=f"/ssd/{n}.mkv")
        for n in range(100)
    ]
    regions = Regions((torrent.id, path) for torrent in flat for path in regions_of(torrent))
    assert regions.owners("/ssd/7.mkv") == {flat[7].id}
    assert regions.owners("/ssd/100.mkv") == set()


def test_a_folder_whose_name_begins_like_another_is_another() -> None:
    regions = Regions([(SEEDING.id, "/ssd/Show")])
    assert regions.owners("/ssd/Show 2/a") == set()
    assert regions.owners("/ssd/Show/a") == {SEEDING.id}


@pytest.mark.parametrize("content", ["t", ""])
def test_without_an_absolute_content_path_the_save_path_counts(content: str) -> None:
    """4.5 right after adding; any version without metadata."""
    assert regions_of(replace(SEEDING, content_path=content)) == ("/ssd",)


@pytest.mark.parametrize("save", ["/hdd", "/ss"])
def test_after_a_move_that_failed_both_paths_count(save: str) -> None:
    """4.5 then shows the destination as save path; its next check would move the files there."""
    torrent = replace(SEEDING, save_path=save, content_path="/ssd/t")
    assert set(regions_of(torrent)) == {save, "/ssd/t"}


PREFIXES = st.lists(st.sampled_from(("a", "b", "ab")), max_size=2).map(lambda p: "/" + "/".join(p))
MAPPINGS = st.lists(
    st.tuples(*[st.tuples(PREFIXES, st.sampled_from(("", "/"))).map("".join)] * 2), max_size=3
)
PATHS = st.lists(st.sampled_from(("a", "b", "ab")), max_size=4).map(lambda p: "/" + "/".join(p))


@given(PATHS, MAPPINGS)
def test_a_path_that_leads_back_to_qbittorrent_leads_to_the_same_place_again(
    path: str, mappings: list[tuple[str, str]]
) -> None:
    theirs = unmap_path(path, mappings)
    if theirs is not None:
        assert map_path(theirs, mappings) == path


@given(PATHS, MAPPINGS)
def test_whatever_qbittorrent_can_name_has_a_way_back(
    theirs: str, mappings: list[tuple[str, str]]
) -> None:
    assert unmap_path(map_path(theirs, mappings), mappings) is not None
