"""What must not hold up runs, and what relocations and jobs must not do at the same time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from qbm_trio.adapters import journal_relocations
from qbm_trio.core.errors import MustWait
from qbm_trio.core.model import JobState, Outcome, TorrentId, WaitReason
from qbm_trio.core.relocation import FORWARD, Step
from qbm_trio.tasks import space, tiers
from tests.fakes.qbittorrent import away
from tests.rig.inside import condition
from tests.rig.shelves import EACH_BYTES, WRITES, Shelf, corrupt_copy, held, shelf

ON_THE_WAY = [step for step in Step if step in FORWARD]

# -- groups that take long --------------------------------------------------------------


async def test_a_group_that_goes_back_for_long_does_not_hold_up_its_run_or_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        first, second, third = await it.shelf_of(3)
        it.fake.change(third, completed_at=None)
        corrupt_copy(it.inside, "T0")
        await it.leave_free(0)
        with held(monkeypatch, Step.RECHECKING, name="T0") as hold:
            figures = (await it.run_now()).figures
            assert (figures.relocated, figures.failed_groups) == (2, 1)
            (shown,) = it.space.overview().relocations
            assert (shown.torrent_id, shown.step) == (first, Step.RECHECKING)
            await it.leave_free(0)
            figures = (await it.run_now()).figures
            assert figures.spared["relocating"].torrents == 1
            assert it.state(second)[1] == it.state(third)[1] == "hdd"
            hold.go_on.set()
            assert (await it.all_ended())["T0"].step is Step.UNDONE
        assert it.state(first) == ("stalledUP", "ssd")
        await condition(lambda: not it.space._groups)  # nothing is kept of it
        assert it.space.overview().relocations == ()


@pytest.mark.parametrize("step", [*ON_THE_WAY, Step.DELETING])
async def test_a_group_that_waits_for_qbittorrent_does_not_hold_up_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        await it.leave_free(0)
        with held(monkeypatch, step) as hold:
            run_id = it.space.trigger().run_id
            await hold.wait()
            it.fake.down = away()
            hold.go_on.set()
            figures = (await it.ended(run_id)).figures
        assert (figures.relocated, figures.failed_groups, figures.paused) == (0, 1, None)
        said = figures.failures[0].error
        assert f"{step} for now, and goes on by itself (no connection to qBittorrent" in said
        it.fake.down = None
        await it.fake.version()
        row = (await it.all_ended())["T0"]
        lost = step in (Step.STOPPING, Step.REPOINTING, Step.CHECKING)
        assert row.step is (Step.UNDONE if lost else Step.DONE)
        assert it.state(id_) == ("stalledUP", "ssd" if lost else "hdd")


@pytest.mark.parametrize("step", [Step.PREPARING, Step.REPOINTING])
async def test_a_disk_that_goes_away_ends_the_run_and_fails_no_group_but_the_one_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    monkeypatch.setattr(tiers, "PROBE_INTERVAL_S", 0.1)
    async with shelf(tmp_path, monkeypatch) as it:
        ids = await it.shelf_of(3)
        await it.leave_free(0)
        marker = it.inside.hdd / ".qbm-tier"
        with held(monkeypatch, step, name="T0") as hold:
            run_id = it.space.trigger().run_id
            await hold.wait()
            marker.rename(marker.with_name("away"))
            hold.go_on.set()
            figures = (await it.ended(run_id)).figures
        assert figures.problem is not None
        assert ".qbm-tier" in figures.problem
        assert (figures.relocated, figures.failed_groups) == (0, 1)
        assert (await it.rows()).keys() == {"T0"}
        marker.with_name("away").rename(marker)
        # What did not fail is relocated as soon as the disk is back.
        await condition(lambda: it.state(ids[2]) == ("stalledUP", "hdd"))


async def test_what_waits_for_its_deletion_counts_as_free_and_is_not_chosen_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        await it.shelf_of(4)
        await it.leave_free(0)
        with held(monkeypatch, Step.DELETING, name="T0") as hold:
            it.space.trigger()
            await hold.wait()
            dry = await it.space.dry_run()
            assert dry.pending_bytes >= EACH_BYTES
            assert (dry.plan.missing_bytes, dry.plan.relocate) == (0, ()), "above the threshold"
            hold.go_on.set()
        await it.all_ended()
        assert (await it.space.dry_run()).pending_bytes == 0


# -- the journal ------------------------------------------------------------------------

_WRITES = {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE}


async def let_it_write(it: Shelf, allowed: bool) -> None:
    """Have each write of the journal refused, as on a full disk; or no more."""

    def judge(action: int, *_about: str | None) -> int:
        return sqlite3.SQLITE_DENY if action in _WRITES else sqlite3.SQLITE_OK

    await it.inside.journal.do(lambda db: db.set_authorizer(None if allowed else judge))


@pytest.mark.parametrize("step", [*ON_THE_WAY, Step.DELETING])
async def test_no_step_is_taken_that_is_not_recorded_and_all_goes_on_when_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    monkeypatch.setattr(space, "JOURNAL_RETRY_S", 0.02)
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        await it.leave_free(0)
        steps: list[Step] = []
        with held(monkeypatch, step, seen=steps) as hold:
            it.space.trigger()
            await hold.wait()
            await let_it_write(it, allowed=False)
            hold.go_on.set()
            await condition(lambda: steps[-3:] == [step] * 3)
            assert steps[-1] is step, "again and again the same one"
            (shown,) = it.space.overview().relocations
            assert shown.step is step
            await condition(lambda: it.space.overview().current_run is None)  # nor its run held up
            await let_it_write(it, allowed=True)
            row = (await it.all_ended())["T0"]
        assert (row.step, row.freed_bytes) == (Step.DONE, EACH_BYTES)
        assert it.state(id_) == ("stalledUP", "hdd")
        assert it.files("T0") == set()


async def test_a_failure_is_recorded_with_what_it_means_for_the_group_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "JOURNAL_RETRY_S", 0.02)
    undo_group = journal_relocations.undo_group
    refused: list[int] = []

    def full(connection: sqlite3.Connection, *args: object, **kwargs: object) -> object:
        if not refused:
            refused.append(1)
            raise sqlite3.OperationalError("database or disk is full")
        return undo_group(connection, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(journal_relocations, "undo_group", full)
    async with shelf(tmp_path, monkeypatch) as it:
        ids = await it.twins("T")
        corrupt_copy(it.inside, "T")
        await it.leave_free(0)
        await it.run_now()
        rows = await it.all_ended()
        assert refused
        assert {row.step for row in rows.values()} == {Step.UNDONE}
        assert [it.state(id_) for id_ in ids] == [("stalledUP", "ssd")] * 2


async def test_a_run_that_cannot_be_recorded_is_said_and_the_next_one_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        await it.shelf_of(1)
        await it.leave_free(0)
        await let_it_write(it, allowed=False)
        it.space.trigger()
        await it.idle()
        assert "space management: the journal cannot be written" in caplog.text
        assert it.state(next(iter(it.fake._torrents))) == ("stalledUP", "ssd")
        assert not {"stop", "set_location"} & it.calls().keys()
        await let_it_write(it, allowed=True)
        assert (await it.run_now()).figures.relocated == 1


async def test_a_start_whose_relocations_cannot_be_recorded_waits_until_they_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "JOURNAL_RETRY_S", 0.02)
    async with shelf(tmp_path, monkeypatch) as it:
        id_ = await it.tiered("T")
        await it.leave_free(0)
        with held(monkeypatch, Step.STOPPING, "taken") as hold:
            it.space.trigger()
            await hold.wait()
    refused = trio.Event()
    recover = journal_relocations.recover

    def full(connection: sqlite3.Connection, *, now: float) -> object:
        if refused.is_set():
            return recover(connection, now=now)
        trio.from_thread.run_sync(refused.set, trio_token=token)
        raise sqlite3.OperationalError("database or disk is full")

    token = trio.lowlevel.current_trio_token()
    with monkeypatch.context() as patch:
        patch.setattr(journal_relocations, "recover", full)
        async with shelf(tmp_path, monkeypatch, fake=it.fake) as it:
            assert (await it.all_ended())["T"].step is Step.UNDONE
            assert refused.is_set()
            assert it.state(id_) == ("stalledUP", "ssd")


# -- jobs -------------------------------------------------------------------------------


async def test_a_job_of_a_torrent_that_is_being_relocated_waits_for_the_end_of_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        await it.leave_free(0)
        with held(monkeypatch, Step.PREPARING, "taken") as hold:
            run_id = it.space.trigger().run_id
            await hold.wait()
            job_id = await it.inside.notify(id_)
            job = await it.inside.waits(job_id)
            assert job.wait_reason is WaitReason.NOT_READY
            assert "it is being relocated (preparing)" in (job.error or "")
            hold.go_on.set()
            assert (await it.ended(run_id)).figures.relocated == 1
        it.inside.wake_all()
        assert (await it.inside.ended(job_id)).outcome is Outcome.ALREADY_ON_HDD


@contextmanager
def working(monkeypatch: pytest.MonkeyPatch, it: Shelf) -> Iterator[tuple[trio.Event, trio.Event]]:
    """Hold jobs when they look at what to copy: whether one has come there, and its leave."""
    reached, go_on = trio.Event(), trio.Event()

    async def watch(name: str, *_: object) -> None:
        if name == "export":
            reached.set()
            await go_on.wait()

    it.fake.watch = watch
    yield reached, go_on
    it.fake.watch = None


async def test_a_torrent_with_a_job_is_not_relocated_until_that_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        await it.leave_free(0)
        with working(monkeypatch, it) as (reached, go_on):
            job_id = await it.inside.notify(id_)
            with trio.fail_after(10):
                await reached.wait()
            figures = (await it.run_now()).figures
            assert (figures.relocated, set(figures.spared)) == (0, {"tiering"})
            go_on.set()
            assert (await it.inside.ended(job_id)).state is JobState.DONE
        await condition(lambda: it.state(id_)[1] == "hdd")


@pytest.mark.parametrize("by", ["id", "v1"])
async def test_a_job_that_comes_between_the_plan_and_the_relocation_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """By the v1 hash of a hybrid torrent nothing tells so before it has begun."""
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        it.fake.change(id_, infohash_v1="1" * 40)
        await it.leave_free(0)
        it.inside.service.workers._taking.cancel()
        job_ids: list[str] = []

        async def watch(name: str, *arguments: object) -> None:
            if (name, *arguments) == ("torrent", id_):
                it.fake.watch = None
                job_ids.append(await it.inside.notify(id_ if by == "id" else "1" * 40))

        it.fake.watch = watch
        figures = (await it.run_now()).figures
        assert job_ids
        if by == "id":
            assert (figures.relocated, figures.failed_groups) == (0, 1)
            assert "has a job" in figures.failures[0].error
            assert it.state(id_) == ("stalledUP", "ssd")
            assert not {"stop", "set_location"} & it.calls().keys()
        else:
            assert figures.relocated == 1, "the job will wait, or find it on the HDD"


async def test_a_job_that_has_begun_by_another_hash_waits_for_a_relocation_that_came_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        it.fake.change(id_, infohash_v1="1" * 40)
        await it.leave_free(0)
        with held(monkeypatch, Step.CHECKING) as hold:
            run_id = it.space.trigger().run_id
            await hold.wait()
            it.calls()
            job_id = await it.inside.notify("1" * 40)
            job = await it.inside.waits(job_id)
            assert "it is being relocated (checking)" in (job.error or "")
            assert not WRITES & it.calls().keys()
            hold.go_on.set()
            assert (await it.ended(run_id)).figures.relocated == 1


async def test_the_row_of_an_earlier_group_does_not_stop_the_next_relocation_of_its_torrent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        await it.leave_free(0)
        (it.inside.hdd / "tv/T0/a").rename(tmp_path / "a")
        assert (await it.run_now()).figures.failed_groups == 1
        await condition(lambda: (it.inside.hdd / "tv/T0/a").exists())  # copied anew
        newest = partial(journal_relocations.last_of, torrent_id=TorrentId(id_))
        await condition(lambda: it.state(id_)[1] == "hdd")
        await it.all_ended()
        row = await it.inside.journal.do(newest)
        assert row is not None
        assert row.step is Step.DONE


async def test_a_run_leaves_it_to_the_probes_to_say_that_a_disk_is_usable_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wake those who wait for it."""
    async with shelf(tmp_path, monkeypatch) as it:
        await it.shelf_of(1)
        await it.leave_free(0)
        tier = it.inside.service.tiers.ssd
        with held(monkeypatch, Step.DELETING) as hold:
            run_id = it.space.trigger().run_id
            await hold.wait()
            tier.troubled_by(MustWait("it was away", reason=WaitReason.TIER))
            hold.go_on.set()
            await it.ended(run_id)
        assert tier.trouble is not None
        assert tier.space is not None
        assert tier.space.free_bytes == it.ssd.free_bytes == EACH_BYTES
