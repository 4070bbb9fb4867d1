"""The life of a job, as one table: (state, event) -> state.

Nothing else in the service decides what a job may become. The journal applies
the table inside its transaction, so a move that is not listed never reaches
the disk.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Final

from .errors import QbmError
from .model import JobState as S


class Event(StrEnum):
    """What can happen to a job."""

    TAKE = "take"  #: a worker takes it
    WAIT = "wait"  #: it must wait for a time or a condition
    DUE = "due"  #: the wait is over
    FINISH = "finish"
    FAIL = "fail"
    INTERRUPT = "interrupt"  #: the service stopped, or was killed, while it ran
    CANCEL = "cancel"
    CLEAR = "clear"
    RETRY = "retry"  #: by hand
    MERGE = "merge"  #: another job has the same torrent


class IllegalMove(QbmError):
    """The table has no such move: the request came too late, or it is a bug."""

    code = "illegal_move"

    def __init__(self, state: S, event: Event) -> None:
        super().__init__(f"a {state} job cannot {event}")
        self.state = state
        self.event = event


MOVES: Final = MappingProxyType(
    {
        (S.QUEUED, Event.TAKE): S.RUNNING,
        (S.QUEUED, Event.WAIT): S.WAITING,
        (S.QUEUED, Event.MERGE): S.MERGED,
        (S.QUEUED, Event.CANCEL): S.CANCELLED,
        (S.QUEUED, Event.CLEAR): S.CLEARED,
        (S.WAITING, Event.DUE): S.QUEUED,
        (S.WAITING, Event.MERGE): S.MERGED,
        (S.WAITING, Event.CANCEL): S.CANCELLED,
        (S.WAITING, Event.CLEAR): S.CLEARED,
        (S.RUNNING, Event.WAIT): S.WAITING,
        (S.RUNNING, Event.FINISH): S.DONE,
        (S.RUNNING, Event.FAIL): S.FAILED,
        (S.RUNNING, Event.INTERRUPT): S.QUEUED,
        (S.RUNNING, Event.CANCEL): S.CANCELLED,
        (S.RUNNING, Event.MERGE): S.MERGED,
        (S.FAILED, Event.RETRY): S.QUEUED,
        (S.CANCELLED, Event.RETRY): S.QUEUED,
        (S.CLEARED, Event.RETRY): S.QUEUED,
    }
)

ACTIVE: Final = frozenset({S.QUEUED, S.WAITING, S.RUNNING})
"""States of a job that still has work to do: a second notification is a duplicate."""


def after(state: S, event: Event) -> S:
    """Return the state that follows.

    Raises:
        IllegalMove: the table does not list the move.
    """
    try:
        return MOVES[state, event]
    except KeyError:
        raise IllegalMove(state, event) from None
