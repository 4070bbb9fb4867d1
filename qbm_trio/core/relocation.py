"""The life of one torrent's relocation, as one table: (step, event) -> step.

A step is in the journal before it is taken, and is safe to take again. Nothing
else decides what follows; the journal applies the table inside its transaction.

The judgements below it read from qBittorrent's answers which event has come. They
are needed because an answer shows what was cached: for a second after a move it
shows a finished torrent at its new place, even when the copy there is garbage
(seen on 4.5.2, 5.1.0 and 5.3.0). So they take every poll since the call, and
believe what stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final, NewType

from .errors import QbmError
from .model import Torrent, TorrentId
from .readiness import SEEDING

RunId = NewType("RunId", str)
"""One run of space management; what ``/space-management/trigger`` answers."""


class Step(StrEnum):
    """Where a relocation is. A torrent's place is its save path in qBittorrent."""

    PREPARING = "preparing"  #: tag on, automatic management off, download path cleared
    STOPPING = "stopping"
    REPOINTING = "repointing"  #: ``setLocation`` to the HDD
    CHECKING = "checking"  #: qBittorrent's recheck of the copy on the HDD
    RESTORING = "restoring"  #: settings as before, tag off, started if it ran before
    WAITING = "waiting"  #: for the grace period, and for the rest of its group
    DELETING = "deleting"  #: the SSD's files, one by one; from here there is no way back
    DONE = "done"
    RETURNING = "returning"  #: ``setLocation`` back to the SSD
    RECHECKING = "rechecking"  #: qBittorrent's recheck of the files on the SSD
    UNDOING = "undoing"  #: settings as before, tag off, started if it ran before
    UNDONE = "undone"  #: as it was
    MOVED = "moved"  #: qBittorrent moved the data itself and cannot bring it back; it stays there
    GONE = "gone"  #: its user removed the torrent; nothing more is done or deleted


class Event(StrEnum):
    """What can happen to a relocation."""

    ADVANCE = "advance"  #: what the step is for has been seen
    FAIL = "fail"  #: it cannot be, or another torrent of the group cannot go on
    MOVED = "moved"  #: qBittorrent moved the data instead of finding the copy
    INTERRUPT = "interrupt"  #: the service stopped, or was killed
    GONE = "gone"  #: qBittorrent has the torrent no more


class IllegalStep(QbmError):
    """The table has no such move, or the relocation is elsewhere by now."""

    code = "illegal_step"


ENDS: Final = frozenset({Step.DONE, Step.UNDONE, Step.MOVED, Step.GONE})
OPEN: Final = frozenset(Step) - ENDS
"""Steps with work left: a restart goes on with them."""

