"""What the service says of itself comes from memory, at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from qbm_trio.adapters import journal_facts
from qbm_trio.core.errors import FailingDisk, QbittorrentUnreachable
from qbm_trio.core.model import JobState, WaitReason
from qbm_trio.core.overview import Condition
from tests.fakes.qbittorrent import FakeQbittorrent, away
from tests.rig.inside import condition, inside, make


async def test_health_names_what_is_wrong_without_a_call(tmp_path: Path) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        observer = service.service.observer
        await condition(lambda: observer.health().status == "healthy")
        assert (await observer.overview()).degraded_by == set()
        calls = fake.requests
        fake.down = away()
        await condition(lambda: service.service.tiers.hdd.marker)
        with pytest.raises(QbittorrentUnreachable):
            await fake.torrents()
        health = observer.health()
        assert health.status == "degraded"
        assert (await observer.overview()).degraded_by == {Condition.QBITTORRENT}
        assert "qBittorrent" in health.problems[0]
        assert str(tmp_path) not in str(health)
        assert fake.requests == calls + 1
        service.service.jobs.draining = True
        assert observer.health().status == "draining"
        service.service.jobs.draining = False


async def test_the_overview_shows_jobs_where_they_are(tmp_path: Path) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake, QUEUE_CAPACITY="7", HDD_MIN_FREE_GB="5") as service:
        id_ = fake.add(make(service.ssd, "T", 50_000).data, save_path=str(service.ssd))
        waiting = await service.waits(await service.notify("ab" * 20))
        done = await service.tier(id_)
        overview = await service.service.observer.overview()
        assert (overview.queue.size, overview.queue.capacity) == (0, 7)
        assert overview.queue.waiting == 1
        assert overview.jobs.waiting[WaitReason.UNKNOWN_TORRENT] == 1
        assert {s: n for s, n in overview.jobs.by_state.items() if n} == {
            JobState.WAITING: 1,
            JobState.DONE: 1,
        }
        assert overview.hdd_min_free_bytes == 5_000_000_000
        assert waiting.id not in {job.id for job in overview.recent}
        assert [(job.id, job.state) for job in overview.recent] == [(done.id, JobState.DONE)]
        assert overview.running == ()
        assert overview.statistics["torrents_processed"] == 1
        assert overview.statistics["bytes_copied"] == 50_000
        assert overview.statistics["bytes_verified"] == 50_000
        assert overview.uptime_s >= 0
        assert not overview.dry_run
        assert overview.ssd.path == str(service.ssd)
        assert overview.hdd.free_bytes


async def test_counters_outlive_the_service_and_count_once(tmp_path: Path) -> None:
    for expected in (5, 10):
        async with inside(tmp_path, client=FakeQbittorrent()) as service:
            observer = service.service.observer
            observer.api_requests = 5
            for _ in range(2):
                await observer.save_counters()
                overview = await observer.overview()
                assert overview.statistics["api_requests"] == expected
            assert (await service.journal.do(journal_facts.counters))["api_requests"] == expected


async def test_counters_saved_twice_at_once_count_once(tmp_path: Path) -> None:
    async with inside(tmp_path, client=FakeQbittorrent()) as service:
        observer = service.service.observer
        observer.api_requests = 5
        async with trio.open_nursery() as nursery:
            nursery.start_soon(observer.save_counters)
            nursery.start_soon(observer.save_counters)
        assert (await service.journal.do(journal_facts.counters))["api_requests"] == 5


async def test_what_degrades_the_service_is_named_by_a_word(tmp_path: Path) -> None:
    async with inside(tmp_path, client=FakeQbittorrent()) as service:
        observer = service.service.observer
        tiers = service.service.tiers
        await condition(lambda: tiers.ssd.marker and tiers.hdd.marker)
        await condition(lambda: observer.health().status == "healthy")
        for at_fault, word in ((tiers.ssd, Condition.SSD), (tiers.hdd, Condition.HDD)):
            # No probe that is under way takes it back.
            at_fault.troubled_by(FailingDisk("it answers with an I/O error"))
            assert (await observer.overview()).degraded_by == {word}
            at_fault.trouble = None
        service.journal.restored = "the journal was damaged and restored"
        assert (await observer.overview()).degraded_by == {Condition.JOURNAL_RESTORED}
        service.journal.restored, service.journal.problem = None, "the disk is full"
        assert observer._degraded_by() == {Condition.JOURNAL_UNWRITABLE}
        # A service that stops says so; what is wrong beside that is not forgotten.
        service.service.jobs.draining = True
        overview = await observer.overview()
        assert overview.status == "draining"
        service.service.jobs.draining = False
