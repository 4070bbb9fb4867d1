"""Bugs and bad copies: one relocation ends, the torrent runs, and its copy is made again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qbm_trio.core.model import JobState, Outcome, TorrentId
from qbm_trio.core.relocation import BACK, FORWARD, Relocation, Step
from qbm_trio.core.space import PIN_TAG
from qbm_trio.tasks.relocation_steps import Result, Steps
from tests.rig.inside import condition, make
from tests.rig.shelves import Shelf, corrupt_copy, held, run, shelf
from tests.rig.torrents import make_torrent

ON_THE_WAY = [step for step in Step if step in FORWARD]

# -- bugs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), KeyError(), OSError("y")])
@pytest.mark.parametrize("step", ON_THE_WAY)
async def test_a_bug_on_the_way_there_sends_the_torrent_back_and_ends_nothing_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step: Step,
    error: Exception,
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        first, second = await it.shelf_of(2)
        await it.leave_free(0)
        with tripping(monkeypatch, step, error, name="T0"):
            figures = (await it.run_now()).figures
            rows = await it.all_ended()
        assert (figures.relocated, figures.failed_groups) == (1, 1)
        assert "a bug" in figures.failures[0].error
        assert "Traceback" in caplog.text
        assert [rows[name].step for name in ("T0", "T1")] == [Step.UNDONE, Step.DONE]
        assert it.state(first) == ("stalledUP", "ssd")
        assert it.state(second) == ("stalledUP", "hdd")
        assert it.files("T0") == {"a", "b"}


@pytest.mark.parametrize("step", [Step.DELETING, Step.RETURNING, Step.RECHECKING, Step.UNDOING])
async def test_a_bug_where_only_the_end_helps_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        if step in BACK:
            corrupt_copy(it.inside, "T0")
        with tripping(monkeypatch, step, ZeroDivisionError(), times=2):
            row = (await run(it))["T0"]
        assert row.step is (Step.UNDONE if step in BACK else Step.DONE)
        assert it.state(id_) == ("stalledUP", "ssd" if step in BACK else "hdd")


@contextmanager
def tripping(
    monkeypatch: pytest.MonkeyPatch,
    step: Step,
    error: Exception,
    *,
    name: str | None = None,
    times: int = 1,
) -> Iterator[None]:
    """Have a step raise this, so many times, when it is about to be taken."""
    take, left = Steps.take, [error] * times

    async def trip(self: Steps, row: Relocation) -> Result:
        if row.step is step and name in (None, row.name) and left:
            raise left.pop()
        return await take(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(Steps, "take", trip)
        yield
    assert not left


# -- bad copies ---------------------------------------------------------------------------


async def jobs_of(it: Shelf, id_: TorrentId) -> list[JobState]:
    jobs = await it.inside.service.jobs.newest(state=None, limit=99, after=None)
    return [job.state for job in jobs if id_ in (job.hash, job.torrent_id)]


async def test_a_bad_copy_is_set_aside_and_made_again_once_and_then_relocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        good = (it.inside.ssd / "tv/T0/a").read_bytes()
        corrupt_copy(it.inside, "T0")
        await it.leave_free(0)
        figures = (await it.run_now()).figures
        assert "recheck of the copy on the HDD failed" in figures.failures[0].error
        await it.all_ended()  # it is back, or even there again
        await condition(lambda: it.state(id_)[1] == "hdd")  # by the run after that job
        await it.all_ended()
        assert await jobs_of(it, id_) == [JobState.DONE, JobState.DONE]
        assert (it.inside.hdd / "tv/T0/a").read_bytes() == good
        aside = it.files("T0", tier="hdd") - {"a", "b"}
        assert len(aside) == 1
        assert it.files("T0") == set()


@pytest.mark.parametrize("state", ["stalledUP", "checkingUP"])
async def test_others_that_have_the_bad_copy_are_rechecked_unless_they_are_checked_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        await it.shelf_of(1)
        bystander = it.add("bystander", save="other", tags=frozenset({PIN_TAG}))
        corrupt_copy(it.inside, "T0")
        # Hashed again was only what others had when it began.
        with held(monkeypatch, Step.STOPPING) as hold:
            await it.leave_free(0)
            it.space.trigger()
            await hold.wait()
            other = seeding_from_hdd(it, "T0")
            it.fake.change(other, state=state)
            it.calls()
            hold.go_on.set()
            assert (await it.all_ended())["T0"].step is Step.UNDONE
        rechecked = {args[0] for name, *args in it.fake.calls if name == "recheck"}
        assert (other in rechecked) == (state == "stalledUP")
        assert bystander not in rechecked


def seeding_from_hdd(it: Shelf, name: str) -> TorrentId:
    """Another torrent of the same files that seeds from the copy."""
    made = make_torrent(it.inside.ssd / "tv", name, ["a", "b"], piece_length=64 * 1024)
    return it.fake.add(made.data, save_path=str(it.inside.hdd / "tv"))


async def test_files_of_the_copy_that_others_have_are_hashed_again_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        seeding_from_hdd(it, "T0")
        corrupt_copy(it.inside, "T0")
        await it.leave_free(0)
        it.calls()
        figures = (await it.run_now()).figures
        assert "which another torrent has too" in figures.failures[0].error
        assert (await it.all_ended())["T0"].tier_anew
        calls = [name for name, *args in it.fake.calls if args and args[0] == id_]
        assert not {"stop", "set_location"} & set(calls)
        assert it.state(id_) == ("stalledUP", "ssd")


@pytest.mark.parametrize("odd", [".hidden", b"no text: \xff"])
async def test_a_copy_that_qbittorrent_cannot_list_is_no_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: str | bytes
) -> None:
    """5.1.0 lists no hidden files, and nothing after a name that is no text."""
    async with shelf(tmp_path, monkeypatch) as it:
        name = odd if isinstance(odd, str) else "T"
        made = make(it.inside.ssd / "tv", name, 20_000)
        id_ = it.fake.add(made.data, save_path=str(it.inside.ssd / "tv"), category="tv")
        assert (await it.inside.tier(id_)).outcome is Outcome.TIERED
        if isinstance(odd, bytes):
            for n in range(20):  # in whatever order they are listed
                (it.inside.hdd / "tv" / os.fsdecode(odd + b"%d" % n)).touch()
        await run(it)
        assert it.state(id_) == ("stalledUP", "hdd")


async def test_a_copy_that_qbittorrent_does_not_see_is_not_gone_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        it.fake.disk = lambda path: Path(path.replace(str(it.inside.hdd), str(tmp_path / "no")))
        row = (await run(it))["T0"]
        assert row.step is Step.UNDONE
        assert "qBittorrent does not see" in (row.error or "")
        assert not {"set_location", "recheck"} & it.calls().keys()
        assert it.state(id_) == ("stalledUP", "ssd")


async def test_a_torrent_elsewhere_whose_file_is_a_link_to_this_ones_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        (tmp_path / "links").mkdir()
        (tmp_path / "links/T0").symlink_to(it.inside.ssd / "tv/T0")
        other = seeding_from_hdd(it, "T0")
        it.fake.change(
            other,
            save_path=str(tmp_path / "links"),
            content_path=str(tmp_path / "links/T0"),
        )
        row = (await run(it))["T0"]
        assert row.step is Step.UNDONE
        assert "another torrent has" in (row.error or "")
        assert it.files("T0") == {"a", "b"}
        assert it.state(id_) == ("stalledUP", "ssd")
