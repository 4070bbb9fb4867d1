"""A disk is away while qBittorrent checks what is on it: no verdict on the files."""

from __future__ import annotations

from pathlib import Path

import pytest

from qbm_trio.core.relocation import Step
from qbm_trio.tasks.tiers import Tiers
from tests.rig.inside import condition
from tests.rig.shelves import Shelf, corrupt_copy, held, run, shelf


async def blink(it: Shelf, tier: str, *, back: bool = True) -> None:
    """Take the disk away at the next recheck; have it back when that has failed, or not."""
    checked = 0

    async def watch(name: str, *_: object) -> None:
        nonlocal checked
        if name == "recheck":
            it.unmount(tier)
            it.fake.watch = seen

    async def seen(name: str, *_: object) -> None:
        nonlocal checked
        checked += name == "torrent"
        if back and checked == 3:  # seen once as it is
            it.fake.watch = None
            it.mount(tier)

    it.fake.watch = watch


async def test_a_copy_is_not_called_bad_when_its_disk_was_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        await it.leave_free(0)
        with held(monkeypatch, Step.CHECKING) as hold:
            it.space.trigger()
            await hold.wait()
            await blink(it, "hdd", back=False)
            hold.go_on.set()
            row = await it.at("T0", Step.RETURNING, Step.RECHECKING, Step.UNDOING, Step.UNDONE)
            it.mount("hdd")
            row = (await it.all_ended())["T0"]
        assert row.step is Step.UNDONE
        assert not row.tier_anew
        assert "is not mounted there" in (row.error or "")
        assert it.state(id_) == ("stalledUP", "ssd")
        jobs = await it.inside.service.jobs.newest(state=None, limit=9, after=None)
        assert len(jobs) == 1, "nothing is copied anew"


async def test_a_repair_goes_on_when_the_disk_that_was_away_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing on the SSD any more."""
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        await it.leave_free(0)
        with held(monkeypatch, Step.DELETING, "taken") as hold:
            it.space.trigger()
            await hold.wait()
    it.slip(id_)
    async with shelf(tmp_path, monkeypatch, fake=it.fake) as it:
        with held(monkeypatch, Step.REPAIRING) as repair:
            await repair.wait()
            await blink(it, "hdd", back=False)
            repair.go_on.set()
            await condition(lambda: "is not mounted" in (shown(it) or ""))
            it.mount("hdd")
            assert (await it.all_ended())["T0"].step is Step.DONE
        assert it.state(id_) == ("stalledUP", "hdd")


async def test_a_repair_waits_until_qbittorrent_sees_the_hdd_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its container was started before the disk was mounted; the SSD's files are gone.

    That is in the log once, however often it is tried.
    """
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        await it.leave_free(0)
        with held(monkeypatch, Step.DELETING, "taken") as hold:
            it.space.trigger()
            await hold.wait()
    it.slip(id_)
    async with shelf(tmp_path, monkeypatch, fake=it.fake) as it:
        it.fake.disk = lambda path: Path(path.replace(str(it.inside.hdd), str(tmp_path / "no")))
        await condition(lambda: "qBittorrent does not see" in (shown(it) or ""))
        tries = it.fake.calls.count
        asked = next(call for call in it.fake.calls if call[0] == "folder")
        await condition(lambda: tries(asked) >= 4)
        assert sum("qBittorrent does not see" in line for line in caplog.messages) == 1
        assert it.state(id_)[1] == "ssd"
        it.fake.disk = Path
        assert (await it.all_ended())["T0"].step is Step.DONE
        assert it.state(id_) == ("stalledUP", "hdd")


def shown(it: Shelf) -> str | None:
    return next((one.error for one in it.space.overview().relocations), None)


@pytest.mark.parametrize("back", [True, False])
async def test_a_torrent_that_goes_back_is_checked_again_when_its_disk_was_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, back: bool
) -> None:
    """Started incomplete, it would download what it has."""
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        corrupt_copy(it.inside, "T0")
        await it.leave_free(0)
        with held(monkeypatch, Step.RECHECKING) as hold:
            it.space.trigger()
            await hold.wait()
            await blink(it, "ssd", back=back)
            hold.go_on.set()
            if not back:
                await condition(lambda: "is not mounted" in (shown(it) or ""))
                it.mount("ssd")
            row = (await it.all_ended())["T0"]
        assert row.step is Step.UNDONE
        assert "recheck on the SSD" not in (row.error or "")
        assert it.state(id_) == ("stalledUP", "ssd")


async def test_nothing_is_stopped_where_a_folder_of_the_hdd_is_on_the_disk_of_the_ssd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiers themselves are on two."""
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)

        async def asked(self: Tiers, on_ssd: Path, on_hdd: Path) -> bool:
            return (on_ssd, on_hdd) == (it.inside.ssd / "tv/T0", it.inside.hdd / "tv/T0")

        monkeypatch.setattr(Tiers, "on_one_file_system", asked)
        it.calls()
        row = (await run(it))["T0"]
        assert row.step is Step.UNDONE
        assert "are on one file system" in (row.error or "")
        assert it.state(id_) == ("stalledUP", "ssd")
        assert not it.calls().keys() & {"stop", "set_location", "recheck"}
        assert it.files("T0") == {"a", "b"}


async def test_an_ssd_that_goes_away_during_the_move_is_not_called_data_that_was_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That would pause all runs until one is triggered by hand."""
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        await it.leave_free(0)
        called = False

        async def watch(name: str, *_: object) -> None:
            nonlocal called
            if called:
                it.unmount("ssd")
                it.fake.watch = None
            called = called or name == "set_location"

        it.fake.watch = watch
        figures = (await it.run_now()).figures
        it.mount("ssd")
        assert (await it.all_ended())["T0"].step is Step.UNDONE
        assert it.fake.watch is None
        assert figures.paused is None
        assert "its disk is not mounted there" in (figures.problem or "")
        assert it.state(id_) == ("stalledUP", "ssd")
