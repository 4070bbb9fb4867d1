"""How often a run of space management calls qBittorrent, with nothing to do and with something.

Everything is real; a `forwarder` between the two counts. Short of space is a service
with a threshold above the size of any SSD. What it must not touch has the tag that pins it.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from hashlib import sha1
from pathlib import Path

import bencode2

from qbm_trio.core.space import PIN_TAG
from scripts.rig.qbt import Qbt, running

from .forwarder import KINDS, Forwarder, forwarding
from .machine import Places
from .model import Row, Series, Target, plain_row
from .server import Server, serving

SECTION = "space management: calls to qBittorrent for a run"
FEW = 10
IDLE_TARGET = Target(limit=1)
SHORT_OF_SPACE = {"DISK_SPACE_THRESHOLD_GB": "1000000"}
#: No run but those that are triggered, once those asked for by the start are over.
BY_HAND = {"SPACE_CHECK_INTERVAL_S": "86400", "DELETE_GRACE_S": "0"}
_FILE_BYTES = 100
_AT_ONCE = 500  #: torrents in one call that adds them


def measure(places: Places, *, many: int, rounds: int, say: Callable[[str], None]) -> list[Row]:
    """Count, with a few torrents and with many."""
    ssd, hdd = places.ssd / "calls", places.hdd / "calls"
    ssd.mkdir()
    hdd.mkdir()
    with (
        running(places.work / "calls qbittorrent") as qbt,
        forwarding(qbt.web_port) as forwarder,
    ):
        counted = _Counted(forwarder, say)

        def server(settings: dict[str, str], *, state: str = "few") -> Server:
            return Server(
                folder=places.work / f"calls {state}",
                ssd=ssd,
                hdd=hdd,
                qbittorrent_port=forwarder.port,
                settings={**BY_HAND, **settings},
            )

        ids = add(qbt, ssd, range(FEW))
        with serving(server({})) as roomy:
            roomy.tier(ids[:4])
            counted.idle(roomy, f"room enough, {FEW} torrents", rounds)
        with serving(server(SHORT_OF_SPACE)) as short:
            counted.idle(short, f"nothing may go, {FEW} torrents", rounds)
            counted.relocating(short, qbt, ids[:1])
            counted.relocating(short, qbt, ids[1:4])
        add(qbt, ssd, range(FEW, many))
        # With another journal: torrents that came after the first start would be copied.
        with serving(server(SHORT_OF_SPACE, state="many")) as short:
            counted.idle(short, f"nothing may go, {many} torrents", rounds)
        with serving(server({}, state="many")) as roomy:
            counted.idle(roomy, f"room enough, {many} torrents", rounds)
    return counted.rows


class _Counted:
    """Rows in the making."""

    def __init__(self, forwarder: Forwarder, say: Callable[[str], None]) -> None:
        self.rows: list[Row] = []
        self._forwarder = forwarder
        self._say = say

    def idle(self, server: Server, what: str, rounds: int) -> None:
        """Runs that have nothing to do."""
        server.wait_for_checks()
        server.space_run(relocated=0)  # after it no run is left that the start has asked for
        runs = [self._run(server, relocated=0) for _ in range(rounds)]
        took = " ".join(f"{took_s:.2f}" for _, took_s in runs)
        self._row(what, [calls for calls, _ in runs], IDLE_TARGET, f"; took {took} s")

    def relocating(self, server: Server, qbt: Qbt, ids: list[str]) -> None:
        """A run that relocates these."""
        qbt.api.torrents_remove_tags(PIN_TAG, ids)
        calls, _ = self._run(server, relocated=len(ids))
        self._row(f"{len(ids)} relocated, without polls", [calls], None, "")

    def _run(self, server: Server, *, relocated: int) -> tuple[Counter[tuple[str, str]], float]:
        """The calls of one run by kind and name, and the seconds that it took."""
        before = self._forwarder.counts()
        began_s = time.perf_counter()
        server.space_run(relocated=relocated)
        took_s = time.perf_counter() - began_s
        calls = self._forwarder.counts() - before
        return Counter({key: number for key, number in calls.items() if key[0] in KINDS}), took_s

    def _row(
        self, what: str, runs: list[Counter[tuple[str, str]]], target: Target | None, also: str
    ) -> None:
        calls = max(runs, key=Counter.total)
        by_kind = dict.fromkeys(KINDS, 0)
        for (kind, _), number in calls.items():
            by_kind[kind] += number
        names = ", ".join(
            f"{name.removeprefix('torrents/')} {number}"
            for (kind, name), number in sorted(calls.items())
            if kind == "fixed"
        )
        note = ", ".join(f"{kind} {number}" for kind, number in by_kind.items())
        self._say(f"{what}: {note}" + (f" ({names})" if names else ""))
        self.rows.append(
            plain_row(
                SECTION,
                what,
                Series(name="calls", unit="calls", values=tuple(map(_without_polls, runs))),
                target=target,
                note=note + also,
                on_chart=False,
            )
        )


def _without_polls(calls: Counter[tuple[str, str]]) -> int:
    return sum(number for (kind, _), number in calls.items() if kind != "polls")


def add(qbt: Qbt, folder: Path, numbers: Iterable[int]) -> list[str]:
    """Add finished torrents of one small file each, pinned; give their ids."""
    ids, torrents = [], []
    for number in numbers:
        name = f"small {number:05}.bin"
        data = os.urandom(_FILE_BYTES)
        (folder / name).write_bytes(data)
        info = {
            b"name": name.encode(),
            b"piece length": 16384,
            b"length": len(data),
            b"pieces": sha1(data, usedforsecurity=False).digest(),
        }
        ids.append(sha1(bencode2.bencode(info), usedforsecurity=False).hexdigest())
        torrents.append(bencode2.bencode({b"info": info}))
    for start in range(0, len(torrents), _AT_ONCE):
        qbt.api.torrents_add(
            torrent_files=torrents[start : start + _AT_ONCE],
            save_path=str(folder),
            is_skip_checking=True,
            tags=PIN_TAG,
        )

    def all_complete() -> bool:
        rows = {row["hash"]: row for row in qbt.api.torrents_info()}
        complete = all(id in rows and rows[id]["state"] == "stalledUP" for id in ids)
        # And not in this second: a service that starts now would take them for new ones.
        return complete and time.time() >= 1 + max(int(str(rows[i]["completion_on"])) for i in ids)

    qbt.wait_for(all_complete, f"{len(ids)} torrents are seeding", limit_s=120)
    return ids
