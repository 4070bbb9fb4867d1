"""The .torrent reader, against libtorrent's word and against hostile input."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from hashlib import sha1, sha256
from pathlib import Path
from typing import Any

import pytest
from bencode2 import bdecode, bencode
from hypothesis import given
from hypothesis import strategies as st

from qbm_trio.adapters.metainfo import parse
from qbm_trio.core.errors import BadMetainfo
from qbm_trio.core.pieces import MetaFile, Metainfo
from tests.rig.torrents import Version, make_torrent, write_files

SIZES = {"a.bin": 100_000, "sub/b.bin": 5, "empty": 0, "sub/c.bin": 16384, "z": 70_001}


def content_files(meta: Metainfo) -> list[MetaFile]:
    return [file for file in meta.files if not file.pad]


@pytest.mark.parametrize("version", Version)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("piece_length", [16384, 1 << 20])
def test_hashes_and_files_are_those_that_libtorrent_sees(
    tmp_path: Path, version: Version, padded: bool, piece_length: int
) -> None:
    write_files(tmp_path / "t", SIZES)
    made = make_torrent(
        tmp_path, "t", list(SIZES), version=version, padded=padded, piece_length=piece_length
    )
    meta = parse(made.data)
    assert meta.infohash_v1 == made.infohash_v1
    assert meta.infohash_v2 == made.infohash_v2
    assert meta.torrent_id == (made.infohash_v2 or made.infohash_v1 or "")[:40]
    ours = [("/".join(f.path), f.size_bytes) for f in content_files(meta)]
    assert ours == [(path, size) for path, size, pad in made.files if not pad]
    assert [f.index for f in content_files(meta)] == list(range(len(SIZES)))
    if padded and version is Version.V1 and piece_length == 16384:
        assert any(f.pad for f in meta.files)


@pytest.mark.parametrize("version", Version)
@pytest.mark.parametrize("inside", [False, True])
def test_a_single_file_has_a_folder_only_when_its_torrent_has(
    tmp_path: Path, version: Version, inside: bool
) -> None:
    if inside:
        write_files(tmp_path / "t", {"f.bin": 20_000})
        made = make_torrent(tmp_path, "t", ["f.bin"], version=version)
    else:
        write_files(tmp_path, {"t": 20_000})
        made = make_torrent(tmp_path, "t", version=version)
    meta = parse(made.data)
    assert ["/".join(f.path) for f in content_files(meta)] == [
        path for path, _, pad in made.files if not pad
    ]
    assert meta.torrent_id == (made.infohash_v2 or made.infohash_v1 or "")[:40]


def test_unicode_and_long_names_are_kept_since_they_name_no_file_of_ours() -> None:
    # qBittorrent makes usable ones of what no file system takes; its list has them.
    names = ["ü" * 127, "x" * 300, "日本語😀.mkv", 'q"\\\n$(x)']
    meta = parse(torrent(files=[entry([n.encode()], 1) for n in names], pieces=bytes(20)))
    assert [f.path for f in meta.files] == [("t", n) for n in names]


# -- hand-made ones ------------------------------------------------------------


def entry(path: list[bytes], length: object, **more: object) -> dict[str, object]:
    return {"path": path, "length": length, **more}


def torrent(**info: object) -> bytes:
    """A version 1 torrent with these fields changed; None leaves one out."""
    whole: dict[str, object] = {"name": "t", "piece length": 16384, "pieces": bytes(20)} | info
    return bencode({"info": {k.replace("_", " "): v for k, v in whole.items() if v is not None}})


def test_the_hash_is_of_the_bytes_as_they_stand() -> None:
    data = torrent(length=5, private=1, x_unknown=[1, {"a": b"\xff"}])
    raw = bencode(bdecode(data)[b"info"])
    assert parse(data).infohash_v1 == sha1(raw).hexdigest()


def test_keys_in_any_order_mean_the_same_and_the_hash_is_of_the_bytes_as_they_stand() -> None:
    files, name = b"5:filesld4:pathl1:ae6:lengthi5eee", b"4:name1:t"
    length, pieces = b"12:piece lengthi16384e", b"6:pieces20:" + bytes(20)
    in_order = parse(b"d4:infod" + files + name + length + pieces + b"ee")
    for fields in ((pieces, name, length, files), (length, files, pieces, name)):
        info = b"d" + b"".join(fields) + b"e"
        meta = parse(b"d1:z0:4:info" + info + b"1:a0:e")
        assert (meta.files, meta.v1_hashes) == (in_order.files, in_order.v1_hashes)
        assert meta.infohash_v1 == sha1(info).hexdigest() != in_order.infohash_v1


def test_padding_is_known_without_a_name_and_counts_no_index() -> None:
    files = [
        entry([b"a"], 10),
        {"attr": "p", "length": 16374},
        entry([b"b"], 1, attr=b"x"),
        entry([b".pad", b"5"], 5, attr=b"p"),
        entry([b".pad", b"5"], 5, attr=b"p"),
    ]
    meta = parse(torrent(files=files, pieces=bytes(40)))
    assert [f.index for f in meta.files] == [0, None, 1, None, None]
    assert meta.stream_bytes == 16395


@pytest.mark.parametrize(
    "name",
    [b"..", b"/etc", b"a/../b", b"/", b"", b"nul\0"],
    ids=["dotdot", "absolute", "dotdot inside", "root", "empty", "nul"],
)
@pytest.mark.parametrize("place", ["name", "file", "folder", "v2 file", "v2 name"])
def test_a_name_that_is_meant_to_lead_out_is_refused(name: bytes, place: str) -> None:
    data = {
        "name": lambda: torrent(name=name, length=1),
        "file": lambda: torrent(files=[entry([b"ok", name], 1)]),
        "folder": lambda: torrent(files=[entry([name, b"ok"], 1)]),
        "v2 file": lambda: v2({name: small()}),
        "v2 name": lambda: v2({b"f": small()}, name=name),
    }[place]()
    with pytest.raises(BadMetainfo, match=r"name|file and a folder|file tree"):
        parse(data)


@pytest.mark.parametrize("name", [b"AC/DC", b".", b"...", b"\xff"], ids=str)
def test_a_name_of_which_qbittorrent_makes_another_is_no_reason_to_refuse(name: bytes) -> None:
    files = [entry([b"ok", name], 2), entry([name, b"ok"], 3), entry([name], 4)]
    metas = [
        parse(torrent(name=name, length=1)),
        parse(torrent(name=name, files=files)),
        parse(v2({name: small(5)}, name=name)),
    ]
    assert [f.size_bytes for meta in metas for f in meta.files] == [1, 2, 3, 4, 5]


def test_files_of_one_name_are_told_apart_by_their_place() -> None:
    # Their user may have renamed one; if not, `plan_files` refuses qBittorrent's list.
    files = [entry([b"a"], 1), entry([b"a"], 2), entry([b"a", b"b"], 3)]
    assert [(f.index, f.size_bytes) for f in parse(torrent(files=files)).files] == [
        (0, 1),
        (1, 2),
        (2, 3),
    ]


def small(length: object = 1, root: object = bytes(32)) -> dict[bytes, object]:
    return {b"": {b"length": length, b"pieces root": root}}


def v2(tree: object, layers: object = None, **info: object) -> bytes:
    whole: dict[str, object] = {
        "name": "t",
        "piece length": 16384,
        "meta version": 2,
        "file tree": tree,
    } | info
    return bencode({"info": whole, "piece layers": {} if layers is None else layers})


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "not a bencoded"),
        (b"le", "not a bencoded"),
        (b"d", "cut short"),
        (b"d4:infod", "cut short"),
        (b"d4:info99999:xe", "cut short"),
        (b"d4:info" + b"l" * 30000 + b"e" * 30000 + b"e", "nested deeper"),
        (b"de", "no info"),
        (torrent(length=1) + b"x", "follows its end"),
        (b"d4:info0:4:info0:e", "twice"),
        (b"d4:info3:abce", "not a dictionary"),
        (bencode({"info": {}, "piece layers": 5}), "not a dictionary"),
        (torrent(length=1, piece_length=0), "out of range"),
        (torrent(length=1, piece_length=-5), "out of range"),
        (torrent(length=1, piece_length=1 << 40), "out of range"),
        (torrent(length=1, piece_length=b"x"), "not a number"),
        (torrent(length=-1), "out of range"),
        (torrent(length=1 << 60), "out of range"),
        (torrent(length=None), "not a number"),
        (torrent(length=b"1"), "not a number"),
        (torrent(length=1, pieces=bytes(19)), "multiple of 20"),
        (torrent(length=1, pieces=5), "multiple of 20"),
        (torrent(length=1, pieces=bytes(40)), "2 piece hashes, but its files need 1"),
        (torrent(length=16385), "1 piece hashes, but its files need 2"),
        (torrent(length=1, pieces=None), "no piece hashes"),
        (torrent(length=1, name=7), "not a string"),
        (torrent(length=1, meta_version=3), "meta version"),
        (torrent(length=1, files=[]), "list of files"),
        (torrent(files={}), "list of files"),
        (torrent(files=[b"x"]), "list of files"),
        (torrent(files=[], pieces=b""), "no file"),
        (torrent(files=[{"length": 1}]), "no name"),
        (torrent(files=[entry([], 1)]), "no name"),
        (torrent(files=[entry([b"a"], 1, attr=5)]), "attributes"),
        (torrent(files=[entry([b"a"], 0, attr=b"l")]), "symbolic link"),
        (v2({}), "no file tree"),
        (v2([]), "no file tree"),
        (v2({b"f": 1}), "file tree is damaged"),
        (v2({b"f": {b"": {b"length": 1}, b"g": small()}}), "file and a folder"),
        (v2({b"f": small(root=b"short")}), "pieces root"),
        (v2({b"f": small(length=-1)}), "out of range"),
        (v2({b"f": small(length=16385)}), "layer of 'f' is missing"),
        (v2({b"f": small(length=16385)}, {bytes(32): bytes(32)}), "wrong size"),
        (v2({b"f": small(length=16385)}, {bytes(32): bytes(64)}), "does not lead"),
        (v2({b"f": small()}, **{"piece length": 20000}), "not one of version 2"),
        (v2({b"f": small()}, **{"piece length": 8192}), "not one of version 2"),
        (v2({b"f": small()}, length=2, pieces=bytes(20)), "lists differ"),
        (
            v2({b"f": small(), b"g": small()}, pieces=bytes(20), files=[entry([b"f"], 1)]),
            "lists differ",
        ),
    ],
)
def test_what_is_wrong_is_said(data: bytes, sentence: str) -> None:
    with pytest.raises(BadMetainfo, match=sentence):
        parse(data)


def test_folders_nested_without_end_are_refused() -> None:
    tree: Any = small()
    for _ in range(200):
        tree = {b"d": tree}
    with pytest.raises(BadMetainfo, match="nested deeper"):
        parse(v2(tree))


@pytest.mark.parametrize("version", Version)
def test_a_torrent_cut_off_or_with_a_changed_byte_never_ends_in_another_error(
    tmp_path: Path, version: Version
) -> None:
    write_files(tmp_path / "t", SIZES)
    data = make_torrent(tmp_path, "t", list(SIZES), version=version).data
    for end in range(0, len(data), 7):
        with pytest.raises(BadMetainfo):
            parse(data[:end])
    for at in range(0, len(data), 3):
        spoiled = bytearray(data)
        spoiled[at] ^= 0x15
        quietly(parse, bytes(spoiled))


@given(st.binary(max_size=60))
def test_no_bytes_end_in_another_error(data: bytes) -> None:
    quietly(parse, data)
    quietly(parse, b"d4:infod" + data)


def quietly(call: Callable[[bytes], object], data: bytes) -> None:
    with suppress(BadMetainfo):
        call(data)


def test_a_changed_layer_is_found(tmp_path: Path) -> None:
    write_files(tmp_path, {"f": 200_000})
    whole = bdecode(make_torrent(tmp_path, "f", version=Version.V2).data)
    (root,) = whole[b"piece layers"]
    layer = bytearray(whole[b"piece layers"][root])
    layer[40] ^= 1
    whole[b"piece layers"][root] = bytes(layer)
    with pytest.raises(BadMetainfo, match="does not lead"):
        parse(bencode(whole))
    assert len(sha256(layer).digest()) == len(root)


def without_layers(data: bytes) -> bytes:
    """As 5.1.0 exports it after a restart."""
    whole = bdecode(data)
    del whole[b"piece layers"]
    return bencode(whole)


def test_of_a_hybrid_without_its_piece_layers_version_1_is_left(tmp_path: Path) -> None:
    write_files(tmp_path / "t", SIZES)
    made = make_torrent(tmp_path, "t", list(SIZES), version=Version.HYBRID)
    whole, without = parse(made.data), parse(without_layers(made.data))
    assert (without.v1_hashes, without.torrent_id) == (whole.v1_hashes, whole.torrent_id)
    assert [(f.path, f.size_bytes, f.offset_bytes, f.index) for f in without.files] == [
        (f.path, f.size_bytes, f.offset_bytes, f.index) for f in whole.files
    ]
    for file, before in zip(without.files, whole.files, strict=True):
        assert file.v2_hashes == (before.v2_hashes if before.layer is None else ())
    assert any(file.layer for file in whole.files)
    version_2 = make_torrent(tmp_path, "t", list(SIZES), version=Version.V2)
    with pytest.raises(BadMetainfo, match="is missing"):  # there nothing is left
        parse(without_layers(version_2.data))
