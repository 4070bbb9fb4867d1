"""A relocation that was done long ago, and that a killed qBittorrent has forgotten."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from qbm_trio.core.model import JobState, Outcome, TorrentId
from qbm_trio.core.relocation import Relocation, Step
from qbm_trio.core.space import RELOCATING_TAG
from tests.rig.inside import condition
from tests.rig.shelves import FILES, Shelf, corrupt_copy, held, run, shelf

QUICK = "0.05"


async def relocated(it: Shelf, name: str = "T", **fields: object) -> TorrentId:
    """A torrent that seeds from the HDD, and of which the SSD has nothing any more."""
    id_ = await it.tiered(name, **fields)
    assert (await run(it))[name].step is Step.DONE
    it.ssd.free_bytes = 10**9
    it.calls()
    return id_


async def forgotten(it: Shelf, id_: TorrentId) -> Relocation:
    """QBittorrent is killed and has it as it was before; what was recorded until then."""
    old = (await it.rows())[it.fake._torrents[id_].name]
    it.slip(id_)
    it.fake.restart()
    return old


async def newer(it: Shelf, old: Relocation, *steps: Step) -> Relocation:
    """The relocation that follows an ended one, at one of these steps."""
    found: list[Relocation] = []

    async def look() -> bool:
        row = (await it.rows())[old.name]
        found[:] = [row]
        return row.id > old.id and row.step in steps

    await until(look)
    return found[0]


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it is so."""
    with trio.fail_after(20):
        while not await look():  # noqa: ASYNC110
            await trio.sleep(0.005)


async def test_it_seeds_from_the_hdd_again_as_it_ran_and_nothing_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch, RECONCILE_INTERVAL_S=QUICK) as it:
        id_ = await relocated(it, tags=frozenset({"mine"}))
        left = it.inside.ssd / "tv/T/a"
        left.parent.mkdir(parents=True)
        left.write_bytes((it.inside.hdd / "tv/T/a").read_bytes())
        it.fake.change(id_, tags=frozenset({"mine", "ssd"}), auto_management=True)
        old = await forgotten(it, id_)
        row = await newer(it, old, Step.DONE)
        assert it.state(id_) == ("stalledUP", "hdd")
        assert it.fake.tags(id_) == {"mine", "hdd"}
        assert not it.fake._torrents[id_].auto_management
        assert left.exists()
        assert it.files("T", tier="hdd") == set(FILES)
        assert row.checked_at is not None
        counters = (await it.inside.service.observer.overview()).statistics
        assert counters["torrents_relocated"] == 1


async def test_one_that_its_user_had_stopped_stays_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch, RECONCILE_INTERVAL_S=QUICK) as it:
        id_ = await relocated(it, state="stoppedUP")
        old = await forgotten(it, id_)
        await newer(it, old, Step.DONE)
        assert it.state(id_) == ("stoppedUP", "hdd")


async def test_without_the_hdd_it_waits_and_qbittorrent_is_told_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch, RECONCILE_INTERVAL_S=QUICK) as it:
        id_ = await relocated(it)
        it.unmount("hdd")
        old = await forgotten(it, id_)
        await newer(it, old, Step.REPEATING)
        await condition(lambda: any(r.error for r in it.space.overview().relocations))
        assert not {"stop", "set_location", "recheck", "add_tags"} & it.calls().keys()
        it.mount("hdd")
        await newer(it, old, Step.DONE)
        assert it.state(id_) == ("stalledUP", "hdd")


async def test_without_its_copy_it_is_left_as_it_is_and_not_downloaded_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch, RECONCILE_INTERVAL_S=QUICK) as it:
        id_ = await relocated(it)
        (it.inside.hdd / "tv/T/a").unlink()
        old = await forgotten(it, id_)
        row = await newer(it, old, Step.UNDONE)
        assert "missing" in (row.error or "")
        assert it.state(id_) == ("missingFiles", "ssd")
        assert RELOCATING_TAG not in it.fake.tags(id_)
        calls = it.calls()
        assert not {"set_location", "start", "set_force_start"} & calls.keys()
        jobs = await it.inside.service.jobs.newest(state=None, limit=9, after=None)
        job = await it.inside.until(jobs[0].id, lambda job: job.state is JobState.WAITING)
        assert "missingFiles" in (job.error or "")


