"""Check a stream of torrent bytes against its piece hashes. No I/O, no threads."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from hashlib import sha1, sha256
from typing import TYPE_CHECKING, Protocol

from ..core.pieces import LEAF_BYTES, MetaFile, Metainfo, v2_piece_hash

if TYPE_CHECKING:
    from hashlib import _Hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A piece of either version."""

    number: int  #: in the torrent for version 1, in its file for version 2
    position: int | None = None  #: the file in ``Metainfo.files``, for version 2


class Hasher(Protocol):
    """Takes bytes in stream order, in one thread, and judges the pieces of one version."""

    settled_bytes: int
    """Every piece that ends before this stream position is judged, or known as unseen."""

    def feed(
        self, position: int, offset_bytes: int, stream_offset_bytes: int, data: memoryview,
        *, whole_file: bool,
    ) -> None:  # fmt: skip
        """Take the next bytes.

        Args:
            position: the file in ``Metainfo.files``.
            offset_bytes: where in that file they begin.
            stream_offset_bytes: where in the version 1 stream they begin.
            data: the bytes.
            whole_file: False when only a part of the file is fed (bytes that complete a
                neighbour's piece); such parts count for version 1 only.
        """

    def finish(self) -> None:
        """Say that nothing more comes."""


class PieceChecker:
    """Says which pieces of what its hashers are fed are bad, and which were not all seen.

    A hybrid torrent has two hashers, which may run in two threads. ``bad`` may be emptied
    by another: a deque's ends are safe.
    """

    def __init__(self, metainfo: Metainfo) -> None:
        self.bad: deque[Piece] = deque()
        self.unseen: list[int] = []  #: version 1 pieces of which some bytes were not fed
        hashers: list[Hasher] = []
        if metainfo.v1_hashes is not None:
            hashers.append(_V1(metainfo, self))
        if metainfo.infohash_v2 is not None:
            hashers.append(_V2(metainfo, self))
        self.hashers = tuple(hashers)


class _V1:
    def __init__(self, metainfo: Metainfo, found: PieceChecker) -> None:
        self._metainfo = metainfo
        self._found = found
        self._length = metainfo.piece_length
        self._total = metainfo.stream_bytes
        self._at = 0  #: the next stream byte, when the current piece is whole so far
        self._hash: _Hash | None = None  #: None between pieces
        self.settled_bytes = 0

    def feed(
        self, position: int, offset_bytes: int, stream_offset_bytes: int, data: memoryview,
        *, whole_file: bool,
    ) -> None:  # fmt: skip
        del position, offset_bytes, whole_file  # the stream knows no files
        at = stream_offset_bytes
        if at != self._at:
            self.finish()
        done = 0
        while done < len(data):
            piece, inside = divmod(at, self._length)
            take = min(len(data) - done, self._length - inside)
            if self._hash is None:
                if inside == 0:
                    self._hash = sha1(usedforsecurity=False)
                elif not self._found.unseen or self._found.unseen[-1] != piece:
                    self._found.unseen.append(piece)
            if self._hash is not None:
                self._hash.update(data[done : done + take])
            done += take
            at += take
            self._at = at
            if at % self._length == 0 or at == self._total:
                self._judge(piece)
        self.settled_bytes = at if at == self._total else at - at % self._length

    def finish(self) -> None:
        """Leave the current piece: the bytes that would end it do not come."""
        if self._hash is not None:
            self._hash = None
            self._found.unseen.append(self._at // self._length)

    def _judge(self, piece: int) -> None:
        if self._hash is not None:
            if self._hash.digest() != self._metainfo.v1_hash(piece):
                self._found.bad.append(Piece(number=piece))
            self._hash = None


class _V2:
    def __init__(self, metainfo: Metainfo, found: PieceChecker) -> None:
        self._metainfo = metainfo
        self._found = found
        self._leaves: list[bytes] = []
        self._part: _Hash | None = None  #: a leaf that the last bytes began
        self._part_bytes = 0
        self.settled_bytes = 0

    def feed(
        self, position: int, offset_bytes: int, stream_offset_bytes: int, data: memoryview,
        *, whole_file: bool,
    ) -> None:  # fmt: skip
        file, at = self._metainfo.files[position], offset_bytes
        if file.pad or not whole_file or self._only_v1(file):
            self.settled_bytes = stream_offset_bytes + len(data)
            return
        length, size = self._metainfo.piece_length, file.size_bytes
        done = 0
        while done < len(data):
            inside = at % length
            take = min(len(data) - done, length - inside, size - at)
            self._take(data[done : done + take])
            done += take
            at += take
            if at % length == 0 or at == size:
                self._judge(position, (at - 1) // length)
        self.settled_bytes = file.offset_bytes + (at if at == size else at - at % length)

    def finish(self) -> None:
        """Nothing is left open: a file ends with its last byte."""

    def _only_v1(self, file: MetaFile) -> bool:
        """Whether version 1 alone proves the file: a hybrid's piece layer was not exported."""
        return self._metainfo.v1_hashes is not None and not file.v2_hashes

    def _take(self, data: memoryview) -> None:
        begin = 0
        if self._part is not None:
            begin = min(LEAF_BYTES - self._part_bytes, len(data))
            self._part.update(data[:begin])
            self._part_bytes += begin
            if self._part_bytes < LEAF_BYTES:
                return
            self._end_leaf()
        whole = begin + (len(data) - begin) // LEAF_BYTES * LEAF_BYTES
        self._leaves += [
            sha256(data[i : i + LEAF_BYTES]).digest() for i in range(begin, whole, LEAF_BYTES)
        ]
        if whole < len(data):
            self._part = sha256(data[whole:])
            self._part_bytes = len(data) - whole

    def _end_leaf(self) -> None:
        if self._part is not None:
            self._leaves.append(self._part.digest())
            self._part = None
            self._part_bytes = 0

    def _judge(self, position: int, number: int) -> None:
        self._end_leaf()
        file = self._metainfo.files[position]
        actual = v2_piece_hash(
            self._leaves,
            piece_length=self._metainfo.piece_length,
            file_bytes=file.size_bytes,
        )
        if actual != file.v2_hashes[number]:
            self._found.bad.append(Piece(number=number, position=position))
        self._leaves = []


def v1_digest(parts: list[bytes]) -> bytes:
    """The SHA-1 of a piece given in parts."""
    state = sha1(usedforsecurity=False)
    for part in parts:
        state.update(part)
    return state.digest()


def v2_digest(data: bytes, *, piece_length: int, file_bytes: int) -> bytes:
    """The version 2 hash of a piece given whole."""
    view = memoryview(data)
    leaves = [sha256(view[i : i + LEAF_BYTES]).digest() for i in range(0, len(data), LEAF_BYTES)]
    return v2_piece_hash(leaves, piece_length=piece_length, file_bytes=file_bytes)
