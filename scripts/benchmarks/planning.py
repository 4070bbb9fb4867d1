"""Groups and plan for many torrents on paper: nothing is read, nothing asked."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from qbm_trio.core.model import Torrent, TorrentId
from qbm_trio.core.sharing import SsdFile, groups
from qbm_trio.core.space import Facts, SpacePlan, plan_space

from .model import BenchFailed, Row, Series, Target, plain_row

SECTION = "space management: planning"
LIMIT_MS = 100
GB = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """Torrents on an SSD, and who shares what."""

    facts: dict[TorrentId, Facts]
    files: list[SsdFile]
    disk_bytes: int  #: that the files occupy, shared ones once


def measure(*, torrents: int, rounds: int, say: Callable[[str], None]) -> list[Row]:
    """Plan for all torrents in groups of ten; and for three in ten in groups, the rest alone."""
    tenth = torrents // 10
    alone = torrents - 3 * tenth
    rows = []
    for name, sizes, target in (
        (f"{torrents} torrents in {tenth} groups", [10] * tenth, Target(limit=LIMIT_MS)),
        # Beyond what is promised: each group is work, however small.
        (f"{3 * tenth} of them in {tenth} groups, {alone} alone", [3] * tenth + [1] * alone, None),
    ):
        library = _library(sizes)
        taken_ms: list[float] = []
        cpu_ms: list[float] = []
        chosen = 0
        for _ in range(rounds):
            gc.collect()  # what was made before is not part of this
            began, cpu_began = time.perf_counter(), time.process_time()
            plan = _plan(library)
            taken_ms.append((time.perf_counter() - began) * 1000)
            cpu_ms.append((time.process_time() - cpu_began) * 1000)
            _check(plan, library)
            chosen = len(plan.chosen)
        rows.append(
            plain_row(
                SECTION,
                name,
                Series(name="plan", unit="ms", values=tuple(taken_ms)),
                target=target,
                note=f"{len(library.files)} files, {chosen} torrents chosen; "
                f"CPU time {median(cpu_ms):.0f} ms",
            )
        )
        say(f"{name}: {min(taken_ms):.0f} to {max(taken_ms):.0f} ms")
    return rows


def _plan(library: Library) -> SpacePlan:
    return plan_space(
        groups(library.facts, library.files),
        library.facts,
        free_bytes=0,
        target_bytes=library.disk_bytes // 4,
        pending_bytes=0,
        tier_room=len(library.facts) // 20,
    )


def _library(sizes: list[int]) -> Library:
    """Groups of so many torrents, each with one to three files; 19 in 20 have a copy.

    The members of a group have a file in common: every other one under a name of its own,
    the others under the same.
    """
    rng = random.Random(7)
    facts: dict[TorrentId, Facts] = {}
    files: list[SsdFile] = []
    for size in sizes:
        shared = len(files)
        for member in range(size):
            id = TorrentId(f"{rng.getrandbits(160):040x}")
            facts[id] = Facts(
                torrent=_torrent(id, completed_at=rng.uniform(1e9, 2e9)), tiered=rng.random() < 0.95
            )
            own = rng.randint(0 if size > 1 else 1, 2 if size > 1 else 3)
            paths = [f"/downloads/ssd/{id}/{n}.mkv" for n in range(own)]
            if size > 1:
                name = f"/downloads/ssd/{shared}.mkv"
                files.append(
                    SsdFile(
                        torrent_id=id,
                        path=name if member % 2 else f"{name}.{member}",
                        wanted=True,
                        inode=(1, shared),
                        links=1 + (size + 1) // 2,
                        disk_bytes=8 * GB,
                    )
                )
            for path in paths:
                files.append(
                    SsdFile(
                        torrent_id=id,
                        path=path,
                        wanted=True,
                        inode=(1, len(files)),
                        links=1,
                        disk_bytes=GB,
                    )
                )
    occupied = {file.inode: file.disk_bytes for file in files}
    return Library(facts=facts, files=files, disk_bytes=sum(occupied.values()))


def _torrent(id: TorrentId, *, completed_at: float) -> Torrent:
    name = f"A Film With a Usual Name {id[:6]} (2026) 1080p"
    return Torrent(
        id=id,
        name=name,
        state="stalledUP",
        category="movies",
        tags=frozenset({"ssd", "hdd"}),
        save_path="/downloads/ssd",
        content_path=f"/downloads/ssd/{name}",
        progress=1.0,
        amount_left_bytes=0,
        size_bytes=9 * GB,
        completed_at=completed_at,
        auto_management=False,
        download_path="",
        infohash_v1=id,
        infohash_v2="",
    )


def _check(plan: SpacePlan, library: Library) -> None:
    """It must be a plan for all of them that frees what was asked for."""
    found = {each.torrent_id for each in plan.chosen} | {each.torrent_id for each in plan.spared}
    if found != set(library.facts) or not plan.target_met or not plan.relocate:
        raise BenchFailed(f"the plan is not one for {len(library.facts)} torrents")
