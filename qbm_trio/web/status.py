"""``Overview`` to the ``/status`` document."""

from __future__ import annotations

from ..core.overview import Overview, RunningJob
from .schemas import (
    JobItem,
    ProcessingStatus,
    ProcessStatus,
    QbittorrentStatus,
    QueueStatus,
    ServiceStatus,
    SpaceStatus,
    SsdStatus,
    Statistics,
    StatusAnswer,
    TierStatus,
)


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
