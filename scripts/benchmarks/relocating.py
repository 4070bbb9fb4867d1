"""Relocating a torrent, beside qBittorrent's own ``setLocation`` to an empty folder.

Each round has files of its own with the same content. ``setLocation`` copies the file
and then deletes the old one. A relocation finds the copy that a job has made while the
torrent was seeding, has qBittorrent check it, and then deletes. Either is over when the
SSD's file is gone. Meanwhile a thread asks qBittorrent every 50 ms what the torrent does.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path, PurePosixPath

from qbm_trio.core.space import PIN_TAG
from scripts.rig.qbt import Qbt, running

from .machine import MIB, Places, drop_cached, fill_and_free, sync
from .model import BenchFailed, Row, Series, ratio_row
from .server import Server, serving
from .space_calls import BY_HAND, SHORT_OF_SPACE
from .torrents import Content, info_hash_v1, one_file, renamed

SEEDS = frozenset({"uploading", "stalledUP", "queuedUP", "forcedUP"})
SAMPLE_S = 0.05
LIMIT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What qBittorrent said of the torrent."""

    at_s: float
    state: str
    progress: float
    content_path: str

    def seeds_below(self, folder: Path) -> bool:
        """Whether it is seeding from there."""
        there = PurePosixPath(self.content_path).is_relative_to(folder)
        return there and self.state in SEEDS and self.progress == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """One run of either side."""

    gone_s: float  #: until the SSD's file was gone
    not_seeding_s: float


def seconds_not_seeding(samples: Sequence[Sample], ssd: Path, hdd: Path) -> float:
    """From the last answer that has it seeding on the SSD to the first that has it on the HDD.

    The first of those that lasted: a relocation that goes back and forth is one gap.

    Raises:
        BenchFailed: it was never seen seeding on one of them.
    """
    on_ssd = [n for n, sample in enumerate(samples) if sample.seeds_below(ssd)]
    others = [n for n, sample in enumerate(samples) if not sample.seeds_below(hdd)]
    if not on_ssd or others[-1] + 1 == len(samples):
        raise BenchFailed(f"it was not seeding on both tiers; at the end: {samples[-1:]}")
    return samples[others[-1] + 1].at_s - samples[on_ssd[-1]].at_s


def compare(
    places: Places,
    *,
    size_bytes: int,
    fill_bytes: int,
    refresh_ms: Sequence[int],
    rounds: int,
    say: Callable[[str], None],
) -> list[Row]:
    """Measure both in turn, the order reversed every other round.

    Args:
        places: where; the original of all files is in its ``work``.
        size_bytes: of the torrent.
        fill_bytes: of memory to fill and free before each run (`fill_and_free`).
        refresh_ms: qBittorrent's refresh intervals to measure with.
        rounds: how many runs of each.
        say: takes a line about each run.
    """
    bench = _Bench(places, size_bytes=size_bytes, fill_bytes=fill_bytes)
    rows = []
    with (
        running(places.work / "relocating qbittorrent") as qbt,
        serving(bench.server(qbt)) as server,
    ):
        for interval_ms in refresh_ms:
            qbt.api.app_set_preferences({"refresh_interval": interval_ms})
            section = (
                f"relocating {size_bytes // MIB} MiB beside setLocation, "
                f"refresh interval {interval_ms} ms"
            )
            say(f"refresh interval {interval_ms} ms")
            rows += _compare(section, bench, server, qbt, rounds=rounds, say=say)
    return rows


def _compare(
    section: str,
    bench: _Bench,
    server: Server,
    qbt: Qbt,
    *,
    rounds: int,
    say: Callable[[str], None],
) -> list[Row]:
    ours: list[Taken] = []
    theirs: list[Taken] = []
    synced_s: list[float] = []

    def relocate() -> None:
        ours.append(bench.relocate(server, qbt))

    def set_location() -> None:
        taken, sync_s = bench.set_location(qbt)
        theirs.append(taken)
        synced_s.append(sync_s)

    for n in range(rounds):
        for step in (relocate, set_location)[:: 1 if n % 2 == 0 else -1]:
            step()
        for name, runs in (("relocation", ours), ("setLocation", theirs)):
            last = runs[-1]
            say(f"{name}: {last.gone_s:.2f} s, not seeding {last.not_seeding_s:.2f} s")
    took = " ".join(f"{seconds:.2f}" for seconds in synced_s)
    return [
        ratio_row(
            section,
            name,
            Series(name="relocation", unit="s", values=tuple(map(figure, ours))),
            Series(name="setLocation", unit="s", values=tuple(map(figure, theirs))),
            note=note,
        )
        for name, figure, note in (
            (
                "until the SSD's file is gone",
                attrgetter("gone_s"),
                f"setLocation syncs nothing; sync -f after it: {took} s",
            ),
            ("not seeding", attrgetter("not_seeding_s"), ""),
        )
    ]


