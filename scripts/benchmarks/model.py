"""What a benchmark hands over: series of figures, and rows of the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from statistics import median
from typing import Any


class BenchFailed(Exception):
    """A measurement cannot be made, or what it measured did not work; the message says why."""


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that ``percent`` of all values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What issue and docs promise. Never adjusted to what was measured."""

    limit: float
    at_most: bool = True  #: else at least

    def met(self, figure: float) -> bool:
        """Whether ``figure`` keeps the promise."""
        return figure <= self.limit if self.at_most else figure >= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The same thing measured several times."""

    name: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return median(self.values)

    def shown(self) -> str:
        """All values, in the order in which they were measured."""
        return " ".join(_digits(value) for value in self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table. ``figure`` is what the target speaks of."""

    section: str
    name: str
    ours: Series
    beside: Series | None = None
    figure: float
    unit: str
    target: Target | None = None
    note: str = ""
    on_chart: bool = True

    @property
    def verdict(self) -> str:
        """How it stands against its target."""
        if self.target is None:
            return "no target"
        return "met" if self.target.met(self.figure) else "MISSED"

    def figure_text(self) -> str:
        """The figure with its unit."""
        return f"{_digits(self.figure)} {self.unit}"

    def target_text(self) -> str:
        """The target, or nothing."""
        if self.target is None:
            return ""
        return f"{'≤' if self.target.at_most else '≥'} {self.target.limit:g}"

    def as_json(self) -> dict[str, Any]:
        """Everything, for the file of raw figures."""
        return asdict(self) | {"verdict": self.verdict}


def ratio_row(
    section: str,
    name: str,
    ours: Series,
    beside: Series,
    *,
    target: Target | None = None,
    note: str = "",
) -> Row:
    """A row whose figure is median over median."""
    return Row(
        section=section,
        name=name,
        ours=ours,
        beside=beside,
        figure=ours.median / beside.median,
        unit="×",
        target=target,
        note=note,
    )


def plain_row(
    section: str,
    name: str,
    ours: Series,
    *,
    target: Target | None = None,
    note: str = "",
    on_chart: bool = True,
) -> Row:
    """A row whose figure is the median itself."""
    return Row(
        section=section,
        name=name,
        ours=ours,
        figure=ours.median,
        unit=ours.unit,
        target=target,
        note=note,
        on_chart=on_chart,
    )


def _digits(value: float) -> str:
    if isinstance(value, int):  # counted
        return str(value)
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
