"""Whatever qBittorrent, a .torrent or a category says, nothing leaves its tier."""

from __future__ import annotations

import posixpath
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from qbm_trio.core.errors import UnsafePath
from qbm_trio.core.model import Torrent, TorrentFile, TorrentId
from qbm_trio.core.placement import (
    RESERVED,
    Place,
    below,
    destination_folder,
    destination_folders,
    map_path,
    plan_files,
    safe_relative,
    save_root,
)
from qbm_trio.core.roots import Roots
from tests.rig.seen import SEEDING

# Texts made of what hurts, and of anything at all, surrogates included.
HOSTILE = st.lists(
    st.sampled_from(
        (
            *("/", "//", "..", ".", "a", "ä", "🐉", "\0", "\n", "\\", " ", "~", "\ud800", "\udcff"),
            *(*RESERVED, "ssd", "hdd", "x" * 256),
        )
    )
).map("".join)
ANY_TEXT = HOSTILE | st.text(st.characters())
CHARACTERS = st.characters(exclude_characters="/\0", exclude_categories=["Cs"])
NAME = st.text(CHARACTERS, min_size=1).filter(
    lambda n: n not in (".", "..") and len(n.encode()) <= 255
)


def torrent(content_path: str, *, save_path: str = "/lies") -> Torrent:
    return replace(SEEDING, content_path=content_path, save_path=save_path)


def entries(*names: str) -> list[TorrentFile]:
    return [
        TorrentFile(index=n, name=PurePosixPath(name), size_bytes=1, priority=1, progress=1.0)
        for n, name in enumerate(names)
    ]


def stays_inside(path: PurePosixPath) -> bool:
    """Judge as the kernel does, component by component, without the code under test."""
    text = str(path)
    parts = text.split("/")
    depths_ok = not any(p == ".." for p in parts)
    joined = posixpath.normpath(posixpath.join("/tier", text))
    return (
        depths_ok
        and not text.startswith("/")
        and "\0" not in text
        and (joined + "/").startswith("/tier/")
        and all(len(p.encode("utf-8", "surrogateescape")) <= 255 for p in parts)
    )


# -- nothing leaves its tier ------------------------------------------------


@given(ANY_TEXT, st.lists(ANY_TEXT, max_size=3))
@example("../../etc", ["a"])
@example("", ["../x"])
@example("", ["/etc/passwd"])
@example("", [".qbm-staging/x"])
@example(".qbm-tier", ["x"])
@example("a", ["\ud800"])
def test_no_category_and_no_file_name_leads_out_of_a_tier(category: str, names: list[str]) -> None:
    try:
        planned = plan_files(
            entries(*names),
            root_on_ssd=PurePosixPath("incoming"),
            destination=destination_folder(category),
        )
    except UnsafePath:
        return
    assert [p.index for p in planned] == list(range(len(names)))
    for p in planned:
        assert stays_inside(p.on_ssd)
        assert stays_inside(p.on_hdd)
        assert p.on_hdd.parts[0] not in RESERVED
        assert p.on_ssd.parts[0] == "incoming"
    assert len({p.on_hdd for p in planned}) == len(planned), "two files in one place"


@given(ANY_TEXT, ANY_TEXT.map(lambda t: f"/{t}"))
@example("//etc", "/")
@example("//x/../..//etc", "/x")
@example("/ssd/../ssd2/x", "/ssd")
@example("/ssdx", "/ssd")
def test_below_never_answers_with_a_path_that_is_not_below(path: str, root: str) -> None:
    rest = below(path, root)
    if rest is None:
        return
    assert not rest.is_absolute()
    assert ".." not in rest.parts
    one, two = posixpath.normpath(posixpath.join(root, str(rest))), posixpath.normpath(path)
    assert one.lstrip("/") == two.lstrip("/")


def test_below_knows_the_root_itself_its_neighbours_and_relative_paths() -> None:
    assert below("/ssd/", "/ssd") == PurePosixPath(".")
    assert below("/ssd//a/./b/", "/ssd/") == PurePosixPath("a/b")
    assert below("/a", "/") == PurePosixPath("a")
    assert below("/ssd-old/a", "/ssd") is None
    assert below("/", "/ssd") is None
    assert below("ssd/a", "/ssd") is None
    assert below("", "/ssd") is None


