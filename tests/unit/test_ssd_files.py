"""What torrents have on the SSD, under all of its names."""

# ruff: noqa: ASYNC240 (nothing else runs in these tests)
from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from qbm_trio.adapters import ssd_files
from qbm_trio.adapters.disk_paths import FolderHandle
from qbm_trio.adapters.ssd_files import ListedFile, find_links, stat_files
from qbm_trio.core.errors import DiskError, JobError, MustWait, UnsafePath
from qbm_trio.core.model import TorrentId
from qbm_trio.core.sharing import SsdFile
from tests.rig.mounts import bound, mounted

LIMITER = trio.CapacityLimiter(2)
A, B = TorrentId("a" * 40), TorrentId("b" * 40)


@pytest.fixture
def ssd(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, where that can be had."""
    if os.geteuid() != 0:
        (tmp_path / "ssd").mkdir()
        yield tmp_path / "ssd"
    else:
        with mounted(tmp_path / "ssd") as folder:
            yield folder


def write(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def listed(*names: str, wanted: bool = True) -> list[ListedFile]:
    return [ListedFile(on_ssd=PurePosixPath(name), wanted=wanted) for name in names]


async def found(
    ssd: Path, **lists: list[ListedFile]
) -> tuple[tuple[SsdFile, ...], dict[str, JobError]]:
    result = await stat_files(ssd, {TorrentId(k): v for k, v in lists.items()}, limiter=LIMITER)
    return result.files, {str(k): v for k, v in result.problems.items()}


async def test_a_file_is_told_with_its_inode_links_and_bytes_on_the_disk(ssd: Path) -> None:
    path = write(ssd / "tv/Show/f", b"x" * 5000)
    os.link(path, ssd / "linked")
    with (ssd / "holes").open("wb") as file:
        file.truncate(1_000_000)
    files, problems = await found(ssd, a=listed("tv/Show/f", "gone", "tv/Show/f/below", "holes"))
    assert not problems
    status = path.stat()
    assert files[0] == SsdFile(
        torrent_id=TorrentId("a"),
        path=str(path),
        wanted=True,
        inode=(status.st_dev, status.st_ino),
        links=2,
        disk_bytes=status.st_blocks * 512,
    )
    assert files[0].disk_bytes >= 5000
    assert [(f.path, f.disk_bytes) for f in files[1:]] == [(str(ssd / "holes"), 0)]


async def test_a_file_is_found_under_the_names_that_qbittorrent_gives_it_on_the_disk(
    ssd: Path,
) -> None:
    names = ["S/f", "S/f.!qB", "S/.unwanted/f", "S/.unwanted/f.!qB"]
    for name in names:
        write(ssd / name)
    write(ssd / "S/other")
    files, problems = await found(ssd, a=listed("S/f", wanted=False))
    assert [f.path for f in files] == [str(ssd / n) for n in names]
    assert not any(f.wanted for f in files)
    assert not problems


async def test_a_link_that_is_named_like_the_folder_of_unwanted_files_is_not_followed(
    ssd: Path, tmp_path: Path
) -> None:
    write(tmp_path / "outside/f")
    (ssd / ".unwanted").symlink_to(tmp_path / "outside")
    assert await found(ssd, a=listed("f")) == ((), {})


async def test_a_file_that_is_listed_twice_is_told_once_and_wanted_if_once_wanted(
    ssd: Path,
) -> None:
    write(ssd / "f.!qB")
    files, _ = await found(ssd, a=[*listed("f"), *listed("f.!qB", wanted=False)])
    assert [(f.path, f.wanted) for f in files] == [(str(ssd / "f.!qB"), True)]


async def test_each_torrent_has_its_own_entry_of_a_shared_file_under_one_path(ssd: Path) -> None:
    write(ssd / "real/f")
    (ssd / "alias").symlink_to("real")
    files, problems = await found(ssd, a=listed("real/f"), b=listed("alias/f"))
    assert [(f.torrent_id, f.path) for f in files] == [
        ("a", str(ssd / "real/f")),
        ("b", str(ssd / "real/f")),
    ]
    assert not problems


async def test_a_link_in_a_files_place_is_a_problem_and_what_it_leads_to_is_told(
    ssd: Path, tmp_path: Path
) -> None:
    write(ssd / "library/f")
    write(tmp_path / "outside")
    outside = str(tmp_path / "outside")
    for name, target in [("in", "library/f"), ("out", outside), ("no", "nowhere")]:
        (ssd / name).symlink_to(target)
    files, problems = await found(ssd, a=listed("in"), b=listed("out"), c=listed("no"))
    assert [(f.torrent_id, f.path) for f in files] == [("a", str(ssd / "library/f"))]
    assert set(problems) == {"a", "b", "c"}
    assert all("symbolic link" in str(e) for e in problems.values())


async def test_the_trouble_of_one_file_hides_no_other_file(ssd: Path, tmp_path: Path) -> None:
    write(ssd / "good")
    (ssd / "folder").mkdir()
    os.mkfifo(ssd / "pipe")
    (ssd / "away").symlink_to(tmp_path)
    lists = {
        n: listed(n, "good")
        for n in ("folder", "pipe", "away/f", "../f", "x" * 300, "\ud800", "\ud800/f")
    }
    files, problems = await found(ssd, fine=listed("good"), **lists)
    assert [f.torrent_id for f in files] == ["fine", *lists]
    assert set(problems) == set(lists)
    assert all(isinstance(e, UnsafePath) for e in problems.values())


def failing(
    monkeypatch: pytest.MonkeyPatch, name: str, number: int, at: Callable[[str], bool]
) -> None:
    real = getattr(os, name)

    def call(path: object, *args: object, **kwargs: object) -> object:
        if isinstance(path, str | Path) and at(str(path)):
            raise OSError(number, os.strerror(number))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
async def test_a_file_that_cannot_be_examined_is_its_torrents_problem(
    ssd: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write(ssd / "S/bad")
    write(ssd / "S/good")
    failing(monkeypatch, "lstat", number, lambda path: path.endswith("/bad"))
    files, problems = await found(ssd, a=listed("S/bad", "S/good"))
    assert [f.path for f in files] == [str(ssd / "S/good")]
    assert isinstance(problems["a"], DiskError)


async def test_a_disk_that_is_away_is_no_empty_list(
    ssd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MustWait):
        await found(ssd / "gone", a=listed("f"))
    write(ssd / "f")
    failing(monkeypatch, "lstat", errno.ESTALE, lambda path: path.endswith("/f"))
    with pytest.raises(MustWait):
        await found(ssd, a=listed("f"))


def cancelling_after(calls: int) -> Callable[[], None]:
    left = iter(range(calls))

    def check() -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    return check


def test_looking_at_many_files_notices_a_cancellation(tmp_path: Path) -> None:
    lists = {A: listed(*(f"f{n}" for n in range(2000)))}
    with pytest.raises(KeyboardInterrupt):
        ssd_files._stat_files(tmp_path, lists, cancelling_after(4))


# -- other links ---------------------------------------------------------------


async def links(ssd: Path, *names: str) -> dict[str, list[str]]:
    """The other names of the files, below the SSD."""
    files, _ = await found(ssd, a=listed(*names))
    result = await find_links(ssd, files, limiter=LIMITER)
    assert not result.unreadable
    real = os.path.realpath(ssd)
    first = {f.inode: os.path.relpath(f.path, real) for f in reversed(files)}
    return {
        first[inode]: [os.path.relpath(p, real) for p in paths]
        for inode, paths in result.paths.items()
    }


async def test_the_other_names_of_a_file_are_found(ssd: Path) -> None:
    for name in ("S/f", "S/g", "S/alone"):
        write(ssd / name)
    (ssd / "library/deep").mkdir(parents=True)
    os.link(ssd / "S/f", ssd / "library/deep/f")
    os.link(ssd / "S/f", ssd / "copy")
    os.link(ssd / "S/g", ssd / "library/g")
    os.link(write(ssd / "x"), ssd / "y")  # nobody asked
    assert await links(ssd, "S/f", "S/g", "S/alone") == {
        "S/f": ["copy", "library/deep/f"],
        "S/g": ["library/g"],
    }
    assert await links(ssd, "S/f", "copy") == {"S/f": ["library/deep/f"]}


async def test_nothing_is_walked_when_all_names_are_known(
    ssd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.link(write(ssd / "f"), ssd / "g")
    monkeypatch.setattr(os, "scandir", None)
    assert await links(ssd, "f", "g") == {}


async def test_the_walk_ends_with_the_last_name_found(
    ssd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.link(write(ssd / "S/f"), ssd / "g")
    opened = []
    real = FolderHandle.open

    def note(self: FolderHandle, path: str) -> int:
        opened.append(path)
        return real(self, path)

    monkeypatch.setattr(FolderHandle, "open", note)
    assert await links(ssd, "S/f") == {"S/f": ["g"]}
    assert opened == [str(ssd)]


async def test_the_walk_follows_no_link_and_leaves_staging_alone(ssd: Path, tmp_path: Path) -> None:
    write(ssd / "f")
    for folder in (ssd / "library", ssd / ".qbm-staging/i/j"):
        folder.mkdir(parents=True)
        os.link(ssd / "f", folder / "g")
    (ssd / "loop").symlink_to(".")
    (ssd / "out").symlink_to(tmp_path)
    (ssd / "to-f").symlink_to("f")
    (tmp_path / "root").symlink_to(ssd)
    assert await links(ssd, "f") == {"f": ["library/g"]}
    assert await links(tmp_path / "root", "f") == {"f": ["library/g"]}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
async def test_the_walk_enters_another_file_system_only_for_files_sought_there(ssd: Path) -> None:
    entered: set[int] = set()
    real = os.scandir

    def scandir(fd: int) -> object:
        entered.add(os.fstat(fd).st_dev)
        return real(fd)

    # The walk is sure to meet `other`: a link that it cannot find keeps it from ending early.
    os.link(write(ssd / ".qbm-staging/f"), ssd / "f")
    with mounted(ssd / "other"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        os.link(write(ssd / "other/f"), ssd / "other/g")
        (ssd / "other/sub").mkdir()
        os.link(ssd / "other/f", ssd / "other/sub/h")
        assert await links(ssd, "f") == {}
        assert entered == {ssd.stat().st_dev}
        assert await links(ssd, "other/f") == {"other/f": ["other/g", "other/sub/h"]}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
async def test_a_folder_with_two_names_is_walked_once(ssd: Path) -> None:
    write(ssd / "S/f")
    (ssd / "library").mkdir()
    os.link(ssd / "S/f", ssd / "library/g")
    (ssd / ".qbm-staging").mkdir()
    os.link(ssd / "S/f", ssd / ".qbm-staging/f")  # never found, so that the walk goes to its end
    with bound(ssd / "library", ssd / "again"):
        (names,) = (await links(ssd, "S/f")).values()
    assert names in (["library/g"], ["again/g"])


async def test_a_folder_that_may_not_be_read_is_told(
    ssd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(ssd / "f")
    for name in ("closed/g", "open/h"):
        (ssd / name).parent.mkdir()
        os.link(ssd / "f", ssd / name)
    files, _ = await found(ssd, a=listed("f"))
    failing(monkeypatch, "open", errno.EACCES, lambda path: path.endswith("/closed"))
    result = await find_links(ssd, files, limiter=LIMITER)
    assert result.paths == {files[0].inode: (f"{ssd}/open/h",)}
    assert result.unreadable == (f"{ssd}/closed",)


async def test_a_disk_that_fails_in_the_walk_is_an_error(
    ssd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.link(write(ssd / "f"), ssd / "g")
    (ssd / "sub").mkdir()
    files, _ = await found(ssd, a=listed("f"))
    failing(monkeypatch, "open", errno.EIO, lambda path: path == str(ssd))
    with pytest.raises(DiskError):
        await find_links(ssd, files, limiter=LIMITER)


async def test_what_vanishes_or_turns_into_a_link_during_the_walk_is_passed_by(
    ssd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(ssd / "f")
    for name in ("a/g", "swapped/in/g", "gone/g", "z/g"):
        (ssd / name).parent.mkdir(parents=True)
        os.link(ssd / "f", ssd / name)
    files, _ = await found(ssd, a=listed("f"))
    real, real_stat = FolderHandle.open, os.stat

    def swap(self: FolderHandle, path: str) -> int:
        if path == str(ssd / "swapped/in"):
            (ssd / "swapped").rename(ssd / "moved")
            (ssd / "swapped").symlink_to("moved")
        if path == str(ssd / "gone"):
            (ssd / "gone/g").unlink()
            (ssd / "gone").rmdir()
        return real(self, path)

    def vanish(path: str, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> object:
        if path == "g" and os.readlink(f"/proc/self/fd/{dir_fd}").endswith("/z"):  # noqa: PTH115
            raise FileNotFoundError
        return real_stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(FolderHandle, "open", swap)
    monkeypatch.setattr(os, "stat", vanish)
    result = await find_links(ssd, files, limiter=LIMITER)
    assert result.paths == {files[0].inode: (f"{ssd}/a/g",)}


def test_the_walk_notices_a_cancellation_in_a_large_folder(tmp_path: Path) -> None:
    os.link(write(tmp_path / "S/f"), tmp_path / "S/g")
    for number in range(600):
        (tmp_path / f"{number}").touch()
    status = (tmp_path / "S/f").stat()
    file = SsdFile(
        torrent_id=A, path=str(tmp_path / "S/f"), wanted=True, links=3, disk_bytes=0,
        inode=(status.st_dev, status.st_ino),
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        ssd_files._find_links(tmp_path, [file], cancelling_after(2))


@given(
    places=st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["", "x", "y", "x/y"])), max_size=12
    ),
    known=st.integers(1, 12),
)
def test_known_and_found_names_are_all_names(
    tmp_path_factory: pytest.TempPathFactory, places: list[tuple[str, str]], known: int
) -> None:
    ssd = tmp_path_factory.mktemp("ssd")
    names: dict[str, list[Path]] = {}
    for number, (inode, folder) in enumerate(places):
        path = ssd / folder / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        if inode in names:
            os.link(names[inode][0], path)
        else:
            path.touch()
        names.setdefault(inode, []).append(path)
    lists = {A: listed(*(str(p.relative_to(ssd)) for ps in names.values() for p in ps[:known]))}
    files = ssd_files._stat_files(ssd, lists, lambda: None).files
    result = ssd_files._find_links(ssd, files, lambda: None)
    expected = {
        (ps[0].stat().st_dev, ps[0].stat().st_ino): tuple(sorted(map(str, ps[known:])))
        for ps in names.values()
        if ps[known:]
    }
    assert result.paths == expected
