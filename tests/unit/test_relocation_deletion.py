"""The deletion on the SSD: what comes between its proof and its end, and what it counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from qbm_trio.core.errors import TorrentUnknown
from qbm_trio.core.model import TorrentId
from qbm_trio.core.relocation import Relocation, Step
from qbm_trio.tasks import relocation_deletion
from qbm_trio.tasks.relocation_deletion import Deletable, Deleted, Deletion
from tests.fakes.qbittorrent import away
from tests.rig.shelves import EACH_BYTES, FILES, Shelf, held, run, shelf
from tests.rig.torrents import make_torrent


def cross_seed(it: Shelf) -> TorrentId:
    """Another torrent of the first one's files, on the SSD."""
    folder = it.inside.ssd / "tv"
    made = make_torrent(folder, "T0", [*FILES], piece_length=32 * 1024)
    return it.fake.add(made.data, save_path=str(folder), category="tv")


async def test_who_comes_to_have_the_files_while_a_check_is_waited_for_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right before the deletion, when it is proven that nobody else has them."""
    monkeypatch.setattr(relocation_deletion, "CLAIM_AGE_S", 0.0)
    prove, proven = Deletion.prove, 0

    async def proving(self: Deletion, row: Relocation) -> Deletable:
        nonlocal proven
        files = await prove(self, row)
        proven += 1
        if proven == 1:
            it.fake.change(id_, state="checkingUP")
        return files

    monkeypatch.setattr(Deletion, "prove", proving)
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        looks = 0

        async def watch(name: str, *arguments: object) -> None:
            nonlocal looks
            if name == "torrent" and arguments == (id_,) and proven == 1:
                looks += 1
                if looks == 3:  # it is waited for
                    cross_seed(it)
                    it.fake.change(id_, state="stalledUP")

        it.fake.watch = watch
        row = (await run(it))["T0"]
        assert (row.step, proven) == (Step.DONE, 2)
        assert it.files("T0") == {"a", "b"}


async def test_two_deletions_at_once_count_what_each_has_freed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete, under_way, both = Deletion.delete, 0, trio.Event()

    async def deleting(self: Deletion, row: Relocation, files: Deletable) -> Deleted:
        nonlocal under_way
        under_way += 1
        if under_way == 2:
            both.set()
        with trio.move_on_after(0.3):
            await both.wait()
        done = await delete(self, row, files)
        under_way -= 1
        return done

    monkeypatch.setattr(Deletion, "delete", deleting)
    async with shelf(tmp_path, monkeypatch) as it:
        await it.shelf_of(2)
        rows = await run(it)
        assert [rows[name].freed_bytes for name in ("T0", "T1")] == [EACH_BYTES, EACH_BYTES]


async def test_what_was_freed_counts_also_when_qbittorrent_is_away_right_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete, deleted = Deletion.delete, 0

    async def deleting(self: Deletion, row: Relocation, files: Deletable) -> Deleted:
        nonlocal deleted
        deleted += 1
        done = await delete(self, row, files)
        if deleted == 1:
            it.fake.failures.append(away())
        return done

    monkeypatch.setattr(Deletion, "delete", deleting)
    async with shelf(tmp_path, monkeypatch) as it:
        await it.shelf_of(1)
        row = (await run(it))["T0"]
        assert (row.step, row.freed_bytes, deleted) == (Step.DONE, EACH_BYTES, 2)


async def test_what_is_no_file_any_more_ends_the_deletion_and_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a link to the copy, by a program of the user's."""
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        await it.leave_free(0)
        with held(monkeypatch, Step.DELETING) as hold:
            it.space.trigger()
            await hold.wait()
            (it.inside.ssd / "tv/T0/a").unlink()
            (it.inside.ssd / "tv/T0/a").symlink_to(it.inside.hdd / "tv/T0/a")
            hold.go_on.set()
            row = (await it.all_ended())["T0"]
        assert row.step is Step.MOVED
        assert "tv/T0/a is not a regular file" in (row.error or "")
        assert it.state(id_) == ("stalledUP", "hdd")
        assert it.files("T0", tier="hdd") == {"a", "b"}
        assert it.space.overview().relocations == ()


async def test_a_torrent_that_is_not_known_for_a_while_does_not_hold_up_the_deletion_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prove, delete = Deletion.prove, Deletion.delete
    proven, deleted = trio.Event(), list[str]()

    async def proving(self: Deletion, row: Relocation) -> Deletable:
        files = await prove(self, row)
        if row.name == "T0":
            proven.set()
        return files

    async def deleting(self: Deletion, row: Relocation, files: Deletable) -> Deleted:
        deleted.append(row.name)
        return await delete(self, row, files)

    async def missing(name: str, *arguments: object) -> None:
        if name == "torrent" and arguments == (first,) and proven.is_set() and not deleted:
            raise TorrentUnknown("not known")

    monkeypatch.setattr(Deletion, "prove", proving)
    monkeypatch.setattr(Deletion, "delete", deleting)
    async with shelf(tmp_path, monkeypatch) as it:
        first, _ = await it.shelf_of(2)
        await it.leave_free(0)
        with held(monkeypatch, Step.DELETING, name="T1") as hold:
            it.fake.watch = missing
            it.space.trigger()
            await hold.wait()
            await proven.wait()
            hold.go_on.set()
            rows = await it.all_ended()
        assert deleted == ["T1", "T0"]
        assert {row.step for row in rows.values()} == {Step.DONE}
