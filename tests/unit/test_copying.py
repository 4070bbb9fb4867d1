"""Copying with proof: every way a copy, a source or a disk can be wrong."""

from __future__ import annotations

import errno
import gc
import os
import stat
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qbm_trio.adapters import copy_hashing, copy_pieces, copy_stream, copy_write, disk_calls
from qbm_trio.adapters.copy_hashing import Piece
from qbm_trio.adapters.copy_stream import Input, OpenInput
from qbm_trio.adapters.copy_threads import Stop, Stopped, WriteRate
from qbm_trio.adapters.copying import (
    CopyItem,
    CopyOptions,
    CopyReport,
    copy_and_verify,
    identical,
)
from qbm_trio.adapters.disk_paths import FolderHandle
from qbm_trio.adapters.metainfo import parse
from qbm_trio.core.errors import (
    BadMetainfo,
    DestinationChanged,
    DestinationConflict,
    DiskError,
    JobError,
    MustWait,
    SourceChanged,
    SourceCorrupt,
    UnsafePath,
)
from qbm_trio.core.model import Progress, Verification, WaitReason
from qbm_trio.core.pieces import Metainfo, Role, Segment, Span
from tests.rig.torrents import Version, make_torrent, write_files

SIZES = {"a.bin": 100_000, "b.bin": 5, "empty": 0, "c.bin": 16384, "d.bin": 3_000_001}
PLAIN = CopyOptions(nice=0)


@dataclass(frozen=True)
class Case:
    """A torrent on an SSD, ready to be copied to a staging folder."""

    metainfo: Metainfo
    items: list[CopyItem]
    limiter: trio.CapacityLimiter
    staging: Path

    async def copy(
        self, options: CopyOptions = PLAIN, progress: Progress | None = None
    ) -> CopyReport:
        return await copy_and_verify(
            self.metainfo,
            self.items,
            options=options,
            progress=progress or Progress(),
            limiter=self.limiter,
            require=lambda: None,
        )

    async def identical(self, index: int, candidate: Path) -> bool:
        return await self.all_identical({index: candidate}) == {index}

    async def all_identical(self, candidates: Mapping[int, Path]) -> frozenset[int]:
        return await identical(self.metainfo, self.items, candidates, limiter=self.limiter, nice=0)

    def change(self, index: int, **fields: object) -> None:
        self.items[index] = replace(self.items[index], **fields)  # type: ignore[arg-type]

    def staged(self, index: int) -> Path:
        path = self.items[index].staged
        assert path is not None
        return path


def make(
    folder: Path,
    *,
    version: Version = Version.V1,
    sizes: Mapping[str, int] = SIZES,
    piece_length: int = 32768,
    padded: bool = False,
) -> Case:
    write_files(folder / "ssd" / "t", sizes)
    made = make_torrent(
        folder / "ssd",
        "t",
        list(sizes),
        version=version,
        piece_length=piece_length,
        padded=padded,
    )
    staging = folder / "staging"
    staging.mkdir()
    items = [
        CopyItem(
            index=n,
            source=path,
            size_bytes=path.stat().st_size,
            wanted=True,
            staged=staging / str(n),
        )
        for n, path in enumerate(made.paths)
    ]
    return Case(parse(made.data), items, trio.CapacityLimiter(2), staging)


def at(case: Case, name: str) -> int:
    return next(i.index for i in case.items if i.source.name == name)


