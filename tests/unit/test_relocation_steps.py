"""A relocation that something goes wrong with: nothing is lost, and no torrent stays stopped."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from qbm_trio.core.errors import TorrentUnknown
from qbm_trio.core.model import TorrentId
from qbm_trio.core.regions import Regions
from qbm_trio.core.relocation import FORWARD, Step
from qbm_trio.core.space import RELOCATING_TAG
from qbm_trio.tasks import relocation_proofs, relocation_watch, ssd_lists
from tests.rig.shelves import Shelf, corrupt_copy, held, run, shelf

SEEDS = ("stalledUP", "forcedUP")
ON_THE_WAY = [step for step in Step if step in FORWARD]


def settings_of(it: Shelf, id_: TorrentId) -> tuple[bool, str, bool]:
    torrent = it.fake._torrents[id_]
    return torrent.auto_management, torrent.download_path, torrent.force_start


def failing(*_: object, **__: object) -> bool:
    """A move that qBittorrent does not say has failed."""
    raise OSError("No space left on device")


# -- qBittorrent forgets the move ---------------------------------------------------------


async def test_a_torrent_back_on_the_ssd_before_its_deletion_is_pointed_at_its_copy_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        await it.leave_free(0)
        steps: list[Step] = []
        with held(monkeypatch, Step.WAITING, "taken", seen=steps) as hold:
            run_id = it.space.trigger().run_id
            await hold.wait()
            it.slip(id_)
            hold.go_on.set()
            figures = (await it.ended(run_id)).figures
        assert steps[-2:] == [Step.REPAIRING, Step.DELETING]
        assert (figures.relocated, figures.failed_groups) == (1, 0)
        assert it.state(id_) == ("stalledUP", "hdd")
        assert it.files("T0") == set()


async def test_a_torrent_back_on_the_ssd_with_files_deleted_is_pointed_at_its_copy_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both were killed: the service after the deletion, before it could record it."""
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        await it.leave_free(0)
        with held(monkeypatch, Step.DELETING, "taken") as hold:
            it.space.trigger()
            await hold.wait()
    assert it.files("T0") == set()
    it.slip(id_)
    async with shelf(tmp_path, monkeypatch, fake=it.fake) as it:
        assert (await it.all_ended())["T0"].step is Step.DONE
        assert it.state(id_) == ("stalledUP", "hdd")


@pytest.mark.parametrize(
    ("slips", "deleted"),
    [
        pytest.param(["files"], False, id="before the first file is deleted"),
        pytest.param(["add_tags"], True, id="after the last file is deleted"),
        pytest.param(["add_tags", "recheck"], True, id="and again during the repair"),
    ],
)
async def test_a_torrent_that_slips_during_its_deletion_is_not_left_on_the_ssd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slips: list[str], deleted: bool
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        await it.leave_free(0)

        async def watch(name: str, *arguments: object) -> None:
            if slips and name == slips[0] and arguments[0] in (id_, (id_,)):
                slips.pop(0)
                it.slip(id_)

        with (
            held(monkeypatch, Step.REPAIRING) as repair,
            held(monkeypatch, Step.DELETING) as hold,
        ):
            it.space.trigger()
            await hold.wait()
            it.fake.watch = watch
            hold.go_on.set()
            await repair.wait()
            assert it.files("T0") == (set() if deleted else {"a", "b"})
            repair.go_on.set()
            assert (await it.all_ended())["T0"].step is Step.DONE
        assert not slips
        assert it.state(id_) == ("stalledUP", "hdd")
        assert it.files("T0") == set()


