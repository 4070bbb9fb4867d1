"""What an earlier try has staged: kept as far as it is proven, and looked at again.

The journal says up to where it was synced. That is believed only if the disk agrees:
the files are there as they were left, and the piece at the seam has its hash.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import trio

from ..core.errors import DestinationChanged, SourceChanged
from ..core.pieces import Metainfo, Segment
from ..core.resuming import is_complete, kept_bytes
from .copy_hashing import Piece
from .copy_pieces import CopyItem, by_position, matches, read_from_disk, segments_of
from .copy_stream import Input
from .copy_threads import Stop, run_supervised
from .copy_write import Written
from .disk_errors import read_error, write_error
from .disk_paths import is_regular

_TIME_STEPS_NS = (1, 100, 1000, 10**6, 10**7, 10**9, 2 * 10**9)
"""How exactly file systems keep times: ext4, NTFS, …, exFAT, old ext4 and XFS, FAT."""


def keep_staged(staged: Mapping[Path, int]) -> set[Path]:
    """Remove what is staged, but what a copy can go on from. Blocks.

    Args:
        staged: paths, and how many bytes of each are to be kept: 0 to remove it. An empty
            file that is complete has -1.

    Returns:
        The files that were kept: plain ones, which nobody shares.

    Raises:
        MustWait, DiskError: the disk refused.
    """
    kept = set()
    for path, size_bytes in staged.items():
        try:
            status = path.lstat()
            if size_bytes and is_regular(status) and status.st_nlink == 1:
                kept.add(path)
            else:
                path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise write_error(error, path) from error
    return kept


async def why_not_resumed(
    metainfo: Metainfo,
    items: Sequence[CopyItem],
    at: int,
    *,
    limiter: trio.CapacityLimiter,
    nice: int,
) -> str | None:
    """Look whether all that should be staged before ``at`` is there; say what is not.

    Reads the last piece before it, past the page cache.

    Args:
        metainfo: the torrent's.
        items: all its files in order of index.
        at: a position in the stream from `resuming.boundary`.
        limiter: one token is held meanwhile.
        nice: of the reading thread.

    Cancellation:
        Prompt.

    Raises:
        BadMetainfo: the items are not this torrent's files.
        MustWait, DiskError: something could not be read.
    """

    def work(stop: Stop) -> str | None:
        return _Look(metainfo, items, at).run(stop)

    return await run_supervised(work, nice=nice, limiter=limiter)


def written_before(
    metainfo: Metainfo, items: Mapping[int, CopyItem], at: int
) -> Iterator[tuple[int, Written]]:
    """The staged files that an earlier try has completed, by position, as they are now.

    Raises:
        DestinationChanged: one has vanished.
    """
    for position, item in items.items():
        if item.staged is not None and is_complete(metainfo.files[position], at):
            status = _lstat(item.staged)
            if status is None:
                raise DestinationChanged(f"{item.staged} has vanished; the next try begins anew")
            yield (
                position,
                Written(
                    size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, inode=status.st_ino
                ),
            )


class _Look:
    def __init__(self, metainfo: Metainfo, items: Sequence[CopyItem], at: int) -> None:
        self._metainfo = metainfo
        self._items = by_position(metainfo, items)
        self._at = at
        self._sizes: dict[int, int] = {}  #: as staged, by position
        self._read: dict[Segment, bytes] = {}

    def run(self, stop: Stop) -> str | None:
        for position, item in self._items.items():
            stop.check()
            if item.staged is not None:
                reason = self._why_not_file(position, item, item.staged)
                if reason is not None:
                    return reason
        for piece in self._pieces_at_seam():
            stop.check()
            try:
                parts = [self._part(s) for s in segments_of(self._metainfo, piece)]
            except (SourceChanged, DestinationChanged) as error:
                return str(error)
            whole = [part for part in parts if part is not None]
            # One with bytes that cannot be had is compared with its source in the end.
            if len(whole) == len(parts) and not matches(self._metainfo, piece, whole):
                return f"piece {piece.number} on the HDD is not what was written"
        return None

    def _why_not_file(self, position: int, item: CopyItem, staged: Path) -> str | None:
        file = self._metainfo.files[position]
        complete, kept = is_complete(file, self._at), kept_bytes(file, self._at)
        if not complete and not kept:
            return None
        status = _lstat(staged)
        if status is None or not is_regular(status) or status.st_nlink != 1:
            return f"{staged} is gone"
        self._sizes[position] = status.st_size
        if not complete:
            return None if status.st_size >= kept else f"{staged} is too short"
        try:
            source = item.source.lstat()
        except OSError as error:
            raise read_error(error, item.source) from error
        if status.st_size != file.size_bytes or not _same_time(status, source):
            return f"{staged} is not as it was left, or {item.source} has changed since"
        return None

    def _pieces_at_seam(self) -> Iterator[Piece]:
        """The pieces, one of each version, that hold the last byte copied before the seam."""
        copied = [
            position
            for position, item in self._items.items()
            if item.staged is not None and kept_bytes(self._metainfo.files[position], self._at)
        ]
        if not copied:
            return
        file = self._metainfo.files[copied[-1]]
        last = kept_bytes(file, self._at) - 1
        if self._metainfo.v1_hashes is not None:
            yield Piece(number=(file.offset_bytes + last) // self._metainfo.piece_length)
        if file.v2_hashes:
            yield Piece(number=last // self._metainfo.piece_length, position=copied[-1])

    def _part(self, segment: Segment) -> bytes | None:
        """The bytes of one segment, as the HDD has them; None when it has none."""
        item = self._items.get(segment.position)
        if item is None:
            return bytes(segment.size_bytes)
        path = item.staged or item.published
        if path is None:
            return None
        if segment not in self._read:
            size = self._sizes.get(segment.position, item.size_bytes)
            source = Input(path=path, size_bytes=size, on_hdd=True)
            self._read[segment] = read_from_disk(source, segment)
        return self._read[segment]


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise read_error(error, path) from error


def _same_time(copy: os.stat_result, source: os.stat_result) -> bool:
    """Whether the copy's time is the source's, as exactly as some file system keeps it."""
    then = source.st_mtime_ns
    return copy.st_mtime_ns in {then - then % step for step in _TIME_STEPS_NS}
