"""Bad sources, bad names and torrents that are not ready: a clear end, and nothing published."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import Any

import bencode2
import libtorrent as lt
import pytest
import trio
import trio.testing

from qbm_trio.core.model import JobState, Outcome, WaitReason
from qbm_trio.tasks import planning
from tests.fakes.qbittorrent import FakeQbittorrent
from tests.rig.inside import Inside, give, inside, make, put, tags
from tests.rig.qbt import Qbt
from tests.rig.torrents import Version
from tests.rig.trees import below

pytestmark = pytest.mark.qbittorrent

DOWNLOADING = {"stalledDL", "downloading"}
FILES = {"a": 40_000, "b": 30_000, "c": 20_000}


def nothing_was_written(service: Inside) -> bool:
    there = {str(path.relative_to(service.hdd)) for path in below(service.hdd)}
    return there - {".qbm-staging"} == {".qbm-tier"} and service.staging() == []


# -- the bytes on the SSD ------------------------------------------------------------


@pytest.mark.parametrize("version", list(Version))
@pytest.mark.parametrize("verification", ["pieces", "readback"])
async def test_a_file_corrupted_behind_qbittorrents_back_fails_naming_file_and_piece(
    qbt: Qbt, tmp_path: Path, version: Version, verification: str
) -> None:
    async with inside(tmp_path, qbt.url, VERIFICATION=verification) as service:
        name = f"Corrupt {version.value} {verification}"
        torrent = put(qbt, service.ssd, name, FILES, version=version)
        path = service.ssd / name / "b"
        data = bytearray(path.read_bytes())
        data[20_000] ^= 1  # of b: in the torrent's second piece of this file
        path.write_bytes(data)

        job = await service.tier(torrent.id)

        assert (job.state, job.error_code) == (JobState.FAILED, "source_corrupt")
        assert str(path) in (job.error or "")
        # 60,000 bytes from the start of all in version 1 (padding aligns b in a hybrid at
        # piece 3); version 2 counts within the file.
        numbers = {Version.V1: {3}, Version.V2: {1}, Version.HYBRID: {4, 1}}[version]
        assert any(f"piece {number}" in (job.error or "") for number in numbers)
        assert nothing_was_written(service)
        assert tags(qbt, torrent.id) == set()


async def test_with_verification_size_bad_bytes_are_copied_as_they_are(
    qbt: Qbt, tmp_path: Path
) -> None:
    async with inside(tmp_path, qbt.url, VERIFICATION="size") as service:
        torrent = put(qbt, service.ssd, "Unverified", FILES)
        (service.ssd / "Unverified/b").write_bytes(bytes(30_000))
        job = await service.tier(torrent.id)
        assert job.outcome is Outcome.TIERED, job.error
        assert service.contents()["Unverified/b"] == bytes(30_000)


@pytest.mark.parametrize("version", list(Version))
async def test_a_copy_that_is_read_back_is_as_good_as_its_source(
    qbt: Qbt, tmp_path: Path, version: Version
) -> None:
    async with inside(tmp_path, qbt.url, VERIFICATION="readback") as service:
        name = f"Read back {version.value}"
        torrent = put(qbt, service.ssd, name, {**FILES, "empty": 0}, version=version)
        assert (await service.tier(torrent.id)).outcome is Outcome.TIERED
        assert service.contents().keys() == {f"{name}/{n}" for n in (*FILES, "empty")}


async def test_a_truncated_or_vanished_file_fails_after_the_attempts_allowed(
    qbt: Qbt, tmp_path: Path
) -> None:
    async with inside(tmp_path, qbt.url, COPY_RETRY_ATTEMPTS="2") as service:
        short = put(qbt, service.ssd, "Short", FILES, seed=1)
        (service.ssd / "Short/b").write_bytes(b"cut")
        gone = put(qbt, service.ssd, "Gone", FILES, seed=2)
        (service.ssd / "Gone/b").unlink()
        ids = [await service.notify(t.id) for t in (short, gone)]
        for job_id, path in zip(ids, ("Short/b", "Gone/b"), strict=True):
            job = await service.ended(job_id)
            assert (job.state, job.error_code) == (JobState.FAILED, "source_changed")
            assert job.attempts == 2
            assert str(service.ssd / path) in (job.error or "")
        assert nothing_was_written(service)


# -- links ---------------------------------------------------------------------------


async def test_a_link_on_the_ssd_that_leaves_it_is_refused_one_that_stays_is_followed(
    qbt: Qbt, tmp_path: Path
) -> None:
    async with inside(tmp_path, qbt.url) as service:
        leaves = put(qbt, service.ssd, "Leaves", FILES, seed=1)
        secret = tmp_path / "secret"
        (service.ssd / "Leaves/b").rename(secret)
        (service.ssd / "Leaves/b").symlink_to(secret)
        folder = put(qbt, service.ssd, "Folder", {"sub/x": 20_000, "y": 1}, seed=2)
        (service.ssd / "Folder/sub").rename(tmp_path / "sub")
        (service.ssd / "Folder/sub").symlink_to(tmp_path / "sub")
        stays = put(qbt, service.ssd, "Stays", FILES, seed=3)
        (service.ssd / "Stays/b").rename(service.ssd / "elsewhere on the ssd")
        (service.ssd / "Stays/b").symlink_to("../elsewhere on the ssd")

        for torrent in (leaves, folder):
            job = await service.tier(torrent.id)
            assert (job.state, job.error_code) == (JobState.FAILED, "unsafe_path"), job
            assert nothing_was_written(service)
        assert (await service.tier(stays.id)).outcome is Outcome.TIERED
        assert not (service.hdd / "Stays/b").is_symlink()
        assert (service.hdd / "Stays/b").read_bytes() == (service.ssd / "Stays/b").read_bytes()


async def test_a_linked_folder_on_the_hdd_that_leaves_it_is_refused(
    qbt: Qbt, tmp_path: Path
) -> None:
    async with inside(tmp_path, qbt.url) as service:
        torrent = put(qbt, service.ssd, "Escaping", FILES, category="out")
        (tmp_path / "outside").mkdir()
        (service.hdd / "out").symlink_to(tmp_path / "outside")

        job = await service.tier(torrent.id)

        assert (job.state, job.error_code) == (JobState.FAILED, "unsafe_path")
        assert list((tmp_path / "outside").iterdir()) == []
        assert service.staging() == []


# -- names -----------------------------------------------------------------------------


async def test_a_category_that_climbs_out_fails_the_job_in_params_it_is_ignored(
    qbt: Qbt, tmp_path: Path
) -> None:
    async with inside(tmp_path, qbt.url) as service:
        # qBittorrent 4.5 takes such a category without a word.
        torrent = put(qbt, service.ssd, "Climber", FILES, category="../../etc")
        assert qbt.info(torrent.id)["category"] == "../../etc"
        job = await service.tier(torrent.id)
        assert (job.state, job.error_code) == (JobState.FAILED, "unsafe_path")
        assert "'../../etc'" in (job.error or "")
        assert nothing_was_written(service)
        assert not (tmp_path / "etc").exists()

        qbt.api.torrents_set_category("", torrent.id)
        await service.service.jobs.retry(job.id, on_conflict=job.on_conflict)
        assert (await service.ended(job.id)).outcome is Outcome.TIERED


@pytest.mark.parametrize(
    "category", ["..", "a/../../b", "/etc", "a\0b", "a//b", ".qbm-staging/x", "x" * 256]
)
async def test_no_category_leads_out_of_the_hdd(tmp_path: Path, category: str) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        made = make(service.ssd, "T", FILES)
        torrent_id = fake.add(made.data, save_path=str(service.ssd), category=category)
        job = await service.tier(torrent_id)
        assert (job.state, job.error_code) == (JobState.FAILED, "unsafe_path"), job
        assert nothing_was_written(service)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../../up", "a/../../b", "T/nul\0", "T/" + "n" * 256]
)
async def test_no_file_name_of_qbittorrents_leads_out_of_the_hdd(tmp_path: Path, name: str) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        made = make(service.ssd, "T", FILES)
        torrent_id = fake.add(made.data, save_path=str(service.ssd))
        fake.change_file(torrent_id, 1, name=PurePosixPath(name))
        job = await service.tier(torrent_id)
        assert (job.state, job.error_code) == (JobState.FAILED, "unsafe_path"), job
        assert nothing_was_written(service)


HOSTILE = [["..", "..", "up"], ["/etc/passwd"], ["", "x"], ["a", "..", "b"]]


def hostile(path: list[str], data: bytes) -> bytes:
    info = {
        b"files": [{b"length": len(data), b"path": [p.encode() for p in path]}],
        b"name": b"Hostile",
        b"piece length": 16384,
        b"pieces": b"".join(
            hashlib.sha1(data[at : at + 16384]).digest() for at in range(0, len(data), 16384)
        ),
    }
    return bytes(bencode2.bencode({b"info": info}))


@pytest.mark.parametrize("path", HOSTILE, ids=["climbs", "absolute", "empty", "climbs within"])
async def test_a_torrent_whose_own_names_climb_out_is_refused(
    qbt: Qbt, tmp_path: Path, path: list[str]
) -> None:
    """libtorrent makes such names harmless; the .torrent itself is refused all the same."""
    data = b"".join(p.encode() for p in path) * 4000
    async with inside(tmp_path, qbt.url) as service:
        torrent_id = qbt.add(hostile(path, data), save_path=service.ssd, is_paused=True)
        (file,) = qbt.wait_for(lambda: qbt.api.torrents_files(torrent_id), "its file is listed")
        target = service.ssd / file["name"]
        assert ".." not in target.parts  # what libtorrent made of it
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        qbt.api.torrents_recheck(torrent_id)
        qbt.wait_for(lambda: qbt.info(torrent_id)["progress"] == 1, "it is complete")

        job = await service.tier(torrent_id)

        assert (job.state, job.error_code) == (JobState.FAILED, "bad_metainfo"), job
        assert nothing_was_written(service)


async def test_the_torrent_of_another_is_refused(tmp_path: Path) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        made = [make(service.ssd, name, FILES) for name in ("One", "Two")]
        one, two = [fake.add(m.data, save_path=str(service.ssd)) for m in made]
        fake._metainfo[one] = fake._metainfo[two]
        job = await service.tier(one)
        assert (job.state, job.error_code) == (JobState.FAILED, "bad_metainfo")
        assert nothing_was_written(service)


# -- places and readiness ------------------------------------------------------------------


async def test_a_torrent_that_is_on_the_hdd_already_is_tagged_and_done(
    qbt: Qbt, tmp_path: Path
) -> None:
    async with inside(tmp_path, qbt.url) as service:
        torrent = put(qbt, service.hdd / "there", "Old", FILES)
        job = await service.tier(torrent.id)
        assert (job.state, job.outcome) == (JobState.DONE, Outcome.ALREADY_ON_HDD)
        assert tags(qbt, torrent.id) == {"hdd"}
        assert service.contents().keys() == {f"there/Old/{n}" for n in FILES}


async def test_without_tagging_nothing_is_written_in_qbittorrent(qbt: Qbt, tmp_path: Path) -> None:
    for setting in ("ENABLE_LOCATION_TAGGING", "AUTO_TAG_NEW_TORRENTS"):
        env: dict[str, Any] = {setting: "false"}
        async with inside(tmp_path / setting, qbt.url, **env) as service:
            torrent = put(qbt, service.ssd, f"No {setting}", FILES)
            assert (await service.tier(torrent.id)).outcome is Outcome.TIERED
            assert tags(qbt, torrent.id) == set()


async def test_the_tags_are_those_of_the_settings(qbt: Qbt, tmp_path: Path) -> None:
    async with inside(
        tmp_path, qbt.url, SSD_LOCATION_TAG="schnell", HDD_LOCATION_TAG="sicher"
    ) as service:
        torrent = put(qbt, service.ssd, "Tagged", FILES)
        assert (await service.tier(torrent.id)).outcome is Outcome.TIERED
        assert tags(qbt, torrent.id) == {"schnell", "sicher"}


async def test_an_unknown_hash_is_waited_for_then_fails(
    qbt: Qbt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with inside(tmp_path, qbt.url) as service:
        job_id = await service.notify("ab" * 20)
        job = await service.waits(job_id)
        assert job.wait_reason is WaitReason.UNKNOWN_TORRENT
        assert job.attempts == 0

        monkeypatch.setattr(planning, "UNKNOWN_FOR_S", 0.0)
        service.wake_all()
        job = await service.ended(job_id)
        assert (job.state, job.error_code) == (JobState.FAILED, "unknown_torrent")
        assert "ab" * 20 in (job.error or "")


async def test_a_hash_that_becomes_known_meanwhile_is_tiered(qbt: Qbt, tmp_path: Path) -> None:
    async with inside(tmp_path, qbt.url) as service:
        made = make(service.ssd, "Late", FILES)
        job_id = await service.notify(made.infohash_v1 or "")
        assert (await service.waits(job_id)).wait_reason is WaitReason.UNKNOWN_TORRENT
        give(qbt, made, service.ssd)
        service.wake_all()
        assert (await service.ended(job_id)).outcome is Outcome.TIERED


async def test_an_incomplete_torrent_is_waited_for_wherever_its_data_is_now(
    qbt: Qbt, tmp_path: Path
) -> None:
    async with inside(tmp_path, qbt.url) as service:
        made = make(service.ssd, "Unfinished", FILES)
        data = (service.ssd / "Unfinished/b").read_bytes()
        (service.ssd / "Unfinished/b").unlink()
        torrent_id = qbt.add(made.data, save_path=service.ssd)
        outside = make(tmp_path / "incomplete", "Outside", 30_000)
        (tmp_path / "incomplete/Outside").unlink()
        elsewhere_id = qbt.add(outside.data, save_path=tmp_path / "incomplete")
        qbt.wait_for(
            lambda: {qbt.info(id_)["state"] for id_ in (torrent_id, elsewhere_id)} <= DOWNLOADING,
            "they are checked",
        )
        jobs = [await service.notify(id_) for id_ in (torrent_id, elsewhere_id)]
        for job_id in jobs:
            job = await service.waits(job_id)
            assert job.wait_reason is WaitReason.NOT_READY, job
            assert "incomplete" in (job.error or "")
            assert job.attempts == 0

        (service.ssd / "Unfinished/b").write_bytes(data)
        qbt.api.torrents_recheck(torrent_id)
        qbt.wait_for(lambda: qbt.info(torrent_id)["progress"] == 1, "it is complete")
        # It looks again by itself, within seconds at first.
        job = await service.ended(jobs[0])
        assert job.outcome is Outcome.TIERED, job.error


@pytest.mark.parametrize(
    "state", ["moving", "checkingUP", "checkingResumeData", "missingFiles", "error"]
)
async def test_a_torrent_on_its_way_or_in_trouble_is_waited_for(tmp_path: Path, state: str) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        made = make(service.ssd, "Busy", FILES)
        torrent_id = fake.add(made.data, save_path=str(service.ssd))
        fake.change(torrent_id, state=state)
        job_id = await service.notify(torrent_id)
        job = await service.waits(job_id)
        assert job.wait_reason is WaitReason.NOT_READY
        # Still in its incomplete folder, outside the tiers: on its way, not outside.
        fake.change(torrent_id, content_path="/incomplete/Busy")
        job = await service.look_again(job)
        assert job.wait_reason is WaitReason.NOT_READY

        fake.change(torrent_id, state="stoppedUP", content_path=str(service.ssd / "Busy"))
        service.wake_all()
        assert (await service.ended(job_id)).outcome is Outcome.TIERED


async def test_an_unfinished_file_name_means_that_the_torrent_is_not_whole(
    qbt: Qbt, tmp_path: Path
) -> None:
    qbt.api.app_set_preferences({"incomplete_files_ext": True})
    try:
        async with inside(tmp_path, qbt.url, COPY_RETRY_ATTEMPTS="1") as service:
            torrent = put(qbt, service.ssd, "Named", FILES)
            path = service.ssd / "Named/b"
            path.rename(path.with_name("b.!qB"))
            job = await service.tier(torrent.id)
            assert (job.state, job.error_code) == (JobState.FAILED, "source_changed")
            assert nothing_was_written(service)
    finally:
        qbt.api.app_set_preferences({"incomplete_files_ext": False})


# -- calls -------------------------------------------------------------------------------------


async def test_a_torrent_costs_four_calls_however_many_files_it_has(
    qbt: Qbt, tmp_path: Path
) -> None:
    async with inside(tmp_path, qbt.url) as service:
        few = put(qbt, service.ssd, "Few", {"a": 1}, seed=1)
        many = put(qbt, service.ssd, "Many", {f"{n}": n for n in range(300)}, seed=2)
        hybrid = put(qbt, service.ssd, "Hybrid", FILES, version=Version.HYBRID, seed=3)
        with trio.fail_after(20):
            while service.service.client.contact.web_api_version is None:
                await trio.testing.wait_all_tasks_blocked(0.01)
        for hash_ in (few.id, many.id, hybrid.made.infohash_v2 or ""):
            before = service.service.client.requests
            job = await service.tier(hash_)
            assert job.outcome is Outcome.TIERED, job.error
            assert service.service.client.requests - before == 4


def test_the_fixtures_describe_what_they_claim() -> None:
    """The hostile .torrent is well-formed but for its names."""
    for path in HOSTILE:
        assert lt.torrent_info(hostile(path, b"x" * 20_000)).num_files() == 1
