"""Figures of runs: sums over a plan, and which run is shown as the last one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from qbm_trio.core.relocation import RunId
from qbm_trio.core.sharing import groups
from qbm_trio.core.space import plan_space
from qbm_trio.core.space_runs import (
    RunFigures,
    SpaceRun,
    SparedSum,
    spared_sums,
    spared_words,
    summary,
    to_be_shown,
)
from tests.rig.ssd_worlds import World, worlds


@given(worlds())
def test_each_spared_torrent_is_counted_once_and_all_bytes_are_there(world: World) -> None:
    plan = plan_space(
        groups(world.facts, world.files),
        world.facts,
        free_bytes=0,
        target_bytes=20,
        pending_bytes=0,
        tier_room=1,
    )
    sums = spared_sums(plan)
    assert sum(total.torrents for total in sums.values()) == len(plan.spared)
    assert sum(total.bytes for total in sums.values()) == sum(plan.spared_bytes.values())
    for reason, total in sums.items():
        members = [t for t in plan.spared if t.reason == reason]
        spared_bytes = {r.value: count for r, count in plan.spared_bytes.items()}
        assert total == SparedSum(torrents=len(members), bytes=spared_bytes.get(reason, 0))
        assert members, "no reason without a torrent"


INTERVAL_S = 300.0


def a_run(*, by_hand: bool, ended_at: float = 1000.0, **figures: object) -> SpaceRun:
    """A run that did nothing and missed its target, unless ``figures`` say otherwise."""
    nothing = RunFigures(
        freed_bytes=0,
        planned_bytes=0,
        shortfall_bytes=1,
        target_met=False,
        relocated=0,
        tiered_first=0,
        failed_groups=0,
    )
    return SpaceRun(
        id=RunId("run"),
        by_hand=by_hand,
        begun_at=ended_at,
        ended_at=ended_at,
        figures=replace(nothing, **figures),  # type: ignore[arg-type]
    )


BY_HAND = a_run(by_hand=True, relocated=1)


def shown(run: SpaceRun, after: SpaceRun | None = BY_HAND) -> bool:
    return to_be_shown(run, after=after, interval_s=INTERVAL_S)


def test_a_run_by_itself_that_did_nothing_does_not_hide_one_by_hand_for_an_interval() -> None:
    assert not shown(a_run(by_hand=False))
    assert not shown(a_run(by_hand=False, ended_at=1000 + INTERVAL_S - 1))
    assert shown(a_run(by_hand=False, ended_at=1000 + INTERVAL_S))
    assert shown(a_run(by_hand=False, ended_at=900)), "the clock was set back"


@pytest.mark.parametrize(
    "figures",
    [
        {"relocated": 1},
        {"tiered_first": 1},
        {"failed_groups": 1},
        {"problem": "qBittorrent is away"},
        {"paused": "a snapshot"},
        {"target_met": True},
    ],
    ids=str,
)
def test_one_that_has_something_to_tell_is_shown_at_once(figures: dict[str, Any]) -> None:
    assert shown(a_run(by_hand=False, **figures))


def test_one_by_hand_and_one_that_follows_none_by_hand_are_always_shown() -> None:
    assert shown(a_run(by_hand=True))
    assert shown(a_run(by_hand=False), after=a_run(by_hand=False, relocated=1))
    assert shown(a_run(by_hand=False), after=None)


def test_a_summary_says_what_came_of_a_run() -> None:
    spared = {
        "pinned": SparedSum(torrents=1, bytes=10),
        "frees_nothing": SparedSum(torrents=2, bytes=99),
    }
    run = a_run(by_hand=True, relocated=2, failed_groups=1, tiered_first=1, spared=spared)
    assert summary(run) == (
        "run run: 2 torrents relocated; 0 of 0 bytes freed; 1 group failed; 1 torrent to be "
        "copied first; 1 bytes are still missing to the target; spared: frees_nothing "
        "(2 torrents, 99 bytes), pinned (1 torrent, 10 bytes)"
    )
    assert summary(a_run(by_hand=True, target_met=True)).endswith("; the target is met")
    assert summary(a_run(by_hand=True, problem="no disk")).endswith("; it ended early (no disk)")
    assert spared_words({}) == "none"
