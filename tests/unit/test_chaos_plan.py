"""``scripts/chaos`` plans its events from the seed alone."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from scripts.mayhem.plan import LIBRARY_BYTES, ROUND_S, Event, Kind, Plan
from scripts.mayhem.specs import FAMILIES, Spec


def rounds(plan: Plan, number: int) -> list[list[Event]]:
    return [plan.next_round() for _ in range(number)]


def specs_of(plan: Plan, events: list[list[Event]]) -> list[Spec]:
    added = [spec for one in events for event in one for spec in event.specs]
    return [*(spec for family in plan.first for spec in family), *added]


def test_the_same_seed_gives_the_same_events_and_the_same_bytes() -> None:
    one, other = Plan(7, "4.5.2"), Plan(7, "4.5.2")
    assert (one.world, one.first) == (other.world, other.first)
    for _ in range(3):
        assert one.next_round() == other.next_round()
        assert one.cleared() == other.cleared()
    spec = one.first[0][0]
    name = max(spec.sizes, key=lambda name: spec.sizes[name])
    assert spec.bytes_of(name) == other.first[0][0].bytes_of(name)
    assert len(spec.bytes_of(name)) == spec.sizes[name]


def test_another_seed_or_version_gives_others() -> None:
    events = {
        (seed, version): str(Plan(seed, version).next_round())
        for seed in (7, 8)
        for version in ("4.5.2", "5.1.0")
    }
    assert len(set(events.values())) == 4


def test_everything_that_can_happen_happens() -> None:
    plan = Plan(1, "5.1.0")
    events = rounds(plan, 20)
    counted = Counter(event.kind for one in events for event in one)
    assert set(counted) == set(Kind)
    specs = specs_of(plan, events)
    layouts = {layout for family in FAMILIES for layout in family}
    assert {spec.layout for spec in specs} == layouts
    assert {spec.version for spec in specs} == {"v1", "v2", "hybrid"}
    assert {spec.stopped for spec in specs} == {True, False}
    assert len({spec.number for spec in specs}) == len(specs)


def test_a_round_is_in_the_order_of_time_and_within_its_length() -> None:
    for events in rounds(Plan(3, "4.5.2"), 5):
        assert all(one.at_s <= next_one.at_s for one, next_one in pairwise(events))
        assert 0 <= events[0].at_s <= events[-1].at_s <= ROUND_S


def test_what_is_removed_is_not_named_again() -> None:
    plan = Plan(5, "4.5.2")
    gone: set[int] = set()
    removals = (Kind.REMOVE, Kind.REMOVE_WITH_FILES)
    for _ in range(30):
        round_removed = set()
        for event in plan.next_round():
            assert event.torrent not in gone, event
            if event.kind in removals:
                round_removed.add(event.torrent)
        gone |= round_removed | set(plan.cleared())
    assert len(gone) > 50


def test_its_user_keeps_no_more_than_fits() -> None:
    plan = Plan(9, "4.5.2")
    kept = {spec.number: spec for family in plan.first for spec in family}
    for _ in range(30):
        events = plan.next_round()
        kept.update({spec.number: spec for event in events for spec in event.specs})
        for event in events:
            if event.kind in (Kind.REMOVE, Kind.REMOVE_WITH_FILES):
                kept.pop(event.torrent, None)
        for number in plan.cleared():
            kept.pop(number, None)
        assert sum(spec.total_bytes for spec in kept.values()) <= LIBRARY_BYTES
