"""All torrents as qBittorrent last told of them, kept by what it says has changed. Pure.

A torrent is *removed* when the session in which we knew it has it no more. One that is only
missing from the list of a new session may be back: a qBittorrent that was killed
forgets what was added last, and one that starts has not read all of its torrents yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from .model import Torrent, TorrentId
from .readiness import SEEDING
from .space import RELOCATING_TAG

REMOVED_AFTER_S: Final = 600.0
"""So long one is missing from a new session's lists until it counts as removed."""
WHOLE_PERCENT: Final = 90
"""A list of less than so much of what it was before proves nothing about what is missing."""

_BLANK: Final = Torrent(
    id=TorrentId(""),
    name="",
    state="unknown",
    category="",
    tags=frozenset(),
    save_path="",
    content_path="",
    progress=0.0,
    amount_left_bytes=0,
    size_bytes=0,
    completed_at=None,
    auto_management=False,
    download_path="",
    infohash_v1="",
    infohash_v2="",
)
"""One of which nothing is known yet: nothing is done with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """One answer of qBittorrent's: everything, or what has changed since the one before."""

    number: int  #: to be given with the next question
    whole: bool  #: everything there is: its session is a new one, or so we asked
    torrents: Mapping[TorrentId, Mapping[str, object]]  #: fields of `Torrent`, those that changed
    removed: frozenset[TorrentId] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """One that a new session does not list."""

    torrent: Torrent
    since_s: float  #: monotonic; of a list that is long enough to tell
    listed: int  #: how many torrents there were when it was among them


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What is known. Begin with an empty one."""

    number: int = 0  #: of the answer that it is from
    torrents: Mapping[TorrentId, Torrent] = field(default_factory=dict)
    absent: Mapping[TorrentId, Absent] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What an answer has changed."""

    snapshot: Snapshot
    changed: frozenset[TorrentId]  #: those in which anything changed that we act on, or all
    removed: tuple[Torrent, ...]


def keys_in(id: TorrentId, fields: Mapping[str, object]) -> Iterator[str]:
    """Give every hash that fields of a torrent name."""
    yield id
    for name in ("infohash_v1", "infohash_v2"):
        if fields.get(name):
            yield str(fields[name])


def met(id: TorrentId, name: str, hash: str) -> Torrent:
    """One of which no more is known than that there is, or was, such a torrent."""
    v1, v2 = (hash, "") if len(hash) == len(id) else ("", hash)
    return replace(_BLANK, id=id, name=name, infohash_v1=v1, infohash_v2=v2)


def apply(
    known: Snapshot, changes: Changes, *, now_s: float, others: Iterable[Torrent] = ()
) -> Update:
    """Bring a snapshot up to date.

    Args:
        known: the snapshot until now.
        changes: the answer to its number, or everything.
        now_s: on a monotonic clock.
        others: torrents that were there before this was asked: the snapshot may not know
            of one that came and went since the last answer.
    """
    torrents, changed = _torrents(known, changes)
    absent = {id: gone for id, gone in known.absent.items() if id not in torrents}
    before = {t.id: t for t in others if t.id not in known.absent} | dict(known.torrents)
    missing = {id: torrent for id, torrent in before.items() if id not in torrents}
    removed = []
    if changes.whole:
        for id, torrent in missing.items():
            absent[id] = Absent(torrent=torrent, since_s=now_s, listed=len(before))
    else:
        removed = [missing[id] for id in sorted(missing)]
    for id, gone in sorted(absent.items()):
        if len(torrents) * 100 < gone.listed * WHOLE_PERCENT:
            absent[id] = replace(gone, since_s=now_s)
        elif now_s - gone.since_s >= REMOVED_AFTER_S:
            removed.append(absent.pop(id).torrent)
    return Update(
        snapshot=Snapshot(number=changes.number, torrents=torrents, absent=absent),
        changed=changed,
        removed=tuple(removed),
    )


def _torrents(
    known: Snapshot, changes: Changes
) -> tuple[Mapping[TorrentId, Torrent], frozenset[TorrentId]]:
    if changes.whole:
        new = {id: _with(None, id, fields) for id, fields in changes.torrents.items()}
        return new, frozenset(new)
    if not (changes.torrents or changes.removed):
        return known.torrents, frozenset()
    torrents = dict(known.torrents)
    for id in changes.removed - changes.torrents.keys():
        torrents.pop(id, None)
    changed = set()
    for id, fields in changes.torrents.items():
        before = torrents.get(id)
        now = torrents[id] = _with(before, id, fields)
        if before is None or _notable(before) != _notable(now):
            changed.add(id)
    return torrents, frozenset(changed)


def _with(before: Torrent | None, id: TorrentId, fields: Mapping[str, object]) -> Torrent:
    if before is None:
        return replace(_BLANK, id=id, **fields)  # type: ignore[arg-type]  # its fields, by name
    return replace(before, **fields) if fields else before  # type: ignore[arg-type]


def _notable(torrent: Torrent) -> tuple[object, ...]:
    """What we act on. Whether anybody fetches from a seeding torrent now is not."""
    seeds = torrent.state in SEEDING and RELOCATING_TAG not in torrent.tags
    return (
        "seeding" if seeds else torrent.state,
        torrent.progress == 1 and torrent.amount_left_bytes == 0,
        torrent.content_path,
        torrent.completed_at,
        torrent.tags,
    )
