"""How fast it is, measured beside plain tools in the same run: see ``scripts/bench``."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from qbm_trio.service import calm_the_collector
from scripts.benchmarks import (
    copies,
    notify,
    planning,
    reconciling,
    relocating,
    report,
    resident,
    scraping,
    space_calls,
)
from scripts.benchmarks.machine import MIB, Places, describe, file_system, places
from scripts.benchmarks.model import BenchFailed, Row, Target
from scripts.benchmarks.torrents import Content, many_files, one_file
from scripts.rig.qbt import Qbt, running
from scripts.rig.signals import ignore_signals, leave_on_signals

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("copy", "small", "notify", "memory", "start", "scrape", "space", "reconcile")
COPY_TARGET = Target(limit=1.2)
SMALL_TARGET = Target(limit=3)
SLOW_BYTES = 48 * MIB  #: in each of the copies that only keep workers busy


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is done."""

    rounds: int
    large_bytes: int
    small_count: int
    small_bytes: int = 20 * 1024
    fill_bytes: int  #: of memory, filled and freed before each copy
    burst_s: float
    writes: int  #: in one round beside fdatasync
    jobs: int  #: in the journal
    copies: int  #: during which notifications and memory are measured
    copied_bytes: int  #: in each of them
    rate_limit_mb_s: str = ""  #: for them
    planned: int  #: torrents in a plan, and in qBittorrent when calls are counted
    reconciled: int  #: torrents in qBittorrent while nothing happens
    relocated_bytes: int
    refresh_ms: tuple[int, ...]  #: qBittorrent's refresh intervals to relocate with

    @property
    def content_bytes(self) -> int:
        """What is copied beside ``cp``."""
        return self.large_bytes + self.small_count * (self.small_bytes + 4096)

    @property
    def ssd_bytes(self) -> int:
        """What the SSD folder must hold."""
        copied = (self.copies + 1) * self.copied_bytes + 4 * SLOW_BYTES
        small = (self.planned + self.reconciled) * 4096
        return self.content_bytes + copied + small + self.relocated_bytes

    @property
    def hdd_bytes(self) -> int:
        """What the HDD folder must hold, the original of what is relocated included."""
        return max(2 * self.content_bytes, self.copies * self.copied_bytes) + self.relocated_bytes


FULL = Sizes(
    rounds=5,
    large_bytes=2048 * MIB,
    small_count=5000,
    fill_bytes=6144 * MIB,
    burst_s=3,
    writes=400,
    jobs=10_000,
    copies=9,
    copied_bytes=1024 * MIB,
    planned=10_000,
    reconciled=2_000,
    relocated_bytes=1024 * MIB,
    refresh_ms=(1500, 100),  # its default, and one at which its answers are fresh
)
QUICK = Sizes(
    rounds=1,
    large_bytes=48 * MIB,
    small_count=200,
    fill_bytes=64 * MIB,
    burst_s=0.4,
    writes=50,
    jobs=300,
    copies=3,
    copied_bytes=48 * MIB,
    rate_limit_mb_s="8",  # lest they end before something is measured
    planned=300,
    reconciled=300,
    relocated_bytes=16 * MIB,
    refresh_ms=(100,),
)


