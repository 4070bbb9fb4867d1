"""Disks that are away, full, read-only or the same one twice: jobs wait, and then go on."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from qbm_trio.adapters import journal_facts
from qbm_trio.adapters.copying import copy_and_verify
from qbm_trio.core.model import Job, JobState, Outcome, WaitReason
from qbm_trio.tasks import staging, tiering, tiers
from tests.rig.inside import Inside, condition, inside, put, tags
from tests.rig.mounts import bound, is_mounted, mount, mounted, run, unmount
from tests.rig.qbt import Qbt
from tests.rig.service import serving

pytestmark = [
    pytest.mark.qbittorrent,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount"),
]

MARKER = ".qbm-tier"


@pytest.fixture(autouse=True)
def frequent_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "PROBE_INTERVAL_S", 0.05)


@asynccontextmanager
async def on_small_hdd(
    tmp_path: Path, qbt: Qbt, size: str = "4m", **env: Any
) -> AsyncIterator[Inside]:
    with mounted(tmp_path / "hdd", size=size):
        async with inside(tmp_path, qbt.url, **env) as service:
            yield service


async def healthy(service: Inside) -> None:
    """The tiers are marked and all is well."""
    tiers_ = service.service.tiers
    await condition(
        lambda: (
            tiers_.ssd.marker
            and tiers_.hdd.marker
            and service.service.observer.health().status == "healthy"
        )
    )


async def degraded(service: Inside) -> None:
    await condition(lambda: service.service.observer.health().status == "degraded")


# -- markers -------------------------------------------------------------------------


async def test_markers_are_made_once_and_remembered(qbt: Qbt, tmp_path: Path) -> None:
    texts = []
    for _ in range(2):
        async with on_hdd_of_its_own(tmp_path, qbt) as service:
            await healthy(service)
            texts.append([(f / MARKER).read_text().strip() for f in (service.ssd, service.hdd)])
            for name, text in zip(("tier.ssd", "tier.hdd"), texts[-1], strict=True):
                known = await service.journal.do(partial(journal_facts.meta, name=name))
                assert known == text == str(uuid.UUID(text))
    assert texts[0] == texts[1]
    assert len(set(texts[0])) == 2


@asynccontextmanager
async def on_hdd_of_its_own(tmp_path: Path, qbt: Qbt, **env: Any) -> AsyncIterator[Inside]:
    """The HDD is a disk that is mounted at ``disk`` all the time."""
    if not is_mounted(tmp_path / "disk"):
        (tmp_path / "disk").mkdir()
        mount(tmp_path / "disk", size="16m")
    with bound(tmp_path / "disk", tmp_path / "hdd"):
        async with inside(tmp_path, qbt.url, **env) as service:
            yield service


@pytest.fixture(autouse=True)
def nothing_stays_mounted(tmp_path: Path) -> Iterator[None]:
    yield
    for folder in (tmp_path / "hdd", tmp_path / "disk"):
        if is_mounted(folder):
            unmount(folder)


# -- a disk that is away --------------------------------------------------------------


async def test_without_its_disk_jobs_wait_nothing_is_written_and_they_go_on_by_themselves(
    qbt: Qbt, tmp_path: Path
) -> None:
    async with on_hdd_of_its_own(tmp_path, qbt) as service:
        torrent = put(qbt, service.ssd, "Patient", {"a": 40_000, "b": 1})
        await healthy(service)
        unmount(service.hdd)
        await degraded(service)
        (problem,) = service.service.observer.health().problems
        assert "HDD" in problem
        assert "/" not in problem
        calls = service.service.client.requests

        job = await service.waits(await service.notify(torrent.id))

        assert job.wait_reason is WaitReason.TIER
        assert str(service.hdd) in (job.error or "")
        assert job.attempts == 0
        assert list(service.hdd.iterdir()) == []  # the folder below the mount
        assert service.service.client.requests == calls
        overview = await service.service.observer.overview()
        assert overview.queue.waiting == 1
        assert overview.hdd.problem is not None

        run("mount", "--bind", str(tmp_path / "disk"), str(service.hdd))
        job = await service.ended(job.id)  # nobody woke it
        assert job.outcome is Outcome.TIERED, job.error
        assert service.contents().keys() == {"Patient/a", "Patient/b"}
        await healthy(service)


async def test_a_disk_that_goes_away_during_a_copy_gets_the_copy_when_it_is_back(
    qbt: Qbt, tmp_path: Path
) -> None:
    async with on_hdd_of_its_own(tmp_path, qbt, COPY_RATE_LIMIT_MB_S="4") as service:
        torrent = put(qbt, service.ssd, "Torn", 6_000_000)
        job_id = await service.notify(torrent.id)
        running_jobs = service.service.workers.running
        await condition(
            lambda: job_id in running_jobs and running_jobs[job_id].progress.bytes_done > 0
        )
        unmount(service.hdd)

        job = await service.waits(job_id)
        await degraded(service)

        assert job.wait_reason is WaitReason.TIER
        assert list(service.hdd.iterdir()) == []
        assert tags(qbt, torrent.id) == set()

        run("mount", "--bind", str(tmp_path / "disk"), str(service.hdd))
        assert (await service.ended(job_id)).outcome is Outcome.TIERED
        assert service.contents() == {"Torn": (service.ssd / "Torn").read_bytes()}
        assert service.staging() == []


@pytest.mark.parametrize("moment", ["prepare_staging", "copy_and_verify"])
async def test_a_disk_that_goes_away_after_it_was_looked_for_gets_nothing_below_its_mount_point(
    qbt: Qbt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Even if an older staging of the same job stands there."""
    module = {"prepare_staging": staging, "copy_and_verify": tiering}[moment]
    real = getattr(module, moment)
    async with on_hdd_of_its_own(tmp_path, qbt) as service:
        torrent = put(qbt, service.ssd, f"Late {moment}", {"a": 40_000, "sub/b": 1})
        went = False

        async def goes_away(*arguments: Any, **more: Any) -> Any:
            nonlocal went
            if not went:
                went = True
                staged = [path.relative_to(service.hdd) for path in service.hdd.rglob("*/*/*")]
                unmount(service.hdd)
                for path in staged:
                    (service.hdd / path).mkdir(parents=True)
            return await real(*arguments, **more)

        monkeypatch.setattr(module, moment, goes_away)
        job = await service.waits(await service.notify(torrent.id))
        assert went
        assert job.wait_reason is WaitReason.TIER
        assert "is not mounted" in (job.error or "")
        left = [path for path in service.hdd.rglob("*") if not path.is_dir()]
        assert left == []
        if moment == "prepare_staging":
            assert list(service.hdd.iterdir()) == []

        run("mount", "--bind", str(tmp_path / "disk"), str(service.hdd))
        await healthy(service)
        service.wake_all()
        assert (await service.ended(job.id)).outcome is Outcome.TIERED
        assert service.contents().keys() == {f"Late {moment}/{name}" for name in ("a", "sub/b")}


