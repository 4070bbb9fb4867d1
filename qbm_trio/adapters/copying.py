"""Copy a torrent's files and prove the copy, piece by piece, against its .torrent.

Every byte is hashed on its way from the source to the disk. A piece that fails is
read again, past the page cache, and written again; if the source itself is bad, the
copy fails. Publishing is another module's: nothing here is visible outside staging.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from ..core.errors import BadMetainfo, DestinationConflict, DiskError, SourceCorrupt
from ..core.model import Progress, Verification
from ..core.pieces import (
    Metainfo,
    Role,
    Segment,
    plan_spans,
    v1_piece_range,
    v1_segments,
    v2_segment,
)
from . import disk_calls
from .copy_hashing import Piece, PieceChecker, v1_digest, v2_digest
from .copy_stream import Batch, Input, OpenInput, run_pass
from .copy_threads import Stop, WriteRate, run_supervised
from .copy_write import StagedWriter, Written
from .disk_errors import read_error
from .disk_paths import FolderHandle, is_regular


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyItem:
    """One file of the torrent that is not padding."""

    index: int  #: qBittorrent's
    source: Path  #: on the SSD; a real path from `disk_paths.resolve_beneath`
    size_bytes: int
    wanted: bool
    staged: Path | None  #: where to copy it; None: it is not copied now
    published: Path | None = None  #: its verified bytes on the HDD, when it has them already


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOptions:
    """How to copy. Make one for the whole service: copies that share it share its rate."""

    verification: Verification = Verification.PIECES
    nice: int = 10  #: of the copying threads; 0 leaves them as they are
    rate_limit_bytes_per_s: int | None = None  #: over all copies that share this object
    rate: WriteRate = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", WriteRate(self.rate_limit_bytes_per_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport:
    """What a copy did."""

    bytes_copied: int
    bytes_verified: int
    pieces_recopied: int
    files: Mapping[int, Written]  #: by index; only the files copied now


async def copy_and_verify(
    metainfo: Metainfo,
    items: Sequence[CopyItem],
    *,
    options: CopyOptions,
    progress: Progress,
    limiter: trio.CapacityLimiter,
) -> CopyReport:
    """Copy every item that has a ``staged`` path, prove the copies, and sync them.

    Args:
        metainfo: the torrent's.
        items: all its files in order of index; staged folders exist, staged files do not.
        options: how.
        progress: its ``bytes_done`` and ``bytes_verified`` grow meanwhile.
        limiter: one token is held for the whole copy.

    Returns:
        What was done. All staged files are on the disk, with the sources' modification
        times, mode 0600.

    Cancellation:
        Prompt (within one buffer of 2 MiB). Staged files are left, in part or whole.

    Raises:
        BadMetainfo: the items are not this torrent's files.
        SourceChanged: a source is missing, of another size, or changed meanwhile.
        SourceCorrupt: a source does not match its piece hashes, also when read again.
        DestinationConflict: a published file no longer matches the torrent.
        UnsafePath: a link stands in a path that was proven free of them.
        MustWait: the HDD is full, read-only or away.
        DiskError: the system refused otherwise, or the HDD returns other bytes than written.
    """
    job = _Copy(metainfo, items, options, progress)
    return await run_supervised(job.run, nice=options.nice, limiter=limiter)


async def identical(
    metainfo: Metainfo,
    items: Sequence[CopyItem],
    index: int,
    candidate: Path,
    *,
    limiter: trio.CapacityLimiter,
    nice: int = 10,
) -> bool:
    """Whether ``candidate`` holds exactly the torrent's file ``index``, by piece hashes.

    Pieces that it shares with other files are completed from their sources. Where such
    a neighbour is unwanted, and so not to be had, the candidate is compared with its
    own source instead. A candidate that is missing or no regular file is not identical.

    Args:
        metainfo: the torrent's.
        items: all its files in order of index.
        index: the file.
        candidate: a real path from `disk_paths.resolve_beneath`.
        limiter: one token is held meanwhile.
        nice: of the reading threads.

    Cancellation:
        Prompt.

    Raises:
        SourceCorrupt: a shared piece fails, and does so with the sources alone, too.
        SourceChanged, DiskError, MustWait: something could not be read.
    """
    job = _Comparison(metainfo, items, index, candidate, nice)
    return await run_supervised(job.run, nice=nice, limiter=limiter)


def _by_position(metainfo: Metainfo, items: Sequence[CopyItem]) -> dict[int, CopyItem]:
    content = [p for p, file in enumerate(metainfo.files) if not file.pad]
    if len(content) != len(items):
        raise BadMetainfo(
            f"the exported .torrent lists {len(content)} files, qBittorrent {len(items)}"
        )
    for position, item in zip(content, items, strict=True):
        file = metainfo.files[position]
        if (file.index, file.size_bytes) != (item.index, item.size_bytes):
            raise BadMetainfo(
                f"{item.source.name} has {item.size_bytes} bytes in qBittorrent's list and "
                f"{file.size_bytes} in the exported .torrent"
            )
    return dict(zip(content, items, strict=True))


class _Copy:
    def __init__(
        self,
        metainfo: Metainfo,
        items: Sequence[CopyItem],
        options: CopyOptions,
        progress: Progress,
    ) -> None:
        self._metainfo = metainfo
        self._items = _by_position(metainfo, items)
        self._options = options
        self._progress = progress
        self._recopied = 0
        self._verified = 0

    def run(self, stop: Stop) -> CopyReport:
        self._stop = stop
        roles = [self._role(position) for position in range(len(self._metainfo.files))]
        inputs = {
            position: Input(
                path=item.published if role is Role.CONTEXT and item.published else item.source,
                size_bytes=item.size_bytes,
            )
            for position, item in self._items.items()
            if (role := roles[position]) is not Role.GAP
        }
        checker = self._checker()
        self._writer = StagedWriter(rate=self._options.rate, stop=stop, progress=self._progress)
        try:
            run_pass(
                plan_spans(self._metainfo, roles),
                inputs,
                checker=checker,
                stop=stop,
                nice=self._options.nice,
                use=partial(self._use, checker),
            )
            self._repair(checker)
            self._writer.sync()
            if checker is not None:
                for piece in checker.unseen:
                    self._compare_unseen(piece)
                self._writer.sync()
            if self._options.verification is Verification.READBACK:
                self._read_back(roles, inputs)
        finally:
            self._writer.close()
        return CopyReport(
            bytes_copied=self._writer.copied_bytes,
            bytes_verified=self._verified,
            pieces_recopied=self._recopied,
            files={
                self._items[position].index: written
                for position, written in self._writer.written.items()
            },
        )

    def _checker(self) -> PieceChecker | None:
        if self._options.verification is Verification.SIZE:
            return None
        return PieceChecker(self._metainfo)

    def _role(self, position: int) -> Role:
        item = self._items.get(position)
        if item is None:
            return Role.PAD
        if item.staged is not None:
            return Role.COPY
        hashing = self._options.verification is not Verification.SIZE
        return Role.CONTEXT if item.published is not None and hashing else Role.GAP

    def _use(self, checker: PieceChecker | None, batch: Batch) -> None:
        size = 0
        for chunk in batch.chunks:
            if chunk.span.role is Role.COPY:
                staged = self._items[chunk.span.segment.position].staged
                assert staged is not None
                self._stop.check()
                self._writer.write(chunk, staged)
                size += len(chunk.data)
        if checker is not None:
            self._verified += size
            self._progress.bytes_verified += size
            self._repair(checker)

    # -- pieces that failed --------------------------------------------------

    def _repair(self, checker: PieceChecker | None) -> None:
        """Copy failed pieces again. All of their bytes have been written once."""
        while checker is not None and checker.bad:
            self._recopy(checker.bad.popleft())

    def _recopy(self, piece: Piece) -> None:
        self._stop.check()
        segments = _segments(self._metainfo, piece)
        parts = [self._reread(segment, published=True) for segment in segments]
        if not _matches(self._metainfo, piece, parts):
            self._blame(piece, segments)
        for segment, part in zip(segments, parts, strict=True):
            self._rewrite(segment, part)
        self._recopied += 1

    def _rewrite(self, segment: Segment, data: bytes) -> None:
        item = self._items.get(segment.position)
        if item is not None and item.staged is not None:
            self._writer.rewrite(
                segment.position, item.staged, segment.offset_bytes, memoryview(data)
            )

    def _blame(self, piece: Piece, segments: Sequence[Segment]) -> None:
        """Raise for a piece that fails also when read again."""
        borrowed = [s for s in segments if self._is_published(s.position)]
        if borrowed:
            parts = [self._reread(segment, published=False) for segment in segments]
            if _matches(self._metainfo, piece, parts):
                published = self._items[borrowed[0].position].published
                raise DestinationConflict(
                    f"{published} no longer matches the torrent (piece {piece.number}); "
                    "retry the job to have it compared anew"
                )
        raise _corrupt(self._items, piece, segments)

    def _is_copied(self, position: int) -> bool:
        item = self._items.get(position)
        return item is not None and item.staged is not None

    def _is_published(self, position: int) -> bool:
        item = self._items.get(position)
        return item is not None and item.staged is None and item.published is not None

    def _copied_segments(self, piece: Piece) -> list[Segment]:
        return [s for s in _segments(self._metainfo, piece) if self._is_copied(s.position)]

    def _reread(self, segment: Segment, *, published: bool) -> bytes:
        item = self._items.get(segment.position)
        if item is None:
            return bytes(segment.size_bytes)
        path = item.source
        if published and item.staged is None and item.published is not None:
            path = item.published
        return _read_from_disk(Input(path=path, size_bytes=item.size_bytes), segment)

    # -- pieces with bytes of unwanted files ---------------------------------

    def _compare_unseen(self, number: int) -> None:
        """Compare the copied bytes of a piece that cannot be hashed with their source."""
        for segment in self._copied_segments(Piece(number=number)):
            item = self._items[segment.position]
            assert item.staged is not None
            for attempt in range(2):
                self._stop.check()
                source = self._reread(segment, published=True)
                copy = _read_from_disk(Input(path=item.staged, size_bytes=item.size_bytes), segment)
                if source == copy:
                    break
                if attempt:
                    raise DiskError(_returns_other_bytes(item.staged, number))
                self._rewrite(segment, source)
                self._writer.sync()
                self._recopied += 1

    # -- verification "readback" ---------------------------------------------

    def _read_back(self, roles: Sequence[Role], inputs: Mapping[int, Input]) -> None:
        staged = dict(inputs)
        for position, role in enumerate(roles):
            if role is Role.COPY:
                item = self._items[position]
                assert item.staged is not None
                staged[position] = Input(path=item.staged, size_bytes=item.size_bytes)
        for attempt in range(2):
            for position, role in enumerate(roles):
                if role is Role.COPY:
                    self._stop.check()
                    _drop(staged[position])
            checker = PieceChecker(self._metainfo)
            run_pass(
                plan_spans(self._metainfo, roles),
                staged,
                checker=checker,
                stop=self._stop,
                nice=self._options.nice,
                use=lambda _: None,
            )
            if not checker.bad:
                return
            if attempt:
                first = self._copied_segments(checker.bad[0])[0]
                raise DiskError(
                    _returns_other_bytes(staged[first.position].path, checker.bad[0].number)
                )
            self._repair(checker)
            self._writer.sync()


class _Comparison:
    def __init__(
        self,
        metainfo: Metainfo,
        items: Sequence[CopyItem],
        index: int,
        candidate: Path,
        nice: int,
    ) -> None:
        self._metainfo = metainfo
        self._items = _by_position(metainfo, items)
        self._at = next(p for p, item in self._items.items() if item.index == index)
        self._candidate = candidate
        self._nice = nice

    def run(self, stop: Stop) -> bool:
        size = self._items[self._at].size_bytes
        status = _lstat(self._candidate)
        if status is None or status.st_size != size:
            return False
        inputs = {
            position: Input(path=item.source, size_bytes=item.size_bytes)
            for position, item in self._items.items()
        }
        source = inputs[self._at]
        inputs[self._at] = Input(path=self._candidate, size_bytes=size)
        checker = PieceChecker(self._metainfo)

        class _Different(Exception):
            pass

        def use(_: Batch) -> None:
            while checker.bad:
                if self._is_the_candidates_fault(checker.bad.popleft(), source):
                    raise _Different

        roles = [self._role(position) for position in range(len(self._metainfo.files))]
        try:
            run_pass(
                plan_spans(self._metainfo, roles),
                inputs,
                checker=checker,
                stop=stop,
                nice=self._nice,
                use=use,
            )
            use(Batch(memoryview(b"")))
        except _Different:
            return False
        return all(self._same_as_source(piece, source, stop) for piece in checker.unseen)

    def _role(self, position: int) -> Role:
        if position == self._at:
            return Role.COPY
        item = self._items.get(position)
        if item is None:
            return Role.PAD
        return Role.CONTEXT if item.wanted else Role.GAP

    def _is_the_candidates_fault(self, piece: Piece, source: Input) -> bool:
        """Whether a failed piece is the candidate's. Raises when a source is bad."""
        segments = _segments(self._metainfo, piece)
        others = [s for s in segments if s.position != self._at and s.position in self._items]
        if not others:
            return True
        parts = [
            _read_from_disk(
                source
                if s.position == self._at
                else Input(
                    path=self._items[s.position].source,
                    size_bytes=self._items[s.position].size_bytes,
                ),
                s,
            )
            if s.position in self._items
            else bytes(s.size_bytes)
            for s in segments
        ]
        if _matches(self._metainfo, piece, parts):
            return True
        raise _corrupt(self._items, piece, segments)

    def _same_as_source(self, number: int, source: Input, stop: Stop) -> bool:
        for segment in v1_segments(self._metainfo, number):
            if segment.position != self._at:
                continue
            stop.check()
            candidate = Input(path=self._candidate, size_bytes=source.size_bytes)
            if _read_from_disk(source, segment) != _read_from_disk(candidate, segment):
                return False
        return True


