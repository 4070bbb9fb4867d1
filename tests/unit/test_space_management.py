"""When runs of space management begin, and what must not end more than one of them."""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from qbm_trio.adapters import journal_facts
from qbm_trio.core.errors import Draining, QbittorrentAway, QbittorrentError
from qbm_trio.core.model import JobState
from qbm_trio.core.relocation import Step
from tests.fakes.qbittorrent import away
from tests.rig.inside import condition
from tests.rig.shelves import (
    EACH_BYTES,
    PLENTY_BYTES,
    TARGET_BYTES,
    THRESHOLD_BYTES,
    WRITES,
    held,
    said,
    shelf,
)

# -- when a run begins --------------------------------------------------------------


async def test_runs_asked_for_before_one_begins_are_one_and_during_it_one_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        await it.shelf_of(1)
        listed = trio.Event()
        go_on = trio.Event()

        async def before(name: str) -> None:
            if name == "torrents":
                listed.set()
                await go_on.wait()

        await it.idle()
        it.fake.before = before
        first, again = it.space.trigger(), it.space.trigger()
        assert first.run_id == again.run_id
        assert (first.joined, again.joined) == (False, True)
        with trio.fail_after(10):
            await listed.wait()
        assert it.space.overview().current_run == first.run_id
        second, third = it.space.trigger(), it.space.trigger()
        assert second.run_id == third.run_id != first.run_id
        go_on.set()
        await it.ended(second.run_id)
        await it.idle()
        assert it.calls()["torrents"] == 2
        assert it.space.overview().current_run is None


async def test_a_trigger_makes_a_run_that_was_asked_for_by_itself_one_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        await it.idle()
        asked = it.space._ask()
        assert it.space.trigger().run_id == asked
        assert (await it.ended(asked)).by_hand


async def test_with_room_enough_runs_by_themselves_do_not_ask_qbittorrent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch, SPACE_CHECK_INTERVAL_S="0.01") as it:
        id_ = it.add("T")
        it.calls()
        before = it.ssd.asked
        await condition(lambda: it.ssd.asked > before + 5)
        assert (await it.inside.tier(id_)).state is JobState.DONE
        await it.idle()
        assert it.calls().keys() == {"torrent", "files", "export", "add_tags"}, "the job's own"
        assert it.last is None


async def test_a_threshold_that_the_whole_ssd_falls_short_of_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with shelf(
        tmp_path, monkeypatch, DISK_SPACE_THRESHOLD_GB="1e6", DISK_SPACE_TARGET_GB="2e6"
    ) as it:
        await it.run_now()
        await it.run_now()
    said = [record for record in caplog.records if "more than the whole SSD" in record.message]
    assert [record.levelname for record in said] == ["WARNING"]


async def test_a_run_begins_by_itself_after_a_job_and_at_the_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for interval_s in ("86400", "0.05"):
        root = tmp_path / interval_s
        async with shelf(root, monkeypatch, SPACE_CHECK_INTERVAL_S=interval_s) as it:
            (id_,) = await it.shelf_of(1)
            await it.leave_free(0)
            if interval_s == "86400":
                await it.tiered("another")
            await condition(lambda it=it: it.last is not None)  # type: ignore[misc]
            assert it.last is not None
            assert not it.last.by_hand
            assert it.last.figures.relocated
            assert it.state(id_)[1] == "hdd"


