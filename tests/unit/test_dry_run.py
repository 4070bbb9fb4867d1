"""A dry run says what each job would do, once, and changes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from trio.testing import wait_all_tasks_blocked

from qbm_trio.core.model import JobState
from tests.fakes.qbittorrent import FakeQbittorrent, away
from tests.rig.inside import condition, inside, make

READS = {"version", "torrent", "files", "export", "find"}


async def test_each_job_is_described_once_and_stays_queued(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake, DRY_RUN="true") as service:
        torrents = {
            "On the SSD": "would copy 100 bytes in 1 file to",
            "On both": "would copy 0 bytes in 0 files to",
            "On the HDD": "nothing to copy, its data is on the HDD",
            "Outside": "set PATH_MAPPINGS",
            "Climbing": "cannot be used as a path",
        }
        folders = {"On the HDD": service.hdd, "Outside": tmp_path / "out"}
        jobs = []
        for number, name in enumerate(torrents):
            folder = folders.get(name, service.ssd)
            made = make(folder, name, 100, seed=number)
            if name == "On both":
                shutil.copy(folder / name, service.hdd)
            id_ = fake.add(
                made.data,
                save_path=str(folder),
                category="../.." if name == "Climbing" else "",
            )
            jobs.append(await service.notify(id_))
        await condition(lambda: all(said in caplog.text for said in torrents.values()))
        for job_id in jobs:
            assert (await service.service.jobs.get(job_id)).state is JobState.QUEUED
        assert caplog.text.count("would copy") == 2
        assert caplog.text.count("compare 1 file already there") == 1
        assert {str(name) for name, *_ in fake.calls} <= READS
        assert sorted(p.name for p in service.hdd.iterdir()) == ["On both", "On the HDD"]
        assert (await service.service.observer.overview()).dry_run
        assert ".qbm-tier" not in [p.name for p in service.ssd.iterdir()]


async def test_it_waits_for_qbittorrent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    fake = FakeQbittorrent()
    fake.down = away()
    async with inside(tmp_path, client=fake, DRY_RUN="true") as service:
        await condition(lambda: "qBittorrent: " in caplog.text)
        made = make(service.ssd, "T", 100)
        await service.notify(fake.add(made.data, save_path=str(service.ssd)))
        await wait_all_tasks_blocked()
        assert "dry run: " not in caplog.text, "neither a plan nor a warning"
        fake.down = None
        await condition(lambda: "would copy" in caplog.text)


async def test_while_qbittorrent_is_away_it_is_not_called_for_each_job(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake = FakeQbittorrent()
    fake.down = away()

    async def leave(call: str) -> None:
        fake.down = None if call in ("version", "changes") else away()

    async with inside(tmp_path, client=fake, DRY_RUN="true") as service:
        for n in range(9):
            await service.notify(f"{n:040x}")
        fake.before = leave
        await condition(lambda: "dry run: no connection" in caplog.text)
        await wait_all_tasks_blocked()
        assert caplog.text.count("dry run: no connection") == 1
