"""A torrent's settings that cannot be put back, or that its user changes meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from qbm_trio.core.errors import QbittorrentError
from qbm_trio.core.relocation import Step
from qbm_trio.tasks import relocation_watch
from tests.rig.shelves import corrupt_copy, held, run, said, shelf


@pytest.mark.parametrize("bad", [False, True])
async def test_a_folder_for_unfinished_torrents_that_is_refused_by_now_stops_no_torrent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, bad: bool
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        (tmp_path / "file").touch()
        folder = str(tmp_path / "file/incomplete")
        id_ = await it.tiered("T", download_path=folder)
        if bad:
            corrupt_copy(it.inside, "T")
        row = (await run(it))["T"]
        assert row.step is (Step.UNDONE if bad else Step.DONE)
        assert it.state(id_) == ("stalledUP", "ssd" if bad else "hdd")
        assert any(f"{folder}, is not set again" in line for line in said(caplog))


@pytest.mark.parametrize("setting", ["auto_management", "download_path"])
async def test_a_setting_that_is_turned_on_meanwhile_does_not_keep_it_from_going_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setattr(relocation_watch, "SEEN_WITHIN_S", 0.2)
    incomplete = tmp_path / "incomplete"
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        await it.leave_free(0)
        with held(monkeypatch, Step.WAITING) as hold:
            it.space.trigger()
            await hold.wait()
            on = str(incomplete) if setting == "download_path" else True
            it.fake.change(id_, **{setting: on})
            (it.inside.hdd / "tv/T0/a").touch()  # not the copy that was recorded
            hold.go_on.set()
            assert (await it.all_ended())["T0"].step is Step.UNDONE
        assert it.state(id_) == ("stalledUP", "ssd")


async def test_a_folder_for_unfinished_torrents_that_is_refused_once_is_set_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tmp_path / "incomplete")
    async with shelf(tmp_path, monkeypatch) as it:
        id_ = await it.tiered("T", download_path=folder)
        refused: list[tuple[object, ...]] = []

        async def refuse(name: str, *arguments: object) -> None:
            if name == "set_download_path" and arguments == (id_, folder) and not refused:
                refused.append(arguments)
                raise QbittorrentError("qBittorrent refused a call: 409")

        it.fake.watch = refuse
        assert (await run(it))["T"].step is Step.DONE
        assert refused
        assert it.fake._torrents[id_].download_path == folder
