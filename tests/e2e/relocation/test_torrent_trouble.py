"""Corrupt copies, torrents with all their options on, torrents that their user removes."""

from __future__ import annotations

from functools import partial

import pytest

from qbm_trio.core.model import Outcome
from qbm_trio.core.relocation import Step
from tests.rig.inside import condition
from tests.rig.library import sha256
from tests.rig.relocations import OnBoth, World, corrupt

pytestmark = pytest.mark.qbittorrent


async def test_a_corrupt_copy_is_set_aside_and_made_anew(
    on_both: OnBoth, caplog: pytest.LogCaptureFixture
) -> None:
    """Of the same size and time: only qBittorrent's recheck can tell."""

    async def scenario(w: World) -> None:
        id_ = await w.tiered("Corrupt")
        copy = w.hdd.at / "tv/Corrupt/sub/b"
        corrupt(copy)
        bad = sha256(copy)
        figures = await w.run()
        assert (figures.relocated, figures.failed_groups, figures.freed_bytes) == (0, 1, 0)
        assert "recheck" in figures.failures[0].error
        await w.at_step(id_, Step.UNDONE)
        assert (await w.newest_job(id_)).outcome is Outcome.TIERED
        assert w.on(w.hdd, id_) == w.on(w.ssd, id_) == w.files(id_)
        (aside,) = copy.parent.glob("b.qbm-conflict-*")
        assert sha256(aside) == bad
        await w.whole(id_, at=w.ssd)
        figures = await w.run()
        assert (figures.relocated, figures.failed_groups) == (1, 0)
        await w.whole(id_, at=w.hdd)
        assert w.on(w.ssd, id_) == set()

    await on_both(scenario)
    assert "'Corrupt' is not relocated" in caplog.text
    assert "set aside" in caplog.text


@pytest.mark.parametrize("start", ["forced", "stopped"])
async def test_with_all_its_options_on_it_goes_over(on_both: OnBoth, start: str) -> None:
    async def scenario(w: World) -> None:
        id_ = await optioned(w, start)
        before = w.qbt.info(id_)
        figures = await w.run()
        assert (figures.relocated, figures.failed_groups) == (1, 0)
        await w.at_step(id_, Step.DONE)
        await w.whole(id_, at=w.hdd, running=start != "stopped")
        assert w.on(w.ssd, id_, folder="managed") == set()
        after = w.qbt.info(id_)
        assert not after["auto_tmm"]  # it would move the data back
        for name in ("force_start", "download_path", "category"):
            assert after[name] == before[name], name

    await on_both(scenario)


@pytest.mark.parametrize("start", ["running", "forced", "stopped"])
async def test_with_all_its_options_on_and_a_corrupt_copy_it_comes_back_as_it_was(
    on_both: OnBoth, start: str
) -> None:
    async def scenario(w: World) -> None:
        id_ = await optioned(w, start)
        corrupt(w.hdd.at / "managed/Optioned/sub/b")
        before = w.qbt.info(id_)
        figures = await w.run()
        assert (figures.relocated, figures.failed_groups) == (0, 1)
        await w.at_step(id_, Step.UNDONE)
        await w.whole(id_, at=w.ssd, running=start != "stopped")
        after = w.qbt.info(id_)
        for name in ("auto_tmm", "force_start", "download_path", "category", "save_path"):
            assert after[name] == before[name], name
        assert (await w.newest_job(id_)).outcome is Outcome.TIERED
        assert w.on(w.hdd, id_, folder="managed") == w.files(id_)

    await on_both(scenario)


async def optioned(w: World, start: str) -> str:
    """A tiered torrent with all its options on."""
    id_ = await w.tiered("Optioned", **w.all_options())
    assert w.qbt.info(id_)["auto_tmm"]
    assert w.qbt.info(id_)["download_path"].startswith(str(w.ssd.at / "incomplete"))
    if start == "forced":
        w.qbt.api.torrents_set_force_start(True, torrent_hashes=id_)
        await condition(lambda: w.qbt.info(id_)["force_start"])
    elif start == "stopped":
        w.qbt.api.torrents_stop(torrent_hashes=id_)
    await w.settled(id_, at=w.ssd, running=start != "stopped")
    return id_


@pytest.mark.parametrize(
    ("step", "with_data"),
    [
        (Step.STOPPING, False),
        (Step.REPOINTING, True),
        (Step.CHECKING, True),
        (Step.WAITING, False),
        (Step.DELETING, False),
        (Step.DELETING, True),
    ],
    ids=lambda value: {True: "with its data", False: ""}.get(value, str(value)),
)
async def test_a_torrent_that_is_removed_meanwhile_loses_nothing_by_us(
    on_both: OnBoth, step: Step, with_data: bool
) -> None:
    async def scenario(w: World) -> None:
        id_ = await w.tiered("Removed")
        w.strikes.before(
            step,
            partial(w.qbt.api.torrents_delete, delete_files=with_data, torrent_hashes=id_),
        )
        figures = await w.run()
        await w.strikes.come()
        assert (figures.relocated, figures.freed_bytes) == (0, 0)
        await w.at_step(id_, Step.GONE)
        await condition(lambda: not w.service.service.space.overview().relocations)
        # Its data means: where qBittorrent has it.
        place = w.ssd if step in (Step.STOPPING, Step.REPOINTING) else w.hdd
        for disk in (w.ssd, w.hdd):
            taken = with_data and disk is place
            assert w.on(disk, id_) == (set() if taken else w.files(id_))
        w.nothing_foreign_touched()

    await on_both(scenario)


@pytest.mark.parametrize("call", ["torrents_start", "torrents_recheck"])
async def test_one_that_checks_already_when_it_is_told_to_does_not_check_for_ever(
    on_both: OnBoth, call: str
) -> None:
    """Started by its user while a check is due; or told to before the service was killed."""

    async def scenario(w: World) -> None:
        id_ = await w.tiered("Started", {"a": 16_000_000})
        begin = getattr(w.qbt.api, call)
        w.strikes.before(Step.CHECKING, lambda: begin(torrent_hashes=id_))
        await w.run()
        await w.strikes.come()
        end = await w.at_step(id_, Step.DONE, Step.UNDONE)
        await w.whole(id_, at=w.hdd if end.step is Step.DONE else w.ssd)

    await on_both(scenario)
