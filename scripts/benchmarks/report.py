"""The table, the chart, and the raw figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .model import Row

_STYLES = {"met": "green", "MISSED": "bold red"}
_OURS, _BESIDE, _LIMIT = "#2f6fa7", "#b0b0b0", "#c0392b"


def print_machine(console: Console, machine: Mapping[str, str]) -> None:
    """Where all of this was measured."""
    for name, value in machine.items():
        console.print(Text(f"{name + ':':17} {value}"))


def print_table(console: Console, rows: Sequence[Row]) -> None:
    """One line for each thing measured, with all of its runs."""
    table = Table(title="Medians, and every run in the order measured", title_justify="left")
    for title in ("measured", "figure", "target", "", "runs", "beside it", "note"):
        table.add_column(
            title,
            overflow="fold",
            justify="right" if title == "figure" else "left",
            max_width=30 if title == "note" else None,  # else the names are folded first
        )
    for section, group in groupby(rows, key=lambda row: row.section):
        table.add_section()
        table.add_row(Text(section, style="bold"))
        for row in group:
            beside = f"{row.beside.name}: {row.beside.shown()}" if row.beside else ""
            table.add_row(
                Text(f"  {row.name}"),
                row.figure_text(),
                row.target_text(),
                Text(row.verdict if row.target else "", style=_STYLES.get(row.verdict, "")),
                f"{row.ours.shown()} {row.ours.unit}",
                beside,
                row.note,
            )
    console.print(table)


def write_json(
    path: Path, machine: Mapping[str, str], rows: Sequence[Row], **about: object
) -> None:
    """All raw figures."""
    document = {**about, "machine": dict(machine), "rows": [row.as_json() for row in rows]}
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_chart(path: Path, machine: Mapping[str, str], rows: Sequence[Row]) -> None:
    """A PNG with one panel for each section and unit; every run is a dot."""
    # By name: the type checker runs where matplotlib is not installed.
    import_module("matplotlib").use("Agg")
    pyplot = import_module("matplotlib.pyplot")
    groups = [
        (section, unit, list(group))
        for (section, unit), group in groupby(
            sorted((row for row in rows if row.on_chart), key=_panel_of(rows)),
            key=lambda row: (row.section, row.ours.unit),
        )
    ]
    columns = 2 if len(groups) > 1 else 1
    lines = -(-len(groups) // columns)
    figure, panels = pyplot.subplots(
        lines,
        columns,
        figsize=(7.5 * columns, 2.7 * lines + 0.8),
        squeeze=False,
        layout="constrained",
    )
    for panel in panels.flat[len(groups) :]:
        panel.set_axis_off()
    for panel, (section, unit, group) in zip(panels.flat, groups, strict=False):
        _draw(panel, group)
        panel.set_xlim(left=0)
        panel.set_xlabel(unit, fontsize=8)
        panel.tick_params(axis="x", labelsize=8)
        panel.set_title(section, loc="left", fontsize=9)
    figure.suptitle(
        "qbm-trio (blue), beside it (grey), target (red); every run is a dot\n"
        f"{machine.get('CPU', '')}, {machine.get('kernel', '')}",
        fontsize=10,
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw(panel: Any, group: Sequence[Row]) -> None:
    for y, row in enumerate(group):
        if row.beside is not None:
            panel.barh(y + 0.2, row.beside.median, height=0.34, color=_BESIDE)
            panel.plot(row.beside.values, [y + 0.2] * len(row.beside.values), "k.", ms=3)
        place, height = (y - 0.2, 0.34) if row.beside else (y, 0.6)
        panel.barh(place, row.ours.median, height=height, color=_OURS)
        panel.plot(row.ours.values, [place] * len(row.ours.values), "k.", ms=3)
        limit = _limit_on_axis(row)
        if limit is not None:
            panel.plot([limit, limit], [y - 0.42, y + 0.42], color=_LIMIT, lw=2)
    panel.set_yticks(
        range(len(group)),
        [f"{row.name}\n{row.figure_text()} {_word(row)}" for row in group],
        fontsize=7,
    )
    panel.set_ylim(max(3, len(group)) - 0.5, -0.5)  # from the top; a lone bar stays slim


def _panel_of(rows: Sequence[Row]) -> Callable[[Row], tuple[int, str]]:
    """Sections in the table's order; in each, one panel for a unit."""
    sections = list(dict.fromkeys(row.section for row in rows))
    return lambda row: (sections.index(row.section), row.ours.unit)


def _word(row: Row) -> str:
    return f"(target {row.target_text()}: {row.verdict})" if row.target else ""


def _limit_on_axis(row: Row) -> float | None:
    """Where the target lies on an axis of ``ours``' unit."""
    if row.target is None:
        return None
    if row.beside is None:
        return row.target.limit
    if row.unit == "×":
        return row.target.limit * row.beside.median
    return row.target.limit + row.beside.median
