"""The table of a relocation, walked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbm_trio.core.relocation import (
    BACK,
    BEGINS,
    ENDS,
    FORWARD,
    MOVES,
    OPEN,
    UNDONE_BY_RESTART,
    Event,
    GroupState,
    IllegalStep,
    after,
    may_delete,
    state_of,
)
from qbm_trio.core.relocation import Step as S

LIFE = """
locating   advance   returning
locating   slipped   repairing
locating   moved     moved
locating   gone      gone
preparing  advance   stopping
preparing  fail      undoing
preparing  interrupt undoing
preparing  gone      gone
stopping   advance   repointing
stopping   fail      undoing
stopping   interrupt undoing
stopping   gone      gone
repointing advance   checking
repointing fail      returning
repointing moved     returning
repointing interrupt returning
repointing gone      gone
checking   advance   restoring
checking   fail      returning
checking   gone      gone
restoring  advance   waiting
restoring  fail      returning
restoring  gone      gone
waiting    advance   deleting
waiting    fail      returning
waiting    gone      gone
deleting   advance   done
deleting   slipped   repairing
deleting   fail      moved
repairing  advance   deleting
repairing  fail      undoing
repairing  moved     moved
repairing  gone      gone
deleting   gone      gone
repeating  advance   done
repeating  fail      undoing
repeating  moved     moved
repeating  gone      gone
done       taken_back undone
returning  advance   rechecking
returning  fail      undoing
returning  gone      gone
rechecking advance   undoing
rechecking fail      undoing
rechecking gone      gone
undoing    advance   undone
undoing    moved     moved
undoing    gone      gone
"""
EXPECTED = {(S(a), Event(e)): S(b) for a, e, b in (line.split() for line in LIFE.split("\n")[1:-1])}


@pytest.mark.parametrize(("step", "event"), list(product(S, Event)))
def test_every_move_is_as_listed_and_every_other_is_refused(step: S, event: Event) -> None:
    if (step, event) in EXPECTED:
        assert after(step, event) is EXPECTED[step, event]
    else:
        with pytest.raises(IllegalStep, match=f"a relocation that is {step} cannot {event}"):
            after(step, event)


def test_the_table_cannot_be_changed_at_run_time() -> None:
    with pytest.raises(TypeError):
        MOVES[S.DONE, Event.FAIL] = S.RETURNING  # type: ignore[index]


def walked(events: Sequence[Event], begin: S = S.PREPARING) -> list[S]:
    """The steps of one life; what the table refuses does not happen."""
    steps = [begin]
    for event in events:
        if (steps[-1], event) in MOVES:
            steps.append(after(steps[-1], event))
    return steps


events = st.lists(st.sampled_from(Event), max_size=40)
begins = st.sampled_from(sorted(BEGINS.keys() - {S.LOCATING}))


@given(events, begins)
def test_nothing_is_deleted_before_the_recheck_on_the_hdd_has_passed(
    happened: list[Event], begin: S
) -> None:
    steps = walked(happened, begin)
    if S.DELETING in steps:
        assert steps[0] is S.PREPARING, "what begins later has nothing to delete"
        checked = steps.index(S.CHECKING)
        assert steps[checked + 1 : steps.index(S.DELETING) + 1] == [S.RESTORING, S.WAITING, S.DELETING]  # fmt: skip  # noqa: E501


@given(events)
def test_after_a_restored_journal_nothing_is_deleted_before_a_new_recheck(
    happened: list[Event],
) -> None:
    steps = walked(happened, S.LOCATING)
    assert not set(steps) & FORWARD
    if S.DELETING in steps:
        assert steps[: steps.index(S.DELETING)] == [S.LOCATING, S.REPAIRING]


@given(events, begins)
def test_no_step_is_taken_twice_but_a_repair_and_what_has_gone_back_does_not_go_on(
    happened: list[Event], begin: S
) -> None:
    steps = walked(happened, begin)
    once = [step for step in steps if step not in (S.REPAIRING, S.DELETING)]
    assert len(set(once)) == len(once), "so every relocation ends"
    back = next((n for n, step in enumerate(steps) if step in BACK), len(steps))
    assert set(steps[back:]) <= BACK | {S.GONE}
    assert set(steps[:back]) <= FORWARD | {S.DELETING, S.REPAIRING, S.REPEATING, S.DONE, S.GONE}


@given(events, begins)
def test_a_torrent_is_never_left_before_its_settings_are_restored_unless_it_is_gone(
    happened: list[Event], begin: S
) -> None:
    steps = walked(happened, begin)
    if steps[-1] in ENDS - {S.GONE}:
        assert {S.RESTORING, S.UNDOING, S.REPEATING} & set(steps)


def test_every_open_step_leads_somewhere_and_no_end_does_but_by_its_users_hand() -> None:
    leading = {step for step, event in MOVES if event is not Event.TAKEN_BACK}
    assert leading == OPEN
    assert set(S) - OPEN == ENDS


def test_a_restart_undoes_what_may_not_be_past_setlocation_and_finishes_the_rest() -> None:
    assert {S.PREPARING, S.STOPPING, S.REPOINTING} == UNDONE_BY_RESTART
    assert all(after(step, Event.INTERRUPT) in BACK for step in UNDONE_BY_RESTART)


def test_every_step_that_goes_on_can_go_back_until_the_deletion() -> None:
    for step in FORWARD:
        assert after(step, Event.FAIL) in BACK
    assert S.DELETING not in FORWARD
    later = {S.DELETING, S.REPAIRING}
    assert not {after(step, event) for step, event in MOVES if step in later} & (
        FORWARD | {S.RETURNING, S.RECHECKING}
    )


def test_a_group_is_checked_only_when_all_of_it_is_and_back_when_one_is() -> None:
    assert state_of([S.WAITING, S.CHECKING]) is GroupState.GOING
    assert state_of([S.WAITING, S.GONE]) is GroupState.CHECKED
    assert state_of([S.DELETING, S.REPAIRING, S.DONE]) is GroupState.CHECKED
    assert state_of([S.WAITING, S.UNDOING]) is GroupState.BACK


@given(st.lists(st.sampled_from(S), max_size=6))
def test_a_group_is_deleted_only_when_none_of_it_can_still_go_back(group: list[S]) -> None:
    assert may_delete(group) == (not set(group) & (FORWARD | BACK | {S.REPEATING, S.LOCATING}))
