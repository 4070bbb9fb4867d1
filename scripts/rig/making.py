"""Make a file or a folder of random bytes, and the .torrent that describes it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path

import bencode2

PIECE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One torrent to be made: a single file, or a folder where names hold a ``/``."""

    name: str
    category: str
    sizes: Mapping[str, int]  #: bytes by path below the save path

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.sizes.values())


def make(sample: Sample, folder: Path) -> tuple[bytes, str]:
    """Write the files below ``folder``; return the .torrent (version 1) and its info-hash."""
    for name, size in sample.sizes.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
    paths = [folder / name for name in sample.sizes]
    info: dict[bytes, object] = {
        b"name": sample.name.encode(),
        b"piece length": PIECE_BYTES,
        b"pieces": b"".join(sha1(p, usedforsecurity=False).digest() for p in _pieces(paths)),
    }
    if list(sample.sizes) == [sample.name]:
        info[b"length"] = sample.total_bytes
    else:
        info[b"files"] = [
            {b"length": size, b"path": [part.encode() for part in name.split("/")[1:]]}
            for name, size in sample.sizes.items()
        ]
    info_hash = sha1(bencode2.bencode(info), usedforsecurity=False).hexdigest()
    return bencode2.bencode({b"info": info}), info_hash


def _pieces(paths: list[Path]) -> Iterator[bytes]:
    """Pieces run across file borders."""
    rest = b""
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(PIECE_BYTES - len(rest)):
                rest += chunk
                if len(rest) == PIECE_BYTES:
                    yield rest
                    rest = b""
    if rest:
        yield rest
