"""What the demo shows: how far each torrent is, and what landed where. Fits 80 columns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, Protocol, TypeVar

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from scripts.rig.making import Sample

WIDE_COLUMNS = 100
SHA256_SHOWN = 12  #: hex digits
SEEDING = frozenset({"uploading", "stalledUP", "queuedUP", "forcedUP"})
"""What qBittorrent calls a torrent that others can have from it."""


class Shown(Protocol):
    """One torrent at one moment, as a row of a table, or as a line of its own."""

    @property
    def name(self) -> str:
        """The torrent's name."""
        ...

    @property
    def line(self) -> str:
        """What is printed, without a terminal, whenever it changes."""
        ...


S = TypeVar("S", bound=Shown)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """How far one torrent is on its way to the HDD."""

    sample: Sample
    downloaded: float  #: 0 to 1
    copied: float  #: 0 to 1
    state: str
    rate_bytes_s: float = 0.0
    eta_s: float | None = None

    @property
    def name(self) -> str:
        """The torrent's name."""
        return self.sample.name

    @property
    def line(self) -> str:
        """Its state, with quarters of what is copied."""
        quarter = int(self.copied * 4) * 25
        return f"{self.state} {quarter} %" if self.state == "copying" else self.state


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One torrent while the SSD is freed: what the service does, what qBittorrent says."""

    at_s: float  #: of the monotonic clock
    name: str
    step: str  #: of its relocation; empty without one
    state: str  #: qBittorrent's word
    tier: str  #: that qBittorrent has it on

    @property
    def seeds(self) -> bool:
        """Whether others can have it."""
        return self.state in SEEDING

    @property
    def line(self) -> str:
        """All of it."""
        where = f"seeds from the {self.tier}" if self.seeds else f"on the {self.tier}"
        step = f"{self.step}: " if self.step else ""
        return f"{step}{self.state}, {where}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Landed:
    """One file of a torrent, on both tiers."""

    folder: str  #: below either tier's root
    name: str
    sha256_seeded: str | None  #: None: there is no such file
    sha256_ssd: str | None
    sha256_hdd: str | None
    tags: str  #: of its torrent
    tier: str  #: that its torrent seeds from

    @property
    def wrong(self) -> bool:
        """Unless it is on the HDD as seeded, and on the SSD while its torrent seeds from there."""
        on_ssd = self.sha256_seeded if self.tier == "SSD" else None
        return (self.sha256_hdd, self.sha256_ssd) != (self.sha256_seeded, on_ssd)


def progress_table(rows: Iterable[Row], *, wide: bool) -> Table:
    """How far all torrents are."""
    table = _table("torrent", "to the SSD", "verified on HDD", "MB/s", "left", "state")
    for row in rows:
        table.add_row(
            Text(row.name, overflow="ellipsis"),
            ProgressBar(total=1, completed=row.downloaded, width=18 if wide else 10),
            ProgressBar(total=1, completed=row.copied, width=24 if wide else 15),
            f"{row.rate_bytes_s / 1e6:.1f}" if row.rate_bytes_s else "",
            f"{row.eta_s:.0f} s" if row.eta_s is not None else "",
            Text(row.state, style="green" if row.state.startswith("done") else ""),
        )
    return table


def landed_table(files: Iterable[Landed], *, last: Literal["tags", "seeds from"]) -> Table:
    """What landed where: a line for each folder, one for each of its files."""
    table = _table("folder and file", "SSD: SHA-256", "HDD: SHA-256", "equal", last)
    for folder, group in groupby(files, key=lambda file: file.folder):
        ours = list(group)
        about = ours[0].tags if last == "tags" else ours[0].tier
        table.add_row(Text(f"{folder}/"), "", "", "", Text(about))
        for file in ours:
            table.add_row(
                Text(f"  {file.name}"),
                _start_of(file.sha256_ssd) or ("deleted" if file.tier == "HDD" else "missing"),
                _start_of(file.sha256_hdd) or "missing",
                Text("NO", style="bold red") if file.wrong else "yes",
                "",
            )
    return table


def plan_table(torrents: Iterable[Mapping[str, Any]]) -> Table:
    """The plan that the service answers with: what it would do with each torrent, and why."""
    table = _table("torrent", "MB", "decision", "why")
    table.columns[1].justify = "right"
    table.columns[3].no_wrap = False
    for torrent in torrents:
        spared = torrent["decision"] == "spared"
        table.add_row(
            Text(torrent["name"]),
            f"{torrent['bytes'] / 1e6:.1f}",
            Text(torrent["decision"], style="" if spared else "bold yellow"),
            Text(torrent["sentence"]),
        )
    return table


def seen_table(seen: Iterable[Seen]) -> Table:
    """What the service and qBittorrent say while the SSD is freed."""
    table = _table("torrent", "relocation", "qBittorrent says", "seeds from")
    longest = ("repointing", "checkingResumeData", "– (SSD)")
    for column, text in zip(table.columns[1:], longest, strict=True):
        column.min_width = len(text)  # so that the table keeps its shape
    for one in seen:
        table.add_row(
            Text(one.name, overflow="ellipsis"),
            Text(one.step or "–", style="bold yellow" if one.step else ""),
            Text(one.state, style="green" if one.seeds else "yellow"),
            Text(one.tier if one.seeds else f"– ({one.tier})"),
        )
    return table


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, no_wrap=True)
    return table


def _start_of(digest: str | None) -> str:
    return f"{digest[:SHA256_SHOWN]}…" if digest else ""


class Screen:
    """Shows rows: as a live table in a terminal, else as one line for each change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.is_terminal and not console.is_dumb_terminal
        self._said: dict[str, str] = {}
        self._began_s = time.monotonic()

    @contextmanager
    def showing(
        self, table: Callable[[Sequence[S]], Table]
    ) -> Iterator[Callable[[Sequence[S]], None]]:
        """Give a function that shows rows, in a terminal as ``table`` makes them."""
        live = Live(console=self._console, auto_refresh=False) if self._live else None
        with live or nullcontext():

            def show(rows: Sequence[S]) -> None:
                if live is not None:
                    live.update(table(rows), refresh=True)
                else:
                    self._lines(rows)

            yield show

    def _lines(self, rows: Iterable[Shown]) -> None:
        for row in rows:
            if self._said.get(row.name) != row.line:
                self._said[row.name] = row.line
                seconds = time.monotonic() - self._began_s
                self._console.print(Text(f"{seconds:6.1f} s  {row.name}: {row.line}"))
