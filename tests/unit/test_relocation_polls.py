"""What qBittorrent's answers are taken for, poll after poll."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbm_trio.core.model import Torrent, TorrentId
from qbm_trio.core.relocation import Event
from qbm_trio.core.relocation_polls import (
    WAIT,
    Poll,
    judge_rechecked,
    judge_repointed,
    judge_returned,
    judge_seeding,
    judge_stopped,
)

SSD, HDD, ELSEWHERE = "/downloads/ssd/tv", "/downloads/hdd/tv", "/downloads/ssd/tvother"
REFRESH_S = 1.5


def torrent(
    state: str,
    place: str = HDD,
    *,
    progress: float = 1.0,
    left: int = 0,
    save_path: str | None = None,
) -> Torrent:
    return Torrent(
        id=TorrentId("a" * 40),
        name="n",
        state=state,
        category="",
        tags=frozenset(),
        save_path=place if save_path is None else save_path,
        content_path=f"{place}/n",
        progress=progress,
        amount_left_bytes=left,
        size_bytes=1,
        completed_at=1.0,
        auto_management=False,
        download_path="",
        infohash_v1="",
        infohash_v2="",
    )


def at(*moments: tuple[float, Torrent]) -> list[Poll]:
    return [Poll(at_s=at_s, torrent=seen) for at_s, seen in moments]


def steadily(seen: Torrent, *, begin: float = 0.0, seconds: float = 60.0) -> list[Poll]:
    """A poll each half second."""
    return at(*((begin + n / 2, seen) for n in range(int(seconds * 2) + 1)))


Judge = Callable[[Sequence[Poll]], Event | None]
PENDING = torrent("stoppedDL", progress=0.0, left=9)


def stopped(polls: Sequence[Poll], *, refresh_s: float = REFRESH_S) -> Event | None:
    return judge_stopped(polls, place=SSD, refresh_s=refresh_s)


def repointed(polls: Sequence[Poll], *, refresh_s: float = REFRESH_S) -> Event | None:
    return judge_repointed(polls, place=HDD, refresh_s=refresh_s)


def rechecked(polls: Sequence[Poll], *, refresh_s: float = REFRESH_S) -> Event | None:
    return judge_rechecked(polls, called_s=0.0, place=HDD, refresh_s=refresh_s)


def returned(polls: Sequence[Poll], *, refresh_s: float = REFRESH_S) -> Event | None:
    return judge_returned(polls, place=SSD, refresh_s=refresh_s)


JUDGES = [stopped, repointed, rechecked, returned]
BUSY = ["moving", "checkingUP", "checkingDL", "checkingResumeData"]


@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize("place", [SSD, HDD])
@pytest.mark.parametrize("state", BUSY)
def test_moving_and_checking_are_waited_for_however_long(
    judge: Judge, place: str, state: str
) -> None:
    assert judge(steadily(torrent(state, place, progress=0.0), seconds=3600)) is WAIT
    # Nor does it count what it was before.
    polls = steadily(torrent("error", ELSEWHERE))
    assert judge([*polls, *at((60.5, torrent(state, place)))]) is WAIT


@pytest.mark.parametrize("judge", JUDGES)
def test_without_an_answer_nothing_is_judged(judge: Judge) -> None:
    assert judge([]) is WAIT


STATES = [
    *("uploading", "stalledUP", "queuedUP", "forcedUP", "pausedUP", "stoppedUP"),
    *("downloading", "stalledDL", "queuedDL", "forcedDL", "pausedDL", "stoppedDL"),
    *("metaDL", "error", "missingFiles", "unknown", "a state of tomorrow", *BUSY),
]
seen = st.builds(
    lambda state, place, progress, save_path: torrent(
        state, place, progress=progress, left=int(progress < 1), save_path=save_path
    ),
    st.sampled_from(STATES),
    st.sampled_from([SSD, HDD, ELSEWHERE]),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([SSD, HDD]),
)
polls = st.lists(st.tuples(st.floats(0.05, 4.0), seen), max_size=30).map(
    lambda gaps: at(*((sum(g for g, _ in gaps[: n + 1]), t) for n, (_, t) in enumerate(gaps)))
)


def trailing(happened: Sequence[Poll], right: Callable[[Torrent], bool]) -> tuple[int, float]:
    """How many of the last polls are right, and from the first to the last of them."""
    number = 0
    while number < len(happened) and right(happened[-1 - number].torrent):
        number += 1
    return number, happened[-1].at_s - happened[-number].at_s if number else 0.0


def busy(t: Torrent) -> bool:
    return t.state in BUSY


@given(polls, st.floats(0.1, 5.0))
def test_a_recheck_passes_only_late_stopped_complete_and_on_the_hdd(
    happened: list[Poll], refresh_s: float
) -> None:
    verdict = rechecked(happened, refresh_s=refresh_s)
    if happened and verdict is Event.ADVANCE:
        last = happened[-1]
        assert last.at_s >= 3 * refresh_s
        assert last.torrent.state in ("stoppedUP", "pausedUP")
        assert (last.torrent.progress, last.torrent.amount_left_bytes) == (1, 0)
        assert last.torrent.content_path == f"{HDD}/n"
    assert verdict is not Event.MOVED


@given(polls, st.floats(0.1, 5.0), st.sampled_from(JUDGES))
def test_no_failure_is_called_before_three_refresh_intervals_and_five_seconds_without_work(
    happened: list[Poll], refresh_s: float, judge: Callable[..., Event | None]
) -> None:
    verdict = judge(happened, refresh_s=refresh_s)
    if verdict in (Event.FAIL, Event.MOVED):
        number, lasted_s = trailing(happened, lambda t: not busy(t))
        assert number >= 3
        assert lasted_s >= max(3 * refresh_s, 5)


@given(polls, st.sampled_from(JUDGES))
def test_what_is_shown_for_a_minute_and_is_not_busy_is_always_judged(
    happened: list[Poll], judge: Judge
) -> None:
    if happened and not busy(happened[-1].torrent):
        later = steadily(happened[-1].torrent, begin=happened[-1].at_s + 0.5)
        assert judge([*happened, *later]) is not WAIT


@given(polls, st.floats(0.1, 5.0))
def test_a_recheck_is_pending_only_when_stopped_incomplete_without_progress_on_the_hdd(
    happened: list[Poll], refresh_s: float
) -> None:
    verdict = repointed(happened, refresh_s=refresh_s)
    last = happened[-1].torrent if happened else None
    pending = (
        last is not None
        and last.state in ("stoppedDL", "pausedDL")
        and last.progress == 0
        and last.content_path == f"{HDD}/n"
    )
    assert (verdict is Event.ADVANCE) == pending
    if verdict is Event.MOVED:
        assert last is not None
        assert last.content_path == f"{HDD}/n"
        assert last.state.endswith(("UP", "uploading"))


@pytest.mark.parametrize("state", ["stalledUP", "stoppedUP", "pausedUP"])
def test_the_finished_torrent_shown_for_a_second_after_a_move_is_not_believed(state: str) -> None:
    """Seen on 5.1.0 and 5.3.0 with a corrupt copy: the old state at the new place."""
    stale = steadily(torrent(state, HDD), seconds=1)
    assert repointed(stale) is WAIT
    assert repointed([*stale, *at((1.5, PENDING))]) is Event.ADVANCE
    assert repointed(steadily(torrent(state, HDD), seconds=4.5)) is WAIT
    assert repointed(steadily(torrent(state, HDD), seconds=5)) is Event.MOVED


def test_a_move_that_failed_is_told_by_the_content_path_whatever_the_save_path_says() -> None:
    """On 4.5 the save path is the destination's already, and stays so."""
    lying = torrent("pausedUP", SSD, save_path=HDD)
    assert repointed(steadily(lying, seconds=4)) is WAIT
    assert repointed(steadily(lying, seconds=5)) is Event.FAIL
    assert returned(steadily(lying)) is Event.FAIL, "a recheck there would move the data away"
    assert returned(steadily(torrent("pausedUP", SSD))) is Event.ADVANCE


