"""Is a file that stands at the destination already the torrent's own?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import trio

from ..core.pieces import Metainfo, Role, plan_spans, v1_segments
from .copy_hashing import Piece, PieceChecker
from .copy_pieces import CopyItem, by_position, corrupt, matches, read_from_disk, segments_of
from .copy_stream import Batch, Input, run_pass
from .copy_threads import Stop, run_supervised
from .disk_errors import read_error
from .disk_paths import is_regular


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
        self._items = by_position(metainfo, items)
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
        segments = segments_of(self._metainfo, piece)
        others = [s for s in segments if s.position != self._at and s.position in self._items]
        if not others:
            return True
        parts = [
            read_from_disk(
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
        if matches(self._metainfo, piece, parts):
            return True
        raise corrupt(self._items, piece, segments)

    def _same_as_source(self, number: int, source: Input, stop: Stop) -> bool:
        for segment in v1_segments(self._metainfo, number):
            if segment.position != self._at:
                continue
            stop.check()
            candidate = Input(path=self._candidate, size_bytes=source.size_bytes)
            if read_from_disk(source, segment) != read_from_disk(candidate, segment):
                return False
        return True


def _lstat(path: Path) -> os.stat_result | None:
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise read_error(error, path) from error
    return status if is_regular(status) else None
