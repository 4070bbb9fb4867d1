"""Real qBittorrents that are killed on the way back from a corrupt copy.

What they saved last may be older than what they did last (a power failure, a disk
that hangs): then files have other names, and other places, than they believe.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import libtorrent as lt
import pytest
import trio

from qbm_trio.adapters.unfinished_names import undo_unfinished_names
from qbm_trio.core.errors import TorrentUnknown
from qbm_trio.core.model import Torrent, TorrentId
from tests.contract.relocating import contents, copied, files_are, stop, stopped, until
from tests.contract.subjects import PAD, REAL, Subject, subject_of

SIZES = {"dir/a": 5 * PAD, "dir/b": 3 * PAD}
LIMITER = trio.CapacityLimiter(1)
LIMIT_S = 20


@pytest.fixture(scope="module", params=REAL)
def subject(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Subject]:
    with subject_of(request.param, tmp_path_factory.mktemp("qbittorrent")) as subject:
        assert subject.qbt is not None
        subject.qbt.api.app_set_preferences({"incomplete_files_ext": True})
        yield subject


def resume_data(subject: Subject, id: TorrentId) -> Path:
    assert subject.qbt is not None
    return subject.qbt.folder / f"profile/qBittorrent/data/BT_backup/{id}.fastresume"


async def saved(subject: Subject, id: TorrentId, place: Path) -> bytes:
    """Wait until it has saved that the torrent is there; give what it saved."""
    with trio.fail_after(LIMIT_S):
        while True:
            data = resume_data(subject, id).read_bytes()
            if data and _decoded(data)[b"save_path"].decode() == str(place):
                return data
            await trio.sleep(0.05)


def _decoded(data: bytes) -> Any:
    return lt.bdecode(data)


async def kill(subject: Subject, id: TorrentId, data: bytes | None) -> Torrent:
    """Kill it, and start it with this resume data, or with what it saved itself."""
    assert subject.qbt is not None
    subject.qbt.stop(signal.SIGKILL)
    if data is not None:
        resume_data(subject, id).write_bytes(data)
    subject.qbt.start()
    with trio.fail_after(LIMIT_S):
        while True:
            try:
                torrent = await subject.client.torrent(id)
            except TorrentUnknown:
                await trio.sleep(0.05)
                continue
            if not torrent.state.startswith("checking"):
                return torrent


async def undo(folder: Path) -> None:
    paths = [PurePosixPath(name) for name in SIZES]
    await undo_unfinished_names(folder, paths, limiter=LIMITER)


async def back(subject: Subject, id: TorrentId, ssd: Path) -> None:
    await undo(ssd)
    await subject.client.set_location(id, str(ssd))
    await until(
        subject,
        id,
        lambda torrent: (
            (torrent.save_path, torrent.content_path) == (str(ssd), str(ssd / "dir"))
            and torrent.state != "moving"
        ),
    )


@pytest.mark.parametrize("killed", ["returned", "rechecking", "passed"])
@pytest.mark.parametrize("saved_last", ["latest", "before the recheck", "before the relocation"])
async def test_a_torrent_comes_back_whole_whatever_qbittorrent_had_saved_when_it_was_killed(
    subject: Subject, killed: str, saved_last: str
) -> None:
    client = subject.client
    id, ssd, _ = subject.add(SIZES)
    good, hdd = contents(ssd), copied(ssd, corrupt=True)
    bad = contents(hdd)
    up, down = await stopped(subject, True), await stopped(subject, False)
    data = {"latest": None, "before the relocation": await saved(subject, id, ssd)}
    await stop(subject, id)
    await client.set_location(id, str(hdd))
    await until(subject, id, lambda torrent: (torrent.state, torrent.progress) == (down, 0))
    data["before the recheck"] = await saved(subject, id, hdd)
    await client.recheck(id)
    await until(subject, id, lambda torrent: torrent.state == down and torrent.progress > 0)
    await files_are(hdd, lambda files: "dir/a.!qB" in files)

    await back(subject, id, ssd)
    await undo(hdd)  # too early: now there is a file that could be moved
    if killed != "returned":
        await undo(ssd)
        await client.recheck(id)
    if killed == "passed":
        await until(subject, id, lambda torrent: torrent.state == up)
        await files_are(ssd, lambda files: files == good)
    await kill(subject, id, data[saved_last])

    await client.stop(id)
    await back(subject, id, ssd)
    await undo(ssd)
    await client.recheck(id)
    # What is shown at once is old, and a start while it checks would be forgotten.
    since = trio.current_time() + 3 * await client.refresh_interval_s()
    await until(subject, id, lambda torrent: torrent.state == up and trio.current_time() > since)
    await undo(hdd)
    await client.start(id)
    await until(subject, id, lambda torrent: torrent.state == "stalledUP")
    assert contents(ssd) == good
    assert contents(hdd) == bad