@pytest.mark.parametrize(
    "shown",
    [torrent("stoppedDL", progress=0.5, left=9), torrent("downloading", progress=0.0, left=9)],
    ids=["stopped with some of its data", "running"],
)
def test_incomplete_on_the_hdd_in_any_other_way_is_no_pending_recheck(shown: Torrent) -> None:
    assert repointed(steadily(shown, seconds=4)) is WAIT
    assert repointed(steadily(shown, seconds=5)) is Event.FAIL


def test_a_folder_whose_name_begins_like_the_place_is_another_place() -> None:
    assert stopped(at((9, torrent("stoppedUP", ELSEWHERE)))) is WAIT
    assert stopped(at((9, torrent("stoppedUP", SSD)))) is Event.ADVANCE
    assert judge_rechecked(at((9, torrent("stoppedUP", ELSEWHERE))), called_s=0, place=SSD, refresh_s=1) is WAIT  # fmt: skip  # noqa: E501


def test_content_that_fills_its_save_path_without_a_folder_of_its_own_is_there() -> None:
    assert judge_stopped(at((9, torrent("stoppedUP", SSD))), place=f"{SSD}/n/", refresh_s=1) is Event.ADVANCE  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("state", ["stoppedDL", "pausedDL", "error", "missingFiles", "stalledDL"])
