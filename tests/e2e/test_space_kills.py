"""``kill -9`` of the service at every step of a relocation, before it and after it.

On each real qBittorrent all services live beside each other, each with tiers and torrents
of its own: it takes a tenth of the time, and one qBittorrent moves and checks for many.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trio

from qbm_trio.core.relocation import Step
from tests.rig.kills import victim
from tests.rig.qbt import Chroot, Installed, Launcher, Qbt, running

pytestmark = [pytest.mark.qbittorrent, pytest.mark.slow]

AT_ONCE = 10  #: each of them mostly waits for qBittorrent
THERE = (
    Step.PREPARING, Step.STOPPING, Step.REPOINTING, Step.CHECKING, Step.RESTORING, Step.WAITING,
    Step.DELETING,
)  # fmt: skip
BACK = (Step.RETURNING, Step.RECHECKING, Step.UNDOING)
UNDONE = (Step.PREPARING, Step.STOPPING, Step.REPOINTING)  #: by the next start


@dataclass(frozen=True)
class Case:
    """Where the service is killed. Back is where a relocation goes whose copy is bad."""

    step: Step
    when: str  #: see `tests.rig.die_at`
    stopped: bool = False  #: by its user, before
    twins: bool = False  #: a group: when the first of its two torrents is there

    def __str__(self) -> str:
        group, stopped = "-twins" if self.twins else "", "-stopped" if self.stopped else ""
        return f"{self.step}-{self.when}{group}{stopped}"


CASES = [Case(step, when) for step in (*THERE, *BACK) for when in ("recorded", "done")]
CASES += [
    Case(Step.DELETING, "half"),
    Case(Step.STOPPING, "done", stopped=True),
    Case(Step.CHECKING, "recorded", stopped=True),
    Case(Step.REPOINTING, "done", twins=True),
    Case(Step.CHECKING, "done", twins=True),
    Case(Step.DELETING, "recorded", twins=True),
    Case(Step.DELETING, "done", twins=True),
    Case(Step.RETURNING, "done", twins=True),
]


@pytest.fixture(scope="module", params=["4.5.2", "5.1.0"])
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Case, BaseException | None]]:
    """What each case ended with: None, or why it is no success."""
    root = tmp_path_factory.mktemp("kills")
    launcher: Launcher = Installed() if request.param == "4.5.2" else Chroot(shared=root)
    found: dict[Case, BaseException | None] = {}
    with running(root / "qbt", launcher=launcher) as qbt:

        async def all_cases() -> None:
            limiter = trio.CapacityLimiter(AT_ONCE)
            async with trio.open_nursery() as nursery:
                for case in CASES:
                    nursery.start_soon(one, case, limiter)

        async def one(case: Case, limiter: trio.CapacityLimiter) -> None:
            call = partial(survives, root, qbt, case)
            try:
                await trio.to_thread.run_sync(call, limiter=limiter)
            except Exception as error:
                found[case] = error
            else:
                found[case] = None

        trio.run(all_cases)
        yield found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_kill_at_any_step_leaves_the_torrents_as_they_ran_and_whole(
    outcomes: dict[Case, BaseException | None], case: Case
) -> None:
    error = outcomes[case]
    if error is not None:
        raise error


def survives(root: Path, qbt: Qbt, case: Case) -> None:
    """Relocate, be killed, start again; all must be well then."""
    options = {"seed": CASES.index(case), "stopped": case.stopped, "twins": case.twins}
    with victim(root, qbt, str(case), **options) as one:
        one.tier()
        bad = case.step in BACK
        if bad:
            one.spoil()
        one.die(f"{case.step}:{case.when}")
        one.survive(undone=bad or case.step in UNDONE)
