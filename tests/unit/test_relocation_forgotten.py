"""What was true a moment ago: a forgotten move, a disk that is away, a copy that was changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from qbm_trio.core.model import TorrentId
from qbm_trio.core.relocation import Relocation, Step
from qbm_trio.core.space import RELOCATING_TAG
from qbm_trio.tasks.relocation_deletion import Deletable, Deleted, Deletion
from tests.rig.inside import condition
from tests.rig.shelves import EACH_BYTES, Shelf, corrupt_copy, held, run, shelf


def back_on_the_hdd(it: Shelf, id_: TorrentId) -> None:
    """As it was before the way back began: qBittorrent was killed before it had saved that."""
    it.fake._now(id_)
    place = it.inside.hdd / "tv"
    it.fake.change(
        id_,
        save_path=str(place),
        content_path=str(place / "T0"),
        state="stoppedDL",
        progress=0.5,
        amount_left_bytes=30_000,
    )


@pytest.mark.parametrize("step", [Step.RECHECKING, Step.UNDOING])
async def test_a_way_back_that_qbittorrent_has_forgotten_is_gone_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        corrupt_copy(it.inside, "T0")
        await it.leave_free(0)
        with held(monkeypatch, step) as hold:
            it.space.trigger()
            await hold.wait()
            back_on_the_hdd(it, id_)
            hold.go_on.set()
            row = (await it.all_ended())["T0"]
        assert row.step is Step.UNDONE
        assert it.state(id_) == ("stalledUP", "ssd")
        assert RELOCATING_TAG not in it.fake.tags(id_)


async def test_a_forgotten_move_is_not_repeated_while_the_hdd_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        await it.leave_free(0)
        marker = it.inside.hdd / ".qbm-tier"
        with held(monkeypatch, Step.REPAIRING) as hold:
            with held(monkeypatch, Step.WAITING, "taken") as waited:
                it.space.trigger()
                await waited.wait()
                it.slip(id_)
                waited.go_on.set()
                await hold.wait()
            moved = marker.rename(tmp_path / "marker")
            it.calls()
            hold.go_on.set()
            await condition(lambda: it.inside.service.tiers.hdd.trouble is not None)
        assert "set_location" not in it.calls()
        assert it.state(id_) == ("stalledUP", "ssd"), "it runs meanwhile"
        moved.rename(marker)
        assert (await it.all_ended())["T0"].step is Step.DONE
        assert it.state(id_) == ("stalledUP", "hdd")


async def test_on_the_way_back_it_is_not_sent_to_an_ssd_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        corrupt_copy(it.inside, "T0")
        await it.leave_free(0)
        marker = it.inside.ssd / ".qbm-tier"
        with held(monkeypatch, Step.RETURNING) as hold:
            it.space.trigger()
            await hold.wait()
            moved = marker.rename(tmp_path / "marker")
            it.calls()
            hold.go_on.set()
            # What to do for it.
            await condition(lambda: "mount" in str(it.space.overview().relocations[0].error))
        assert "set_location" not in it.calls()
        (shown,) = it.space.overview().relocations
        assert "recheck of the copy" in str(shown.error), "why it goes back"
        moved.rename(marker)
        assert (await it.all_ended())["T0"].step is Step.UNDONE
        assert it.state(id_) == ("stalledUP", "ssd")


async def test_what_is_forgotten_while_a_deletion_waits_is_seen_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        await it.leave_free(0)
        marker = it.inside.hdd / ".qbm-tier"
        steps: list[Step] = []
        with held(monkeypatch, Step.DELETING, seen=steps) as hold:
            it.space.trigger()
            await hold.wait()
            moved = marker.rename(tmp_path / "marker")
            hold.go_on.set()
            await condition(lambda: it.inside.service.tiers.hdd.trouble is not None)
            it.slip(id_)
            moved.rename(marker)
            assert (await it.all_ended())["T0"].step is Step.DONE
        assert Step.REPAIRING in steps
        assert it.state(id_) == ("stalledUP", "hdd")


@pytest.mark.parametrize("step", [Step.DELETING, Step.REPAIRING])
async def test_a_copy_that_is_changed_before_the_deletion_ends_it_and_no_file_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        await it.leave_free(0)
        with held(monkeypatch, step) as hold, held(monkeypatch, Step.WAITING, "taken") as waited:
            run_id = it.space.trigger().run_id
            await waited.wait()
            if step is Step.REPAIRING:
                it.slip(id_)
            waited.go_on.set()
            await hold.wait()
            (it.inside.hdd / "tv/T0/a").touch()
            hold.go_on.set()
            figures = (await it.ended(run_id)).figures
        assert "is not the copy that was verified" in figures.failures[0].error
        row = (await it.all_ended())["T0"]
        assert row.step is (Step.MOVED if step is Step.DELETING else Step.UNDONE)
        assert it.files("T0") == {"a", "b"}
        assert it.state(id_) == ("stalledUP", "hdd" if step is Step.DELETING else "ssd")
        await condition(lambda: not it.space._groups)  # its bytes are awaited no more


@pytest.mark.parametrize("call", ["set_location", "recheck"])
async def test_who_starts_a_torrent_before_its_copy_is_checked_is_told_and_no_run_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        await it.leave_free(0)
        real, started = getattr(it.fake, call), False

        async def started_right_after(*args: object) -> None:
            nonlocal started
            await real(*args)
            if not started:
                started = True
                await it.fake.start(id_)
                it.fake._now(id_)  # and it is through already

        monkeypatch.setattr(it.fake, call, started_right_after)
        figures = (await it.run_now()).figures
        assert figures.paused is None
        assert "it was started before its copy was checked" in figures.failures[0].error
        row = (await it.all_ended())["T0"]
        assert (row.step, row.tier_anew) == (Step.UNDONE, False)
        assert it.state(id_) == ("stalledUP", "ssd")
        assert it.files("T0") == {"a", "b"}


async def test_settings_are_not_told_to_what_has_slipped_back_with_files_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is unfinished there: the folder for unfinished torrents, or a start, would change it."""
    unfinished = tmp_path / "unfinished"
    async with shelf(tmp_path, monkeypatch) as it:
        id_ = await it.tiered("T0", download_path=str(unfinished))
        await it.leave_free(0)
        told: list[tuple[str, bool]] = []

        async def watch(name: str, *arguments: object) -> None:
            clears = name == "set_download_path" and arguments[1] == ""
            if name in {"start", "set_download_path", "remove_tags"} and not clears:
                at = it.fake._torrents[id_].content_path
                told.append((name, Path(at).is_relative_to(it.inside.hdd)))

        with held(monkeypatch, Step.DELETING) as hold:
            it.space.trigger()
            await hold.wait()
            (it.inside.ssd / "tv/T0/a").unlink()
            it.slip(id_)
            it.fake.change(id_, tags={RELOCATING_TAG}, download_path=str(unfinished))
            it.fake.watch = watch
            hold.go_on.set()
            assert (await it.all_ended())["T0"].step is Step.DONE
        assert {name for name, _ in told} == {"start", "set_download_path", "remove_tags"}
        assert all(at_hdd for _, at_hdd in told), told
        assert list(unfinished.rglob("*")) == []
        assert it.state(id_) == ("stalledUP", "hdd")
        assert it.fake._torrents[id_].download_path == str(unfinished)


