"""Where a torrent's files are on the SSD, and where they go on the HDD.

Pure: strings in, relative paths out. Whatever qBittorrent, a .torrent or a
category says, a path that leaves its tier is refused here, before anything is
opened. Symlinks need the disk and are judged in ``adapters/disk_paths.py``.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath
from typing import Final

from .errors import UnsafePath
from .model import Torrent, TorrentFile, TorrentId

NAME_MAX_BYTES: Final = 255
"""Longest file name on the file systems we know (ext4, xfs, btrfs, zfs)."""


class Place(Enum):
    """On which tier a torrent's data is, by its content path."""

    SSD = "ssd"
    HDD = "hdd"
    ELSEWHERE = "elsewhere"
    UNKNOWN = "unknown"  #: no absolute path yet: without metadata, or on 4.5 right after adding


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFile:
    """One file of the torrent, with both its places, relative to the tiers."""

    index: int
    size_bytes: int
    wanted: bool
    on_ssd: PurePosixPath
    on_hdd: PurePosixPath


def map_path(path: str, mappings: Sequence[tuple[str, str]]) -> str:
    """Turn qBittorrent's path into the service's; the longest prefix wins.

    ``mappings`` are (qBittorrent's prefix, the service's prefix). A prefix
    matches whole components: ``/data`` does not match ``/database``.
    """
    best: tuple[str, str] | None = None
    for theirs, ours in mappings:
        bare = theirs.rstrip("/")
        if (path == bare or path.startswith(f"{bare}/")) and (
            best is None or len(bare) > len(best[0])
        ):
            best = (bare, ours)
    if best is None:
        return path
    rest = path[len(best[0]) :]
    return (best[1].rstrip("/") + rest) or "/"


def unmap_path(path: str, mappings: Sequence[tuple[str, str]]) -> str | None:
    """Turn the service's path into qBittorrent's; None if no mapping leads back to it."""
    candidates = [path]
    for theirs, ours in mappings:
        bare = ours.rstrip("/")
        if path == bare or path.startswith(f"{bare}/"):
            candidates.append((theirs.rstrip("/") + path[len(bare) :]) or "/")
    # What several mappings cover is decided by the one that reads it back.
    return next((p for p in reversed(candidates) if map_path(p, mappings) == path), None)


def below(path: str, root: str) -> PurePosixPath | None:
    """Return ``path`` relative to ``root``, or None if it is not below it.

    Both are taken as text, ``.`` and doubled slashes removed; a ``..`` that
    would climb out of ``root`` makes it None.
    """
    if not path.startswith("/"):
        return None
    # normpath keeps two leading slashes, as POSIX allows.
    clean = posixpath.normpath("/" + path.lstrip("/"))
    base = posixpath.normpath("/" + root.lstrip("/"))
    if clean == base:
        return PurePosixPath(".")
    if not clean.startswith(base.rstrip("/") + "/"):
        return None
    return PurePosixPath(clean[len(base.rstrip("/")) + 1 :])


def save_root(torrent: Torrent, files: Sequence[TorrentFile]) -> str:
    """Return the folder that the names in ``files`` are relative to, as qBittorrent sees it.

    Worked out from ``content_path``, since ``save_path`` can name a place the
    data never reached. The content path is the file itself (one file), the
    common root folder, or the save path (several files without one).
    """
    content = torrent.content_path.rstrip("/") or "/"
    names = [f.name for f in files]
    if len(names) == 1 and content.endswith(f"/{names[0]}"):
        return content[: -len(str(names[0])) - 1] or "/"
    tops = {n.parts[0] for n in names if n.parts}
    if len(tops) == 1 and all(len(n.parts) > 1 for n in names):
        top = next(iter(tops))
        if content.endswith(f"/{top}"):
            return content[: -len(top) - 1] or "/"
    return content


