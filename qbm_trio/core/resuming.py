"""Where an interrupted copy can go on. Pure: no I/O.

A place in a copy is a position in the torrent's stream: all its files end to end, as
version 1 has them; version 2 knows no stream, but its files have an order all the same.
What lies before the position is copied, proven and synced; what lies behind it is not
believed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from .pieces import MetaFile, Metainfo, Span

_MIB = 1024 * 1024
READ_AGAIN_BYTES = 64 * _MIB  #: what a kill may cost; two pieces and 24 MiB if that is more
_OTHER_BYTES = 4 * _MIB  #: of it, for what is not a torrent's data: the journal, a .torrent
_INTERVAL_BYTES = 24 * _MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often a copy is synced and recorded."""

    interval_bytes: int  #: read since the last checkpoint when the next one begins
    lead_bytes: int  #: read since the last recorded one when the copy waits for the next


def pace(piece_length: int, *, read_ahead_bytes: int) -> Pace:
    """When to make checkpoints, so that a kill costs at most `READ_AGAIN_BYTES`.

    Read again are: what was written behind the last checkpoint, what was read ahead of
    the writing, and the piece at the seam.

    Args:
        piece_length: a checkpoint lies between two pieces.
        read_ahead_bytes: the most that is read and not yet written or not yet hashed.
    """
    # The last piece that is proven may end this far behind what is written.
    behind = read_ahead_bytes + piece_length
    lead = max(READ_AGAIN_BYTES - _OTHER_BYTES - behind, behind + read_ahead_bytes)
    return Pace(interval_bytes=min(_INTERVAL_BYTES, lead - behind), lead_bytes=lead)


def boundary(metainfo: Metainfo, at: int) -> int:
    """The last position up to ``at`` that cuts through no piece of either version."""
    while True:
        before = at
        if metainfo.v1_hashes is not None and at < metainfo.stream_bytes:
            at -= at % metainfo.piece_length
        if metainfo.infohash_v2 is not None:
            at -= _inside(metainfo, at) % metainfo.piece_length
        if at == before:
            return at


def _inside(metainfo: Metainfo, at: int) -> int:
    """How far ``at`` lies inside of a file; 0 at its end."""
    position = bisect_right(metainfo.files, at, key=lambda f: f.offset_bytes) - 1
    if position < 0:
        return 0
    file = metainfo.files[position]
    inside = at - file.offset_bytes
    return inside if inside < file.size_bytes else 0


def kept_bytes(file: MetaFile, at: int) -> int:
    """How many of a file's bytes lie before ``at``."""
    return min(file.size_bytes, max(0, at - file.offset_bytes))


def is_complete(file: MetaFile, at: int) -> bool:
    """Whether all of a file lies before ``at``. An empty one right there does not."""
    return file.offset_bytes < at and file.offset_bytes + file.size_bytes <= at


def spans_from(spans: Iterable[Span], at: int) -> Iterator[Span]:
    """What is left to read from ``at`` on."""
    for span in spans:
        begin, size = span.stream_offset_bytes, span.segment.size_bytes
        if begin >= at:
            yield span
        elif begin + size > at:
            done = at - begin
            segment = replace(
                span.segment,
                offset_bytes=span.segment.offset_bytes + done,
                size_bytes=size - done,
            )
            yield replace(span, segment=segment, stream_offset_bytes=at)


def unseen_before(metainfo: Metainfo, spans: Iterable[Span], at: int) -> list[int]:
    """Version 1 pieces before ``at`` of which not all bytes are read, ascending.

    Args:
        metainfo: the torrent.
        spans: from `plan_spans`.
        at: from `boundary`.
    """
    if metainfo.v1_hashes is None:
        return []
    unseen: dict[int, None] = {}
    end = 0  # of the bytes read without a gap

    def open_at(position: int) -> None:
        piece, inside = divmod(position, metainfo.piece_length)
        if inside and position < metainfo.stream_bytes:
            unseen[piece] = None

    for span in spans:
        if span.stream_offset_bytes >= at:
            break
        if span.stream_offset_bytes != end:
            open_at(end)
            open_at(span.stream_offset_bytes)
        end = span.stream_offset_bytes + span.segment.size_bytes
    if end < at:
        open_at(end)
    return list(unseen)