async def test_what_a_cancelled_job_has_on_a_disk_that_is_away_goes_when_it_is_back(
    qbt: Qbt, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with on_hdd_of_its_own(tmp_path, qbt, COPY_RATE_LIMIT_MB_S="4") as service:
        torrent = put(qbt, service.ssd, "Given up", 6_000_000)
        job_id = await service.notify(torrent.id)
        running_jobs = service.service.workers.running
        await condition(
            lambda: job_id in running_jobs and running_jobs[job_id].progress.bytes_done > 0
        )
        unmount(service.hdd)
        await service.waits(job_id)
        await service.service.jobs.cancel(job_id)
        await condition(
            lambda: any(
                r.getMessage().startswith("staging is left for now")
                and getattr(r, "job_id", None) == job_id
                for r in caplog.records
            )
        )
        assert list((tmp_path / "disk/.qbm-staging").glob("*/*"))
        run("mount", "--bind", str(tmp_path / "disk"), str(service.hdd))
        await condition(lambda: not (service.hdd / ".qbm-staging").exists())
        assert service.contents() == {}


@pytest.mark.parametrize("tier", ["ssd", "hdd"])
async def test_another_disk_at_the_same_place_is_not_written_to(
    qbt: Qbt, tmp_path: Path, tier: str
) -> None:
    async with inside(tmp_path, qbt.url) as service:
        torrent = put(qbt, service.ssd, f"Swapped {tier}", 20_005)
        await healthy(service)
        with mounted(tmp_path / tier) as other:
            (other / MARKER).write_text(f"{uuid.uuid4()}\n")
            job = await service.waits(await service.notify(torrent.id))
            assert job.wait_reason is WaitReason.TIER
            assert "another disk" in (job.error or "")
            assert [p.name for p in other.iterdir()] == [MARKER]
            await degraded(service)
        assert (await service.ended(job.id)).outcome is Outcome.TIERED


async def test_a_start_without_the_disk_waits_for_it(qbt: Qbt, tmp_path: Path) -> None:
    async with on_hdd_of_its_own(tmp_path, qbt) as service:
        await healthy(service)
    async with inside(tmp_path, qbt.url) as service:  # the HDD's folder, without its disk
        torrent = put(qbt, service.ssd, "Early", 20_006)
        job = await service.waits(await service.notify(torrent.id))
        assert job.wait_reason is WaitReason.TIER
        await degraded(service)
        assert list(service.hdd.iterdir()) == []
        run("mount", "--bind", str(tmp_path / "disk"), str(service.hdd))
        assert (await service.ended(job.id)).outcome is Outcome.TIERED


async def test_a_read_only_disk_is_waited_for(qbt: Qbt, tmp_path: Path) -> None:
    async with on_small_hdd(tmp_path, qbt) as service:
        torrent = put(qbt, service.ssd, "Read-only", 20_007)
        await healthy(service)
        run("mount", "-o", "remount,ro", str(service.hdd))
        job = await service.waits(await service.notify(torrent.id))
        assert job.wait_reason is WaitReason.TIER
        assert "read-only" in (job.error or "")
        assert job.attempts == 0
        await degraded(service)
        assert service.service.observer.health().problems == ("the HDD's disk is read-only",)
        run("mount", "-o", "remount,rw", str(service.hdd))
        assert (await service.ended(job.id)).outcome is Outcome.TIERED


async def test_health_over_http_names_no_path(qbt: Qbt, tmp_path: Path) -> None:
    def check() -> None:
        with mounted(tmp_path / "hdd"), serving(tmp_path, qbt.url) as service:
            service.wait_for((service.hdd / MARKER).exists, "the tiers are marked")
            unmount(service.hdd)
            job_id = service.notify("ab" * 20).json()["queue_id"]
            job = service.wait_for_job(job_id, "waiting")
            assert job["wait_reason"] == "tier"
            health = service.wait_for(
                lambda: (h := service.http.get("/health").json())["status"] == "degraded" and h,
                "it is degraded",
            )
            assert str(tmp_path) not in str(health)
            status = service.http.get("/status").json()
            assert status["queue"]["waiting_retry"] == 1

    await trio.to_thread.run_sync(check)


# -- one place under two names ------------------------------------------------------------


async def test_an_alias_that_appears_later_is_refused(qbt: Qbt, tmp_path: Path) -> None:
    """The markers were made while the disks were apart; a copied marker proves nothing."""
    async with inside(tmp_path, qbt.url) as service:
        torrent = put(qbt, service.ssd, "Later", {"a": 20_009})
        await healthy(service)
        (service.hdd / "cat").mkdir()
        qbt.api.torrents_create_category("cat")
        qbt.api.torrents_set_category("cat", torrent.id)
        with bound(service.ssd, service.hdd / "cat"):
            before = (service.ssd / "Later/a").stat()
            job = await service.waits(await service.notify(torrent.id))
            assert job.wait_reason is WaitReason.TIER
            assert "one file" in (job.error or "") or "same files" in (job.error or "")
            after = (service.ssd / "Later/a").stat()
            assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
            assert tags(qbt, torrent.id) == set()


async def test_a_pool_that_contains_the_ssd_is_no_hdd(qbt: Qbt, tmp_path: Path) -> None:
    for name in ("ssd", "disk", "hdd"):
        (tmp_path / name).mkdir()
    with mounted(tmp_path / "disk"):
        run("mergerfs", f"{tmp_path / 'disk'}:{tmp_path / 'ssd'}", str(tmp_path / "hdd"))
        try:
            async with inside(tmp_path, qbt.url) as service:
                torrent = put(qbt, service.ssd, "Pooled", {"a": 20_010})
                job = await service.waits(await service.notify(torrent.id))
                assert job.wait_reason is WaitReason.TIER, job
                assert service.service.observer.health().problems == (
                    "both tiers show the same files",
                )
                assert (service.ssd / "Pooled/a").exists()
                assert not (tmp_path / "disk/Pooled").exists()
        finally:
            unmount(tmp_path / "hdd")


async def test_a_pool_of_other_disks_is_a_fine_hdd(qbt: Qbt, tmp_path: Path) -> None:
    for name in ("one", "two", "hdd"):
        (tmp_path / name).mkdir()
    with mounted(tmp_path / "one"), mounted(tmp_path / "two", size="8m"):
        (tmp_path / "one/tv").mkdir()  # existing paths keep their files on one member
        branches = f"{tmp_path / 'one'}:{tmp_path / 'two'}"
        run(
            "mergerfs",
            "-o",
            "category.create=epmfs,minfreespace=0",
            branches,
            str(tmp_path / "hdd"),
        )
        try:
            async with inside(tmp_path, qbt.url) as service:
                torrents = [
                    put(qbt, service.ssd, f"In the pool {n}", {"a": 50_000, "sub/b": 1}, seed=n,
                        category=category)
                    for n, category in enumerate(["", "tv", "films"])
                ]  # fmt: skip
                for torrent in torrents:
                    job = await service.tier(torrent.id)
                    assert job.outcome is Outcome.TIERED, job.error
                assert len(service.contents()) == 6
                assert service.staging() == []
                assert list((tmp_path / "one").rglob(".qbm-staging")) == []
        finally:
            unmount(tmp_path / "hdd")


async def test_both_tiers_on_one_file_system_is_only_a_warning(
    qbt: Qbt, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with inside(tmp_path, qbt.url) as service:
        torrent = put(qbt, service.ssd, "Near", 20_011)
        assert (await service.tier(torrent.id)).outcome is Outcome.TIERED
        assert caplog.text.count("both tiers are on one file system") == 1
        assert service.service.observer.health().status == "healthy"


# -- room ------------------------------------------------------------------------------------


async def test_a_job_without_room_waits_others_that_fit_go_on(qbt: Qbt, tmp_path: Path) -> None:
    async with on_small_hdd(tmp_path, qbt) as service:
        (service.hdd / "filler").write_bytes(bytes(2_000_000))
        big = put(qbt, service.ssd, "Big", 3_000_000, seed=1)
        small = put(qbt, service.ssd, "Small", 500_000, seed=2)

        job = await service.waits(await service.notify(big.id))

        assert job.wait_reason is WaitReason.SPACE
        assert "3000000 bytes are needed" in (job.error or "")
        assert job.attempts == 0
        assert (await service.tier(small.id)).outcome is Outcome.TIERED
        # Another job's end made it look again: still no room.
        job = await service.waits(job.id, again_after=job)
        overview = await service.service.observer.overview()
        assert overview.queue.waiting == 1
        assert service.staging() == []
        assert job.wait_reason is WaitReason.SPACE
        (service.hdd / "filler").unlink()
        job = await looked_at(service, job)
        assert job.outcome is Outcome.TIERED, job.error


async def looked_at(service: Inside, job: Job) -> Job:
    """The job's end, once its wait is over."""
    await condition(lambda: job.id in service.service.waits._deadlines)
    service.wake_all()
    return await service.ended(job.id)


async def test_what_is_to_stay_free_stays_free(qbt: Qbt, tmp_path: Path) -> None:
    async with on_small_hdd(tmp_path, qbt, HDD_MIN_FREE_GB="0.002") as service:
        too_big = put(qbt, service.ssd, "Too big", 2_500_000, seed=1)
        fits = put(qbt, service.ssd, "Fits", 1_500_000, seed=2)
        job = await service.waits(await service.notify(too_big.id))
        assert job.wait_reason is WaitReason.SPACE
        assert "HDD_MIN_FREE_GB" in (job.error or "")
        assert (await service.tier(fits.id)).outcome is Outcome.TIERED
        free = os.statvfs(service.hdd)
        assert free.f_bavail * free.f_frsize >= 2_000_000


async def test_room_promised_to_a_running_job_is_not_given_twice(qbt: Qbt, tmp_path: Path) -> None:
    async with on_small_hdd(
        tmp_path, qbt, COPY_RATE_LIMIT_MB_S="4", MAX_CONCURRENT_COPY_OPERATIONS="2"
    ) as service:
        torrents = [put(qbt, service.ssd, f"Half {n}", 2_500_000, seed=n) for n in range(2)]
        ids = [await service.notify(t.id) for t in torrents]
        await condition(service.service.jobs.live.waiting)
        (waits,) = service.service.jobs.live.waiting()
        assert waits.wait_reason is WaitReason.SPACE
        assert "promised to running jobs" in (waits.error or "")
        (other,) = set(ids) - {waits.id}
        assert (await service.service.jobs.get(other)).state is JobState.RUNNING
        assert (await service.ended(other)).outcome is Outcome.TIERED


async def test_a_disk_that_fills_up_during_the_copy_is_waited_for_and_given_its_room_back(
    qbt: Qbt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with on_small_hdd(tmp_path, qbt) as service:
        torrent = put(qbt, service.ssd, "Squeezed", 2_500_000)

        async def squeezed(*arguments: Any, **more: Any) -> Any:
            filler = service.hdd / "filler"
            if not filler.exists():
                filler.write_bytes(bytes(2_500_000))
            return await copy_and_verify(*arguments, **more)

        monkeypatch.setattr("qbm_trio.tasks.tiering.copy_and_verify", squeezed)

        job = await service.waits(await service.notify(torrent.id))

        assert job.wait_reason is WaitReason.SPACE
        assert job.attempts == 0
        assert service.staging() == []
        assert service.contents().keys() == {"filler"}
        (service.hdd / "filler").write_bytes(b"")
        assert (await looked_at(service, job)).outcome is Outcome.TIERED
