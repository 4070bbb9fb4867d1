"""Tiering jobs against a qBittorrent whose troubles come at will."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib import import_module
from pathlib import Path, PurePath
from sqlite3 import Connection
from typing import Any

import pytest
import trio

from qbm_trio import logs
from qbm_trio.adapters import disk_calls, journal_copies
from qbm_trio.adapters.copying import copy_and_verify
from qbm_trio.adapters.disk import DiskSpace
from qbm_trio.adapters.publishing import publish
from qbm_trio.core.errors import DiskError
from qbm_trio.core.model import (
    Job,
    JobState,
    OnConflict,
    Outcome,
    TorrentId,
    Verification,
    WaitReason,
)
from qbm_trio.tasks.destinations import Destinations
from tests.fakes.qbittorrent import FakeQbittorrent, away
from tests.rig.inside import Inside, condition, inside, make
from tests.rig.torrents import Version

FILES = {"a": 40_000, "b": 20_000}


def add(fake: FakeQbittorrent, service: Inside, name: str, category: str = "") -> TorrentId:
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


@pytest.mark.parametrize(
    ("tags", "changes"),
    [
        ({"mine"}, [("add_tags", "hdd")]),
        ({"ssd", "mine"}, [("add_tags", "hdd"), ("remove_tags", "ssd")]),
        ({"ssd", "hdd", "mine"}, [("remove_tags", "ssd")]),
        ({"hdd", "mine"}, []),
    ],
)
async def test_a_torrent_on_the_hdd_keeps_no_tag_of_the_ssd_in_three_calls_at_most(
    tmp_path: Path, tags: set[str], changes: list[tuple[str, str]]
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        made = make(service.hdd, "T", FILES)
        id_ = fake.add(made.data, save_path=str(service.hdd))
        fake.change(id_, tags=frozenset(tags))
        assert (await service.tier(id_)).outcome is Outcome.ALREADY_ON_HDD
        assert fake.tags(id_) == {"hdd", "mine"}
        calls = [call for call in fake.calls if call[0] != "version"]
        assert calls == [("torrent", id_), *((name, (id_,), tag) for name, tag in changes)]


async def test_a_stale_tag_that_could_not_be_removed_is_removed_at_the_next_try(
    tmp_path: Path,
) -> None:
    fake = FakeQbittorrent()

    async def before(name: str) -> None:
        if name == "remove_tags":
            fake.before = None
            fake.failures = [away()]

    async with inside(tmp_path, client=fake) as service:
        made = make(service.hdd, "T", FILES)
        id_ = fake.add(made.data, save_path=str(service.hdd))
        fake.change(id_, tags=frozenset({"ssd"}))
        fake.before = before
        job = await service.ended(await service.notify(id_))  # woken by the next good call
        assert (job.outcome, job.attempts) == (Outcome.ALREADY_ON_HDD, 0)
        assert fake.tags(id_) == {"hdd"}


async def test_tags_that_were_set_right_during_the_first_copy_are_those_of_both_tiers_after_it(
    tmp_path: Path,
) -> None:
    fake = FakeQbittorrent()

    async def before(name: str) -> None:
        if name == "export":
            fake.before = None
            await service.service.tagging.tag_existing(dry_run=False)
            assert fake.tags(id_) == {"ssd"}  # as it is until the copy is there

    async with inside(tmp_path, client=fake) as service:
        id_ = add(fake, service, "T")
        fake.change(id_, tags=frozenset({"hdd"}))  # of an older tool
        fake.before = before
        assert (await service.tier(id_)).outcome is Outcome.TIERED
        assert fake.tags(id_) == {"ssd", "hdd"}


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
        assert fake.tags(id_) == {"ssd", "hdd"}
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


async def test_a_copy_that_waits_for_its_turn_says_so_and_its_rate_counts_from_its_begin(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        copies, another = service.service.tiering._copies, object()
        await copies.acquire_on_behalf_of(another)
        job_id = await service.notify(add(fake, service, "T"))
        await condition(lambda: "waits for its turn: another copy has the disk" in caplog.text)
        running = service.service.workers.running[job_id]
        assert "bytes to copy" not in caplog.text
        assert running.shown().eta_s is None
        before = trio.current_time()
        copies.release_on_behalf_of(another)
        assert (await service.ended(job_id)).outcome is Outcome.TIERED
        assert running.began_at_trio >= before
        assert "60000 bytes to copy" in caplog.text


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
        fake.change(id_, category="good")
        job = await service.tier(id_)
        assert job.destination == "good/T"


async def test_a_path_that_is_no_text_fails_its_job_and_not_the_service(tmp_path: Path) -> None:
    fake, odd = FakeQbittorrent(), os.fsdecode(b"caf\xe9")
    async with inside(tmp_path, client=fake) as service:
        (service.hdd / odd / "T").mkdir(parents=True)
        (service.hdd / odd / "T/a").write_text("foreign")
        (service.hdd / "films").symlink_to(odd)
        job = await service.tier(add(fake, service, "T", category="films"))
        assert (job.state, job.error_code) == (JobState.FAILED, "destination_conflict")
        assert "caf\\udce9/T/a exists" in (job.error or "")
        assert (await service.tier(add(fake, service, "U"))).outcome is Outcome.TIERED


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


async def test_what_grows_with_the_files_is_not_computed_on_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[int]] = {}
    for module, name in (
        ("planning", "save_root"),
        ("planning", "plan_files"),
        ("planning", "_shown"),
        ("destinations", "items_of"),
        ("stager", "items_of"),
        ("stager", "_fingerprint"),
        ("publication", "PublishItem"),
    ):
        watch_calls(
            monkeypatch,
            module,
            name,
            lambda name: seen.setdefault(name, set()).add(threading.get_ident()),
        )
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        assert (await service.tier(add(fake, service, "T"))).outcome is Outcome.TIERED
    assert len(seen) == 6
    assert threading.get_ident() not in set().union(*seen.values())


async def test_no_path_of_a_file_is_hashed_on_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That takes five microseconds: with 50,000 files a quarter of a second."""
    loop, hashed, real = threading.get_ident(), list[PurePath](), PurePath.__hash__

    def watched(self: PurePath) -> int:
        if threading.get_ident() == loop:
            hashed.append(self)
        return real(self)

    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        monkeypatch.setattr(PurePath, "__hash__", watched)
        id_ = add(fake, service, "T")
        for outcome in (Outcome.TIERED, Outcome.TIERED):  # copied, then adopted
            assert (await service.tier(id_)).outcome is outcome
    assert [path for path in hashed if path.name in FILES] == []


