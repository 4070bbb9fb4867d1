"""What the HTTP layer needs from the rest of the service; `service.py` provides it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import trio

from ..adapters.recovery_point import SavedState
from ..core.model import Job, JobId, JobState, Notification, OnConflict
from ..core.overview import Health, Overview
from ..core.space_runs import DryRun, Requested
from ..tasks.jobs import Accepted
from ..tasks.tagging import Tagged, TagSummary


class Jobs(Protocol):
    """The jobs as clients may act on them. Each call may raise `core.errors.Refused`.

    `tasks.jobs.Jobs` is the real one. A protocol, because tests need jobs that fail or
    hang at will, which a journal on a disk does not.
    """

    async def accept(self, n: Notification, /) -> Accepted:
        """Make sure a job for this torrent is on disk. Not undone by cancellation."""

    async def cancel(self, job_id: JobId, /) -> Job:
        """End a job that has not ended."""

    async def retry(self, job_id: JobId, /, *, on_conflict: OnConflict) -> Job:
        """Queue a failed, cancelled or cleared job again."""

    async def clear(self) -> int:
        """Take every job that is not running off the queue; how many there were."""

    async def get(self, job_id: JobId, /) -> Job:
        """One job."""

    async def newest(
        self, *, state: JobState | None, limit: int, after: JobId | None
    ) -> Sequence[Job]:
        """Jobs, newest first; those older than ``after`` if it is given."""


class Tagging(Protocol):
    """Location tags. Each call may raise `core.errors.Refused`; `tasks.tagging` is the real one."""

    async def tag_existing(self, *, dry_run: bool) -> Tagged:
        """Give every torrent the location tags that fit where its data is."""

    async def summary(self) -> TagSummary:
        """Where all torrents are and how they are tagged."""


class SpaceManagement(Protocol):
    """Runs of space management. Each call may raise `core.errors.Refused`."""

    @property
    def only_plans(self) -> bool:
        """Whether ``DRY_RUN`` is set: no run may change anything."""

    def trigger(self) -> Requested:
        """Ask for a run, soon; it ends a pause of the automatic ones.

        Raises:
            Draining: the service is stopping.
        """

    async def dry_run(self) -> DryRun:
        """Plan a run as it would be made now. Changes nothing.

        Raises:
            QbittorrentAway: it gives no usable answer.
            TierAway: a tier is not mounted, or gives no figures.
            JournalUnwritable: the journal cannot be asked.
            Draining: the service is stopping.
        """


class Overviews(Protocol):
    """Everything ``/status`` shows."""

    async def __call__(self, *, in_haste: bool) -> Overview:
        """``in_haste``: with older figures of the journal, rather than wait for its disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Everything a request can reach."""

    jobs: Jobs
    tagging: Tagging
    space: SpaceManagement
    overview: Overviews
    health: Callable[[], Health]  #: from cached facts: called on the event loop
    save_state: Callable[[], Awaitable[SavedState]]
    count_request: Callable[[], None]  #: called for each request, whatever its answer
    api_key: str
    version: str
    #: for the thread in which long answers are written
    computing: trio.CapacityLimiter = field(default_factory=partial(trio.CapacityLimiter, 1))
