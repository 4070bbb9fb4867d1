"""The whole table of a job's life, walked: what is not listed here is refused."""

from __future__ import annotations

from itertools import product

import pytest

from qbm_trio.core.lifecycle import ACTIVE, MOVES, Event, IllegalMove, after
from qbm_trio.core.model import JobState as S

LIFE = """
queued    take      running
queued    wait      waiting
queued    merge     merged
queued    cancel    cancelled
queued    clear     cleared
waiting   due       queued
waiting   merge     merged
waiting   cancel    cancelled
waiting   clear     cleared
running   wait      waiting
running   finish    done
running   fail      failed
running   interrupt queued
running   cancel    cancelled
running   merge     merged
failed    retry     queued
cancelled retry     queued
cleared   retry     queued
"""
EXPECTED = {(S(a), Event(e)): S(b) for a, e, b in (line.split() for line in LIFE.split("\n")[1:-1])}


@pytest.mark.parametrize(("state", "event"), list(product(S, Event)))
def test_every_move_is_as_listed_and_every_other_is_refused(state: S, event: Event) -> None:
    if (state, event) in EXPECTED:
        assert after(state, event) is EXPECTED[state, event]
    else:
        with pytest.raises(IllegalMove) as caught:
            after(state, event)
        assert (caught.value.state, caught.value.event) == (state, event)
        assert f"a {state} job cannot {event}" in str(caught.value)


def test_a_job_that_was_done_or_merged_is_never_touched_again() -> None:
    final = set(S) - {state for state, _ in MOVES}
    assert final == {S.DONE, S.MERGED}


def test_a_job_with_work_to_do_can_always_be_cancelled_and_never_retried() -> None:
    assert {S.QUEUED, S.WAITING, S.RUNNING} == ACTIVE
    assert all((state, Event.CANCEL) in MOVES for state in ACTIVE)
    assert all((state, Event.RETRY) not in MOVES for state in ACTIVE)


def test_a_running_job_is_never_cleared() -> None:
    assert (S.RUNNING, Event.CLEAR) not in MOVES


def test_the_table_cannot_be_changed_at_run_time() -> None:
    with pytest.raises(TypeError):
        MOVES[S.DONE, Event.RETRY] = S.QUEUED  # type: ignore[index]
