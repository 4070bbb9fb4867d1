"""What stands at the destination is adopted, set aside when it is ours, or left alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from qbm_trio.adapters import journal_copies
from qbm_trio.adapters.publishing import publish
from qbm_trio.core.model import JobId, JobState, OnConflict, Outcome, TorrentId
from tests.rig.inside import Inside, inside, put, tags
from tests.rig.qbt import Qbt
from tests.rig.trees import below

pytestmark = pytest.mark.qbittorrent

FILES = {"a": 40_000, "b": 30_000, "c": 20_000}


def snapshot(folder: Path) -> dict[str, tuple[int, int, int, bytes]]:
    return {
        str(p.relative_to(folder)): (s.st_ino, s.st_mtime_ns, s.st_mode, p.read_bytes())
        for p in below(folder)
        if p.is_file() and not p.name.startswith(".qbm-")
        for s in [p.stat()]
    }


def conflicts(folder: Path) -> list[Path]:
    return sorted(below(folder, "*.qbm-conflict-*"))


async def retry(service: Inside, job_id: JobId, on_conflict: OnConflict = OnConflict.FAIL) -> None:
    await service.service.jobs.retry(job_id, on_conflict=on_conflict)


async def test_identical_files_are_adopted_without_a_copy(qbt: Qbt, tmp_path: Path) -> None:
    async with inside(tmp_path, qbt.url) as service:
        torrent = put(qbt, service.ssd, "There", FILES)
        (service.hdd / "There").mkdir()
        for name in FILES:
            (service.hdd / "There" / name).write_bytes((service.ssd / "There" / name).read_bytes())
        before = snapshot(service.hdd)

        job = await service.tier(torrent.id)

        assert job.outcome is Outcome.TIERED, job.error
        assert (job.bytes_copied, job.bytes_total) == (0, 0)
        assert snapshot(service.hdd) == before
        assert tags(qbt, torrent.id) == {"ssd", "hdd"}
        files = partial(journal_copies.files, torrent_id=TorrentId(torrent.id))
        entries = await service.journal.do(files)
        assert [(e.path, e.ours) for e in entries] == [(f"There/{n}", False) for n in FILES]


async def test_only_what_is_missing_is_copied_beside_adopted_files(
    qbt: Qbt, tmp_path: Path
) -> None:
    async with inside(tmp_path, qbt.url) as service:
        torrent = put(qbt, service.ssd, "Half", FILES)
        (service.hdd / "Half").mkdir()
        (service.hdd / "Half/b").write_bytes((service.ssd / "Half/b").read_bytes())
        before = snapshot(service.hdd)

        job = await service.tier(torrent.id)

        assert job.outcome is Outcome.TIERED, job.error
        assert job.bytes_copied == 60_000
        assert snapshot(service.hdd)["Half/b"] == before["Half/b"]
        assert service.contents() == {
            f"Half/{n}": (service.ssd / "Half" / n).read_bytes() for n in FILES
        }


@pytest.mark.parametrize("content", [bytes(30_000), b"of another size"], ids=["same size", "other"])
async def test_a_foreign_file_that_differs_fails_the_job_and_nothing_is_touched(
    qbt: Qbt, tmp_path: Path, content: bytes
) -> None:
    async with inside(tmp_path, qbt.url) as service:
        torrent = put(qbt, service.ssd, f"Foreign {len(content)}", FILES)
        folder = service.hdd / f"Foreign {len(content)}"
        folder.mkdir()
        (folder / "b").write_bytes(content)
        before = snapshot(service.hdd)

        job = await service.tier(torrent.id)

        assert (job.state, job.error_code) == (JobState.FAILED, "destination_conflict")
        assert str(folder / "b") in (job.error or "")
        assert snapshot(service.hdd) == before
        assert tags(qbt, torrent.id) == set()
        assert service.staging() == []

        # Once more, unchanged: the same answer. Then its user gives it up.
        await retry(service, job.id)
        assert (await service.ended(job.id)).error_code == "destination_conflict"
        assert snapshot(service.hdd) == before
        await retry(service, job.id, OnConflict.SET_ASIDE)
        job = await service.ended(job.id)

        assert job.outcome is Outcome.TIERED, job.error
        (aside,) = conflicts(folder)
        assert aside.read_bytes() == content
        assert aside.name.startswith("b.qbm-conflict-")
        assert all(
            (folder / n).read_bytes() == (service.ssd / folder.name / n).read_bytes() for n in FILES
        )


async def test_what_is_no_file_at_the_destination_fails_the_job(qbt: Qbt, tmp_path: Path) -> None:
    async with inside(tmp_path, qbt.url) as service:
        folder = put(qbt, service.ssd, "Folder", FILES)
        (service.hdd / "Folder/b").mkdir(parents=True)
        file = put(qbt, service.ssd, "File", FILES, seed=1)
        (service.hdd / "File").write_text("a file where a folder should be")
        linked = put(qbt, service.ssd, "Linked", FILES, seed=2)
        (service.hdd / "Linked").mkdir()
        (service.hdd / "Linked/b").symlink_to("../elsewhere")
        for torrent in (folder, file, linked):
            job = await service.tier(torrent.id)
            assert (job.state, job.error_code) == (JobState.FAILED, "destination_conflict"), job
        assert service.contents() == {"File": b"a file where a folder should be"}


async def test_our_own_copy_that_went_bad_is_set_aside_and_tiered_anew(
    qbt: Qbt, tmp_path: Path
) -> None:
    async with inside(tmp_path, qbt.url) as service:
        torrent = put(qbt, service.ssd, "Rotten", FILES)
        assert (await service.tier(torrent.id)).outcome is Outcome.TIERED
        bad = bytearray((service.hdd / "Rotten/b").read_bytes())
        bad[15_000] ^= 1
        (service.hdd / "Rotten/b").write_bytes(bad)

    async with inside(tmp_path, qbt.url) as service:  # the journal remembers whose it is
        job = await service.tier(torrent.id)

        assert job.outcome is Outcome.TIERED, job.error
        assert job.bytes_copied == 30_000
        (aside,) = conflicts(service.hdd)
        assert aside.read_bytes() == bad
        assert (service.hdd / "Rotten/b").read_bytes() == (service.ssd / "Rotten/b").read_bytes()


async def test_our_bad_copy_stays_while_its_source_is_bad_too(qbt: Qbt, tmp_path: Path) -> None:
    """It is moved only when what takes its place is verified."""
    async with inside(tmp_path, qbt.url) as service:
        torrent = put(qbt, service.ssd, "Both bad", 50_000)
        assert (await service.tier(torrent.id)).outcome is Outcome.TIERED
        (service.hdd / "Both bad").write_bytes(b"\1" * 50_000)
        (service.ssd / "Both bad").write_bytes(b"\2" * 50_000)
        before = snapshot(service.hdd)

        job = await service.tier(torrent.id)

        assert (job.state, job.error_code) == (JobState.FAILED, "source_corrupt")
        assert snapshot(service.hdd) == before


async def test_our_bad_copy_is_not_touched_when_a_file_beside_it_is_foreign(
    qbt: Qbt, tmp_path: Path
) -> None:
    async with inside(tmp_path, qbt.url) as service:
        torrent = put(qbt, service.ssd, "Mixed", FILES)
        qbt.api.torrents_file_priority(torrent.id, file_ids=[2], priority=0)
        assert (await service.tier(torrent.id)).outcome is Outcome.TIERED
        (service.hdd / "Mixed/a").write_bytes(bytes(40_000))
        (service.hdd / "Mixed/c").write_bytes(b"foreign")
        qbt.api.torrents_file_priority(torrent.id, file_ids=[2], priority=1)
        qbt.api.torrents_recheck(torrent.id)
        qbt.wait_for(lambda: qbt.info(torrent.id)["size"] == 90_000, "all is wanted")
        qbt.wait_for(lambda: qbt.info(torrent.id)["progress"] == 1, "it is complete")
        before = snapshot(service.hdd)

        job = await service.tier(torrent.id)

        assert (job.state, job.error_code) == (JobState.FAILED, "destination_conflict")
        assert str(service.hdd / "Mixed/c") in (job.error or "")
        assert snapshot(service.hdd) == before


async def test_a_category_changed_after_the_first_publishing_moves_nothing(
    qbt: Qbt, tmp_path: Path
) -> None:
    async with inside(tmp_path, qbt.url) as service:
        torrent = put(qbt, service.ssd, "Imported", FILES, category="sonarr")
        assert (await service.tier(torrent.id)).outcome is Outcome.TIERED
        before = snapshot(service.hdd)
        qbt.api.torrents_create_category("sonarr-imported")
        qbt.api.torrents_set_category("sonarr-imported", torrent.id)

        job = await service.tier(torrent.id)

        assert job.outcome is Outcome.TIERED, job.error
        assert job.bytes_copied == 0
        assert job.destination == "sonarr/Imported"
        assert snapshot(service.hdd) == before


async def test_the_category_is_qbittorrents_not_the_notifications(qbt: Qbt, tmp_path: Path) -> None:
    async with inside(tmp_path, qbt.url) as service:
        torrent = put(qbt, service.ssd, "Categorised", 20_004, category="real")
        job = await service.ended(
            await service.notify(torrent.id, category="../../etc", params={"category": "/etc"})
        )
        assert job.outcome is Outcome.TIERED, job.error
        assert list(service.contents()) == ["real/Categorised"]


async def test_a_file_that_another_torrent_has_too_is_not_set_aside_by_itself(
    qbt: Qbt, tmp_path: Path
) -> None:
    async with inside(tmp_path, qbt.url) as service:
        # The same files, described by two torrents (two trackers).
        first = put(qbt, service.ssd, "Shared", FILES)
        second = put(qbt, service.ssd, "Shared", FILES, piece_length=32 * 1024)
        assert first.id != second.id
        assert (await service.tier(first.id)).bytes_copied == 90_000
        assert (await service.tier(second.id)).bytes_copied == 0
        (service.hdd / "Shared/a").write_bytes(bytes(40_000))
        before = snapshot(service.hdd)

        for torrent in (first, second):
            job = await service.tier(torrent.id)
            assert (job.state, job.error_code) == (JobState.FAILED, "destination_conflict")
            assert "another torrent has it, too" in (job.error or "")
        assert snapshot(service.hdd) == before


async def test_two_torrents_of_the_same_files_at_once_share_one_copy(
    qbt: Qbt, tmp_path: Path
) -> None:
    async with inside(tmp_path, qbt.url, MAX_CONCURRENT_COPY_OPERATIONS="2") as service:
        both = [
            put(qbt, service.ssd, "Twins", {"a": 3_000_000}, piece_length=n * 16 * 1024)
            for n in (1, 2)
        ]
        ids = [await service.notify(t.id) for t in both]
        jobs = [await service.ended(job_id) for job_id in ids]

        assert [j.outcome for j in jobs] == [Outcome.TIERED] * 2, jobs
        assert service.contents() == {"Twins/a": (service.ssd / "Twins/a").read_bytes()}
        assert service.staging() == []


async def test_a_file_that_appears_during_the_copy_is_foreign_also_on_the_next_try(
    qbt: Qbt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the journal has only begun to publish does not make a file ours."""
    async with inside(tmp_path, qbt.url) as service:
        torrent = put(qbt, service.ssd, "Raced", FILES)

        async def late(*arguments: object, **more: object) -> None:
            path = service.hdd / "Raced/b"
            path.parent.mkdir(exist_ok=True)
            if not path.exists():
                path.write_bytes(b"foreign")
            await publish(*arguments, **more)  # type: ignore[arg-type]

        monkeypatch.setattr("qbm_trio.tasks.tiering.publish", late)

        job = await service.tier(torrent.id)

        assert (job.state, job.error_code) == (JobState.FAILED, "destination_conflict")
        assert str(service.hdd / "Raced/b") in (job.error or "")
        assert (service.hdd / "Raced/b").read_bytes() == b"foreign"
        assert conflicts(service.hdd) == []
        assert service.staging() == []