class _Bench:
    """The folders, and what is done in them."""

    def __init__(self, places: Places, *, size_bytes: int, fill_bytes: int) -> None:
        self._work = places.work
        self._fill_bytes = fill_bytes
        self._ssd, self._hdd = places.ssd / "relocating", places.hdd / "relocating"
        self._other_hdd = places.hdd / "setLocation"
        original = places.work / "original"
        for folder in (self._ssd, self._hdd, self._other_hdd, original):
            folder.mkdir()
        self._content: Content = one_file(original, size_bytes, piece_bytes=512 * 1024)
        self._made = 0

    def server(self, qbt: Qbt) -> Server:
        """The service, short of space for good."""
        return Server(
            folder=self._work / "relocating",
            ssd=self._ssd,
            hdd=self._hdd,
            qbittorrent_port=qbt.web_port,
            settings={**BY_HAND, **SHORT_OF_SPACE},
        )

    def relocate(self, server: Server, qbt: Qbt) -> Taken:
        """Have it tiered, then relocated."""
        with self._torrent(qbt) as (id, on_ssd):
            server.tier([id])
            on_hdd = self._hdd / on_ssd.name
            self._forget([on_ssd, on_hdd])
            while not server.idle():
                time.sleep(0.02)
            # The job's end has asked for a run, which may come any time: it is this one.
            server.space_run(relocated=0)
            qbt.api.torrents_remove_tags(PIN_TAG, id)
            with _sampling(qbt, id) as samples:
                began_s = time.perf_counter()
                run_id = server.post("/space-management/trigger", {})["run_id"]
                gone_s = _until(lambda: not on_ssd.exists(), "the SSD's file is gone") - began_s
                server.end_of_run(run_id, relocated=1)
                _until_seeding(samples, self._hdd)
            taken = Taken(
                gone_s=gone_s, not_seeding_s=seconds_not_seeding(samples, self._ssd, self._hdd)
            )
            self._check(on_hdd)
        return taken

    def set_location(self, qbt: Qbt) -> tuple[Taken, float]:
        """Have qBittorrent move it; and the seconds until all of it is on the disk."""
        with self._torrent(qbt) as (id, on_ssd):
            self._forget([on_ssd])
            with _sampling(qbt, id) as samples:
                began_s = time.perf_counter()
                qbt.api.torrents_set_location(str(self._other_hdd), id)
                gone_s = _until(lambda: not on_ssd.exists(), "the SSD's file is gone") - began_s
                _until_seeding(samples, self._other_hdd)
            began_s = time.perf_counter()
            sync(self._other_hdd)
            sync_s = time.perf_counter() - began_s
            taken = Taken(
                gone_s=gone_s,
                not_seeding_s=seconds_not_seeding(samples, self._ssd, self._other_hdd),
            )
            self._check(self._other_hdd / on_ssd.name)
        return taken, sync_s

    @contextmanager
    def _torrent(self, qbt: Qbt) -> Iterator[tuple[str, Path]]:
        """One that seeds from the SSD, pinned; its id and file. Gone afterwards, data and all."""
        self._made += 1
        name = f"relocated {self._made}.bin"
        torrent = renamed(self._content.torrents["v1"], name)
        path = self._ssd / name
        shutil.copyfile(self._content.root, path)
        sync(self._ssd)
        id = info_hash_v1(torrent)
        qbt.add(torrent, save_path=self._ssd, complete=True, tags=PIN_TAG)
        qbt.wait_for(lambda: qbt.info(id)["state"] in SEEDS, "it is seeding")
        yield id, path
        qbt.api.torrents_delete(delete_files=True, torrent_hashes=id)
        qbt.wait_for(lambda: id not in qbt.ids(), "the torrent is removed")
        for folder in (self._hdd, self._other_hdd):
            (folder / name).unlink(missing_ok=True)
        sync(self._hdd)

    def _forget(self, paths: Sequence[Path]) -> None:
        """Both sides read from the disks, as they do with files that are not of today."""
        fill_and_free(self._fill_bytes)
        drop_cached(paths)

    def _check(self, path: Path) -> None:
        size = self._content.root.stat().st_size
        if not path.is_file() or path.stat().st_size != size:
            raise BenchFailed(f"{path} is not there whole")


@contextmanager
def _sampling(qbt: Qbt, id: str) -> Iterator[list[Sample]]:
    """Ask what the torrent does, every 50 ms, in a thread, for the length of a block."""
    samples: list[Sample] = []
    stop = threading.Event()
    problems: list[Exception] = []

    def ask() -> None:
        # A client of its own: the library's must not be shared between threads.
        api = Qbt(qbt.folder, web_port=qbt.web_port, peer_port=qbt.peer_port)
        while not stop.wait(SAMPLE_S):
            row = api.info(id)
            samples.append(
                Sample(
                    at_s=time.perf_counter(),
                    state=row["state"],
                    progress=row["progress"],
                    content_path=row["content_path"],
                )
            )

    def guarded() -> None:
        try:
            ask()
        except Exception as error:
            problems.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        _until(lambda: samples or problems, "the first answer about it")
        yield samples
    finally:
        stop.set()
        thread.join()
    if problems:
        raise BenchFailed(f"the torrent's state could not be asked for: {problems[0]}")


def _until_seeding(samples: list[Sample], folder: Path) -> None:
    _until(lambda: samples[-1].seeds_below(folder), f"it is seeding from {folder}")


def _until(condition: Callable[[], object], what: str) -> float:
    """Wait for it; return when it was so (perf_counter)."""
    until = time.perf_counter() + LIMIT_S
    while not condition():
        if time.perf_counter() > until:
            raise BenchFailed(f"not within {LIMIT_S:.0f} s: {what}")
        time.sleep(0.005)
    return time.perf_counter()