async def test_a_run_that_fell_short_is_looked_at_again_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/status must not tell of a shortfall for ever."""
    async with shelf(tmp_path, monkeypatch, SPACE_CHECK_INTERVAL_S="0.02") as it:
        await it.idle()
        await it.leave_free(0)
        assert not (await it.run_now()).figures.target_met
        await it.leave_free(TARGET_BYTES)
        await condition(lambda: it.last is not None and it.last.figures.target_met)
        await it.idle()
        it.calls()
        asked = it.ssd.asked
        await condition(lambda: it.ssd.asked > asked + 5)
        assert it.calls() == {}


async def test_a_run_that_fell_short_is_gone_on_with_until_the_target_not_the_threshold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        id_ = await it.tiered("first", tags=frozenset({"qbm-pin"}))
        await it.leave_free(0)
        assert (await it.run_now()).figures.shortfall_bytes == TARGET_BYTES
        it.fake.change(id_, tags=frozenset())
        between = (THRESHOLD_BYTES + TARGET_BYTES) // 2
        await it.leave_free(between)
        it.space._ask()
        await condition(lambda: it.state(id_)[1] == "hdd")
        await it.all_ended()
        await it.idle()
        assert it.last is not None
        assert it.last.figures.target_met
        # Once it is reached, only the threshold counts.
        await it.leave_free(PLENTY_BYTES)
        second = await it.tiered("second")
        await it.leave_free(between)
        it.space._ask()
        await it.idle()
        assert it.state(second)[1] == "ssd"


async def test_the_ssd_is_looked_at_when_a_run_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        await it.shelf_of(1)
        await it.leave_free(0)
        await it.run_now()
        assert it.inside.service.tiers.ssd.figures.free_bytes == EACH_BYTES


async def test_the_log_tells_of_a_run_from_its_beginning_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with shelf(tmp_path, monkeypatch) as it:
        await it.shelf_of(1)
        it.add("untiered", tags=frozenset({"qbm-pin"}))
        await it.leave_free(0)
        run = await it.run_now()
        in_vain = await it.run_now()
        await it.leave_free(THRESHOLD_BYTES)
        assert not (await it.run_now()).figures.target_met  # but not short any more
    lines = said(caplog, logging.INFO)
    assert [line for line in lines if f"run {run.id}" in line] == [
        f"space management: run {run.id} begins, triggered by hand: {TARGET_BYTES} bytes are "
        f"missing, {EACH_BYTES} planned",
        f"space management: run {run.id}: 1 torrent relocated; {EACH_BYTES} of {EACH_BYTES} bytes "
        f"freed; {TARGET_BYTES - EACH_BYTES} bytes are still missing to the target; spared: "
        "pinned (1 torrent, 60000 bytes)",
    ]
    # Still short, and nothing to be done about it: who looks for warnings finds this.
    (warning,) = [line for line in said(caplog) if line.startswith("space management: ")]
    assert warning.startswith(f"space management: run {in_vain.id}: 0 torrents relocated; ")
    assert "still missing to the target; spared: pinned (1 torrent" in warning


async def test_a_run_by_hand_is_still_shown_after_one_by_itself_that_found_nothing_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        await it.shelf_of(1)
        await it.leave_free(0)
        by_hand = await it.run_now()
        assert by_hand.figures.relocated == 1
        assert not by_hand.figures.target_met
        it.calls()
        it.space._ask()
        await it.idle()
        assert it.calls()["torrents"] == 1, "there was one"
        assert it.last == by_hand
        counters = await it.inside.journal.do(journal_facts.counters)
        assert counters["space_management_runs"] == 2
        # Of its own accord it has something to tell as soon as there is.
        await it.tiered("new")
        await it.idle()
        assert it.last is not None
        assert (it.last.by_hand, it.last.figures.relocated) == (False, 1)


async def test_when_qbittorrent_is_away_a_run_by_hand_is_recorded_with_its_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        it.fake.down = away()
        run = await it.run_now()
        assert run.by_hand
        assert "is it running" in (run.figures.problem or "")
        assert not run.figures.target_met
        with pytest.raises(QbittorrentAway):
            await it.space.dry_run()


async def test_a_run_by_itself_that_qbittorrents_absence_prevents_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        await it.idle()
        await it.leave_free(0)
        it.fake.down = away()
        it.space._ask()
        await condition(lambda: not it.fake.contact.reachable)
        await it.idle()
        assert it.last is None, "nothing was done or found out"
        it.fake.down = None
        await it.fake.version()
        await condition(lambda: it.last is not None)
        assert it.state(id_)[1] == "hdd"


@pytest.mark.parametrize("in_vain", [False, True], ids=["answered", "in vain"])
async def test_runs_by_themselves_list_all_torrents_a_twentieth_of_the_time_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_vain: bool
) -> None:
    """The list of thousands takes 4.5 seconds, in which it does nothing else."""
    async with shelf(tmp_path, monkeypatch) as it:
        await it.leave_free(0)
        listed: list[tuple[float, float]] = []

        async def before(name: str) -> None:
            """Take 20 ms."""
            if name == "torrents":
                began = trio.current_time()
                await trio.sleep(0.02)
                listed.append((began, trio.current_time()))
                if in_vain:
                    it.fake.failures = [away()]

        it.fake.before = before
        for n in range(1, 4):
            it.space._ask()
            await condition(lambda n=n: len(listed) == n)  # type: ignore[misc]
            await it.idle()
        for (began, ended), (again, _) in pairwise(listed):
            assert again - began >= 20 * (ended - began), "asked for at once, made in its time"
        in_vain = False
        it.space._ask()
        await it.run_now()
        assert listed[-1][0] - listed[-2][0] < 20 * 0.02, "a person need not wait"


# -- DRY_RUN ------------------------------------------------------------------------


async def test_with_dry_run_the_plan_is_said_and_nothing_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with shelf(tmp_path, monkeypatch) as it:
        await it.shelf_of(1)
        it.add("not tiered")
        content = it.inside.contents()
    it.calls()
    async with shelf(tmp_path, monkeypatch, fake=it.fake, DRY_RUN="true") as it:
        await it.leave_free(0)
        caplog.clear()
        it.space._ask()
        await condition(lambda: "space management would free" in caplog.text)
        assert "would relocate 'T0'" in caplog.text
        assert "would first copy to the HDD 'not tiered'" in caplog.text
        assert not WRITES & it.calls().keys()
        assert await it.rows() == {}
        assert it.last is None
        assert len(it.inside.service.jobs.queue) == 0
        assert (await it.space.dry_run()).plan.relocate
        assert it.inside.contents() == content
        assert it.files("T0") == it.files("not tiered") == {"a", "b"}


async def test_with_dry_run_from_the_first_start_on_there_is_a_plan_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiers are not marked then."""
    async with shelf(tmp_path, monkeypatch, DRY_RUN="true") as it:
        it.add("T")
        await it.leave_free(0)
        (chosen,) = (await it.space.dry_run()).plan.chosen
        assert (chosen.name, chosen.choice) == ("T", "tier_first")


