"""From a hash to a torrent, and from a torrent to both places of its files."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import trio

from qbm_trio.adapters import journal_copies, metainfo
from qbm_trio.adapters.journal import Journal
from qbm_trio.core.errors import BadMetainfo, MustWait
from qbm_trio.core.model import Job, JobId, TorrentFile, TorrentId, WaitReason
from qbm_trio.core.placement import Place, plan_files
from qbm_trio.core.roots import Roots
from qbm_trio.tasks import planning
from qbm_trio.tasks.planning import LOOK_AGAIN_S, Planner, UnknownForTooLong
from tests.fakes.qbittorrent import FakeQbittorrent
from tests.rig.inside import make
from tests.rig.records import COPY
from tests.rig.torrents import Version


@asynccontextmanager
async def planner(
    tmp_path: Path, fake: FakeQbittorrent, mappings: tuple[tuple[str, str], ...] = ()
) -> AsyncIterator[tuple[Planner, Journal]]:
    (tmp_path / "state").mkdir()
    journal = Journal.open(tmp_path / "state")
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run, trio.CapacityLimiter(1))
        try:
            yield (
                Planner(
                    roots=Roots(ssd=tmp_path / "ssd", hdd=tmp_path / "hdd", path_mappings=mappings),
                    client=fake,
                    journal=journal,
                    computing=trio.CapacityLimiter(1),
                ),
                journal,
            )
        finally:
            journal.close()


def job(hash_: str, torrent_id: TorrentId | None = None) -> Job:
    return Job(id=JobId("j"), seq=1, hash=hash_, torrent_id=torrent_id)


async def test_every_hash_of_a_torrent_finds_it(tmp_path: Path) -> None:
    fake = FakeQbittorrent()
    made = make(tmp_path / "ssd", "T", {"a": 1}, version=Version.HYBRID)
    id_ = fake.add(made.data, save_path=str(tmp_path / "ssd"))
    async with planner(tmp_path, fake) as (plans, _):
        for hash_, calls in ((id_, 1), (made.infohash_v2 or "", 1), (made.infohash_v1 or "", 3)):
            before = fake.requests
            assert (await plans.find(job(hash_))).id == id_
            assert fake.requests - before == calls
        before = fake.requests
        assert (await plans.find(job(made.infohash_v1 or "", id_))).id == id_
        assert fake.requests - before == 1  # resolved before


async def test_a_v2_hash_that_only_begins_like_an_id_is_not_that_torrent(tmp_path: Path) -> None:
    fake = FakeQbittorrent()
    made = make(tmp_path / "ssd", "T", {"a": 1}, version=Version.V2)
    id_ = fake.add(made.data, save_path=str(tmp_path / "ssd"))
    async with planner(tmp_path, fake) as (plans, _):
        with pytest.raises(MustWait) as unknown:
            await plans.find(job(id_ + "0" * 24))
        assert unknown.value.reason is WaitReason.UNKNOWN_TORRENT


async def test_an_unknown_hash_fails_after_its_time_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with planner(tmp_path, FakeQbittorrent()) as (plans, _):
        for _ in range(2):
            with pytest.raises(MustWait):
                await plans.find(job("ab" * 20))
        monkeypatch.setattr(planning, "UNKNOWN_FOR_S", 0.0)
        with pytest.raises(UnknownForTooLong, match="QBIT_HOST"):
            await plans.find(job("ab" * 20))


async def test_a_v1_hash_is_never_unknown_by_a_list_older_than_the_first_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On 4.5 with thousands of torrents the pause between two lists is over a minute."""
    monkeypatch.setattr(planning, "UNKNOWN_FOR_S", 0.0)
    fake = FakeQbittorrent()
    await fake.torrents()
    fake.may_list = False
    made = make(tmp_path / "ssd", "T", {"a": 1}, version=Version.HYBRID)
    id_ = fake.add(made.data, save_path=str(tmp_path / "ssd"))
    async with planner(tmp_path, fake) as (plans, _):
        for _ in range(3):
            with pytest.raises(MustWait) as wait:
                await plans.find(job(made.infohash_v1 or ""))
            assert wait.value.reason is WaitReason.UNKNOWN_TORRENT
        fake.may_list = True
        assert (await plans.find(job(made.infohash_v1 or ""))).id == id_


async def test_a_list_asked_for_by_another_job_since_is_proof_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "UNKNOWN_FOR_S", 0.0)
    fake = FakeQbittorrent()
    fake.may_list = False
    async with planner(tmp_path, fake) as (plans, _):
        with pytest.raises(MustWait):
            await plans.find(job("ab" * 20))
        await fake.torrents()
        with pytest.raises(UnknownForTooLong):
            await plans.find(job("ab" * 20))


