"""What the service says about itself, as plain values.

`tasks/observer.py` gathers it, ``web/`` renders it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from .checks import Finding
from .model import Job, JobId, JobState, Phase, WaitReason
from .space_runs import SpaceOverview


class Condition(StrEnum):
    """What makes the service degraded."""

    JOURNAL_UNWRITABLE = "journal_unwritable"  #: notifications are refused
    JOURNAL_RESTORED = "journal_restored"  #: at this start, for it was damaged or gone
    QBITTORRENT = "qbittorrent"  #: unreachable, or it refuses the login
    SSD = "ssd"  #: the tier is not usable
    HDD = "hdd"  #: the tier is not usable


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The answer of ``GET /health``, from cached facts only."""

    status: str  #: healthy, degraded or draining
    problems: tuple[str, ...] = ()  #: what is wrong, without paths


@dataclass(frozen=True, slots=True, kw_only=True)
class QbittorrentContact:
    """What we know of qBittorrent since the last call."""

    reachable: bool
    version: str | None = None
    web_api_version: str | None = None
    last_contact_at: float | None = None
    problem: str | None = None  #: what is wrong and how to mend it
    logins_tried: int = 0  #: a refused one counts towards a ban
    logged_in: bool = False  #: the last one was accepted
    clock_ahead_s: float | None = None  #: of its clock to ours; None: it does not tell


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningJob:
    """One job that a worker has now."""

    id: JobId
    hash: str
    name: str
    phase: Phase
    started_at: float
    bytes_done: int
    bytes_total: int
    bytes_per_second: float
    eta_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFigures:
    """The queue at one moment."""

    size: int
    capacity: int
    waiting: int  #: jobs waiting for a time or a condition; they hold no place
    oldest_s: float | None  #: age of the job queued longest
    items: tuple[Job, ...]  #: the first 20, in order


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCounts:
    """How many jobs there are, of all that the journal still has."""

    by_state: Mapping[JobState, int]
    waiting: Mapping[WaitReason, int]  #: those that wait, by what they wait for


@dataclass(frozen=True, slots=True, kw_only=True)
class TierFigures:
    """One tier, from a cached probe; None where it could not be asked."""

    path: str
    total_bytes: int | None
    free_bytes: int | None
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Everything ``GET /status`` shows."""

    status: str
    degraded_by: frozenset[Condition]
    version: str
    dry_run: bool  #: jobs stay queued and nothing is written
    started_at: float
    now: float
    uptime_s: float
    last_activity_at: float | None
    qbittorrent: QbittorrentContact
    max_concurrent: int
    running: tuple[RunningJob, ...]
    queue: QueueFigures
    jobs: JobCounts
    ssd: TierFigures
    hdd: TierFigures
    threshold_bytes: int
    target_bytes: int
    hdd_min_free_bytes: int
    space: SpaceOverview
    statistics: Mapping[str, int]  #: counters since the journal began
    recent: tuple[Job, ...]
    checks: tuple[Finding, ...] = ()  #: warnings and problems of the last check
