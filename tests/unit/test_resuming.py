"""Where a copy goes on, and that it never goes on from what it should not believe."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qbm_trio.adapters import copy_hashing, copy_stream, copy_write, copying, disk_calls
from qbm_trio.adapters.copy_checkpoints import Checkpoints
from qbm_trio.adapters.copy_hashing import Hasher, Piece, PieceChecker
from qbm_trio.adapters.copy_resume import keep_staged, why_not_resumed
from qbm_trio.adapters.copying import CopyItem, CopyOptions, CopyReport, copy_and_verify
from qbm_trio.adapters.metainfo import parse
from qbm_trio.core.errors import DestinationChanged, DiskError, JournalUnwritable
from qbm_trio.core.model import Progress, Verification
from qbm_trio.core.pieces import Metainfo, Role, Span, plan_spans
from qbm_trio.core.resuming import (
    READ_AGAIN_BYTES,
    Pace,
    boundary,
    is_complete,
    kept_bytes,
    pace,
    spans_from,
    unseen_before,
)
from tests.rig.torrents import Version, make_torrent, write_files

MIB = 1024 * 1024
PIECE = 16 * 1024
SIZES = {"a": 100_000, "b": 5, "c": 0, "d": 40_000, "e": 300_001}


class Killed(BaseException):
    """What ``kill -9`` is to a test within one process."""


# -- the arithmetic --------------------------------------------------------------------


@pytest.mark.parametrize("piece_length", [PIECE << n for n in range(11)])
def test_a_kill_costs_at_most_64_mib_whatever_the_piece_length_up_to_16_mib(
    piece_length: int,
) -> None:
    ahead = copy_stream.READ_AHEAD_BYTES
    found = pace(piece_length, read_ahead_bytes=ahead)
    assert found.lead_bytes + ahead + piece_length <= READ_AGAIN_BYTES - 4 * MIB


@pytest.mark.parametrize("piece_length", [PIECE << n for n in range(15)])
def test_a_copy_that_waits_has_something_to_wait_for_whatever_the_piece_length(
    piece_length: int,
) -> None:
    ahead = copy_stream.READ_AHEAD_BYTES
    found = pace(piece_length, read_ahead_bytes=ahead)
    # Written up to the lead, the last boundary that is hashed is a whole interval on.
    assert found.lead_bytes - ahead - piece_length >= found.interval_bytes > 0
    cost = found.lead_bytes + ahead + piece_length
    assert cost <= max(READ_AGAIN_BYTES, 2 * piece_length + 24 * MIB)


def torrent(
    folder: Path, sizes: Mapping[str, int], version: Version, *, padded: bool = False
) -> tuple[Metainfo, tuple[Path, ...]]:
    write_files(folder / "ssd" / "t", sizes)
    made = make_torrent(
        folder / "ssd", "t", list(sizes), version=version, piece_length=PIECE, padded=padded
    )
    return parse(made.data), made.paths


LAYOUTS = {
    "sizes": st.lists(st.integers(0, 70_000), min_size=2, max_size=6).filter(any),
    "version": st.sampled_from(Version),
    "padded": st.booleans(),
    "spared": st.sets(st.integers(0, 5), max_size=3),
}
QUICK = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@given(**LAYOUTS, at=st.integers(0, 400_000))
@QUICK
def test_from_any_boundary_on_the_rest_is_read_once_and_no_piece_is_cut(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: Sequence[int],
    version: Version,
    padded: bool,
    spared: set[int],
    at: int,
) -> None:
    names = {f"f{n}": size for n, size in enumerate(sizes)}
    metainfo, _ = torrent(tmp_path_factory.mktemp("t"), names, version, padded=padded)
    roles = [
        Role.PAD if f.pad else Role.GAP if f.index in spared else Role.COPY for f in metainfo.files
    ]
    cut = boundary(metainfo, min(at, metainfo.stream_bytes))
    assert max(0, min(at, metainfo.stream_bytes) - PIECE) <= cut <= at
    if metainfo.v1_hashes is not None:
        assert cut % PIECE == 0 or cut == metainfo.stream_bytes
    spans = list(plan_spans(metainfo, roles))
    rest = list(spans_from(spans, cut))
    for position, role in enumerate(roles):
        file = metainfo.files[position]
        if role is not Role.COPY:
            continue
        kept = kept_bytes(file, cut)
        left = [s.segment for s in rest if s.segment.position == position]
        assert sum(s.size_bytes for s in left) == file.size_bytes - kept
        # A file is either complete or made (or gone on with), an empty one too.
        assert len(left) == (0 if is_complete(file, cut) else 1)
        if left and metainfo.infohash_v2 is not None:
            assert left[0].offset_bytes % PIECE == 0
    # What an uninterrupted pass calls unseen is unseen before the cut, or behind it.
    assert unseen(metainfo, spans) == [
        *unseen_before(metainfo, spans, cut),
        *unseen(metainfo, rest),
    ]


def unseen(metainfo: Metainfo, spans: Sequence[Span]) -> list[int]:
    checker = PieceChecker(metainfo)
    for span in spans:
        data = memoryview(bytes(span.segment.size_bytes))
        for hasher in checker.hashers:
            hasher.feed(
                span.segment.position,
                span.segment.offset_bytes,
                span.stream_offset_bytes,
                data,
                whole_file=span.role is Role.COPY,
            )
    for hasher in checker.hashers:
        hasher.finish()
    return checker.unseen


# -- copies that die -------------------------------------------------------------------


class Copying:
    """A copy that may die and go on, on a disk that forgets what was not synced."""

    def __init__(self, folder: Path, sizes: Mapping[str, int], version: Version,
                 *, padded: bool = False) -> None:  # fmt: skip
        self.metainfo, paths = torrent(folder, sizes, version, padded=padded)
        self.staging = folder / "staging"
        self.staging.mkdir()
        self.items = [
            CopyItem(
                index=n,
                source=path,
                size_bytes=path.stat().st_size,
                wanted=True,
                staged=self.staging / str(n),
            )
            for n, path in enumerate(paths)
        ]
        self.recorded = 0
        self.on_disk: dict[int, tuple[bytes, int]] = {}  #: what was synced, by inode
        self.limiter = trio.CapacityLimiter(2)

    def spare(self, index: int) -> None:
        """The user does not want this one."""
        self.items[index].source.unlink()
        self.items[index] = replace(self.items[index], wanted=False, staged=None)

    def record(self, position: int) -> None:
        self.recorded = position

    def last_begin(self) -> int:
        """Where the last file that is not padding begins in the stream."""
        return [f for f in self.metainfo.files if not f.pad][-1].offset_bytes

    def run(
        self,
        *,
        resume_at: int = 0,
        record: Callable[[int], None] | None = None,
        verification: Verification = Verification.PIECES,
        progress: Progress | None = None,
    ) -> CopyReport:
        return trio.run(
            lambda: copy_and_verify(
                self.metainfo,
                self.items,
                options=CopyOptions(nice=0, verification=verification),
                progress=progress or Progress(),
                limiter=self.limiter,
                require=lambda: None,
                resume_at=resume_at,
                record=record or self.record,
            )
        )

    def die_at_write(self, monkeypatch: pytest.MonkeyPatch, number: int) -> bool:
        """Copy, but die at the n-th write; tell whether there are so many."""
        real, left = copy_write.write_fully, [number]

        def write(fd: int, data: memoryview, offset_bytes: int) -> None:
            left[0] -= 1
            if left[0] < 0:
                real(fd, data[: len(data) // 2], offset_bytes)
                raise Killed
            real(fd, data, offset_bytes)

        with monkeypatch.context() as patch:
            patch.setattr(copy_write, "write_fully", write)
            try:
                self.run()
            except Killed:
                return True
            finally:
                join_disk_threads()
        return False

    @contextmanager
    def watched(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Note what each sync puts on the disk."""
        names = ("fsync", "fdatasync", "syncfs")
        real = {name: getattr(disk_calls, name) for name in names}

        def note(path: Path) -> None:
            status = path.stat()
            self.on_disk[status.st_ino] = path.read_bytes(), status.st_mtime_ns

        def one(name: str, fd: int) -> None:
            note(Path(f"/proc/self/fd/{fd}"))
            real[name](fd)

        def all_of_them(fd: int) -> None:
            for path in self.staging.iterdir():
                note(path)
            real["syncfs"](fd)

        with monkeypatch.context() as patch:
            patch.setattr(disk_calls, "fsync", lambda fd: one("fsync", fd))
            patch.setattr(disk_calls, "fdatasync", lambda fd: one("fdatasync", fd))
            patch.setattr(disk_calls, "syncfs", all_of_them)
            yield

    def cut_power(self) -> None:
        """Leave on the disk what was synced, as it was then."""
        for path in self.staging.iterdir():
            content, mtime_ns = self.on_disk.get(path.stat().st_ino, (None, 0))
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)
                os.utime(path, ns=(mtime_ns, mtime_ns))

    def keep(self) -> None:
        """Clear up staging as a job does."""
        files = {f.index: f for f in self.metainfo.files}
        at = self.recorded
        keep_staged(
            {
                i.staged: kept_bytes(files[i.index], at)
                or (-1 if is_complete(files[i.index], at) else 0)
                for i in self.items
                if i.staged is not None
            }
        )

    def why_not(self) -> str | None:
        return trio.run(
            lambda: why_not_resumed(
                self.metainfo, self.items, self.recorded, limiter=self.limiter, nice=0
            )
        )

    def go_on(self, verification: Verification = Verification.PIECES) -> CopyReport:
        self.keep()
        assert self.why_not() is None
        return self.run(resume_at=self.recorded, verification=verification)

    def assert_exact(self, report: CopyReport) -> None:
        for item in self.items:
            if item.staged is not None:
                assert item.staged.read_bytes() == item.source.read_bytes()
                status, written = item.staged.stat(), report.files[item.index]
                assert status.st_mtime_ns == item.source.stat().st_mtime_ns == written.mtime_ns
                assert (status.st_size, status.st_ino) == (written.size_bytes, written.inode)
        copied = [i for i in self.items if i.staged is not None]
        assert len(report.files) == len(copied) == len(list(self.staging.iterdir()))
        assert report.bytes_copied == sum(i.size_bytes for i in copied)