def safe_relative(name: PurePosixPath | str, *, what: str) -> PurePosixPath:
    """Check that ``name`` is a plain relative path and return it.

    Raises:
        UnsafePath: it is absolute, empty, holds ``..`` or NUL, or a component
            is longer than a file name can be.
    """
    text = str(name)
    parts = text.split("/")
    if text.startswith("/"):
        problem = "it is absolute"
    elif "\0" in text:
        problem = "it holds a NUL"
    elif not text or any(p in ("", ".", "..") for p in parts):
        problem = "it has an empty, '.' or '..' component"
    elif any(not "\udc80" <= c <= "\udcff" and "\ud800" <= c <= "\udfff" for c in text):
        problem = "it is not Unicode text"  # and no undecodable byte either
    elif any(len(p.encode("utf-8", "surrogateescape")) > NAME_MAX_BYTES for p in parts):
        problem = f"a component is longer than {NAME_MAX_BYTES} bytes"
    else:
        return PurePosixPath(text)
    raise UnsafePath(
        f"{what} {_shown(text)} cannot be used as a path: {problem}; "
        "rename it in qBittorrent, then retry the job"
    )


def destination_folder(category: str) -> PurePosixPath:
    """Return the folder below the HDD base for a category of qBittorrent's.

    ``a/b`` makes sub-folders; the empty category is the base itself.

    Raises:
        UnsafePath: the category would leave the base.
    """
    if not category:
        return PurePosixPath(".")
    folder = safe_relative(category, what="the category")
    if folder.parts[0] in RESERVED:
        raise UnsafePath(
            f"the category {_shown(category)} is a name that the service keeps for itself; "
            "rename it in qBittorrent, then retry the job"
        )
    return folder


def destination_folders(
    category: str, root_on_ssd: PurePosixPath, torrent_id: TorrentId
) -> Iterator[PurePosixPath]:
    """The folders below the HDD base that a torrent may go to, the first that is free.

    That of its category; where another torrent that has a place of its own on the SSD has the
    same names there already, one below it, called as the end of its save path: on one path, who
    removes one of them with its files removes the other's, too.

    Args:
        category: qBittorrent's.
        root_on_ssd: its save path, below the SSD's folder.
        torrent_id: names the last one, which is its own.

    Raises:
        UnsafePath: the category would leave the base.
    """
    folder = destination_folder(category)
    yield folder
    for n in range(1, len(root_on_ssd.parts) + 1):
        yield folder.joinpath(*root_on_ssd.parts[-n:])
    yield folder / torrent_id


RESERVED: Final = frozenset({".qbm-staging", ".qbm-tier"})
"""Names at the top of a tier that no torrent may use."""


def plan_files(
    files: Iterable[TorrentFile],
    *,
    root_on_ssd: PurePosixPath,
    destination: PurePosixPath,
) -> tuple[PlannedFile, ...]:
    """Give each file its place on both tiers, layout exactly as in ``files``.

    Args:
        files: as qBittorrent lists them (after renames).
        root_on_ssd: what their names are relative to, below the SSD folder.
        destination: the folder below the HDD base.

    Raises:
        UnsafePath: a name leaves its tier, two files share a name, or a name is
            reserved.
    """
    planned: list[PlannedFile] = []
    seen: set[PurePosixPath] = set()
    for f in files:
        name = safe_relative(f.name, what="the file name")
        on_hdd = destination / name
        if on_hdd.parts[0] in RESERVED:
            raise UnsafePath(f"the file name {_shown(str(name))} is kept for the service itself")
        if name in seen:
            raise UnsafePath(f"two files of the torrent have the name {_shown(str(name))}")
        seen.add(name)
        planned.append(
            PlannedFile(
                index=f.index,
                size_bytes=f.size_bytes,
                wanted=f.wanted,
                on_ssd=root_on_ssd / name,
                on_hdd=on_hdd,
            )
        )
    return tuple(planned)


def _shown(text: str) -> str:
    """Make a hostile name fit for a log line."""
    short = text if len(text) <= 120 else f"{text[:117]}..."
    return repr(short)
