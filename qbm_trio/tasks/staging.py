"""Staging of tiering jobs on the HDD: made for each try, and cleared up after it.

What a try before has staged is thrown away, unless its journal has a checkpoint. The
checkpoint is always forgotten first: it must never speak of files that are another try's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import trio

from ..adapters import journal_checkpoints
from ..adapters.journal import Journal
from ..adapters.journal_checkpoints import Checkpoint
from ..adapters.publish_staging import discard_staging, list_staging, prepare_staging
from ..core.errors import JobError
from ..core.model import JobId
from ..logs import subject
from .tiers import Tiers

log = logging.getLogger(__name__)


class Staging:
    """The folders below ``.qbm-staging`` that are this service's."""

    def __init__(self, hdd: Path, *, tiers: Tiers, journal: Journal) -> None:
        self._hdd = hdd
        self._tiers = tiers
        self._journal = journal

    async def prepare(
        self, job_id: JobId, destinations: Sequence[Path], *, keep: bool
    ) -> list[Path]:
        """Where to stage the files for ``destinations``.

        Nothing is left there of earlier tries, but with ``keep``.

        Raises:
            UnsafePath, MustWait, DiskError: as `prepare_staging` does.
            JournalUnwritable: the checkpoint could not be forgotten.
        """
        if not keep:
            await self._forget(job_id)
        return await prepare_staging(
            self._hdd,
            destinations,
            instance_id=self._tiers.instance_id,
            job_id=job_id,
            keep=keep,
            require=self._tiers.hdd.require_mounted,
            limiter=self._tiers.hdd.limiter,
        )

    async def checkpoint(self, job_id: JobId) -> Checkpoint | None:
        """Up to where an earlier try's copy is on the disk."""
        return await self._journal.do(partial(journal_checkpoints.find, job_id=job_id))

    @contextmanager
    def recording(self, job_id: JobId, fingerprint: str) -> Iterator[Callable[[int], None]]:
        """Give what records checkpoints of the copy that the block makes.

        It may be called in any thread. When the block has ended it does nothing: a thread
        that the disk held up for long must not speak for the next try.
        """
        token = trio.lowlevel.current_trio_token()
        ended = False

        async def commit(position: int) -> None:
            if not ended:
                checkpoint = Checkpoint(fingerprint=fingerprint, position=position)
                await self._journal.do(
                    partial(journal_checkpoints.record, job_id=job_id, checkpoint=checkpoint),
                    shown=False,  # else each of them, many a second, would have scrapes look
                )

        def record(position: int) -> None:
            trio.from_thread.run(commit, position, trio_token=token)

        try:
            yield record
        finally:
            ended = True

    async def drop(self, job_id: JobId, *, ended: bool = False) -> None:
        """Remove what a job has staged. A disk that refuses is no failure.

        Of a disk that is away nothing is forgotten: what is staged there may be of use.

        Args:
            job_id: the job's.
            ended: it has; its checkpoint ended with it, so that the journal is not needed.

        Raises:
            JournalUnwritable: the checkpoint could not be forgotten.
        """
        try:
            await self._tiers.hdd.check()
            if not ended:
                await self._forget(job_id)
            await discard_staging(
                self._hdd,
                instance_id=self._tiers.instance_id,
                job_id=job_id,
                limiter=self._tiers.hdd.limiter,
            )
        except JobError as error:
            # The job's next try empties it; of one that has ended it is dropped later.
            log.warning("staging is left for now: %s", error, extra=subject(job_id=job_id))

    async def staged(self) -> Sequence[JobId]:
        """The jobs that have staged something, as far as the disk says: none while it is away."""
        try:
            await self._tiers.hdd.check()
            return await list_staging(
                self._hdd, instance_id=self._tiers.instance_id, limiter=self._tiers.hdd.limiter
            )
        except JobError as error:
            log.warning("staging is not looked at for now: %s", error)
            return []

    async def _forget(self, job_id: JobId) -> None:
        await self._journal.do(partial(journal_checkpoints.forget, job_id=job_id))