async def test_a_torrent_of_which_no_file_is_listed_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was removed and is added anew by its magnet link, while the job looks at it."""
    fake = FakeQbittorrent()
    id_ = fake.add(make(tmp_path / "ssd", "T", {"a": 1}).data, save_path=str(tmp_path / "ssd"))

    async def files(_: TorrentId) -> tuple[TorrentFile, ...]:
        return ()

    async with planner(tmp_path, fake) as (plans, _):
        torrent = await plans.find(job(id_))
        monkeypatch.setattr(fake, "files", files)
        with pytest.raises(MustWait, match="no file"):
            await plans.plan(job(id_), torrent)


async def test_a_torrent_that_is_not_ready_is_looked_at_ever_more_rarely(tmp_path: Path) -> None:
    fake = FakeQbittorrent()
    made = make(tmp_path / "ssd", "T", {"a": 1})
    id_ = fake.add(made.data, save_path=str(tmp_path / "ssd"), complete=False)
    torrent = await fake.torrent(id_)
    async with planner(tmp_path, fake) as (plans, _):
        delays = []
        for _ in range(len(LOOK_AGAIN_S) + 2):
            with pytest.raises(MustWait) as wait:
                plans.place(job(id_), torrent)
            delays.append(wait.value.delay_s)
        assert delays == [*LOOK_AGAIN_S, LOOK_AGAIN_S[-1], LOOK_AGAIN_S[-1]]
        plans.forget(JobId("j"))
        with pytest.raises(MustWait) as wait:
            plans.place(job(id_), torrent)
        assert wait.value.delay_s == LOOK_AGAIN_S[0]


async def test_the_place_follows_the_content_path_through_the_mappings(tmp_path: Path) -> None:
    fake = FakeQbittorrent()
    made = make(tmp_path / "ssd", "T", {"a": 1})
    id_ = fake.add(made.data, save_path="/save path/that lies")
    torrent = await fake.torrent(id_)
    mappings = (("/q", str(tmp_path)),)
    async with planner(tmp_path, fake, mappings) as (plans, _):
        places = {
            "/q/ssd/T": Place.SSD,
            "/q/hdd/c/T": Place.HDD,
            "/q/ssdx/T": Place.ELSEWHERE,
            "/q/ssd/../T": Place.ELSEWHERE,
        }
        for path, place in places.items():
            assert plans.place(job(id_), replace(torrent, content_path=path)) is place
        with pytest.raises(MustWait, match="no absolute content path"):
            plans.place(job(id_), replace(torrent, content_path="T"))
        said = plans.why_elsewhere(replace(torrent, content_path="/q/ssdx/T"))
        assert str(tmp_path / "ssdx/T") in said
        assert "'/q/ssdx/T'" in said


async def test_the_destination_is_the_recorded_one_whatever_the_category(tmp_path: Path) -> None:
    fake = FakeQbittorrent()
    made = make(tmp_path / "ssd", "T", {"a": 1, "b/c": 2})
    id_ = fake.add(made.data, save_path=str(tmp_path / "ssd"), category="new/one")
    torrent = await fake.torrent(id_)
    async with planner(tmp_path, fake) as (plans, journal):
        plan = await plans.plan(job(id_), torrent)
        assert [f.on_hdd for f in plan.files] == [
            PurePosixPath("new/one/T/a"),
            PurePosixPath("new/one/T/b/c"),
        ]
        assert plan.shown_destination == "new/one/T"
        assert not plan.published_before
        copy = replace(
            COPY, torrent_id=id_, destination="old", category="old", save_root=plan.save_root
        )
        await journal.do(partial(journal_copies.begin, copy=copy, entries=()))
        begun = await plans.plan(job(id_), torrent)
        assert begun.shown_destination == "old/T"
        assert not begun.published_before
        await journal.do(partial(journal_copies.published, torrent_id=id_, now=2.0))
        assert (await plans.plan(job(id_), torrent)).published_before


async def test_a_torrent_file_of_another_is_refused(tmp_path: Path) -> None:
    fake = FakeQbittorrent()
    one, two = (make(tmp_path / "ssd", name, {"a": 1}) for name in ("One", "Two"))
    id_ = fake.add(one.data, save_path=str(tmp_path / "ssd"))
    fake._metainfo[id_] = two.data
    async with planner(tmp_path, fake) as (plans, _):
        with pytest.raises(BadMetainfo, match="restart qBittorrent"):
            await plans.plan(job(id_), await fake.torrent(id_))


@pytest.mark.parametrize("step", ["metainfo.parse", "plan_files"])
async def test_the_loop_goes_on_while_a_large_torrent_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    begun, gate = threading.Event(), threading.Event()
    real: Any = {"metainfo.parse": metainfo.parse, "plan_files": plan_files}[step]

    def held(*arguments: Any, **more: Any) -> Any:
        begun.set()
        assert gate.wait(10), "the loop stood still"
        return real(*arguments, **more)

    fake = FakeQbittorrent()
    made = make(tmp_path / "ssd", "T", {"a": 1, "b": 2})
    id_ = fake.add(made.data, save_path=str(tmp_path / "ssd"))
    torrent = await fake.torrent(id_)
    monkeypatch.setattr(f"qbm_trio.tasks.planning.{step}", held)
    async with planner(tmp_path, fake) as (plans, _), trio.open_nursery() as nursery:

        async def other_work() -> None:
            while not begun.is_set():  # noqa: ASYNC110
                await trio.sleep(0.001)
            gate.set()

        nursery.start_soon(other_work)
        with trio.fail_after(20):
            assert len((await plans.plan(job(id_), torrent)).files) == 2


async def test_a_plan_that_is_cancelled_waits_for_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, gate = threading.Event(), threading.Event()

    def held(_: bytes) -> Any:
        begun.set()
        assert gate.wait(10)

    fake = FakeQbittorrent()
    made = make(tmp_path / "ssd", "T", 1)
    id_ = fake.add(made.data, save_path=str(tmp_path / "ssd"))
    torrent = await fake.torrent(id_)
    monkeypatch.setattr(metainfo, "parse", held)
    async with planner(tmp_path, fake) as (plans, _), trio.open_nursery() as nursery:
        nursery.start_soon(plans.plan, job(id_), torrent)
        with trio.fail_after(20):
            while not begun.is_set():  # noqa: ASYNC110
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
    assert not gate.is_set()
    gate.set()
