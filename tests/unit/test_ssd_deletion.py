"""Deleting on the SSD: only the files that were judged, whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from qbm_trio.adapters import disk_calls, ssd_deletion
from qbm_trio.adapters.disk_paths import FolderHandle
from qbm_trio.adapters.ssd_deletion import Deletion, JudgedFile, delete_files, judge_files
from qbm_trio.core.errors import (
    DestinationChanged,
    DiskError,
    JobError,
    MustWait,
    ReadOnlyDisk,
    SameStorage,
    SourceChanged,
    UnsafePath,
)
from tests.rig.mounts import bound, is_mounted, mounted, run, unmount

LIMITER = trio.CapacityLimiter(2)
NAMES = ("Show/one", "Show/Subs/two", "Show/.unwanted/three.!qB")
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


class Crash(BaseException):
    """Stands for ``kill -9``: nothing may depend on its being handled."""


class Rig:
    """A torrent whole on the SSD and on the HDD, and others' files beside it."""

    def __init__(self, folder: Path) -> None:
        self.ssd, self.hdd = folder / "ssd", folder / "hdd"
        self.save = self.ssd / "tv"
        self.fill()

    def fill(self) -> None:
        for name in NAMES:
            for path in (self.save / name, self.hdd / name):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(name.encode() * 500)

    @property
    def pairs(self) -> list[tuple[Path, Path]]:
        return [(self.save / name, self.hdd / name) for name in NAMES]

    async def judge(self) -> tuple[JudgedFile, ...]:
        return await judge_files(self.pairs, limiter=LIMITER)

    async def delete(self, judged: tuple[JudgedFile, ...] | None = None) -> Deletion:
        return await delete_files(
            self.ssd,
            await self.judge() if judged is None else judged,
            save_path=self.save,
            limiter=LIMITER,
        )

    def on_ssd(self) -> list[str]:
        return sorted(str(p.relative_to(self.save)) for p in self.save.rglob("*"))

    def check_hdd(self) -> None:
        for name in NAMES:
            assert (self.hdd / name).read_bytes() == name.encode() * 500


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Two file systems, where they can be had."""
    if os.geteuid() != 0:
        yield Rig(tmp_path)
    else:
        with mounted(tmp_path / "ssd"), mounted(tmp_path / "hdd"):
            yield Rig(tmp_path)


def only_left(deletion: Deletion) -> JobError:
    (left,) = deletion.left
    assert str(left.path) in str(left.error)
    return left.error


async def test_the_files_go_and_the_folders_that_this_leaves_empty(rig: Rig) -> None:
    expected = sum(path.stat().st_blocks * 512 for path, _ in rig.pairs)
    done = await rig.delete()
    assert done.files == tuple(path for path, _ in rig.pairs)
    assert set(done.folders) == {rig.save / n for n in ("Show", "Show/Subs", "Show/.unwanted")}
    assert not done.left
    assert done.disk_bytes == expected > 0
    assert rig.on_ssd() == []
    assert rig.save.is_dir()
    rig.check_hdd()
    assert await rig.delete() == Deletion(files=(), folders=(), left=(), disk_bytes=0)


async def test_what_is_not_the_torrents_stays_and_so_does_its_folder(rig: Rig) -> None:
    (rig.save / "Show/Subs/mine").touch()
    (rig.save / "Show/empty").mkdir()
    (rig.save / "empty").mkdir()
    done = await rig.delete()
    assert done.folders == (rig.save / "Show/.unwanted",)
    assert rig.on_ssd() == ["Show", "Show/Subs", "Show/Subs/mine", "Show/empty", "empty"]


async def test_the_ssds_own_folder_stays_when_it_is_the_save_path(rig: Rig) -> None:
    rig.save = rig.ssd
    rig.fill()
    path = rig.ssd / "single"
    path.touch()
    (rig.hdd / "single").touch()
    judged = await judge_files([(path, rig.hdd / "single")], limiter=LIMITER)
    assert (await rig.delete(judged)).files == (path,)
    assert rig.ssd.is_dir()
    assert (rig.ssd / "Show").is_dir()


async def test_bytes_that_another_name_keeps_do_not_count(rig: Rig) -> None:
    os.link(rig.save / "Show/one", rig.ssd / "library")
    expected = sum((rig.save / n).stat().st_blocks * 512 for n in NAMES[1:])
    assert (await rig.delete()).disk_bytes == expected > 0


async def test_both_names_of_one_inode_count_once(rig: Rig) -> None:
    (rig.save / "Show/Subs/two").unlink()
    os.link(rig.save / "Show/one", rig.save / "Show/Subs/two")
    expected = sum((rig.save / n).stat().st_blocks * 512 for n in (NAMES[0], NAMES[2]))
    assert (await rig.delete()).disk_bytes == expected > 0


# -- after a crash at any step -------------------------------------------------


CALLS = [
    *((os, n) for n in ("open", "close", "stat", "lstat", "readlink", "unlink", "rmdir")),
    (disk_calls, "fsync"),
]


def crash_at(rig: Rig, judged: tuple[JudgedFile, ...], number: int) -> str | None:
    """Delete up to the ``number``-th call; say what it was, None when all were made."""
    done: list[str] = []

    def crashing(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def change(*args: object, **kwargs: object) -> object:
            if name == "close" and len(done) >= number:
                return call(*args, **kwargs)  # the dead close everything
            result = call(*args, **kwargs)
            done.append(name)
            if len(done) == number:
                raise Crash
            return result

        return change

    with pytest.MonkeyPatch.context() as patch:
        for module, name in CALLS:
            patch.setattr(module, name, crashing(name, getattr(module, name)))
        try:
            ssd_deletion._delete_files(rig.ssd, judged, rig.save, lambda: None)
        except Crash:
            return done[number - 1]
    return None


@pytest.mark.parametrize("anew", [False, True], ids=["same list", "judged anew"])
async def test_deleting_again_finishes_after_a_crash_at_every_call(
    rig: Rig, anew: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = set()
    synced: set[str] = set()
    real = disk_calls.fsync

    def fsync(fd: int) -> None:
        synced.add(os.readlink(f"/proc/self/fd/{fd}"))  # noqa: PTH115
        real(fd)

    for number in range(1, 2000):
        rig.fill()
        (rig.save / "Show/mine").touch()
        judged = await rig.judge()
        word = crash_at(rig, judged, number)
        words.add(word)
        rig.check_hdd()
        synced.clear()
        with monkeypatch.context() as patch:
            patch.setattr(disk_calls, "fsync", fsync)
            done = await rig.delete(await rig.judge() if anew else judged)
        assert not done.left
        assert rig.on_ssd() == ["Show", "Show/mine"]
        assert {str(rig.save), str(rig.save / "Show")} <= synced
        rig.check_hdd()
        if word is None:
            break
    assert {"open", "stat", "lstat", "unlink", "rmdir", "fsync", None} <= words
    assert number > 50


async def test_an_emptied_unwanted_folder_goes_though_nothing_lists_it_any_more(rig: Rig) -> None:
    (rig.save / NAMES[2]).unlink()
    judged = await judge_files(rig.pairs[:2], limiter=LIMITER)
    await rig.delete(judged)
    assert rig.on_ssd() == []


async def test_deleting_can_be_cancelled_between_two_files(rig: Rig) -> None:
    judged = await rig.judge()
    left = iter(range(len(judged) + 1))  # all are looked at, and one is deleted

    def check() -> None:
        if next(left, None) is None:
            raise Crash

    with pytest.raises(Crash):
        ssd_deletion._delete_files(rig.ssd, judged, rig.save, check)
    assert [path.exists() for path, _ in rig.pairs] == [False, True, True]


# -- what is not as it was judged ----------------------------------------------


def rewritten(path: Path) -> None:
    times = path.stat()
    path.write_bytes(b"y" * times.st_size)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))


def longer(path: Path) -> None:
    times = path.stat()
    with path.open("ab") as file:
        file.write(b"more")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def another(path: Path) -> None:
    times = path.stat()
    fresh = path.with_name("fresh")
    fresh.write_bytes(path.read_bytes())
    os.utime(fresh, ns=(times.st_atime_ns, times.st_mtime_ns))
    fresh.replace(path)


def a_link(path: Path) -> None:
    path.rename(path.with_name("kept"))
    path.symlink_to("kept")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def its_folder_a_file(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()
    path.parent.touch()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (rewritten, SourceChanged),
        (longer, SourceChanged),
        (another, SourceChanged),
        (its_folder_a_file, SourceChanged),
        (a_link, UnsafePath),
        (a_folder, UnsafePath),
        (a_pipe, UnsafePath),
    ],
)
async def test_another_thing_in_a_files_place_is_left_and_the_rest_goes(
    rig: Rig, change: Callable[[Path], None], error: type[JobError]
) -> None:
    judged = await rig.judge()
    change(rig.save / "Show/Subs/two")
    before = rig.on_ssd()
    done = await rig.delete(judged)
    assert type(only_left(done)) is error
    assert rig.on_ssd() == [n for n in before if n not in (NAMES[0], NAMES[2], "Show/.unwanted")]


async def test_a_file_that_appears_where_none_was_is_left(rig: Rig) -> None:
    path = rig.save / "Show/one"
    path.unlink()
    judged = await rig.judge()
    path.touch()
    assert isinstance(only_left(await rig.delete(judged)), SourceChanged)
    assert path.exists()


@pytest.mark.parametrize("stays", [True, False], ids=["on the SSD", "out of it"])
async def test_a_folder_that_became_a_link_cannot_redirect_a_deletion(
    rig: Rig, tmp_path: Path, stays: bool
) -> None:
    judged = await rig.judge()
    # What the link leads to has files of the same names: only identity tells them apart.
    target = rig.ssd / "library" if stays else tmp_path / "library"
    (target / "Subs").mkdir(parents=True)
    for name in ("one", "Subs/two"):
        (target / name).write_bytes((rig.save / "Show" / name).read_bytes())
    (rig.save / "Show").rename(rig.save / "moved")
    (rig.save / "Show").symlink_to(target)
    done = await rig.delete(judged)
    assert not done.files
    assert not done.folders
    assert [type(left.error) for left in done.left[:2]] == [
        SourceChanged if stays else UnsafePath
    ] * 2
    assert sorted(p.name for p in target.rglob("*")) == ["Subs", "one", "two"]
    assert (rig.save / "moved/one").exists()


@pytest.mark.parametrize("swapped", ["Show", "Show/Subs"])
@pytest.mark.parametrize("moment", ["resolved", "opened"])
async def test_a_folder_swapped_at_the_last_moment_cannot_redirect_a_deletion(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, moment: str, swapped: str
) -> None:
    """The trap holds a hard link of the very file: identity does not tell, the folder must."""
    trap = rig.ssd / "library"
    (trap / "Subs").mkdir(parents=True)
    judged = (await rig.judge())[1:2]
    os.link(rig.save / "Show/Subs/two", trap / "Subs/two")
    at = rig.save / swapped
    real = FolderHandle.open

    def swap() -> None:
        if not at.is_symlink():
            at.rename(rig.ssd / "moved")
            at.symlink_to(trap / at.relative_to(rig.save / "Show"))

    def swapping(self: FolderHandle, path: str) -> int:
        if moment == "resolved":
            swap()
        fd = real(self, path)
        if moment == "opened":
            swap()
        return fd

    monkeypatch.setattr(FolderHandle, "open", swapping)
    done = await rig.delete(judged)
    assert (trap / "Subs/two").exists()
    assert len(done.files) == (moment == "opened")  # it went from where it was judged
    assert len(done.left) == (moment == "resolved")


async def test_links_among_the_ssds_folders_are_no_hindrance(rig: Rig, tmp_path: Path) -> None:
    (rig.save / "Show").rename(rig.ssd / "real")
    (rig.save / "Show").symlink_to("../real")
    (tmp_path / "alias").symlink_to(rig.ssd)
    judged = await judge_files(
        [(tmp_path / "alias/tv" / name, rig.hdd / name) for name in NAMES], limiter=LIMITER
    )
    done = await delete_files(
        tmp_path / "alias", judged, save_path=tmp_path / "alias/tv", limiter=LIMITER
    )
    assert len(done.files) == 3
    assert not done.folders  # they are not below the save path
    assert (rig.ssd / "real/Subs").is_dir()


async def test_nothing_outside_of_the_ssd_can_be_named(rig: Rig, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"x")
    (judged,) = await judge_files([(precious, rig.hdd / "Show/one")], limiter=LIMITER)
    for path in (precious, rig.ssd / "../precious", rig.ssd / "tv/../../precious"):
        done = await rig.delete((replace(judged, path=path),))
        assert isinstance(only_left(done), UnsafePath)
    assert precious.exists()
    with pytest.raises(UnsafePath):
        await delete_files(rig.ssd, await rig.judge(), save_path=tmp_path, limiter=LIMITER)
    assert len(rig.on_ssd()) == 6


def gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("change", [gone, rewritten, longer, another, a_link, a_folder])
async def test_without_every_copy_as_it_was_judged_nothing_is_deleted(
    rig: Rig, change: Callable[[Path], None]
) -> None:
    judged = await rig.judge()
    change(rig.hdd / NAMES[-1])
    before = rig.on_ssd()
    with pytest.raises(DestinationChanged, match="three"):
        await rig.delete(judged)
    assert rig.on_ssd() == before


async def test_a_file_without_a_copy_is_never_deleted(rig: Rig) -> None:
    (rig.hdd / NAMES[0]).unlink()
    with pytest.raises(DestinationChanged):
        await rig.delete()
    assert (rig.save / NAMES[0]).exists()


async def test_a_copy_whose_folder_became_a_loop_stops_it(rig: Rig) -> None:
    judged = await rig.judge()
    (rig.hdd / "Show").rename(rig.hdd / "moved")
    (rig.hdd / "Show").symlink_to("Show")
    with pytest.raises(DestinationChanged):
        await rig.delete(judged)


async def test_a_copy_that_goes_meanwhile_stops_the_rest(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = await rig.judge()
    real = os.unlink

    def unlink(name: str, *, dir_fd: int | None = None) -> None:
        real(name, dir_fd=dir_fd)
        if name == "one":
            real(rig.hdd / NAMES[1])

    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.raises(DestinationChanged, match="two"):
        await rig.delete(judged)
    assert [path.exists() for path, _ in rig.pairs] == [False, True, True]


async def test_a_copy_that_is_the_file_itself_is_never_deleted(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for path, copy in rig.pairs:
        copy.unlink()
        os.link(path, copy)
    with pytest.raises(SameStorage, match="one file"):
        await rig.delete()
    for path, _ in rig.pairs:
        assert path.exists()


@root_only
async def test_two_views_of_one_folder_are_never_deleted_from(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    with bound(rig.save, tmp_path / "view"):
        rig.hdd = tmp_path / "view"
        with pytest.raises(SameStorage):
            await rig.delete()
    rig.hdd = tmp_path / "hdd"
    assert len(rig.on_ssd()) == 6


# -- what the disk refuses -----------------------------------------------------


@root_only
async def test_a_read_only_disk_stops_it(rig: Rig) -> None:
    run("mount", "-o", "remount,ro", str(rig.ssd))
    with pytest.raises(ReadOnlyDisk):
        await rig.delete()
    run("mount", "-o", "remount,rw", str(rig.ssd))
    assert len((await rig.delete()).files) == 3


@root_only
async def test_a_file_that_the_system_uses_is_left_and_the_rest_goes(
    rig: Rig, tmp_path: Path
) -> None:
    judged = await rig.judge()
    busy = rig.save / "Show/one"
    with mounted(busy.parent / "Subs" / "disk"):
        run("mount", "--bind", str(busy), str(busy))
        try:
            done = await rig.delete(judged)
        finally:
            unmount(busy)
        assert isinstance(only_left(done), DiskError)
        assert "in use" in str(only_left(done))
        assert rig.on_ssd() == ["Show", "Show/Subs", "Show/Subs/disk", "Show/one"]


def refusing(monkeypatch: pytest.MonkeyPatch, name: str, number: int, at: str) -> None:
    real = getattr(os, name)

    def call(path: str, *args: object, **kwargs: object) -> object:
        if path == at or str(path).endswith(f"/{at}"):
            raise OSError(number, os.strerror(number))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize(
    ("name", "at", "number"),
    [
        ("unlink", "two", errno.EACCES),
        ("unlink", "two", errno.EPERM),
        ("open", "Subs", errno.EACCES),
    ],
)
async def test_a_file_that_may_not_be_deleted_is_left_and_the_rest_goes(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, name: str, at: str, number: int
) -> None:
    judged = await rig.judge()
    refusing(monkeypatch, name, number, at)
    done = await rig.delete(judged)
    assert isinstance(only_left(done), DiskError)
    assert "not allowed" in str(only_left(done))
    assert rig.on_ssd() == ["Show", "Show/Subs", "Show/Subs/two"]


@pytest.mark.parametrize(
    ("number", "error"), [(errno.EIO, DiskError), (errno.ESTALE, MustWait), (errno.EROFS, MustWait)]
)
@pytest.mark.parametrize(
    ("name", "at", "gone"), [("unlink", "two", 1), ("open", "Subs", 1), ("rmdir", "Subs", 3)]
)
async def test_a_disk_that_fails_stops_it(
    rig: Rig,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    error: type[JobError],
    name: str,
    at: str,
    gone: int,
) -> None:
    judged = await rig.judge()
    refusing(monkeypatch, name, number, at)
    with pytest.raises(error):
        await rig.delete(judged)
    assert sum(not path.exists() for path, _ in rig.pairs) == gone


async def test_a_folder_that_cannot_be_synced_is_an_error(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(fd: int) -> None:
        raise OSError(errno.EIO, "broken")

    judged = await rig.judge()
    with monkeypatch.context() as patch:
        patch.setattr(disk_calls, "fsync", fsync)
        with pytest.raises(DiskError):
            await rig.delete(judged)
    assert not (await rig.delete(judged)).left


@root_only
async def test_an_unmounted_ssd_is_not_taken_for_a_finished_deletion(rig: Rig) -> None:
    judged = await rig.judge()
    (absent,) = await judge_files([(rig.save / "gone", rig.hdd / "gone")], limiter=LIMITER)
    run("umount", str(rig.ssd))
    assert not is_mounted(rig.ssd)
    rig.save.mkdir()
    with pytest.raises(MustWait, match="mount it again"):
        await rig.delete(judged)
    rig.save.rmdir()
    rig.ssd.rmdir()
    for items in (judged, (absent,)):
        with pytest.raises(MustWait, match="mount"):
            await rig.delete(items)
    rig.ssd.mkdir()


async def test_judging_tells_what_is_absent_and_refuses_what_is_no_file(rig: Rig) -> None:
    (rig.save / "loop").symlink_to("loop")
    names = ("gone/x", "Show/one/x", "x" * 300)
    pairs = [(rig.save / name, rig.hdd / "gone") for name in names]
    judged = await judge_files(pairs, limiter=LIMITER)
    assert [(j.file, j.copy) for j in judged] == [(None, None)] * 3
    looped = replace(judged[0], path=rig.save / "loop/x/y")
    assert not (await rig.delete((*judged, looped))).left
    with pytest.raises(UnsafePath):
        await judge_files([(rig.save / "Show", rig.hdd / "gone")], limiter=LIMITER)


# -- any tree ------------------------------------------------------------------

paths = st.lists(st.sampled_from(["a", "b", ".unwanted"]), min_size=1, max_size=4).map(
    lambda parts: "/".join([*parts, "f"])
)


@given(own=st.sets(paths), foreign=st.sets(paths), folders=st.sets(paths))
def test_in_any_tree_exactly_the_torrents_files_and_folders_left_empty_go(
    tmp_path_factory: pytest.TempPathFactory, own: set[str], foreign: set[str], folders: set[str]
) -> None:
    top = tmp_path_factory.mktemp("tree")
    save = top / "ssd/save"
    foreign = {f"{name}oreign" for name in foreign}
    for name in (*own, *foreign):
        for path in (save / name, top / "hdd" / name):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    kept = {f"{name}older" for name in folders}
    for name in kept:
        (save / name).mkdir(parents=True, exist_ok=True)
    save.mkdir(parents=True, exist_ok=True)
    judged = [
        JudgedFile(
            path=save / name,
            file=ssd_deletion._identify(save / name),
            copy_path=top / "hdd" / name,
            copy=ssd_deletion._identify(top / "hdd" / name),
        )
        for name in sorted(own)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk_calls, "fsync", bool)  # slow, and tested elsewhere
        done = ssd_deletion._delete_files(top / "ssd", judged, save, lambda: None)
    assert {str(p.relative_to(save)) for p in done.files} == own
    after = {str(p.relative_to(save)) for p in save.rglob("*")}
    expected = {*foreign, *kept}
    for name in tuple(expected):
        expected |= {str(p) for p in Path(name).parents if str(p) != "."}
    assert after == expected
