"""``/status``: the shape of its document, made from an `Overview`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..core.model import Phase
from ..core.overview import Overview, RunningJob
from .schemas import Answer, JobItem, Name, Text, Time


class ServiceStatus(Answer):
    """The service itself."""

    status: Literal["healthy", "degraded", "draining"]
    version: str
    dry_run: bool = Field(description="DRY_RUN: jobs stay queued, nothing is copied or tagged.")
    started_at: Time
    uptime_seconds: float
    last_activity: Time | None


class QbittorrentStatus(Answer):
    """What is known of qBittorrent since the last call."""

    reachable: bool
    version: str | None
    web_api_version: str | None
    last_contact: Time | None
    problem: Text | None


class ProcessingStatus(Answer):
    """Jobs at once."""

    running_processes: int
    max_concurrent: int
    capacity_available: int


class QueueStatus(Answer):
    """The queue; `items` are its first 20, in order."""

    size: int
    capacity: int
    waiting_retry: int = Field(description="Jobs waiting for a time or a condition.")
    oldest_seconds: float | None
    items: list[JobItem]


class ProcessStatus(Answer):
    """One job that runs now."""

    id: str
    hash: str
    name: Name
    kind: str
    phase: Phase
    started_at: Time
    bytes_done: int
    bytes_total: int
    bytes_per_second: float
    eta_seconds: float | None


class TierStatus(Answer):
    """One tier, from a cached probe; null where it could not be asked."""

    path: Text
    total_bytes: int | None
    free_bytes: int | None
    problem: Text | None


class SsdStatus(TierStatus):
    """The SSD and when it is freed."""

    threshold_bytes: int = Field(description="Below this much free, space management acts.")
    target_bytes: int = Field(description="It frees until this much is free.")


class SpaceStatus(Answer):
    """Both tiers."""

    ssd: SsdStatus
    hdd: TierStatus
    last_run: None = Field(None, description="The last run of space management.")


class Statistics(Answer):
    """Counters since the journal began, kept over restarts."""

    torrents_processed: int = 0
    torrents_failed: int = 0
    bytes_copied: int = 0
    bytes_verified: int = 0
    torrents_relocated: int = 0
    bytes_freed: int = 0
    space_management_runs: int = 0
    api_requests: int = 0
    jobs_recovered: int = 0


class StatusAnswer(Answer):
    """Everything at a glance."""

    service: ServiceStatus
    qbittorrent: QbittorrentStatus
    processing: ProcessingStatus
    queue: QueueStatus
    processes: list[ProcessStatus]
    space: SpaceStatus
    statistics: Statistics
    recent: list[JobItem]


def status_answer(o: Overview) -> StatusAnswer:
    """The document, with the names of the spec."""
    return StatusAnswer(
        service=ServiceStatus.model_validate(
            {
                "status": o.status,
                "version": o.version,
                "dry_run": o.dry_run,
                "started_at": o.started_at,
                "uptime_seconds": round(o.uptime_s, 3),
                "last_activity": o.last_activity_at,
            }
        ),
        qbittorrent=QbittorrentStatus(
            reachable=o.qbittorrent.reachable,
            version=o.qbittorrent.version,
            web_api_version=o.qbittorrent.web_api_version,
            last_contact=o.qbittorrent.last_contact_at,
            problem=o.qbittorrent.problem,
        ),
        processing=ProcessingStatus(
            running_processes=len(o.running),
            max_concurrent=o.max_concurrent,
            capacity_available=max(0, o.max_concurrent - len(o.running)),
        ),
        queue=QueueStatus(
            size=o.queue.size,
            capacity=o.queue.capacity,
            waiting_retry=o.queue.waiting,
            oldest_seconds=o.queue.oldest_s,
            items=[JobItem.model_validate(j) for j in o.queue.items],
        ),
        processes=[_process(r) for r in o.running],
        space=SpaceStatus(
            ssd=SsdStatus(
                path=o.ssd.path,
                total_bytes=o.ssd.total_bytes,
                free_bytes=o.ssd.free_bytes,
                problem=o.ssd.problem,
                threshold_bytes=o.threshold_bytes,
                target_bytes=o.target_bytes,
            ),
            hdd=TierStatus.model_validate(o.hdd),
        ),
        # Counters this version does not show are left out, those missing are 0.
        statistics=Statistics(
            **{n: v for n, v in o.statistics.items() if n in Statistics.model_fields}
        ),
        recent=[JobItem.model_validate(j) for j in o.recent],
    )


def _process(r: RunningJob) -> ProcessStatus:
    return ProcessStatus(
        id=r.id,
        hash=r.hash,
        name=r.name,
        kind=r.kind,
        phase=r.phase,
        started_at=r.started_at,
        bytes_done=r.bytes_done,
        bytes_total=r.bytes_total,
        bytes_per_second=round(r.bytes_per_second, 1),
        eta_seconds=None if r.eta_s is None else round(r.eta_s, 1),
    )
