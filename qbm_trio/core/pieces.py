"""Which bytes of which files make a piece, and how pieces are hashed. Pure: no I/O.

Version 1 (BEP 3) lays all files end to end, padding included, and cuts that
stream into pieces, so a piece can hold bytes of many files. Version 2 (BEP 52)
builds one SHA-256 Merkle tree of 16 KiB leaves per file; a piece never leaves
its file. A hybrid torrent has both, kept aligned by padding (BEP 47).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from hashlib import sha256

from .model import TorrentId

LEAF_BYTES = 16 * 1024  #: BEP 52: the leaves of every Merkle tree
_ZERO_LEAF = bytes(32)  #: what stands for a leaf beyond the end of the file


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaFile:
    """One file of the torrent, as the .torrent names it (before renames)."""

    path: tuple[str, ...]  #: with the torrent's own folder first, when it has one; any text
    size_bytes: int
    offset_bytes: int  #: where it begins in the version 1 stream
    index: int | None  #: qBittorrent's index; None for padding, which it does not list
    pieces_root: bytes | None = None
    """Version 2; None when empty, version 1 only, or of a hybrid whose piece layer is missing."""
    layer: tuple[bytes, ...] | None = None  #: version 2; only for files over one piece

    @property
    def pad(self) -> bool:
        """Whether this is padding: zeros that exist on no disk."""
        return self.index is None

    @property
    def v2_hashes(self) -> tuple[bytes, ...]:
        """The expected hash of each of the file's own pieces; empty where there is no root."""
        if self.layer is not None:
            return self.layer
        return () if self.pieces_root is None else (self.pieces_root,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metainfo:
    """What a .torrent says of its data. Made by ``adapters.metainfo.parse``."""

    name: str
    piece_length: int
    files: tuple[MetaFile, ...]  #: in torrent order, with padding
    v1_hashes: bytes | None  #: 20 bytes a piece, end to end
    infohash_v1: str | None  #: 40 hex digits
    infohash_v2: str | None  #: 64 hex digits

    @property
    def torrent_id(self) -> TorrentId:
        """The key that qBittorrent uses: the v2 hash cut to 40 digits where there is one."""
        return TorrentId((self.infohash_v2 or self.infohash_v1 or "")[:40])

    @property
    def stream_bytes(self) -> int:
        """The length of the version 1 stream, padding included."""
        return self.files[-1].offset_bytes + self.files[-1].size_bytes if self.files else 0

    @property
    def v1_piece_count(self) -> int:
        """How many version 1 pieces there are; 0 without version 1."""
        return len(self.v1_hashes) // 20 if self.v1_hashes else 0

    def v1_hash(self, piece: int) -> bytes:
        """The expected SHA-1 of a piece."""
        assert self.v1_hashes is not None
        return self.v1_hashes[piece * 20 : piece * 20 + 20]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A run of bytes within one file."""

    position: int  #: in `Metainfo.files`
    offset_bytes: int  #: from the start of the file
    size_bytes: int


def v1_piece_range(metainfo: Metainfo, piece: int) -> tuple[int, int]:
    """First byte and end of a piece in the version 1 stream."""
    begin = piece * metainfo.piece_length
    return begin, min(begin + metainfo.piece_length, metainfo.stream_bytes)


def v1_segments(metainfo: Metainfo, piece: int) -> tuple[Segment, ...]:
    """The runs of bytes that make a version 1 piece, in order; empty files are left out."""
    return tuple(_segments_between(metainfo, *v1_piece_range(metainfo, piece)))


def v2_segment(metainfo: Metainfo, position: int, piece: int) -> Segment:
    """The bytes of the ``piece``-th version 2 piece of a file."""
    begin = piece * metainfo.piece_length
    size = min(metainfo.piece_length, metainfo.files[position].size_bytes - begin)
    return Segment(position=position, offset_bytes=begin, size_bytes=size)


def _segments_between(metainfo: Metainfo, begin: int, end: int) -> Iterator[Segment]:
    files = metainfo.files
    position = bisect_right(files, begin, key=lambda f: f.offset_bytes) - 1
    while begin < end:
        file = files[position]
        stop = min(end, file.offset_bytes + file.size_bytes)
        if stop > begin:
            yield Segment(
                position=position,
                offset_bytes=begin - file.offset_bytes,
                size_bytes=stop - begin,
            )
            begin = stop
        position += 1


# -- which bytes a pass over the torrent must read ---------------------------


class Role(Enum):
    """What a pass does with a file."""

    COPY = "copy"  #: every byte is read, and checked
    CONTEXT = "context"  #: only its bytes in pieces shared with a COPY file are read
    GAP = "gap"  #: its bytes cannot be had (the user does not want the file)
    PAD = "pad"  #: zeros, as far as pieces shared with a COPY file need them


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A run of bytes to read, with its place in the version 1 stream."""

    segment: Segment
    role: Role
    stream_offset_bytes: int


def plan_spans(metainfo: Metainfo, roles: Sequence[Role]) -> Iterator[Span]:
    """What to read, in stream order, so that every COPY byte is hashed once.

    Args:
        metainfo: the torrent.
        roles: one for each of ``metainfo.files``. GAP files yield nothing; an
            empty COPY file yields an empty span, since it must be made too.
    """
    needed = _merged_piece_ranges(metainfo, roles)
    current = next(needed, None)
    for position, (file, role) in enumerate(zip(metainfo.files, roles, strict=True)):
        begin, end = file.offset_bytes, file.offset_bytes + file.size_bytes
        if role is Role.COPY:
            yield _span(metainfo, position, begin, end, role)
            continue
        while current is not None and current[1] <= begin:
            current = next(needed, None)
        if role is Role.GAP:
            continue
        at = begin
        while current is not None and current[0] < end:
            yield _span(metainfo, position, max(at, current[0]), min(end, current[1]), role)
            at = current[1]
            if at >= end:
                break
            current = next(needed, None)


def _span(metainfo: Metainfo, position: int, begin: int, end: int, role: Role) -> Span:
    offset = begin - metainfo.files[position].offset_bytes
    return Span(
        segment=Segment(position=position, offset_bytes=offset, size_bytes=end - begin),
        role=role,
        stream_offset_bytes=begin,
    )


def _merged_piece_ranges(metainfo: Metainfo, roles: Sequence[Role]) -> Iterator[tuple[int, int]]:
    """Stream ranges of the v1 pieces that touch a COPY file, ascending and disjoint."""
    if metainfo.v1_hashes is None:
        return
    length, total = metainfo.piece_length, metainfo.stream_bytes
    held: tuple[int, int] | None = None
    for file, role in zip(metainfo.files, roles, strict=True):
        if role is not Role.COPY or not file.size_bytes:
            continue
        begin = file.offset_bytes // length * length
        end = min(total, -(-(file.offset_bytes + file.size_bytes) // length) * length)
        if held is not None and begin <= held[1]:
            held = (held[0], end)
        else:
            if held is not None:
                yield held
            held = (begin, end)
    if held is not None:
        yield held


# -- version 2 trees ---------------------------------------------------------


@cache
def zero_hash(level: int) -> bytes:
    """The root of a tree of ``2**level`` leaves that all lie beyond the end of the file."""
    if level == 0:
        return _ZERO_LEAF
    below = zero_hash(level - 1)
    return sha256(below + below).digest()


def merkle_root(hashes: Sequence[bytes], *, width: int, level: int = 0) -> bytes:
    """The root over ``hashes``, filled up to ``width`` with the hashes of nothing.

    Args:
        hashes: at least one, at most ``width``.
        width: a power of two.
        level: how many levels above the leaves the hashes stand.
    """
    row = list(hashes)
    while width > 1:
        if len(row) % 2:
            row.append(zero_hash(level))
        row = [sha256(row[i] + row[i + 1]).digest() for i in range(0, len(row), 2)]
        width //= 2
        level += 1
    return row[0]


def layer_root(layer: Sequence[bytes], *, piece_length: int) -> bytes:
    """The pieces root that a file's piece layer must lead to (BEP 52)."""
    level = (piece_length // LEAF_BYTES).bit_length() - 1
    return merkle_root(layer, width=_power_of_two_from(len(layer)), level=level)


def v2_piece_hash(leaves: Sequence[bytes], *, piece_length: int, file_bytes: int) -> bytes:
    """The hash of one version 2 piece from the SHA-256 of its 16 KiB leaves.

    A file no larger than a piece has no layer: its tree is only as wide as its leaves need.
    """
    if file_bytes <= piece_length:
        return merkle_root(leaves, width=_power_of_two_from(len(leaves)))
    return merkle_root(leaves, width=piece_length // LEAF_BYTES)


def _power_of_two_from(count: int) -> int:
    return 1 << (count - 1).bit_length()
