"""Test data, and .torrents of all versions for it, made without a torrent library."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha1, sha256
from pathlib import Path
from typing import Any

import bencode2

from qbm_trio.core.pieces import LEAF_BYTES, layer_root, v2_piece_hash

MIB = 2**20
VERSIONS = ("v1", "v2", "hybrid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """One file or folder of random bytes on the SSD."""

    root: Path
    paths: tuple[Path, ...]  #: its files, in torrent order
    torrents: dict[str, bytes]  #: .torrent by version

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.paths)


def one_file(
    folder: Path, size_bytes: int, *, piece_bytes: int, name: str = "one large file.bin"
) -> Content:
    """A single large file."""
    root = folder / name
    with root.open("wb") as file:
        for _ in range(size_bytes // MIB):
            file.write(os.urandom(MIB))
        os.fsync(file.fileno())
    return _described(root, (root,), piece_bytes)


def many_files(folder: Path, count: int, size_bytes: int, *, piece_bytes: int) -> Content:
    """A folder of small files, 200 to a sub-folder."""
    root = folder / "many small files"
    paths = tuple(root / f"{n // 200:02}" / f"{n:05}.bin" for n in range(count))
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size_bytes))
    os.sync()
    return _described(root, paths, piece_bytes)


def renamed(torrent: bytes, name: str) -> bytes:
    """The same content under another name: another torrent."""
    document: Any = bencode2.bdecode(torrent)
    document[b"info"][b"name"] = name.encode()
    return bencode2.bencode(document)


def info_hash_v1(torrent: bytes) -> str:
    """The info-hash of a version 1 torrent."""
    document: Any = bencode2.bdecode(torrent)
    return sha1(bencode2.bencode(document[b"info"]), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    path: tuple[bytes, ...]  #: below the torrent's folder; empty for a single file
    size_bytes: int
    root: bytes
    layer: tuple[bytes, ...]  #: empty for a file of one piece


def _described(root: Path, paths: Sequence[Path], piece_bytes: int) -> Content:
    files, plain, padded = [], _Pieces(piece_bytes), _Pieces(piece_bytes)
    for path in paths:
        padded.align()
        pieces: list[bytes] = []
        with path.open("rb") as file:
            while data := file.read(piece_bytes):
                plain.add(data)
                padded.add(data)
                leaves = [
                    sha256(data[i : i + LEAF_BYTES]).digest()
                    for i in range(0, len(data), LEAF_BYTES)
                ]
                size = path.stat().st_size
                pieces.append(v2_piece_hash(leaves, piece_length=piece_bytes, file_bytes=size))
        layer = tuple(pieces) if len(pieces) > 1 else ()
        files.append(
            _File(
                path=tuple(os.fsencode(part) for part in path.relative_to(root).parts),
                size_bytes=path.stat().st_size,
                root=layer_root(layer, piece_length=piece_bytes) if layer else pieces[0],
                layer=layer,
            )
        )
    base = {b"name": os.fsencode(root.name), b"piece length": piece_bytes}
    v1 = {b"pieces": plain.end(), **_v1_files(files, None)}
    v2 = {b"meta version": 2, b"file tree": _tree(files, os.fsencode(root.name))}
    hybrid = {**v2, b"pieces": padded.end(), **_v1_files(files, piece_bytes)}
    layers = {b"piece layers": {f.root: b"".join(f.layer) for f in files if f.layer}}
    return Content(
        root=root,
        paths=tuple(paths),
        torrents={
            "v1": bencode2.bencode({b"info": {**base, **v1}}),
            "v2": bencode2.bencode({b"info": {**base, **v2}, **layers}),
            "hybrid": bencode2.bencode({b"info": {**base, **hybrid}, **layers}),
        },
    )


class _Pieces:
    """SHA-1 of the pieces of a stream."""

    def __init__(self, piece_bytes: int) -> None:
        self._piece_bytes = piece_bytes
        self._rest = bytearray()
        self._hashes: list[bytes] = []

    def add(self, data: bytes) -> None:
        self._rest += data
        while len(self._rest) >= self._piece_bytes:
            self._cut()

    def align(self) -> None:
        if self._rest:
            self._rest += bytes(self._piece_bytes - len(self._rest))
            self._cut()

    def end(self) -> bytes:
        if self._rest:
            self._cut()
        return b"".join(self._hashes)

    def _cut(self) -> None:
        piece = self._rest[: self._piece_bytes]
        self._hashes.append(sha1(piece, usedforsecurity=False).digest())
        del self._rest[: self._piece_bytes]


def _v1_files(files: Sequence[_File], align_bytes: int | None) -> dict[bytes, object]:
    if files[0].path == ():
        return {b"length": files[0].size_bytes}
    listed: list[dict[bytes, object]] = []
    for n, file in enumerate(files):
        listed.append({b"length": file.size_bytes, b"path": list(file.path)})
        padding = -file.size_bytes % align_bytes if align_bytes else 0
        if padding and n + 1 < len(files):
            path = [b".pad", str(padding).encode()]
            listed.append({b"attr": b"p", b"length": padding, b"path": path})
    return {b"files": listed}


def _tree(files: Sequence[_File], name: bytes) -> dict[bytes, Any]:
    tree: dict[bytes, Any] = {}
    for file in files:
        node = tree
        for part in file.path or (name,):
            node = node.setdefault(part, {})
        node[b""] = {b"length": file.size_bytes, b"pieces root": file.root}
    return tree
