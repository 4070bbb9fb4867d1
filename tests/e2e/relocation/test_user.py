"""What its user does in qBittorrent, or to its files, while a torrent is relocated."""

from __future__ import annotations

import os
import zlib
from functools import partial
from random import Random

import pytest
import trio

from qbm_trio.core.relocation import Step
from tests.rig.inside import condition, give, put
from tests.rig.library import sha256
from tests.rig.relocations import OnBoth, World
from tests.rig.torrents import make_torrent

pytestmark = pytest.mark.qbittorrent

BIG = {"a": 1_600_000, "sub/b": 1_200_000}
"""More than is left free on the SSD in a run."""
MOMENTS = {
    "repointing": lambda w, strike: w.strikes.before_call("set_location", strike),
    "checking": lambda w, strike: w.strikes.before_call("recheck", strike),
    "checked": lambda w, strike: w.strikes.after_call("recheck", strike),
    "restoring": lambda w, strike: w.strikes.before(Step.RESTORING, strike),
}


@pytest.mark.parametrize("moment", MOMENTS)
async def test_one_that_its_user_rechecks_meanwhile_does_not_check_for_ever(
    on_both: OnBoth, moment: str
) -> None:
    """Nor stays stopped: the check that it asked for ends so."""

    async def scenario(w: World) -> None:
        id_ = await w.tiered("Rechecked", BIG)
        MOMENTS[moment](w, lambda: w.qbt.api.torrents_recheck(torrent_hashes=id_))
        await w.run()
        end = await w.at_step(id_, Step.DONE, Step.UNDONE)
        # Moved before it had begun, that check finds the copy whole: as if all had been moved.
        assert end.step is Step.DONE or moment == "repointing"
        await w.whole(id_, at=w.hdd if end.step is Step.DONE else w.ssd)

    await on_both(scenario)


@pytest.mark.parametrize("step", [Step.CHECKING, Step.WAITING])
async def test_automatic_management_turned_on_meanwhile_leaves_it_whole_and_running(
    on_both: OnBoth, step: Step
) -> None:
    """QBittorrent moves it back at once, and would again."""

    async def scenario(w: World) -> None:
        id_ = await w.tiered("Managed")

        def turn_on() -> None:
            w.qbt.api.torrents_edit_category("tv", save_path=str(w.ssd.at / "tv"))
            w.qbt.api.torrents_set_auto_management(enable=True, torrent_hashes=id_)

        w.strikes.before(step, turn_on)
        await w.run()
        end = await w.at_step(id_, Step.DONE, Step.UNDONE)
        await w.whole(id_, at=w.hdd if end.step is Step.DONE else w.ssd)

    await on_both(scenario)


@pytest.mark.parametrize("step", [Step.CHECKING, Step.WAITING])
async def test_one_that_is_renamed_meanwhile_stays_on_the_hdd_if_the_ssd_has_no_room(
    on_both: OnBoth, step: Step
) -> None:
    """On its way back, a part of the file would be left on the SSD, and taken for the file."""

    async def scenario(w: World) -> None:
        id_ = await w.tiered("Named", BIG)
        rename = partial(
            w.qbt.api.torrents_rename_file,
            torrent_hash=id_,
            old_path="Named/a",
            new_path="Named/another",
        )
        w.strikes.before(step, rename)
        figures = await w.ended(await w.begin())
        assert (figures.relocated, figures.failed_groups) == (0, 1)
        await w.at_step(id_, Step.MOVED)
        assert w.on(w.ssd, id_) == w.files(id_)  # by their old names
        w.content[id_]["Named/another"] = w.content[id_].pop("Named/a")
        await w.whole(id_, at=w.hdd)

    await on_both(scenario)


async def test_a_file_that_was_edited_or_replaced_on_the_ssd_is_not_deleted(
    on_both: OnBoth,
) -> None:
    """QBittorrent does not notice; the torrent is whole on the HDD, the file its user's."""

    async def scenario(w: World) -> None:
        names = ("edited", "replaced", "touched", "as it was")
        id_ = await w.tiered("Kept", dict.fromkeys(names, 300_000))
        folder = w.ssd.at / "tv/Kept"
        edited, replaced, touched = (folder / name for name in names[:3])
        with edited.open("r+b") as file:
            file.seek(150_000)
            file.write(b"a subtitle of my own")
        new = folder / "new"
        new.write_bytes(Random(zlib.crc32(b"mine")).randbytes(400_000))
        new.rename(replaced)
        os.utime(touched)
        w.foreign |= {path: sha256(path) for path in (edited, replaced)}
        figures = await w.run()
        assert (figures.relocated, figures.failed_groups) == (1, 0)
        row = await w.at_step(id_, Step.DONE)
        assert "edited or replaced" in (row.error or "")
        await w.whole(id_, at=w.hdd)
        assert {path.name for path in folder.iterdir()} >= {"edited", "replaced"}
        assert not touched.exists()
        assert not (folder / "as it was").exists()

    await on_both(scenario)


async def test_of_two_with_the_same_names_in_two_folders_one_can_be_removed_with_its_files(
    on_both: OnBoth,
) -> None:
    """As cross-seed tools link them: a folder for each tracker, one category for all."""

    async def scenario(w: World) -> None:
        folders = [w.ssd.at / "links" / tracker for tracker in ("TrackerA", "TrackerB")]
        puts = []
        for n, folder in enumerate(folders):
            if n:
                (folder / "Film").mkdir(parents=True)
                for name in BIG:
                    (folder / "Film" / name).parent.mkdir(exist_ok=True)
                    os.link(folders[0] / "Film" / name, folder / "Film" / name)
                made = make_torrent(folder, "Film", list(BIG), piece_length=32 * 1024)
                one = partial(give, w.qbt, made, folder, category="cross")
            else:
                one = partial(put, w.qbt, folder, "Film", BIG, category="cross")
            puts.append(await trio.to_thread.run_sync(one))
        ids = [await w.know(*pair) for pair in zip(puts, folders, strict=True)]
        for id_ in ids:
            await w.tier(id_)
        w.foreign.clear()
        figures = await w.run()
        assert (figures.relocated, figures.failed_groups) == (2, 0)
        for id_ in ids:
            await w.whole(id_, at=w.hdd)
        copies = [w.hdd.at / "cross/Film/a", w.hdd.at / "cross/TrackerB/Film/a"]
        assert copies[0].samefile(copies[1]), "stored once"
        w.qbt.api.torrents_delete(delete_files=True, torrent_hashes=ids[0])
        await condition(lambda: not copies[0].exists())
        w.qbt.api.torrents_recheck(torrent_hashes=ids[1])
        await w.whole(ids[1], at=w.hdd)

    await on_both(scenario)
