"""Which location tags are right, and how few calls make them so."""

from __future__ import annotations

import time
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbm_trio.core import tags
from qbm_trio.core.model import Torrent, TorrentId
from qbm_trio.core.placement import Place
from qbm_trio.core.roots import Roots
from qbm_trio.core.tags import Amount, Located, Location, LocationTags
from tests.rig.seen import SEEDING

OURS = LocationTags(ssd="ssd", hdd="hdd")
PLACES = {"/ssd": Place.SSD, "/hdd": Place.HDD, "/other": Place.ELSEWHERE, "": Place.UNKNOWN}


def torrent(n: int, content_path: str, *has: str, size_bytes: int = 1) -> Torrent:
    return replace(
        SEEDING,
        id=TorrentId(f"{n:040x}"),
        name=f"Torrent {n}",
        content_path=content_path,
        tags=frozenset(has),
        size_bytes=size_bytes,
    )


def locate(
    *torrents: Torrent,
    published: AbstractSet[TorrentId] = frozenset(),
    relocating: AbstractSet[TorrentId] = frozenset(),
) -> list[Located]:
    return list(
        tags.locate(
            torrents,
            place_of=lambda t: PLACES[t.content_path],
            published=published,
            relocating=relocating,
        )
    )


def change_of(
    t: Torrent, *, published: bool = False, relocating: bool = False
) -> tuple[set[str], set[str]]:
    located = locate(
        t,
        published={t.id} if published else frozenset(),
        relocating={t.id} if relocating else frozenset(),
    )
    found = tags.changes(located, OURS)
    return (set(found[0].add), set(found[0].remove)) if found else (set(), set())


@pytest.mark.parametrize(
    ("place", "published", "has", "add", "remove"),
    [
        ("/ssd", False, "", "ssd", ""),
        ("/ssd", False, "ssd", "", ""),
        ("/ssd", False, "ssd hdd", "", "hdd"),
        ("/ssd", True, "", "ssd hdd", ""),
        ("/ssd", True, "ssd hdd", "", ""),
        ("/hdd", True, "ssd hdd", "", "ssd"),
        ("/hdd", False, "ssd", "hdd", "ssd"),
        ("/hdd", True, "hdd", "", ""),
        ("/other", True, "ssd hdd", "", "ssd hdd"),
        ("/other", False, "", "", ""),
    ],
)
def test_the_tags_are_ssd_then_both_then_hdd_as_the_data_is(
    place: str, published: bool, has: str, add: str, remove: str
) -> None:
    t = torrent(1, place, *has.split())
    assert change_of(t, published=published) == (set(add.split()), set(remove.split()))


def test_a_tag_that_only_looks_like_one_of_ours_is_neither_counted_nor_removed() -> None:
    alike = ("SSD", "Hdd", "ssd-2", "my hdd", "hd")
    assert change_of(torrent(1, "/ssd", *alike)) == ({"ssd"}, set())
    assert change_of(torrent(1, "/other", *alike)) == (set(), set())


@pytest.mark.parametrize("has", [(), ("ssd", "hdd", "mine")])
def test_a_torrent_that_has_no_data_yet_is_left_as_it_is(has: tuple[str, ...]) -> None:
    magnet = torrent(1, "", *has)
    assert change_of(magnet) == (set(), set())
    assert tags.amounts_by_location(locate(magnet))[Location.ELSEWHERE].torrents == 1


def test_a_torrent_that_is_being_relocated_is_on_both_tiers_until_that_has_ended() -> None:
    """Its SSD files are still there, and the recheck may send it back to them."""
    moved = torrent(1, "/hdd", "ssd", "hdd")
    assert change_of(moved, published=True, relocating=True) == (set(), set())
    assert change_of(moved, published=True) == (set(), {"ssd"})


def test_the_services_own_tags_and_the_users_stay() -> None:
    for place in PLACES:
        add, remove = change_of(torrent(1, place, "qbm-pin", "qbm-relocating", "mine"))
        assert add | remove <= {"ssd", "hdd"}


