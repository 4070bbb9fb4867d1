"""When what failed is tried again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qbm_trio.core.retry import backoff_s


def test_the_delay_doubles_from_one_second_to_five_minutes() -> None:
    delays = [backoff_s(n, jitter=1.0) for n in range(1, 12)]
    assert delays == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert [backoff_s(n, jitter=1.0, longest_s=5) for n in (1, 3, 4, 9)] == [1, 4, 5, 5]


@given(st.integers(1, 10**9), st.floats(0, 1))
def test_jitter_takes_away_at_most_half_and_no_count_of_failures_overflows(
    failures: int, jitter: float
) -> None:
    full = backoff_s(failures, jitter=1.0)
    assert full / 2 <= backoff_s(failures, jitter=jitter) <= full <= 300


def test_jobs_that_failed_together_come_back_apart() -> None:
    assert len({backoff_s(5, jitter=n / 100) for n in range(100)}) == 100
