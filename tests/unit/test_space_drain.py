"""The service is stopped in mid-relocation, and started again."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from qbm_trio.adapters import journal_relocations
from qbm_trio.core.errors import Draining
from qbm_trio.core.relocation import Step
from qbm_trio.core.space import RELOCATING_TAG
from tests.fakes.qbittorrent import away
from tests.rig.shelves import WRITES, Shelf, corrupt_copy, held, shelf

EARLY = [Step.PREPARING, Step.STOPPING]
LATER = [Step.REPOINTING, Step.CHECKING, Step.RESTORING, Step.WAITING, Step.DELETING]
BACK = [Step.RETURNING, Step.RECHECKING, Step.UNDOING]


async def drained_at(it: Shelf, monkeypatch: pytest.MonkeyPatch, step: Step, when: str) -> None:
    """Begin a run by hand, and stop the service at a step of its first torrent."""
    await it.leave_free(0)
    with held(monkeypatch, step, when) as hold:
        it.space.trigger()
        await hold.wait()
    began_s = trio.current_time()
    await it.drain()
    assert trio.current_time() - began_s < 2, "the grace is 5 s"


@pytest.mark.parametrize("ran", [True, False])
@pytest.mark.parametrize("when", ["recorded", "taken"])
@pytest.mark.parametrize("step", EARLY)
async def test_what_is_not_past_set_location_is_undone_before_the_service_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: Step, when: str, ran: bool
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        state = "stalledUP" if ran else "stoppedUP"
        settings = {"auto_management": ran, "download_path": "" if ran else str(tmp_path / "i")}
        id_ = await it.tiered("T", state=state, **settings)
        tags = it.fake.tags(id_)
        await drained_at(it, monkeypatch, step, when)
        assert it.state(id_) == (state, "ssd")
        assert it.fake.tags(id_) == tags
        torrent = it.fake._torrents[id_]
        assert {name: getattr(torrent, name) for name in settings} == settings
        it.calls()
    async with shelf(tmp_path, monkeypatch, fake=it.fake) as it:
        await it.idle()
        row = (await it.rows())["T"]
        assert (row.step, row.failed) == (Step.UNDONE, False)
        assert f"stopped while it was {step}" in (row.error or "")
        assert not WRITES & it.calls().keys()
        await it.leave_free(0)
        assert (await it.run_now()).figures.relocated == 1, "it is no failure"


@pytest.mark.parametrize("ran", [True, False])
@pytest.mark.parametrize("when", ["recorded", "taken"])
@pytest.mark.parametrize("step", LATER)
async def test_later_steps_go_on_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: Step, when: str, ran: bool
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        state = "stalledUP" if ran else "stoppedUP"
        id_ = await it.tiered("T", state=state)
        await drained_at(it, monkeypatch, step, when)
    async with shelf(tmp_path, monkeypatch, fake=it.fake) as it:
        row = (await it.all_ended())["T"]
        on_hdd = step is not Step.REPOINTING
        assert row.step is (Step.DONE if on_hdd else Step.UNDONE)
        assert it.state(id_) == (state, "hdd" if on_hdd else "ssd")
        assert it.files("T") == (set() if on_hdd else {"a", "b"})
        assert it.files("T", tier="hdd") == {"a", "b"}
        assert RELOCATING_TAG not in it.fake.tags(id_)


@pytest.mark.parametrize("ran", [True, False])
@pytest.mark.parametrize("when", ["recorded", "taken"])
@pytest.mark.parametrize("step", BACK)
async def test_a_way_back_is_gone_to_its_end_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: Step, when: str, ran: bool
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        state = "stalledUP" if ran else "stoppedUP"
        id_ = await it.tiered("T", state=state)
        corrupt_copy(it.inside, "T")
        await drained_at(it, monkeypatch, step, when)
    async with shelf(tmp_path, monkeypatch, fake=it.fake) as it:
        row = (await it.all_ended())["T"]
        assert row.step is Step.UNDONE
        assert it.state(id_) == (state, "ssd")
        assert it.files("T") == {"a", "b"}
        assert RELOCATING_TAG not in it.fake.tags(id_)
        jobs = await it.inside.service.jobs.newest(state=None, limit=9, after=None)
        assert len(jobs) == 2, "its first, and the one that makes the copy anew"


async def test_once_it_stops_no_group_and_no_run_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        await it.shelf_of(2)
        await drained_at(it, monkeypatch, Step.STOPPING, "taken")
        with pytest.raises(Draining):
            it.space.trigger()
        assert it.runs == {}, "what came of it is not known"
    async with shelf(tmp_path, monkeypatch, fake=it.fake) as it:
        assert await it.inside.journal.do(journal_relocations.last_run) is None
        assert (await it.rows()).keys() == {"T0"}


async def test_a_service_that_is_stopped_before_it_began_undoes_what_an_earlier_one_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle, started while qBittorrent was away, then stopped."""
    async with shelf(tmp_path, monkeypatch) as it:
        id_ = await it.tiered("T")
        await it.leave_free(0)
        with held(monkeypatch, Step.STOPPING, "taken") as hold:
            it.space.trigger()
            await hold.wait()
    assert it.state(id_) == ("stoppedUP", "ssd")
    async with shelf(tmp_path, monkeypatch, fake=it.fake) as it:
        with held(monkeypatch, Step.UNDOING) as hold:
            await hold.wait()
        await it.drain()
        assert it.state(id_) == ("stalledUP", "ssd")


@pytest.mark.parametrize("trouble", ["away", "bug"])
async def test_what_cannot_be_undone_while_it_stops_is_left_to_the_next_start(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    trouble: str,
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        id_ = await it.tiered("T")
        await it.leave_free(0)
        with held(monkeypatch, Step.STOPPING, "taken") as hold:
            it.space.trigger()
            await hold.wait()

        async def watch(name: str, *_: object) -> None:
            raise away() if trouble == "away" else ZeroDivisionError

        it.fake.watch = watch
        await it.drain()
        it.fake.watch = None
        assert it.state(id_) == ("stoppedUP", "ssd")
        assert "undone at the next start" in caplog.text
        assert ("a bug" in caplog.text) is (trouble == "bug")
    async with shelf(tmp_path, monkeypatch, fake=it.fake) as it:
        assert (await it.all_ended())["T"].step is Step.UNDONE
        assert it.state(id_) == ("stalledUP", "ssd")
        assert RELOCATING_TAG not in it.fake.tags(id_)


async def test_a_service_that_drains_looks_for_nothing_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch, RECONCILE_INTERVAL_S="0.05") as it:
        reconciler = it.inside.service.reconciler
        await reconciler.looked.wait()
        await it.drain()
        it.calls()
        looked = reconciler.looked
        with trio.move_on_after(0.2):  # four times as long as it looked until now
            await looked.wait()
        assert "changes" not in it.calls()