async def test_the_log_names_the_torrent_its_place_and_who_wished_to_retry(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    names: dict[str, str] = {}

    def note(record: logging.LogRecord) -> bool:
        names.setdefault(record.getMessage(), (logs._subject.get() or {}).get("torrent", ""))
        return True

    caplog.handler.addFilter(note)
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        (service.hdd / "T").mkdir()
        (service.hdd / "T/a").write_bytes(bytes(40_000))
        job_id = await service.notify(add(fake, service, "T"), name="a hint")
        assert (await service.ended(job_id)).state is JobState.FAILED
        await service.service.jobs.retry(job_id, on_conflict=OnConflict.SET_ASIDE)
        assert (await service.ended(job_id)).outcome is Outcome.TIERED
    assert f"published in {service.hdd / 'T'}: 2 files" in caplog.text
    (again,) = [r for r in caplog.records if "is to be retried" in r.getMessage()]
    assert (again.__dict__["job_id"], again.__dict__["torrent"]) == (job_id, "T")
    assert "is to be retried, on_conflict=set_aside" in caplog.text
    assert names["copying"] == "T"  # at the first try, too


# -- only the tags are left ------------------------------------------------------------


@asynccontextmanager
async def untagged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **env: str
) -> AsyncIterator[tuple[Inside, Job, list[str]]]:
    """A job that has published all and waits, since qBittorrent went away before the tags.

    Gives what reads the HDD after that, as it is called.
    """
    fake = FakeQbittorrent()
    broken = True

    async def before(name: str) -> None:
        if name == "add_tags" and broken:
            fake.failures = [away()]

    async with inside(tmp_path, client=fake, **env) as service:
        id_ = add(fake, service, "T")
        fake.before = before
        job = await service.waits(await service.notify(id_))
        assert job.bytes_copied == 60_000
        await service.until(job.id, lambda _: job.id in service.service.waits._deadlines)
        broken = False
        reads: list[str] = []
        for module, name in (("destinations", "identical"), ("tiering", "copy_and_verify")):
            watch_calls(monkeypatch, module, name, lambda name: reads.append(name))
        yield service, job, reads
        job = await service.ended(job.id)
        assert job.outcome is Outcome.TIERED, job.error
        assert fake.tags(TorrentId(id_)) == {"ssd", "hdd"}
        assert service.staging() == []


