"""What qBittorrent's answers mean for a relocation: judgements over polls. Pure.

They are needed because an answer shows what was cached: for a second after a move it
shows a finished torrent at its new place, even when the copy there is garbage
(seen on 4.5.2, 5.1.0 and 5.3.0). So they take every poll since the call, and
believe what stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath
from typing import Final

from .model import Torrent
from .readiness import SEEDING
from .relocation import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """What qBittorrent said of one torrent, but by the service's paths, and when."""

    at_s: float  #: when it was asked, on a monotonic clock
    torrent: Torrent


WAIT: Final = None
"""The judgement that no event has come yet."""

STOPPED_COMPLETE: Final = frozenset({"pausedUP", "stoppedUP"})
STOPPED_INCOMPLETE: Final = frozenset({"pausedDL", "stoppedDL"})

STOPPED: Final = STOPPED_COMPLETE | STOPPED_INCOMPLETE

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


def judge_seeding(polls: Sequence[Poll], *, place: str, refresh_s: float) -> Event | None:
    """Whether a torrent that had passed its recheck is still complete at ``place``.

    Args:
        polls: all since the first look, in order.
        place: the save path on the HDD.
        refresh_s: qBittorrent's refresh interval.

    Returns:
        ADVANCE: it is, running or stopped; FAIL: it settled as anything else, such as
        back on the SSD; or `WAIT`, also while it is being checked after a restart.
    """

    def kind(torrent: Torrent) -> _Kind:
        there = _beneath(torrent.content_path, place)
        return _Kind.GOOD if there and torrent.state in SEEDING else _Kind.BAD

    now, settled = _trend(polls, kind, refresh_s)
    if now is _Kind.GOOD:
        return Event.ADVANCE
    return Event.FAIL if settled else WAIT


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
