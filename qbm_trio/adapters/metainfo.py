"""Read a .torrent as qBittorrent exports it, trusting nothing in it.

The info-hash is taken over the info dictionary's bytes as they stand, never over
a re-encoding: then it equals the torrent's own, or the file is not this torrent's.

No file is ever called as it says: I/O uses qBittorrent's list, which has the renames and
usable names for what no file system takes. Refused are names that are meant to lead out.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha1, sha256
from typing import Any

from ..core.errors import BadMetainfo
from ..core.pieces import LEAF_BYTES, MetaFile, Metainfo, layer_root
from .bencode import NotBencoded, decode

_MAX_FILE_BYTES = (1 << 48) - 1  # libtorrent's own limit (file_storage.hpp)
_MAX_PIECE_LENGTH = 0x7FFF * LEAF_BYTES  # libtorrent's own limit (torrent_info.cpp)


def parse(data: bytes) -> Metainfo:
    """Read a version 1, version 2 or hybrid .torrent.

    Raises:
        BadMetainfo: it cannot be used; the sentence says what is wrong with it.
    """
    try:
        whole, spans = decode(data)
    except NotBencoded as error:
        raise _bad(str(error)) from error
    if b"info" not in whole:
        raise _bad("it has no info dictionary")
    raw_info = data[slice(*spans[b"info"])]
    info, layers = whole[b"info"], whole.get(b"piece layers", {})
    if not isinstance(info, dict) or not isinstance(layers, dict):
        raise _bad("its info or its piece layers are not a dictionary")
    return _build(info, layers, raw_info)


def _build(info: dict[bytes, Any], layers: dict[bytes, Any], raw_info: bytes) -> Metainfo:
    piece_length = _integer(info, b"piece length", "its piece length")
    if not 0 < piece_length <= _MAX_PIECE_LENGTH:
        raise _bad(f"its piece length of {piece_length} bytes is out of range")
    version = info.get(b"meta version", 1)
    if version not in (1, 2):
        raise _bad(f"its meta version is {version!r}; 1 and 2 are known")
    name = _name(info)
    v1 = b"pieces" in info
    if not v1 and version == 1:
        raise _bad("it has no piece hashes")
    files: tuple[MetaFile, ...] = ()
    if v1:
        files = tuple(_v1_files(info, name))
    if version == 2:
        if piece_length < LEAF_BYTES or piece_length & (piece_length - 1):
            raise _bad(f"its piece length of {piece_length} bytes is not one of version 2")
        tree = tuple(_v2_files(info, name, layers, piece_length, hybrid=v1))
        files = _joined(files, tree) if v1 else tree
    if not any(not f.pad for f in files):
        raise _bad("it holds no file")
    metainfo = Metainfo(
        name=name,
        piece_length=piece_length,
        files=files,
        v1_hashes=_v1_hashes(info) if v1 else None,
        infohash_v1=sha1(raw_info, usedforsecurity=False).hexdigest() if v1 else None,
        infohash_v2=sha256(raw_info).hexdigest() if version == 2 else None,
    )
    expected = -(-metainfo.stream_bytes // piece_length)
    if v1 and metainfo.v1_piece_count != expected:
        raise _bad(f"it has {metainfo.v1_piece_count} piece hashes, but its files need {expected}")
    return metainfo


def _v1_hashes(info: dict[bytes, Any]) -> bytes:
    pieces = info[b"pieces"]
    if not isinstance(pieces, bytes) or len(pieces) % 20:
        raise _bad("its piece hashes are not a multiple of 20 bytes")
    return pieces


def _v1_files(info: dict[bytes, Any], name: str) -> Iterator[MetaFile]:
    if b"files" not in info:
        size = _length(info, name)
        yield MetaFile(path=(name,), size_bytes=size, offset_bytes=0, index=0)
        return
    if b"length" in info or not isinstance(info[b"files"], list):
        raise _bad("its list of files is damaged")
    offset = index = 0
    for entry in info[b"files"]:
        if not isinstance(entry, dict):
            raise _bad("its list of files is damaged")
        parts = entry.get(b"path.utf-8", entry.get(b"path"))
        attributes = entry.get(b"attr", b"")
        if not isinstance(attributes, bytes):
            raise _bad("a file's attributes are not a string")
        pad = b"p" in attributes
        if not isinstance(parts, list) or not parts:
            # Padding needs no name (BEP 47 leaves it to the maker).
            if not pad:
                raise _bad("a file has no name")
            parts = [b".pad"]
        path = (name, *(_component(part) for part in parts))
        _refuse_symlink(attributes, path)
        size = _length(entry, "/".join(path))
        yield MetaFile(
            path=path, size_bytes=size, offset_bytes=offset, index=None if pad else index
        )
        offset += size
        index += not pad


def _v2_files(
    info: dict[bytes, Any],
    name: str,
    layers: dict[bytes, Any],
    piece_length: int,
    *,
    hybrid: bool,
) -> Iterator[MetaFile]:
    tree = info.get(b"file tree")
    if not isinstance(tree, dict) or not tree:
        raise _bad("it has no file tree")
    entries = list(_walk(tree, ()))
    # One file at the root has no folder, whatever the torrent's name, says libtorrent
    # (extract_files2), unless a hybrid's version 1 part says otherwise.
    single = len(entries) == 1 and len(entries[0][0]) == 1 and b"files" not in info
    offset = 0
    for index, (parts, entry) in enumerate(entries):
        path = parts if single else (name, *parts)
        shown = "/".join(path)
        attributes = entry.get(b"attr", b"")
        if not isinstance(attributes, bytes):
            raise _bad("a file's attributes are not a string")
        _refuse_symlink(attributes, path)
        size = _length(entry, shown)
        root = entry.get(b"pieces root")
        if size == 0:
            root = None
        elif not isinstance(root, bytes) or len(root) != 32:
            raise _bad(f"{shown!r} has no valid pieces root")
        if hybrid and root is not None and size > piece_length and root not in layers:
            # So 5.1.0 exports a hybrid from its next start to its next recheck. Version 1's
            # hashes prove every byte by themselves.
            root = None
        yield MetaFile(
            path=path,
            size_bytes=size,
            offset_bytes=offset,
            index=index,
            pieces_root=root,
            layer=_layer(layers, root, size, piece_length, shown),
        )
        offset += size


def _walk(
    tree: dict[bytes, Any], above: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], dict[bytes, Any]]]:
    for key, value in tree.items():
        if not isinstance(value, dict):
            raise _bad("its file tree is damaged")
        parts = (*above, _component(key))
        if b"" not in value:
            yield from _walk(value, parts)
        elif len(value) == 1 and isinstance(value[b""], dict):
            yield parts, value[b""]
        else:
            raise _bad(f"{'/'.join(parts)!r} is both a file and a folder")


def _layer(
    layers: dict[bytes, Any], root: bytes | None, size: int, piece_length: int, shown: str
) -> tuple[bytes, ...] | None:
    if root is None or size <= piece_length:
        return None
    raw = layers.get(root)
    if raw is None:
        raise _bad(f"the piece layer of {shown!r} is missing")
    count = -(-size // piece_length)
    if not isinstance(raw, bytes) or len(raw) != count * 32:
        raise _bad(f"the piece layer of {shown!r} has the wrong size")
    layer = tuple(raw[i : i + 32] for i in range(0, len(raw), 32))
    if layer_root(layer, piece_length=piece_length) != root:
        raise _bad(f"the piece layer of {shown!r} does not lead to its pieces root")
    return layer


def _joined(v1: tuple[MetaFile, ...], v2: tuple[MetaFile, ...]) -> tuple[MetaFile, ...]:
    """The version 1 list with version 2's hashes; both must describe the same files."""
    joined = []
    rest = iter(v2)
    for file in v1:
        if file.pad:
            joined.append(file)
            continue
        twin = next(rest, None)
        if twin is None or (twin.path, twin.size_bytes) != (file.path, file.size_bytes):
            raise _bad("its version 1 and version 2 file lists differ")
        joined.append(
            MetaFile(
                path=file.path,
                size_bytes=file.size_bytes,
                offset_bytes=file.offset_bytes,
                index=file.index,
                pieces_root=twin.pieces_root,
                layer=twin.layer,
            )
        )
    if next(rest, None) is not None:
        raise _bad("its version 1 and version 2 file lists differ")
    return tuple(joined)


