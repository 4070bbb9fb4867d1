"""What is to be done about a torrent, from what qBittorrent and the journal say of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbm_trio.core.lifecycle import ACTIVE
from qbm_trio.core.model import JobState, Torrent
from qbm_trio.core.readiness import MISSING_FILES, SEEDING
from qbm_trio.core.reconciling import (
    AS_IF_NONE,
    LOOK_AGAIN,
    Finding,
    Known,
    LastJob,
    Rules,
    What,
    could_matter,
    judge,
)
from qbm_trio.core.relocation import OPEN, Relocation, Step
from qbm_trio.core.relocation_polls import STOPPED
from qbm_trio.core.roots import Roots
from qbm_trio.core.space import RELOCATING_TAG
from tests.rig import seen
from tests.rig.records import RELOCATION

FIRST_RUN_AT = 1_000.0
RULES = Rules(
    roots=Roots(ssd=Path("/ssd"), hdd=Path("/hdd"), path_mappings=(("/theirs", "/ssd"),)),
    finished_after=FIRST_RUN_AT,
)
FINISHED = replace(seen.SEEDING, completed_at=FIRST_RUN_AT)
NOTHING = Known()
BADLY = [JobState.FAILED, JobState.CANCELLED, JobState.CLEARED]
TAGGED = frozenset({RELOCATING_TAG})


def relocation(step: Step, **changes: object) -> Relocation:
    row = replace(RELOCATION, id=1, torrent_id=FINISHED.id, step=step)
    return replace(row, **changes)  # type: ignore[arg-type]


def job(state: JobState, code: str | None = None) -> LastJob:
    return LastJob(state=state, error_code=code)


def found(torrent: Torrent, known: Known = NOTHING) -> What | None:
    finding = judge(torrent, known, RULES)
    return None if finding is None else finding.what


states = st.sampled_from(
    [*sorted(SEEDING), "stoppedDL", "downloading", "moving", "checkingUP", MISSING_FILES, "error"]
)
torrents = st.builds(
    lambda **fields: replace(FINISHED, **fields),
    state=states,
    progress=st.sampled_from([0.0, 0.9, 1.0]),
    amount_left_bytes=st.sampled_from([0, 5]),
    content_path=st.sampled_from(["/ssd/t", "/ssd", "/theirs/t", "/hdd/tv/t", "/other/t", "t", ""]),
    completed_at=st.sampled_from([None, FIRST_RUN_AT - 1, FIRST_RUN_AT, FIRST_RUN_AT + 1]),
    added_at=st.sampled_from([0.0, FIRST_RUN_AT - 1, FIRST_RUN_AT + 1]),
    tags=st.sampled_from([frozenset[str](), TAGGED, frozenset({"ssd"})]),
)
last_jobs = st.none() | st.builds(
    LastJob,
    state=st.sampled_from(JobState),
    error_code=st.sampled_from([None, "source_corrupt", *sorted(AS_IF_NONE)]),
)
relocations = st.none() | st.builds(
    relocation, st.sampled_from(Step), was_running=st.booleans(), force_start=st.booleans()
)
facts = st.builds(Known, job=last_jobs, published=st.booleans(), relocation=relocations)


# -- whatever is said


@given(torrents, facts)
def test_one_with_an_open_relocation_is_left_alone_and_looked_at_again(
    torrent: Torrent, known: Known
) -> None:
    finding = judge(torrent, known, RULES)
    opened = known.relocation is not None and known.relocation.step in OPEN
    assert (finding == LOOK_AGAIN) is opened


@given(torrents, facts)
def test_nothing_is_tiered_that_its_user_has_stopped_or_that_failed(
    torrent: Torrent, known: Known
) -> None:
    finding = judge(torrent, known, RULES)
    if finding is not None and finding.what in (What.TIER, What.TIER_ANEW):
        assert known.job is None or (
            known.job.state not in BADLY or known.job.error_code in AS_IF_NONE
        )


@given(torrents, facts)
def test_only_what_is_whole_and_seeds_from_the_ssd_is_tiered(
    torrent: Torrent, known: Known
) -> None:
    finding = judge(torrent, known, RULES)
    if finding is not None and finding.what in (What.TIER, What.TIER_ANEW):
        assert torrent.state in SEEDING
        assert (torrent.progress, torrent.amount_left_bytes) == (1.0, 0)
        assert torrent.content_path.startswith(("/ssd", "/theirs"))


@given(torrents, facts)
def test_only_after_a_relocation_that_was_done_is_one_repeated_and_only_undone_ones_returned(
    torrent: Torrent, known: Known
) -> None:
    finding = judge(torrent, known, RULES)
    steps = {What.REPEAT: Step.DONE, What.TIER_ANEW: Step.DONE, What.RETURN: Step.UNDONE}
    if finding is not None and finding.what in steps:
        assert known.relocation is not None
        assert known.relocation.step is steps[finding.what]


@given(torrents, facts)
def test_only_the_tag_and_missing_files_have_anything_changed_in_qbittorrent(
    torrent: Torrent, known: Known
) -> None:
    finding = judge(torrent, known, RULES)
    if finding is not None and finding.what in (
        *(What.REPEAT, What.RETURN, What.LOCATE, What.RELEASE),
    ):
        assert RELOCATING_TAG in torrent.tags or torrent.state == MISSING_FILES


@given(torrents, facts)
def test_what_could_not_matter_has_nothing_found_of_it(torrent: Torrent, known: Known) -> None:
    """So the journal need not be asked. Of what is being relocated nothing is lost by it."""
    if not could_matter(torrent, RULES):
        assert judge(torrent, known, RULES) in (None, LOOK_AGAIN)


@given(torrents, facts)
def test_only_a_job_may_be_given_at_once(torrent: Torrent, known: Known) -> None:
    finding = judge(torrent, known, RULES)
    if finding is not None:
        assert finding.at_once is (finding.what is What.TIER)


# -- lost hooks


def test_one_that_finished_since_the_first_run_and_has_no_job_is_tiered() -> None:
    assert found(FINISHED) is What.TIER
    assert found(replace(FINISHED, content_path="/theirs/t")) is What.TIER


def test_one_that_was_added_whole_counts_as_finished_then() -> None:
    """5.1 gives no time of completion to what was added without a check; no hook runs either."""
    whole = replace(FINISHED, completed_at=None, added_at=FIRST_RUN_AT + 1)
    assert found(whole) is What.TIER
    assert found(replace(whole, added_at=FIRST_RUN_AT - 1)) is None
    assert found(replace(whole, added_at=0.0)) is None


@pytest.mark.parametrize("state", JobState)
def test_one_that_has_or_had_a_job_is_not(state: JobState) -> None:
    assert found(FINISHED, Known(job=job(state))) is None


@pytest.mark.parametrize("code", sorted(AS_IF_NONE))
def test_a_job_that_ended_because_there_was_no_such_torrent_is_none(code: str) -> None:
    """The hook named one that was unknown then, or it was removed and is back."""
    assert found(FINISHED, Known(job=job(JobState.FAILED, code))) is What.TIER
    assert found(FINISHED, Known(job=job(JobState.CANCELLED, code))) is What.TIER


@pytest.mark.parametrize("code", sorted(AS_IF_NONE))
def test_one_that_was_notified_when_it_was_not_there_is_tiered_however_old(code: str) -> None:
    """Its user has asked for it; as when qBittorrent ran for a while without its torrents."""
    older = replace(FINISHED, completed_at=FIRST_RUN_AT - 1)
    assert found(older, Known(job=job(JobState.FAILED, code))) is What.TIER
    assert found(older, Known(job=job(JobState.CANCELLED, code), published=True)) is None
    assert found(older, Known(job=job(JobState.FAILED, "source_corrupt"))) is None


@pytest.mark.parametrize(
    "torrent",
    [
        replace(FINISHED, completed_at=FIRST_RUN_AT - 1),
        replace(FINISHED, content_path="/hdd/tv/t"),
        replace(FINISHED, content_path="/other/t"),
        replace(FINISHED, content_path=""),
        replace(FINISHED, progress=0.9),
        replace(FINISHED, state="moving"),
        replace(FINISHED, state="checkingUP"),
    ],
    ids=["older", "on the HDD", "elsewhere", "nowhere", "incomplete", "moving", "checking"],
)
def test_none_of_these_is_tiered(torrent: Torrent) -> None:
    assert found(torrent) is None


def test_one_with_a_published_copy_is_not_tiered_though_its_job_is_forgotten() -> None:
    assert found(FINISHED, Known(published=True)) is None


# -- relocations that qBittorrent contradicts


MISSING = replace(FINISHED, state=MISSING_FILES, progress=0.0, amount_left_bytes=2)


def test_relocated_and_missing_at_its_old_place_it_is_repeated() -> None:
    done = Known(published=True, relocation=relocation(Step.DONE))
    assert found(MISSING, done) is What.REPEAT
    assert found(replace(MISSING, content_path="/hdd/tv/t"), done) is None
    assert found(MISSING) is None
    # Whatever its last job came to: its user wants it to seed.
    assert found(MISSING, replace(done, job=job(JobState.CANCELLED))) is What.REPEAT


@pytest.mark.parametrize("state", [*sorted(STOPPED), "stalledDL", "checkingUP"])
def test_relocated_and_as_it_was_half_way_it_is_repeated(state: str) -> None:
    half = replace(FINISHED, state=state, content_path="/hdd/tv/t", tags=TAGGED)
    assert found(half, Known(relocation=relocation(Step.DONE))) is What.REPEAT


def test_relocated_and_running_it_loses_the_tag_only() -> None:
    tagged = replace(FINISHED, content_path="/hdd/tv/t", tags=TAGGED)
    finding = judge(tagged, Known(relocation=relocation(Step.DONE)), RULES)
    assert finding == Finding(what=What.RELEASE)


def test_undone_and_as_it_was_on_the_way_back_it_returns() -> None:
    undone = Known(relocation=relocation(Step.UNDONE))
    stopped = replace(FINISHED, state="stoppedUP", tags=TAGGED)
    assert found(stopped, undone) is What.RETURN
    by_its_user = Known(relocation=relocation(Step.UNDONE, was_running=False))
    assert found(stopped, by_its_user) is What.RELEASE
    there = replace(stopped, content_path="/hdd/tv/t")
    assert found(there, by_its_user) is What.RETURN


def test_one_that_stayed_on_the_hdd_is_started_if_it_ran() -> None:
    stopped = replace(FINISHED, state="stoppedUP", content_path="/hdd/tv/t", tags=TAGGED)
    for ran in (True, False):
        moved = Known(relocation=relocation(Step.MOVED, was_running=ran))
        assert judge(stopped, moved, RULES) == Finding(what=What.RELEASE, start=ran)


def test_a_tag_without_any_relocation_is_taken_off() -> None:
    assert found(replace(FINISHED, tags=TAGGED)) is What.RELEASE


@pytest.mark.parametrize("last", [None, relocation(Step.GONE)])
@pytest.mark.parametrize("state", [*sorted(STOPPED), MISSING_FILES, "stalledDL"])
def test_one_that_stands_half_way_of_no_relocation_that_is_known_is_located(
    state: str, last: Relocation | None
) -> None:
    for place in ("/ssd/t", "/hdd/tv/t"):
        half = replace(FINISHED, state=state, content_path=place, tags=TAGGED)
        assert found(half, Known(relocation=last)) is What.LOCATE
        untagged = replace(half, tags=frozenset())
        assert found(untagged, Known(relocation=last)) in (None, What.TIER)


def test_relocated_and_whole_on_the_ssd_again_it_is_tiered_anew() -> None:
    done = Known(job=job(JobState.DONE), published=True, relocation=relocation(Step.DONE))
    assert found(FINISHED, done) is What.TIER_ANEW
    assert found(replace(FINISHED, content_path="/hdd/tv/t"), done) is None
    for state in ACTIVE:
        assert found(FINISHED, replace(done, job=job(state))) is What.TIER_ANEW
    for state in BADLY:
        assert found(FINISHED, replace(done, job=job(state))) is None
    undone = replace(done, relocation=relocation(Step.UNDONE))
    assert found(FINISHED, undone) is None


def test_what_is_on_a_tier_mounted_below_the_other_is_not_on_the_other() -> None:
    nested = (("/downloads", "/ssd"), ("/downloads/hdd", "/hdd"))
    roots = Roots(ssd=Path("/ssd"), hdd=Path("/hdd"), path_mappings=nested)
    last = relocation(Step.UNDONE, from_path="/downloads", was_running=False, force_start=False)
    known = Known(relocation=last)
    for place, what in (("/downloads/hdd/n", What.RETURN), ("/downloads/n", What.RELEASE)):
        torrent = replace(FINISHED, state="stoppedUP", tags=TAGGED, content_path=place)
        finding = judge(torrent, known, replace(RULES, roots=roots))
        assert finding is not None
        assert finding.what is what
