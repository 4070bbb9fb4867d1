"""Pieces: which bytes, and which hashes. Truth is plain arithmetic and libtorrent."""

from __future__ import annotations

from hashlib import sha1, sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbm_trio.adapters.copy_hashing import PieceChecker
from qbm_trio.adapters.metainfo import parse
from qbm_trio.core.pieces import (
    LEAF_BYTES,
    MetaFile,
    Metainfo,
    Role,
    merkle_root,
    plan_spans,
    v1_segments,
    v2_piece_hash,
    zero_hash,
)
from tests.rig.torrents import Version, make_torrent, write_files


def metainfo_of(contents: list[bytes], pads: list[bool], piece_length: int) -> Metainfo:
    """A version 1 torrent of these files, hashed the plain way."""
    files: list[MetaFile] = []
    offset = index = 0
    for content, pad in zip(contents, pads, strict=True):
        files.append(
            MetaFile(
                path=(f"f{len(files)}",),
                size_bytes=len(content),
                offset_bytes=offset,
                index=None if pad else index,
            )
        )
        offset += len(content)
        index += not pad
    stream = b"".join(contents)
    hashes = b"".join(
        sha1(stream[i : i + piece_length]).digest() for i in range(0, len(stream), piece_length)
    )
    return Metainfo(
        name="t",
        piece_length=piece_length,
        files=tuple(files),
        v1_hashes=hashes,
        infohash_v1="0" * 40,
        infohash_v2=None,
    )


def feed(
    checker: PieceChecker, position: int, at: int, stream_at: int, data: memoryview,
    *, whole_file: bool,
) -> None:  # fmt: skip
    for hasher in checker.hashers:
        hasher.feed(position, at, stream_at, data, whole_file=whole_file)


def finish(checker: PieceChecker) -> None:
    for hasher in checker.hashers:
        hasher.finish()


@st.composite
def torrents(draw: st.DrawFn) -> tuple[Metainfo, list[bytes], list[Role]]:
    """Small torrents with what a pass shall do with each file."""
    roles = draw(st.lists(st.sampled_from(Role), min_size=1, max_size=8))
    contents = []
    for role in roles:
        size = draw(st.integers(0, 40))
        contents.append(
            bytes(size) if role is Role.PAD else draw(st.binary(min_size=size, max_size=size))
        )
    pads = [role is Role.PAD for role in roles]
    return metainfo_of(contents, pads, draw(st.integers(1, 17))), contents, roles


@given(torrents())
def test_the_segments_of_all_pieces_make_up_the_stream(
    case: tuple[Metainfo, list[bytes], list[Role]],
) -> None:
    meta, contents, _ = case
    for piece in range(meta.v1_piece_count):
        data = b"".join(
            contents[s.position][s.offset_bytes : s.offset_bytes + s.size_bytes]
            for s in v1_segments(meta, piece)
        )
        assert sha1(data).digest() == meta.v1_hash(piece)
        assert all(s.size_bytes for s in v1_segments(meta, piece))


def pieces_of(meta: Metainfo, position: int) -> list[int]:
    """The version 1 pieces that hold a byte of a file."""
    return [
        piece
        for piece in range(meta.v1_piece_count)
        if any(s.position == position for s in v1_segments(meta, piece))
    ]


@given(torrents(), st.integers(1, 9))
def test_every_copied_byte_is_hashed_or_its_piece_is_named_as_unseen(
    case: tuple[Metainfo, list[bytes], list[Role]], step: int
) -> None:
    """Feeds the planned spans in small steps, as buffers would cut them."""
    meta, contents, roles = case
    checker = PieceChecker(meta)
    copied: dict[int, int] = {}
    last_end = 0
    for span in plan_spans(meta, roles):
        s = span.segment
        assert span.role is roles[s.position] is not Role.GAP
        assert span.stream_offset_bytes >= last_end
        last_end = span.stream_offset_bytes + s.size_bytes
        if span.role is Role.COPY:
            assert s.offset_bytes == 0
            copied[s.position] = s.size_bytes
        data = contents[s.position][s.offset_bytes : s.offset_bytes + s.size_bytes]
        for at in range(0, len(data), step):
            part = memoryview(data)[at : at + step]
            feed(
                checker,
                s.position,
                s.offset_bytes + at,
                span.stream_offset_bytes + at,
                part,
                whole_file=span.role is Role.COPY,
            )
    finish(checker)
    assert not checker.bad
    assert copied == {p: len(contents[p]) for p, r in enumerate(roles) if r is Role.COPY}
    touched = {
        piece
        for position, role in enumerate(roles)
        if role is Role.COPY
        for piece in pieces_of(meta, position)
    }
    with_gap = {
        piece
        for piece in touched
        if any(roles[s.position] is Role.GAP for s in v1_segments(meta, piece))
    }
    assert touched & set(checker.unseen) == with_gap
    assert len(checker.unseen) == len(set(checker.unseen))


