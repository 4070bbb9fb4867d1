"""A job that runs, as its worker and ``/status`` see it: how far it is, and how fast it copies."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import trio

from ..core.model import Job, Phase, Progress
from ..core.overview import RunningJob

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Running:
    """A job that a worker has, and how far it is."""

    job: Job
    phase: Phase = Phase.RESOLVING
    progress: Progress = field(default_factory=Progress)
    note: str | None = None  #: what its user should know although it ended well
    began_at_trio: float = field(default_factory=trio.current_time)
    began_at_bytes: int = 0  #: copied by an earlier try, so not at this one's rate

    def will_copy(self, total_bytes: int, *, kept_bytes: int) -> None:
        """There are so many bytes to copy, and some of them are there from an earlier try."""
        self.progress.bytes_total = total_bytes
        self.progress.bytes_done = self.began_at_bytes = kept_bytes

    def copy_begins(self) -> None:
        """Measure the rate from now, and not while it waited for its turn."""
        self.began_at_trio = trio.current_time()
        if left_bytes := self.progress.bytes_total - self.began_at_bytes:
            log.info("%d bytes to copy", left_bytes)
        else:
            log.info("no bytes are left to copy")

    def copy_ended(self) -> None:
        """Say how long it took."""
        took_s = trio.current_time() - self.began_at_trio
        size_bytes = self.progress.bytes_done - self.began_at_bytes
        rate = size_bytes / took_s / 1e6 if took_s > 0 else 0.0
        if size_bytes:
            log.info("%d bytes copied in %.1f s, %.1f MB/s", size_bytes, took_s, rate)

    def shown(self) -> RunningJob:
        """What ``/status`` says of it."""
        elapsed_s = trio.current_time() - self.began_at_trio
        done, total = self.progress.bytes_done, self.progress.bytes_total
        rate = (done - self.began_at_bytes) / elapsed_s if elapsed_s > 0 else 0.0
        return RunningJob(
            id=self.job.id,
            hash=self.job.torrent_id or self.job.hash,
            name=self.job.name,
            phase=self.phase,
            started_at=self.job.started_at or self.job.accepted_at,
            bytes_done=done,
            bytes_total=total,
            bytes_per_second=rate,
            eta_s=max(0, total - done) / rate if rate > 0 else None,
        )