async def test_a_torrent_that_runs_again_is_not_pointed_at_its_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If that is bad, qBittorrent would download into it, or move it away."""
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        await it.leave_free(0)

        async def watch(name: str, *_: object) -> None:
            if name == "folder":
                it.fake.change(id_, state="stalledUP")

        with held(monkeypatch, Step.REPOINTING) as hold:
            it.space.trigger()
            await hold.wait()
            it.fake.watch = watch
            hold.go_on.set()
            row = (await it.all_ended())["T0"]
        assert row.step is Step.UNDONE
        assert "did not stay stopped" in (row.error or "")
        places = [arguments[1:] for name, *arguments in it.fake.calls if name == "set_location"]
        assert places == [[str(it.inside.ssd / "tv")]]
        assert it.state(id_) == ("stalledUP", "ssd")


async def test_of_a_group_the_rest_waits_until_one_that_slipped_is_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        ids = await it.twins("T")
        await it.leave_free(0)
        last = it.fake._torrents[ids[1]].name
        with held(monkeypatch, Step.WAITING, "taken", name=last) as hold:
            run_id = it.space.trigger().run_id
            await hold.wait()
            it.slip(ids[1])
            hold.go_on.set()
            with held(monkeypatch, Step.REPAIRING) as repair:
                await repair.wait()
                assert it.files("T") == {"a", "b"}, "one that slipped still needs them"
                repair.go_on.set()
                assert (await it.ended(run_id)).figures.relocated == 2
        assert it.files("T") == set()
        assert [it.state(id_) for id_ in ids] == [("stalledUP", "hdd")] * 2


@pytest.mark.parametrize("how", ["it does not go there", "the copy is bad"])
async def test_when_a_repair_fails_nothing_more_of_the_group_is_deleted_and_all_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        ids = await it.twins("T")
        await it.leave_free(0)
        last = it.fake._torrents[ids[1]].name
        with held(monkeypatch, Step.WAITING, "taken", name=last) as hold:
            it.space.trigger()
            await hold.wait()
            it.slip(ids[1])
            if how == "the copy is bad":
                corrupt_copy(it.inside, "T")
            else:
                monkeypatch.setattr(it.fake, "_move", failing)
            hold.go_on.set()
            rows = {row.torrent_id: row for row in (await it.all_ended()).values()}
        assert rows[ids[0]].step is Step.MOVED
        assert rows[ids[1]].step is (Step.MOVED if how == "the copy is bad" else Step.UNDONE)
        assert it.files("T") == {"a", "b"}
        assert it.state(ids[0]) == ("stalledUP", "hdd")
        if how != "the copy is bad":
            assert it.state(ids[1]) == ("stalledUP", "ssd")
        assert not it.state(ids[1])[0].startswith("stopped")
        assert all(RELOCATING_TAG not in it.fake.tags(id_) for id_ in ids)


@pytest.mark.parametrize("automatic", [False, True])
async def test_a_repair_leaves_qbittorrent_no_reason_to_move_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, automatic: bool
) -> None:
    """Killed, it has forgotten that its folder for unfinished torrents was cleared, too.

    A failed recheck would have it move the copy there, over what is there.
    """
    async with shelf(tmp_path, monkeypatch) as it:
        incomplete = tmp_path / "incomplete"
        id_ = await it.tiered("T", download_path=str(incomplete), auto_management=automatic)
        await it.leave_free(0)
        with held(monkeypatch, Step.WAITING, "taken") as hold:
            it.space.trigger()
            await hold.wait()
            it.slip(id_)
            it.fake.change(id_, auto_management=automatic, download_path=str(incomplete))
            corrupt_copy(it.inside, "T")
            hold.go_on.set()
            assert (await it.all_ended())["T"].step is Step.MOVED
        assert it.files("T", tier="hdd") == it.files("T") == {"a", "b"}
        assert not incomplete.exists() or not list(incomplete.rglob("*"))
        assert settings_of(it, id_)[:2] == (False, "")
        assert not it.state(id_)[0].startswith("stopped")


# -- the way back -------------------------------------------------------------------------


async def test_a_torrent_goes_back_stopped_and_with_no_folder_for_unfinished_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ran already when the group ended, with all its settings."""
    async with shelf(tmp_path, monkeypatch) as it:
        incomplete = str(tmp_path / "incomplete")
        id_ = await it.tiered("T", download_path=incomplete)
        await it.leave_free(0)
        with held(monkeypatch, Step.WAITING) as hold:
            it.space.trigger()
            await hold.wait()
            assert it.state(id_) == ("stalledUP", "hdd")
            (it.inside.hdd / "tv/T/a").touch()  # not the copy that was recorded
            with held(monkeypatch, Step.RECHECKING) as back:
                hold.go_on.set()
                await back.wait()
                assert it.state(id_) == ("stoppedDL", "ssd")
                assert settings_of(it, id_) == (False, "", False)
                back.go_on.set()
                row = (await it.all_ended())["T"]
        assert row.step is Step.UNDONE
        assert "recheck on the SSD failed" not in (row.error or "")
        assert it.state(id_) == ("stalledUP", "ssd")
        assert settings_of(it, id_) == (False, incomplete, False)


@pytest.mark.parametrize("forced", [False, True])
async def test_all_settings_are_as_before_after_a_way_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forced: bool
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        state = "forcedUP" if forced else "stalledUP"
        id_ = await it.tiered("T", auto_management=True, force_start=forced, state=state)
        corrupt_copy(it.inside, "T")
        row = (await run(it))["T"]
        assert row.step is Step.UNDONE
        assert it.state(id_) == (state, "ssd")
        assert settings_of(it, id_) == (True, "", forced)


