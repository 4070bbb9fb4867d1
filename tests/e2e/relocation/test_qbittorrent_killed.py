"""qBittorrent is killed in mid-relocation and started again; it may have saved nothing since."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from qbm_trio.core.relocation import Step
from tests.rig.inside import condition
from tests.rig.relocations import OnBoth, World, corrupt

pytestmark = pytest.mark.qbittorrent

FORWARD = (
    Step.PREPARING,
    Step.STOPPING,
    Step.REPOINTING,
    Step.CHECKING,
    Step.RESTORING,
    Step.WAITING,
    Step.DELETING,
)
BACK = (Step.RETURNING, Step.RECHECKING, Step.UNDOING)


async def whole_somewhere(w: World, id_: str, *, folder: str = "tv") -> Step:
    """Wherever it ended: all of it is there, and it seeds as before."""
    row = await w.at_step(id_, Step.DONE, Step.UNDONE)
    await w.whole(id_, at=w.hdd if row.step is Step.DONE else w.ssd)
    left = set() if row.step is Step.DONE else w.files(id_)
    assert w.on(w.ssd, id_, folder=folder) == left
    return row.step


@pytest.mark.parametrize("step", [*FORWARD, *BACK])
async def test_killed_between_two_steps_it_is_whole_and_seeds(on_both: OnBoth, step: Step) -> None:
    """So fast that nobody notices: only what it has forgotten tells."""

    async def scenario(w: World) -> None:
        id_ = await w.tiered("Killed")
        if step in BACK:
            corrupt(w.hdd.at / "tv/Killed/sub/b")
        w.strikes.before(step, w.kill_and_start)
        await w.run()
        await w.strikes.come()
        await whole_somewhere(w, id_)

    await on_both(scenario)


@pytest.mark.parametrize("call", ["set_location", "recheck", "start"])
async def test_killed_right_after_a_call_it_is_whole_and_seeds(on_both: OnBoth, call: str) -> None:
    async def scenario(w: World) -> None:
        id_ = await w.tiered("Killed")
        w.strikes.after_call(call, w.kill_and_start)
        await w.run()
        await w.strikes.come()
        await whole_somewhere(w, id_)

    await on_both(scenario)


@pytest.mark.parametrize("step", [*FORWARD[1:], *BACK])
async def test_killed_with_all_its_options_on_it_has_them_as_before(
    on_both: OnBoth, step: Step
) -> None:
    """And away for long enough that it is noticed."""

    async def scenario(w: World) -> None:
        id_ = await w.tiered("Optioned", **w.all_options())
        before = w.qbt.info(id_)
        assert before["auto_tmm"]
        assert before["download_path"]
        if step in BACK:
            corrupt(w.hdd.at / "managed/Optioned/sub/b")
        w.strikes.before(step, w.kill_until_noticed)
        await w.run()
        await w.strikes.come()
        end = await whole_somewhere(w, id_, folder="managed")
        after = w.qbt.info(id_)
        assert after["download_path"] == before["download_path"]
        assert after["auto_tmm"] is (end is Step.UNDONE)

    await on_both(scenario)


async def only_once(came: Callable[[], int]) -> None:
    """Look for a second whether it comes again: it would come at once."""
    with trio.move_on_after(1):
        await condition(lambda: came() > 1)
    assert came() == 1


def forgetting(w: World, *, since: Step, at: Step) -> None:
    """Let qBittorrent be killed at a step, and come back as it was at an earlier one."""
    forget: list[Callable[[], None]] = []
    w.strikes.before(since, lambda: forget.append(w.remember()))
    w.strikes.before(at, lambda: forget[0]())


@pytest.mark.parametrize(
    ("since", "at"),
    [
        (Step.STOPPING, Step.CHECKING),
        (Step.STOPPING, Step.WAITING),
        (Step.STOPPING, Step.DELETING),
        (Step.RESTORING, Step.WAITING),
        (Step.RESTORING, Step.DELETING),
        (Step.RETURNING, Step.RECHECKING),
        (Step.RETURNING, Step.UNDOING),
    ],
)
async def test_what_it_has_forgotten_is_done_again(on_both: OnBoth, since: Step, at: Step) -> None:
    """It saves what it was told some time later, or never when it is killed."""

    async def scenario(w: World) -> None:
        id_ = await w.tiered("Forgotten")
        if at in BACK:
            corrupt(w.hdd.at / "tv/Forgotten/sub/b")
        forgetting(w, since=since, at=at)
        await w.run()
        await w.strikes.come()
        await whole_somewhere(w, id_)

    await on_both(scenario)


async def test_killed_while_it_checks_a_corrupt_copy_it_is_not_believed(on_both: OnBoth) -> None:
    """5.1 comes back as if it had checked it: stopped, complete, on the HDD."""

    async def scenario(w: World) -> None:
        id_ = await w.tiered("Unchecked")
        corrupt(w.hdd.at / "tv/Unchecked/sub/b")
        forget: list[Callable[[], None]] = []
        w.strikes.before(Step.CHECKING, lambda: forget.append(w.remember()))
        w.strikes.after_call("recheck", lambda: forget[0]())
        await w.run()
        await w.strikes.come()
        assert await whole_somewhere(w, id_) is Step.UNDONE

    await on_both(scenario)


async def test_a_move_that_it_has_forgotten_is_not_repeated_without_the_hdd(
    on_both: OnBoth,
) -> None:
    """The computer was started anew, and the HDD comes late."""

    async def scenario(w: World) -> None:
        id_ = await w.tiered("Rebooted")
        forgetting(w, since=Step.STOPPING, at=Step.DELETING)
        w.strikes.before(Step.DELETING, w.hdd.unmount)  # first
        moves = w.strikes.count("set_location")
        await w.begin()
        await w.strikes.come()
        await only_once(moves)
        assert list(w.hdd.at.iterdir()) == []
        assert w.on(w.ssd, id_) == w.files(id_)
        w.hdd.mount()
        assert await whole_somewhere(w, id_) is Step.DONE

    await on_both(scenario)


async def test_what_it_forgets_while_the_deletion_waits_for_the_hdd_is_seen_before_it(
    on_both: OnBoth,
) -> None:
    """It seeds from the SSD again: its files must not be deleted from under it."""

    async def scenario(w: World) -> None:
        id_ = await w.tiered("Waits")
        forget: list[Callable[[], None]] = []
        w.strikes.before(Step.STOPPING, lambda: forget.append(w.remember()))
        w.strikes.after_looks(Step.DELETING, w.hdd.unmount)
        await w.run()
        await w.strikes.come()
        await trio.to_thread.run_sync(forget[0])
        await condition(lambda: w.qbt.info(id_)["content_path"].startswith(str(w.ssd.at)))
        w.hdd.mount()
        assert await whole_somewhere(w, id_) is Step.DONE

    await on_both(scenario)


async def test_on_the_way_back_it_is_not_sent_to_an_ssd_that_is_away(on_both: OnBoth) -> None:
    """It would take the copy along, into an empty mount point."""

    async def scenario(w: World) -> None:
        id_ = await w.tiered("Back")
        corrupt(w.hdd.at / "tv/Back/sub/b")
        w.strikes.before(Step.RETURNING, w.ssd.unmount)
        moves = w.strikes.count("set_location")
        await w.run()
        await w.strikes.come()
        await only_once(moves)
        assert list(w.ssd.at.iterdir()) == []
        w.ssd.mount()
        w.make_room()  # what fills it up is there again
        assert await whole_somewhere(w, id_) is Step.UNDONE

    await on_both(scenario)
