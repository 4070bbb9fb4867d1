"""The .torrent reader, against libtorrent's word and against hostile input."""

from __future__ import annotations

from pathlib import Path

import pytest

from qbm_trio.adapters.metainfo import parse
from tests.rig.torrents import Version, make_torrent, write_files

SIZES = {"a.bin": 100_000, "sub/b.bin": 5, "empty": 0, "sub/c.bin": 16384, "z": 70_001}


@pytest.mark.parametrize("version", Version)
@pytest.mark.parametrize("padded", [False, True])
def test_hashes_and_files_are_those_that_libtorrent_sees(
    tmp_path: Path, version: Version, padded: bool
) -> None:
    write_files(tmp_path / "t", SIZES)
    made = make_torrent(tmp_path, "t", list(SIZES), version=version, padded=padded)
    meta = parse(made.data)
    assert meta.infohash_v1 == made.infohash_v1
    assert meta.infohash_v2 == made.infohash_v2
    assert meta.torrent_id == (made.infohash_v2 or made.infohash_v1 or "")[:40]
    ours = [("/".join(f.path), f.size_bytes) for f in meta.content_files]
    assert ours == [(path, size) for path, size, pad in made.files if not pad]
