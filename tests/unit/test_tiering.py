"""Tiering jobs against a qBittorrent whose troubles come at will."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from qbm_trio.adapters.copying import copy_and_verify
from qbm_trio.core.model import JobState, Outcome, WaitReason
from tests.fakes.qbittorrent import FakeQbittorrent, away
from tests.rig.inside import Inside, condition, inside, make
from tests.rig.torrents import Version

FILES = {"a": 40_000, "b": 20_000}


def add(fake: FakeQbittorrent, service: Inside, name: str, category: str = "") -> str:
    return fake.add(
        make(service.ssd, name, FILES).data, save_path=str(service.ssd), category=category
    )


async def test_a_job_is_four_calls_and_three_when_the_tags_are_there(tmp_path: Path) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        id_ = add(fake, service, "T")
        for last in (["add_tags"], []):
            del fake.calls[:]
            assert (await service.tier(id_)).outcome is Outcome.TIERED
            names = [str(name) for name, *_ in fake.calls if name != "version"]
            assert names == ["torrent", "files", "export", *last]


@pytest.mark.parametrize("call", ["torrent", "files", "export", "add_tags"])
async def test_qbittorrent_away_at_any_call_is_waited_for_and_counts_as_no_failure(
    tmp_path: Path, call: str
) -> None:
    fake = FakeQbittorrent()
    broken = True

    async def before(name: str) -> None:
        if name == call and broken:
            fake.failures = [away()]

    async with inside(tmp_path, client=fake) as service:
        id_ = add(fake, service, "T")
        await condition(lambda: fake.contact.reachable)
        fake.before = before
        job = await service.waits(await service.notify(id_))
        assert (job.wait_reason, job.attempts) == (WaitReason.QBITTORRENT, 0)
        assert service.staging() == []
        broken = False
        job = await service.ended(job.id)  # woken by the next good call
        assert job.outcome is Outcome.TIERED, job.error
        assert fake.tags(id_) == {"ssd", "hdd"}  # type: ignore[arg-type]
        assert service.contents().keys() == {"T/a", "T/b"}


async def test_no_call_is_made_while_a_disk_is_away(tmp_path: Path) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        id_ = add(fake, service, "T")
        await condition(lambda: service.service.tiers.hdd.marker)
        (service.hdd / ".qbm-tier").rename(tmp_path / "kept")
        job = await service.waits(await service.notify(id_))
        assert job.wait_reason is WaitReason.TIER
        assert [name for name, *_ in fake.calls if name != "version"] == []
        (tmp_path / "kept").rename(service.hdd / ".qbm-tier")
        service.wake_all()
        assert (await service.ended(job.id)).outcome is Outcome.TIERED


async def test_two_hashes_of_one_torrent_end_as_one_job(tmp_path: Path) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake, MAX_CONCURRENT_PROCESSES="1") as service:
        made = make(service.ssd, "H", FILES, version=Version.HYBRID)
        fake.add(made.data, save_path=str(service.ssd))
        hashes = (made.infohash_v1 or "", made.infohash_v2 or "")
        ids = [await service.notify(hash_) for hash_ in hashes]
        jobs = [await service.ended(job_id) for job_id in ids]
        assert sorted(job.state for job in jobs) == [JobState.DONE, JobState.MERGED]
        assert [name for name, *_ in fake.calls].count("export") == 1


async def test_a_category_changed_before_the_first_publishing_counts(tmp_path: Path) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        id_ = add(fake, service, "T", category="..")
        job = await service.tier(id_)
        assert job.error_code == "unsafe_path"
        fake.change(id_, category="good")  # type: ignore[arg-type]
        job = await service.tier(id_)
        assert job.destination == "good/T"


async def test_what_takes_our_bad_copys_place_while_it_is_copied_anew_is_not_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        id_ = add(fake, service, "T")
        assert (await service.tier(id_)).outcome is Outcome.TIERED
        place = service.hdd / "T/a"
        place.write_bytes(bytes(40_000))  # ours, gone bad

        async def replaced(*arguments: Any, **more: Any) -> Any:
            report = await copy_and_verify(*arguments, **more)
            place.unlink()
            place.write_bytes(b"foreign %d" % os.urandom(1)[0])
            return report

        monkeypatch.setattr("qbm_trio.tasks.tiering.copy_and_verify", replaced)
        job = await service.waits(await service.notify(id_))
        assert (job.wait_reason, job.attempts) == (WaitReason.RETRY, 1)
        assert "was not touched" in (job.error or "")
        assert place.read_bytes().startswith(b"foreign")
        assert service.contents().keys() == {"T/a", "T/b"}  # nothing set aside
        assert service.staging() == []