def watch_calls(
    monkeypatch: pytest.MonkeyPatch, module: str, name: str, note: Callable[[str], object]
) -> None:
    """Have ``note`` called with the name before each call of a function in ``tasks``."""
    real = getattr(import_module(f"qbm_trio.tasks.{module}"), name)

    def watched(*arguments: Any, **more: Any) -> Any:
        note(name)
        return real(*arguments, **more)

    monkeypatch.setattr(f"qbm_trio.tasks.{module}.{name}", watched)


async def test_a_failed_tag_call_does_not_have_the_copy_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with untagged(tmp_path, monkeypatch) as (service, job, reads):
        (service.hdd / f".qbm-staging/{service.service.tiers.instance_id}/{job.id}").mkdir(
            parents=True  # as when it was killed before its staging was gone
        )
        service.wake_all()
        await service.ended(job.id)
        assert reads == []
        assert (await service.service.jobs.get(job.id)).bytes_copied == 60_000


@pytest.mark.parametrize("change", ["time", "content", "replaced", "missing", "never recorded"])
async def test_what_was_changed_between_publishing_and_tagging_is_hashed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    async with untagged(tmp_path, monkeypatch) as (service, job, reads):
        place = service.hdd / "T/b"
        status, right = place.stat(), place.read_bytes()
        if change == "time":
            os.utime(place, ns=(1, status.st_mtime_ns + 1))
        elif change == "content":
            place.write_bytes(bytes(20_000))
        elif change == "replaced":
            other = place.with_name("other")
            other.write_bytes(bytes(20_000))
            os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
            other.rename(place)
        elif change == "missing":
            place.unlink()
        else:
            await service.journal.do(lambda db: db.execute("UPDATE copies SET published_at = NULL"))
        service.wake_all()
        await service.ended(job.id)
        assert "copy_and_verify" in reads
        assert "identical" in reads
        assert place.read_bytes() == right


async def test_a_retry_by_hand_has_it_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with untagged(tmp_path, monkeypatch) as (service, job, reads):
        assert await service.service.jobs.clear() == 1
        await service.service.jobs.retry(job.id, on_conflict=OnConflict.FAIL)
        await service.ended(job.id)
        assert "identical" in reads


async def test_another_job_of_the_torrent_has_it_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with untagged(tmp_path, monkeypatch) as (service, job, reads):
        await service.journal.do(lambda db: db.execute("UPDATE copies SET job_id = 'another'"))
        service.wake_all()
        await service.ended(job.id)
        assert "identical" in reads


async def test_a_copy_proved_in_another_way_than_is_asked_for_now_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with untagged(tmp_path, monkeypatch, VERIFICATION="size") as (service, job, reads):
        service.service.tiering._destinations._verification = Verification.PIECES
        service.wake_all()
        await service.ended(job.id)
        assert "identical" in reads