@pytest.mark.parametrize("progress", [0.0, 0.99])
def test_a_recheck_has_failed_once_it_stays_so_since_the_call(state: str, progress: float) -> None:
    bad = torrent(state, HDD, progress=progress, left=1)
    # What is shown from before the call, and the work, count for nothing.
    before = steadily(bad, begin=-60, seconds=59)
    work = steadily(torrent("checkingUP", HDD, progress=0.0), begin=0.5, seconds=100)
    assert rechecked([*before, *steadily(bad, seconds=4.5)]) is WAIT
    assert rechecked([*work, *steadily(bad, begin=101, seconds=4.5)]) is WAIT
    assert rechecked([*work, *steadily(bad, begin=101, seconds=5)]) is Event.FAIL


def test_a_recheck_that_passed_is_believed_from_the_third_refresh_interval_on() -> None:
    good = torrent("stoppedUP", HDD)
    assert rechecked(at((4.4, good))) is WAIT
    assert rechecked(at((4.5, good))) is Event.ADVANCE
    assert rechecked(at((4.5, good)), refresh_s=2) is WAIT


@pytest.mark.parametrize("better", [{"progress": 0.999}, {"left": 1}])
def test_stopped_but_not_whole_is_neither_stopped_nor_passed(better: dict[str, float]) -> None:
    hole = torrent("stoppedUP", HDD, **better)  # type: ignore[arg-type]
    assert rechecked(steadily(hole)) is Event.FAIL
    assert judge_stopped(steadily(hole), place=HDD, refresh_s=REFRESH_S) is Event.FAIL


@pytest.mark.parametrize("judge", [stopped, repointed, rechecked])
def test_a_torrent_that_its_user_starts_meanwhile_does_not_go_on(judge: Judge) -> None:
    place = SSD if judge is stopped else HDD
    for state in ("uploading", "stalledUP", "downloading"):
        polls = steadily(torrent(state, place))
        assert judge(polls[:5]) is WAIT
        assert judge(polls) in (Event.FAIL, Event.MOVED)


def test_a_silence_between_two_polls_proves_nothing_of_it() -> None:
    bad = torrent("stoppedDL", HDD, progress=0.0, left=1)
    assert rechecked(at((1, bad), (60, bad))) is WAIT
    assert rechecked(at((1, bad), (60, bad), (61, bad))) is Event.FAIL


def test_a_longer_refresh_interval_makes_it_wait_longer() -> None:
    moved = steadily(torrent("stoppedUP", HDD), seconds=29)
    assert repointed(moved, refresh_s=10) is WAIT
    assert repointed([*moved, *at((30, moved[0].torrent))], refresh_s=10) is Event.MOVED


def seeding(polls: Sequence[Poll], *, refresh_s: float = REFRESH_S) -> Event | None:
    return judge_seeding(polls, place=HDD, refresh_s=refresh_s)


@pytest.mark.parametrize("state", ["stalledUP", "uploading", "forcedUP", "queuedUP", "stoppedUP"])
def test_what_passed_its_recheck_is_still_there_at_the_first_look(state: str) -> None:
    assert seeding(at((0, torrent(state)))) is Event.ADVANCE


def test_what_is_back_on_the_ssd_after_a_restart_is_not_there_once_it_stays_so() -> None:
    back = torrent("stalledUP", SSD)
    assert seeding(steadily(back, seconds=4)) is WAIT
    assert seeding(steadily(back, seconds=10)) is Event.FAIL
    assert seeding(steadily(torrent("missingFiles", SSD), seconds=10)) is Event.FAIL


def test_a_check_after_a_restart_is_waited_for() -> None:
    checking = torrent("checkingResumeData")
    assert seeding(steadily(checking, seconds=600)) is WAIT
    assert seeding([*steadily(checking, seconds=9), *at((10, torrent("stalledUP")))]) is Event.ADVANCE  # fmt: skip  # noqa: E501
