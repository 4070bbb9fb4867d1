"""What becomes of a relocation that is over: qBittorrent forgets it, its user takes it back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from qbm_trio.core.model import Outcome
from qbm_trio.core.relocation import Relocation, Step
from tests.rig.inside import condition, tags
from tests.rig.relocations import SETTINGS, OnBoth, World

pytestmark = pytest.mark.qbittorrent


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the reconciler look twice a second."""
    monkeypatch.setitem(SETTINGS, "RECONCILE_INTERVAL_S", "0.5")


async def done_and_forgotten(
    w: World, id_: str, *, since: Step = Step.STOPPING
) -> tuple[Relocation, Callable[[], None]]:
    """Relocate it; and what then brings qBittorrent back to how it was at a step."""
    forget: list[Callable[[], None]] = []
    w.strikes.before(since, lambda: forget.append(w.remember()))
    await w.run()
    await w.strikes.come()
    row = await w.at_step(id_, Step.DONE)
    await w.whole(id_, at=w.hdd)
    return row, forget[0]


async def next_row(w: World, old: Relocation, *steps: Step) -> Relocation:
    """The relocation that follows, at one of these steps."""
    with trio.fail_after(30):
        while (await w.at_step(old.torrent_id, *steps, old.step)).id == old.id:  # noqa: ASYNC110
            await trio.sleep(0.05)
        return await w.at_step(old.torrent_id, *steps)


@pytest.mark.parametrize("since", [Step.STOPPING, Step.CHECKING, Step.RESTORING])
async def test_one_that_qbittorrent_has_forgotten_seeds_from_the_hdd_again(
    on_both: OnBoth, since: Step
) -> None:
    """It misses its files on the SSD, or stands stopped on the HDD with the tag on."""

    async def scenario(w: World) -> None:
        id_ = await w.tiered("Forgotten", **w.all_options())
        download_path = w.qbt.info(id_)["download_path"]
        old, forget = await done_and_forgotten(w, id_, since=since)
        await trio.to_thread.run_sync(forget)
        await next_row(w, old, Step.DONE)
        await w.whole(id_, at=w.hdd)
        assert w.on(w.hdd, id_, folder="managed") == w.files(id_)
        assert tags(w.qbt, id_) == {"hdd"}
        said = w.qbt.info(id_)
        assert said["download_path"] == download_path
        assert not said["auto_tmm"]

    await on_both(scenario)


async def test_the_others_go_on_seeding_and_their_files_stay(on_both: OnBoth) -> None:
    async def scenario(w: World) -> None:
        id_, kept = await w.tiered("Forgotten"), await w.tiered("Kept", tags="qbm-pin")
        old, forget = await done_and_forgotten(w, id_)
        await trio.to_thread.run_sync(forget)
        await next_row(w, old, Step.DONE)
        await w.whole(id_, at=w.hdd)
        await w.whole(kept, at=w.ssd)
        assert w.on(w.hdd, kept) == w.files(kept)

    await on_both(scenario)


async def test_without_the_hdd_nothing_is_moved_into_its_empty_folder(on_both: OnBoth) -> None:
    """The computer was started anew, and the HDD comes late."""

    async def scenario(w: World) -> None:
        id_ = await w.tiered("Rebooted")
        old, forget = await done_and_forgotten(w, id_)
        await trio.to_thread.run_sync(w.hdd.unmount)
        await trio.to_thread.run_sync(forget)
        await next_row(w, old, Step.REPEATING)
        await condition(
            lambda: any(r.error for r in w.service.service.space.overview().relocations)
        )
        assert list(w.hdd.at.iterdir()) == []
        assert w.qbt.info(id_)["state"] == "missingFiles"
        w.hdd.mount()
        await next_row(w, old, Step.DONE)
        await w.whole(id_, at=w.hdd)

    await on_both(scenario)


async def test_one_that_its_user_moves_back_to_the_ssd_is_tiered_anew(on_both: OnBoth) -> None:
    async def scenario(w: World) -> None:
        id_ = await w.tiered("Home")
        await w.run()
        await w.at_step(id_, Step.DONE)
        await w.whole(id_, at=w.hdd)
        w.qbt.api.torrents_set_location(location=str(w.ssd.at / "tv"), torrent_hashes=id_)
        await w.at_step(id_, Step.UNDONE)
        job = await w.newest_job(id_)
        assert job.outcome is Outcome.TIERED
        await w.whole(id_, at=w.ssd)
        assert w.on(w.hdd, id_) == w.on(w.ssd, id_) == w.files(id_)
        assert tags(w.qbt, id_) == {"ssd", "hdd"}

    await on_both(scenario)