def _segments(metainfo: Metainfo, piece: Piece) -> tuple[Segment, ...]:
    if piece.position is not None:
        return (v2_segment(metainfo, piece.position, piece.number),)
    return v1_segments(metainfo, piece.number)


def _matches(metainfo: Metainfo, piece: Piece, parts: list[bytes]) -> bool:
    if piece.position is None:
        begin, end = v1_piece_range(metainfo, piece.number)
        assert sum(map(len, parts)) == end - begin
        return v1_digest(parts) == metainfo.v1_hash(piece.number)
    file = metainfo.files[piece.position]
    actual = v2_digest(
        b"".join(parts), piece_length=metainfo.piece_length, file_bytes=file.size_bytes
    )
    return actual == file.v2_hashes[piece.number]


def _read_from_disk(source: Input, segment: Segment) -> bytes:
    """Read past the page cache, as far as the kernel lets go of clean pages."""
    data = bytearray(segment.size_bytes)
    with FolderHandle() as folders:
        file = OpenInput(folders, source)
        try:
            disk_calls.drop_cached(file.fd, segment.offset_bytes, segment.size_bytes)
            file.read_into(memoryview(data), segment.offset_bytes)
        finally:
            file.close()
    return bytes(data)


def _drop(source: Input) -> None:
    with FolderHandle() as folders:
        file = OpenInput(folders, source)
        try:
            disk_calls.drop_cached(file.fd)
        finally:
            file.close()


def _lstat(path: Path) -> os.stat_result | None:
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise read_error(error, path) from error
    return status if is_regular(status) else None


def _corrupt(
    items: Mapping[int, CopyItem], piece: Piece, segments: Sequence[Segment]
) -> SourceCorrupt:
    names = ", ".join(str(items[s.position].source) for s in segments if s.position in items)
    return SourceCorrupt(
        f"piece {piece.number} of {names} does not match the torrent, also when read again; "
        "recheck the torrent in qBittorrent, then retry the job"
    )


def _returns_other_bytes(path: Path, number: int) -> str:
    return (
        f"the disk returns other bytes than were written for piece {number} of {path}, "
        "twice; check the disk, its cable and the memory"
    )