async def test_readback_reads_what_stands_there_past_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, told = FakeQbittorrent(), list[tuple[str, str]]()

    def telling(call: str) -> Callable[..., None]:
        real = getattr(disk_calls, call)

        def told_of(fd: int, *rest: int) -> None:
            told.append((call, Path(f"/proc/self/fd/{fd}").readlink().name))
            real(fd, *rest)

        return told_of

    async with inside(tmp_path, client=fake) as service:
        id_ = add(fake, service, "T")
        await service.tier(id_)
    async with inside(tmp_path, client=fake, VERIFICATION="readback") as service:
        for call in ("fsync", "drop_cached"):
            monkeypatch.setattr(disk_calls, call, telling(call))
        assert (await service.tier(id_)).outcome is Outcome.TIERED
        of_a = [call for call, name in told if name == "a"]
        assert of_a[:2] == ["fsync", "drop_cached"]  # only what is on the disk is forgotten


async def test_a_file_wanted_since_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        id_ = TorrentId(add(fake, service, "T"))
        fake.change_file(id_, 1, priority=0)
        fake.before = partial(_away_at_tags, fake)
        job = await service.waits(await service.notify(id_))
        assert service.contents().keys() == {"T/a"}
        fake.change_file(id_, 1, priority=1)
        fake.before = None
        await service.until(job.id, lambda _: job.id in service.service.waits._deadlines)
        service.wake_all()
        assert (await service.ended(job.id)).outcome is Outcome.TIERED
        assert service.contents().keys() == {"T/a", "T/b"}


async def _away_at_tags(fake: FakeQbittorrent, name: str) -> None:
    if name == "add_tags":
        fake.failures = [away()]


# -- others write to the HDD during a long copy ---------------------------------------


@pytest.mark.parametrize("how", ["written to", "cut short", "replaced"])
async def test_an_adopted_file_that_changes_during_the_copy_is_judged_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        id_ = add(fake, service, "T")
        place = service.hdd / "T/a"
        place.parent.mkdir()
        shutil.copy(service.ssd / "T/a", place)

        async def copy(*arguments: Any, **more: Any) -> Any:
            report = await copy_and_verify(*arguments, **more)
            if how == "written to":
                place.write_bytes(bytes(40_000))
            elif how == "cut short":
                os.truncate(place, 0)
            else:
                (service.hdd / "other").write_bytes(bytes(40_000))
                (service.hdd / "other").rename(place)
            return report

        monkeypatch.setattr("qbm_trio.tasks.tiering.copy_and_verify", copy)
        job = await service.notify(id_)
        ended = await service.ended(job)
        assert ended.state is JobState.FAILED
        assert ended.error_code == "destination_conflict"


async def test_a_file_that_another_torrent_adopts_during_the_copy_is_not_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        id_ = add(fake, service, "T")
        await service.ended(await service.notify(id_))
        place = service.hdd / "T/a"
        place.write_bytes(bytes(40_000))  # our own copy went bad

        async def copy(*arguments: Any, **more: Any) -> Any:
            report = await copy_and_verify(*arguments, **more)
            await service.journal.do(_claim_also)
            return report

        monkeypatch.setattr("qbm_trio.tasks.tiering.copy_and_verify", copy)
        ended = await service.ended(await service.notify(id_))
        assert ended.error_code == "destination_conflict"
        assert "another torrent" in (ended.error or "")
        assert place.read_bytes() == bytes(40_000)


def _claim_also(db: Connection) -> None:
    """Another torrent has the same files."""
    for table in ("copies", "copy_files"):
        db.execute(f"CREATE TEMP TABLE twin AS SELECT * FROM {table}")
        db.execute("UPDATE twin SET torrent_id = ?", ("f" * 40,))
        db.execute(f"INSERT OR IGNORE INTO {table} SELECT * FROM twin")
        db.execute("DROP TABLE twin")


