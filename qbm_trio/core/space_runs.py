"""Runs of space management as plain values: what was asked for, planned, and came of it.

`tasks` makes them, the journal keeps the last run, ``web/`` renders them as JSON.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from .model import TorrentId
from .relocation import RunId, Step
from .space import SpacePlan
from .text import number

FAILURES_KEPT: Final = 20
"""Failed groups that a run's figures name; the log has all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SparedSum:
    """How much one reason has spared."""

    torrents: int
    bytes: int  #: data that stays, once, by what keeps its group there


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedGroup:
    """A group that was planned and is not relocated."""

    name: str  #: of its first torrent
    torrents: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFigures:
    """What came of a run."""

    freed_bytes: int  #: by ``statvfs``; below zero when others wrote more meanwhile
    planned_bytes: int
    shortfall_bytes: int  #: still missing to the target
    target_met: bool
    relocated: int  #: torrents
    tiered_first: int  #: torrents queued to be copied to the HDD first
    failed_groups: int  #: all of them
    failures: tuple[FailedGroup, ...] = ()  #: the first `FAILURES_KEPT` of them
    spared: Mapping[str, SparedSum] = field(default_factory=dict)  #: by reason
    problem: str | None = None  #: why the run could not be made, or ended early
    paused: str | None = None  #: why no run begins by itself until one is triggered by hand

    @property
    def did_nothing(self) -> bool:
        """Whether there is nothing to tell of it but how the SSD is."""
        return not (
            self.relocated or self.tiered_first or self.failed_groups or self.problem or self.paused
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceRun:
    """One run of space management that has ended."""

    id: RunId
    by_hand: bool
    begun_at: float
    ended_at: float
    figures: RunFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What a run would do now, and the figures that it would begin with."""

    plan: SpacePlan
    ssd_free_bytes: int
    ssd_total_bytes: int
    threshold_bytes: int
    target_bytes: int
    pending_bytes: int  #: what relocations that wait for their deletion will free


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """A run that was asked for by hand."""

    run_id: RunId
    joined: bool  #: it is the run of an earlier request, which had not begun yet


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRelocation:
    """A relocation with work left, as ``/status`` shows it."""

    id: str  #: the relocation's id in the journal
    torrent_id: TorrentId
    name: str
    step: Step
    begun_at: float
    bytes: int  #: what its files occupy on the SSD
    error: str | None  #: why it goes back, or what stands in its way


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceOverview:
    """Space management in ``/status``, from cached facts."""

    last_run: SpaceRun | None = None
    current_run: RunId | None = None
    paused: str | None = None  #: a sentence: why automatic runs pause, and what to do
    relocations: tuple[OpenRelocation, ...] = ()


def to_be_shown(run: SpaceRun, *, after: SpaceRun | None, interval_s: float) -> bool:
    """Whether a run that has ended takes the place of the one that ended before it.

    Who triggers a run and then looks must see what came of it, and not that of the next,
    which often begins by itself in the same moment, and finds nothing left to do.

    Args:
        run: the newest.
        after: the one that is shown.
        interval_s: so long a run by hand stays, unless there is something to tell.
    """
    if after is None or not after.by_hand or run.by_hand:
        return True
    if not run.figures.did_nothing or run.figures.target_met != after.figures.target_met:
        return True
    return not 0 <= run.ended_at - after.ended_at < interval_s  # the clock may be set back


def spared_sums(plan: SpacePlan) -> dict[str, SparedSum]:
    """How much each reason spares: its torrents, and the data that it keeps on the SSD."""
    torrents = Counter(torrent.reason for torrent in plan.spared)
    return {
        reason.value: SparedSum(torrents=count, bytes=plan.spared_bytes.get(reason, 0))
        for reason, count in sorted(torrents.items())
    }


def summary(run: SpaceRun) -> str:
    """What came of a run, in a sentence for the log."""
    figures = run.figures
    said = [
        f"run {run.id}",
        f"{number(figures.relocated, 'torrent')} relocated",
        f"{figures.freed_bytes} of {figures.planned_bytes} bytes freed",
    ]
    if figures.failed_groups:
        said.append(f"{number(figures.failed_groups, 'group')} failed")
    if figures.tiered_first:
        said.append(f"{number(figures.tiered_first, 'torrent')} to be copied first")
    if figures.problem is not None:
        said.append(f"it ended early ({figures.problem})")
    elif figures.target_met:
        said.append("the target is met")
    else:
        said.append(f"{figures.shortfall_bytes} bytes are still missing to the target")
        said.append(f"spared: {spared_words(figures.spared)}")
    return f"{said[0]}: {'; '.join(said[1:])}"


def spared_words(spared: Mapping[str, SparedSum]) -> str:
    """Why torrents stay on the SSD, for the log: the most bytes first."""
    by_bytes = sorted(spared.items(), key=lambda item: -item[1].bytes)
    return (
        ", ".join(
            f"{reason} ({number(total.torrents, 'torrent')}, {total.bytes} bytes)"
            for reason, total in by_bytes
        )
        or "none"
    )


def no_plan(problem: str, paused: str | None) -> RunFigures:
    """Of a run that could not be planned."""
    return RunFigures(
        freed_bytes=0,
        planned_bytes=0,
        shortfall_bytes=0,
        target_met=False,
        relocated=0,
        tiered_first=0,
        failed_groups=0,
        problem=problem,
        paused=paused,
    )
