"""What tests of a relocation's calls wait for, and the files that they look at."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import trio

from qbm_trio.core.model import Torrent, TorrentId
from tests.contract.subjects import Subject


async def stopped(subject: Subject, up: bool) -> str:
    """The state of a stopped torrent, as this version says it."""
    version = tuple(map(int, (await subject.client.version())[1].split(".")))
    return ("stopped" if version >= (2, 11) else "paused") + ("UP" if up else "DL")


async def until(
    subject: Subject, id: TorrentId, condition: Callable[[Torrent], bool], limit_s: float = 20
) -> Torrent:
    """Ask until the torrent is so."""
    torrent = await subject.client.torrent(id)
    with trio.move_on_after(limit_s):
        while not condition(torrent):
            await trio.sleep(0.02)
            torrent = await subject.client.torrent(id)
        return torrent
    raise AssertionError(f"not within {limit_s} s: {torrent}")


async def always(subject: Subject, id: TorrentId, condition: Callable[[Torrent], bool]) -> Torrent:
    """Ask for ten refresh intervals; the torrent is so each time."""
    torrent = await subject.client.torrent(id)
    end = trio.current_time() + 10 * await subject.client.refresh_interval_s()
    while trio.current_time() < end:
        assert condition(torrent), torrent
        await trio.sleep(0.02)
        torrent = await subject.client.torrent(id)
    return torrent


async def stop(subject: Subject, id: TorrentId) -> None:
    state = await stopped(subject, True)
    await subject.client.stop(id)
    await until(subject, id, lambda torrent: torrent.state == state)


def copied(ssd: Path, *, to: Path | None = None, corrupt: bool = False) -> Path:
    """Make a copy of the torrent's files, beside them or elsewhere, maybe with one byte wrong."""
    hdd = to or ssd.with_name(f"{ssd.name} hdd")
    shutil.copytree(ssd, hdd)
    if corrupt:
        with (hdd / "dir/a").open("r+b") as file:
            byte = file.read(1)
            file.seek(0)
            file.write(bytes([byte[0] ^ 1]))
    return hdd


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


async def files_are(folder: Path, condition: Callable[[dict[str, bytes]], bool]) -> None:
    """Wait until what is in the folder is so."""
    files = contents(folder)
    with trio.move_on_after(10):
        while not condition(files):
            await trio.sleep(0.02)
            files = contents(folder)
        return
    raise AssertionError(sorted(files))


def marked(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{name}.!qB": data for name, data in files.items()}


async def renamed(folder: Path, before: dict[str, bytes], limit_s: float = 20) -> dict[str, bytes]:
    """Wait until no file has its name of before."""
    with trio.fail_after(limit_s):
        while True:
            files = contents(folder)
            if not files.keys() & before.keys():
                return files
            await trio.sleep(0.02)
