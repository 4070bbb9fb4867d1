"""Decide when a refused login may be tried again. No I/O; the clock is passed in.

qBittorrent bans an address for an hour after five failures, and the ban also
hits Sonarr on the same machine. A wrong password does not mend itself, so tries
are spread evenly, not bunched: after a restart of ours there is still room. A restart of
qBittorrent may have mended it, and lifts its ban: then the next try is not waited for.
The refusal is forgotten with the process, so that a corrected password is used at once;
the message therefore warns of any other restart.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

TRIES_PER_HOUR = 3


class LoginGate:
    """At most `TRIES_PER_HOUR` refused logins in any hour."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Take a monotonic ``clock`` in seconds."""
        self._clock = clock
        self._refused_at = deque[float](maxlen=TRIES_PER_HOUR)
        self._spread_s = 0.0  #: between the last refusal and the next try
        self.reason = ""  #: why the last login was refused

    def wait_s(self) -> float:
        """Seconds until the next try is allowed; 0 when it is now."""
        if not self._refused_at:
            return 0.0
        next_at = self._refused_at[-1] + self._spread_s
        if len(self._refused_at) == TRIES_PER_HOUR:
            next_at = max(next_at, self._refused_at[0] + 3600)
        return max(0.0, next_at - self._clock())

    def refused(self, reason: str) -> None:
        """Note a refusal."""
        self._refused_at.append(self._clock())
        self._spread_s = 3600 / TRIES_PER_HOUR
        self.reason = reason

    def may_have_restarted(self) -> None:
        """Note that nothing listened: what comes back may be of another mind."""
        # Perhaps it was only the network: of the tries in an hour this allows none more.
        self._spread_s = 0.0

    def accepted(self) -> None:
        """Note a success: an expired session may log in again at once."""
        self._refused_at.clear()
        self.reason = ""
