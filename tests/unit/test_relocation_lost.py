"""A torrent that is half relocated, and of which the journal knows no open relocation.

As when qBittorrent ran for long without its torrents, or ``STATE_DIR`` was lost.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from qbm_trio.adapters.journal import FILE_NAME
from qbm_trio.core.errors import QbittorrentError
from qbm_trio.core.model import TorrentId
from qbm_trio.core.relocation import Step
from qbm_trio.core.space import PIN_TAG, RELOCATING_TAG
from qbm_trio.tasks import relocation_watch
from tests.rig.inside import condition
from tests.rig.shelves import FILES, Shelf, held, said, shelf

QUICK = "0.05"
HALF = [Step.STOPPING, Step.REPOINTING, Step.CHECKING]


async def assert_seeds_from_the_ssd(it: Shelf, id_: TorrentId) -> None:
    await condition(lambda: RELOCATING_TAG not in it.fake.tags(id_))
    await it.all_ended()
    assert it.state(id_) == ("stalledUP", "ssd")
    assert it.files("T") == set(FILES)


@pytest.mark.parametrize("step", HALF)
async def test_one_that_was_gone_for_long_and_is_back_goes_back_to_the_ssd_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    monkeypatch.setattr(relocation_watch, "GONE_AFTER_S", 0.0)
    async with shelf(tmp_path, monkeypatch, RECONCILE_INTERVAL_S=QUICK) as it:
        id_ = await it.tiered("T")
        await it.leave_free(0)
        with held(monkeypatch, step, "taken") as hold:
            it.space.trigger()
            await hold.wait()
            it.fake._now(id_)
            kept = it.fake._torrents[id_], it.fake._files[id_], it.fake._metainfo[id_]
            assert RELOCATING_TAG in it.fake.tags(id_)
            it.fake.remove(id_)
            it.ssd.free_bytes = 10**9  # nothing more is planned
            hold.go_on.set()
            await it.at("T", Step.GONE)
        it.fake._torrents[id_], it.fake._files[id_], it.fake._metainfo[id_] = kept
        await assert_seeds_from_the_ssd(it, id_)


@pytest.mark.parametrize("step", HALF)
@pytest.mark.parametrize("when", ["recorded", "taken"])
async def test_without_its_journal_it_goes_back_to_the_ssd_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: Step, when: str
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        id_ = await it.tiered("T")
        await it.leave_free(0)
        with held(monkeypatch, step, when) as hold:
            it.space.trigger()
            await hold.wait()
    shutil.rmtree(tmp_path / "state")
    async with shelf(tmp_path, monkeypatch, fake=it.fake, RECONCILE_INTERVAL_S=QUICK) as it:
        await assert_seeds_from_the_ssd(it, id_)


@pytest.mark.parametrize("suffix", ["", ".!qB"])
@pytest.mark.parametrize("step", [Step.CHECKING, Step.RESTORING])
async def test_without_its_journal_it_is_not_sent_to_another_torrents_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: Step, suffix: str
) -> None:
    """Where it was on the SSD can only be guessed, and files of its names are there."""
    async with shelf(tmp_path, monkeypatch) as it:
        id_ = await it.tiered("T", save="elsewhere")
        it.add("T", tags=frozenset({PIN_TAG}))
        await it.leave_free(0)
        with held(monkeypatch, step) as hold:
            it.space.trigger()
            await hold.wait()
        for path in (it.inside.ssd / "tv/T").iterdir():
            path.rename(f"{path}{suffix}")
        theirs = {path: path.read_bytes() for path in (it.inside.ssd / "tv/T").iterdir()}
    shutil.rmtree(tmp_path / "state")
    it.calls()
    async with shelf(tmp_path, monkeypatch, fake=it.fake, RECONCILE_INTERVAL_S=QUICK) as it:
        await condition(lambda: RELOCATING_TAG not in it.fake.tags(id_))
        await it.all_ended()
        assert it.state(id_) == ("stalledUP", "hdd")
        assert it.calls()["set_location"] == 0
    assert {path: path.read_bytes() for path in theirs} == theirs
    assert it.files("T", save="elsewhere") == set(FILES)


@pytest.mark.parametrize("left", [{"b"}, set()], ids=["one file is left", "none is left"])
async def test_without_its_journal_one_whose_files_have_gone_is_left_alone_and_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    left: set[str],
) -> None:
    """And a killed qBittorrent has forgotten the move: only its recheck could prove the copy."""
    async with shelf(tmp_path, monkeypatch) as it:
        id_ = await it.tiered("T")
        await it.leave_free(0)
        with held(monkeypatch, Step.DELETING) as hold:
            it.space.trigger()
            await hold.wait()
            for name in FILES.keys() - left:
                (it.inside.ssd / "tv/T" / name).unlink()
            it.slip(id_)
            it.fake.change(id_, tags=frozenset({RELOCATING_TAG}))
    shutil.rmtree(tmp_path / "state")
    async with shelf(tmp_path, monkeypatch, fake=it.fake, RECONCILE_INTERVAL_S=QUICK) as it:
        await condition(lambda: RELOCATING_TAG not in it.fake.tags(id_))
        assert (await it.all_ended())["T"].step is Step.UNDONE
        assert it.state(id_) == ("missingFiles", "ssd"), "started, it would be downloaded anew"
        assert (it.files("T"), it.files("T", tier="hdd")) == (left, set(FILES))
        (advice,) = [line for line in said(caplog) if "'T' is not started" in line]
        assert f"set its location to {it.inside.hdd / 'tv'} in qBittorrent" in advice


async def test_one_whose_copy_is_not_known_is_not_pointed_at_anothers_of_the_same_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It was made after the recovery point, and qBittorrent has forgotten the move."""
    async with shelf(tmp_path, monkeypatch) as it:
        await it.tiered("T", tags=frozenset({PIN_TAG}))
        id_ = await it.tiered("T", save="elsewhere")
        await it.leave_free(0)
        with held(monkeypatch, Step.DELETING) as hold:
            it.space.trigger()
            await hold.wait()
            place = it.inside.ssd / "elsewhere"
            (place / "T/a").unlink()
            it.fake._now(id_)
            it.fake.change(
                id_,
                save_path=str(place),
                content_path=str(place / "T"),
                state="missingFiles",
                progress=0.0,
                tags=frozenset({RELOCATING_TAG}),
            )
    with closing(sqlite3.connect(tmp_path / "state" / FILE_NAME)) as connection, connection:
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("DELETE FROM copies WHERE torrent_id = ?", (id_,))
        connection.execute("DELETE FROM relocations")
    it.calls()
    async with shelf(tmp_path, monkeypatch, fake=it.fake, RECONCILE_INTERVAL_S=QUICK) as it:
        await condition(lambda: RELOCATING_TAG not in it.fake.tags(id_))
        await it.all_ended()
        assert it.state(id_) == ("missingFiles", "ssd")
        assert it.calls()["set_location"] == 0
        (advice,) = [line for line in said(caplog) if "'T' is not started" in line]
        assert f"set its location to {it.inside.hdd / 'tv/elsewhere'} in qBittorrent" in advice