@pytest.mark.parametrize(
    "bad",
    [
        *("", ".", "..", "/", "/a", "a/..", "../a", "a//b", "a/", "a/./b", "a\0b", "\ud800"),
        *("x" * 256, "ä" * 128, "a/" + "🐉" * 64),
    ],
)
def test_a_name_that_is_no_plain_relative_path_is_refused(bad: str) -> None:
    with pytest.raises(UnsafePath, match=r"the file name .* cannot be used as a path") as caught:
        safe_relative(bad, what="the file name")
    assert str(caught.value).isprintable(), "it goes into a log line"


@pytest.mark.parametrize(
    "good",
    [
        *("a", "...", "..a", "a..", "-rf", "~", "a\nb", "a\\b", '"$(x)"', " ", "CON:"),
        *("x" * 255, "ä" * 127 + "x", "🐉" * 63 + "abc", "a/" * 300 + "b", "\udcff" * 255),
    ],
)
def test_a_strange_but_plain_name_is_kept_as_it_is(good: str) -> None:
    assert str(safe_relative(good, what="the file name")) == good


@given(NAME, NAME, NAME)
def test_a_category_with_slashes_makes_sub_folders_and_names_keep_every_character(
    one: str, two: str, name: str
) -> None:
    assume(one not in RESERVED)
    (planned,) = plan_files(
        entries(f"dir/{name}"),
        root_on_ssd=PurePosixPath("."),
        destination=destination_folder(f"{one}/{two}"),
    )
    assert planned.on_hdd.parts == (one, two, "dir", name)
    assert planned.on_ssd.parts == ("dir", name)


def test_the_empty_category_is_the_base_itself() -> None:
    assert destination_folder("") == PurePosixPath(".")


def test_names_the_service_keeps_for_itself_are_refused_at_the_top_only() -> None:
    for name in RESERVED:
        for category in (name, f"{name}/x"):
            with pytest.raises(UnsafePath, match="keeps for itself"):
                destination_folder(category)
        with pytest.raises(UnsafePath, match="kept for the service"):
            plan_files(
                entries(f"{name}/x"),
                root_on_ssd=PurePosixPath("."),
                destination=PurePosixPath("."),
            )
        assert destination_folder(f"tv/{name}") == PurePosixPath(f"tv/{name}")


def test_two_files_of_one_name_are_refused() -> None:
    with pytest.raises(UnsafePath, match="two files of the torrent have the name 'a/b'"):
        plan_files(
            entries("a/b", "c", "a/b"),
            root_on_ssd=PurePosixPath("."),
            destination=PurePosixPath("tv"),
        )


def test_a_plan_keeps_index_size_and_whether_a_file_is_wanted() -> None:
    files = [
        TorrentFile(index=i, name=PurePosixPath(f"d/{i}"), size_bytes=i * 7, priority=i, progress=0)
        for i in range(3)
    ]
    planned = plan_files(files, root_on_ssd=PurePosixPath("in"), destination=PurePosixPath("tv"))
    assert [(p.index, p.size_bytes, p.wanted) for p in planned] == [
        (0, 0, False),
        (1, 7, True),
        (2, 14, True),
    ]
    assert planned[2].on_ssd == PurePosixPath("in/d/2")
    assert planned[2].on_hdd == PurePosixPath("tv/d/2")


# -- where the data is ------------------------------------------------------

SAVE = st.lists(NAME, max_size=3).map(lambda parts: "/" + "/".join(parts))


@given(SAVE, NAME, NAME, NAME, st.sampled_from(["single", "one in folder", "root", "no root"]))
@example("/a", "a", "a", "a", "root")
@example("/a", "a", "a", "b", "no root")
@example("/", "d", "f", "g", "no root")
@example("/d", "d", "d", "e", "one in folder")
def test_the_save_root_is_found_in_every_layout_of_qbittorrent(
    save: str, folder: str, one: str, two: str, layout: str
) -> None:
    """The table of content_path by layout (measured on 4.5.2, 5.1.0 and 5.3.0)."""
    assume(one != two and folder not in (one, two))
    bare = save.rstrip("/")
    names, content = {
        "single": ([one], f"{bare}/{one}"),
        "one in folder": ([f"{folder}/{one}"], f"{bare}/{folder}/{one}"),
        "root": ([f"{folder}/{one}", f"{folder}/{two}"], f"{bare}/{folder}"),
        "no root": ([one, f"{folder}/{two}"], save),
    }[layout]
    assert save_root(torrent(content), entries(*names)) == save


