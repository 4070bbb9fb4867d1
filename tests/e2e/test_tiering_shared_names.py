"""Torrents of one category whose files have the same names: who shares a place on the HDD."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import trio

from qbm_trio.core.model import Outcome
from tests.rig.inside import LIMIT_S, Inside, Put, give, inside, put
from tests.rig.qbt import Qbt
from tests.rig.torrents import make_torrent, write_files

pytestmark = pytest.mark.qbittorrent

FILES = {"a": 40_000, "sub/b": 30_000}


def shelve(qbt: Qbt, service: Inside, folder: str, name: str, *, seed: int = 0) -> Put:
    """A torrent in a folder of its own."""
    root = service.ssd / folder
    write_files(root / name, FILES, seed=seed)
    # Pieces of another length make it another torrent of the same files.
    piece_length = 16384 if folder.endswith("AB") else 32768
    made = make_torrent(root, name, list(FILES), piece_length=piece_length)
    return give(qbt, made, root, category="films")


def there(service: Inside, name: str) -> set[str]:
    """The folders of the category in which a torrent of this name stands."""
    return {
        str(path.parent.parent.relative_to(service.hdd))
        for path in (service.hdd / "films").rglob(f"{name}/a")
    }


async def tiered(service: Inside, *puts: Put) -> None:
    for one in puts:
        job = await service.tier(one.id)
        assert job.outcome is Outcome.TIERED, job.error


async def test_the_same_film_downloaded_twice_is_there_twice(qbt: Qbt, tmp_path: Path) -> None:
    async with inside(tmp_path, qbt.url) as service:
        one, other = (shelve(qbt, service, f, "Twice") for f in ("here/AB", "there/ABC"))
        await tiered(service, one, other)
        assert there(service, "Twice") == {"films", "films/ABC"}
        job = await service.tier(other.id)
        assert job.bytes_copied == 0
        assert there(service, "Twice") == {"films", "films/ABC"}, "its place is fixed"


async def test_two_that_only_have_the_same_names_are_no_conflict(qbt: Qbt, tmp_path: Path) -> None:
    async with inside(tmp_path, qbt.url) as service:
        places = ("AB", "x/ABC", "y/ABC", "z/ABC")
        puts = [shelve(qbt, service, folder, "Season 1", seed=n) for n, folder in enumerate(places)]
        await tiered(service, *puts)
        folders = {"films", "films/ABC", "films/y/ABC", "films/z/ABC"}
        assert there(service, "Season 1") == folders
        for put_, folder in zip(puts, ("films", "films/ABC", "films/y/ABC"), strict=False):
            copy = (service.hdd / folder / "Season 1/a").read_bytes()
            assert copy == put_.made.paths[0].read_bytes()


async def test_what_a_removed_torrent_has_left_is_taken_over(qbt: Qbt, tmp_path: Path) -> None:
    async with inside(tmp_path, qbt.url) as service:
        one, other = (shelve(qbt, service, f, "Left") for f in ("AB", "ABC"))
        await tiered(service, one)
        qbt.api.torrents_delete(torrent_hashes=one.id)
        qbt.wait_for(lambda: one.id not in qbt.ids(), "it is removed")
        job = await service.tier(other.id)
        assert job.bytes_copied == 0
        assert there(service, "Left") == {"films"}


async def test_with_one_save_path_both_share_the_copy_as_they_share_the_files(
    qbt: Qbt, tmp_path: Path
) -> None:
    async with inside(tmp_path, qbt.url) as service:
        one = put(qbt, service.ssd / "AB", "Shared", FILES, category="films")
        made = make_torrent(service.ssd / "AB", "Shared", list(FILES), piece_length=32768)
        other = give(qbt, made, service.ssd / "AB", category="films")
        await tiered(service, one, other)
        assert there(service, "Shared") == {"films"}


async def test_with_one_that_has_left_the_ssd_nothing_is_shared(qbt: Qbt, tmp_path: Path) -> None:
    """Downloaded anew to the folder that it was in: from then on both are on their own."""
    async with inside(tmp_path, qbt.url) as service:
        one = shelve(qbt, service, "AB", "Again")
        await tiered(service, one)
        qbt.api.torrents_delete(torrent_hashes=one.id)
        qbt.wait_for(lambda: one.id not in qbt.ids(), "it is removed")
        shutil.rmtree(service.ssd / "AB")
        give(qbt, one.made, service.hdd / "films", category="films")
        write_files(service.ssd / "AB/Again", FILES)
        made = make_torrent(service.ssd / "AB", "Again", list(FILES), piece_length=32768)
        await tiered(service, give(qbt, made, service.ssd / "AB", category="films"))
        assert there(service, "Again") == {"films", "films/AB"}


@pytest.mark.parametrize(
    ("held_at", "seed"),
    [("_look", 0), ("_look", 1), ("_publish", 0)],
    ids=["alike", "not alike", "alike, late"],
)
async def test_two_at_once_do_not_end_on_one_path(
    qbt: Qbt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held_at: str, seed: int
) -> None:
    """The second one has found its place, or nothing in it, before the first one has any."""
    async with inside(tmp_path, qbt.url) as service:
        name = f"Both{held_at}{seed}"
        one = shelve(qbt, service, "AB", name)
        other = shelve(qbt, service, "ABC", name, seed=seed)
        go_on = getattr(service.service.tiering, held_at)
        reached, first_done = trio.Event(), trio.Event()

        async def held(*arguments: Any) -> Any:
            plan = getattr(arguments[-1], "plan", arguments[-1])
            if plan.torrent.id == other.id:
                reached.set()
                await first_done.wait()
            return await go_on(*arguments)

        monkeypatch.setattr(service.service.tiering, held_at, held)
        second = await service.notify(other.id)
        with trio.fail_after(LIMIT_S):
            await reached.wait()
        await tiered(service, one)
        first_done.set()
        job = await service.ended(second)
        assert job.outcome is Outcome.TIERED, job.error
        assert there(service, name) == {"films", "films/ABC"}