async def test_without_its_journal_one_whose_torrent_file_is_refused_runs_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5.1 gives that of a version 2 torrent only after a recheck since its start."""
    async with shelf(tmp_path, monkeypatch) as it:
        id_ = await it.tiered("T")
        await it.leave_free(0)
        with held(monkeypatch, Step.CHECKING) as hold:
            it.space.trigger()
            await hold.wait()
    shutil.rmtree(tmp_path / "state")

    async def refuse(name: str, *_: object) -> None:
        if name == "export":
            raise QbittorrentError("qBittorrent does not give the .torrent file: 409")

    it.fake.watch = refuse
    async with shelf(tmp_path, monkeypatch, fake=it.fake, RECONCILE_INTERVAL_S=QUICK) as it:
        await condition(lambda: RELOCATING_TAG not in it.fake.tags(id_))
        assert (await it.all_ended())["T"].step is Step.MOVED
        assert it.state(id_) == ("stalledUP", "hdd")
        assert it.files("T") == set(FILES)


@pytest.mark.parametrize("step", [Step.STOPPING, Step.CHECKING])
async def test_without_its_journal_one_with_a_link_in_a_files_place_runs_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        id_ = await it.tiered("T")
        await it.leave_free(0)
        with held(monkeypatch, step, "taken" if step is Step.STOPPING else "recorded") as hold:
            it.space.trigger()
            await hold.wait()
    shutil.rmtree(tmp_path / "state")
    (it.inside.ssd / "tv/T/a").rename(tmp_path / "a")
    (it.inside.ssd / "tv/T/a").symlink_to(tmp_path / "a")
    async with shelf(tmp_path, monkeypatch, fake=it.fake, RECONCILE_INTERVAL_S=QUICK) as it:
        await condition(lambda: RELOCATING_TAG not in it.fake.tags(id_))
        await it.all_ended()
        assert it.state(id_) == ("stalledUP", "ssd" if step is Step.STOPPING else "hdd")
