"""A qBittorrent that is killed in mid-relocation says what it had saved, and does not listen."""

from __future__ import annotations

from pathlib import Path
from sqlite3 import Connection

import pytest
import trio

from qbm_trio.core.model import TorrentId
from qbm_trio.core.relocation import Step
from qbm_trio.core.space import RELOCATING_TAG
from qbm_trio.tasks import relocation_watch
from tests.rig.shelves import Shelf, corrupt_copy, held, run, shelf


def on_hdd(it: Shelf, id_: TorrentId) -> None:
    """It is back on the HDD, complete as far as qBittorrent knows."""
    folder = it.inside.hdd / "tv"
    it.fake.change(
        id_,
        state="stoppedUP",
        progress=1.0,
        amount_left_bytes=0,
        save_path=str(folder),
        content_path=str(folder / "T"),
    )


async def test_what_a_restarted_qbittorrent_shows_is_not_taken_for_a_passed_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Complete on the HDD, from before: although the copy there is bad (seen on 5.1.0)."""
    async with shelf(tmp_path, monkeypatch) as it:
        id_ = await it.tiered("T")
        corrupt_copy(it.inside, "T")
        await it.leave_free(0)
        with held(monkeypatch, Step.CHECKING) as hold:
            it.space.trigger()
            await hold.wait()

            async def restarted(name: str, *_: object) -> None:
                if name == "torrent" and ("recheck", id_) in it.fake.calls:
                    it.fake.watch = None
                    it.fake.sessions += 1
                    on_hdd(it, id_)

            it.fake.watch = restarted
            hold.go_on.set()
            row = (await it.all_ended())["T"]
        assert row.step is Step.UNDONE
        assert "recheck of the copy on the HDD failed" in (row.error or "")
        assert it.files("T") == {"a", "b"}
        assert it.state(id_) == ("stalledUP", "ssd")


@pytest.mark.parametrize("step", [Step.RECHECKING, Step.UNDOING])
async def test_one_that_comes_back_on_the_hdd_is_brought_to_the_ssd_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    """Else it would be started on the bad copy."""
    async with shelf(tmp_path, monkeypatch) as it:
        id_ = await it.tiered("T")
        corrupt_copy(it.inside, "T")
        await it.leave_free(0)
        with held(monkeypatch, step) as hold:
            it.space.trigger()
            await hold.wait()
            on_hdd(it, id_)
            hold.go_on.set()
            row = (await it.all_ended())["T"]
        assert row.step is Step.UNDONE, row.error
        assert it.state(id_) == ("stalledUP", "ssd")
        assert it.files("T") == {"a", "b"}


async def test_a_start_that_qbittorrent_did_not_hear_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relocation_watch, "SEEN_WITHIN_S", 0.2)
    async with shelf(tmp_path, monkeypatch) as it:
        id_ = await it.tiered("T")
        real, heard = it.fake.start, []

        async def start(torrent_id: TorrentId) -> None:
            heard.append(torrent_id)
            if len(heard) > 1:
                await real(torrent_id)

        monkeypatch.setattr(it.fake, "start", start)
        row = (await run(it))["T"]
        assert row.step is Step.DONE
        assert heard == [id_, id_]
        assert it.state(id_) == ("stalledUP", "hdd")


async def test_one_that_its_user_keeps_stopping_is_let_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(relocation_watch, "SEEN_WITHIN_S", 0.1)
    async with shelf(tmp_path, monkeypatch) as it:
        id_ = await it.tiered("T")

        async def start(_: TorrentId) -> None:
            return

        monkeypatch.setattr(it.fake, "start", start)
        row = (await run(it))["T"]
        assert row.step is Step.DONE
        assert "'T' does not start; start it in qBittorrent" in caplog.text
        assert RELOCATING_TAG not in it.fake.tags(id_)


async def test_of_a_grace_that_is_over_nothing_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        await it.tiered("T")
        assert (await run(it))["T"].step is Step.DONE
        assert it.space._relocator._steps._checked_s == {}


@pytest.mark.parametrize("jump_s", [86_400.0, -86_400.0])
async def test_a_wall_clock_that_jumps_between_two_starts_costs_no_second_of_the_grace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    def jump(connection: Connection) -> None:
        changed = connection.execute("UPDATE relocations SET checked_at = checked_at - ?", [jump_s])
        assert changed.rowcount == 1

    async with shelf(tmp_path, monkeypatch) as it:
        await it.shelf_of(1)
        await it.leave_free(0)
        with held(monkeypatch, Step.WAITING) as hold:
            it.space.trigger()
            await hold.wait()
            await it.inside.journal.do(jump)
            it.space.stop()
    began_s = trio.current_time()
    async with shelf(tmp_path, monkeypatch, fake=it.fake, DELETE_GRACE_S="2") as again:
        assert (await again.all_ended())["T0"].step is Step.DONE
        assert 2 <= trio.current_time() - began_s < 20
        assert again.files("T0") == set()


async def test_the_grace_begins_when_the_copy_has_been_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch, DELETE_GRACE_S="1") as it:
        await it.shelf_of(1)
        await it.leave_free(0)
        it.space._relocator._steps._began_s -= 100  # the service runs for long already
        with held(monkeypatch, Step.RESTORING) as hold:
            it.space.trigger()
            await hold.wait()
            checked_s = trio.current_time()
            hold.go_on.set()
            assert (await it.all_ended())["T0"].step is Step.DONE
        assert trio.current_time() - checked_s >= 1
