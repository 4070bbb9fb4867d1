"""An overview in which nothing is null and no two figures are the same."""

from __future__ import annotations

from qbm_trio.core.checks import Finding, Group, Level
from qbm_trio.core.model import Job, JobId, JobState, Phase, TorrentId, WaitReason
from qbm_trio.core.overview import (
    Condition,
    JobCounts,
    Overview,
    QbittorrentContact,
    QueueFigures,
    RunningJob,
    TierFigures,
)
from qbm_trio.core.relocation import RunId, Step
from qbm_trio.core.space_runs import (
    FailedGroup,
    OpenRelocation,
    RunFigures,
    SpaceOverview,
    SpaceRun,
    SparedSum,
)
from tests.rig.site import overview

NAME = 'Torrent 🎬 "quoted" \\ {back}\nslash'
HASH = "f0" * 20


def _job(n: int, state: JobState) -> Job:
    return Job(
        id=JobId(f"job-{n}"),
        seq=n,
        hash=HASH,
        torrent_id=TorrentId(HASH),
        name=NAME,
        category="movies",
        priority=n,
        state=state,
        phase=Phase.COPYING,
        wait_reason=WaitReason.SPACE,
        next_at=1_700_001_000.0 + n,
        attempts=n,
        error_code="code",
        error="a sentence",
        merged_into=JobId("job-0"),
        destination="movies",
        bytes_total=n,
        bytes_copied=n,
        accepted_at=1_700_002_000.0 + n,
        started_at=1_700_003_000.0 + n,
        finished_at=1_700_004_000.0 + n,
        updated_at=1_700_005_000.0 + n,
    )


def _running(n: int, phase: Phase) -> RunningJob:
    return RunningJob(
        id=JobId(f"job-{n}"),
        hash=HASH,
        name=NAME,
        phase=phase,
        started_at=1_700_006_000.0 + n,
        bytes_done=10**6 + n,
        bytes_total=10**7 + n,
        bytes_per_second=10**8 + n + 0.5,
        eta_s=400.25 + n,
    )


def _relocation(n: int, step: Step) -> OpenRelocation:
    return OpenRelocation(
        id=str(n),
        torrent_id=TorrentId(HASH),
        name=NAME,
        step=step,
        begun_at=1_700_007_000.0 + n,
        bytes=10**9 + n,
        error="the recheck failed",
    )


def full_overview() -> Overview:
    """Everything that ``/status`` can show at once, and more than can be true together."""
    return overview(
        status="degraded",
        degraded_by=frozenset({Condition.JOURNAL_RESTORED, Condition.HDD}),
        version="1.2.3",
        dry_run=True,
        started_at=1_700_000_100.25,
        uptime_s=86_400.125,
        last_activity_at=1_700_000_200.5,
        qbittorrent=QbittorrentContact(
            reachable=True,
            version="v4.5.2",
            web_api_version="2.8.19",
            last_contact_at=1_700_000_300.75,
            problem="a login was refused",
        ),
        max_concurrent=7,
        running=(
            _running(1, Phase.COPYING),
            _running(2, Phase.COPYING),
            _running(3, Phase.TAGGING),
        ),
        queue=QueueFigures(
            size=11, capacity=13, waiting=17, oldest_s=19.5, items=(_job(1, JobState.QUEUED),)
        ),
        jobs=JobCounts(
            by_state={state: 100 + n for n, state in enumerate(JobState)},
            waiting={reason: 200 + n for n, reason in enumerate(WaitReason)},
        ),
        ssd=TierFigures(path="/ssd", total_bytes=10**12, free_bytes=10**11, problem="slow"),
        hdd=TierFigures(path="/hdd", total_bytes=10**13, free_bytes=2 * 10**12, problem="away"),
        threshold_bytes=3 * 10**11,
        target_bytes=4 * 10**11,
        hdd_min_free_bytes=5 * 10**9,
        space=SpaceOverview(
            last_run=SpaceRun(
                id=RunId("run-1"),
                by_hand=True,
                begun_at=1_700_000_400.5,
                ended_at=1_700_000_500.5,
                figures=RunFigures(
                    freed_bytes=-23,
                    planned_bytes=29,
                    shortfall_bytes=31,
                    target_met=False,
                    relocated=37,
                    tiered_first=41,
                    failed_groups=43,
                    failures=(FailedGroup(name=NAME, torrents=47, error="no copy"),),
                    spared={
                        "pinned": SparedSum(torrents=53, bytes=59),
                        "busy": SparedSum(torrents=61, bytes=67),
                    },
                    problem="the service was told to stop",
                ),
            ),
            current_run=RunId("run-2"),
            paused="Deleting freed too little; trigger a run by hand.",
            relocations=(_relocation(1, Step.CHECKING), _relocation(2, Step.RETURNING)),
        ),
        statistics={
            "torrents_processed": 71,
            "torrents_failed": 73,
            "bytes_copied": 2**53 + 1,  # more than a float can tell apart
            "bytes_verified": 79,
            "torrents_relocated": 83,
            "bytes_freed": 89,
            "space_management_runs": 97,
            "api_requests": 101,
            "jobs_recovered": 103,
        },
        recent=(_job(2, JobState.DONE),),
        checks=tuple(
            Finding(level=level, code="c", group=Group.PATHS, what="w", advice="a")
            for level in (Level.PROBLEM, Level.WARNING, Level.WARNING)
        ),
    )
