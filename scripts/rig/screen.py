"""How far each torrent of the demo is, for a person to watch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from scripts.rig.making import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One torrent at one moment."""

    sample: Sample
    downloaded: float  #: 0 to 1
    copied: float  #: 0 to 1
    state: str
    rate_bytes_s: float = 0.0
    eta_s: float | None = None


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
                    live.update(self._table(rows), refresh=True)
                else:
                    self._lines(rows)

            yield show

    def _table(self, rows: list[Row]) -> Table:
        table = Table(box=None, pad_edge=False)
        for title in ("torrent", "SSD: download", "HDD: verified copy", "MB/s", "left", "state"):
            table.add_column(title, no_wrap=True, justify="left")
        for row in rows:
            table.add_row(
                Text(row.sample.name, overflow="ellipsis"),
                ProgressBar(total=1, completed=row.downloaded, width=18),
                ProgressBar(total=1, completed=row.copied, width=24),
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
