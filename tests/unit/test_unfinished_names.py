"""Undoing ``.!qB`` names: nothing is ever replaced, lost, or reached outside of the tier."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from qbm_trio.adapters import disk_calls
from qbm_trio.adapters.unfinished_names import UndoneNames, undo_unfinished_names
from qbm_trio.core.errors import DiskError, MustWait, ReadOnlyDisk, UnsafePath
from tests.rig.mounts import mounted, run

LIMITER = trio.CapacityLimiter(2)
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
NOTHING = UndoneNames(renamed=(), both=(), left=())


class Crash(BaseException):
    """Stands for ``kill -9``: nothing may depend on its being handled."""


@pytest.fixture
def tier(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, where it can be had."""
    if os.geteuid() != 0:
        yield tmp_path
    else:
        with mounted(tmp_path / "tier") as folder:
            yield folder


def write(tier: Path, *names: str) -> None:
    for name in names:
        path = tier / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def contents(tier: Path) -> dict[str, str]:
    return {str(p.relative_to(tier)): p.read_text() for p in tier.rglob("*") if p.is_file()}


def listed(tier: Path) -> set[str]:
    return {path.name for path in tier.iterdir()}


async def undo(tier: Path, *names: str) -> UndoneNames:
    return await undo_unfinished_names(
        tier, [PurePosixPath(name) for name in names], limiter=LIMITER
    )


async def test_listed_files_get_their_names_back_and_no_others(tier: Path) -> None:
    write(tier, "tv/Show/one.!qB", "tv/Show/sub/two.!qB", "tv/Show/three", "tv/Show/other.!qB")
    names = ("tv/Show/one", "tv/Show/sub/two", "tv/Show/three", "tv/Show/four", "no/such")
    done = await undo(tier, *names)
    assert done == UndoneNames(renamed=(tier / names[0], tier / names[1]), both=(), left=())
    assert contents(tier) == {
        "tv/Show/one": "tv/Show/one.!qB",
        "tv/Show/sub/two": "tv/Show/sub/two.!qB",
        "tv/Show/three": "tv/Show/three",
        "tv/Show/other.!qB": "tv/Show/other.!qB",
    }
    assert await undo(tier, *names) == NOTHING


async def test_where_both_names_exist_both_files_stay_and_the_rest_goes_on(tier: Path) -> None:
    write(tier, "a", "a.!qB", "b.!qB")
    (tier / "c").mkdir()
    write(tier, "c.!qB")
    done = await undo(tier, "a", "b", "c")
    assert done == UndoneNames(renamed=(tier / "b",), both=(tier / "a", tier / "c"), left=())
    assert contents(tier) == {"a": "a", "a.!qB": "a.!qB", "b": "b.!qB", "c.!qB": "c.!qB"}


async def test_only_regular_files_are_renamed(tier: Path) -> None:
    write(tier, "elsewhere")
    (tier / "link.!qB").symlink_to("elsewhere")
    (tier / "folder.!qB").mkdir()
    os.mkfifo(tier / "pipe.!qB")
    done = await undo(tier, "link", "folder", "pipe")
    assert [left.path.name for left in done.left] == ["link.!qB", "folder.!qB", "pipe.!qB"]
    for left in done.left:
        assert isinstance(left.error, UnsafePath)
        assert str(left.path) in str(left.error)
    assert (done.renamed, done.both) == ((), ())
    assert listed(tier) == {"elsewhere", "folder.!qB", "link.!qB", "pipe.!qB"}


async def test_nothing_outside_of_the_tier_is_touched(tmp_path: Path) -> None:
    (tmp_path / "tier").mkdir()
    write(tmp_path, "out/x.!qB")
    (tmp_path / "tier/link").symlink_to("../out")
    for name in ("link/x", "../out/x", str(tmp_path / "out/x")):
        with pytest.raises(UnsafePath):
            await undo(tmp_path / "tier", name)
    assert contents(tmp_path / "out") == {"x.!qB": "out/x.!qB"}


async def test_a_link_that_stays_on_the_tier_is_followed(tier: Path) -> None:
    write(tier, "real/x.!qB")
    (tier / "link").symlink_to("real")
    assert (await undo(tier, "link/x")).renamed == (tier / "real/x",)


async def test_a_link_put_in_a_folders_place_meanwhile_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "tier/folder/sub/x.!qB", "out/sub/x.!qB")
    real = os.path.realpath
    folder = tmp_path / "tier/folder"

    def swap(path: str, **options: bool) -> str:
        resolved = real(path, **options)
        if resolved == str(folder / "sub"):
            folder.rename(tmp_path / "tier/gone")
            folder.symlink_to("../out")
        return resolved

    monkeypatch.setattr(os.path, "realpath", swap)
    done = await undo(tmp_path / "tier", "folder/sub/x")
    assert folder.is_symlink()  # it was put there
    assert isinstance(done.left[0].error, UnsafePath)
    assert contents(tmp_path / "out") == {"sub/x.!qB": "out/sub/x.!qB"}


