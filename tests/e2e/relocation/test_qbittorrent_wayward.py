"""qBittorrent answers wrongly or too late in mid-relocation; it may have done what it was told."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import trio

from qbm_trio.core.relocation import Step
from tests.rig.inside import condition
from tests.rig.qbt import Qbt
from tests.rig.relocations import LIMIT_S, SPED_UP, World, corrupt, world
from tests.rig.wayward import Mood, Wayward, wayward

pytestmark = pytest.mark.qbittorrent

READ_LIMIT_S = 1.0
LATE = "late"  #: each answer comes after the time limit
BACK = (Step.RETURNING, Step.RECHECKING, Step.UNDOING)
MOST_TRIES_S = 10  #: with a longest pause of 0.2 s


async def trouble(w: World, relay: Wayward, mood: str) -> None:
    """Answer so until the service has noticed, and a second more; then well again."""
    late = mood == LATE
    began = relay.be(delay_s=2 * READ_LIMIT_S) if late else relay.be(Mood(mood))

    async def mend() -> None:
        with trio.fail_after(LIMIT_S):
            await w.service.service.client.wait_unreachable()
        until = time.monotonic() + 1
        await condition(lambda: time.monotonic() > until)
        took_s, calls = time.monotonic() - began, relay.since(began)
        relay.be(Mood.WELL)
        # Two calls a try, for one whose connection breaks is sent once more; and before the
        # first failure is known, those of the step.
        assert calls.total() <= 2 * MOST_TRIES_S * took_s + 6, calls

    w.nursery.start_soon(mend)


@pytest.mark.parametrize(
    ("step", "mood"),
    [
        (Step.STOPPING, Mood.ERROR_500),
        (Step.REPOINTING, Mood.HALF),
        (Step.REPOINTING, LATE),
        (Step.CHECKING, LATE),
        (Step.RESTORING, Mood.PAGE),
        (Step.WAITING, Mood.RESET),
        (Step.DELETING, Mood.PAGE),
        (Step.RETURNING, Mood.HALF),
        (Step.RECHECKING, Mood.UNAVAILABLE_503),
        (Step.UNDOING, LATE),
    ],
)
async def test_wrong_or_late_answers_cost_no_file_and_the_torrent_runs_again(
    place: Path,
    qbts: dict[str, Qbt],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    step: Step,
    mood: str,
) -> None:
    for name, value in SPED_UP.items():
        monkeypatch.setattr(name, value)
    if mood == LATE:
        monkeypatch.setattr("qbm_trio.adapters.qbittorrent_session.READ_LIMIT_S", READ_LIMIT_S)

    async def play(version: str) -> None:
        root = place / f"{request.node.name} {version}".replace("/", " ")
        qbt = qbts[version]
        with wayward(qbt.web_port) as relay:
            async with world(root, qbt, url=relay.url) as w:
                id_ = await w.tiered("Wayward")
                if step in BACK:
                    corrupt(w.hdd.at / "tv/Wayward/sub/b")

                async def strike() -> None:
                    await trouble(w, relay, mood)

                w.strikes.before(step, strike)
                await w.run()
                await w.strikes.come()
                row = await w.at_step(id_, Step.DONE, Step.UNDONE)
                await w.whole(id_, at=w.hdd if row.step is Step.DONE else w.ssd)
                left = set() if row.step is Step.DONE else w.files(id_)
                assert w.on(w.ssd, id_) == left

    async with trio.open_nursery() as nursery:
        for version in qbts:
            nursery.start_soon(play, version)