async def test_what_slips_back_while_its_settings_are_told_is_seen_before_the_deletion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prove, delete = Deletion.prove, Deletion.delete
    deleted_at: list[str] = []
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)

        async def killed_meanwhile(self: Deletion, row: Relocation) -> Deletable:
            files = await prove(self, row)
            if not deleted_at and it.fake.watch is None:  # once
                it.fake.change(id_, tags={RELOCATING_TAG})
                it.fake.watch = killed_again
            return files

        async def killed_again(name: str, *arguments: object) -> None:
            if name == "remove_tags" and RELOCATING_TAG in arguments:
                it.fake.watch = nothing
                it.slip(id_)

        async def nothing(*_: object) -> None: ...

        async def seen(self: Deletion, row: Relocation, files: Deletable) -> Deleted:
            deleted_at.append(it.state(id_)[1])
            return await delete(self, row, files)

        monkeypatch.setattr(Deletion, "prove", killed_meanwhile)
        monkeypatch.setattr(Deletion, "delete", seen)
        assert (await run(it))["T0"].step is Step.DONE
        assert deleted_at == ["hdd"]
        assert it.fake.watch is nothing, "it has slipped"
        assert it.state(id_) == ("stalledUP", "hdd")


async def test_what_a_deletion_has_freed_counts_once_if_the_move_is_forgotten_right_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete, slipped = Deletion.delete, False
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)

        async def killed(self: Deletion, row: Relocation, files: Deletable) -> Deleted:
            nonlocal slipped
            done = await delete(self, row, files)
            if not slipped:
                it.slip(id_)
            slipped = True
            return done

        monkeypatch.setattr(Deletion, "delete", killed)
        row = (await run(it))["T0"]
        assert slipped
        assert (row.step, row.freed_bytes) == (Step.DONE, EACH_BYTES)
        assert it.state(id_) == ("stalledUP", "hdd")
