"""Stopping, clearing, repeating and only pretending: a tiering job under its user's hand."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from qbm_trio.adapters.copying import copy_and_verify
from qbm_trio.core.model import JobId, JobState, OnConflict, Outcome, Phase, WaitReason
from qbm_trio.tasks.tiering import Tiering
from tests.rig.inside import Inside, condition, inside, put, tags
from tests.rig.qbt import Qbt, running
from tests.rig.service import Service, serving
from tests.rig.trees import below

pytestmark = pytest.mark.qbittorrent

FILES = {"a": 40_000, "b": 30_000, "c": 20_000}


@asynccontextmanager
async def slow(tmp_path: Path, qbt: Qbt, **env: str) -> AsyncIterator[Inside]:
    """A service whose copies of a few megabytes take many seconds."""
    more: dict[str, Any] = {"COPY_RATE_LIMIT_MB_S": "0.5", **env}
    async with inside(tmp_path, qbt.url, **more) as service:
        yield service


async def copying(service: Inside, job_id: JobId) -> None:
    """Wait until this job has begun to write."""
    running_jobs = service.service.workers.running
    await condition(lambda: job_id in running_jobs and running_jobs[job_id].progress.bytes_done)


def staged_bytes(service: Inside) -> int:
    return sum(p.stat().st_size for p in service.hdd.glob(".qbm-staging/*/*/*") if p.is_file())


async def test_a_running_copy_that_is_cancelled_stops_at_once_and_leaves_nothing(
    qbt: Qbt, tmp_path: Path
) -> None:
    async with slow(tmp_path, qbt) as service:
        torrent = put(qbt, service.ssd, "Long", {"a": 8_000_000, "b": 100})
        job_id = await service.notify(torrent.id)
        await copying(service, job_id)
        assert staged_bytes(service) > 0

        began = time.monotonic()
        job = await service.service.jobs.cancel(job_id)
        await service.ended(job_id)
        await condition(lambda: not service.staging())
        took_s = time.monotonic() - began

        assert job.state is JobState.CANCELLED
        assert took_s < 5  # of 16
        assert service.contents() == {}
        assert tags(qbt, torrent.id) == set()


async def test_a_cancelled_job_is_done_when_it_is_retried(qbt: Qbt, tmp_path: Path) -> None:
    async with slow(tmp_path, qbt) as service:
        torrent = put(qbt, service.ssd, "Again", {"a": 4_000_000})
        job_id = await service.notify(torrent.id)
        await copying(service, job_id)
        await service.service.jobs.cancel(job_id)
    # Started again without the limit: a cancelled job stays cancelled.
    async with inside(tmp_path, qbt.url) as service:
        assert (await service.service.jobs.get(job_id)).state is JobState.CANCELLED
        await service.service.jobs.retry(job_id, on_conflict=OnConflict.FAIL)
        job = await service.ended(job_id)
        assert job.outcome is Outcome.TIERED, job.error
        assert service.contents() == {"Again/a": (service.ssd / "Again/a").read_bytes()}


async def test_clear_ends_queued_and_waiting_jobs_and_spares_the_running_one(
    qbt: Qbt, tmp_path: Path
) -> None:
    async with slow(tmp_path, qbt, MAX_CONCURRENT_PROCESSES="1") as service:
        waiting = await service.notify("cd" * 20)
        await service.waits(waiting)
        first = await service.notify(put(qbt, service.ssd, "First", 4_000_000, seed=1).id)
        await copying(service, first)
        queued = await service.notify(put(qbt, service.ssd, "Second", 20_000, seed=2).id)

        assert await service.service.jobs.clear() == 2

        for job_id in (waiting, queued):
            assert (await service.service.jobs.get(job_id)).state is JobState.CLEARED
        assert (await service.service.jobs.get(first)).state is JobState.RUNNING
    async with inside(tmp_path, qbt.url) as service:
        assert (await service.ended(first)).outcome is Outcome.TIERED
        for job_id in (waiting, queued):
            assert (await service.service.jobs.get(job_id)).state is JobState.CLEARED
        assert service.contents().keys() == {"First"}
        await service.service.jobs.retry(queued, on_conflict=OnConflict.FAIL)
        assert (await service.ended(queued)).outcome is Outcome.TIERED


async def test_one_copy_at_a_time_never_means_two(
    qbt: Qbt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once, most = 0, 0
    staged: list[int] = []

    async with slow(
        tmp_path, qbt, COPY_RATE_LIMIT_MB_S="8", MAX_CONCURRENT_PROCESSES="3"
    ) as service:

        def writing() -> int:
            """How many jobs have written something, and are not done."""
            return sum(
                0 < r.progress.bytes_done < r.progress.bytes_total
                for r in service.service.workers.running.values()
            )

        async def watched(*arguments: Any, **more: Any) -> Any:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            try:
                return await copy_and_verify(*arguments, **more)
            finally:
                at_once -= 1

        monkeypatch.setattr("qbm_trio.tasks.tiering.copy_and_verify", watched)
        torrents = [put(qbt, service.ssd, f"Turn {n}", 4_000_000, seed=n) for n in range(3)]
        ids = [await service.notify(t.id) for t in torrents]
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                while True:
                    staged.append(writing())
                    await trio.sleep(0.01)

            nursery.start_soon(watch)
            jobs = [await service.ended(job_id) for job_id in ids]
            nursery.cancel_scope.cancel()

        assert [j.outcome for j in jobs] == [Outcome.TIERED] * 3, jobs
        assert most == 3  # all three were ready to copy,
        assert max(staged) == 1  # one did


async def test_every_phase_is_in_the_journal_in_its_order(
    qbt: Qbt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with inside(tmp_path, qbt.url) as service:
        torrent = put(qbt, service.ssd, "Phases", FILES)
        seen: list[object] = []
        jobs = service.service.jobs
        follow = jobs._follow

        def noted(job: Any) -> None:
            if job.phase is not None and (not seen or seen[-1] != job.phase):
                seen.append(job.phase)
            follow(job)

        monkeypatch.setattr(jobs, "_follow", noted)
        assert (await service.tier(torrent.id)).outcome is Outcome.TIERED
        assert seen == [Phase.RESOLVING, Phase.COPYING, Phase.PUBLISHING, Phase.TAGGING]


async def test_the_same_torrent_twice_is_copied_once(qbt: Qbt, tmp_path: Path) -> None:
    async with inside(tmp_path, qbt.url) as service:
        torrent = put(qbt, service.ssd, "Twice", FILES)
        assert (await service.tier(torrent.id)).bytes_copied == 90_000
        again = await service.tier(torrent.id)
        assert (again.outcome, again.bytes_copied) == (Outcome.TIERED, 0)
        overview = await service.service.observer.overview()
        assert overview.statistics["bytes_copied"] == 90_000
        assert overview.statistics["torrents_processed"] == 2


async def test_qbittorrent_that_goes_away_before_the_tags_does_not_have_the_copy_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 16_000_000

    def bytes_read() -> int:
        """By this process, in all its threads."""
        line = Path("/proc/self/io").read_text().splitlines()[0]
        return int(line.removeprefix("rchar:"))

    real = Tiering._tag
    with running(tmp_path / "qbt") as qbt:

        async def without_qbittorrent(*arguments: Any, **more: Any) -> None:
            monkeypatch.undo()
            await trio.to_thread.run_sync(qbt.stop)
            await real(*arguments, **more)

        async with inside(tmp_path, qbt.url) as service:
            torrent = put(qbt, service.ssd, "Untagged", size)
            monkeypatch.setattr(Tiering, "_tag", without_qbittorrent)
            job = await service.waits(await service.notify(torrent.id))
            assert (job.bytes_copied, job.wait_reason) == (size, WaitReason.QBITTORRENT)
            before = bytes_read()
            await trio.to_thread.run_sync(qbt.start)
            job = await service.ended(job.id)
            assert (job.outcome, job.bytes_copied) == (Outcome.TIERED, size), job.error
            assert bytes_read() - before < size / 4
            assert tags(qbt, torrent.id) == {"ssd", "hdd"}


# -- over HTTP, as a process -----------------------------------------------------------


def test_delete_retry_and_conflict_over_http(qbt: Qbt, tmp_path: Path) -> None:
    with serving(tmp_path, qbt.url, COPY_RATE_LIMIT_MB_S="2") as service:
        long = put(qbt, service.ssd, "Long over HTTP", 16_000_000)
        job_id = service.notify(long.id).json()["queue_id"]

        def writes() -> bool:
            running_ones = service.http.get("/status").json()["processes"]
            return any(p["bytes_done"] > 0 for p in running_ones)

        service.wait_for(writes, "it copies")
        began = time.monotonic()
        assert service.http.delete(f"/jobs/{job_id}").status_code == 200
        service.wait_for(
            lambda: not (service.hdd / ".qbm-staging").exists(), "its partial data is gone"
        )
        assert time.monotonic() - began < 4  # of 8
        assert service.job(job_id)["state"] == "cancelled"
        assert not (service.hdd / "Long over HTTP").exists()

        torrent = put(qbt, service.ssd, "Small over HTTP", FILES, category="c")
        (service.hdd / "c/Small over HTTP").mkdir(parents=True)
        (service.hdd / "c/Small over HTTP/a").write_bytes(b"foreign")
        job_id = service.notify(torrent.id).json()["queue_id"]
        job = service.wait_for_job(job_id, "failed")
        assert job["error_code"] == "destination_conflict"
        answer = service.http.post(f"/jobs/{job_id}/retry", json={"on_conflict": "set_aside"})
        assert answer.status_code == 202, answer.text
        assert service.wait_for_job(job_id, "done", "failed")["state"] == "done"
        names = sorted(p.name for p in (service.hdd / "c/Small over HTTP").iterdir())
        assert names[0] == "a"
        assert names[1].startswith("a.qbm-conflict-")
        assert names[2:] == ["b", "c"]


# -- dry run ---------------------------------------------------------------------------


def planned(service: Service, job_id: str) -> bool:
    """Whether the log has the plan of a job, or why there is none."""
    return any(
        "dry run: " in line and f"[job {job_id} " in line for line in service.output().splitlines()
    )


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(qbt: Qbt, tmp_path: Path) -> None:
    with serving(tmp_path, qbt.url, DRY_RUN="true") as service:
        torrent = put(qbt, service.ssd, "Pretended", FILES, category="tv")
        before = sorted(below(service.ssd))
        job_id = service.notify(torrent.id).json()["queue_id"]
        unknown = service.notify("ef" * 20).json()["queue_id"]

        service.wait_for(lambda: planned(service, job_id), "its plan is logged")
        service.wait_for(lambda: planned(service, unknown), "the other's too")

        assert "would copy 90000 bytes in 3 files to" in service.output()
        assert str(service.hdd / "tv/Pretended") in service.output()
        assert service.job(job_id)["state"] == "queued"
        assert list(service.hdd.iterdir()) == []
        assert sorted(below(service.ssd)) == before
        assert tags(qbt, torrent.id) == set()
        assert service.http.get("/health").json()["status"] == "healthy"
        assert service.stop() == 0
    # The jobs are there when it is meant seriously.
    with serving(tmp_path, qbt.url) as service:
        assert service.wait_for_job(job_id, "done")["outcome"] == "tiered"