@given(torrents(), st.data())
def test_one_wrong_byte_makes_exactly_its_piece_bad(
    case: tuple[Metainfo, list[bytes], list[Role]], data: st.DataObject
) -> None:
    meta, contents, _ = case
    stream = bytearray(b"".join(contents))
    if not stream:
        return
    at = data.draw(st.integers(0, len(stream) - 1))
    stream[at] ^= 1
    checker = PieceChecker(meta)
    feed(checker, 0, 0, 0, memoryview(stream), whole_file=True)
    finish(checker)
    assert [piece.number for piece in checker.bad] == [at // meta.piece_length]


def test_a_tree_is_filled_up_with_hashes_of_nothing() -> None:
    a, b, c = (sha256(bytes([n])).digest() for n in range(3))
    right = sha256(c + bytes(32)).digest()
    expected = sha256(sha256(a + b).digest() + right).digest()
    assert merkle_root([a, b, c], width=4) == expected
    nothing = sha256(bytes(64)).digest()
    assert zero_hash(1) == nothing
    assert merkle_root([a], width=2, level=1) == sha256(a + nothing).digest()


@pytest.mark.parametrize("piece_length", [LEAF_BYTES, 4 * LEAF_BYTES])
@pytest.mark.parametrize(
    "size", [1, LEAF_BYTES - 1, LEAF_BYTES, LEAF_BYTES + 1, 4 * LEAF_BYTES, 150_000, 999_999]
)
def test_version_2_hashes_of_a_file_are_those_that_libtorrent_made(
    tmp_path: Path, size: int, piece_length: int
) -> None:
    write_files(tmp_path, {"f": size})
    made = make_torrent(tmp_path, "f", version=Version.V2, piece_length=piece_length)
    meta = parse(made.data)
    content = (tmp_path / "f").read_bytes()
    ours = []
    for begin in range(0, size, piece_length):
        piece = content[begin : begin + piece_length]
        leaves = [
            sha256(piece[i : i + LEAF_BYTES]).digest() for i in range(0, len(piece), LEAF_BYTES)
        ]
        ours.append(v2_piece_hash(leaves, piece_length=piece_length, file_bytes=size))
    assert tuple(ours) == meta.files[0].v2_hashes


@given(
    st.lists(st.integers(1, 70_000), min_size=1, max_size=4),
    st.integers(1, 50_000),
)
def test_version_2_checks_pass_however_the_bytes_are_cut(sizes: list[int], step: int) -> None:
    contents = [bytes([n % 251]) * size for n, size in enumerate(sizes)]
    length = 2 * LEAF_BYTES
    files = []
    for n, content in enumerate(contents):
        hashes = []
        for begin in range(0, len(content), length):
            piece = content[begin : begin + length]
            leaves = [
                sha256(piece[i : i + LEAF_BYTES]).digest() for i in range(0, len(piece), LEAF_BYTES)
            ]
            hashes.append(v2_piece_hash(leaves, piece_length=length, file_bytes=len(content)))
        files.append(
            MetaFile(
                path=(f"f{n}",),
                size_bytes=len(content),
                offset_bytes=sum(sizes[:n]),
                index=n,
                pieces_root=hashes[0],
                layer=tuple(hashes) if len(hashes) > 1 else None,
            )
        )
    meta = Metainfo(
        name="t",
        piece_length=length,
        files=tuple(files),
        v1_hashes=None,
        infohash_v1=None,
        infohash_v2="0" * 64,
    )
    for spoiled in (False, True):
        checker = PieceChecker(meta)
        for position, content in enumerate(contents):
            data = bytearray(content)
            if spoiled:
                data[-1] ^= 1
            for at in range(0, len(data), step):
                feed(checker, position, at, 0, memoryview(data)[at : at + step], whole_file=True)
        found = [(piece.position, piece.number) for piece in checker.bad]
        last = [(p, (len(c) - 1) // length) for p, c in enumerate(contents)]
        assert found == (last if spoiled else [])