class Bench:
    """One run."""

    def __init__(self, console: Console, where: Places, sizes: Sizes, stack: ExitStack) -> None:
        self._console = console
        self._where = where
        self._sizes = sizes
        self._stack = stack
        self._loaded_services: resident.Loaded | None = None
        self._qbittorrent: Qbt | None = None

    def run(self, parts: tuple[str, ...]) -> list[Row]:
        """Measure some parts."""
        rows: list[Row] = []
        if "copy" in parts:
            rows += self._copies(
                f"one file of {self._sizes.large_bytes // MIB} MiB",
                self._file("one large file.bin", self._sizes.large_bytes),
                COPY_TARGET,
            )
        if "small" in parts:
            self._begin("test data: small files")
            content = many_files(
                self._where.ssd,
                self._sizes.small_count,
                self._sizes.small_bytes,
                piece_bytes=128 * 1024,
            )
            rows += self._copies(
                f"{self._sizes.small_count} files of 20 KiB", content, SMALL_TARGET
            )
        if "notify" in parts:
            self._begin("notification")
            rows += notify.measure(
                self._where,
                self._file("slow.bin", SLOW_BYTES),
                self._qbt(),
                rounds=self._sizes.rounds,
                seconds=self._sizes.burst_s,
                say=self._say,
            )
            self._begin("notification while three copies run")
            rows += resident.during_copies(
                self._loaded(), rounds=self._sizes.rounds, count=self._sizes.writes, say=self._say
            )
        if "memory" in parts or "start" in parts:
            self._begin("memory and start")
            rows += resident.measure(
                self._loaded(),
                memory="memory" in parts,
                start="start" in parts,
                rounds=self._sizes.rounds,
                say=self._say,
            )
        if "scrape" in parts:
            self._begin("scrapes while three copies run")
            loaded = self._loaded()
            rows += scraping.measure(
                self._where,
                loaded.copied,
                loaded.qbittorrent,
                jobs=loaded.jobs,
                fill_bytes=self._sizes.fill_bytes,
                rounds=self._sizes.rounds,
                say=self._say,
            )
        if "space" in parts:
            rows += self._space()
        if "reconcile" in parts:
            self._begin(reconciling.SECTION)
            rows += reconciling.measure(
                self._where,
                torrents=self._sizes.reconciled,
                rounds=2 * self._sizes.rounds + 1,
                say=self._say,
            )
        return rows

    def _space(self) -> list[Row]:
        sizes = self._sizes
        self._begin(planning.SECTION)
        rows = planning.measure(torrents=sizes.planned, rounds=3 * sizes.rounds, say=self._say)
        self._begin(space_calls.SECTION)
        rows += space_calls.measure(
            self._where, many=sizes.planned, rounds=sizes.rounds, say=self._say
        )
        self._begin("space management: relocating")
        return rows + relocating.compare(
            self._where,
            size_bytes=sizes.relocated_bytes,
            fill_bytes=sizes.fill_bytes,
            refresh_ms=sizes.refresh_ms,
            rounds=sizes.rounds,
            say=self._say,
        )

    def _copies(self, what: str, content: Content, target: Target) -> list[Row]:
        # What lies in memory anyway cannot be dropped from the page cache.
        in_memory = file_system(self._where.ssd) == "tmpfs"
        source = "source in memory" if in_memory else "source not cached"
        self._begin(f"{what}: {source}, synced")
        rows = copies.compare(
            f"{what}, {source}, verified and synced, beside cp",
            content,
            self._where.hdd,
            cold=True,
            fill_bytes=self._sizes.fill_bytes,
            rounds=self._sizes.rounds,
            target=target,
            say=self._say,
        )
        if self._where.memory is None:
            self._say("not measured without a disk: no tmpfs with enough room")
            return rows
        self._begin(f"{what}: source cached, to memory, no sync")
        return rows + copies.compare(
            f"{what}, source cached, to memory, no sync: what the code costs",
            content,
            self._where.memory,
            cold=False,
            fill_bytes=self._sizes.fill_bytes,
            rounds=self._sizes.rounds,
            target=None,
            say=self._say,
        )

    def _file(self, name: str, size_bytes: int) -> Content:
        self._begin(f"test data: {name}")
        # Piece lengths are those that libtorrent picks for such sizes.
        return one_file(self._where.ssd, size_bytes, piece_bytes=512 * 1024, name=name)

    def _qbt(self) -> Qbt:
        if self._qbittorrent is None:
            profile = self._where.work / "qbittorrent"
            self._qbittorrent = self._stack.enter_context(running(profile))
        return self._qbittorrent

    def _loaded(self) -> resident.Loaded:
        if self._loaded_services is None:
            self._loaded_services = resident.Loaded(
                self._where,
                self._file("copied.bin", self._sizes.copied_bytes),
                self._qbt(),
                jobs=self._sizes.jobs,
                copies=self._sizes.copies,
                rate_limit_mb_s=self._sizes.rate_limit_mb_s,
            )
        return self._loaded_services

    def _begin(self, what: str) -> None:
        self._console.print(Text(f"\n{what}", style="bold"))

    def _say(self, line: str) -> None:
        self._console.print(Text(f"  {line}"), soft_wrap=True)


def main(arguments: list[str]) -> int:
    """Run the bench; a missed target is no failure."""
    options = _options(arguments)
    sizes = QUICK if options.quick else FULL
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=190)
    leave_on_signals()
    calm_the_collector()  # copies are made in this process, and shall cost what they do there
    began = time.monotonic()
    where = None
    try:
        with ExitStack() as stack:
            try:
                where = stack.enter_context(
                    places(
                        options.folder,
                        ssd_bytes=sizes.ssd_bytes,
                        hdd_bytes=sizes.hdd_bytes,
                        memory_bytes=sizes.content_bytes,
                    )
                )
                machine = describe(where)
                report.print_machine(console, machine)
                rows = Bench(console, where, sizes, stack).run(options.only)
            finally:
                ignore_signals()
    except KeyboardInterrupt:
        console.print("\nStopped.")
        _say_what_is_left(console, where)
        return 130
    except (BenchFailed, RuntimeError, TimeoutError) as error:
        print(f"scripts/bench: FAILED: {error}", file=sys.stderr)
        return 1
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    when = time.strftime("%Y-%m-%d %H:%M %Z")
    report.write_json(output / "bench.json", machine, rows, measured=when, quick=options.quick)
    report.write_chart(output / "bench.png", machine, rows)
    console.print()
    if options.quick:
        console.print(
            "Quick: sizes too small to judge the speed by; the targets are for full size."
        )
    report.print_table(console, rows)
    console.print(Text(f"{output / 'bench.png'}, {output / 'bench.json'}"))
    console.print(f"Done in {time.monotonic() - began:.0f} s.")
    _say_what_is_left(console, where)
    return 0


def _say_what_is_left(console: Console, where: Places | None) -> None:
    """Claim that all is cleaned up only if it is; nothing is known without ``where``."""
    if where is None:
        return
    folders = (where.work, where.ssd, where.hdd, where.memory)
    left = [str(folder) for folder in folders if folder is not None and folder.exists()]
    console.print(
        Text(f"Could not be removed: {', '.join(left)}" if left else "Everything is cleaned up.")
    )


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, one round")
    parser.add_argument(
        "--only", type=_parts, default=PARTS, metavar="PARTS", help=f"some of {','.join(PARTS)}"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        action="append",
        default=[],
        help="twice: the SSD folder, then the HDD folder, on two file systems",
    )
    parser.add_argument(
        "--output", type=Path, default=ROOT / "build" / "bench", help="for chart and figures"
    )
    options = parser.parse_args(arguments)
    if len(options.folder) not in (0, 2):
        parser.error("give --folder twice: the SSD folder, then the HDD folder")
    return options


def _parts(text: str) -> tuple[str, ...]:
    chosen = tuple(text.split(","))
    if unknown := set(chosen) - set(PARTS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not one of {PARTS}")
    return chosen


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
