"""The plan of a space run: who goes, who stays, and why."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbm_trio.core.lifecycle import ACTIVE
from qbm_trio.core.model import JobState, TorrentId
from qbm_trio.core.readiness import SEEDING
from qbm_trio.core.sharing import SsdFile, groups
from qbm_trio.core.space import (
    PIN_TAG,
    RELOCATING_TAG,
    Choice,
    ChosenTorrent,
    Facts,
    SpacePlan,
    Spared,
    SparedTorrent,
    plan_space,
)
from tests.rig.ssd_worlds import World, planned, ssd_file, tid, torrent, worlds

# -- properties ---------------------------------------------------------------


def everybody(plan: SpacePlan) -> list[ChosenTorrent | SparedTorrent]:
    return [*plan.chosen, *plan.spared]


def relocated(plan: SpacePlan) -> set[TorrentId]:
    return {torrent_id for item in plan.relocate for torrent_id in item.group.torrent_ids}


def may_go(facts: Facts) -> bool:
    """The safety rules once more, written apart from the code under test."""
    return untouched_by_trouble(facts) and facts.tiered and not facts.alive_job


def untouched_by_trouble(facts: Facts) -> bool:
    it = facts.torrent
    return (
        it.state in SEEDING
        and it.progress == 1
        and it.amount_left_bytes == 0
        and not it.tags & {PIN_TAG, RELOCATING_TAG}
        and not facts.relocating
        and (
            facts.alive_job
            or facts.last_job not in (JobState.FAILED, JobState.CANCELLED, JobState.CLEARED)
        )
    )


T = TypeVar("T")

missings = st.integers(-5, 60)
rooms = st.integers(0, 4)


@given(worlds(), missings, rooms)
def test_each_torrent_gets_one_verdict_with_a_sentence(
    world: World, missing: int, room: int
) -> None:
    plan = planned(world, missing=missing, room=room)
    verdicts = [v.torrent_id for v in everybody(plan)]
    assert sorted(verdicts) == sorted(world.facts)
    assert all(len(v.sentence) > 10 for v in everybody(plan))
    assert {v.torrent_id for v in plan.chosen if v.choice is Choice.RELOCATE} == relocated(plan)
    tiering = [v.torrent_id for v in plan.chosen if v.choice is Choice.TIER_FIRST]
    assert tiering == list(plan.tier_first)


@given(worlds(), missings, rooms)
def test_only_a_torrent_that_may_go_is_relocated_and_only_with_all_that_share_its_files(
    world: World, missing: int, room: int
) -> None:
    plan = planned(world, missing=missing, room=room)
    for item in plan.relocate:
        together = set(item.group.torrent_ids)
        for torrent_id in together:
            assert may_go(world.facts[torrent_id])
            assert world.sharers(torrent_id) <= together


@given(worlds(), missings, rooms)
def test_enough_is_freed_when_enough_may_go_and_never_a_group_too_many(
    world: World, missing: int, room: int
) -> None:
    plan = planned(world, missing=missing, room=room)
    components = {world.component(torrent_id) for torrent_id in world.facts}
    eligible = sum(
        world.freed_by_deleting_files_of(together)
        for together in components
        if all(may_go(world.facts[torrent_id]) for torrent_id in together)
    )
    assert plan.planned_bytes == world.freed_by_deleting_files_of(relocated(plan))
    assert plan.planned_bytes >= min(max(0, missing), eligible)
    assert plan.target_met == (eligible >= missing)
    assert plan.shortfall_bytes == max(0, missing - plan.planned_bytes)
    assert all(item.bytes > 0 for item in plan.relocate)
    if plan.relocate:
        assert plan.planned_bytes - plan.relocate[-1].bytes < missing


@given(worlds(), missings, rooms)
def test_no_group_stays_that_is_older_than_one_that_goes(
    world: World, missing: int, room: int
) -> None:
    plan = planned(world, missing=missing, room=room)

    def age(torrent_ids: Iterable[TorrentId]) -> float:
        return max(world.facts[t].torrent.completed_at or float("inf") for t in torrent_ids)

    ages = [age(item.group.torrent_ids) for item in plan.relocate]
    assert ages == sorted(ages)
    for v in plan.spared:
        if v.reason is Spared.TARGET_MET and ages:
            assert age(world.component(v.torrent_id)) >= ages[-1]


@given(worlds(), missings, rooms, st.randoms(use_true_random=False))
def test_the_plan_does_not_depend_on_any_order(
    world: World, missing: int, room: int, shuffler: random.Random
) -> None:
    def shuffled(items: Iterable[T]) -> list[T]:
        found = list(items)
        shuffler.shuffle(found)
        return found

    other = World(files=shuffled(world.files), facts=dict(shuffled(world.facts.items())))
    again = plan_space(
        shuffled(groups(other.facts, other.files)),
        other.facts,
        free_bytes=1000,
        target_bytes=1000 + missing,
        pending_bytes=0,
        tier_room=room,
    )
    plan = planned(world, missing=missing, room=room)
    assert again == plan
    assert list(again.spared_bytes) == list(plan.spared_bytes)


@given(worlds(), st.integers(-50, 0), rooms)
def test_nothing_is_chosen_when_nothing_is_missing(world: World, missing: int, room: int) -> None:
    plan = planned(world, missing=missing, room=room)
    assert (plan.relocate, plan.tier_first, plan.chosen) == ((), (), ())
    assert (plan.missing_bytes, plan.planned_bytes, plan.target_met) == (0, 0, True)


@given(worlds(), missings, rooms)
def test_only_what_a_copy_would_free_is_tiered_first_and_no_more_than_there_is_room(
    world: World, missing: int, room: int
) -> None:
    plan = planned(world, missing=missing, room=room)
    assert len(plan.tier_first) <= room
    if plan.target_met:
        assert plan.tier_first == ()
    for torrent_id in plan.tier_first:
        facts = world.facts[torrent_id]
        assert not facts.tiered
        assert not facts.alive_job
        together = world.component(torrent_id)
        assert all(untouched_by_trouble(world.facts[t]) for t in together)
        assert world.freed_by_deleting_files_of(together) > 0


@given(worlds(), missings, rooms)
def test_the_bytes_spared_by_reason_are_what_stays_each_byte_once(
    world: World, missing: int, room: int
) -> None:
    plan = planned(world, missing=missing, room=room)
    spared = {v.torrent_id for v in plan.spared}
    inodes = {f.inode: f.disk_bytes for f in world.files if world.component(f.torrent_id) & spared}
    assert sum(plan.spared_bytes.values()) == sum(inodes.values())
    assert set(plan.spared_bytes) <= {v.reason for v in plan.spared}
    for v in everybody(plan):
        own = {f.inode: f.disk_bytes for f in world.files if f.torrent_id == v.torrent_id}
        assert v.bytes == sum(own.values())


# -- examples -----------------------------------------------------------------


def fit(n: int, *, at: float | None = None, tiered: bool = True, alive: bool = False) -> Facts:
    return Facts(
        torrent=torrent(n, completed_at=float(n) if at is None else at),
        tiered=tiered,
        alive_job=alive,
    )


def plan_of(
    *facts: Facts,
    files: list[SsdFile] | None = None,
    missing: int = 10,
    pending: int = 0,
    room: int = 100,
) -> SpacePlan:
    """Plan for these torrents; without ``files`` each has one of its own, of 10 bytes."""
    by_id = {f.torrent.id: f for f in facts}
    if files is None:
        numbers = [int(torrent_id, 16) for torrent_id in by_id]
        files = [ssd_file(n, f"/ssd/{n}", n) for n in numbers]
    return plan_space(
        groups(by_id, files),
        by_id,
        free_bytes=5,
        target_bytes=5 + missing,
        pending_bytes=pending,
        tier_room=room,
    )


def reasons(plan: SpacePlan) -> dict[int, str]:
    return {int(v.torrent_id, 16): v.reason.value for v in plan.spared} | {
        int(v.torrent_id, 16): v.choice.value for v in plan.chosen
    }


@pytest.mark.parametrize(
    ("facts", "reason", "sentence"),
    [
        (
            Facts(torrent=torrent(1, tags={PIN_TAG}), tiered=True),
            Spared.PINNED,
            "it is tagged qbm-pin",
        ),
        (
            Facts(torrent=torrent(1, state="moving"), tiered=True),
            Spared.BUSY,
            "qBittorrent is moving its files",
        ),
        (
            Facts(torrent=torrent(1, state="checkingUP", progress=0), tiered=True),
            Spared.BUSY,
            "qBittorrent is checking its files",
        ),
        (
            Facts(torrent=torrent(1, state="missingFiles"), tiered=True),
            Spared.ERROR,
            "qBittorrent reports missingFiles; mend it there (force recheck)",
        ),
        (
            Facts(torrent=torrent(1, state="downloading", progress=0.5), tiered=True),
            Spared.INCOMPLETE,
            "it is incomplete (50.0%, 0 bytes left)",
        ),
        (
            Facts(torrent=torrent(1, state="unknown"), tiered=True),
            Spared.INCOMPLETE,
            "its state is unknown, not a seeding one",
        ),
        (
            Facts(torrent=torrent(1, state="stoppedDL", progress=0), tiered=True, relocating=True),
            Spared.RELOCATING,
            "it is being relocated now",
        ),
        (
            Facts(torrent=torrent(1, tags={RELOCATING_TAG}), tiered=True),
            Spared.RELOCATING,
            "it is tagged qbm-relocating; if no relocation of it is running, remove the tag",
        ),
        (
            Facts(torrent=torrent(1), tiered=True, alive_job=True),
            Spared.TIERING,
            "a job to copy it to the HDD is queued or under way",
        ),
        (
            Facts(torrent=torrent(1), tiered=False, last_job=JobState.FAILED),
            Spared.LAST_JOB_ENDED_BADLY,
            "its last job failed; retry that job, or notify the torrent again",
        ),
        (
            Facts(torrent=torrent(1), tiered=True, last_job=JobState.CANCELLED),
            Spared.LAST_JOB_ENDED_BADLY,
            "its last job was cancelled; retry that job, or notify the torrent again",
        ),
        (
            Facts(torrent=torrent(1), tiered=False, last_job=JobState.CLEARED),
            Spared.LAST_JOB_ENDED_BADLY,
            "its last job was cleared from the queue; retry that job, or notify the torrent again",
        ),
    ],
)
def test_a_torrent_that_must_not_be_touched_is_spared_with_its_reason(
    facts: Facts, reason: Spared, sentence: str
) -> None:
    plan = plan_of(facts, missing=10**15)
    (spared,) = plan.spared
    assert (spared.reason, spared.sentence, spared.bytes) == (reason, sentence, 10)
    assert (plan.relocate, plan.tier_first) == ((), ())
    assert plan.spared_bytes == {reason: 10}
    assert (plan.target_met, plan.shortfall_bytes) == (False, 10**15)


def test_the_words_tagged_are_matched_whole() -> None:
    near = Facts(torrent=torrent(1, tags={"qbm-pin2", "my-qbm-pin", "QBM-PIN"}), tiered=True)
    assert reasons(plan_of(near)) == {1: "relocate"}


def test_the_oldest_completed_go_until_the_target_is_met() -> None:
    plan = plan_of(fit(1, at=30), fit(2, at=10), fit(3, at=20), fit(4, at=40), missing=15)
    assert [item.group.torrent_ids for item in plan.relocate] == [(tid(2),), (tid(3),)]
    assert reasons(plan) == {2: "relocate", 3: "relocate", 1: "target_met", 4: "target_met"}
    assert (plan.missing_bytes, plan.planned_bytes, plan.shortfall_bytes) == (15, 20, 0)
    assert plan.spared_bytes == {Spared.TARGET_MET: 20}


def test_a_group_is_as_old_as_its_youngest_member() -> None:
    shared = [ssd_file(1, "/ssd/a", 1), ssd_file(2, "/ssd/a", 1), ssd_file(3, "/ssd/b", 3)]
    plan = plan_of(fit(1, at=1), fit(2, at=50), fit(3, at=40), files=shared)
    assert reasons(plan) == {3: "relocate", 1: "target_met", 2: "target_met"}


def test_a_torrent_whose_completion_is_not_known_goes_last() -> None:
    unknown = Facts(torrent=torrent(1, completed_at=None), tiered=True)
    assert reasons(plan_of(unknown, fit(2, at=1e12))) == {2: "relocate", 1: "target_met"}


def test_what_waits_for_its_deletion_counts_as_free() -> None:
    assert plan_of(fit(1), missing=10, pending=10).relocate == ()
    assert plan_of(fit(1), missing=10, pending=9).missing_bytes == 1


def test_cross_seeds_go_together_and_are_told_so() -> None:
    plan = plan_of(fit(1), fit(2), files=[ssd_file(1, "/ssd/a", 1), ssd_file(2, "/ssd/a", 1)])
    assert [item.group.torrent_ids for item in plan.relocate] == [(tid(1), tid(2))]
    assert [v.sentence for v in plan.chosen] == [
        "the SSD is short of space, and it is among the oldest with a verified copy; "
        "relocated together with 1 torrent that shares its files"
    ] * 2


def test_whoever_shares_with_one_that_cannot_go_stays_and_is_told_which() -> None:
    pinned = Facts(torrent=torrent(2, tags={PIN_TAG}, name="A\nB"), tiered=True)
    shared = [ssd_file(1, "/ssd/a", 1), ssd_file(2, "/ssd/a", 1)]
    plan = plan_of(fit(1), pinned, files=shared)
    assert reasons(plan) == {1: "shared", 2: "pinned"}
    assert plan.spared_bytes == {Spared.PINNED: 10}
    sentence = next(v.sentence for v in plan.spared if v.reason is Spared.SHARED)
    assert sentence == (r"it shares files with 'A\nB', which cannot go now: it is tagged qbm-pin")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([ssd_file(1, "/ssd/a", 1, links=2)], "hardlinked from elsewhere on the SSD"),
        ([ssd_file(1, "/ssd/a", 1, disk_bytes=0)], "occupy no space"),
        ([], "none of its files are on the SSD"),
    ],
)
def test_what_frees_nothing_is_neither_relocated_nor_tiered(
    files: list[SsdFile], words: str
) -> None:
    for tiered in (True, False):
        plan = plan_of(fit(1, tiered=tiered), files=files)
        assert reasons(plan) == {1: "frees_nothing"}
        assert words in plan.spared[0].sentence


def test_a_library_that_is_hardlinked_shows_in_the_bytes_spared() -> None:
    plan = plan_of(fit(1), files=[ssd_file(1, "/ssd/a", 1, links=2, disk_bytes=70)])
    assert plan.spared_bytes == {Spared.FREES_NOTHING: 70}


def test_only_as_many_are_tiered_first_as_the_shortage_needs_oldest_first() -> None:
    plan = plan_of(fit(1, at=30), *(fit(n, at=50 - n, tiered=False) for n in (2, 3, 4)), missing=25)
    assert reasons(plan) == {1: "relocate", 4: "tier_first", 3: "tier_first", 2: "not_tiered"}
    assert plan.tier_first == (tid(4), tid(3))
    assert (plan.planned_bytes, plan.shortfall_bytes) == (10, 15)


def test_what_is_being_tiered_already_is_not_asked_for_twice() -> None:
    untiered = [fit(1, tiered=False), fit(2, tiered=False, alive=True)]
    assert reasons(plan_of(*untiered, missing=10)) == {1: "not_tiered", 2: "tiering"}
    assert reasons(plan_of(*untiered, missing=11)) == {1: "tier_first", 2: "tiering"}


def test_a_job_alive_outweighs_how_the_last_one_ended() -> None:
    facts = Facts(torrent=torrent(1), tiered=False, last_job=JobState.FAILED, alive_job=True)
    assert reasons(plan_of(facts)) == {1: "tiering"}


def test_no_more_is_tiered_first_than_there_is_room_in_the_queue() -> None:
    untiered = [fit(n, tiered=False) for n in (1, 2, 3)]
    plan = plan_of(*untiered, missing=20, room=1)
    assert reasons(plan) == {1: "tier_first", 2: "half_of_queue", 3: "not_tiered"}
    assert reasons(plan_of(*untiered, missing=20, room=-1))[1] == "half_of_queue"


def test_a_group_larger_than_the_room_is_tiered_in_parts() -> None:
    shared = [ssd_file(n, "/ssd/a", 1) for n in (1, 2, 3)]
    plan = plan_of(
        fit(1), fit(2, tiered=False), fit(3, tiered=False), files=shared, missing=5, room=1
    )
    assert reasons(plan) == {1: "shared", 2: "tier_first", 3: "half_of_queue"}
    assert plan.spared[0].sentence == (
        "it shares files with 'torrent 2', which cannot go now: "
        "it has no verified copy on the HDD yet"
    )


def test_a_torrent_without_a_copy_is_not_tiered_for_a_group_that_cannot_go() -> None:
    failed = Facts(torrent=torrent(2), tiered=True, last_job=JobState.FAILED)
    shared = [ssd_file(1, "/ssd/a", 1), ssd_file(2, "/ssd/a", 1)]
    plan = plan_of(fit(1, tiered=False), failed, files=shared)
    assert reasons(plan) == {1: "not_tiered", 2: "last_job_ended_badly"}


def test_a_group_with_a_torrent_that_nobody_knows_is_a_bug() -> None:
    with pytest.raises(KeyError):
        plan_of(fit(1), files=[ssd_file(1, "/ssd/a", 1), ssd_file(2, "/ssd/a", 1)])


def test_every_ended_state_of_a_job_is_either_bad_or_no_obstacle() -> None:
    ended = {s for s in JobState if s not in ACTIVE}
    verdicts = {
        state: reasons(plan_of(Facts(torrent=torrent(1), tiered=True, last_job=state)))[1]
        for state in ended
    }
    assert {s.value for s, verdict in verdicts.items() if verdict == "relocate"} == {
        "done",
        "merged",
    }
