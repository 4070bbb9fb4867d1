"""Sums over a plan, as a run's figures and a dry run show them."""

from __future__ import annotations

from hypothesis import given

from qbm_trio.core.sharing import groups
from qbm_trio.core.space import plan_space
from qbm_trio.core.space_runs import SparedSum, spared_sums
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
