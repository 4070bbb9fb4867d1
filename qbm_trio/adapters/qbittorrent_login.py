"""Decide when a refused login may be tried again. No I/O; the clock is passed in.

qBittorrent bans an address for an hour after five failures, and the ban also
hits Sonarr on the same machine. A wrong password does not mend itself, so tries
are spread evenly, not bunched: after a restart of ours there is still room. The
refusal is forgotten with the process, so that a corrected password is used at once;
the message therefore warns of any other restart.
"""

from __future__ import annotations

from collections.abc import Callable

TRIES_PER_HOUR = 3


class LoginGate:
    """At most `TRIES_PER_HOUR` refused logins in any hour."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Take a monotonic ``clock`` in seconds."""
        self._clock = clock
        self._refused_at: float | None = None
        self.reason = ""  #: why the last login was refused

    def wait_s(self) -> float:
        """Seconds until the next try is allowed; 0 when it is now."""
        if self._refused_at is None:
            return 0.0
        return max(0.0, self._refused_at + 3600 / TRIES_PER_HOUR - self._clock())

    def refused(self, reason: str) -> None:
        """Note a refusal."""
        self._refused_at = self._clock()
        self.reason = reason

    def accepted(self) -> None:
        """Note a success: an expired session may log in again at once."""
        self._refused_at = None
        self.reason = ""
