"""What scrapes cost: their time, and that of copies in turns with and without them."""

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
IDLE_S = 2.0  #: of scrapes while nothing else goes on, in each round


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
    """First while nothing else goes on; then copies with and without, to disk and to memory.

    Copies are made in turn, the order reversed every other round.

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

    def turns(hdd: Path, *, cold: bool) -> _Turns:
        return _Turns(
            places.work / "turn",
            template,
            torrents,
            hdd,
            qbittorrent_port=qbittorrent.web_port,
            cold=cold,
            fill_bytes=fill_bytes,
        )

    rows = _while_idle(
        f"scrapes: nothing else, {jobs} jobs", turns(places.hdd, cold=True), rounds=rounds, say=say
    )
    for how, hdd, cold in (
        ("source not cached, to disk", places.hdd, True),
        ("source cached, to memory", places.memory, False),
    ):
        if hdd is None:
            say("not measured without a disk: no tmpfs with enough room")
        else:
            say(how)
            section = f"scrapes: {what}, {how}"
            rows += _compare(section, turns(hdd, cold=cold), rounds=rounds, say=say)
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    took_s: float
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

    def copy(self, *, scraped: bool) -> _Turn:
        """Copy everything once."""
        settle(self._hdd)
        fill_and_free(self._fill_bytes)
        # After the filling, which may push cached pages out.
        (drop_cached if self._cold else warm)(self._torrents.values())
        try:
            return self.take(lambda server: _tiered_s(server, self._torrents), scraped=scraped)
        finally:
            settle(self._hdd)

    def take(self, work: Callable[[Server], float], *, scraped: bool) -> _Turn:
        """Ask a service all through ``work``, which returns how long it took, in seconds."""
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
                server.get("/status")  # the journal is read; from now on only what changes
                load = start_load(
                    "scrape", server.port, server.key, A_SECOND, int(scraped), core=None
                )
                try:
                    took_s = work(server)
                finally:
                    load.terminate()
                    found = end_load(load)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
        scrapes_ms, healths_ms = (
            [each_s * 1000 for each_s in found[name]] for name in ("scrapes_s", "healths_s")
        )
        return _Turn(took_s=took_s, scrapes_ms=scrapes_ms, healths_ms=healths_ms)


def _while_idle(
    section: str, turns: _Turns, *, rounds: int, say: Callable[[str], None]
) -> list[Row]:
    loop_ms: list[float] = []

    def idle(server: Server) -> float:
        time.sleep(0.5)  # the load starts
        before_s = server.loop_cpu_s()
        time.sleep(IDLE_S)
        loop_ms.append((server.loop_cpu_s() - before_s) / (IDLE_S * A_SECOND) * 1000)
        return IDLE_S

    scraped = [turns.take(idle, scraped=True) for _ in range(rounds)]
    cpu = Series(name="CPU time", unit="ms", values=tuple(loop_ms))
    say(f"nothing else goes on: a scrape takes {cpu.median:.1f} ms of CPU time")
    note = "with that of the /health beside it"
    return [
        plain_row(section, "CPU time of a scrape", cpu, target=Target(limit=SCRAPE_MS), note=note),
        *_times(section, scraped),
    ]


def _compare(section: str, turns: _Turns, *, rounds: int, say: Callable[[str], None]) -> list[Row]:
    without: list[_Turn] = []
    scraped: list[_Turn] = []
    for n in range(rounds):
        for done in (without, scraped)[:: 1 if n % 2 == 0 else -1]:
            done.append(turns.copy(scraped=done is scraped))
        last_ms = scraped[-1].scrapes_ms
        say(
            f"copied in {without[-1].took_s:.2f} s; with {len(last_ms)} scrapes in "
            f"{scraped[-1].took_s:.2f} s, a scrape p50 {percentile(last_ms, 50):.1f} ms, "
            f"p99 {percentile(last_ms, 99):.1f} ms"
        )
    return [
        ratio_row(
            section,
            f"copied with {A_SECOND} scrapes a second",
            Series(name="scraped", unit="s", values=tuple(turn.took_s for turn in scraped)),
            Series(name="no scrapes", unit="s", values=tuple(turn.took_s for turn in without)),
        ),
        *_times(section, scraped),
    ]


def _times(section: str, turns: Sequence[_Turn]) -> list[Row]:
    return [
        plain_row(
            section,
            f"{what}, {name}",
            Series(
                name=name, unit="ms", values=tuple(percentile(each, percent) for each in turns_ms)
            ),
            target=target,
            note=f"of {sum(map(len, turns_ms))} in all",
        )
        for what, turns_ms, target in (
            ("a scrape", [turn.scrapes_ms for turn in turns], Target(limit=SCRAPE_MS)),
            ("/health meanwhile", [turn.healths_ms for turn in turns], None),
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
            " started_at = accepted_at, finished_at = accepted_at, end_seq = seq"
        )
