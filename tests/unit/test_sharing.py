"""Groups: who shares files on the SSD with whom, and what deleting them would free."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from qbm_trio.core.sharing import Group, groups
from tests.rig.ssd_worlds import World, ssd_file, tid, worlds


def ids(found: tuple[Group, ...]) -> list[list[int]]:
    return [[int(torrent_id, 16) for torrent_id in group.torrent_ids] for group in found]


def test_cross_seeds_on_one_path_are_one_group_and_their_data_counts_once() -> None:
    (group,) = groups(
        [tid(1), tid(2)],
        [ssd_file(1, "/ssd/a", 1), ssd_file(2, "/ssd/a", 1), ssd_file(2, "/ssd/b", 2)],
    )
    assert ids((group,)) == [[1, 2]]
    assert (group.frees_bytes, group.held_bytes) == (20, 0)


def test_an_unwanted_file_ties_as_a_wanted_one_does() -> None:
    found = groups(
        [tid(1), tid(2)], [ssd_file(1, "/ssd/a", 1, wanted=False), ssd_file(2, "/ssd/a", 1)]
    )
    assert ids(found) == [[1, 2]]


def test_cross_seeds_hardlinked_on_the_ssd_are_one_group_and_free_their_data_together() -> None:
    (group,) = groups(
        [tid(1), tid(2)],
        [ssd_file(1, "/ssd/a", 1, links=2), ssd_file(2, "/ssd/other/a", 1, links=2)],
    )
    assert ids((group,)) == [[1, 2]]
    assert (group.frees_bytes, group.held_bytes) == (10, 0)


def test_what_a_library_holds_by_a_hardlink_is_not_counted_as_freed() -> None:
    (group,) = groups(
        [tid(1)], [ssd_file(1, "/ssd/a", 1, links=2), ssd_file(1, "/ssd/b", 2, disk_bytes=7)]
    )
    assert (group.frees_bytes, group.held_bytes) == (7, 10)


def test_two_lists_with_the_same_path_do_not_make_two_names_of_it() -> None:
    (group,) = groups(
        [tid(1), tid(2)],
        [ssd_file(1, "/ssd/a", 1, links=2), ssd_file(2, "/ssd/a", 1, links=2)],
    )
    assert (group.frees_bytes, group.held_bytes) == (0, 10)


def test_a_path_ties_even_when_its_file_was_replaced_between_two_looks() -> None:
    assert ids(groups([], [ssd_file(1, "/ssd/a", 1), ssd_file(2, "/ssd/a", 2)])) == [[1, 2]]


def test_an_inode_seen_through_two_mounts_ties_although_it_has_one_name() -> None:
    assert ids(groups([], [ssd_file(1, "/ssd/a", 1), ssd_file(2, "/pool/a", 1)])) == [[1, 2]]


def test_equal_inode_numbers_on_two_devices_share_nothing() -> None:
    one, other = ssd_file(1, "/ssd/a", 1), ssd_file(2, "/ssd/b", 1)
    elsewhere = type(other)(
        torrent_id=other.torrent_id,
        path=other.path,
        wanted=True,
        inode=(2, 1),
        links=1,
        disk_bytes=10,
    )
    assert ids(groups([], [one, elsewhere])) == [[1], [2]]


def test_a_torrent_without_files_and_one_known_by_its_files_alone_are_groups_too() -> None:
    first, second = groups([tid(2)], [ssd_file(1, "/ssd/a", 1)])
    assert ids((first, second)) == [[1], [2]]
    assert (second.files, second.frees_bytes, second.held_bytes) == ((), 0, 0)


def test_a_long_chain_of_sharing_is_one_group() -> None:
    count = 2000
    files = [ssd_file(n, f"/ssd/{n}", n) for n in range(count)]
    files += [ssd_file(n, f"/ssd/{n + 1}", n + 1) for n in range(count - 1)]
    random.Random(1).shuffle(files)
    (group,) = groups([], files)
    assert len(group.torrent_ids) == count
    assert group.frees_bytes == 10 * count


@given(worlds())
def test_a_group_is_who_is_tied_to_whom_and_frees_what_deleting_its_files_frees(
    world: World,
) -> None:
    found = groups(world.facts, world.files)
    assert {frozenset(group.torrent_ids) for group in found} == {
        world.component(torrent_id) for torrent_id in world.facts
    }
    assert sorted(t for group in found for t in group.torrent_ids) == sorted(world.facts)
    for group in found:
        assert group.frees_bytes == world.freed_by_deleting_files_of(group.torrent_ids)
        occupied = {file.inode: file.disk_bytes for file in group.files}
        assert group.frees_bytes + group.held_bytes == sum(occupied.values())
        assert sorted(map(repr, group.files)) == sorted(
            repr(file) for file in world.files if file.torrent_id in group.torrent_ids
        )


@given(worlds(), st.randoms(use_true_random=False))
def test_groups_do_not_depend_on_the_order_of_torrents_and_files(
    world: World, shuffler: random.Random
) -> None:
    torrent_ids, files = list(world.facts), list(world.files)
    shuffler.shuffle(torrent_ids)
    shuffler.shuffle(files)
    assert groups(torrent_ids, files) == groups(world.facts, world.files)
