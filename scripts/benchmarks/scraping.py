"""What scrapes cost: copies in turns with and without them, and the time of a scrape meanwhile."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from qbm_trio.adapters.journal import FILE_NAME
from qbm_trio.core.model import Notification
from scripts.rig.qbt import Qbt

from .machine import MIB, Places, drop_cached, fill_and_free, settle, warm
from .model import BenchFailed, Row, Series, Target, percentile, plain_row, ratio_row
from .server import Server, end_load, fill_journal, serving, start_load

COPIES = 3  #: at once
A_SECOND = 20  #: scrapes; a Prometheus with its default settings makes one a minute
SCRAPE_MS = 20


def measure(
    places: Places,
    copied: Mapping[str, Path],
    qbittorrent: Qbt,
    *,
    jobs: int,
    fill_bytes: int,
    rounds: int,
    say: Callable[[str], None],
) -> list[Row]:
    """Measure both in turn, the order reversed every other round; to disk, then to memory.

    Args:
        places: where.
        copied: files, by the hashes of their torrents; the first `COPIES` are copied.
        qbittorrent: has these torrents.
        jobs: that ended, in the journal before the copies.
        fill_bytes: of memory to fill and free before each turn (`fill_and_free`).
        rounds: how many turns of each.
        say: takes a line about each turn.
    """
    template = places.work / "scraped"
    _fill_with_ended(template, jobs)
    torrents = dict(list(copied.items())[:COPIES])
    size_bytes = next(iter(torrents.values())).stat().st_size
    what = f"{len(torrents)} copies of {size_bytes // MIB} MiB at once, {jobs} jobs"

    def compare(how: str, hdd: Path, *, cold: bool) -> list[Row]:
        turns = _Turns(
            places.work / "turn",
            template,
            torrents,
            hdd,
            qbittorrent_port=qbittorrent.web_port,
            cold=cold,
            fill_bytes=fill_bytes,
        )
        say(how)
        return _compare(f"scrapes: {what}, {how}", turns, rounds=rounds, say=say)

    rows = compare("source not cached, to disk", places.hdd, cold=True)
    if places.memory is None:
        say("not measured without a disk: no tmpfs with enough room")
        return rows
    return rows + compare("source cached, to memory", places.memory, cold=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    copied_s: float
    scrapes_ms: Sequence[float]  #: each; empty without
    healths_ms: Sequence[float]  #: each answer of ``/health`` meanwhile


class _Turns:
    """A service for each turn, with nothing on its HDD."""

    def __init__(
        self,
        folder: Path,
        template: Path,
        torrents: Mapping[str, Path],
        hdd: Path,
        *,
        qbittorrent_port: int,
        cold: bool,
        fill_bytes: int,
    ) -> None:
        self._folder = folder
        self._template = template
        self._torrents = torrents
        self._hdd = hdd
        self._qbittorrent_port = qbittorrent_port
        self._cold = cold
        self._fill_bytes = fill_bytes

    def take(self, *, scraped: bool) -> _Turn:
        """Copy everything once."""
        settle(self._hdd)
        fill_and_free(self._fill_bytes)
        # After the filling, which may push cached pages out.
        (drop_cached if self._cold else warm)(self._torrents.values())
        shutil.copytree(self._template, self._folder / "state")
        server = Server(
            folder=self._folder,
            ssd=next(iter(self._torrents.values())).parent,
            hdd=self._hdd,
            qbittorrent_port=self._qbittorrent_port,
            settings={"MAX_CONCURRENT_COPY_OPERATIONS": str(COPIES)},
        )
        try:
            with serving(server):
                server.wait_for_health(("healthy",))
                server.wait_for_checks()
                return self._copy(server, scraped=scraped)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
            settle(self._hdd)

    def _copy(self, server: Server, *, scraped: bool) -> _Turn:
        load = start_load("scrape", server.port, server.key, A_SECOND, int(scraped), core=None)
        try:
            copied_s = _tiered_s(server, self._torrents)
        finally:
            load.terminate()
            found = end_load(load)
        scrapes_ms, healths_ms = (
            [each_s * 1000 for each_s in found[name]] for name in ("scrapes_s", "healths_s")
        )
        return _Turn(copied_s=copied_s, scrapes_ms=scrapes_ms, healths_ms=healths_ms)


def _compare(section: str, turns: _Turns, *, rounds: int, say: Callable[[str], None]) -> list[Row]:
    without: list[_Turn] = []
    scraped: list[_Turn] = []
    for n in range(rounds):
        for done in (without, scraped)[:: 1 if n % 2 == 0 else -1]:
            done.append(turns.take(scraped=done is scraped))
        last_ms = scraped[-1].scrapes_ms
        say(
            f"copied in {without[-1].copied_s:.2f} s; with {len(last_ms)} scrapes in "
            f"{scraped[-1].copied_s:.2f} s, a scrape p50 {percentile(last_ms, 50):.1f} ms, "
            f"p99 {percentile(last_ms, 99):.1f} ms"
        )
    scrapes_ms = [turn.scrapes_ms for turn in scraped]
    healths_ms = [turn.healths_ms for turn in scraped]
    return [
        ratio_row(
            section,
            f"copied with {A_SECOND} scrapes a second",
            Series(name="scraped", unit="s", values=tuple(t.copied_s for t in scraped)),
            Series(name="no scrapes", unit="s", values=tuple(t.copied_s for t in without)),
        ),
        *_times(section, "a scrape", scrapes_ms, Target(limit=SCRAPE_MS)),
        *_times(section, "/health meanwhile", healths_ms, None),
    ]


def _times(
    section: str, what: str, turns_ms: Sequence[Sequence[float]], target: Target | None
) -> list[Row]:
    note = f"of {sum(map(len, turns_ms))} in all"
    return [
        plain_row(
            section,
            f"{what}, {name}",
            Series(
                name=name, unit="ms", values=tuple(percentile(each, percent) for each in turns_ms)
            ),
            target=target,
            note=note,
        )
        for name, percent in (("median", 50), ("p99", 99))
    ]


def _tiered_s(server: Server, torrents: Mapping[str, Path], limit_s: float = 300) -> float:
    """Tier all; return the seconds from the first begin to the last end, by the journal.

    Raises `BenchFailed`.
    """
    left = [server.post("/notify/torrent-finished", {"hash": id})["queue_id"] for id in torrents]
    done: list[dict[str, Any]] = []
    until = time.monotonic() + limit_s
    while left:
        # Seldom: each look is a request, too, and reads the journal.
        time.sleep(0.2)
        found = server.get(f"/jobs/{left[0]}")
        if found["state"] == "done":
            done.append(found)
            left.pop(0)
        elif found["state"] == "failed" or time.monotonic() > until:
            raise BenchFailed(f"a torrent is not tiered: {found}")
    begins = [datetime.fromisoformat(job["started_at"]) for job in done]
    ends = [datetime.fromisoformat(job["finished_at"]) for job in done]
    size_bytes = sum(path.stat().st_size for path in torrents.values())
    if (copied := server.get("/status")["statistics"]["bytes_copied"]) != size_bytes:
        raise BenchFailed(f"{copied} of {size_bytes} bytes were copied")
    return (max(ends) - min(begins)).total_seconds()


def _fill_with_ended(state: Path, jobs: int) -> None:
    """A journal of jobs that ended, most of them well."""
    fill_journal(
        state,
        [
            Notification(hash=f"{n:040x}", name=f"A Film of Number {n}", category="movies")
            for n in range(jobs)
        ],
    )
    with closing(sqlite3.connect(state / FILE_NAME)) as connection, connection:
        connection.execute(
            "UPDATE jobs SET state = iif(seq % 10, 'done', 'failed'),"
            " finished_at = accepted_at, started_at = accepted_at"
        )
