"""The jobs with work to do, in memory. `Jobs` alone changes them, after the journal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ..core.model import Job, JobId, JobState, WaitReason


class LiveJobs:
    """Live jobs, found by id and by each hash of their torrents."""

    def __init__(self) -> None:
        self._jobs: dict[JobId, Job] = {}
        self._by_hash: dict[str, JobId] = {}
        # Kept, not counted when asked: ten thousand may wait, and each scrape asks.
        self._waiting: Counter[WaitReason] = Counter()

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, job: Job) -> Job | None:
        """Keep a live job as it is now; return it as it was."""
        before = self._jobs.get(job.id)
        self._jobs[job.id] = job
        self._count_waiting(before, -1)
        self._count_waiting(job, 1)
        self._by_hash[job.hash] = job.id
        if job.torrent_id is not None:
            self._by_hash[job.torrent_id] = job.id
        return before

    def forget(self, job_id: JobId) -> Job | None:
        """Forget a job; return it as it was, None when it is not known."""
        job = self._jobs.pop(job_id, None)
        self._count_waiting(job, -1)
        if job is not None:
            for key in (job.hash, job.torrent_id):
                if key is not None and self._by_hash.get(key) == job_id:
                    del self._by_hash[key]
        return job

    def get(self, job_id: JobId) -> Job | None:
        """The job with this id."""
        return self._jobs.get(job_id)

    def with_hash(self, hash_: str) -> Job | None:
        """The job of the torrent with this hash, as far as memory knows its hashes."""
        job_id = self._by_hash.get(hash_)
        return None if job_id is None else self._jobs[job_id]

    def ids_with(self, hashes: Iterable[str]) -> set[JobId]:
        """The ids of the jobs of any of these hashes."""
        return {self._by_hash[key] for key in hashes if key in self._by_hash}

    def ids(self) -> frozenset[JobId]:
        """The ids of all of them."""
        return frozenset(self._jobs)

    def all(self) -> list[Job]:
        """All of them."""
        return list(self._jobs.values())

    def waiting(self) -> list[Job]:
        """Those that wait for a time or a condition."""
        return [j for j in self._jobs.values() if j.state is JobState.WAITING]

    def waiting_by_reason(self) -> dict[WaitReason, int]:
        """How many jobs wait for what; each reason is named."""
        return {reason: self._waiting[reason] for reason in WaitReason}

    def _count_waiting(self, job: Job | None, by: int) -> None:
        if job is not None and job.state is JobState.WAITING:
            self._waiting[job.wait_reason or WaitReason.RETRY] += by