def join_disk_threads() -> None:
    for thread in threading.enumerate():
        if thread.name == "qbm-disk":
            thread.join(10)


def set_pace(
    monkeypatch: pytest.MonkeyPatch, interval_bytes: int = PIECE, lead_bytes: int = 6 * PIECE
) -> None:
    found = Pace(interval_bytes=interval_bytes, lead_bytes=lead_bytes)
    monkeypatch.setattr(copying, "pace", lambda *_, **__: found)


def half_way(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: Version,
    sizes: Mapping[str, int] = SIZES,
) -> Copying:
    """A copy that died within its last file, with a checkpoint there."""
    set_pace(monkeypatch)
    monkeypatch.setattr(copy_stream, "BUFFER_BYTES", PIECE)
    copy = Copying(folder, sizes, version)
    begin = copy.last_begin()
    real, there = copy_write.write_fully, threading.Event()

    def record(at: int) -> None:
        copy.record(at)
        if at > begin + 2 * PIECE:
            there.set()

    def write(fd: int, data: memoryview, offset_bytes: int) -> None:
        if offset_bytes >= 250_000:
            assert there.wait(20)
            raise Killed
        real(fd, data, offset_bytes)

    with monkeypatch.context() as patch:
        patch.setattr(copy_write, "write_fully", write)
        with pytest.raises(Killed):
            copy.run(record=record)
    join_disk_threads()
    assert begin < copy.recorded < begin + 300_000
    return copy


