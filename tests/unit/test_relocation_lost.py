"""A torrent that is half relocated, and of which the journal knows no open relocation.

As when qBittorrent ran for long without its torrents, or ``STATE_DIR`` was lost.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from qbm_trio.core.model import TorrentId
from qbm_trio.core.relocation import Step
from qbm_trio.core.space import RELOCATING_TAG
from qbm_trio.tasks import relocation_watch
from tests.rig.inside import condition
from tests.rig.shelves import FILES, Shelf, held, shelf

QUICK = "0.05"
HALF = [Step.STOPPING, Step.REPOINTING, Step.CHECKING]


async def assert_seeds_from_the_ssd(it: Shelf, id_: TorrentId) -> None:
    await condition(lambda: RELOCATING_TAG not in it.fake.tags(id_))
    await it.all_ended()
    assert it.state(id_) == ("stalledUP", "ssd")
    assert it.files("T") == set(FILES)


@pytest.mark.parametrize("step", HALF)
async def test_one_that_was_gone_for_long_and_is_back_goes_back_to_the_ssd_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    monkeypatch.setattr(relocation_watch, "GONE_AFTER_S", 0.0)
    async with shelf(tmp_path, monkeypatch, RECONCILE_INTERVAL_S=QUICK) as it:
        id_ = await it.tiered("T")
        await it.leave_free(0)
        with held(monkeypatch, step, "taken") as hold:
            it.space.trigger()
            await hold.wait()
            it.fake._now(id_)
            kept = it.fake._torrents[id_], it.fake._files[id_], it.fake._metainfo[id_]
            assert RELOCATING_TAG in it.fake.tags(id_)
            it.fake.remove(id_)
            it.ssd.free_bytes = 10**9  # nothing more is planned
            hold.go_on.set()
            await it.at("T", Step.GONE)
        it.fake._torrents[id_], it.fake._files[id_], it.fake._metainfo[id_] = kept
        await assert_seeds_from_the_ssd(it, id_)


@pytest.mark.parametrize("step", HALF)
@pytest.mark.parametrize("when", ["recorded", "taken"])
async def test_without_its_journal_it_goes_back_to_the_ssd_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: Step, when: str
) -> None:
    async with shelf(tmp_path, monkeypatch) as it:
        id_ = await it.tiered("T")
        await it.leave_free(0)
        with held(monkeypatch, step, when) as hold:
            it.space.trigger()
            await hold.wait()
    shutil.rmtree(tmp_path / "state")
    async with shelf(tmp_path, monkeypatch, fake=it.fake, RECONCILE_INTERVAL_S=QUICK) as it:
        await assert_seeds_from_the_ssd(it, id_)
