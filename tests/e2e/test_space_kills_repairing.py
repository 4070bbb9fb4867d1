"""Both are killed: qBittorrent, which forgets the move, and the service, which repeats it.

A computer that loses its power does this. Each service is killed when its deletion has
begun; then qBittorrent, which comes back on the SSD as it had saved itself before the
relocation; then each service once more, while it repairs that.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import pytest
import trio

from tests.rig.forgetting import remember
from tests.rig.kills import LIMIT_S, Victim, victim
from tests.rig.qbt import Chroot, Installed, Launcher, Qbt, running

pytestmark = [pytest.mark.qbittorrent, pytest.mark.slow]

VERSIONS = ("4.5.2", "5.1.0")


@dataclass(frozen=True)
class Case:
    """Where the service is killed, twice: see `tests.rig.die_at`."""

    deleting: str
    repairing: str
    stopped: bool = False  #: by its user, before
    twins: bool = False  #: a group: when the first of its two torrents is there

    def __str__(self) -> str:
        group, stopped = "-twins" if self.twins else "", "-stopped" if self.stopped else ""
        return f"deleting-{self.deleting}-repairing-{self.repairing}{group}{stopped}"


CASES = (
    Case("recorded", "recorded"),
    Case("recorded", "done"),
    Case("half", "recorded"),
    Case("half", "done"),
    Case("recorded", "done", stopped=True),
    Case("done", "done", twins=True),
)
Outcomes = dict[tuple[str, Case], BaseException | None]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    """What each case ended with on each version: None, or why it is no success."""
    found: Outcomes = {}

    async def both(qbts: dict[str, Qbt], victims: dict[str, dict[Case, Victim]]) -> None:
        async with trio.open_nursery() as nursery:  # each of them mostly waits
            for version, qbt in qbts.items():
                nursery.start_soon(all_cases, version, qbt, victims[version], found)

    with ExitStack() as stack:
        qbts, victims = {}, {}
        for version in VERSIONS:
            root = tmp_path_factory.mktemp(f"kills-{version}")
            launcher: Launcher = Installed() if version == "4.5.2" else Chroot(shared=root)
            qbt = qbts[version] = stack.enter_context(running(root / "qbt", launcher=launcher))
            victims[version] = {
                case: stack.enter_context(
                    victim(root, qbt, str(case), seed=n, stopped=case.stopped, twins=case.twins)
                )
                for n, case in enumerate(CASES)
            }
        trio.run(both, qbts, victims)
        for qbt in qbts.values():
            qbt.stop(signal.SIGKILL)  # in order, 4.5.2 takes half a minute after such a test
        yield found


async def all_cases(version: str, qbt: Qbt, victims: dict[Case, Victim], found: Outcomes) -> None:
    """All that use one qBittorrent, in step: it is killed for all of them at once."""

    async def each(call: Callable[[Case, Victim], None]) -> None:
        async with trio.open_nursery() as nursery:
            for case, one in victims.items():
                if found.setdefault((version, case), None) is None:
                    nursery.start_soon(attempt, case, partial(call, case, one))

    async def attempt(case: Case, call: Callable[[], None]) -> None:
        try:
            await trio.to_thread.run_sync(call)
        except Exception as error:
            found[version, case] = error

    await each(lambda _, one: one.tier())
    forget = await trio.to_thread.run_sync(remember, qbt)
    await each(lambda case, one: one.die(f"deleting:{case.deleting}"))
    await trio.to_thread.run_sync(forget)
    await each(lambda _, one: qbt.wait_for(one.back_on_ssd, "they are back on the SSD", LIMIT_S))
    await each(lambda case, one: one.die(f"repairing:{case.repairing}"))
    await each(lambda _, one: one.survive(undone=False))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_killed_while_it_repairs_what_qbittorrent_forgot_it_goes_on(
    outcomes: Outcomes, case: Case, version: str
) -> None:
    error = outcomes[version, case]
    if error is not None:
        raise error
