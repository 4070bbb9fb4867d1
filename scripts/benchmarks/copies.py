"""Copy and verify with the service's own engine, beside ``cp`` and ``sync -f``."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import trio

from qbm_trio.adapters.copying import CopyItem, CopyOptions, copy_and_verify
from qbm_trio.adapters.metainfo import parse
from qbm_trio.adapters.publish_staging import discard_staging, prepare_staging
from qbm_trio.adapters.publishing import PublishItem, publish
from qbm_trio.core.model import Progress
from qbm_trio.core.pieces import Metainfo

from .machine import MIB, drop_cached, fill_and_free, settle, warm
from .model import BenchFailed, Row, Series, Target, ratio_row
from .torrents import VERSIONS, Content

# Both sides at the same priority. The service itself runs at COPY_OPERATION_NICE_LEVEL,
# which on an idle machine changes nothing and on a busy one measures the others.
OPTIONS = CopyOptions(nice=0)


def compare(
    section: str,
    content: Content,
    destination: Path,
    *,
    cold: bool,
    fill_bytes: int,
    rounds: int,
    target: Target | None,
    say: Callable[[str], None],
) -> list[Row]:
    """Measure ``cp`` and all three versions in turn, the order reversed every other round.

    Args:
        section: of the table.
        content: what to copy.
        destination: an empty folder.
        cold: forget the source's cached pages before each run, and sync ``cp``'s copy;
            else warm them, and sync nothing.
        fill_bytes: of memory to fill and free before each run (`fill_and_free`).
        rounds: how many runs of each.
        target: for the ratio.
        say: takes a line about each round.
    """
    parsed = {version: parse(content.torrents[version]) for version in VERSIONS}
    runs: dict[str, list[float]] = {name: [] for name in ("cp", *VERSIONS)}
    filled: list[int] = []  # bytes of memory, before each run

    def once(name: str) -> float:
        settle(destination)
        filled.append(fill_and_free(fill_bytes))
        # After the filling, which may push cached pages out.
        (drop_cached if cold else warm)(content.paths)
        if name == "cp":
            elapsed_s = _cp(content, destination, sync=cold)
            copied = destination
        else:
            elapsed_s = trio.run(_ours, parsed[name], content, destination)
            copied = destination / "category"
        _check(content, copied)
        return elapsed_s

    for n in range(rounds):
        names = list(runs) if n % 2 == 0 else list(runs)[::-1]
        for name in names:
            runs[name].append(once(name))
        say("  ".join(f"{name} {values[-1]:.2f} s" for name, values in runs.items()))
    settle(destination)
    least = min(filled)
    note = f"after filling {least // MIB} MiB of memory" if least else "no memory filled before"
    if not least:
        say("too little memory to fill some before each run: who needs more may pay for that")
    copied_by = "cp, sync -f" if cold else "cp"
    beside = Series(name=copied_by, unit="s", values=tuple(runs["cp"]))
    return [
        ratio_row(
            section,
            f"{version} torrent",
            Series(name=version, unit="s", values=tuple(runs[version])),
            beside,
            target=target,
            note=note,
        )
        for version in VERSIONS
    ]


def _cp(content: Content, destination: Path, *, sync: bool) -> float:
    began = time.perf_counter()
    subprocess.run(["cp", "-r", content.root, destination], check=True)
    if sync:
        subprocess.run(["sync", "-f", destination], check=True)
    return time.perf_counter() - began


def _mounted() -> None:
    """The disk is: there is no marker to prove it by."""


async def _ours(metainfo: Metainfo, content: Content, hdd: Path) -> float:
    """What a tiering job does with its files, from staging to the folders' sync."""
    limiter = trio.CapacityLimiter(1)
    ssd = content.root.parent
    sizes = [path.stat().st_size for path in content.paths]
    began = time.perf_counter()
    goals = [hdd / "category" / path.relative_to(ssd) for path in content.paths]
    staged = await prepare_staging(
        hdd, goals, instance_id="bench", job_id="job", require=_mounted, limiter=limiter
    )
    items = [
        CopyItem(index=n, source=path, size_bytes=size, wanted=True, staged=stage)
        for n, (path, size, stage) in enumerate(zip(content.paths, sizes, staged, strict=True))
    ]
    journal = staged[0].parent / "journal"

    def record(position: int) -> None:
        """Cost what a commit of the journal costs."""
        with journal.open("w") as file:
            file.write(str(position))
            file.flush()
            os.fsync(file.fileno())

    report = await copy_and_verify(
        metainfo,
        items,
        options=OPTIONS,
        progress=Progress(),
        limiter=limiter,
        require=_mounted,
        record=record,
    )
    await publish(
        hdd,
        [
            PublishItem(staged=stage, destination=goal, source=path, written=report.files[n])
            for n, (path, goal, stage) in enumerate(zip(content.paths, goals, staged, strict=True))
        ],
        source_root=ssd,
        limiter=limiter,
    )
    await discard_staging(hdd, instance_id="bench", job_id="job", limiter=limiter)
    elapsed_s = time.perf_counter() - began
    if report.bytes_verified != sum(sizes):
        raise BenchFailed(f"only {report.bytes_verified} of {sum(sizes)} bytes were verified")
    return elapsed_s


def _check(content: Content, copied: Path) -> None:
    """Both sides must have done the whole work."""
    for path in content.paths:
        there = copied / path.relative_to(content.root.parent)
        if not there.is_file() or there.stat().st_size != path.stat().st_size:
            raise BenchFailed(f"{os.fspath(there)} was not copied whole")
