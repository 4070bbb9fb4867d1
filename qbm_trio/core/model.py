"""The nouns of the service, as plain values.

Every module speaks these; none of them does anything. Times are epoch seconds
UTC (``_at``), durations seconds (``_s``), sizes bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from typing import NewType

TorrentId = NewType("TorrentId", str)
"""40 lower-case hex digits: the key that qBittorrent's API accepts (its ``%K``)."""

JobId = NewType("JobId", str)
"""What the API calls ``queue_id``."""


class JobState(StrEnum):
    """Where a job is in its life; the moves between them are in ``lifecycle.py``."""

    QUEUED = "queued"  #: in line for a worker
    WAITING = "waiting"  #: for a time or a condition (`WaitReason`); holds no place in the queue
    RUNNING = "running"  #: a worker has it; `Phase` says where it is
    DONE = "done"  #: with an `Outcome`
    FAILED = "failed"  #: with an error code and sentence; can be retried by hand
    CANCELLED = "cancelled"  #: by ``DELETE /jobs/{id}``
    CLEARED = "cleared"  #: by ``POST /queue/clear``
    MERGED = "merged"  #: another job has the same torrent under another hash


class Phase(StrEnum):
    """What a running job does. Recorded in the journal before it begins."""

    RESOLVING = "resolving"
    COPYING = "copying"
    PUBLISHING = "publishing"
    TAGGING = "tagging"


class WaitReason(StrEnum):
    """Why a job is `JobState.WAITING`. Only RETRY counts as a failed attempt."""

    RETRY = "retry"
    SPACE = "space"  #: the HDD has no room for it now
    QBITTORRENT = "qbittorrent"  #: unreachable or refusing the login
    NOT_READY = "not_ready"  #: the torrent is moving, checking or incomplete
    UNKNOWN_TORRENT = "unknown_torrent"  #: qBittorrent does not know the hash (yet)
    TIER = "tier"  #: a tier is not mounted, read-only, or an alias of the other


class Outcome(StrEnum):
    """How a `JobState.DONE` job ended."""

    TIERED = "tiered"  #: verified and published on the HDD
    ALREADY_ON_HDD = "already_on_hdd"  #: the torrent's data lives there
    OUTSIDE_TIERS = "outside_tiers"  #: neither tier holds it; nothing to do


class OnConflict(StrEnum):
    """What a job may do with a differing file at its destination."""

    FAIL = "fail"
    SET_ASIDE = "set_aside"


class Verification(StrEnum):
    """How a copy is proved (setting ``VERIFICATION``)."""

    PIECES = "pieces"
    READBACK = "readback"
    SIZE = "size"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """A torrent finished, says a hook. ``params`` are hints, never trusted."""

    hash: str  #: normalised: 40 or 64 lower-case hex digits
    priority: int = 0  #: higher first
    name: str = ""
    category: str = ""
    size_bytes: int | None = None
    params: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One row of the journal's ``jobs``."""

    id: JobId
    seq: int  #: order of admission
    hash: str  #: as notified, normalised
    torrent_id: TorrentId | None = None  #: once resolved
    name: str = ""
    category: str = ""  #: a hint; the destination uses qBittorrent's
    priority: int = 0
    head: bool = False  #: was running when the service stopped: goes first
    state: JobState = JobState.QUEUED
    phase: Phase | None = None
    wait_reason: WaitReason | None = None
    next_at: float | None = None  #: when a waiting job is looked at again
    attempts: int = 0  #: failures of the job itself
    error_code: str | None = None
    error: str | None = None
    outcome: Outcome | None = None
    merged_into: JobId | None = None
    on_conflict: OnConflict = OnConflict.FAIL
    destination: str | None = None  #: on the HDD, relative to its base
    bytes_total: int | None = None
    bytes_copied: int = 0
    accepted_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    updated_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Torrent:
    """What qBittorrent says of one torrent (``torrents/info``), as its own paths."""

    id: TorrentId
    name: str
    state: str  #: qBittorrent's own word, such as ``stalledUP``
    category: str
    tags: frozenset[str]
    save_path: str  #: lies after a failed move on 4.5: believe `content_path`
    content_path: str
    progress: float  #: of the wanted files, 0 to 1
    amount_left_bytes: int
    size_bytes: int  #: wanted files, with padding
    completed_at: float | None  #: None when never completed
    auto_management: bool
    download_path: str  #: incomplete folder; "" when none
    infohash_v1: str  #: "" when absent
    infohash_v2: str  #: "" when absent
    force_start: bool = False
    added_at: float = 0.0

    @property
    def hashes(self) -> tuple[str, ...]:
        """Every hash that means this torrent."""
        return tuple(filter(None, (self.infohash_v1, self.infohash_v2, self.id)))


@dataclass(frozen=True, slots=True, kw_only=True)
class TorrentFile:
    """One entry of ``torrents/files``: the n-th file that is not padding."""

    index: int
    name: PurePosixPath  #: below the save path, after renames, without ``.!qB``
    size_bytes: int
    priority: int  #: 0 is unwanted
    progress: float

    @property
    def wanted(self) -> bool:
        """Whether the user asked for this file."""
        return self.priority > 0


@dataclass(slots=True, kw_only=True)
class Progress:
    """Live figures of one running job. Written by one thread, read by any."""

    bytes_done: int = 0
    bytes_total: int = 0
    bytes_verified: int = 0