# -- the disk goes away at the worst moment --------------------------------------------


async def test_a_disk_that_goes_away_during_the_comparison_has_nothing_written_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        id_ = add(fake, service, "T")
        await condition(lambda: service.service.tiers.hdd.marker)
        real = Destinations.judge

        async def judge(*arguments: Any) -> Any:
            result = await real(*arguments)
            service.hdd.rename(tmp_path / "away")
            service.hdd.mkdir()
            return result

        monkeypatch.setattr(Destinations, "judge", judge)
        job = await service.waits(await service.notify(id_))
        assert (job.wait_reason, job.attempts) == (WaitReason.TIER, 0)
        assert list(service.hdd.iterdir()) == []


async def test_a_disk_that_goes_away_during_the_copy_is_not_published_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        id_ = add(fake, service, "T")

        async def copy(*arguments: Any, **more: Any) -> Any:
            report = await copy_and_verify(*arguments, **more)
            (service.hdd / ".qbm-tier").rename(tmp_path / "kept")
            return report

        monkeypatch.setattr("qbm_trio.tasks.tiering.copy_and_verify", copy)
        job = await service.waits(await service.notify(id_))
        assert job.wait_reason is WaitReason.TIER
        assert (
            await service.journal.do(partial(journal_copies.find, torrent_id=TorrentId(id_)))
            is None
        )
        assert not (service.hdd / "T").exists()


# -- room ------------------------------------------------------------------------------


async def test_a_job_that_waits_for_room_does_not_compare_what_is_there_at_each_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeQbittorrent()
    judged = []
    real = Destinations.judge

    async def judge(*arguments: Any) -> Any:
        judged.append(arguments)
        return await real(*arguments)

    monkeypatch.setattr(Destinations, "judge", judge)
    async with inside(tmp_path, client=fake, HDD_MIN_FREE_GB="1000000") as service:
        id_ = add(fake, service, "T")
        (service.hdd / "T").mkdir()
        (service.hdd / "T/a").write_bytes((service.ssd / "T/a").read_bytes())
        job = await service.waits(await service.notify(id_))
        assert job.wait_reason is WaitReason.SPACE
        assert "20000 bytes are needed" in (job.error or "")
        assert judged == []
        # With all of it there, no room is needed.
        (service.hdd / "T/b").write_bytes((service.ssd / "T/b").read_bytes())
        await service.until(job.id, lambda _: job.id in service.service.waits._deadlines)
        service.wake_all()
        assert (await service.ended(job.id)).outcome is Outcome.TIERED
        assert len(judged) == 1


async def test_what_a_killed_try_staged_does_not_keep_the_job_waiting_for_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        id_ = add(fake, service, "T")
        staged = await stage_at(fake, service, "export")

        async def space_at(*_: object, **__: object) -> tuple[int, DiskSpace]:
            free = 50_000 if (staged[0] / "0").exists() else 60_000
            return 1, DiskSpace(total_bytes=10**9, free_bytes=free)

        monkeypatch.setattr("qbm_trio.tasks.tiering.space_at", space_at)
        job = await service.tier(id_)
        assert job.outcome is Outcome.TIERED, job.error
        assert job.attempts == 0
        assert len(staged) == 1


async def stage_at(fake: FakeQbittorrent, service: Inside, call: str) -> list[Path]:
    """At this call, leave what a killed try of the running jobs would have staged."""
    staged: list[Path] = []

    async def before(name: str) -> None:
        if name == call:
            for job_id in service.service.workers.running:
                folder = service.hdd / ".qbm-staging" / service.service.tiers.instance_id / job_id
                folder.mkdir(parents=True)
                (folder / "0").write_bytes(b"part of a file")
                staged.append(folder)

    await condition(lambda: fake.contact.reachable)
    fake.before = before
    return staged


# -- how jobs end ----------------------------------------------------------------------