def test_what_is_on_the_hdd_only_or_both_is_told_by_the_journal_not_by_tags() -> None:
    has_it, has_not = torrent(1, "/ssd", "hdd"), torrent(2, "/ssd", "hdd")
    located = locate(has_it, has_not, published={has_it.id})
    assert [item.location for item in located] == [Location.BOTH, Location.SSD]


TORRENTS = st.lists(
    st.tuples(
        st.sampled_from(list(PLACES)),
        st.frozensets(st.sampled_from(["ssd", "hdd", "SSD", "mine", "qbm-relocating"])),
        st.booleans(),
    ),
    max_size=30,
)


@given(TORRENTS)
def test_at_most_four_requests_make_every_tag_right_and_touch_no_other(
    drawn: list[tuple[str, frozenset[str], bool]],
) -> None:
    all_ = [torrent(n, place, *has) for n, (place, has, _) in enumerate(drawn)]
    published = {t.id for t, (_, _, copied) in zip(all_, drawn, strict=True) if copied}
    located = locate(*all_, published=published)
    found = tags.changes(located, OURS)
    requests = tags.requests(found, OURS)
    assert len(requests) <= 4
    assert all(r.torrent_ids for r in requests)
    after = {t.id: set(t.tags) for t in all_}
    for request in requests:
        for id_ in request.torrent_ids:
            if request.add:
                after[id_].add(request.tag)
            else:
                after[id_].remove(request.tag)
    for item in located:
        before = item.torrent.tags
        now = after[item.torrent.id]
        assert now - {"ssd", "hdd"} == before - {"ssd", "hdd"}
        if item.known:
            assert now & {"ssd", "hdd"} == OURS.right_for(item.location)
        else:
            assert now == before


def test_additions_come_before_removals() -> None:
    moved = torrent(1, "/hdd", "ssd")
    requests = tags.requests(tags.changes(locate(moved), OURS), OURS)
    assert [(r.add, r.tag) for r in requests] == [(True, "hdd"), (False, "ssd")]


def test_the_amounts_add_up_and_name_every_place_and_both_tags() -> None:
    all_ = [
        torrent(1, "/ssd", "ssd", size_bytes=10),
        torrent(2, "/ssd", "ssd", "hdd", "b", size_bytes=200),
        torrent(3, "/hdd", "a", "SSD", size_bytes=3000),
        torrent(4, "/other", size_bytes=40_000),
    ]
    located = locate(*all_, published={all_[1].id})
    assert tags.amounts_by_location(located) == {
        Location.SSD: Amount(torrents=1, bytes=10),
        Location.HDD: Amount(torrents=1, bytes=3000),
        Location.BOTH: Amount(torrents=1, bytes=200),
        Location.ELSEWHERE: Amount(torrents=1, bytes=40_000),
    }
    by_tag = tags.amounts_by_tag(all_, OURS)
    assert list(by_tag) == ["ssd", "hdd", "SSD", "a", "b"]
    assert by_tag["ssd"] == Amount(torrents=2, bytes=210)
    assert by_tag["SSD"] == Amount(torrents=1, bytes=3000)
    nothing = tags.amounts_by_location([])
    assert set(nothing) == set(Location)
    assert tags.amounts_by_tag([], OURS) == {"ssd": Amount(), "hdd": Amount()}


def test_ten_thousand_torrents_are_judged_in_less_than_a_second() -> None:
    all_ = [torrent(n, f"/data/ssd/movies/Torrent {n}") for n in range(10_000)]
    began = time.process_time()
    located = tags.locate(
        all_,
        place_of=Roots(
            ssd=Path("/ssd"),
            hdd=Path("/hdd"),
            path_mappings=(("/data/ssd", "/ssd"), ("/data", "/hdd")),
        ).place_of,
        published=frozenset(),
        relocating=frozenset(),
    )
    requests = tags.requests(tags.changes(located, OURS), OURS)
    assert time.process_time() - began < 1
    assert [len(r.torrent_ids) for r in requests] == [10_000]