async def test_on_a_bad_copy_it_is_started_where_its_data_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SSD has nothing: qBittorrent may mend what is on the HDD, from its peers."""
    async with shelf(tmp_path, monkeypatch, RECONCILE_INTERVAL_S=QUICK) as it:
        id_ = await relocated(it)
        corrupt_copy(it.inside, "T")
        old = await forgotten(it, id_)
        await newer(it, old, Step.MOVED)
        assert it.state(id_) == ("stalledDL", "hdd")
        assert RELOCATING_TAG not in it.fake.tags(id_)


async def test_one_that_cannot_be_repeated_is_not_downloaded_anew_to_the_ssd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After a check it is no longer called missing, but stopped and empty."""

    async def checked_instead(id: TorrentId, path: str) -> None:
        await it.fake._call("set_location", id, path)
        it.fake._check(id)

    async with shelf(tmp_path, monkeypatch, RECONCILE_INTERVAL_S=QUICK) as it:
        id_ = await relocated(it)
        monkeypatch.setattr(it.fake, "set_location", checked_instead)
        old = await forgotten(it, id_)
        await newer(it, old, Step.UNDONE)
        assert it.state(id_) == ("stoppedDL", "ssd")
        assert not {"start", "set_force_start"} & it.calls().keys()
        assert f"set its location to {it.inside.hdd / 'tv'} in qBittorrent" in caplog.text


async def test_of_one_that_was_stopped_it_is_not_said_that_it_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with shelf(tmp_path, monkeypatch, RECONCILE_INTERVAL_S=QUICK) as it:
        id_ = await relocated(it, state="stoppedUP")
        (it.inside.hdd / "tv/T/a").unlink()
        old = await forgotten(it, id_)
        await newer(it, old, Step.UNDONE)
        assert "is not started" not in caplog.text


@pytest.mark.parametrize("when", ["recorded", "taken"])
async def test_a_kill_before_or_after_it_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    with held(monkeypatch, Step.REPEATING, when) as hold:
        async with shelf(tmp_path, monkeypatch, RECONCILE_INTERVAL_S=QUICK) as it:
            id_ = await relocated(it)
            old = await forgotten(it, id_)
            await hold.wait()
    async with shelf(tmp_path, monkeypatch, fake=it.fake) as it:
        await newer(it, old, Step.DONE)
        assert it.state(id_) == ("stalledUP", "hdd")
        assert RELOCATING_TAG not in it.fake.tags(id_)


async def test_a_way_back_that_was_done_and_is_forgotten_is_gone_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch, RECONCILE_INTERVAL_S=QUICK) as it:
        id_ = await it.tiered("T")
        corrupt_copy(it.inside, "T")
        old = (await run(it))["T"]
        assert old.step is Step.UNDONE
        it.ssd.free_bytes = 10**9
        await condition(lambda: not it.inside.service.workers.running)
        it.fake._now(id_)
        place = it.inside.hdd / "tv"
        it.fake.change(
            id_,
            save_path=str(place),
            content_path=str(place / "T"),
            state="stoppedDL",
            progress=0.0,
            tags=it.fake.tags(id_) | {RELOCATING_TAG},
        )
        it.fake.restart()
        await newer(it, old, Step.UNDONE)
        assert it.state(id_) == ("stalledUP", "ssd")
        assert RELOCATING_TAG not in it.fake.tags(id_)
        assert it.files("T") == set(FILES)


async def test_one_that_its_user_took_back_to_the_ssd_is_tiered_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch, RECONCILE_INTERVAL_S=QUICK) as it:
        id_ = await relocated(it)
        old = (await it.rows())["T"]
        await it.fake.set_location(id_, str(it.inside.ssd / "tv"))

        async def taken_back() -> bool:
            return (await it.rows())["T"].step is Step.UNDONE

        await until(taken_back)
        (newest, *_) = await it.inside.service.jobs.newest(state=None, limit=9, after=None)
        job = await it.inside.ended(newest.id)
        assert job.outcome is Outcome.TIERED
        assert (await it.rows())["T"].id == old.id
        assert it.files("T") == it.files("T", tier="hdd") == set(FILES)
        assert it.fake.tags(id_) == {"ssd", "hdd"}
