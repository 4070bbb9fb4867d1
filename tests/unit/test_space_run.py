"""What a run of space management does, and what its figures say of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from qbm_trio.core.model import Outcome
from qbm_trio.core.relocation import Step
from qbm_trio.core.space import PIN_TAG
from qbm_trio.core.space_runs import SparedSum
from tests.rig.inside import condition
from tests.rig.shelves import (
    EACH_BYTES,
    FILES,
    TARGET_BYTES,
    THRESHOLD_BYTES,
    WRITES,
    Watched,
    held,
    said,
    shelf,
)
from tests.rig.torrents import make_torrent, write_files
from tests.rig.trees import below

# -- what a run does ----------------------------------------------------------------


async def test_a_run_relocates_its_plan_and_no_more_and_says_what_came_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        ids = await it.shelf_of(4)
        it.fake.change(ids[0], tags=frozenset({PIN_TAG}))
        await it.leave_free(TARGET_BYTES - EACH_BYTES - 1)
        run = await it.run_now()
        assert run.by_hand
        figures = run.figures
        assert (figures.relocated, figures.failed_groups, figures.tiered_first) == (2, 0, 0)
        assert figures.freed_bytes == figures.planned_bytes == 2 * EACH_BYTES
        assert (figures.target_met, figures.shortfall_bytes) == (True, 0)
        assert (figures.problem, figures.paused) == (None, None)
        assert figures.spared == {
            "pinned": SparedSum(torrents=1, bytes=60_000),  # as qBittorrent tells it
            "target_met": SparedSum(torrents=1, bytes=60_000),
        }
        assert [it.state(id_) for id_ in ids] == [
            ("stalledUP", tier) for tier in ("ssd", "hdd", "hdd", "ssd")
        ]
        assert it.files("T1") == set()
        assert it.files("T1", tier="hdd") == {"a", "b"}


async def test_a_plan_that_frees_too_little_leaves_a_shortfall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        await it.shelf_of(1)
        await it.leave_free(0)
        figures = (await it.run_now()).figures
        assert (figures.relocated, figures.target_met) == (1, False)
        assert figures.shortfall_bytes == TARGET_BYTES - EACH_BYTES


async def test_a_dry_run_is_the_plan_that_a_run_carries_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        ids = await it.shelf_of(3)
        untiered = it.add("not tiered")
        await it.leave_free(0)
        it.calls()
        dry = await it.space.dry_run()
        assert not WRITES & it.calls().keys()
        assert await it.rows() == {}
        assert [one.torrent_id for one in dry.plan.chosen] == ids
        assert (dry.ssd_free_bytes, dry.target_bytes) == (0, TARGET_BYTES)
        figures = (await it.run_now()).figures
        assert (figures.planned_bytes, figures.relocated) == (dry.plan.planned_bytes, 3)
        assert it.state(untiered) == ("stalledUP", "ssd")


async def test_a_group_that_fails_is_told_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        await it.shelf_of(3)
        (it.inside.hdd / "tv/T0/a").unlink()
        await it.leave_free(0)
        figures = (await it.run_now()).figures
        assert (figures.relocated, figures.failed_groups) == (2, 1)
        (failure,) = figures.failures
        assert (failure.name, failure.torrents) == ("T0", 1)
        assert "is missing" in failure.error
        assert it.files("T0") == {"a", "b"}
        assert figures.freed_bytes == 2 * EACH_BYTES
        assert figures.paused is None, "what was not relocated was not to be freed"


@pytest.mark.parametrize("change", ["pinned", "renamed", "removed", "incomplete", "moved"])
async def test_what_changed_since_the_plan_was_made_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        _, second = await it.shelf_of(2)
        elsewhere = it.inside.ssd / "moved"

        async def watch(name: str, *arguments: object) -> None:
            """When the second is looked at, before it is begun."""
            if (name, *arguments) != ("torrent", second):
                return
            it.fake.watch = None
            if change == "pinned":
                it.fake.change(second, tags=frozenset({PIN_TAG}))
            elif change == "renamed":
                path = it.inside.ssd / "tv/T1"
                path.rename(path.with_name("T1 new"))
                for n, name_ in enumerate("ab"):
                    it.fake.change_file(second, n, name=Path("T1 new") / name_)
                it.fake.change(second, content_path=str(path.with_name("T1 new")))
            elif change == "removed":
                it.fake.remove(second)
            elif change == "incomplete":
                it.fake.change(second, state="stalledDL", progress=0.5, amount_left_bytes=1)
            else:
                elsewhere.mkdir()
                (it.inside.ssd / "tv/T1").rename(elsewhere / "T1")
                it.fake.change(second, save_path=str(elsewhere), content_path=f"{elsewhere}/T1")

        await it.leave_free(0)
        it.calls()
        it.fake.watch = watch
        figures = (await it.run_now()).figures
        assert (figures.relocated, figures.failed_groups) == (1, 1)
        if change != "renamed":  # whose copy is not where it would be now
            assert (await it.rows()).keys() == {"T0"}, "the second was not begun"
        assert not {"stop", "set_location"} & {
            str(name) for name, *args in it.fake.calls if args[:1] == [second]
        }
        found = {path.name for path in below(it.inside.ssd) if path.is_file()}
        assert {"a", "b"} <= found, "the second one's files"
        if change != "removed":
            assert it.state(second)[0] in ("stalledUP", "stalledDL")
            assert it.state(second)[1] == "ssd"


async def test_a_torrent_that_its_user_removes_meanwhile_is_not_counted_and_pauses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        (first,) = await it.shelf_of(1)

        async def before(name: str) -> None:
            if name == "recheck":
                it.fake.before = None
                it.fake.remove(first)

        monkeypatch.setattr("qbm_trio.tasks.relocation_watch.GONE_AFTER_S", 0.0)
        await it.leave_free(0)
        it.fake.before = before
        figures = (await it.run_now()).figures
        assert (figures.relocated, figures.paused) == (0, None)
        assert it.files("T0") == {"a", "b"}, "nothing is deleted for it"
        assert (await it.rows())["T0"].step is Step.GONE


async def test_what_a_torrent_that_was_removed_keeps_on_the_ssd_pauses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was relocated together with one that shares a small file with it."""
    monkeypatch.setattr("qbm_trio.tasks.relocation_watch.GONE_AFTER_S", 0.0)
    async with shelf(tmp_path, monkeypatch) as it:
        await it.tiered("T")
        write_files(it.inside.ssd / "tv/T", {"large": 200_000})
        made = make_torrent(it.inside.ssd / "tv", "T", ["a", "large"])
        other = it.fake.add(made.data, save_path=str(it.inside.ssd / "tv"), category="tv")
        it.fake.change(other, name="other", completed_at=9.0)
        assert (await it.inside.tier(other)).outcome is Outcome.TIERED
        await it.leave_free(0)
        with held(monkeypatch, Step.CHECKING, "taken", name="other") as hold:
            run_id = it.space.trigger().run_id
            await hold.wait()
            it.fake.remove(other)
            hold.go_on.set()
            figures = (await it.ended(run_id)).figures
        assert (figures.relocated, figures.freed_bytes) == (1, EACH_BYTES)
        assert figures.planned_bytes > 4 * EACH_BYTES
        assert figures.paused is None


