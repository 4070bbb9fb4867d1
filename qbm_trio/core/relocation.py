"""The life of one torrent's relocation, as one table: (step, event) -> step.

A step is in the journal before it is taken, and is safe to take again. Nothing
else decides what follows; the journal applies the table inside its transaction.
``relocation_polls.py`` reads from qBittorrent's answers which event has come.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import Final, NewType

from .errors import QbmError
from .model import TorrentId

RunId = NewType("RunId", str)
"""One run of space management; what ``/space-management/trigger`` answers."""


class Step(StrEnum):
    """Where a relocation is. A torrent's place is its save path in qBittorrent."""

    LOCATING = "locating"  #: found half-way: it may be further than was recorded, if at all
    PREPARING = "preparing"  #: tag on, automatic management off, download path cleared
    STOPPING = "stopping"
    REPOINTING = "repointing"  #: ``setLocation`` to the HDD
    CHECKING = "checking"  #: qBittorrent's recheck of the copy on the HDD
    RESTORING = "restoring"  #: settings as before, tag off, started if it ran before
    WAITING = "waiting"  #: for the grace period, and for the rest of its group
    REPAIRING = "repairing"  #: back to the copy that was checked: qBittorrent forgot the move
    REPEATING = "repeating"  #: done, and forgotten since by a killed qBittorrent: once more
    DELETING = "deleting"  #: the SSD's files, one by one; from here there is no way back
    DONE = "done"
    RETURNING = "returning"  #: ``setLocation`` back to the SSD
    RECHECKING = "rechecking"  #: qBittorrent's recheck of the files on the SSD
    UNDOING = "undoing"  #: settings as before, tag off, started if it ran before
    UNDONE = "undone"  #: as it was
    MOVED = "moved"  #: it stays on the HDD, for it cannot go back; nothing more is deleted
    GONE = "gone"  #: its user removed the torrent; nothing more is done or deleted


class Event(StrEnum):
    """What can happen to a relocation."""

    ADVANCE = "advance"  #: what the step is for has been seen
    FAIL = "fail"  #: it cannot be, or another torrent of the group cannot go on
    MOVED = "moved"  #: qBittorrent moved the data instead of finding the copy, or keeps it there
    SLIPPED = "slipped"  #: killed before it had saved the move, qBittorrent is back on the SSD
    INTERRUPT = "interrupt"  #: the service stopped, or was killed
    TAKEN_BACK = "taken_back"  #: after its end, its user moved it to the SSD
    GONE = "gone"  #: qBittorrent has the torrent no more


class IllegalStep(QbmError):
    """The table has no such move, or the relocation is elsewhere by now."""

    code = "illegal_step"


ENDS: Final = frozenset({Step.DONE, Step.UNDONE, Step.MOVED, Step.GONE})
OPEN: Final = frozenset(Step) - ENDS
"""Steps with work left: a restart goes on with them."""

BEGINS: Final = MappingProxyType(
    {
        Step.PREPARING: "plan",
        # What had ended well, and was forgotten by a qBittorrent that was killed.
        Step.REPEATING: "forgotten",
        Step.RETURNING: "forgotten",
        Step.LOCATING: "found half-way",
    }
)
"""Where a relocation begins, and why."""

MOVES: Final = MappingProxyType(
    {
        # Its files are on the SSD; or some are gone, and only the HDD has them all; or it
        # seeds from there, and nothing is left to do.
        (Step.LOCATING, Event.ADVANCE): Step.RETURNING,
        (Step.LOCATING, Event.SLIPPED): Step.REPAIRING,
        (Step.LOCATING, Event.MOVED): Step.MOVED,
        (Step.PREPARING, Event.ADVANCE): Step.STOPPING,
        (Step.STOPPING, Event.ADVANCE): Step.REPOINTING,
        (Step.REPOINTING, Event.ADVANCE): Step.CHECKING,
        (Step.CHECKING, Event.ADVANCE): Step.RESTORING,
        (Step.RESTORING, Event.ADVANCE): Step.WAITING,
        (Step.WAITING, Event.ADVANCE): Step.DELETING,
        (Step.DELETING, Event.ADVANCE): Step.DONE,
        # Files may be gone from the SSD by then: there is no way but on.
        (Step.DELETING, Event.SLIPPED): Step.REPAIRING,
        (Step.REPAIRING, Event.ADVANCE): Step.DELETING,
        (Step.REPAIRING, Event.FAIL): Step.UNDOING,
        (Step.REPAIRING, Event.MOVED): Step.MOVED,
        # It stands well on the HDD, but one that it shares files with does not.
        (Step.DELETING, Event.FAIL): Step.MOVED,
        # The SSD has nothing any more that could be deleted, or that it could go back to.
        (Step.REPEATING, Event.ADVANCE): Step.DONE,
        (Step.REPEATING, Event.FAIL): Step.UNDOING,
        (Step.REPEATING, Event.MOVED): Step.MOVED,
        (Step.DONE, Event.TAKEN_BACK): Step.UNDONE,
        (Step.PREPARING, Event.FAIL): Step.UNDOING,
        (Step.STOPPING, Event.FAIL): Step.UNDOING,
        (Step.REPOINTING, Event.FAIL): Step.RETURNING,
        (Step.REPOINTING, Event.MOVED): Step.RETURNING,
        (Step.CHECKING, Event.FAIL): Step.RETURNING,
        (Step.RESTORING, Event.FAIL): Step.RETURNING,
        (Step.WAITING, Event.FAIL): Step.RETURNING,
        # Not past setLocation as far as the journal knows: the SSD holds all the data.
        (Step.PREPARING, Event.INTERRUPT): Step.UNDOING,
        (Step.STOPPING, Event.INTERRUPT): Step.UNDOING,
        (Step.REPOINTING, Event.INTERRUPT): Step.RETURNING,
        (Step.RETURNING, Event.ADVANCE): Step.RECHECKING,
        (Step.RECHECKING, Event.ADVANCE): Step.UNDOING,
        # A torrent that ran before runs again, whatever happens.
        (Step.RETURNING, Event.FAIL): Step.UNDOING,
        (Step.RECHECKING, Event.FAIL): Step.UNDOING,
        (Step.UNDOING, Event.ADVANCE): Step.UNDONE,
        (Step.UNDOING, Event.MOVED): Step.MOVED,
    }
    | {(step, Event.GONE): Step.GONE for step in Step if step in OPEN}
)