async def test_a_job_that_was_merged_or_had_nothing_to_do_leaves_no_staging(
    tmp_path: Path,
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        made = make(service.ssd, "H", FILES, version=Version.HYBRID)
        hybrid = fake.add(made.data, save_path=str(service.ssd))
        fake.change(hybrid, state="checkingUP")
        first = await service.waits(await service.notify(made.infohash_v1 or ""))
        staged = await stage_at(fake, service, "torrent")
        merged = await service.ended(await service.notify(made.infohash_v2 or ""))
        assert (merged.state, merged.merged_into) == (JobState.MERGED, first.id)

        moved = make(service.ssd, "Moved", 20_001)
        id_ = fake.add(moved.data, save_path=str(service.hdd))
        assert (await service.tier(id_)).outcome is Outcome.ALREADY_ON_HDD
        assert len(staged) == 2
        assert service.staging() == []


async def test_how_often_a_job_was_looked_at_is_forgotten_at_its_end(tmp_path: Path) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        id_ = add(fake, service, "T")
        fake.change(TorrentId(id_), state="checkingUP")
        job = await service.waits(await service.notify(id_))
        looks = service.service.tiering._planner._looks
        assert list(looks) == [job.id]
        fake.change(TorrentId(id_), state="stalledUP")
        await service.until(job.id, lambda _: job.id in service.service.waits._deadlines)
        service.wake_all()
        assert (await service.ended(job.id)).outcome is Outcome.TIERED
        assert not looks


async def test_what_is_adopted_is_synced_before_it_counts_as_published_and_its_times_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    real_fsync, real_published = disk_calls.fsync, journal_copies.published
    at_the_record: list[set[Path]] = []

    def fsync(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink())
        real_fsync(fd)

    def published(*arguments: Any, **more: Any) -> None:
        at_the_record.append(set(synced))
        real_published(*arguments, **more)

    monkeypatch.setattr(disk_calls, "fsync", fsync)
    monkeypatch.setattr(journal_copies, "published", published)
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        id_ = add(fake, service, "T")
        place = service.hdd / "T/a"
        place.parent.mkdir()
        place.write_bytes((service.ssd / "T/a").read_bytes())
        os.utime(place, ns=(5, 1_400_000_000_000_000_007))
        job = await service.tier(id_)
        assert (job.outcome, job.bytes_copied) == (Outcome.TIERED, 20_000)
        (before,) = at_the_record
        assert {place, place.parent, service.hdd} <= before
        entries = await service.journal.do(partial(journal_copies.files, torrent_id=TorrentId(id_)))
        assert [(e.path, e.mtime_ns) for e in entries] == [
            ("T/a", 1_400_000_000_000_000_007),
            ("T/b", (service.ssd / "T/b").stat().st_mtime_ns),
        ]


# -- whose file it is ------------------------------------------------------------------


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "a foreign one came first"])
async def test_after_a_try_that_ended_in_publishing_only_its_own_file_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    async def publish_and_fail(*arguments: Any, **more: Any) -> None:
        monkeypatch.undo()
        place = service.hdd / "T"
        if not killed:  # the same bytes, put there by Sonarr
            place.write_bytes((service.ssd / "T").read_bytes())
        await publish(*arguments, **more)
        raise DiskError("as good as killed before the record")

    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        made = make(service.ssd, "T", 20_000)
        id_ = fake.add(made.data, save_path=str(service.ssd))
        monkeypatch.setattr("qbm_trio.tasks.tiering.publish", publish_and_fail)
        job = await service.waits(await service.notify(id_))
        assert job.wait_reason is WaitReason.RETRY
        await service.until(job.id, lambda _: job.id in service.service.waits._deadlines)
        service.wake_all()
        assert (await service.ended(job.id)).outcome is Outcome.TIERED
        (entry,) = await service.journal.do(partial(journal_copies.files, torrent_id=id_))
        assert entry.ours is killed
