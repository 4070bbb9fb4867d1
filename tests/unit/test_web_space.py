"""A dry run's answer has the whole plan, and every field of it is explained."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbm_trio.core.space import ChosenTorrent, SparedTorrent
from qbm_trio.core.space_runs import DryRun
from qbm_trio.web import space
from qbm_trio.web.schemas import Answer as Shape
from qbm_trio.web.schemas import Body
from qbm_trio.web.space import plan_answer
from tests.rig.site import DOCUMENT, Answer, assert_documented
from tests.rig.ssd_worlds import World, planned, worlds

SHAPES = sorted(
    name
    for name, shape in vars(space).items()
    if isinstance(shape, type) and issubclass(shape, (Shape, Body)) and shape not in (Shape, Body)
)


@given(worlds(), st.integers(0, 60), st.integers(0, 4))
def test_every_torrent_is_in_the_answer_once_with_what_the_plan_says_of_it(
    world: World, missing: int, room: int
) -> None:
    plan = planned(world, missing=missing, room=room)
    found = DryRun(
        plan=plan,
        ssd_free_bytes=1000,
        ssd_total_bytes=2000,
        threshold_bytes=1000,
        target_bytes=1000 + missing,
        pending_bytes=0,
    )
    body = plan_answer(found).model_dump_json().encode()
    answer = Answer(status=200, headers={"content-type": "application/json"}, body=body)
    assert_documented("POST", "/space-management/trigger", answer)
    document = json.loads(body)
    verdicts: list[ChosenTorrent | SparedTorrent] = [*plan.chosen, *plan.spared]
    assert [(t["hash"], t["bytes"]) for t in document["torrents"]] == [
        (v.torrent_id, v.bytes) for v in verdicts
    ]
    for torrent in document["torrents"]:
        assert (torrent["decision"] == "spared") == (torrent["reason"] is not None)
        assert torrent["sentence"][0].isupper()
        assert torrent["sentence"].endswith(".")
    assert sum(s["torrents"] for s in document["spared"].values()) == len(plan.spared)
    assert document["target_met"] == (document["shortfall_bytes"] == 0)


@pytest.mark.parametrize("name", SHAPES)
def test_every_field_of_space_management_is_described(name: str) -> None:
    schema = DOCUMENT["components"]["schemas"][name]
    assert schema["description"]
    # What a field refers to is described there.
    mute = [f for f, s in schema["properties"].items() if not {"description", "$ref"} & set(s)]
    assert set(mute) <= {"success"}
