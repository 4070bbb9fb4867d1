"""The rows of qBittorrent's answers as the values of `core.model`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final, cast

from ..core.client import Preferences
from ..core.model import Torrent, TorrentFile, TorrentId
from ..core.snapshot import Changes


def rows_of(answer: object) -> Sequence[Mapping[str, Any]]:
    """See an answer as its rows."""
    return cast(Sequence[Mapping[str, Any]], answer)


_FIELDS: Final[Mapping[str, tuple[str, Callable[[Any], object]]]] = {
    "name": ("name", str),
    "state": ("state", str),
    "category": ("category", str),
    "tags": ("tags", lambda tags: frozenset(tag for tag in tags.split(", ") if tag)),
    "save_path": ("save_path", str),
    "content_path": ("content_path", str),
    "progress": ("progress", float),
    "amount_left": ("amount_left_bytes", int),
    "size": ("size_bytes", int),
    # Unset is 0 on 4.5 and -1 on 5.x.
    "completion_on": ("completed_at", lambda at: float(at) if at > 0 else None),
    "auto_tmm": ("auto_management", bool),
    "download_path": ("download_path", str),
    "infohash_v1": ("infohash_v1", str),
    "infohash_v2": ("infohash_v2", str),
    "force_start": ("force_start", bool),
    "added_on": ("added_at", float),
}
"""qBittorrent's names, ours, and how to read the value."""
_UNSAID: Final[Mapping[str, object]] = {
    "download_path": "",
    "infohash_v1": "",
    "infohash_v2": "",
}
"""What a version that does not say it has: nothing."""


def fields_of(row: Mapping[str, Any]) -> dict[str, object]:
    """Read what a row says of a torrent, as fields of `Torrent`; it need not say all."""
    # By the few names that the row has: thousands of such rows come at once.
    return {
        field[0]: field[1](value)
        for name, value in row.items()
        if (field := _FIELDS.get(name)) is not None
    }


def torrent_of(row: Mapping[str, Any]) -> Torrent:
    """Read a row of ``torrents/info``."""
    fields = {**_UNSAID, **fields_of(row)}
    return Torrent(id=TorrentId(row["hash"]), **fields)  # type: ignore[arg-type]


def changes_of(answer: object) -> Changes:
    """Read an answer of ``sync/maindata``."""
    said = cast(Mapping[str, Any], answer)
    whole = bool(said.get("full_update", False))
    return Changes(
        number=int(said["rid"]),
        whole=whole,
        torrents={
            TorrentId(id): {**_UNSAID, **fields_of(row)} if whole else fields_of(row)
            for id, row in said.get("torrents", {}).items()
        },
        removed=frozenset(map(TorrentId, said.get("torrents_removed", ()))),
    )


def preferences_of(row: Mapping[str, Any]) -> Preferences:
    """Read the answer of ``app/preferences``."""
    limited = any(row.get(f"max_{what}_enabled") for what in _LIMITS)
    return Preferences(
        save_path=str(row["save_path"]),
        temp_path=str(row.get("temp_path", "")) if row.get("temp_path_enabled") else "",
        runs_program=bool(row.get("autorun_enabled")),
        program=str(row.get("autorun_program", "")),
        marks_incomplete=bool(row.get("incomplete_files_ext")),
        removes_with_files=limited and row.get("max_ratio_act") == _REMOVES_WITH_FILES,
    )


_LIMITS: Final = ("ratio", "seeding_time", "inactive_seeding_time")
_REMOVES_WITH_FILES: Final = 3


def file_of(position: int, row: Mapping[str, Any]) -> TorrentFile:
    """Read a row of ``torrents/files``; ``position`` is where it stood."""
    return TorrentFile(
        # 5.x gives the index; where it is absent, the order is the index.
        index=int(row.get("index", position)),
        name=PurePosixPath(row["name"]),
        size_bytes=int(row["size"]),
        priority=int(row["priority"]),
        progress=float(row["progress"]),
    )
