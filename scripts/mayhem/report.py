"""What a person sees: how far each world is, what was found, and the figures at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .judge import Finding, Weight
from .plan import Kind
from .run import WorldRun
from .tally import Tally

MB = 1_000_000
BYTES = ("bytes copied", "bytes copied twice")
SECTIONS: dict[str, tuple[str, ...]] = {
    "kills": (
        Kind.SERVICE_KILL, Kind.SERVICE_TERM, Kind.QBITTORRENT_KILL, Kind.BOTH_KILL,
    ),
    "faults": (
        Kind.SPOIL, Kind.HDD_FULL, Kind.HDD_READ_ONLY, Kind.HDD_UNMOUNT, Kind.QBITTORRENT_FREEZE,
    ),
    "abuse": (Kind.RUBBISH, Kind.WRONG_KEY, Kind.HALF_OPEN, Kind.HUGE),
    "its user": (
        Kind.ADD, Kind.REMOVE, Kind.REMOVE_WITH_FILES, Kind.FOREIGN, Kind.PRESSURE,
        "qBittorrent started again for its HDD", "rechecked by hand for its .torrent",
    ),
    "clients": (
        "notifications accepted", "duplicate notifications sent", "notifications given up",
        Kind.TRIGGER, Kind.TAG_ALL,
    ),
    "the service": (
        "relocations done", "relocations undone", *BYTES, "jobs not done yet", "starts refused",
    ),
    "the run": (
        "rounds", "torrents checked", "files hashed", "events without an effect",
        "events that failed", "ends of qBittorrent by itself", "empty files below the mount point",
    ),
}  # fmt: skip
"""The rows of the table, under their headlines."""


class Screen:
    """Shows runs while they go on: a live table on a terminal, else a line for each round."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def tell(self, version: str, finding: Finding) -> None:
        """Print what was found, at once."""
        style = {Weight.LOSS: "bold red", Weight.WRONG: "red", Weight.NOTED: "dim"}
        self._console.print(Text(f"{version}: {finding}", style=style[finding.weight]))

    @contextmanager
    def showing(self, runs: Sequence[WorldRun]) -> Iterator[_Shown]:
        """Show them for the length of a ``with`` block."""
        if not self._console.is_terminal:
            yield _Shown(self._console, runs, None)
            return
        with Live(console=self._console, transient=True, auto_refresh=False) as live:
            yield _Shown(self._console, runs, live)


class _Shown:
    def __init__(self, console: Console, runs: Sequence[WorldRun], live: Live | None) -> None:
        self._console = console
        self._runs = runs
        self._live = live
        self._last: dict[str, str] = {}
        self._began_s = time.monotonic()

    def renew(self) -> None:
        """Show how things stand."""
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
            return
        for run in self._runs:
            if self._last.get(run.tally.version) != run.now:
                self._last[run.tally.version] = run.now
                took_s = time.monotonic() - self._began_s
                text = f"{took_s:5.0f} s {run.tally.version} {run.now:18}{_brief(run.tally)}"
                self._console.print(Text(text))

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        took_s = time.monotonic() - self._began_s
        for title in (f"{took_s:.0f} s", "now", "so far"):
            table.add_column(title)
        for run in self._runs:
            table.add_row(run.tally.version, run.now, _brief(run.tally))
        return table


def _brief(tally: Tally) -> str:
    kills = sum(tally[what] for what in SECTIONS["kills"])
    faults = sum(tally[what] for what in SECTIONS["faults"])
    accepted, relocated = tally["notifications accepted"], tally["relocations done"]
    return f"{kills} kills, {faults} faults, {accepted} accepted, {relocated} relocated"


def figures(runs: Sequence[WorldRun]) -> Table:
    """All figures, one column for each qBittorrent."""
    table = Table(title="What happened", title_justify="left")
    table.add_column("")
    for run in runs:
        table.add_column(run.tally.version, justify="right")
    for section, rows in SECTIONS.items():
        table.add_section()
        table.add_row(Text(section, style="bold"))
        for what in rows:
            table.add_row(Text(f"  {what}"), *(_shown(run.tally, what) for run in runs))
    found = {finding.what: finding.weight for run in runs for finding in run.findings}
    table.add_section()
    table.add_row(Text("found", style="bold"))
    for what in sorted(found, key=lambda what: (list(Weight).index(found[what]), what)):
        style = "" if found[what] is Weight.NOTED else "red"
        numbers = (sum(f.what == what for f in run.findings) for run in runs)
        note = f"  {what}" + (" (noted only)" if found[what] is Weight.NOTED else "")
        table.add_row(Text(note, style=style), *map(str, numbers))
    losses = [sum(f.weight is Weight.LOSS for f in run.findings) for run in runs]
    style = "bold red" if any(losses) else "bold green"
    table.add_row(Text("  LOSSES", style=style), *(Text(str(n), style=style) for n in losses))
    return table


def _shown(tally: Tally, what: str) -> str:
    return f"{tally[what] / MB:.1f} MB" if what in BYTES else str(tally[what])


def where_to_look(run: WorldRun, seed: int) -> str:
    """How to look into what went wrong."""
    return (
        f"{run.tally.version}: seed {seed}, {run.output}/: events.log (all events and findings), "
        "service.log, qbittorrent.log, state/ (the journal); after a loss also the disks, "
        "ssd.img and hdd.img (mount -o loop,ro)"
    )
