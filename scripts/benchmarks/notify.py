"""Notifications: how many a second, and how long each takes, to an answer that is kept."""

from __future__ import annotations

import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from qbm_trio.core.model import Notification
from scripts.rig.qbt import Qbt, free_port

from .machine import Places, sync
from .model import BenchFailed, Row, Series, Target, percentile, plain_row
from .server import Server, cores, end_load, fill_journal, serving, start_load
from .torrents import Content, info_hash_v1, renamed

SECTION = "notification"
CLIENTS = {1: (500, 10), 32: (1000, 70)}  #: clients: notifications a second, p99 in ms
ABOVE_FDATASYNC_MS = 50


def measure(
    places: Places,
    content: Content,
    qbittorrent: Qbt,
    *,
    rounds: int,
    seconds: float,
    say: Callable[[str], None],
) -> list[Row]:
    """Both states in which a user's service takes a burst, with 1 and with 32 clients."""
    rows = _of_the_generator(seconds=seconds / 2, rounds=rounds)
    busy = Server(
        folder=places.work / "busy",
        ssd=content.root.parent,
        hdd=places.hdd,
        qbittorrent_port=qbittorrent.web_port,
        settings={
            "COPY_RATE_LIMIT_MB_S": "0.2",  # workers are busy, and the disk is not
            "MAX_CONCURRENT_COPY_OPERATIONS": "3",
        },
        core=cores()[0],
    )
    ids = add_torrents(content, qbittorrent, 3, "busy")
    fill_journal(busy.state, [Notification(hash=id, priority=9) for id in ids])
    with serving(busy):
        busy.wait_for_copies(3)
        rows += _bursts(busy, "workers busy", copies=3, rounds=rounds, seconds=seconds, say=say)
    away = Server(
        folder=places.work / "away",
        ssd=content.root.parent,
        hdd=places.hdd,
        qbittorrent_port=free_port(),
        core=cores()[0],
    )
    with serving(away):
        rows += _bursts(away, "qBittorrent away", copies=0, rounds=rounds, seconds=seconds, say=say)
    return rows


def _bursts(
    server: Server,
    state: str,
    *,
    copies: int,
    rounds: int,
    seconds: float,
    say: Callable[[str], None],
) -> list[Row]:
    rates: dict[int, list[float]] = {clients: [] for clients in CLIENTS}
    p99s_ms: dict[int, list[float]] = {clients: [] for clients in CLIENTS}
    accepted: list[str] = []
    for n in range(rounds):
        for clients in list(CLIENTS) if n % 2 == 0 else list(CLIENTS)[::-1]:
            load = ("notify", server.port, server.key, clients, seconds, 0)
            result = end_load(start_load(*load, core=cores()[1]))
            accepted += result["accepted"]
            rates[clients].append(len(result["accepted"]) / result["elapsed_s"])
            p99s_ms[clients].append(percentile(result["latencies_s"], 99) * 1000)
            p50_ms = percentile(result["latencies_s"], 50) * 1000
            say(
                f"{state}, {clients} clients: {rates[clients][-1]:.0f}/s, "
                f"p50 {p50_ms:.1f} ms, p99 {p99s_ms[clients][-1]:.1f} ms"
            )
    if server.copying() < copies:
        raise BenchFailed("the copies that kept the workers busy ended too early")
    check_kept(server, accepted)
    rows = []
    for clients, (rate, p99_ms) in CLIENTS.items():
        name = f"{clients} client{'s' if clients > 1 else ''}, {state}"
        note = f"{len(accepted)} answers, all kept"
        rows.append(
            plain_row(
                SECTION,
                name,
                Series(name="rate", unit="/s", values=tuple(rates[clients])),
                target=Target(limit=rate, at_most=False),
                note=note,
            )
        )
        rows.append(
            plain_row(
                SECTION,
                f"{name}, p99",
                Series(name="p99", unit="ms", values=tuple(p99s_ms[clients])),
                target=Target(limit=p99_ms),
            )
        )
    return rows


def check_kept(server: Server, accepted: list[str]) -> None:
    """Kill the service; every hash that was answered with 202 must be in the journal."""
    server.kill()
    if len(set(accepted)) != len(accepted):
        raise BenchFailed("the load sent a hash twice")
    lost = set(accepted) - server.journal_hashes()
    if lost:
        raise BenchFailed(f"{len(lost)} of {len(accepted)} accepted notifications are lost")