async def test_automatic_management_is_not_turned_on_for_one_that_could_not_leave_the_hdd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would move the bad copy back over the good files."""
    async with shelf(tmp_path, monkeypatch) as it:
        id_ = await it.tiered("T", auto_management=True)
        corrupt_copy(it.inside, "T")
        await it.leave_free(0)
        with held(monkeypatch, Step.RETURNING) as hold:
            it.space.trigger()
            await hold.wait()
            good = {path: path.read_bytes() for path in (it.inside.ssd / "tv/T").iterdir()}
            monkeypatch.setattr(it.fake, "_move", failing)
            hold.go_on.set()
            row = (await it.all_ended())["T"]
        assert row.step is Step.MOVED
        assert "did not go back to the SSD" in (row.error or "")
        assert "stays on the HDD" in (row.error or "")
        state, tier = it.state(id_)
        assert tier == "hdd"
        assert not state.startswith("stopped")
        assert settings_of(it, id_)[0] is False
        assert ("set_auto_management", id_, True) not in it.fake.calls
        assert {path: path.read_bytes() for path in good} == good


# -- the whole group, or none of it -------------------------------------------------------


@pytest.mark.parametrize("which", [0, 1])
async def test_each_of_a_group_is_proven_once_more_before_the_first_deletion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    """From there on there is no way back."""
    async with shelf(tmp_path, monkeypatch) as it:
        ids = await it.twins("T")
        await it.leave_free(0)
        with held(monkeypatch, Step.WAITING) as hold:
            it.space.trigger()
            await hold.wait()
            # qBittorrent has another idea of one of them now, and stays with it.
            it.fake.change(ids[which], state="error")
            hold.go_on.set()
            with held(monkeypatch, Step.RETURNING) as back:
                await back.wait()
                back.go_on.set()
            rows = await it.all_ended()
        assert {row.step for row in rows.values()} == {Step.UNDONE}
        assert it.files("T") == {"a", "b"}
        assert [it.state(id_) for id_ in ids] == [("stalledUP", "ssd")] * 2


async def test_when_its_user_removes_one_of_a_group_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relocation_watch, "GONE_AFTER_S", 0.0)
    async with shelf(tmp_path, monkeypatch) as it:
        ids = await it.twins("T")
        await it.leave_free(0)
        with held(monkeypatch, Step.CHECKING, "taken") as hold:
            run_id = it.space.trigger().run_id
            await hold.wait()
            it.fake.remove(ids[0])
            hold.go_on.set()
            figures = (await it.ended(run_id)).figures
        assert (figures.relocated, figures.failed_groups, figures.paused) == (1, 0, None)
        assert it.state(ids[1]) == ("stalledUP", "hdd")


async def test_one_that_is_removed_on_the_way_back_does_not_keep_its_group_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To be sure that it is gone takes longer than to see that a setting was changed."""
    monkeypatch.setattr(relocation_watch, "GONE_AFTER_S", 0.3)
    monkeypatch.setattr(relocation_watch, "GONE_LOOK_S", 0.02)
    monkeypatch.setattr(relocation_watch, "SEEN_WITHIN_S", 0.1)
    async with shelf(tmp_path, monkeypatch) as it:
        gone, stays = await it.twins("T")
        corrupt_copy(it.inside, "T")
        await it.leave_free(0)
        with held(monkeypatch, Step.RETURNING) as hold:
            it.space.trigger()
            await hold.wait()
            it.fake.remove(gone)
            it.fake.sessions += 1  # a qBittorrent that was started anew may have forgotten it
            hold.go_on.set()
            rows = await it.all_ended()
        ends = {row.torrent_id: row.step for row in rows.values()}
        assert ends == {gone: Step.GONE, stays: Step.UNDONE}
        assert it.state(stays) == ("stalledUP", "ssd")
        assert RELOCATING_TAG not in it.fake.tags(stays)


@pytest.mark.parametrize("step", ON_THE_WAY)
async def test_a_torrent_that_qbittorrent_does_not_know_for_a_while_is_not_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    """So it is for one that was killed: it would stay stopped when it is known again."""
    monkeypatch.setattr(relocation_watch, "GONE_LOOK_S", 0.01)
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        await it.leave_free(0)
        unknown = 0

        async def watch(name: str, *arguments: object) -> None:
            nonlocal unknown
            if name in ("torrent", "files") and arguments == (id_,) and unknown < 5:
                unknown += 1
                raise TorrentUnknown("no such torrent")

        with held(monkeypatch, step) as hold:
            it.space.trigger()
            await hold.wait()
            it.fake.watch = watch
            hold.go_on.set()
            row = (await it.all_ended())["T0"]
        assert unknown == 5
        assert row.step in (Step.DONE, Step.UNDONE), row.step
        assert it.state(id_) == ("stalledUP", "hdd" if row.step is Step.DONE else "ssd")


# -- the event loop -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "name"),
    [(relocation_proofs, "plan_files"), (ssd_lists, "roots_of"), (Regions, "owners")],
)
async def test_what_grows_with_a_torrents_files_is_not_done_on_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    """Else ``/health`` waits at each step: a third of a second for 20,000 files."""
    here = threading.current_thread()
    threads: list[threading.Thread] = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        threads.append(threading.current_thread())
        return real(*args, **kwargs)

    real = getattr(owner, name)
    monkeypatch.setattr(owner, name, watched)
    async with shelf(tmp_path, monkeypatch) as it:
        await it.shelf_of(1)
        assert (await run(it))["T0"].step is Step.DONE
    assert threads
    assert here not in threads