async def test_with_dry_run_a_relocation_that_was_open_stands_still_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        id_ = await it.tiered("T")
        await it.leave_free(0)
        with held(monkeypatch, Step.CHECKING) as hold:
            it.space.trigger()
            await hold.wait()
    it.calls()
    async with shelf(tmp_path, monkeypatch, fake=it.fake, DRY_RUN="true") as it:
        await condition(lambda: "relocation of 'T' stands still (checking)" in caplog.text)
        assert "set DRY_RUN to false" in caplog.text
        await it.idle()
        assert not WRITES & it.calls().keys()
    async with shelf(tmp_path, monkeypatch, fake=it.fake) as it:
        assert (await it.all_ended())["T"].step is Step.DONE
        assert it.state(id_) == ("stalledUP", "hdd")


# -- troubles -----------------------------------------------------------------------


async def test_nothing_begins_while_the_service_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        await it.idle()  # the start asks for a run, too
        it.inside.service.jobs.draining = True
        with pytest.raises(Draining):
            it.space.trigger()
        assert it.space._asked is None


@pytest.mark.parametrize("call", ["torrents", "files", "torrent"])
async def test_a_call_that_fails_ends_that_run_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        await it.leave_free(0)
        await it.idle()

        async def before(name: str) -> None:
            if name == call:
                it.fake.before = None
                it.fake.failures = [QbittorrentError("qBittorrent refused a call: 500")]

        it.fake.before = before
        figures = (await it.run_now()).figures
        assert "refused a call" in (figures.problem or "")
        assert "bug" not in (figures.problem or "")
        assert it.state(id_) == ("stalledUP", "ssd")
        assert (await it.run_now()).figures.relocated == 1


async def test_a_bug_in_planning_ends_that_run_and_not_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        await it.shelf_of(1)
        await it.leave_free(0)
        await it.idle()
        with monkeypatch.context() as patch:
            patch.setattr("qbm_trio.tasks.space_survey.plan_space", lambda *_, **__: 1 / 0)
            run = await it.run_now()
        assert "ZeroDivisionError" in (run.figures.problem or "")
        assert "ZeroDivisionError" in caplog.text
        assert (await it.run_now()).figures.relocated == 1
