"""How much of the queue and of the past ``/status`` gathers."""

from __future__ import annotations

from functools import partial

from qbm_trio.core.model import Notification
from qbm_trio.core.relocation import RunId
from qbm_trio.core.space_runs import SpaceOverview
from qbm_trio.service import Service
from qbm_trio.settings import load
from tests.rig.journals import running


async def test_the_overview_has_the_head_of_the_queue_its_age_and_the_newest_of_the_past(
    environ: dict[str, str],
) -> None:
    settings, _ = load(environ)
    settings.state_dir.mkdir()
    now = 1000.0
    async with running(settings.state_dir) as journal:
        service = Service(settings, journal, "x")
        service.jobs._clock = lambda: now
        ids = []
        for n in range(25):
            now += 10
            ids.append((await service.jobs.accept(Notification(hash=f"{n:040x}"))).job.id)
        overview = await service.observer.overview()
        assert overview.queue.size == 25
        assert [job.id for job in overview.queue.items] == ids[:20]
        assert overview.queue.oldest_s == overview.now - 1010
        assert overview.recent == ()

        for job_id in ids:
            now += 10
            await service.jobs.cancel(job_id)
        overview = await service.observer.overview()
        assert (overview.queue.size, overview.queue.items) == (0, ())
        assert overview.queue.oldest_s is None
        assert [job.id for job in overview.recent] == ids[:4:-1]


async def test_space_management_is_asked_each_time(environ: dict[str, str]) -> None:
    settings, _ = load(environ)
    settings.state_dir.mkdir()
    async with running(settings.state_dir) as journal:
        service = Service(settings, journal, "x")
        for name in ("first", "second"):
            service.observer._space = partial(SpaceOverview, current_run=RunId(name))
            assert (await service.observer.overview()).space.current_run == name
