"""Relocating torrents of a real qBittorrent: over to the HDD, or back whole."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from qbm_trio.adapters import journal_relocations
from qbm_trio.core.model import Outcome, TorrentId
from qbm_trio.core.relocation import Relocation, RunId, Step
from qbm_trio.core.space import RELOCATING_TAG
from qbm_trio.tasks.relocation import GroupWatch
from tests.rig.inside import Inside, give, inside, put, tags
from tests.rig.mounts import in_memory
from tests.rig.qbt import Chroot, Installed, Launcher, Qbt, running
from tests.rig.torrents import make_torrent
from tests.rig.trees import below

pytestmark = pytest.mark.qbittorrent

FILES = {"a": 40_000, "sub/b": 50_000}
LIMIT_S = 90.0
RUNNING = {"stalledUP", "uploading", "queuedUP", "forcedUP"}
STOPPED = {"pausedUP", "stoppedUP"}


@pytest.fixture(scope="module", params=["4.5.2", "5.1.0"])
def qbt(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Qbt]:
    """Both real versions; the tiers of all tests are where each of them sees them."""
    shared = tmp_path_factory.getbasetemp()
    launcher: Launcher = Installed() if request.param == "4.5.2" else Chroot(shared=shared)
    with running(tmp_path_factory.mktemp("qbt"), launcher=launcher) as started:
        yield started


@asynccontextmanager
async def tiered(
    tmp_path: Path, qbt: Qbt, name: str, **options: Any
) -> AsyncIterator[tuple[Inside, TorrentId, dict[Path, bytes]]]:
    """A torrent with a verified copy; what its files on the SSD hold."""
    with in_memory() as ssd:
        async with inside(
            tmp_path, qbt.url, DOWNLOAD_PATH_SSD=str(ssd), DELETE_GRACE_S="0"
        ) as service:
            torrent = put(qbt, service.ssd / "tv", name, FILES, category="tv", **options)
            assert (await service.tier(torrent.id)).outcome is Outcome.TIERED
            files = (path for path in below(service.ssd / "tv" / name) if path.is_file())
            yield service, TorrentId(torrent.id), {path: path.read_bytes() for path in files}


async def relocate(service: Inside, *ids: TorrentId) -> list[Relocation]:
    """Relocate these torrents as one group."""
    parts = service.service
    group = []
    for id_ in ids:
        torrent = await parts.client.torrent(id_)
        group.append(
            Relocation(
                run_id=RunId("run"),
                group=ids[0],
                torrent_id=id_,
                name=torrent.name,
                from_path=torrent.save_path,
                to_path=str(service.hdd / "tv"),
                was_running=torrent.state not in STOPPED,
                force_start=torrent.force_start,
                auto_management=torrent.auto_management,
                download_path=torrent.download_path,
                bytes=0,
            )
        )
    rows = await service.journal.do(partial(journal_relocations.begin, group=group, now=1.0))
    return await run_group(service, rows)


async def run_group(service: Inside, rows: list[Relocation]) -> list[Relocation]:
    watch = GroupWatch(rows)
    with trio.fail_after(LIMIT_S):
        await service.service.space._relocator.run_group(watch)
    return list(watch.rows)


async def settled(qbt: Qbt, id_: str, states: set[str], place: Path) -> dict[str, Any]:
    """What qBittorrent says of a torrent, once it is in one of these states at this place."""
    said: dict[str, Any] = {}
    with trio.move_on_after(LIMIT_S):
        while True:
            said = qbt.info(id_)
            if (
                said["state"] in states
                and said["progress"] == 1
                and Path(said["content_path"]).is_relative_to(place)
            ):
                return said
            await trio.sleep(0.05)
    raise AssertionError(f"{said['state']} at {said['content_path']}")


async def test_a_relocated_torrent_seeds_from_the_hdd_and_only_its_own_files_are_gone(
    tmp_path: Path, qbt: Qbt
) -> None:
    async with tiered(tmp_path, qbt, "Whole") as (service, id_, content):
        foreign = service.ssd / "tv/Whole/sub/notes.txt"
        foreign.write_text("mine")
        (row,) = await relocate(service, id_)
        assert (row.step, row.error) == (Step.DONE, None)
        await settled(qbt, id_, RUNNING, service.hdd)
        assert tags(qbt, id_) == {"hdd"}
        assert [p for p in below(service.ssd / "tv") if p.is_file()] == [foreign]
        for path, data in content.items():
            assert (service.hdd / path.relative_to(service.ssd)).read_bytes() == data


async def test_a_torrent_that_its_user_stopped_stays_stopped(tmp_path: Path, qbt: Qbt) -> None:
    async with tiered(tmp_path, qbt, "Stopped") as (service, id_, content):
        qbt.api.torrents_stop(torrent_hashes=id_)
        await settled(qbt, id_, STOPPED, service.ssd)
        (row,) = await relocate(service, id_)
        assert row.step is Step.DONE
        await settled(qbt, id_, STOPPED, service.hdd)
        assert not any(path.exists() for path in content)


async def test_a_corrupt_copy_sends_the_torrent_back_to_the_ssd_whole_and_seeding(
    tmp_path: Path, qbt: Qbt
) -> None:
    """Same size, same time: only qBittorrent's recheck can tell."""
    async with tiered(tmp_path, qbt, "Corrupt") as (service, id_, content):
        copy = service.hdd / "tv/Corrupt/sub/b"
        status, data = copy.stat(), bytearray(copy.read_bytes())
        data[7] ^= 0xFF
        copy.write_bytes(data)
        os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
        (row,) = await relocate(service, id_)
        assert row.step is Step.UNDONE
        assert "recheck of the copy on the HDD failed" in (row.error or "")
        await settled(qbt, id_, RUNNING, service.ssd)
        assert {p: p.read_bytes() for p in content} == content
        assert RELOCATING_TAG not in tags(qbt, id_)