FORWARD: Final = frozenset(
    {
        Step.PREPARING,
        Step.STOPPING,
        Step.REPOINTING,
        Step.CHECKING,
        Step.RESTORING,
        Step.WAITING,
    }
)
"""Steps of a torrent on its way to the HDD, from which it can still go back."""

CAN_STOP: Final = FORWARD | {Step.DELETING}
"""Steps that end early when another torrent of the group cannot go on."""

CAN_FAIL: Final = CAN_STOP | {Step.REPAIRING, Step.REPEATING}
"""Steps that end when it turns out that they cannot be; all others are tried until they are."""

BACK: Final = frozenset({Step.RETURNING, Step.RECHECKING, Step.UNDOING, Step.UNDONE, Step.MOVED})
"""Steps of a torrent that is not relocated after all; its group ends with it."""

UNDONE_BY_RESTART: Final = frozenset(step for step, event in MOVES if event is Event.INTERRUPT)
"""A restart undoes these, and takes every other open step again."""


def after(step: Step, event: Event) -> Step:
    """Return the step that follows.

    Raises:
        IllegalStep: the table does not list the move.
    """
    try:
        return MOVES[step, event]
    except KeyError:
        raise IllegalStep(f"a relocation that is {step} cannot {event}") from None


_PAST_RETURN: Final = frozenset({Step.REPAIRING, Step.DELETING, Step.DONE, Step.GONE})


def may_delete(group: Iterable[Step]) -> bool:
    """Whether the SSD files of a group may be deleted, all its torrents being at these steps.

    All go over together: a torrent that could still go back needs the shared files.
    """
    return all(step in _PAST_RETURN for step in group)


@dataclass(frozen=True, slots=True, kw_only=True)
class Relocation:
    """One row of the journal's ``relocations``. Paths are as qBittorrent sees them."""

    id: int = 0  #: 0 until it is in the journal
    run_id: RunId
    group: str  #: the same for all torrents of a run that are relocated together
    torrent_id: TorrentId
    name: str
    step: Step = Step.PREPARING
    from_path: str  #: save path on the SSD
    to_path: str  #: save path on the HDD
    was_running: bool  #: neither stopped nor paused when it began
    force_start: bool
    auto_management: bool
    download_path: str  #: incomplete folder; "" when none
    bytes: int  #: that its deletion is expected to free
    error: str | None = None  #: why it was undone; of one that is done, what its deletion has left
    begun_at: float = 0.0
    updated_at: float = 0.0
    checked_at: float | None = None  #: when the recheck on the HDD had passed
    failed: bool = False  #: it went back for a fault, not because the service stopped
    tier_anew: bool = False  #: the copy is not what was verified: it is made again
    freed_bytes: int = 0  #: by its deletion, as ``statvfs`` saw it


class GroupState(Enum):
    """How far a group is, for the run that began it."""

    GOING = "going"  #: on its way to the HDD
    CHECKED = "checked"  #: qBittorrent has checked all copies; the deletion comes, or is done
    BACK = "back"  #: it is not relocated


def state_of(group: Iterable[Step]) -> GroupState:
    """How far a group is whose torrents are at these steps."""
    steps = set(group)
    if steps & BACK:
        return GroupState.BACK
    return GroupState.CHECKED if steps <= _PAST_RETURN | {Step.WAITING} else GroupState.GOING
