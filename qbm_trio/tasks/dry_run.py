"""``DRY_RUN``: say what each queued job would do; the jobs stay queued."""

from __future__ import annotations

import logging

import trio

from ..core.client import QbittorrentClient
from ..core.errors import JobError, JournalUnwritable, QbittorrentError
from ..core.model import JobId
from ..logs import about
from .jobs import Jobs
from .tiering import Tiering

log = logging.getLogger(__name__)

TRY_AGAIN_S = 30.0


async def describe_jobs(jobs: Jobs, tiering: Tiering, client: QbittorrentClient) -> None:
    """Log a plan for each queued job, once. Runs until cancelled."""
    described: set[JobId] = set()
    while True:
        changed = jobs.changed
        failed = False
        for job_id in jobs.queue.first(len(jobs.queue)):
            await client.wait_reachable()  # while it is away, the prober alone calls it
            job = jobs.live.get(job_id)
            if job is None or job_id in described:
                continue
            try:
                log.info("dry run: %s", await tiering.describe(job), extra=about(job))
                described.add(job_id)
            except (JobError, QbittorrentError, JournalUnwritable) as error:
                log.warning("dry run: %s", error, extra=about(job))
                failed = True
        with trio.move_on_after(TRY_AGAIN_S if failed else float("inf")):
            await changed.wait()
