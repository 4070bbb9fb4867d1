"""What a qBittorrent in memory does with real files: judge, move and rename them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from hashlib import sha1, sha256
from pathlib import Path, PurePosixPath

import libtorrent as lt

BLOCK = 0x4000
MARK = ".!qB"  #: appended to the names of incomplete files


def good_bytes(metainfo: bytes, paths: Sequence[Path]) -> list[int]:
    """Count the bytes of each file that lie in pieces which are right.

    ``paths`` are the files without padding, in order; any may be missing. For v2-only
    torrents a file is right as a whole or not at all.
    """
    info = lt.torrent_info(metainfo)
    layout = info.layout()
    real = [
        n
        for n in range(layout.num_files())
        if not layout.file_flags(n) & lt.file_storage.flag_pad_file
    ]
    data = {
        n: path.read_bytes() if path.is_file() else None
        for n, path in zip(real, paths, strict=True)
    }
    good = dict.fromkeys(real, 0)
    if not info.info_hashes().has_v1():
        for n in real:
            content = data[n]
            if content is not None and len(content) == layout.file_size(n):
                root = merkle_root(content)
                good[n] = len(content) if root == layout.root(n).to_bytes() else 0
        return list(good.values())
    for piece in range(info.num_pieces()):
        slices = info.map_block(piece, 0, info.piece_size(piece))
        read = b""
        for part in slices:
            # Padding is nobody's file: zeros.
            content = data.get(part.file_index, bytes(part.offset + part.size))
            read += (content or b"")[part.offset : part.offset + part.size]
        if sha1(read).digest() == info.hash_for_piece(piece):
            for part in slices:
                if part.file_index in good:
                    good[part.file_index] += part.size
    return list(good.values())


def merkle_root(content: bytes) -> bytes:
    """Give the root of a v2 file (BEP 52)."""
    layer = [sha256(content[at : at + BLOCK]).digest() for at in range(0, len(content), BLOCK)]
    while len(layer) & (len(layer) - 1):
        layer.append(bytes(32))
    while len(layer) > 1:
        layer = [sha256(a + b).digest() for a, b in zip(layer[::2], layer[1::2], strict=True)]
    return layer[0] if layer else bytes(32)


def move(pairs: Sequence[tuple[Path, Path]], *, replace: bool) -> bool:
    """Move files as libtorrent does; tell whether any existed at its destination.

    Without ``replace`` such a one is kept, and its source too. Absent sources are left out.
    """
    kept = False
    for source, destination in pairs:
        if destination.exists() and not replace:
            kept = True
        elif source.exists():
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(source, destination)
    return kept


def rename(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Rename files as libtorrent does: replace what stands there, leave out absent ones."""
    for old, new in pairs:
        if old != new and old.exists():
            old.replace(new)


def take_whole(paths: Sequence[Path]) -> None:
    """Give the marked name to files that stand beside it without the mark.

    So does qBittorrent ahead of a move or a check. The marked one that was there is
    gone then, whichever of the two was good.
    """
    for path in paths:
        plain = path.with_name(path.name.removesuffix(MARK))
        if plain != path and plain.exists():
            plain.replace(path)


def listing(folder: Path) -> Iterator[str]:
    """Give the names in a folder as 5.1.0 does: not the hidden ones, none after one in bytes."""
    if folder.is_dir():
        for path in folder.iterdir():
            if not path.name.isprintable() and "\udc80" <= max(path.name) <= "\udcff":
                return
            if not path.name.startswith("."):
                yield path.name


def content_path(save_path: PurePosixPath, paths: Sequence[PurePosixPath]) -> PurePosixPath:
    """Say where a torrent with these files lies: seen on 4.5.2, 5.1.0 and 5.3.0."""
    if len(paths) == 1:
        return save_path / paths[0]
    roots = {path.parts[0] for path in paths}
    if len(roots) == 1 and all(len(path.parts) > 1 for path in paths):
        return save_path / roots.pop()
    return save_path