def flip(path: Path, offset: int) -> None:
    """Change one byte, and nothing that stat shows."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def spoil_writes(monkeypatch: pytest.MonkeyPatch, *, times: int, size: int | None = None) -> None:
    """Make the first writes put a wrong byte on the disk: what broken memory does."""
    real = copy_write.write_fully
    left = [times]

    def write(fd: int, data: memoryview, offset_bytes: int) -> None:
        real(fd, data, offset_bytes)
        if left[0] and len(data) and (size is None or len(data) == size):
            left[0] -= 1
            os.pwrite(fd, bytes([data[0] ^ 0xFF]), offset_bytes)

    monkeypatch.setattr(copy_write, "write_fully", write)


# -- a good copy ---------------------------------------------------------------


@pytest.mark.parametrize("version", Version)
@pytest.mark.parametrize("verification", Verification)
@pytest.mark.parametrize("piece_length", [16384, 4 << 20])
async def test_copies_are_whole_and_bear_owner_mode_and_times_of_their_sources(
    tmp_path: Path, version: Version, verification: Verification, piece_length: int
) -> None:
    case = make(tmp_path, version=version, piece_length=piece_length)
    for n, item in enumerate(case.items):
        item.source.chmod((0o444, 0o664, 0o600)[n % 3])
        os.chown(item.source, 1000 + n, 2000)
        os.utime(item.source, ns=(1_600_000_000_000_000_000, 1_500_000_000_123_456_789 + n))
    progress = Progress()
    report = await case.copy(CopyOptions(nice=0, verification=verification), progress)
    total = sum(SIZES.values())
    hashed = 0 if verification is Verification.SIZE else total
    assert (report.bytes_copied, report.bytes_verified) == (total, hashed)
    assert (progress.bytes_done, progress.bytes_verified) == (total, hashed)
    assert report.pieces_recopied == 0
    assert sorted(report.files) == [i.index for i in case.items]
    for item in case.items:
        staged = case.staged(item.index)
        assert staged.read_bytes() == item.source.read_bytes()
        status, written = staged.stat(), report.files[item.index]
        model = item.source.stat()
        # The service itself must still be able to write: a piece may be written again.
        assert stat.S_IMODE(status.st_mode) == stat.S_IMODE(model.st_mode) | 0o600
        assert (status.st_uid, status.st_gid) == (model.st_uid, model.st_gid)
        assert status.st_mtime_ns == model.st_mtime_ns == written.mtime_ns
        assert (status.st_size, status.st_ino) == (written.size_bytes, written.inode)


@pytest.mark.parametrize("size", [copy_write.LARGE_BYTES, 100])
async def test_nothing_of_a_staged_file_is_changed_after_its_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    case = make(tmp_path, sizes={"file": size})
    case.items[0].source.chmod(0o640)
    synced: list[os.stat_result] = []
    real = disk_calls.fsync

    def fsync(fd: int) -> None:
        real(fd)
        synced.append(os.fstat(fd))

    monkeypatch.setattr(disk_calls, "fsync", fsync)
    await case.copy()
    now = case.staged(0).stat()
    assert [(s.st_ino, s.st_ctime_ns) for s in synced] == [(now.st_ino, now.st_ctime_ns)]


@given(
    sizes=st.lists(st.integers(0, 70_000), min_size=2, max_size=6),
    version=st.sampled_from(Version),
    padded=st.booleans(),
    spared=st.sets(st.integers(0, 5)),
    buffer_bytes=st.integers(1000, 60_000),
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_the_sizes_and_buffers_the_copy_is_exact(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    sizes: Sequence[int],
    version: Version,
    padded: bool,
    spared: set[int],
    buffer_bytes: int,
) -> None:
    if not sum(sizes):
        return
    monkeypatch.setattr(copy_stream, "BUFFER_BYTES", buffer_bytes)
    names = {f"f{n}": size for n, size in enumerate(sizes)}
    case = make(tmp_path_factory.mktemp("c"), sizes=names, version=version, padded=padded)
    for n in spared & set(range(len(case.items))):
        case.change(n, wanted=False, staged=None)
        case.items[n].source.unlink()  # unwanted files need not exist
    report = trio.run(case.copy)
    assert report.pieces_recopied == 0
    for item in case.items:
        if item.staged is not None:
            assert item.staged.read_bytes() == item.source.read_bytes()
    assert len(list(case.staging.iterdir())) == len(report.files)


async def test_a_large_file_is_synced_by_itself_and_many_small_ones_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real_fsync, real_syncfs = disk_calls.fsync, disk_calls.syncfs

    def fsync(fd: int) -> None:
        calls.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        real_fsync(fd)

    def syncfs(fd: int) -> None:
        calls.append("syncfs")
        real_syncfs(fd)

    monkeypatch.setattr(disk_calls, "fsync", fsync)
    monkeypatch.setattr(disk_calls, "syncfs", syncfs)
    monkeypatch.setattr(copy_write, "LARGE_BYTES", 100_000)
    monkeypatch.setattr(copy_write, "_WINDOW_BYTES", 1 << 20)
    few = make(tmp_path / "few", sizes={"big": 5_000_000, "s1": 10, "s2": 20})
    await few.copy()
    assert sorted(calls) == ["0", "1", "2"]
    calls.clear()
    many = make(tmp_path / "many", sizes={f"s{n:03}": n for n in range(1, 50)})
    await many.copy()
    assert calls == ["syncfs"]


async def test_copying_threads_are_nice_and_trios_own_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    wanted = min(19, before + 3)
    real = copy_stream.OpenInput.check_unchanged

    def note(self: copy_stream.OpenInput) -> None:
        me = threading.get_native_id()
        seen.append((me, os.getpriority(os.PRIO_PROCESS, me)))
        real(self)

    monkeypatch.setattr(copy_stream.OpenInput, "check_unchanged", note)
    await make(tmp_path).copy(CopyOptions(nice=wanted))
    assert {nice for _, nice in seen} == {wanted}

    def here() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    assert await trio.to_thread.run_sync(here) == before
    assert here() == before
    assert not any(t.name == "qbm-disk" for t in threading.enumerate())


async def test_a_large_copy_leaves_the_page_cache_but_its_source_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: dict[str, list[tuple[int, int]]] = {}
    real = os.posix_fadvise

    def note(fd: int, offset: int, size: int, advice: int) -> None:
        if advice == os.POSIX_FADV_DONTNEED:
            name = Path(f"/proc/self/fd/{fd}").readlink().name
            forgotten.setdefault(name, []).append((offset, size))
        real(fd, offset, size, advice)

    monkeypatch.setattr(os, "posix_fadvise", note)
    monkeypatch.setattr(copy_write, "_WINDOW_BYTES", 4 << 20)
    await make(tmp_path, sizes={"big": 20_000_000}).copy()
    # The end of the copy stays; and the source, which may be seeded from.
    assert forgotten == {"0": [(n << 21, 1 << 21) for n in range(7)]}


def test_what_was_read_ahead_behind_a_range_is_not_forgotten(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    path = tmp_path / "file"
    path.write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch, path.open("rb") as file:
        patch.setattr(os, "posix_fadvise", lambda _, begin, size, __: calls.append((begin, size)))
        disk_calls.drop_behind(file.fileno(), 0, (1 << 21) - 1)
        disk_calls.drop_behind(file.fileno(), 100, 1 << 21)
        disk_calls.drop_behind(file.fileno(), (1 << 21) + 100, 5 << 20)
    assert calls == [(0, 1 << 21), (1 << 21, 4 << 20)]


# -- bad bytes -----------------------------------------------------------------


@pytest.mark.parametrize("version", Version)
@pytest.mark.parametrize("name", ["a.bin", "b.bin", "d.bin"])
async def test_a_corrupt_source_is_named_with_its_piece(
    tmp_path: Path, version: Version, name: str
) -> None:
    case = make(tmp_path, version=version)
    index = at(case, name)
    offset = case.items[index].size_bytes // 2
    flip(case.items[index].source, offset)
    with pytest.raises(SourceCorrupt, match=name) as caught:
        await case.copy()
    assert "piece" in str(caught.value)


@pytest.mark.parametrize("name", ["a.bin", "b.bin", "d.bin"])
async def test_of_a_hybrid_without_its_piece_layers_a_corrupt_source_is_found_too(
    tmp_path: Path, name: str
) -> None:
    case = make(tmp_path, version=Version.HYBRID)
    files = tuple(
        file if file.layer is None else replace(file, pieces_root=None, layer=None)
        for file in case.metainfo.files
    )
    assert files != case.metainfo.files
    case = replace(case, metainfo=replace(case.metainfo, files=files))
    index = at(case, name)
    candidates = {item.index: item.source for item in case.items}
    assert await case.all_identical(candidates) == candidates.keys()
    flip(case.items[index].source, case.items[index].size_bytes // 2)
    with pytest.raises(SourceCorrupt, match=name):
        await case.copy()
    assert index not in await case.all_identical(candidates)


async def test_corruption_passes_with_size_verification_which_hashes_nothing(
    tmp_path: Path,
) -> None:
    case = make(tmp_path)
    flip(case.items[0].source, 7)
    report = await case.copy(CopyOptions(nice=0, verification=Verification.SIZE))
    assert report.bytes_verified == 0


@pytest.mark.parametrize("version", Version)
async def test_a_piece_that_was_read_wrong_once_is_read_and_written_again(
    tmp_path: Path, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flipped bit between disk and memory: the second read is right."""
    case = make(tmp_path, version=version)
    real = copy_stream.OpenInput.read_into
    spoiled: list[Path] = []

    def read_into(self: copy_stream.OpenInput, view: memoryview, offset_bytes: int) -> None:
        real(self, view, offset_bytes)
        if self.path.name in ("a.bin", "d.bin") and self.path not in spoiled:
            spoiled.append(self.path)
            view[len(view) // 2] ^= 1

    monkeypatch.setattr(copy_stream.OpenInput, "read_into", read_into)
    report = await case.copy()
    assert len(spoiled) == 2
    assert report.pieces_recopied == (4 if version is Version.HYBRID else 2)
    for item in case.items:
        staged = case.staged(item.index)
        assert staged.read_bytes() == item.source.read_bytes()
        assert staged.stat().st_mtime_ns == item.source.stat().st_mtime_ns


async def test_a_large_file_that_was_repaired_is_synced_after_the_repair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was synced by itself when it ended, before its bad piece was known or mended."""
    monkeypatch.setattr(copy_write, "LARGE_BYTES", 50_000)
    spoil_writes(monkeypatch, times=1, size=100_000)
    events: list[str] = []
    real_fsync, real_rewrite = disk_calls.fsync, copy_write.StagedWriter.rewrite

    def fsync(fd: int) -> None:
        events.append("sync " + Path(f"/proc/self/fd/{fd}").readlink().name)
        real_fsync(fd)

    def rewrite(
        self: copy_write.StagedWriter, number: int, path: Path, offset_bytes: int, data: memoryview
    ) -> None:
        real_rewrite(self, number, path, offset_bytes, data)
        events.append(f"rewrite {path.name}")

    monkeypatch.setattr(disk_calls, "fsync", fsync)
    monkeypatch.setattr(copy_write.StagedWriter, "rewrite", rewrite)
    case = make(tmp_path, sizes={"big": 100_000})
    await case.copy(CopyOptions(nice=0, verification=Verification.READBACK))
    assert "rewrite 0" in events
    assert events[0] == events[-1] == "sync 0"


@pytest.mark.parametrize("version", Version)
async def test_readback_finds_and_mends_what_the_disk_got_wrong(
    tmp_path: Path, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make(tmp_path, version=version)
    spoil_writes(monkeypatch, times=1, size=100_000)
    report = await case.copy(CopyOptions(nice=0, verification=Verification.READBACK))
    assert report.pieces_recopied >= 1
    for item in case.items:
        assert case.staged(item.index).read_bytes() == item.source.read_bytes()


async def test_readback_gives_up_on_a_disk_that_lies_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make(tmp_path)
    spoil_writes(monkeypatch, times=10**9)
    with pytest.raises(DiskError, match="other bytes"):
        await case.copy(CopyOptions(nice=0, verification=Verification.READBACK))


# -- unwanted and published neighbours -----------------------------------------


async def test_bytes_beside_an_unwanted_file_are_compared_with_their_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No hash can tell there: a wrong byte is found by reading the copy back, and mended."""
    case = make(tmp_path)
    case.change(at(case, "b.bin"), wanted=False, staged=None)
    case.items[at(case, "b.bin")].source.unlink()
    spoil_writes(monkeypatch, times=1, size=16384)  # c.bin lies in one piece with b.bin
    report = await case.copy()
    assert report.pieces_recopied >= 1
    for item in case.items:
        if item.staged is not None:
            assert item.staged.read_bytes() == item.source.read_bytes()


async def test_a_disk_that_lies_twice_beside_an_unwanted_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make(tmp_path)
    case.change(at(case, "b.bin"), wanted=False, staged=None)
    spoil_writes(monkeypatch, times=10**9)
    with pytest.raises(DiskError, match="other bytes"):
        await case.copy()


@pytest.mark.parametrize("version", Version)
async def test_pieces_shared_with_a_published_file_are_hashed_with_its_hdd_bytes(
    tmp_path: Path, version: Version
) -> None:
    case = make(tmp_path, version=version)
    index = at(case, "b.bin")
    there = tmp_path / "published"
    there.write_bytes(case.items[index].source.read_bytes())
    case.change(index, staged=None, published=there)
    case.items[index].source.unlink()
    report = await case.copy()
    assert index not in report.files
    assert report.bytes_verified == sum(SIZES.values()) - 5


async def test_a_published_file_that_went_bad_is_told_from_a_bad_source(
    tmp_path: Path,
) -> None:
    case = make(tmp_path)
    index = at(case, "b.bin")
    there = tmp_path / "published"
    there.write_bytes(b"wrong")
    case.change(index, staged=None, published=there)
    with pytest.raises(DestinationConflict, match="published"):
        await case.copy()
    flip(case.items[at(case, "c.bin")].source, 3)
    with pytest.raises(SourceCorrupt):
        await make_again(case).copy()


@pytest.mark.parametrize("left", [None, b"short"], ids=["vanished", "cut short"])
async def test_a_published_file_that_vanishes_is_not_blamed_on_qbittorrent(
    tmp_path: Path, left: bytes | None
) -> None:
    case = make(tmp_path)
    there = tmp_path / "published"
    if left is not None:
        there.write_bytes(left)
    case.change(at(case, "c.bin"), staged=None, published=there)
    with pytest.raises(DestinationChanged, match="published was removed from the HDD") as raised:
        await case.copy()
    assert "qBittorrent" not in str(raised.value)


def make_again(case: Case) -> Case:
    for path in case.staging.iterdir():
        path.unlink()
    return case


# -- sources that are not what they should be ----------------------------------


def remove(path: Path) -> None:
    path.unlink()


def unfinished(path: Path) -> None:
    path.rename(path.with_name(f"{path.name}.!qB"))


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link(path: Path) -> None:
    moved = path.with_name("elsewhere")
    path.rename(moved)
    path.symlink_to(moved)


def linked_folder(path: Path) -> None:
    parent = path.parent
    moved = parent.with_name("moved")
    parent.rename(moved)
    parent.symlink_to(moved)


@pytest.mark.parametrize(
    ("spoil", "error", "sentence"),
    [
        (remove, SourceChanged, "missing"),
        (unfinished, SourceChanged, "unfinished"),
        (grow, SourceChanged, "instead of"),
        (pipe, SourceChanged, "not a regular file"),
        (folder, SourceChanged, "not a regular file"),
        (link, UnsafePath, "symbolic link"),
        (linked_folder, (UnsafePath, SourceChanged), "symbolic link|missing"),
    ],
)
async def test_a_source_that_is_not_the_expected_file_is_refused(
    tmp_path: Path,
    spoil: Callable[[Path], None],
    error: type[JobError],
    sentence: str,
) -> None:
    case = make(tmp_path)
    spoil(case.items[0].source)
    with trio.fail_after(5), pytest.raises(error, match=sentence):
        await case.copy()


def change_while_it_is_read(monkeypatch: pytest.MonkeyPatch, path: Path, how: str) -> None:
    real = copy_stream.OpenInput.read_into

    def read_into(self: copy_stream.OpenInput, view: memoryview, offset_bytes: int) -> None:
        if self.path == path and how == "shrunk":
            os.truncate(path, 10)
        real(self, view, offset_bytes)
        if self.path == path and how == "written":
            os.utime(path)

    monkeypatch.setattr(copy_stream.OpenInput, "read_into", read_into)


@pytest.mark.parametrize("how", ["written", "shrunk"])
async def test_a_source_that_changes_meanwhile_is_noticed(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make(tmp_path)
    change_while_it_is_read(monkeypatch, case.items[at(case, "d.bin")].source, how)
    with pytest.raises(SourceChanged, match=r"changed|shrank"):
        await case.copy()


@pytest.mark.parametrize("how", ["written", "shrunk"])
async def test_a_file_on_the_hdd_that_changes_meanwhile_is_not_blamed_on_qbittorrent(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make(tmp_path)
    index = at(case, "d.bin")
    candidate = tmp_path / "candidate"
    candidate.write_bytes(case.items[index].source.read_bytes())
    change_while_it_is_read(monkeypatch, candidate, how)
    with pytest.raises(DestinationChanged, match=f"^{candidate} was removed from the HDD, or ch"):
        await case.identical(index, candidate)


async def test_items_that_are_not_the_torrents_files_are_refused(tmp_path: Path) -> None:
    case = make(tmp_path)
    whole = list(case.items)
    case.items.pop()
    with pytest.raises(BadMetainfo, match="5 files, qBittorrent 4"):
        await case.copy()
    case.items[:] = [replace(whole[0], size_bytes=99), *whole[1:]]
    with pytest.raises(BadMetainfo, match="99 bytes"):
        await case.copy()


# -- disks that refuse ---------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "error", "reason"),
    [
        (errno.ENOSPC, MustWait, WaitReason.SPACE),
        (errno.EDQUOT, MustWait, WaitReason.SPACE),
        (errno.EROFS, MustWait, WaitReason.TIER),
        (errno.ENOENT, MustWait, WaitReason.TIER),
        (errno.ENOTCONN, MustWait, WaitReason.TIER),
        (errno.EIO, DiskError, None),
        (errno.EACCES, DiskError, None),
        (errno.EFBIG, DiskError, None),
        (errno.ENAMETOOLONG, UnsafePath, None),
    ],
)
@pytest.mark.parametrize("where", ["write", "sync"])
async def test_what_the_hdd_refuses_becomes_a_wait_or_a_failure(
    tmp_path: Path,
    number: int,
    error: type[JobError],
    reason: WaitReason | None,
    where: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    if where == "write":
        monkeypatch.setattr(copy_write, "write_fully", refuse)
    else:
        monkeypatch.setattr(disk_calls, "fsync", refuse)
    with pytest.raises(error) as caught:
        await make(tmp_path).copy()
    assert getattr(caught.value, "reason", None) is reason
    assert str(tmp_path) in str(caught.value)


async def test_a_source_that_cannot_be_read_is_a_disk_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EIO, "I/O")

    monkeypatch.setattr(os, "preadv", refuse)
    with pytest.raises(DiskError, match=r"cannot read .*a\.bin"):
        await make(tmp_path).copy()


async def test_a_full_disk_is_a_wait_for_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``/dev/full`` answers every write with a real ENOSPC."""
    real = os.pwrite

    def to_full(fd: int, data: memoryview, offset_bytes: int) -> int:
        full = os.open("/dev/full", os.O_WRONLY)
        try:
            return real(full, data, offset_bytes)
        finally:
            os.close(full)

    monkeypatch.setattr(os, "pwrite", to_full)
    with pytest.raises(MustWait, match="no space") as caught:
        await make(tmp_path).copy()
    assert caught.value.reason is WaitReason.SPACE


async def test_a_staged_file_is_never_written_over(tmp_path: Path) -> None:
    case = make(tmp_path)
    case.staged(0).write_bytes(b"someone else's")
    with pytest.raises(DiskError, match="exists"):
        await case.copy()
    assert case.staged(0).read_bytes() == b"someone else's"


async def test_a_bug_in_the_hashing_thread_is_not_swallowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Boom(Exception):
        pass

    def feed(*_: object, **__: object) -> None:
        raise Boom

    monkeypatch.setattr(copy_hashing._V2, "feed", feed)
    with pytest.raises(Boom):
        await make(tmp_path, version=Version.HYBRID).copy()


def test_a_buffer_is_not_filled_again_while_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_stream, "BUFFER_BYTES", 10)
    read: list[int] = []
    real = copy_stream.OpenInput.read_into

    def note(self: copy_stream.OpenInput, view: memoryview, offset_bytes: int) -> None:
        real(self, view, offset_bytes)
        read.append(offset_bytes)

    monkeypatch.setattr(copy_stream.OpenInput, "read_into", note)
    path = tmp_path / "file"
    path.write_bytes(bytes(range(200)))
    span = Span(
        role=Role.COPY,
        segment=Segment(position=0, offset_bytes=0, size_bytes=200),
        stream_offset_bytes=0,
    )
    seen: list[bytes] = []

    def use(batch: copy_stream.Batch) -> None:
        in_front = len(seen) + copy_stream._BUFFERS
        deadline = monotonic() + 10
        while len(read) < min(in_front, 20) and monotonic() < deadline:
            pass  # until every other buffer is full
        assert len(read) <= in_front
        seen.append(bytes(batch.buffer))

    copy_stream.run_pass(
        [span],
        {0: copy_stream.Input(path=path, size_bytes=200)},
        checker=None,
        stop=Stop(),
        nice=0,
        use=use,
    )
    assert b"".join(seen) == path.read_bytes()
    assert len(read) == 20


# -- stopping, and the rate limit ----------------------------------------------


async def test_a_copy_stops_promptly_in_the_middle(tmp_path: Path) -> None:
    case = make(tmp_path, sizes={"big": 40_000_000})
    progress = Progress()
    slow = CopyOptions(nice=0, rate_limit_bytes_per_s=4_000_000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(case.copy, slow, progress)
        with trio.fail_after(10):
            while not progress.bytes_done:  # noqa: ASYNC110 (set by a thread)
                await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    assert progress.bytes_done < 40_000_000  # all of it takes ten seconds
    assert not any(t.name == "qbm-disk" for t in threading.enumerate())


async def test_a_copy_stops_promptly_while_the_disk_syncs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncing, release, synced = (threading.Event() for _ in range(3))

    def hang(_: int) -> None:
        syncing.set()
        release.wait(20)
        synced.set()

    monkeypatch.setattr(disk_calls, "fsync", hang)
    case = make(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(case.copy)
        with trio.fail_after(10):
            while not syncing.is_set():  # noqa: ASYNC110 (set by a thread)
                await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    assert not synced.is_set()
    release.set()


async def test_copies_that_share_options_share_their_rate(tmp_path: Path) -> None:
    options = CopyOptions(nice=0, rate_limit_bytes_per_s=2_000_000)
    first = make(tmp_path / "1", sizes={"a": 400_000, "b": 1})
    second = make(tmp_path / "2", sizes={"a": 400_000, "b": 1})
    begin = monotonic()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.copy, options)
        nursery.start_soon(second.copy, options)
    # 400,000 bytes go at once, the others wait for their turn at 2 MB/s.
    assert monotonic() - begin > 0.19


def test_waiting_for_the_rate_ends_when_asked_to_stop() -> None:
    rate, stop = WriteRate(1), Stop()
    rate.wait(1000, stop)
    threading.Timer(0.05, stop.set).start()
    begin = monotonic()
    with pytest.raises(Stopped):
        rate.wait(1, stop)
    assert monotonic() - begin < 5


# -- adopting ------------------------------------------------------------------


@pytest.mark.parametrize("version", Version)
@pytest.mark.parametrize("name", SIZES)
async def test_an_exact_file_is_identical_and_any_changed_byte_is_not(
    tmp_path: Path, version: Version, name: str
) -> None:
    case = make(tmp_path, version=version)
    index = at(case, name)
    candidate = tmp_path / "candidate"
    candidate.write_bytes(case.items[index].source.read_bytes())
    assert await case.identical(index, candidate)
    size = case.items[index].size_bytes
    for offset in {0, size // 2, size - 1} if size else ():
        flip(candidate, offset)
        assert not await case.identical(index, candidate)
        flip(candidate, offset)
    grow(candidate)
    assert not await case.identical(index, candidate)


@pytest.mark.parametrize("version", Version)
async def test_many_candidates_are_judged_at_once_and_each_for_itself(
    tmp_path: Path, version: Version
) -> None:
    case = make(tmp_path, version=version)
    candidates = {item.index: tmp_path / f"candidate {item.index}" for item in case.items}
    for item in case.items:
        candidates[item.index].write_bytes(item.source.read_bytes())
    every = frozenset(candidates)
    assert await case.all_identical(candidates) == every
    for item in case.items:
        if item.size_bytes:
            flip(candidates[item.index], item.size_bytes - 1)
            assert await case.all_identical(candidates) == every - {item.index}
            flip(candidates[item.index], item.size_bytes - 1)
    for item in case.items[1:]:
        candidates[item.index].unlink()
    assert await case.all_identical(candidates) == {0}
    assert await case.all_identical({}) == frozenset()


async def test_each_file_is_opened_once_to_judge_many_small_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path, {f"t/{n:03}": 100 for n in range(200)})
    made = make_torrent(tmp_path, "t", [f"{n:03}" for n in range(200)])
    items = [
        CopyItem(index=n, source=path, size_bytes=100, wanted=True, staged=None)
        for n, path in enumerate(made.paths)
    ]
    opened = []

    def counted(folders: FolderHandle, source: Input) -> OpenInput:
        opened.append(source.path)
        return OpenInput(folders, source)

    monkeypatch.setattr(copy_stream, "OpenInput", counted)
    same = await identical(
        parse(made.data),
        items,
        dict(enumerate(made.paths)),
        nice=0,
        limiter=trio.CapacityLimiter(1),
    )
    assert same == frozenset(range(200))
    assert len(opened) == 200


async def test_a_missing_a_linked_and_a_folder_candidate_are_not_identical(
    tmp_path: Path,
) -> None:
    case = make(tmp_path)
    assert not await case.identical(0, tmp_path / "absent")
    assert not await case.identical(0, tmp_path)
    (tmp_path / "link").symlink_to(case.items[0].source)
    assert not await case.identical(0, tmp_path / "link")


async def test_a_bad_neighbour_is_not_blamed_on_the_candidate(tmp_path: Path) -> None:
    case = make(tmp_path)
    index = at(case, "b.bin")
    candidate = tmp_path / "candidate"
    candidate.write_bytes(case.items[index].source.read_bytes())
    flip(case.items[0].source, 99_999)  # the same piece
    with pytest.raises(SourceCorrupt, match=r"a\.bin"):
        await case.identical(index, candidate)


async def test_beside_an_unwanted_file_the_candidate_is_compared_with_its_source(
    tmp_path: Path,
) -> None:
    case = make(tmp_path)
    case.change(at(case, "b.bin"), wanted=False, staged=None)
    case.items[at(case, "b.bin")].source.unlink()
    index = at(case, "c.bin")
    candidate = tmp_path / "candidate"
    candidate.write_bytes(case.items[index].source.read_bytes())
    assert await case.identical(index, candidate)
    flip(candidate, 100)
    assert not await case.identical(index, candidate)


async def test_a_candidate_that_cannot_be_read_is_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make(tmp_path)
    candidate = tmp_path / "candidate"
    candidate.write_bytes(case.items[0].source.read_bytes())

    def refuse(*_: object) -> int:
        raise OSError(errno.EIO, "I/O")

    monkeypatch.setattr(os, "preadv", refuse)
    with pytest.raises(DiskError):
        await case.identical(0, candidate)


def test_pieces_read_again_come_past_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[tuple[int, int]] = []

    def note(fd: int, offset_bytes: int = 0, size_bytes: int = 0) -> None:
        dropped.append((offset_bytes, size_bytes))

    monkeypatch.setattr(disk_calls, "drop_cached", note)
    case = make(tmp_path)
    segment = copy_pieces.segments_of(case.metainfo, Piece(number=0))[0]
    source = copy_stream.Input(path=case.items[0].source, size_bytes=100_000)
    assert len(copy_pieces.read_from_disk(source, segment)) == 32768
    assert dropped == [(0, 32768)]


async def test_readback_asks_the_disk_for_every_staged_file_not_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[str] = []
    real = disk_calls.drop_cached

    def note(fd: int, offset_bytes: int = 0, size_bytes: int = 0) -> None:
        if size_bytes == 0:  # the whole file
            dropped.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        real(fd, offset_bytes, size_bytes)

    monkeypatch.setattr(disk_calls, "drop_cached", note)
    case = make(tmp_path)
    await case.copy(CopyOptions(nice=0, verification=Verification.READBACK))
    assert sorted(dropped) == ["0", "1", "2", "3", "4"]


async def test_a_copy_gives_its_buffers_back_without_the_garbage_collector(tmp_path: Path) -> None:
    """The service collects seldom: what waits for that adds up to gigabytes."""

    def threads() -> list[object]:
        return [o for o in gc.get_objects() if isinstance(o, copy_stream._HashThread)]

    case = make(tmp_path)
    gc.collect()
    gc.disable()
    try:
        before = threads()  # of copies that other tests have killed
        await case.copy()
        left = [o for o in threads() if not any(o is other for other in before)]
    finally:
        gc.enable()
    assert left == []