async def test_a_copy_that_is_missing_is_noticed_before_qbittorrent_could_move_the_data(
    tmp_path: Path, qbt: Qbt
) -> None:
    async with tiered(tmp_path, qbt, "Missing") as (service, id_, content):
        (service.hdd / "tv/Missing/a").unlink()
        (row,) = await relocate(service, id_)
        assert row.step is Step.UNDONE
        assert "is missing" in (row.error or "")
        await settled(qbt, id_, RUNNING, service.ssd)
        assert {p: p.read_bytes() for p in content} == content


async def test_files_that_another_torrent_lists_too_are_not_deleted(
    tmp_path: Path, qbt: Qbt
) -> None:
    async with tiered(tmp_path, qbt, "Shared") as (service, id_, content):
        other = give(
            qbt,
            make_torrent(service.ssd / "tv", "Shared", list(FILES), piece_length=32 * 1024),
            service.ssd / "tv",
        )
        (row,) = await relocate(service, id_)
        assert row.step is Step.UNDONE
        assert "another torrent has" in (row.error or "")
        await settled(qbt, id_, RUNNING, service.ssd)
        await settled(qbt, other.id, RUNNING, service.ssd)
        assert {p: p.read_bytes() for p in content} == content


async def test_cross_seeds_of_the_same_files_go_over_together(tmp_path: Path, qbt: Qbt) -> None:
    async with tiered(tmp_path, qbt, "Twins") as (service, id_, content):
        other = give(
            qbt,
            make_torrent(service.ssd / "tv", "Twins", list(FILES), piece_length=32 * 1024),
            service.ssd / "tv",
            category="tv",
        )
        assert (await service.tier(other.id)).outcome is Outcome.TIERED
        rows = await relocate(service, id_, TorrentId(other.id))
        assert [row.step for row in rows] == [Step.DONE, Step.DONE]
        for one in (id_, other.id):
            await settled(qbt, one, RUNNING, service.hdd)
        assert not any(path.exists() for path in content)
