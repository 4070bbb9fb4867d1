"""A restored journal knows an earlier step of a relocation than was taken.

Or none at all. Whatever the truth is: no data is lost, and no torrent stays stopped.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from qbm_trio.core.model import TorrentId
from qbm_trio.core.readiness import SEEDING
from qbm_trio.core.relocation import OPEN, Step
from qbm_trio.core.space import RELOCATING_TAG
from qbm_trio.tasks import relocation_watch
from tests.rig.damage import DAMAGES
from tests.rig.shelves import Shelf, Watched, corrupt_copy, held, shelf

STOPPED = {"pausedUP", "stoppedUP", "pausedDL", "stoppedDL"}


def damage(root: Path) -> None:
    """Nothing of the journal can be read: there is the recovery point only."""
    state = root / "state"
    for end in ("-wal", "-shm"):
        (state / f"journal.sqlite3{end}").unlink(missing_ok=True)
    (state / "journal.sqlite3").write_bytes(b"garbage" * 1000)


@asynccontextmanager
async def saved_at_its_beginning(
    it: Shelf,
    monkeypatch: pytest.MonkeyPatch,
    step: Step,
    when: str = "recorded",
    *,
    name: str | None = None,
) -> AsyncIterator[None]:
    """A relocation of which the recovery point knows the first step stands at this one."""
    with (
        held(monkeypatch, step, when, name=name) as hold,
        held(monkeypatch, Step.PREPARING, name=name) as begun,
    ):
        it.space.trigger()
        await begun.wait()
        await it.inside.service.save_state()
        begun.go_on.set()
        await hold.wait()
        yield


def assert_well(it: Shelf, *ids: TorrentId, where: str | None = None) -> None:
    """Each torrent runs as it ran, and has all its files in the place that it seeds from."""
    for id_ in ids:
        state, tier = it.state(id_)
        assert state in SEEDING - STOPPED, state
        assert tier == (where or tier)
        torrent = it.fake._torrents[id_]
        assert it.files(Path(torrent.content_path).name, tier=tier) >= {"a", "b"}
        assert RELOCATING_TAG not in it.fake.tags(id_)
        assert not torrent.download_path


@pytest.mark.parametrize("old", [False, True], ids=["5.x", "4.5"])
@pytest.mark.parametrize("slipped", [False, True], ids=["", "qBittorrent was killed, too"])
@pytest.mark.parametrize("when", ["recorded", "taken"])
@pytest.mark.parametrize(
    "truth",
    [
        Step.PREPARING,
        Step.STOPPING,
        Step.REPOINTING,
        Step.CHECKING,
        Step.RESTORING,
        Step.WAITING,
        Step.DELETING,
    ],
)
async def test_recorded_at_its_beginning_and_really_at_any_step(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    truth: Step,
    when: str,
    slipped: bool,
    old: bool,
) -> None:
    fake = Watched(old=old)
    async with shelf(tmp_path, monkeypatch, fake=fake) as it:
        ids = [await it.tiered("T"), *await it.twins("G")]
        await it.leave_free(0)
        async with saved_at_its_beginning(it, monkeypatch, truth, when, name="T"):
            if slipped:
                it.slip(ids[0])
    damage(tmp_path)
    seen: list[Step] = []
    async with shelf(tmp_path, monkeypatch, fake=fake) as it:
        with held(monkeypatch, Step.DONE, seen=seen):
            rows = await it.all_ended()
    assert Step.LOCATING in seen
    assert not seen.count(Step.PREPARING)
    assert_well(it, *ids)
    gone = truth is Step.DELETING and when == "taken"
    assert it.state(ids[0])[1] == ("hdd" if gone else "ssd")
    assert rows["T"].step in (Step.UNDONE, Step.MOVED, Step.DONE)


def delete_one(it: Shelf) -> None:
    (it.inside.ssd / "tv" / "T" / "a").unlink()


def as_unfinished(it: Shelf) -> None:
    for name in ("a", "b"):
        path = it.inside.ssd / "tv" / "T" / name
        path.rename(path.with_name(f"{name}.!qB"))


@pytest.mark.parametrize("slipped", [False, True], ids=["", "qBittorrent was killed, too"])
async def test_a_deletion_cut_off_in_its_middle_is_ended_after_one_more_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slipped: bool
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        id_ = await it.tiered("T")
        await it.leave_free(0)
        async with saved_at_its_beginning(it, monkeypatch, Step.DELETING):
            delete_one(it)
            if slipped:
                it.slip(id_)
    damage(tmp_path)
    it.calls()
    async with shelf(tmp_path, monkeypatch, fake=it.fake) as it:
        rows = await it.all_ended()
        assert it.calls()["recheck"] == 1
    assert rows["T"].step is Step.DONE
    assert it.files("T") == set()
    assert_well(it, id_, where="hdd")


async def test_what_is_left_of_a_deletion_stays_when_the_copy_is_not_what_was_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when it was published again after the recovery point."""
    async with shelf(tmp_path, monkeypatch) as it:
        id_ = await it.tiered("T")
        await it.leave_free(0)
        async with saved_at_its_beginning(it, monkeypatch, Step.DELETING):
            delete_one(it)
            copy = it.inside.hdd / "tv" / "T" / "b"
            copy.touch()  # another time than the recorded one
    damage(tmp_path)
    async with shelf(tmp_path, monkeypatch, fake=it.fake) as it:
        rows = await it.all_ended()
    assert rows["T"].step is Step.MOVED
    assert it.files("T") == {"b"}
    assert_well(it, id_, where="hdd")


