"""Copy a torrent's files and prove the copy, piece by piece, against its .torrent.

Every byte is hashed on its way from the source to the disk. A piece that fails is
read again, past the page cache, and written again; if the source itself is bad, the
copy fails. Publishing is another module's: nothing here is visible outside staging.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from ..core.errors import DestinationConflict, DiskError
from ..core.model import Progress, Verification
from ..core.pieces import Metainfo, Role, Segment, plan_spans
from ..core.resuming import boundary, kept_bytes, pace, spans_from, unseen_before
from .copy_checkpoints import Checkpoints
from .copy_compare import identical
from .copy_hashing import Piece, PieceChecker
from .copy_pieces import (
    CopyItem,
    by_position,
    corrupt,
    drop,
    matches,
    read_from_disk,
    segments_of,
)
from .copy_resume import why_not_resumed, written_before
from .copy_stream import READ_AHEAD_BYTES, Batch, Input, run_pass
from .copy_threads import Stop, WriteRate, run_supervised
from .copy_write import StagedWriter, Written

__all__ = [
    "CopyItem",
    "CopyOptions",
    "CopyReport",
    "Written",
    "copy_and_verify",
    "identical",
    "why_not_resumed",
]


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
    """What a copy did, with what earlier tries did of it before they were interrupted."""

    bytes_copied: int
    bytes_verified: int
    pieces_recopied: int  #: now
    files: Mapping[int, Written]  #: by index; only the files copied


async def copy_and_verify(
    metainfo: Metainfo,
    items: Sequence[CopyItem],
    *,
    options: CopyOptions,
    progress: Progress,
    limiter: trio.CapacityLimiter,
    require: Callable[[], None],
    resume_at: int = 0,
    record: Callable[[int], None] | None = None,
    begins: Callable[[], None] | None = None,
) -> CopyReport:
    """Copy every item that has a ``staged`` path, prove the copies, and sync them.

    Args:
        metainfo: the torrent's.
        items: all its files in order of index; staged folders exist, staged files do not,
            but for what lies before ``resume_at``.
        options: how.
        progress: its ``bytes_done`` and ``bytes_verified`` grow meanwhile.
        limiter: one token is held for the whole copy.
        require: proves that the HDD's disk is mounted, else raises `MustWait`; it is called
            in the copying thread once a folder to write to is open, before the first write.
        resume_at: a position that was recorded, and that `why_not_resumed` has nothing
            against: the copy goes on there.
        record: is given, now and then, a position in the torrent's stream before which
            all is copied, proven and synced, in a thread of its own; the copy does not go
            on for long before it returns. None: nothing is recorded.
        begins: is called once ``limiter`` lets the copy begin.

    Returns:
        What was done. All staged files are on the disk, with the times of their sources,
        and where permitted their owner, group and mode (writable for the owner).

    Cancellation:
        Prompt (within one buffer of 2 MiB). Staged files are left, in part or whole.

    Raises:
        BadMetainfo: the items are not this torrent's files.
        SourceChanged: a source is missing, of another size, or changed meanwhile.
        SourceCorrupt: a source does not match its piece hashes, also when read again.
        DestinationChanged: a published or staged file vanished from the HDD meanwhile.
        DestinationConflict: a published file no longer matches the torrent.
        UnsafePath: a link stands in a path that was proven free of them.
        MustWait: the HDD is full, read-only or away.
        DiskError: the system refused otherwise, or the HDD returns other bytes than written.
    """

    def work(stop: Stop) -> CopyReport:
        return _Copy(metainfo, items, options, progress, require, resume_at, record).run(stop)

    return await run_supervised(work, nice=options.nice, limiter=limiter, begins=begins)


class _Copy:
    def __init__(
        self,
        metainfo: Metainfo,
        items: Sequence[CopyItem],
        options: CopyOptions,
        progress: Progress,
        require: Callable[[], None],
        resume_at: int,
        record: Callable[[int], None] | None,
    ) -> None:
        self._metainfo = metainfo
        self._items = by_position(metainfo, items)
        self._options = options
        self._progress = progress
        self._require = require
        self._resume_at = resume_at
        self._record = record
        self._written_at = resume_at  #: the stream position behind the last batch
        self._recopied = 0
        self._verified = 0

    def run(self, stop: Stop) -> CopyReport:
        self._stop = stop
        roles = [self._role(position) for position in range(len(self._metainfo.files))]
        inputs = {
            position: Input(
                path=item.published if role is Role.CONTEXT and item.published else item.source,
                size_bytes=item.size_bytes,
                on_hdd=role is Role.CONTEXT and item.published is not None,
            )
            for position, item in self._items.items()
            if (role := roles[position]) is not Role.GAP
        }
        checker = self._checker()
        spans = list(plan_spans(self._metainfo, roles))
        self._writer = StagedWriter(
            rate=self._options.rate, stop=stop, progress=self._progress, require=self._require
        )
        self._writer.written |= written_before(self._metainfo, self._items, self._resume_at)
        self._checkpoints = self._make_checkpoints(checker)
        try:
            run_pass(
                spans_from(spans, self._resume_at),
                inputs,
                checker=checker,
                stop=stop,
                nice=self._options.nice,
                use=partial(self._use, checker),
            )
            self._repair(checker)
            if self._checkpoints is not None:
                self._checkpoints.finish()
            self._writer.sync()
            if checker is not None:
                # Before the seam they were seen by nobody either.
                unseen = unseen_before(self._metainfo, spans, self._resume_at)
                for piece in unseen + checker.unseen:
                    self._compare_unseen(piece)
                self._writer.sync()
            if self._options.verification is Verification.READBACK:
                self._read_back(roles, inputs)
        finally:
            self._writer.close()
        kept = sum(
            kept_bytes(file, self._resume_at)
            for position, file in enumerate(self._metainfo.files)
            if roles[position] is Role.COPY
        )
        return CopyReport(
            bytes_copied=kept + self._writer.copied_bytes,
            bytes_verified=self._verified + (0 if checker is None else kept),
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

    def _make_checkpoints(self, checker: PieceChecker | None) -> Checkpoints | None:
        if self._record is None:
            return None
        return Checkpoints(
            pace(self._metainfo.piece_length, read_ahead_bytes=READ_AHEAD_BYTES),
            begin_at=self._resume_at,
            record=self._record,
            proven=partial(self._proven, checker),
            take_unsynced=self._writer.take_unsynced,
            stop=self._stop,
            nice=self._options.nice,
        )

    def _proven(self, checker: PieceChecker | None) -> int:
        """The last position between two pieces before which all is written and right."""
        at = self._written_at
        if checker is not None:
            at = min(at, *(hasher.settled_bytes for hasher in checker.hashers))
            # After that look: a piece found bad since lies behind it.
            self._repair(checker)
        return boundary(self._metainfo, at)

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
        if batch.chunks and self._checkpoints is not None:
            last = batch.chunks[-1]
            self._written_at = last.stream_offset_bytes + len(last.data)
            read = sum(len(c.data) for c in batch.chunks if c.span.role is not Role.PAD)
            self._checkpoints.passed(self._written_at, read)

    # -- pieces that failed --------------------------------------------------

    def _repair(self, checker: PieceChecker | None) -> None:
        """Copy failed pieces again. All of their bytes have been written once."""
        while checker is not None and checker.bad:
            self._recopy(checker.bad.popleft())

    def _recopy(self, piece: Piece) -> None:
        self._stop.check()
        segments = segments_of(self._metainfo, piece)
        parts = [self._reread(segment, published=True) for segment in segments]
        if not matches(self._metainfo, piece, parts):
            self._blame(piece, segments)
        for segment, part in zip(segments, parts, strict=True):
            self._rewrite(segment, part)
        self._recopied += 1

    def _rewrite(self, segment: Segment, data: bytes) -> None:
        staged = self._staged(segment.position)
        if staged is not None:
            self._writer.rewrite(segment.position, staged, segment.offset_bytes, memoryview(data))

    def _blame(self, piece: Piece, segments: Sequence[Segment]) -> None:
        """Raise for a piece that fails also when read again."""
        borrowed = [p for s in segments if (p := self._borrowed(s.position)) is not None]
        if borrowed:
            parts = [self._reread(segment, published=False) for segment in segments]
            if matches(self._metainfo, piece, parts):
                raise DestinationConflict(
                    f"{borrowed[0]} no longer matches the torrent (piece {piece.number}); "
                    "retry the job to have it compared anew"
                )
        raise corrupt(self._items, piece, segments)

    def _staged(self, position: int) -> Path | None:
        """Where the file is copied to; None when it is not copied."""
        item = self._items.get(position)
        return item.staged if item is not None else None

    def _borrowed(self, position: int) -> Path | None:
        """The published file that is read in the place of the source, if any."""
        item = self._items.get(position)
        return item.published if item is not None and item.staged is None else None

    def _copied_segments(self, piece: Piece) -> list[Segment]:
        return [
            s for s in segments_of(self._metainfo, piece) if self._staged(s.position) is not None
        ]

    def _reread(self, segment: Segment, *, published: bool) -> bytes:
        item = self._items.get(segment.position)
        if item is None:
            return bytes(segment.size_bytes)
        source = Input(path=item.source, size_bytes=item.size_bytes)
        borrowed = self._borrowed(segment.position)
        if published and borrowed is not None:
            source = _on_hdd(item, borrowed)
        return read_from_disk(source, segment)

    # -- pieces with bytes of unwanted files ---------------------------------

    def _compare_unseen(self, number: int) -> None:
        """Compare the copied bytes of a piece that cannot be hashed with their source."""
        for segment in self._copied_segments(Piece(number=number)):
            item = self._items[segment.position]
            assert item.staged is not None
            for attempt in range(2):
                self._stop.check()
                source = self._reread(segment, published=True)
                copy = read_from_disk(_on_hdd(item, item.staged), segment)
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
                staged[position] = _on_hdd(item, item.staged)
        for attempt in range(2):
            for position, role in enumerate(roles):
                if role is Role.COPY:
                    self._stop.check()
                    drop(staged[position])
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


def _on_hdd(item: CopyItem, path: Path) -> Input:
    return Input(path=path, size_bytes=item.size_bytes, on_hdd=True)


def _returns_other_bytes(path: Path, number: int) -> str:
    return (
        f"the disk returns other bytes than were written for piece {number} of {path}, "
        "twice; check the disk, its cable and the memory"
    )
