"""Tiers that qBittorrent has one below the other: what is on the inner one is not on the outer."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from qbm_trio.core.model import Outcome, TorrentId
from qbm_trio.core.placement import map_path
from qbm_trio.core.relocation import Step
from tests.rig.inside import make
from tests.rig.shelves import FILES, Shelf, held, shelf
from tests.rig.trees import below

SSD_BELOW = {"ssd": "/downloads/ssd", "hdd": "/downloads"}
HDD_BELOW = {"ssd": "/downloads", "hdd": "/downloads/hdd"}


@dataclass(kw_only=True)
class Nested:
    """A torrent without a category, right in its tier's folder, and a copy of it."""

    shelf: Shelf
    id: TorrentId
    theirs: dict[str, str]  #: qBittorrent's path of each tier

    @property
    def place(self) -> tuple[str, str]:
        """Its state, settled, and its content path."""
        torrent = self.shelf.fake._now(self.id)
        assert torrent is not None
        return torrent.state, torrent.content_path

    def put(self, tier: str, state: str) -> None:
        """Have a qBittorrent that was killed come back with all of it on this tier."""
        self.shelf.fake._now(self.id)
        root = self.theirs[tier]
        self.shelf.fake.change(
            self.id,
            save_path=root,
            content_path=f"{root}/T",
            state=state,
            progress=1.0,
            amount_left_bytes=0,
        )

    def files(self, tier: str) -> set[str]:
        """What it has on a tier."""
        return self.shelf.files("T", tier=tier, save="")


@asynccontextmanager
async def nested(
    root: Path, monkeypatch: pytest.MonkeyPatch, theirs: dict[str, str]
) -> AsyncIterator[Nested]:
    mappings = [(path, str(root / tier)) for tier, path in theirs.items()]
    text = ",".join(f"{path}={ours}" for path, ours in mappings)
    async with shelf(root, monkeypatch, PATH_MAPPINGS=text) as it:
        it.fake.disk = lambda path: Path(map_path(path, mappings))
        made = make(it.inside.ssd, "T", FILES)
        id_ = it.fake.add(made.data, save_path=theirs["ssd"])
        assert (await it.inside.tier(id_)).outcome is Outcome.TIERED
        await it.leave_free(0)
        yield Nested(shelf=it, id=id_, theirs=theirs)


@pytest.mark.parametrize("theirs", [SSD_BELOW, HDD_BELOW])
async def test_it_goes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs: dict[str, str]
) -> None:
    async with nested(tmp_path, monkeypatch, theirs) as it:
        await it.shelf.run_now()
        assert (await it.shelf.all_ended())["T"].step is Step.DONE
        assert it.place == ("stalledUP", f"{theirs['hdd']}/T")
        assert (it.files("ssd"), it.files("hdd")) == (set(), {"a", "b"})


async def test_a_check_on_the_ssd_is_not_taken_for_one_on_the_hdd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nested(tmp_path, monkeypatch, SSD_BELOW) as it:
        good = {path.name: path.read_bytes() for path in below(it.shelf.inside.ssd / "T")}
        copy = it.shelf.inside.hdd / "T/a"
        was = copy.stat()
        with held(monkeypatch, Step.CHECKING) as hold:
            it.shelf.space.trigger()
            await hold.wait()
            copy.write_bytes(bytes(was.st_size))
            os.utime(copy, ns=(was.st_atime_ns, was.st_mtime_ns))
            it.put("ssd", "stoppedUP")
            hold.go_on.set()
            assert (await it.shelf.all_ended())["T"].step is Step.UNDONE
        assert it.place == ("stalledUP", "/downloads/ssd/T")
        assert {path.name: path.read_bytes() for path in below(it.shelf.inside.ssd / "T")} == good


async def test_what_slips_back_to_the_ssd_is_seen_before_the_deletion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Step] = []
    async with nested(tmp_path, monkeypatch, SSD_BELOW) as it:
        with held(monkeypatch, Step.WAITING, "taken", seen=steps) as hold:
            it.shelf.space.trigger()
            await hold.wait()
            it.put("ssd", "stalledUP")
            hold.go_on.set()
            assert (await it.shelf.all_ended())["T"].step is Step.DONE
        assert steps[-2:] == [Step.REPAIRING, Step.DELETING]
        assert it.place == ("stalledUP", "/downloads/T")
        assert it.files("hdd") == {"a", "b"}