def _of_the_generator(*, seconds: float, rounds: int) -> list[Row]:
    """What the load generator reaches with a server that does nothing."""
    port = free_port()
    rates: dict[int, list[float]] = {clients: [] for clients in CLIENTS}
    server = start_load("stand-in", port, core=cores()[0])
    try:
        _wait_for_port(port)
        for _ in range(rounds):
            for clients, found in rates.items():
                load = start_load("notify", port, "none", clients, seconds, 0, core=cores()[1])
                result = end_load(load)
                found.append(len(result["accepted"]) / result["elapsed_s"])
    finally:
        server.send_signal(signal.SIGKILL)
        server.communicate()
    return [
        plain_row(
            SECTION,
            f"{clients} client{'s' if clients > 1 else ''}, the load's own limit",
            Series(name="rate", unit="/s", values=tuple(found)),
            note="against a server that does nothing",
            on_chart=False,
        )
        for clients, found in rates.items()
    ]


def _wait_for_port(port: int) -> None:
    until = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def add_torrents(content: Content, qbittorrent: Qbt, count: int, word: str) -> dict[str, Path]:
    """Give qBittorrent finished torrents of a file's copies; return their files by hash.

    Not of hard links to it: torrents that share data are copied once, one after the other.
    """
    added = {}
    for n in range(count):
        name = f"{word} {n}.bin"
        path = content.root.parent / name
        shutil.copyfile(content.root, path)
        torrent = renamed(content.torrents["v1"], name)
        qbittorrent.add(torrent, save_path=content.root.parent, complete=True, category=word)
        added[info_hash_v1(torrent)] = path
    sync(content.root.parent)
    return added


def during_copies(
    server: Server, *, rounds: int, count: int, say: Callable[[str], None]
) -> list[Row]:
    """The p99 of one client while three copies run, beside that of bare fdatasyncs.

    Both run at once, with the same number of writes, on the same disk.
    """
    ours_ms: list[float] = []
    bare_ms: list[float] = []
    accepted: list[str] = []
    rss_bytes = 0
    limit_s = 20
    while len(ours_ms) < rounds and _all_copy(server):
        fdatasync = start_load("fdatasync", server.state, limit_s, count, core=None)
        try:
            load = start_load("notify", server.port, server.key, 1, limit_s, count, core=None)
            result = end_load(load)
        finally:
            bare = end_load(fdatasync)
        accepted += result["accepted"]
        if not _all_copy(server):
            break  # they ended meanwhile: this round shows something else
        ours_ms.append(percentile(result["latencies_s"], 99) * 1000)
        bare_ms.append(percentile(bare["latencies_s"], 99) * 1000)
        rss_bytes = max(rss_bytes, server.memory_bytes())
        say(
            f"three copies running, 1 client: {len(result['accepted'])} notifications, "
            f"{len(result['accepted']) / result['elapsed_s']:.0f}/s, p99 {ours_ms[-1]:.1f} ms; "
            f"{len(bare['latencies_s'])} bare fdatasyncs, p99 {bare_ms[-1]:.1f} ms"
        )
    check_kept(server, accepted)
    if not ours_ms:
        raise BenchFailed("the copies ended before anything could be measured beside them")
    ours = Series(name="p99", unit="ms", values=tuple(ours_ms))
    bare_series = Series(name="fdatasync p99", unit="ms", values=tuple(bare_ms))
    return [
        Row(
            section=SECTION,
            name="1 client, three copies running, p99 over fdatasync's",
            ours=ours,
            beside=bare_series,
            figure=ours.median - bare_series.median,
            unit="ms",
            target=Target(limit=ABOVE_FDATASYNC_MS),
            note=f"rounds of {count} writes each; RSS up to {rss_bytes / 1e6:.0f} MB",
        )
    ]


def _all_copy(server: Server) -> bool:
    """Whether three copies run; where one has just ended, the next begins in a moment."""
    try:
        server.wait_for_copies(3, limit_s=2)
    except BenchFailed:
        return False
    return True