def _refuse_symlink(attributes: bytes, path: tuple[str, ...]) -> None:
    if b"l" in attributes:
        raise _bad(f"{'/'.join(path)!r} is a symbolic link, which is not supported")


def _name(info: dict[bytes, Any]) -> str:
    return _component(info.get(b"name.utf-8", info.get(b"name")))


def _component(raw: object) -> str:
    """One file or folder name, for messages and to compare both versions of a hybrid."""
    if not isinstance(raw, bytes):
        raise _bad("a name is not a string")
    name = raw.decode("utf-8", "backslashreplace")
    if not raw:
        raise _bad("a name in it is empty")
    if raw.startswith(b"/") or b".." in raw.split(b"/") or b"\0" in raw:
        raise _bad(f"the name {name!r} would lead out of its folder")
    return name


def _length(entry: dict[bytes, Any], shown: str) -> int:
    size = _integer(entry, b"length", f"the length of {shown!r}")
    if not 0 <= size <= _MAX_FILE_BYTES:
        raise _bad(f"the length of {shown!r}, {size}, is out of range")
    return size


def _integer(entry: dict[bytes, Any], key: bytes, shown: str) -> int:
    value = entry.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _bad(f"{shown} is missing or not a number")
    return value


def _bad(what: str) -> BadMetainfo:
    return BadMetainfo(f"the exported .torrent cannot be used: {what}")
