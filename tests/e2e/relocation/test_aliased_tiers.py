"""A folder of the HDD that is really one of the SSD's: nothing is deleted, nothing moved."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from qbm_trio.core.relocation import Step
from tests.rig.disks import pooled
from tests.rig.library import snapshot
from tests.rig.mounts import bound, run, unmount
from tests.rig.relocations import OnBoth, World

pytestmark = pytest.mark.qbittorrent

Alias = Callable[[World], AbstractContextManager[Path]]


def bind(w: World) -> AbstractContextManager[Path]:
    return bound(w.ssd.at / "tv", w.hdd.at / "tv")


def pool(w: World) -> AbstractContextManager[Path]:
    """A mergerfs of the SSD's folder and one of the HDD's own."""
    (w.hdd.at / "branch").mkdir()
    return pooled([w.hdd.at / "branch", w.ssd.at / "tv"], w.hdd.at / "tv", "nonempty")


@pytest.mark.parametrize("alias", [bind, pool], ids=["bind", "mergerfs"])
async def test_an_alias_of_the_category_is_noticed_before_anything_is_done(
    on_both: OnBoth, alias: Alias
) -> None:
    """The files there are of the right size and time: they are the SSD's own."""

    async def scenario(w: World) -> None:
        id_ = await w.tiered("Aliased")
        w.foreign = {p: digest for p, digest in w.foreign.items() if w.hdd.at not in p.parents}
        before = snapshot(w.ssd.at)
        with alias(w):
            figures = await w.run()
            assert (figures.relocated, figures.failed_groups, figures.freed_bytes) == (0, 1, 0)
            assert "same files" in figures.failures[0].error
            await w.at_step(id_, Step.UNDONE)
            await w.whole(id_, at=w.ssd)
            assert snapshot(w.ssd.at) == before

    await on_both(scenario)


@pytest.mark.parametrize(
    ("step", "command"),
    [
        (Step.REPOINTING, ["mount", "--bind"]),
        (Step.WAITING, ["mergerfs", "-o", "nonempty"]),
        (Step.DELETING, ["mount", "--bind"]),
        (Step.DELETING, ["mergerfs", "-o", "nonempty"]),
    ],
    ids=lambda value: str(value) if isinstance(value, Step) else value[0],
)
async def test_an_alias_that_appears_on_the_way_costs_no_file(
    on_both: OnBoth, step: Step, command: list[str]
) -> None:
    """What a mergerfs shows has other inode numbers than what it shows it of."""

    async def scenario(w: World) -> None:
        id_ = await w.tiered("Aliased")
        before = snapshot(w.ssd.at)
        alias = w.hdd.at / "tv"
        w.strikes.before(step, lambda: run(*command, str(w.ssd.at / "tv"), str(alias)))
        figures = await w.run()
        await w.strikes.come()
        assert figures.freed_bytes == 0
        assert snapshot(w.ssd.at) == before
        unmount(alias)
        row = await w.at_step(id_, Step.DONE, Step.UNDONE)
        await w.whole(id_, at=w.hdd if row.step is Step.DONE else w.ssd)
        assert w.on(w.hdd, id_) == w.files(id_)
        assert w.on(w.ssd, id_) == (set() if row.step is Step.DONE else w.files(id_))

    await on_both(scenario)
