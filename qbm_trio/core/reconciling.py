"""What must be done about a torrent, from what qBittorrent and the journal say of it. Pure.

The two are asked one after the other, and qBittorrent's answers lag: what contradicts
the journal is believed only when it is found twice, some time apart. A torrent that has
merely no job needs no such care: it gets one, and the hook that comes late finds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Final

from .lifecycle import ACTIVE
from .model import JobState, Torrent
from .readiness import MISSING_FILES, why_not_ready
from .relocation import OPEN, Relocation, Step
from .relocation_polls import STOPPED, STOPPED_COMPLETE
from .roots import Roots
from .space import RELOCATING_TAG

REMOVED: Final = "torrent_removed"
"""The error code of a job that was cancelled because its torrent is gone."""
AS_IF_NONE: Final = frozenset({"unknown_torrent", REMOVED})
"""Error codes of jobs that say nothing about a torrent that is there now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastJob:
    """How the newest job of a torrent stands, by whichever of its hashes."""

    state: JobState
    error_code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the journal knows of a torrent."""

    job: LastJob | None = None
    published: bool = False  #: it has a whole copy on the HDD
    relocation: Relocation | None = None  #: the newest


class What(StrEnum):
    """What is to be done about a torrent."""

    TIER = "tier"  #: it has finished and nobody has said so: queue a job
    TIER_ANEW = "tier_anew"  #: relocated, and brought back to the SSD by its user
    REPEAT = "repeat"  #: relocated, which a killed qBittorrent has forgotten
    RETURN = "return"  #: brought back to the SSD, which a killed qBittorrent has forgotten
    LOCATE = "locate"  #: half relocated, and no relocation that has ended says how it should be
    RELEASE = "release"  #: it has the tag of an open relocation, and none is open


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found. Nothing is found of most torrents."""

    what: What | None  #: None: nothing can be said now; look again next time
    start: bool = False  #: on release: it ran before

    @property
    def at_once(self) -> bool:
        """Whether it need not be found twice."""
        return self.what is What.TIER


LOOK_AGAIN: Final = Finding(what=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What to go by."""

    roots: Roots
    finished_after: float  #: epoch seconds; older ones that nobody asked for are left alone


def could_matter(torrent: Torrent, rules: Rules) -> bool:
    """Whether anything could be found of it, whatever the journal says. Costs little."""
    if RELOCATING_TAG in torrent.tags or torrent.state == MISSING_FILES:
        return True
    return _on_ssd(torrent, rules.roots) and why_not_ready(torrent, ()) is None


def judge(torrent: Torrent, known: Known, rules: Rules) -> Finding | None:
    """What is to be done about a torrent; None: nothing.

    Never anything about one with an open relocation, and none is tiered whose last job
    failed or was cancelled or cleared: its user decides.
    """
    relocation = known.relocation
    if relocation is not None and relocation.step in OPEN:
        return LOOK_AGAIN
    found = _contradiction(torrent, relocation, rules.roots)
    if found is not None:
        return found
    if why_not_ready(torrent, ()) is not None or not _on_ssd(torrent, rules.roots):
        return None
    job = known.job if known.job is None or known.job.error_code not in AS_IF_NONE else None
    if relocation is not None and relocation.step is Step.DONE:
        ended_badly = job is not None and job.state not in ACTIVE and job.state is not JobState.DONE
        return None if ended_badly else Finding(what=What.TIER_ANEW)
    if job is not None or known.published:
        return None
    # Its user has asked for it when it was not there: however old it is.
    asked_for = known.job is not None
    if asked_for or finished_at(torrent) >= rules.finished_after:
        return Finding(what=What.TIER)
    return None


def finished_at(torrent: Torrent) -> float:
    """When a complete torrent was finished: on 5.x one that was added whole never was."""
    finished = torrent.completed_at
    return (torrent.added_at or -inf) if finished is None else finished


def _contradiction(torrent: Torrent, last: Relocation | None, roots: Roots) -> Finding | None:
    """What an ended relocation, the newest, and the torrent's state do not agree on."""
    tagged = RELOCATING_TAG in torrent.tags
    # Running and complete, it only has the tag left to lose.
    half = tagged and (torrent.state in STOPPED or why_not_ready(torrent, ()) is not None)
    if last is None or last.step is Step.GONE:  # the journal was lost, or it is back
        if half:
            return Finding(what=What.LOCATE)
    elif last.step is Step.DONE:
        forgotten = torrent.state == MISSING_FILES and roots.is_below(
            torrent.content_path, last.from_path
        )
        if forgotten or half:
            return Finding(what=What.REPEAT)
    elif last.step is Step.UNDONE and tagged and torrent.state in STOPPED:
        ran = last.was_running or last.force_start
        if ran or not roots.is_below(torrent.content_path, last.from_path):
            return Finding(what=What.RETURN)
    if not tagged:
        return None
    stays = last is not None and last.step is Step.MOVED and (last.was_running or last.force_start)
    return Finding(what=What.RELEASE, start=stays and torrent.state in STOPPED_COMPLETE)


def _on_ssd(torrent: Torrent, roots: Roots) -> bool:
    return roots.on_ssd(torrent.content_path) is not None