MOVES: Final = MappingProxyType(
    {
        (Step.PREPARING, Event.ADVANCE): Step.STOPPING,
        (Step.STOPPING, Event.ADVANCE): Step.REPOINTING,
        (Step.REPOINTING, Event.ADVANCE): Step.CHECKING,
        (Step.CHECKING, Event.ADVANCE): Step.RESTORING,
        (Step.RESTORING, Event.ADVANCE): Step.WAITING,
        (Step.WAITING, Event.ADVANCE): Step.DELETING,
        (Step.DELETING, Event.ADVANCE): Step.DONE,
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

BACK: Final = frozenset({Step.RETURNING, Step.RECHECKING, Step.UNDOING, Step.UNDONE, Step.MOVED})
"""Steps of a torrent that is not relocated after all; its group goes back with it."""

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


def may_delete(group: Iterable[Step]) -> bool:
    """Whether the SSD files of a group may be deleted, all its torrents being at these steps.

    All go over together: a torrent that could still go back needs the shared files.
    """
    return all(step in (Step.DELETING, Step.DONE, Step.GONE) for step in group)


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
    error: str | None = None  #: why it was undone
    begun_at: float = 0.0
    updated_at: float = 0.0
    checked_at: float | None = None  #: when the recheck on the HDD had passed


# -- judgements


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """What qBittorrent said of one torrent, and when."""

    at_s: float  #: when it was asked, on a monotonic clock
    torrent: Torrent


WAIT: Final = None
"""The judgement that no event has come yet."""

STOPPED_COMPLETE: Final = frozenset({"pausedUP", "stoppedUP"})
STOPPED_INCOMPLETE: Final = frozenset({"pausedDL", "stoppedDL"})

REFRESHES: Final = 3
"""qBittorrent's answers lag by up to one refresh interval, and by two after a move."""
SETTLED_S: Final = 5.0
SETTLED_POLLS: Final = 3  #: two polls with a silence between them prove nothing of it


def judge_stopped(polls: Sequence[Poll], *, place: str, refresh_s: float) -> Event | None:
    """Whether the torrent has stopped, complete and at ``place`` on the SSD.

    Args:
        polls: all since ``stop`` was called, in order.
        place: its save path.
        refresh_s: qBittorrent's refresh interval.

    Returns:
        ADVANCE: it is stopped with all its data; FAIL: it settled as something else
        (running, incomplete, in error, at another place); or `WAIT`.
    """

    def kind(torrent: Torrent) -> _Kind:
        return _Kind.GOOD if _stopped_whole(torrent, place) else _Kind.BAD

    now, settled = _trend(polls, kind, refresh_s)
    if now is _Kind.GOOD:
        return Event.ADVANCE
    return Event.FAIL if settled else WAIT


def judge_repointed(polls: Sequence[Poll], *, place: str, refresh_s: float) -> Event | None:
    """Whether ``setLocation`` of a stopped torrent has ended, and how.

    Args:
        polls: all since the call, in order.
        place: the save path on the HDD.
        refresh_s: qBittorrent's refresh interval.

    Returns:
        ADVANCE: stopped, incomplete and with no progress on the HDD, which is how
        qBittorrent waits for a recheck of files that it found there. MOVED: it settled
        as complete on the HDD: nothing was there, so qBittorrent moved the SSD's data.
        FAIL: it settled as anything else, such as still on the SSD. Or `WAIT`.
    """

    def kind(torrent: Torrent) -> _Kind:
        if not _beneath(torrent.content_path, place):
            return _Kind.BAD
        if torrent.state in STOPPED_INCOMPLETE and torrent.progress == 0:
            return _Kind.GOOD
        return _Kind.MOVED if torrent.state in SEEDING else _Kind.BAD

    now, settled = _trend(polls, kind, refresh_s)
    if now is _Kind.GOOD:
        return Event.ADVANCE
    if not settled:
        return WAIT
    return Event.MOVED if now is _Kind.MOVED else Event.FAIL


def judge_rechecked(
    polls: Sequence[Poll], *, called_s: float, place: str, refresh_s: float
) -> Event | None:
    """Whether the recheck of a stopped torrent has ended, and how.

    Args:
        polls: all since ``recheck`` was called, in order.
        called_s: when that call had been answered, on the polls' clock.
        place: the save path whose files it is to check.
        refresh_s: qBittorrent's refresh interval.

    Returns:
        ADVANCE: stopped and complete at ``place``, three refresh intervals after the
        call or later: what was shown before may be from before it. FAIL: it settled as
        anything else. `WAIT` while it checks or waits its turn, however long.
    """

    def kind(torrent: Torrent) -> _Kind:
        return _Kind.GOOD if _stopped_whole(torrent, place) else _Kind.BAD

    polls = [poll for poll in polls if poll.at_s >= called_s]
    now, settled = _trend(polls, kind, refresh_s)
    if now is _Kind.GOOD:
        late = polls[-1].at_s - called_s >= REFRESHES * refresh_s
        return Event.ADVANCE if late else WAIT
    return Event.FAIL if settled else WAIT


def judge_returned(polls: Sequence[Poll], *, place: str, refresh_s: float) -> Event | None:
    """Whether ``setLocation`` back to the SSD has ended, and how.

    Its state there does not matter, for a recheck comes next. But here the save path
    must be right too: on 4.5 one that lies makes that recheck move the data away.

    Args:
        polls: all since the call, in order.
        place: the save path on the SSD.
        refresh_s: qBittorrent's refresh interval.

    Returns:
        ADVANCE: it settled on the SSD; FAIL: it settled anywhere else; or `WAIT`.
    """

    def kind(torrent: Torrent) -> _Kind:
        there = PurePosixPath(torrent.save_path) == PurePosixPath(place)
        return _Kind.GOOD if there and _beneath(torrent.content_path, place) else _Kind.BAD

    now, settled = _trend(polls, kind, refresh_s)
    if not settled:
        return WAIT
    return Event.ADVANCE if now is _Kind.GOOD else Event.FAIL


class _Kind(Enum):
    """What one poll shows, seen from the question that is asked."""

    BUSY = "busy"
    GOOD = "good"
    MOVED = "moved"
    BAD = "bad"


def _trend(
    polls: Sequence[Poll], kind: Callable[[Torrent], _Kind], refresh_s: float
) -> tuple[_Kind, bool]:
    """What the last poll shows, and whether that, unless busy, has lasted and is believed."""

    def of(poll: Poll) -> _Kind:
        state = poll.torrent.state
        busy = state == "moving" or state.startswith("checking")
        return _Kind.BUSY if busy else kind(poll.torrent)

    now = of(polls[-1]) if polls else _Kind.BUSY
    if now is _Kind.BUSY:  # waited for, however long
        return now, False
    first, number = polls[-1], 0
    for poll in reversed(polls):
        if of(poll) is not now:
            break
        first, number = poll, number + 1
    lasted_s = polls[-1].at_s - first.at_s
    return now, number >= SETTLED_POLLS and lasted_s >= max(REFRESHES * refresh_s, SETTLED_S)


def _stopped_whole(torrent: Torrent, place: str) -> bool:
    return (
        torrent.state in STOPPED_COMPLETE
        and torrent.progress == 1
        and torrent.amount_left_bytes == 0
        and _beneath(torrent.content_path, place)
    )


def _beneath(path: str, place: str) -> bool:
    return PurePosixPath(path).is_relative_to(PurePosixPath(place))
