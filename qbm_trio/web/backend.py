"""What the HTTP layer needs from the rest of the service.

Described as protocols, so that this layer can be tested against a stand-in and
never reaches past what it is given. `service.py` puts the real parts together.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..core.model import Job, JobId, JobState, Notification, OnConflict
from ..core.overview import Health, Overview


class Accepted(Protocol):
    """The outcome of `Jobs.accept`; `tasks/jobs.py` has the real one."""

    @property
    def job(self) -> Job:
        """The job that stands for the torrent, on disk by now."""

    @property
    def duplicate(self) -> bool:
        """Whether the job was there before this notification."""

    @property
    def position(self) -> int:
        """Place in the queue; 0 when the job is not in it."""


class Jobs(Protocol):
    """The jobs as clients may act on them. Each call may raise `core.errors.Refused`."""

    async def accept(self, n: Notification, /) -> Accepted:
        """Make sure a job for this torrent is on disk. Not undone by cancellation."""

    async def cancel(self, job_id: JobId, /) -> Job:
        """End a job that has not ended."""

    async def retry(self, job_id: JobId, /, *, on_conflict: OnConflict) -> Job:
        """Queue a failed or cancelled job again."""

    async def clear(self) -> int:
        """Take every job that is not running off the queue; how many there were."""

    async def get(self, job_id: JobId, /) -> Job:
        """One job."""

    async def list(
        self, *, state: JobState | None, limit: int, after: JobId | None
    ) -> Sequence[Job]:
        """Jobs, newest first; those older than ``after`` if it is given."""


class SavedState(Protocol):
    """A recovery point that was written."""

    @property
    def path(self) -> str:
        """Where it is."""

    @property
    def counts(self) -> Mapping[str, int]:
        """What it holds."""

    @property
    def saved_at(self) -> float:
        """When it was written: epoch seconds UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Everything a request can reach."""

    jobs: Jobs
    overview: Callable[[], Awaitable[Overview]]
    health: Callable[[], Health]  #: from cached facts: called on the event loop
    save_state: Callable[[], Awaitable[SavedState]]
    count_request: Callable[[], None]  #: called for each request, whatever its answer
    api_key: str
    version: str
