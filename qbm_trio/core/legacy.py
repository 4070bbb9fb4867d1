"""What the old tool left in its state directory, read from the bytes of its files. Pure.

It kept a file for each torrent in ``queue/`` (first line the hash, second the time), and
a document in ``state/orchestrator_state.json`` of what was queued and running.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from .hashes import normalise_hash

VERSION: Final = "1.0"
LARGEST_PRIORITY: Final = 2**31
_HASH_NAMES: Final = (
    "hash",
    "torrent_hash",
    "infohash",
    "infohash_v1",
    "torrent_data",
    "id",
    "key",
)
_LONGEST_BYTES: Final = 1000  #: far more than a hash and a time have


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacyTorrent:
    """A torrent that the old tool had still to do."""

    hash: str
    queued_at: float | None  #: None when that is not known
    priority: int = 0
    running: bool = False
    name: str = ""
    category: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacyFile:
    """What one file holds."""

    torrents: tuple[LegacyTorrent, ...]
    problems: tuple[str, ...]  #: what in it cannot be used; the rest can


def queue_file(name: str, content: bytes) -> LegacyFile:
    """A file of ``queue/``: one torrent, or a problem.

    Its hash must be whole. Its time only orders the queue: it may be that of the name.
    """
    lines = [*content.removeprefix(b"\xef\xbb\xbf")[:_LONGEST_BYTES].splitlines(), b"", b""]
    try:
        hash_ = normalise_hash(_text(lines[0]))
    except ValueError as error:
        return LegacyFile(torrents=(), problems=(f"its first line {error}",))
    queued_at = _time(_text(lines[1]))
    if queued_at is None:
        queued_at = _time(name.removesuffix(".queue").rpartition("_")[2])
    return LegacyFile(torrents=(LegacyTorrent(hash=hash_, queued_at=queued_at),), problems=())


def state_file(content: bytes) -> LegacyFile:
    """The document ``orchestrator_state.json``: what in it can be used, one by one."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        return LegacyFile(torrents=(), problems=(f"it is not JSON: {error}",))
    if not isinstance(document, dict):
        return LegacyFile(torrents=(), problems=("it is no object",))
    if str(document.get("version")) != VERSION:
        why = f"its version is {document.get('version')!r}, only {VERSION!r} is known"
        return LegacyFile(torrents=(), problems=(why,))
    torrents: list[LegacyTorrent] = []
    problems: list[str] = []
    for part, running in (("running_processes", True), ("queue_items", False)):
        for key, entry in _entries(document.get(part), part, problems):
            try:
                torrents.append(_entry(key, entry, running=running))
            except ValueError as error:
                problems.append(f"{part}[{key}]: {error}")
    return LegacyFile(torrents=tuple(torrents), problems=tuple(problems))


def in_order(found: Iterable[LegacyTorrent]) -> list[LegacyTorrent]:
    """Each torrent once: those that ran first, then the oldest first.

    Of one that is named several times the highest priority and the earliest time count.
    """
    merged: dict[str, LegacyTorrent] = {}
    for torrent in found:
        other = merged.get(torrent.hash)
        merged[torrent.hash] = torrent if other is None else _merge(other, torrent)
    return sorted(
        merged.values(),
        key=lambda t: (not t.running, math.inf if t.queued_at is None else t.queued_at),
    )


def _merge(one: LegacyTorrent, two: LegacyTorrent) -> LegacyTorrent:
    times = [t.queued_at for t in (one, two) if t.queued_at is not None]
    return replace(
        one,
        queued_at=min(times, default=None),
        priority=max(one.priority, two.priority),
        running=one.running or two.running,
        name=one.name or two.name,
        category=one.category or two.category,
    )


# -- entries


def _entries(part: Any, name: str, problems: list[str]) -> list[tuple[object, Any]]:
    if part is None:
        return []
    if isinstance(part, list):
        return list(enumerate(part))
    if isinstance(part, dict):
        return list(part.items())
    problems.append(f"{name}: it is no list")
    return []


def _entry(key: object, entry: Any, *, running: bool) -> LegacyTorrent:
    if isinstance(entry, str):
        return LegacyTorrent(hash=normalise_hash(entry), queued_at=None, running=running)
    if not isinstance(entry, dict):
        raise ValueError("it is no object")
    data = entry.get("torrent_data")
    about: dict[str, Any] = {"key": key, "torrent_data": data, **entry}
    if isinstance(data, dict):
        about |= data
    return LegacyTorrent(
        hash=_hash(about),
        queued_at=_time(entry.get("queued_time", entry.get("start_time"))),
        priority=_priority(entry.get("priority")),
        running=running,
        name=_hint(about, "name"),
        category=_hint(about, "category"),
    )


def _hash(about: Mapping[str, Any]) -> str:
    """The first of its names that is a hash; what is wrong with the first that is there, else."""
    problems = []
    for name in _HASH_NAMES:
        if isinstance(value := about.get(name), str):
            try:
                return normalise_hash(value)
            except ValueError as error:
                problems.append(f"its {name} {error}")
    raise ValueError(next(iter(problems), "it names no torrent"))


def _hint(about: Mapping[str, Any], name: str) -> str:
    value = about.get(name)
    text = value if isinstance(value, str) else ""
    # Half of a pair of surrogates cannot be written.
    return text.encode("utf-8", "replace").decode("utf-8")


def _priority(value: object) -> int:
    if isinstance(value, str):
        value = value.strip()[:_LONGEST_BYTES]
    try:
        number = int(value)  # type: ignore[call-overload]  # whatever cannot be one raises
    except (TypeError, ValueError, OverflowError):
        return 0  # an order that is not understood loses no torrent
    return max(-LARGEST_PRIORITY, min(LARGEST_PRIORITY, int(number)))


def _time(value: object) -> float | None:
    """A time in seconds since 1970, or as ISO 8601; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        at = float(value)
    except (ValueError, OverflowError):
        at = _iso(value) if isinstance(value, str) else math.nan
    return at if 0 < at < _LATEST else None


def _iso(text: str) -> float:
    try:
        time = datetime.fromisoformat(text.strip())
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return math.nan


_LATEST: Final = 253_402_300_800.0  # the year 10000


def _text(line: bytes) -> str:
    return line.decode("ascii", "replace").strip()
