"""Are files that stand at their destinations already the torrent's own?"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import trio

from ..core.pieces import Metainfo, Role, plan_spans
from . import disk_calls
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
from .copy_stream import Batch, Input, run_pass
from .copy_threads import Stop, run_supervised, sync_stoppable
from .disk_errors import read_back_error
from .disk_paths import is_regular


async def identical(
    metainfo: Metainfo,
    items: Sequence[CopyItem],
    candidates: Mapping[int, Path],
    *,
    from_disk: bool = False,
    limiter: trio.CapacityLimiter,
    nice: int,
) -> frozenset[int]:
    """Which candidates hold exactly their file of the torrent, by piece hashes.

    All are read in one pass: pieces of small files are shared, and one pass for each
    file would read each neighbour again and again. What a shared piece lacks is
    completed from the sources; when it fails, or an unwanted neighbour keeps it from
    being checked, the candidates are compared with their own sources there. A candidate
    that is missing or no regular file is not identical.

    Args:
        metainfo: the torrent's.
        items: all its files in order of index.
        candidates: by index; real paths from `disk_paths.resolve_beneath`.
        from_disk: sync them, and let the kernel forget what it has cached of them, first.
        limiter: one token is held meanwhile.
        nice: of the reading threads.

    Cancellation:
        Prompt.

    Raises:
        SourceCorrupt: a shared piece fails, and does so with the sources alone, too.
        SourceChanged, DestinationChanged: a source, or a candidate, was changed meanwhile.
        DiskError, MustWait: something could not be read.
    """
    if not candidates:
        return frozenset()

    def work(stop: Stop) -> frozenset[int]:
        return _Comparison(metainfo, items, candidates, from_disk, nice).run(stop)

    return await run_supervised(work, nice=nice, limiter=limiter)


class _AllDiffer(Exception):
    """There is nothing left to find out."""


class _Comparison:
    def __init__(
        self,
        metainfo: Metainfo,
        items: Sequence[CopyItem],
        candidates: Mapping[int, Path],
        from_disk: bool,
        nice: int,
    ) -> None:
        self._metainfo = metainfo
        self._items = by_position(metainfo, items)
        self._sources = {
            position: Input(path=item.source, size_bytes=item.size_bytes)
            for position, item in self._items.items()
        }
        self._paths = {
            position: candidates[item.index]
            for position, item in self._items.items()
            if item.index in candidates
        }
        self._candidates: dict[int, Input] = {}
        self._same: set[int] = set()  #: positions not yet known to differ
        self._from_disk = from_disk
        self._nice = nice

    def run(self, stop: Stop) -> frozenset[int]:
        for position, path in self._paths.items():
            size, status = self._items[position].size_bytes, _lstat(path)
            if status is not None and status.st_size == size:
                self._candidates[position] = Input(path=path, size_bytes=size, on_hdd=True)
        self._same = set(self._candidates)
        if not self._same:
            return frozenset()
        if self._from_disk:
            for candidate in self._candidates.values():
                stop.check()
                drop(candidate, sync=partial(sync_stoppable, disk_calls.fsync, stop=stop))
        checker = PieceChecker(self._metainfo)

        def use(_: Batch) -> None:
            while checker.bad:
                stop.check()
                self._blame(checker.bad.popleft())
            if not self._same:
                raise _AllDiffer

        roles = [self._role(position) for position in range(len(self._metainfo.files))]
        try:
            run_pass(
                plan_spans(self._metainfo, roles),
                self._sources | self._candidates,
                checker=checker,
                stop=stop,
                nice=self._nice,
                use=use,
            )
            use(Batch(memoryview(b"")))
        except _AllDiffer:
            return frozenset()
        for number in checker.unseen:
            stop.check()
            self._compare(Piece(number=number))
        return frozenset(self._items[position].index for position in self._same)

    def _role(self, position: int) -> Role:
        if position in self._candidates:
            return Role.COPY
        item = self._items.get(position)
        if item is None:
            return Role.PAD
        return Role.CONTEXT if item.wanted else Role.GAP

    def _blame(self, piece: Piece) -> None:
        """Find whose fault a failed piece is. Raises when a source is bad."""
        segments = segments_of(self._metainfo, piece)
        content = [s for s in segments if s.position in self._items]
        if len(content) == 1:
            self._same.discard(content[0].position)
            return
        parts = [
            read_from_disk(self._sources[s.position], s)
            if s.position in self._items
            else bytes(s.size_bytes)
            for s in segments
        ]
        if not matches(self._metainfo, piece, parts):
            raise corrupt(self._items, piece, segments)
        self._compare(piece)

    def _compare(self, piece: Piece) -> None:
        """Within one piece, compare candidates with their sources, byte by byte."""
        for segment in segments_of(self._metainfo, piece):
            position = segment.position
            if position in self._same and read_from_disk(
                self._sources[position], segment
            ) != read_from_disk(self._candidates[position], segment):
                self._same.discard(position)


def _lstat(path: Path) -> os.stat_result | None:
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise read_back_error(error, path) from error
    return status if is_regular(status) else None