def test_the_save_root_does_not_believe_the_save_path() -> None:
    # 4.5 shows the destination of a move that failed.
    moved = torrent("/ssd/show", save_path="/hdd")
    assert save_root(moved, entries("show/1", "show/2")) == "/ssd"


def test_several_folders_without_a_common_root_lie_in_the_content_path() -> None:
    assert save_root(torrent("/ssd/x"), entries("x/1", "y/2")) == "/ssd/x"
    assert save_root(torrent("/ssd/x/"), entries("x", "x/1")) == "/ssd/x"


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("/data/ssd/a", Place.SSD),
        ("/data/ssd", Place.SSD),
        ("/data/hdd/tv/a", Place.HDD),
        ("/data/ssd/../elsewhere", Place.ELSEWHERE),
        ("/data/ssd2/a", Place.ELSEWHERE),
        ("/somewhere", Place.ELSEWHERE),
        ("a", Place.UNKNOWN),  # 4.5.2 right after adding
        ("", Place.UNKNOWN),
    ],
)
def test_the_place_is_told_by_the_content_path_through_the_mappings(
    content: str, place: Place
) -> None:
    mappings = (("/data", "/mnt"), ("/data/hdd", "/pool/hdd"))
    roots = Roots(ssd=Path("/mnt/ssd"), hdd=Path("/pool/hdd"), path_mappings=mappings)
    assert roots.place_of(torrent(content)) is place


def test_a_torrent_without_metadata_has_no_place_whatever_is_mapped() -> None:
    roots = Roots(ssd=Path("/mnt"), hdd=Path("/pool"), path_mappings=(("/", "/mnt"),))
    assert roots.place_of(torrent("")) is Place.UNKNOWN


# -- other folders -----------------------------------------------------------


@pytest.mark.parametrize(
    ("category", "root", "folders"),
    [
        ("tv", "links/A", ["tv", "tv/A", "tv/links/A", "tv/cd"]),
        ("", "A", [".", "A", "cd"]),
        ("a/b", ".", ["a/b", "a/b/cd"]),
    ],
)
def test_where_a_torrent_may_go_if_others_have_its_names(
    category: str, root: str, folders: list[str]
) -> None:
    found = destination_folders(category, PurePosixPath(root), TorrentId("cd"))
    assert [str(folder) for folder in found] == folders


# -- path mappings ----------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "mapped"),
    [
        ("/downloads/a", "/data/a"),
        ("/downloads", "/data"),
        ("/downloads/tv/a", "/tv/a"),  # the longest prefix, though listed last
        ("/downloads/tvs/a", "/data/tvs/a"),  # whole components
        ("/downloads2/a", "/root/downloads2/a"),  # the root prefix takes the rest
        ("/", "/root/"),
        ("relative", "relative"),
    ],
)
def test_the_longest_prefix_of_whole_components_wins(path: str, mapped: str) -> None:
    mappings = [("/", "/root"), ("/downloads/", "/data/"), ("/downloads/tv", "/tv")]
    for order in (mappings, mappings[::-1]):
        assert map_path(path, order) == mapped


def test_a_prefix_can_be_mapped_to_the_root() -> None:
    assert map_path("/data/a", [("/data", "/")]) == "/a"
    assert map_path("/data", [("/data", "/")]) == "/"


@given(SAVE, SAVE, SAVE)
def test_a_path_below_a_prefix_is_below_what_it_is_mapped_to(
    theirs: str, ours: str, rest: str
) -> None:
    mapped = map_path(theirs.rstrip("/") + rest, [(theirs, ours)])
    assert posixpath.normpath(mapped) == posixpath.normpath(ours.rstrip("/") + rest)


@given(ANY_TEXT)
def test_without_a_matching_prefix_a_path_stays_as_it_is(path: str) -> None:
    assert map_path(path, []) == path
    assert map_path(path, [("/nowhere/at/all", "/x")]) == path