@given(
    **LAYOUTS,
    kill_at=st.integers(0, 20),
    buffer_bytes=st.integers(1000, 30_000),
    lost=st.booleans(),
)
@QUICK
def test_from_any_kill_on_the_copy_is_exact_and_every_piece_was_proven(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    sizes: Sequence[int],
    version: Version,
    padded: bool,
    spared: set[int],
    kill_at: int,
    buffer_bytes: int,
    lost: bool,
) -> None:
    set_pace(monkeypatch)
    monkeypatch.setattr(copy_stream, "BUFFER_BYTES", buffer_bytes)
    monkeypatch.setattr(copy_write, "LARGE_BYTES", 50_000)
    monkeypatch.setattr(copy_write, "_FEW_FILES", 2)
    names = {f"f{n}": size for n, size in enumerate(sizes)}
    copy = Copying(tmp_path_factory.mktemp("c"), names, version, padded=padded)
    for n in spared & set(range(len(sizes))):
        copy.spare(n)
    positions = {f.index: p for p, f in enumerate(copy.metainfo.files)}
    wanted = {positions[i.index] for i in copy.items if i.staged is not None}
    proven: list[Piece] = []
    with monkeypatch.context() as patch:
        note_pieces(patch, proven)
        with copy.watched(patch):
            if lost:  # the power fails between the sync and the commit, every time but once
                patch.setattr(copy, "record", lambda at: vars(copy).setdefault("first", at))
            copy.die_at_write(monkeypatch, kill_at)
        copy.recorded = vars(copy).get("first", copy.recorded)
        at = copy.recorded
        before = [p for p in proven if ends_at(copy.metainfo, p) <= at]
        del proven[:]
        copy.cut_power()
        report = copy.go_on()
    copy.assert_exact(report)
    assert report.pieces_recopied == 0
    for piece in all_pieces(copy.metainfo, wanted):
        assert piece in before or piece in proven, (piece, at)


