"""``/status``: the shape of its document, made from an `Overview`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

from pydantic import Field

from ..core.model import JobState, Phase, WaitReason
from ..core.overview import Condition, Overview, RunningJob
from ..core.relocation import Step
from ..core.space_runs import OpenRelocation, SpaceRun
from .schemas import Answer, JobItem, Name, Text, Time
from .space import SpaceRunStatus


class ServiceStatus(Answer):
    """The service itself."""

    status: Literal["healthy", "degraded", "draining"]
    degraded_by: dict[Condition, bool] = Field(
        description="Each thing that can make it degraded, and whether it does now; /health says "
        "the same in sentences."
    )
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
    """Jobs at once. Relocations are no jobs and take no capacity."""

    running_processes: int = Field(description="Running jobs; relocations are not counted.")
    max_concurrent: int = Field(description="MAX_CONCURRENT_PROCESSES.")
    capacity_available: int = Field(description="How many more jobs could run.")


class QueueStatus(Answer):
    """The queue; `items` are its first 20, in order."""

    size: int
    capacity: int
    waiting_retry: int = Field(description="Jobs waiting for a time or a condition.")
    oldest_seconds: float | None
    items: list[JobItem]


class JobsStatus(Answer):
    """All jobs that the journal has: those that ended stay for JOB_RETENTION_DAYS."""

    by_state: dict[JobState, int] = Field(description="How many are in each state.")
    waiting_by_reason: dict[WaitReason, int] = Field(
        description="How many wait, by what they wait for."
    )


class ProcessStatus(Answer):
    """A job that runs now, or a relocation that has begun and has not ended."""

    id: str = Field(description="The job's, for /jobs/{id}; or the relocation's.")
    hash: str = Field(description="As notified; of a relocation, the torrent's id.")
    name: Name
    kind: Literal["tiering", "relocation"] = Field(
        description="tiering: a job copies the torrent to the HDD. relocation: space management "
        "has it seed from the HDD and deletes it on the SSD, or takes it back."
    )
    phase: Phase | Step = Field(description="Of a job, its phase; of a relocation, its step.")
    started_at: Time = Field(description="When the job was last taken up, or the relocation begun.")
    bytes_done: int = Field(description="Copied so far; 0 for a relocation, which copies nothing.")
    bytes_total: int = Field(
        description="To copy; of a relocation, what its files occupy on the SSD."
    )
    bytes_per_second: float = Field(
        description="Since the copy began. 0 while it waits for another to end "
        "(MAX_CONCURRENT_COPY_OPERATIONS), and for a relocation."
    )
    eta_seconds: float | None = Field(
        description="Until all is copied; null while unknown, and for a relocation."
    )
    error: Text | None = Field(
        description="What went wrong with a relocation, for example why it goes back to the SSD. "
        "Null while nothing did, and for a job, whose errors are at /jobs/{id}."
    )


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


class HddStatus(TierStatus):
    """The HDD and how far it may be filled."""

    min_free_bytes: int = Field(description="HDD_MIN_FREE_GB: copies leave this much free.")


class SpaceStatus(Answer):
    """Both tiers, and what space management does about the SSD."""

    ssd: SsdStatus = Field(description="Where downloads land.")
    hdd: HddStatus = Field(description="Where copies go.")
    last_run: SpaceRunStatus | None = Field(
        description="The last run of space management that ended; null before the first. One "
        "that was triggered by hand stays for SPACE_CHECK_INTERVAL_S, unless a later one did "
        "something, failed, or found that the target is now met, or missed."
    )
    current_run: str | None = Field(
        description="The id of the run that is under way; null when none is."
    )
    paused: Text | None = Field(
        description="Why automatic runs pause, and what to do; null when they do not."
    )


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


class CheckItem(Answer):
    """Something about the set-up that needs attention."""

    level: Literal["warning", "problem"] = Field(
        description="problem: torrents will not be copied, or not relocated. warning: it works, "
        "but perhaps not as expected."
    )
    code: str = Field(description="One stable word.")
    message: Text = Field(description="What was found, where, and how to mend it.")


class StatusAnswer(Answer):
    """Everything at a glance."""

    service: ServiceStatus
    qbittorrent: QbittorrentStatus
    processing: ProcessingStatus
    queue: QueueStatus
    jobs: JobsStatus
    processes: list[ProcessStatus] = Field(description="Running jobs, then open relocations.")
    space: SpaceStatus
    statistics: Statistics
    recent: list[JobItem]
    checks: list[CheckItem] = Field(
        description="Found at the start, when qBittorrent was away, and every 15 minutes while "
        "there is a problem: at most 50, the problems first. /health does not count them: it tells "
        "how things are now."
    )


def status_answer(o: Overview) -> StatusAnswer:
    """The document, with the names of the spec."""
    return StatusAnswer(
        service=ServiceStatus.model_validate(
            {
                "status": o.status,
                "degraded_by": {c: c in o.degraded_by for c in Condition},
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
            oldest_seconds=None if o.queue.oldest_s is None else round(o.queue.oldest_s, 3),
            items=[JobItem.model_validate(j) for j in o.queue.items],
        ),
        jobs=JobsStatus(by_state=dict(o.jobs.by_state), waiting_by_reason=dict(o.jobs.waiting)),
        processes=[*map(_job, o.running), *map(_relocation, o.space.relocations)],
        space=SpaceStatus(
            ssd=SsdStatus(
                path=o.ssd.path,
                total_bytes=o.ssd.total_bytes,
                free_bytes=o.ssd.free_bytes,
                problem=o.ssd.problem,
                threshold_bytes=o.threshold_bytes,
                target_bytes=o.target_bytes,
            ),
            hdd=HddStatus(
                path=o.hdd.path,
                total_bytes=o.hdd.total_bytes,
                free_bytes=o.hdd.free_bytes,
                problem=o.hdd.problem,
                min_free_bytes=o.hdd_min_free_bytes,
            ),
            last_run=None if o.space.last_run is None else _run(o.space.last_run),
            current_run=o.space.current_run,
            paused=o.space.paused,
        ),
        # Counters this version does not show are left out, those missing are 0.
        statistics=Statistics(
            **{n: v for n, v in o.statistics.items() if n in Statistics.model_fields}
        ),
        recent=[JobItem.model_validate(j) for j in o.recent],
        checks=[CheckItem.model_validate(f) for f in o.checks],
    )


def _run(run: SpaceRun) -> SpaceRunStatus:
    figures = asdict(run.figures)
    del figures["paused"]  # stands beside the run: it is about those to come
    return SpaceRunStatus.model_validate(
        {
            "id": run.id,
            "by_hand": run.by_hand,
            "begun_at": run.begun_at,
            "ended_at": run.ended_at,
            **figures,
        }
    )


def _relocation(r: OpenRelocation) -> ProcessStatus:
    return ProcessStatus(
        id=r.id,
        hash=r.torrent_id,
        name=r.name,
        kind="relocation",
        phase=r.step,
        started_at=r.begun_at,
        bytes_done=0,
        bytes_total=r.bytes,
        bytes_per_second=0.0,
        eta_seconds=None,
        error=r.error,
    )


def _job(r: RunningJob) -> ProcessStatus:
    return ProcessStatus(
        id=r.id,
        hash=r.hash,
        name=r.name,
        kind="tiering",
        phase=r.phase,
        started_at=r.started_at,
        bytes_done=r.bytes_done,
        bytes_total=r.bytes_total,
        bytes_per_second=round(r.bytes_per_second, 1),
        eta_seconds=None if r.eta_s is None else round(r.eta_s, 1),
        error=None,
    )
