"""What the service says of itself comes from memory, at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from qbm_trio.adapters import journal_facts
from qbm_trio.core.errors import QbittorrentUnreachable
from qbm_trio.core.model import JobState
from tests.fakes.qbittorrent import FakeQbittorrent, away
from tests.rig.inside import condition, inside, make


async def test_health_names_what_is_wrong_without_a_call(tmp_path: Path) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        observer = service.service.observer
        await condition(lambda: observer.health().status == "healthy")
        calls = fake.requests
        fake.down = away()
        await condition(lambda: service.service.tiers.hdd.marker)
        with pytest.raises(QbittorrentUnreachable):
            await fake.torrents()
        health = observer.health()
        assert health.status == "degraded"
        assert "qBittorrent" in health.problems[0]
        assert str(tmp_path) not in str(health)
        assert fake.requests == calls + 1
        service.service.jobs.draining = True
        assert observer.health().status == "draining"
        service.service.jobs.draining = False


async def test_the_overview_shows_jobs_where_they_are(tmp_path: Path) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake, QUEUE_CAPACITY="7") as service:
        id_ = fake.add(make(service.ssd, "T", 50_000).data, save_path=str(service.ssd))
        waiting = await service.waits(await service.notify("ab" * 20))
        done = await service.tier(id_)
        overview = await service.service.observer.overview()
        assert (overview.queue.size, overview.queue.capacity) == (0, 7)
        assert overview.queue.waiting == 1
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