def note_pieces(patch: pytest.MonkeyPatch, proven: list[Piece]) -> None:
    v1, v2, compare = (
        copy_hashing._V1._judge,
        copy_hashing._V2._judge,
        copying._Copy._compare_unseen,
    )

    def judge_v1(self: copy_hashing._V1, piece: int) -> None:
        if self._hash is not None:
            proven.append(Piece(number=piece))
        v1(self, piece)

    def judge_v2(self: copy_hashing._V2, position: int, number: int) -> None:
        proven.append(Piece(number=number, position=position))
        v2(self, position, number)

    def compare_unseen(self: copying._Copy, number: int) -> None:
        proven.append(Piece(number=number))
        compare(self, number)

    patch.setattr(copy_hashing._V1, "_judge", judge_v1)
    patch.setattr(copy_hashing._V2, "_judge", judge_v2)
    patch.setattr(copying._Copy, "_compare_unseen", compare_unseen)


def ends_at(metainfo: Metainfo, piece: Piece) -> int:
    if piece.position is None:
        return min(metainfo.stream_bytes, (piece.number + 1) * PIECE)
    file = metainfo.files[piece.position]
    return file.offset_bytes + min(file.size_bytes, (piece.number + 1) * PIECE)


def all_pieces(metainfo: Metainfo, wanted: set[int]) -> set[Piece]:
    found = set()
    for position in wanted:
        file = metainfo.files[position]
        for byte in range(0, file.size_bytes, 1000):
            if metainfo.v1_hashes is not None:
                found.add(Piece(number=(file.offset_bytes + byte) // PIECE))
            if metainfo.infohash_v2 is not None:
                found.add(Piece(number=byte // PIECE, position=position))
    return found


# -- what is on the HDD is not believed ------------------------------------------------


def flip(path: Path, offset: int) -> None:
    """Change one byte, and nothing that stat shows."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def last_staged(copy: Copying) -> Path:
    path = copy.items[-1].staged
    assert path is not None
    return path


@pytest.mark.parametrize("version", Version)
def test_a_byte_that_went_bad_at_the_seam_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: Version
) -> None:
    copy = half_way(tmp_path, monkeypatch, version)
    assert copy.why_not() is None
    kept = copy.recorded - copy.last_begin()
    for offset in (kept - 1, kept - PIECE):
        flip(last_staged(copy), offset)
        assert "is not what was written" in (copy.why_not() or "")
        flip(last_staged(copy), offset)
    with last_staged(copy).open("r+b") as file:
        file.seek(kept)
        file.write(b"behind the seam nothing is believed")
    copy.assert_exact(copy.go_on())


def test_the_piece_at_the_seam_is_read_past_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = half_way(tmp_path, monkeypatch, Version.V1)
    dropped: list[int] = []

    def note(_: int, offset_bytes: int = 0, size_bytes: int = 0) -> None:
        dropped.append(offset_bytes + size_bytes)

    monkeypatch.setattr(disk_calls, "drop_cached", note)
    assert copy.why_not() is None
    assert copy.recorded - copy.last_begin() in dropped


def test_a_seam_at_the_end_of_many_small_files_is_read_again_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {f"f{n:02}": 1000 for n in range(60)} | {"last": 300_001}
    copy = half_way(tmp_path, monkeypatch, Version.V1, sizes)
    copy.recorded = 2 * PIECE  # within the 33rd file
    copy.keep()
    assert len(list(copy.staging.iterdir())) == 33
    assert copy.why_not() is None
    staged = copy.items[20].staged
    assert staged is not None
    flip(staged, 0)
    assert "is not what was written" in (copy.why_not() or "")


def stretch(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def touch(path: Path) -> None:
    os.utime(path, ns=(0, 12345))


def link(path: Path) -> None:
    path.with_name("another's").hardlink_to(path)


def symlink(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/null")


@pytest.mark.parametrize("spoil", [Path.unlink, stretch, touch, link, symlink])
def test_a_complete_file_that_is_not_as_it_was_left_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None]
) -> None:
    copy = half_way(tmp_path, monkeypatch, Version.V1)
    assert copy.items[2].staged is not None
    spoil(copy.items[2].staged)  # the empty one
    assert copy.why_not() is not None


def test_a_source_that_was_changed_since_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = half_way(tmp_path, monkeypatch, Version.V1)
    touch(copy.items[0].source)
    assert "has changed since" in (copy.why_not() or "")


def test_a_partial_file_that_is_too_short_or_shared_is_noticed_and_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = half_way(tmp_path, monkeypatch, Version.V1)
    path = last_staged(copy)
    link(path)
    content = path.read_bytes()
    assert "is gone" in (copy.why_not() or "")
    with pytest.raises(DestinationChanged, match="begins anew"):
        copy.run(resume_at=copy.recorded)
    assert path.read_bytes() == content
    path.with_name("another's").unlink()
    os.truncate(path, 10)
    assert "too short" in (copy.why_not() or "")


@pytest.mark.parametrize("step_ns", [100, 1000, 10**7, 10**9, 2 * 10**9])
def test_times_are_compared_as_exactly_as_the_hdd_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_ns: int
) -> None:
    copy = half_way(tmp_path, monkeypatch, Version.V1)
    for item in copy.items[:-1]:
        assert item.staged is not None
        time_ns = item.source.stat().st_mtime_ns
        os.utime(item.staged, ns=(0, time_ns - time_ns % step_ns))
    assert copy.why_not() is None


def test_what_is_beside_an_unwanted_file_before_the_seam_is_compared_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_pace(monkeypatch)
    monkeypatch.setattr(copy_stream, "BUFFER_BYTES", PIECE)
    copy = Copying(tmp_path, SIZES, Version.V1)
    copy.spare(1)
    assert copy.die_at_write(monkeypatch, 20)
    assert copy.recorded > 7 * PIECE
    staged = copy.items[0].staged
    assert staged is not None
    flip(staged, 99_999)  # in one piece with the unwanted file
    report = copy.go_on()
    assert report.pieces_recopied == 1
    copy.assert_exact(report)


def test_readback_reads_what_lies_before_the_seam_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = half_way(tmp_path, monkeypatch, Version.V1)
    assert copy.items[0].staged is not None
    flip(copy.items[0].staged, 0)
    report = copy.go_on(Verification.READBACK)
    assert report.pieces_recopied == 1
    copy.assert_exact(report)


# -- checkpoints -----------------------------------------------------------------------


def test_a_copy_waits_when_it_is_too_far_ahead_of_its_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_pace(monkeypatch, interval_bytes=2 * PIECE, lead_bytes=6 * PIECE)
    monkeypatch.setattr(copy_stream, "BUFFER_BYTES", 1024)
    copy = Copying(tmp_path, {"a": 50 * PIECE}, Version.V1)
    progress, waits, slow = Progress(), threading.Event(), []
    real = Checkpoints._wait

    def wait(self: Checkpoints) -> None:
        waits.set()
        real(self)

    def record(at: int) -> None:
        assert waits.wait(20)  # a slow disk
        waits.clear()
        slow.append(progress.bytes_done - copy.recorded)
        copy.record(at)

    monkeypatch.setattr(Checkpoints, "_wait", wait)
    copy.assert_exact(copy.run(record=record, progress=progress))
    assert len(slow) > 5
    assert max(slow) <= 6 * PIECE + 1024
    assert max(slow[:-1]) > 4 * PIECE  # and not before


def test_nothing_is_recorded_that_the_disk_did_not_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_pace(monkeypatch)
    monkeypatch.setattr(copy_stream, "BUFFER_BYTES", PIECE)

    def refuse(_: int) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(disk_calls, "fdatasync", refuse)
    copy = Copying(tmp_path, {"a": 50 * PIECE}, Version.V1)
    with pytest.raises(DiskError, match="check the disk"):
        copy.run()
    join_disk_threads()
    assert copy.recorded == 0


def test_a_journal_that_cannot_be_written_ends_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_pace(monkeypatch)
    monkeypatch.setattr(copy_stream, "BUFFER_BYTES", PIECE)

    def refuse(_: int) -> None:
        raise JournalUnwritable("full")

    with pytest.raises(JournalUnwritable):
        Copying(tmp_path, {"a": 50 * PIECE}, Version.V1).run(record=refuse)


async def test_a_copy_stops_promptly_while_a_checkpoint_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_pace(monkeypatch)
    hangs, release = threading.Event(), threading.Event()

    def hang(_: int) -> None:
        hangs.set()
        release.wait(20)

    monkeypatch.setattr(disk_calls, "fdatasync", hang)
    monkeypatch.setattr(copy_stream, "BUFFER_BYTES", PIECE)
    copy = Copying(tmp_path, {"a": 50 * PIECE}, Version.V1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            lambda: copy_and_verify(
                copy.metainfo,
                copy.items,
                options=CopyOptions(nice=0),
                progress=Progress(),
                limiter=copy.limiter,
                require=lambda: None,
                record=copy.record,
            )
        )
        with trio.fail_after(10):
            while not hangs.is_set():  # noqa: ASYNC110 (set by a thread)
                await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    assert not release.is_set()
    release.set()


@pytest.mark.parametrize("version", Version)
@pytest.mark.parametrize("found", ["late", "at the last moment"])
def test_a_piece_that_is_not_yet_hashed_or_mended_is_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: Version, found: str
) -> None:
    set_pace(monkeypatch, interval_bytes=1)
    monkeypatch.setattr(copy_stream, "BUFFER_BYTES", PIECE)
    copy = Copying(tmp_path, {"a": 50 * PIECE, "b": 1}, version)
    bad, last = 5 * PIECE, 8 * PIECE
    hash_on, hashed = threading.Event(), threading.Event()
    spoiled: list[int] = []
    real_read, real_begin = copy_stream.OpenInput.read_into, Checkpoints._begin
    real_passed = Checkpoints.passed

    def read_into(self: copy_stream.OpenInput, view: memoryview, offset_bytes: int) -> None:
        real_read(self, view, offset_bytes)
        if offset_bytes == bad and not spoiled:
            spoiled.append(offset_bytes)
            view[0] ^= 0xFF

    def slow(kind: type[copy_hashing._V1] | type[copy_hashing._V2]) -> None:
        real = kind.feed

        def feed(
            self: Hasher, position: int, at: int, stream_at: int, data: memoryview,
            *, whole_file: bool,
        ) -> None:  # fmt: skip
            if at == bad:
                assert hash_on.wait(20)
            real(self, position, at, stream_at, data, whole_file=whole_file)  # type: ignore[arg-type]
            if at == bad:
                hashed.set()

        monkeypatch.setattr(kind, "feed", feed)

    def begin(self: Checkpoints, written_at: int) -> None:
        if written_at == last and found == "at the last moment":
            hash_on.set()
            assert hashed.wait(20)
        real_begin(self, written_at)

    def passed(self: Checkpoints, written_at: int, read_bytes: int) -> None:
        real_passed(self, written_at, read_bytes)
        self.finish()
        if written_at == last:
            hash_on.set()  # the copy ends once its hashing has
            raise Killed

    slow(copy_hashing._V1)
    slow(copy_hashing._V2)
    with monkeypatch.context() as patch:
        patch.setattr(copy_stream.OpenInput, "read_into", read_into)
        patch.setattr(Checkpoints, "_begin", begin)
        patch.setattr(Checkpoints, "passed", passed)
        with pytest.raises(Killed):
            copy.run()
    assert spoiled
    assert bad <= copy.recorded + PIECE
    copy.assert_exact(copy.go_on())


def test_a_copy_is_not_done_before_its_last_checkpoint_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_pace(monkeypatch, lead_bytes=100 * PIECE)
    monkeypatch.setattr(copy_stream, "BUFFER_BYTES", PIECE)
    copy = Copying(tmp_path, {f"{n}": 10_000 for n in range(10)}, Version.V1)
    finishing = threading.Event()
    real = Checkpoints.finish

    def finish(self: Checkpoints) -> None:
        finishing.set()
        real(self)

    monkeypatch.setattr(Checkpoints, "finish", finish)
    with copy.watched(monkeypatch), monkeypatch.context() as patch:
        note, calls = disk_calls.fsync, itertools.count()

        def slow(fd: int) -> None:
            if next(calls) == 0:  # the first checkpoint's
                finishing.wait(5)
            note(fd)

        patch.setattr(disk_calls, "fsync", slow)
        copy.assert_exact(copy.run())
        synced = {inode: content for inode, (content, _) in copy.on_disk.items()}
    for item in copy.items:
        assert item.staged is not None
        assert synced[item.staged.stat().st_ino] == item.source.read_bytes()


def test_without_verification_it_goes_on_between_two_pieces_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_pace(monkeypatch)
    monkeypatch.setattr(copy_stream, "BUFFER_BYTES", 10_000)
    copy = Copying(tmp_path, SIZES, Version.V1)
    recorded: list[int] = []
    report = copy.run(record=recorded.append, verification=Verification.SIZE)
    assert recorded
    assert [at for at in recorded if at % PIECE and at != sum(SIZES.values())] == []
    assert report.bytes_verified == 0
