"""When to try again. Pure: the caller brings the dice."""

from __future__ import annotations

from typing import Final

FIRST_DELAY_S: Final = 1.0
LONGEST_DELAY_S: Final = 300.0


def backoff_s(failures: int, *, jitter: float, longest_s: float = LONGEST_DELAY_S) -> float:
    """Return the delay before the next try: 1 s doubling to ``longest_s``.

    Args:
        failures: how often it has failed so far, at least 1.
        jitter: a random number from 0 to 1; spreads the delay over its upper half,
            so that jobs that failed together do not come back together.
        longest_s: the delay is never longer.
    """
    # The exponent is bounded because 2.0**2000 raises.
    full = min(longest_s, FIRST_DELAY_S * 2.0 ** min(failures - 1, 20))
    return full * (0.5 + 0.5 * jitter)
