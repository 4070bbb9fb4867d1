"""Staging of tiering jobs on the HDD: made empty for each try, and cleared up after it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from ..adapters.publish_staging import clean_staging, discard_staging, prepare_staging
from ..core.errors import JobError
from ..core.model import JobId
from .tiers import Tiers

log = logging.getLogger(__name__)


class Staging:
    """The folders below ``.qbm-staging`` that are this service's."""

    def __init__(self, hdd: Path, *, tiers: Tiers) -> None:
        self._hdd = hdd
        self._tiers = tiers

    async def prepare(self, job_id: JobId, destinations: Sequence[Path]) -> list[Path]:
        """Where to stage the files for ``destinations``; nothing is left of earlier tries.

        Raises:
            UnsafePath, MustWait, DiskError: as `prepare_staging` does.
        """
        return await prepare_staging(
            self._hdd,
            destinations,
            instance_id=self._tiers.instance_id,
            job_id=job_id,
            limiter=self._tiers.hdd.limiter,
        )

    async def drop(self, job_id: JobId) -> None:
        """Remove what a job has staged. A disk that refuses is no failure."""
        try:
            await self._tiers.hdd.check()
            await discard_staging(
                self._hdd,
                instance_id=self._tiers.instance_id,
                job_id=job_id,
                limiter=self._tiers.hdd.limiter,
            )
        except JobError as error:
            # The job's next try empties it; when the job has ended, the next start removes it.
            log.warning("staging of job %s is left for now: %s", job_id, error)

    async def clean(self, keep_job_ids: Collection[JobId]) -> None:
        """At start: remove staging that belongs to no live job."""
        try:
            await self._tiers.hdd.check()
            removed = await clean_staging(
                self._hdd,
                instance_id=self._tiers.instance_id,
                keep_job_ids=keep_job_ids,
                limiter=self._tiers.hdd.limiter,
            )
        except JobError as error:
            log.warning("staging was not cleaned: %s", error)
        else:
            if removed:
                log.info("removed the staging of %d jobs that are gone", len(removed))
