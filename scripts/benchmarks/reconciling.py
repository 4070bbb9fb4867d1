"""What the reconciler costs while nothing happens: its calls, and the service's CPU time.

Everything is real: a qBittorrent with many torrents, the adapter, a journal. The looks
follow each other at once, in this process, so that nothing else is counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from qbm_trio.adapters.journal import Journal
from qbm_trio.adapters.qbittorrent import Qbittorrent
from qbm_trio.core.model import Torrent
from qbm_trio.core.relocation import Relocation, Step
from qbm_trio.core.roots import Roots
from qbm_trio.tasks.jobs import Jobs
from qbm_trio.tasks.queue import JobQueue
from qbm_trio.tasks.reconciler import Reconciler, ReconcilerPolicy
from scripts.rig.qbt import Qbt, running

from .machine import Places
from .model import BenchFailed, Row, Series, Target, plain_row
from .space_calls import add

SECTION = "reconciler: an interval in which nothing happens"
CPU_TARGET = Target(limit=20)
CALLS_TARGET = Target(limit=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    calls: int
    cpu_ms: float
    took_s: float


def measure(places: Places, *, torrents: int, rounds: int, say: Callable[[str], None]) -> list[Row]:
    """The first look, at all torrents; then looks at which nothing has changed."""
    ssd = places.ssd / "reconciled"
    ssd.mkdir()
    with running(places.work / "reconciled qbittorrent") as qbt:
        add(qbt, ssd, range(torrents))
        state = places.work / "reconciled state"
        state.mkdir()
        roots = Roots(ssd=ssd, hdd=places.hdd, path_mappings=())
        first, idle = trio.run(_looks, qbt, state, roots, rounds)
    cpu_ms = [look.cpu_ms for look in idle]
    say(
        f"{torrents} torrents: first {first.cpu_ms:.0f} ms, then {min(cpu_ms):.1f} to "
        f"{max(cpu_ms):.1f} ms of CPU time"
    )
    took = " ".join(f"{look.took_s:.2f}" for look in idle)
    return [
        plain_row(
            SECTION,
            f"{torrents} torrents, CPU time",
            Series(name="look", unit="ms", values=tuple(look.cpu_ms for look in idle)),
            target=CPU_TARGET,
            note=f"took {took} s, nearly all of it qBittorrent's",
        ),
        plain_row(
            SECTION,
            f"{torrents} torrents, calls",
            Series(name="calls", unit="calls", values=tuple(look.calls for look in idle)),
            target=CALLS_TARGET,
            on_chart=False,
        ),
        plain_row(
            SECTION,
            f"the first look, at all {torrents} torrents",
            Series(name="look", unit="ms", values=(first.cpu_ms,)),
            note=f"took {first.took_s:.2f} s",
        ),
    ]


async def _looks(qbt: Qbt, state: Path, roots: Roots, rounds: int) -> tuple[_Look, list[_Look]]:
    client = Qbittorrent(url=qbt.url)
    journal = Journal.open(state)
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run, trio.CapacityLimiter(1))
        try:
            await client.version()
            reconciler = Reconciler(
                ReconcilerPolicy(roots=roots, interval_s=60, retention_s=86400, dry_run=False),
                client=client,
                jobs=Jobs(journal, JobQueue(1000)),
                journal=journal,
                begin_again=_never,
                lost_row=_none,
                relocations_known=lambda: True,
                first_run_at=time.time() + 86400,  # all of them are older
            )

            async def look() -> _Look:
                calls, cpu_s, began_s = client.requests, time.process_time(), time.perf_counter()
                await reconciler.look()
                return _Look(
                    calls=client.requests - calls,
                    cpu_ms=(time.process_time() - cpu_s) * 1000,
                    took_s=time.perf_counter() - began_s,
                )

            first = await look()
            await look()  # what 5.x says once more of what was just added
            idle = [await look() for _ in range(rounds)]
        finally:
            journal.close()
    if not client.contact.reachable:
        raise BenchFailed(f"qBittorrent did not answer: {client.contact.problem}")
    return first, idle


async def _none(torrent: Torrent) -> Relocation | None:
    raise BenchFailed(f"{torrent.name!r} has nothing to be found of it")


async def _never(row: Relocation, *, at: Step) -> bool:
    raise BenchFailed(f"{row.name!r} was to be {at}")