@pytest.mark.parametrize("spoil", [lambda it: corrupt_copy(it.inside, "T"), as_unfinished])
async def test_with_its_files_on_the_ssd_it_goes_back_whatever_the_copy_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Shelf], None]
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        id_ = await it.tiered("T")
        await it.leave_free(0)
        async with saved_at_its_beginning(it, monkeypatch, Step.CHECKING):
            spoil(it)
    damage(tmp_path)
    async with shelf(tmp_path, monkeypatch, fake=it.fake) as it:
        rows = await it.all_ended()
    assert rows["T"].step is Step.UNDONE
    assert_well(it, id_, where="ssd")


async def test_it_waits_for_a_disk_that_is_away_before_anything_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the SSD all its files look deleted."""
    async with shelf(tmp_path, monkeypatch) as it:
        id_ = await it.tiered("T")
        await it.leave_free(0)
        async with saved_at_its_beginning(it, monkeypatch, Step.WAITING):
            pass  # the service stops there
    damage(tmp_path)
    it.unmount("ssd")
    (it.inside.ssd / "tv").mkdir()
    async with shelf(tmp_path, monkeypatch, fake=it.fake) as it:
        row = await it.at("T", Step.LOCATING)
        with held(monkeypatch, Step.LOCATING, "taken") as hold:
            it.mount("ssd")
            await hold.wait()
            row = (await it.rows())["T"]
            assert row.step is Step.LOCATING
            hold.go_on.set()
            rows = await it.all_ended()
    assert rows["T"].step is Step.UNDONE
    assert_well(it, id_, where="ssd")


async def test_one_that_was_removed_meanwhile_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        id_ = await it.tiered("T")
        await it.leave_free(0)
        with held(monkeypatch, Step.PREPARING) as begun:
            it.space.trigger()
            await begun.wait()
            await it.inside.service.save_state()
    damage(tmp_path)
    it.fake.remove(id_)
    monkeypatch.setattr(relocation_watch, "GONE_AFTER_S", 0.3)
    monkeypatch.setattr(relocation_watch, "GONE_LOOK_S", 0.02)
    async with shelf(tmp_path, monkeypatch, fake=it.fake) as it:
        assert (await it.all_ended())["T"].step is Step.GONE
    assert it.files("T") == {"a", "b"}


async def test_a_relocation_that_began_after_the_point_is_read_from_the_damaged_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        id_ = await it.tiered("T")
        await it.inside.service.save_state()
        await it.leave_free(0)
        with held(monkeypatch, Step.CHECKING) as hold:
            it.space.trigger()
            await hold.wait()
            assert it.state(id_)[0] in STOPPED
    DAMAGES["bits flipped in the header"](tmp_path / "state")
    async with shelf(tmp_path, monkeypatch, fake=it.fake) as it:
        rows = await it.all_ended()
    assert rows["T"].step is Step.UNDONE
    assert_well(it, id_, where="ssd")
    assert not {row.step for row in rows.values()} & OPEN