@pytest.mark.parametrize("crashing", ["before the link", "before the unlink"])
async def test_a_crash_on_a_file_system_without_such_a_rename_is_repaired_by_the_next_call(
    tier: Path, monkeypatch: pytest.MonkeyPatch, crashing: str
) -> None:
    write(tier, "folder/x.!qB", "folder/y.!qB")

    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def crash(*_: object, **__: object) -> None:
        raise Crash

    monkeypatch.setattr(disk_calls, "rename_noreplace", refuse)
    with monkeypatch.context() as patch:
        patch.setattr(os, "link" if crashing == "before the link" else "unlink", crash)
        with pytest.raises(Crash):
            await undo(tier, "folder/x", "folder/y")
    assert (tier / "folder/x").exists() is (crashing == "before the unlink")
    assert (tier / "folder/x.!qB").exists()
    done = await undo(tier, "folder/x", "folder/y")
    assert done.renamed == (tier / "folder/x", tier / "folder/y")
    assert contents(tier) == {"folder/x": "folder/x.!qB", "folder/y": "folder/y.!qB"}


async def test_folders_are_synced_after_the_last_rename_also_if_an_earlier_call_did_it(
    tier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tier, "one/x.!qB", "two/y.!qB")
    synced: list[tuple[Path, list[str]]] = []
    sync = disk_calls.fsync

    def note(fd: int) -> None:
        synced.append((Path(f"/proc/self/fd/{fd}").readlink(), sorted(contents(tier))))
        sync(fd)

    monkeypatch.setattr(disk_calls, "fsync", note)
    for _ in range(2):
        await undo(tier, "one/x", "two/y", "three/z")
    once = [(tier / "one", ["one/x", "two/y"]), (tier / "two", ["one/x", "two/y"])]
    assert synced == once * 2


@root_only
async def test_a_read_only_tier_is_waited_for(tier: Path) -> None:
    write(tier, "x.!qB")
    run("mount", "-o", "remount,ro", str(tier))
    with pytest.raises(ReadOnlyDisk):
        await undo(tier, "x")


async def test_a_tier_that_is_away_is_waited_for(tmp_path: Path) -> None:
    with pytest.raises(MustWait):
        await undo(tmp_path / "away", "x")


async def test_a_file_that_the_system_refuses_is_left_and_the_rest_goes_on(
    tier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tier, "x.!qB", "y.!qB")
    move = disk_calls.move_noreplace

    def refuse(source_dir: int, source: str, target_dir: int, target: str) -> None:
        if target == "x":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        move(source_dir, source, target_dir, target)

    monkeypatch.setattr(disk_calls, "move_noreplace", refuse)
    done = await undo(tier, "x", "y")
    assert done.renamed == (tier / "y",)
    (left,) = done.left
    assert left.path == tier / "x.!qB"
    assert isinstance(left.error, DiskError)


async def test_a_disk_that_fails_stops_it(tier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tier, "x.!qB")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(disk_calls, "move_noreplace", fail)
    with pytest.raises(DiskError, match=r"x\.!qB"):
        await undo(tier, "x")


async def test_a_file_that_qbittorrent_renames_first_is_no_trouble(
    tier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tier, "x.!qB", "y.!qB")
    move = disk_calls.move_noreplace

    def late(source_dir: int, source: str, target_dir: int, target: str) -> None:
        if target == "x":
            (tier / "x.!qB").rename(tier / "x")
            (tier / "x").rename(tier / "moved away")
        move(source_dir, source, target_dir, target)

    monkeypatch.setattr(disk_calls, "move_noreplace", late)
    assert (await undo(tier, "x", "y")).renamed == (tier / "y",)


async def test_it_ends_between_two_files_when_cancelled(
    tier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tier, "x.!qB", "y.!qB")
    move = disk_calls.move_noreplace
    with trio.CancelScope() as scope:

        def then_cancel(source_dir: int, source: str, target_dir: int, target: str) -> None:
            move(source_dir, source, target_dir, target)
            trio.from_thread.run_sync(scope.cancel)

        monkeypatch.setattr(disk_calls, "move_noreplace", then_cancel)
        await undo(tier, "x", "y")
    assert scope.cancelled_caught
    assert sorted(contents(tier)) == ["x", "y.!qB"]


KINDS = st.sampled_from(["", "file", "folder", "link", "same file"])


@given(names=st.lists(st.tuples(KINDS, KINDS), max_size=4))
def test_in_any_folder_every_byte_stays_and_a_second_call_does_nothing(
    names: list[tuple[str, str]],
) -> None:
    with TemporaryDirectory() as folder:
        tier = Path(folder)
        expected = {}
        for number, (plain, marked) in enumerate(names):
            for name, kind in ((f"{number}", plain), (f"{number}.!qB", marked)):
                if kind in ("file", "same file"):
                    write(tier, name)
                    expected[name] = name
                elif kind == "folder":
                    (tier / name).mkdir()
                elif kind == "link":
                    (tier / name).symlink_to("nowhere")
            twin = f"{number}.!qB"
            if plain == marked == "same file":
                (tier / twin).unlink()
                os.link(tier / str(number), tier / twin)
                del expected[twin]
            elif plain == "" and marked.endswith("file"):
                expected[str(number)] = expected.pop(twin)
        others = {p.name for p in tier.iterdir() if p.is_symlink() or p.is_dir()}

        async def twice() -> list[UndoneNames]:
            paths = [str(number) for number in range(len(names))]
            return [await undo(tier, *paths), await undo(tier, *paths)]

        first, second = trio.run(twice)
        assert contents(tier) == expected
        assert {p.name for p in tier.iterdir() if p.is_symlink() or p.is_dir()} == others
        assert second.renamed == ()
        assert second.both == first.both
