"""What the demo shows: how far each torrent is, and what landed where. Fits 80 columns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import groupby

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from scripts.rig.making import Sample

WIDE_COLUMNS = 100
SHA256_SHOWN = 12  #: hex digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One torrent at one moment."""

    sample: Sample
    downloaded: float  #: 0 to 1
    copied: float  #: 0 to 1
    state: str
    rate_bytes_s: float = 0.0
    eta_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Landed:
    """One file of a torrent at the end, on both tiers."""

    folder: str  #: below either tier's root
    name: str
    sha256_ssd: str
    sha256_hdd: str
    as_seeded: bool
    tags: str  #: of its torrent


def landed_table(files: Iterable[Landed]) -> Table:
    """What landed where: a line for each folder, one for each of its files."""
    table = Table(box=None, pad_edge=False)
    titles = ("folder and file, on both tiers", "SSD: SHA-256", "HDD: SHA-256", "equal", "tags")
    for title in titles:
        table.add_column(title, no_wrap=True)
    for folder, group in groupby(files, key=lambda file: file.folder):
        ours = list(group)
        table.add_row(Text(f"{folder}/"), "", "", "", Text(ours[0].tags))
        for file in ours:
            table.add_row(
                Text(f"  {file.name}"),
                _start_of(file.sha256_ssd),
                _start_of(file.sha256_hdd),
                "yes" if file.as_seeded else Text("NO", style="bold red"),
                "",
            )
    return table


def _start_of(digest: str) -> str:
    return digest if len(digest) <= SHA256_SHOWN else f"{digest[:SHA256_SHOWN]}…"


class Screen:
    """Shows rows: as a live table in a terminal, else as one line for each change."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = console.is_terminal and not console.is_dumb_terminal
        self._said: dict[str, str] = {}
        self._began = time.monotonic()

    @contextmanager
    def showing(self) -> Iterator[Callable[[list[Row]], None]]:
        """Give a function that shows rows."""
        live = Live(console=self.console, auto_refresh=False) if self._live else None
        with live or nullcontext():

            def show(rows: list[Row]) -> None:
                if live is not None:
                    live.update(self.table(rows), refresh=True)
                else:
                    self._lines(rows)

            yield show

    def table(self, rows: list[Row]) -> Table:
        """The rows at one moment, as wide as the terminal allows."""
        wide = self.console.width >= WIDE_COLUMNS
        table = Table(box=None, pad_edge=False)
        for title in ("torrent", "to the SSD", "verified on HDD", "MB/s", "left", "state"):
            table.add_column(title, no_wrap=True)
        for row in rows:
            table.add_row(
                Text(row.sample.name, overflow="ellipsis"),
                ProgressBar(total=1, completed=row.downloaded, width=18 if wide else 10),
                ProgressBar(total=1, completed=row.copied, width=24 if wide else 15),
                f"{row.rate_bytes_s / 1e6:.1f}" if row.rate_bytes_s else "",
                f"{row.eta_s:.0f} s" if row.eta_s is not None else "",
                Text(row.state, style="green" if row.state.startswith("done") else ""),
            )
        return table

    def _lines(self, rows: list[Row]) -> None:
        for row in rows:
            quarter = int(row.copied * 4) * 25
            text = f"{row.state} {quarter} %" if row.state == "copying" else row.state
            if self._said.get(row.sample.name) != text:
                self._said[row.sample.name] = text
                seconds = time.monotonic() - self._began
                self.console.print(Text(f"{seconds:6.1f} s  {row.sample.name}: {text}"))
