"""One file of a copy job, and single pieces read again from the disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import BadMetainfo, SourceCorrupt
from ..core.pieces import Metainfo, Segment, v1_piece_range, v1_segments, v2_segment
from . import disk_calls
from .copy_hashing import Piece, v1_digest, v2_digest
from .copy_stream import Input, OpenInput
from .disk_errors import read_back_error
from .disk_paths import FolderHandle


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyItem:
    """One file of the torrent that is not padding."""

    index: int  #: qBittorrent's
    source: Path  #: on the SSD; a real path from `disk_paths.resolve_beneath`
    size_bytes: int
    wanted: bool
    staged: Path | None  #: where to copy it; None: it is not copied now
    published: Path | None = None  #: its verified bytes on the HDD, when it has them already


def by_position(metainfo: Metainfo, items: Sequence[CopyItem]) -> dict[int, CopyItem]:
    """The items by their place in ``Metainfo.files``, where padding counts too.

    Raises:
        BadMetainfo: they are not the torrent's files, by count or size.
    """
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


def segments_of(metainfo: Metainfo, piece: Piece) -> tuple[Segment, ...]:
    """The runs of bytes that make a piece of either version, in order."""
    if piece.position is not None:
        return (v2_segment(metainfo, piece.position, piece.number),)
    return v1_segments(metainfo, piece.number)


def matches(metainfo: Metainfo, piece: Piece, parts: list[bytes]) -> bool:
    """Whether the bytes of a piece, one part a segment, have its hash."""
    if piece.position is None:
        begin, end = v1_piece_range(metainfo, piece.number)
        assert sum(map(len, parts)) == end - begin
        return v1_digest(parts) == metainfo.v1_hash(piece.number)
    file = metainfo.files[piece.position]
    actual = v2_digest(
        b"".join(parts), piece_length=metainfo.piece_length, file_bytes=file.size_bytes
    )
    return actual == file.v2_hashes[piece.number]


def read_from_disk(source: Input, segment: Segment) -> bytes:
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


def drop(source: Input, *, sync: Callable[[int], None] | None = None) -> None:
    """Let the kernel forget a file's cached pages. Without ``sync`` it must be synced."""
    with FolderHandle() as folders:
        file = OpenInput(folders, source)
        try:
            if sync is not None:
                sync(file.fd)
            disk_calls.drop_cached(file.fd)
        except OSError as error:
            raise read_back_error(error, source.path) from error
        finally:
            file.close()


def corrupt(
    items: Mapping[int, CopyItem], piece: Piece, segments: Sequence[Segment]
) -> SourceCorrupt:
    """The error for a piece whose source is bad."""
    names = ", ".join(str(items[s.position].source) for s in segments if s.position in items)
    return SourceCorrupt(
        f"piece {piece.number} of {names} does not match the torrent, also when read again; "
        "recheck the torrent in qBittorrent, then retry the job"
    )