# -- the pause ----------------------------------------------------------------------


async def test_runs_by_themselves_pause_when_deleting_frees_less_than_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        await it.shelf_of(4)
        await it.leave_free(TARGET_BYTES - EACH_BYTES)
        it.ssd.keep(EACH_BYTES)
        figures = (await it.run_now()).figures
        assert (figures.relocated, figures.freed_bytes) == (1, 0)
        assert f"deleting {EACH_BYTES} bytes has freed 0: a snapshot" in (figures.paused or "")
        assert it.space.overview().paused == figures.paused
        assert any("makes no more runs by itself" in line for line in said(caplog))
    # Also after a restart.
    async with shelf(tmp_path, monkeypatch, fake=it.fake) as it:
        await condition(lambda: it.space.overview().paused == figures.paused)
        it.calls()
        await it.leave_free(0)
        it.space._ask()
        await it.idle()
        assert it.calls() == {}
        assert (await it.space.dry_run()).plan.relocate
        figures = (await it.run_now()).figures
        assert (figures.relocated, figures.paused) == (3, None)
        assert it.space.overview().paused is None, "it ends with a run by hand"


@pytest.mark.parametrize(("kept_bytes", "paused"), [(0, False), (1, True)])
async def test_half_of_what_was_expected_is_enough_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_bytes: int, paused: bool
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        await it.shelf_of(1)
        await it.leave_free(0)
        it.ssd.keep(EACH_BYTES // 2 + kept_bytes)
        figures = (await it.run_now()).figures
        assert figures.freed_bytes == EACH_BYTES // 2 - kept_bytes
        assert (figures.paused is not None) is paused


async def test_a_pause_for_files_that_may_not_be_deleted_blames_no_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = os.unlink

    def refused(path: str, **kwargs: int) -> None:
        if path in FILES:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        unlink(path, **kwargs)

    async with shelf(tmp_path, monkeypatch) as it:
        await it.shelf_of(1)
        await it.leave_free(0)
        monkeypatch.setattr(os, "unlink", refused)
        figures = (await it.run_now()).figures
        monkeypatch.setattr(os, "unlink", unlink)
        assert (figures.relocated, figures.freed_bytes, figures.failures) == (1, 0, ())
        said = figures.paused or ""
        assert said.startswith(f"deleting {EACH_BYTES} bytes has freed 0: left on the SSD: not all")
        assert "the same PUID and PGID" in said
        assert "(and 1 more); then trigger a run by hand" in said
        assert "snapshot" not in said
        assert it.files("T0") == {"a", "b"}


async def test_what_its_user_has_changed_is_no_reason_for_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        await it.shelf_of(1)
        await it.leave_free(0)
        (it.inside.ssd / "tv/T0/a").write_bytes(bytes(FILES["a"]))
        figures = (await it.run_now()).figures
        assert (figures.relocated, figures.freed_bytes) == (1, 20_480)
        assert it.files("T0") == {"a"}
        assert figures.paused is None


async def test_data_that_qbittorrent_moved_ends_the_run_and_pauses_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The HDD is not mounted where qBittorrent is: before 5.0 it cannot be asked."""
    fake = Watched(old=True)
    async with shelf(tmp_path, monkeypatch, fake=fake) as it:
        first, second = await it.shelf_of(2)
        theirs = tmp_path / "unmounted"
        fake.disk = lambda path: (
            theirs / path.removeprefix(f"{it.inside.hdd}/")
            if path.startswith(str(it.inside.hdd))
            else Path(path)
        )
        await it.leave_free(0)
        figures = (await it.run_now()).figures
        assert figures.relocated == 0
        assert "moved the data of 'T0'" in (figures.problem or "")
        assert figures.paused == figures.problem
        await it.all_ended()
        assert (await it.rows()).keys() == {"T0"}, "the second was not begun"
        assert it.state(first) == it.state(second) == ("stalledUP", "ssd")
        assert it.files("T0") == it.files("T1") == {"a", "b"}


# -- copies that come first ---------------------------------------------------------


async def test_what_has_no_copy_is_queued_behind_everything_else_at_low_priority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch, MAX_CONCURRENT_PROCESSES="1") as it:
        await it.idle()
        ids = [it.add(f"T{n}") for n in range(4)]
        await it.leave_free(TARGET_BYTES - 3 * EACH_BYTES)
        figures = (await it.run_now()).figures
        assert (figures.tiered_first, figures.relocated) == (3, 0)
        jobs = await it.inside.service.jobs.newest(state=None, limit=9, after=None)
        assert [(job.hash, job.priority, job.name) for job in reversed(jobs)] == [
            (ids[n], -100, f"T{n}") for n in range(3)
        ]
        # The runs after these jobs relocate what they can.
        await condition(lambda: it.ssd.free_bytes >= THRESHOLD_BYTES)
        assert it.state(ids[0])[1] == "hdd"
        assert it.state(ids[3])[1] == "ssd"


async def test_copies_that_come_first_never_take_more_than_half_of_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch, QUEUE_CAPACITY="6") as it:
        it.inside.service.workers._taking.cancel()
        for n in range(9):
            it.add(f"T{n}")
        await it.inside.notify("ab" * 20)
        await it.leave_free(TARGET_BYTES - 9 * EACH_BYTES)
        figures = (await it.run_now()).figures
        assert figures.tiered_first == 2, "three places of six, and one is taken"
        assert figures.spared["half_of_queue"].torrents == 7
        assert (await it.run_now()).figures.tiered_first == 0


async def test_a_queue_that_fills_up_meanwhile_is_left_to_those_who_filled_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch, QUEUE_CAPACITY="4") as it:
        (tiered,) = await it.shelf_of(1)
        it.inside.service.workers._taking.cancel()
        for name in ("first", "second"):
            it.add(name)

        async def before(name: str) -> None:
            """All places are taken while the plan is made."""
            if name == "files":
                it.fake.before = None
                for n in range(4):
                    await it.inside.notify(f"{n:040x}")

        it.fake.before = before
        await it.leave_free(TARGET_BYTES - 3 * EACH_BYTES)
        figures = (await it.run_now()).figures
        assert figures.tiered_first == 0
        assert figures.relocated == 1, "the run goes on"
        assert it.state(tiered)[1] == "hdd"
