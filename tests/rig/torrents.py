"""Make torrents with libtorrent: an independent truth for what we parse and hash.

Standard library and libtorrent only, no pytest: the demo and the bench may use it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import libtorrent as lt

_AT_ONCE_BYTES = 64 * 1024 * 1024


class Version(Enum):
    """Which hashes a torrent carries."""

    V1 = "v1"
    V2 = "v2"
    HYBRID = "hybrid"


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeTorrent:
    """A .torrent and what libtorrent says of it."""

    data: bytes  #: the .torrent
    infohash_v1: str | None
    infohash_v2: str | None
    files: tuple[tuple[str, int, bool], ...]  #: path, bytes, whether padding; in torrent order
    paths: tuple[Path, ...]  #: the real files in qBittorrent's order, padding left out


def write_files(folder: Path, sizes: Mapping[str, int], *, seed: int = 0) -> None:
    """Make files of random bytes below ``folder``."""
    source = random.Random(seed)
    for name, size in sizes.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for done in range(0, size, _AT_ONCE_BYTES):  # `random` makes 256 MiB at most
                file.write(source.randbytes(min(size - done, _AT_ONCE_BYTES)))


def make_torrent(
    parent: Path,
    name: str,
    files: Sequence[str] | None = None,
    *,
    version: Version = Version.V1,
    piece_length: int = 16 * 1024,
    padded: bool = False,
    trackers: Sequence[str] = (),
) -> MadeTorrent:
    """Hash ``parent / name`` and describe it.

    Args:
        parent: the folder that holds the torrent's file or folder.
        name: the torrent's name.
        files: names below ``parent / name`` in torrent order; None for a single file.
        version: which hashes.
        piece_length: a power of two from 16 KiB.
        padded: put padding between the files of a version 1 torrent. The others have
            it anyway.
        trackers: their addresses.
    """
    names = [name] if files is None else [f"{name}/{file}" for file in files]
    entries = [lt.create_file_entry(n, (parent / n).stat().st_size) for n in names]
    flags = {
        Version.V1: lt.create_torrent.v1_only,
        Version.V2: lt.create_torrent.v2_only,
        Version.HYBRID: 0,
    }[version]
    if version is Version.V1 and padded:
        flags |= lt.create_torrent.canonical_files
    maker = lt.create_torrent(entries, piece_size=piece_length, flags=flags)
    for tracker in trackers:
        maker.add_tracker(tracker)
    lt.set_piece_hashes(maker, os.fspath(parent))
    data: bytes = lt.bencode(maker.generate())
    info = lt.torrent_info(data)
    hashes, listed = info.info_hashes(), info.layout()
    described = tuple(
        (
            listed.file_path(i),
            listed.file_size(i),
            bool(listed.file_flags(i) & lt.file_storage.flag_pad_file),
        )
        for i in range(listed.num_files())
    )
    return MadeTorrent(
        data=data,
        infohash_v1=str(hashes.v1) if hashes.has_v1() else None,
        infohash_v2=str(hashes.v2) if hashes.has_v2() else None,
        files=described,
        paths=tuple(parent / path for path, _, pad in described if not pad),
    )
