"""Names of unfinished files during a relocation: two real qBittorrents, and the fake.

libtorrent knows a file by one name, ``x`` or ``x.!qB``, and moves and renames what has
that name. No call tells which. qBittorrent adds, ahead of each check, and of each move
at the new place: where ``x.!qB`` is looked for and ``x`` exists, ``x`` gets that name,
and a ``x.!qB`` that was there is deleted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import pytest
import trio

from qbm_trio.adapters.unfinished_names import undo_unfinished_names
from qbm_trio.core.model import Torrent, TorrentId
from tests.contract.relocating import always, contents, copied, files_are, stop, stopped, until
from tests.contract.subjects import PAD, REAL, Subject, describe, subject_of

SIZES = {"dir/a": 5 * PAD, "dir/b": 3 * PAD, "dir/empty": 0}
PATHS = [PurePosixPath(name) for name in SIZES]
LIMITER = trio.CapacityLimiter(1)


@pytest.fixture(scope="module", params=[*REAL, "fake", "old fake"])
def subject(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Subject]:
    with subject_of(request.param, tmp_path_factory.mktemp("qbittorrent")) as subject:
        if subject.fake is not None:
            subject.fake.mark_incomplete = True
        else:
            assert subject.qbt is not None
            subject.qbt.api.app_set_preferences({"incomplete_files_ext": True})
        yield subject


async def undo(folder: Path) -> None:
    await undo_unfinished_names(folder, PATHS, limiter=LIMITER)


async def over(subject: Subject, ids: Sequence[TorrentId], hdd: Path) -> None:
    """Point stopped torrents at the copy on the HDD."""
    pending = await stopped(subject, False)
    for id in ids:
        await stop(subject, id)
        await subject.client.set_location(id, str(hdd))
        await until(subject, id, lambda torrent: (torrent.state, torrent.progress) == (pending, 0))


async def fail(subject: Subject, id: TorrentId) -> None:
    """Let the copy's recheck fail."""
    await subject.client.recheck(id)
    state = await stopped(subject, False)
    await until(subject, id, lambda torrent: torrent.state == state and torrent.progress > 0)


async def back(subject: Subject, id: TorrentId, ssd: Path) -> None:
    await subject.client.set_location(id, str(ssd))

    def there(torrent: Torrent) -> bool:
        return torrent.content_path == str(ssd / "dir") and torrent.state != "moving"

    await until(subject, id, there)
    await always(subject, id, there)


async def passed(subject: Subject, id: TorrentId, ssd: Path) -> None:
    await subject.client.recheck(id)
    up = await stopped(subject, True)
    torrent = await until(subject, id, lambda torrent: torrent.state == up, limit_s=10)
    assert (torrent.progress, torrent.content_path) == (1, str(ssd / "dir"))


async def test_a_failed_recheck_marks_the_files_that_are_not_whole_and_no_others(
    subject: Subject,
) -> None:
    id, ssd, _ = subject.add(SIZES)
    hdd = copied(ssd, corrupt=True)
    await over(subject, [id], hdd)
    await fail(subject, id)
    await files_are(hdd, lambda files: files.keys() == {"dir/a.!qB", "dir/b", "dir/empty"})


async def test_coming_back_marks_the_good_file_too_until_its_recheck_has_passed(
    subject: Subject,
) -> None:
    id, ssd, _ = subject.add(SIZES)
    good, hdd = contents(ssd), copied(ssd, corrupt=True)
    await over(subject, [id], hdd)
    await fail(subject, id)
    await files_are(hdd, lambda files: "dir/a.!qB" in files)
    bad = contents(hdd)
    await back(subject, id, ssd)
    assert contents(ssd) == {"dir/a.!qB": good["dir/a"], "dir/b": good["dir/b"], "dir/empty": b""}
    await passed(subject, id, ssd)
    await files_are(ssd, lambda files: files == good)
    assert contents(hdd) == bad


async def test_a_recheck_takes_the_file_without_the_mark_and_deletes_the_marked_one(
    subject: Subject,
) -> None:
    id, ssd, _ = subject.add(SIZES)
    good, hdd = contents(ssd), copied(ssd, corrupt=True)
    await over(subject, [id], hdd)
    await fail(subject, id)
    await files_are(hdd, lambda files: "dir/a.!qB" in files)
    await back(subject, id, ssd)
    (ssd / "dir/a.!qB").rename(ssd / "dir/a")
    (ssd / "dir/a.!qB").write_bytes(b"another")
    await passed(subject, id, ssd)
    await files_are(ssd, lambda files: files == good)


@pytest.mark.parametrize(
    ("moment", "kind"),
    [("failure shown", "hybrid"), ("names changed", "v1"), ("failure settled", "hybrid")],
)
async def test_a_corrupt_copy_sends_the_torrent_back_whole_when_names_are_undone(
    subject: Subject, moment: str, kind: str
) -> None:
    """At whatever moment: before qBittorrent has renamed anything on the HDD, or after."""
    id, ssd, _ = subject.add(SIZES, kind)
    good, hdd = contents(ssd), copied(ssd, corrupt=True)
    bad = contents(hdd)
    await over(subject, [id], hdd)
    await fail(subject, id)
    if moment != "failure shown":
        await files_are(hdd, lambda files: "dir/a.!qB" in files)
    if moment == "failure settled":
        state = await stopped(subject, False)
        await always(subject, id, lambda torrent: torrent.state == state)

    await undo(ssd)
    await back(subject, id, ssd)
    await undo(ssd)
    assert contents(ssd).items() >= good.items()
    await passed(subject, id, ssd)
    await undo(hdd)

    await files_are(ssd, lambda files: files == good)
    if moment != "failure shown":  # else what was not renamed yet was moved, and deleted
        assert contents(hdd) == bad


async def with_a_cross_seed(subject: Subject) -> tuple[list[TorrentId], Path, Path]:
    """Two torrents of the same files, both at a corrupt copy, which the first has rechecked."""
    id, ssd, _ = subject.add(SIZES)
    ids = [id, subject.give(describe(ssd, SIZES, piece_bytes=2 * PAD), ssd)]
    hdd = copied(ssd, corrupt=True)
    await over(subject, ids, hdd)
    await fail(subject, id)
    await files_are(hdd, lambda files: "dir/a.!qB" in files)
    return ids, ssd, hdd


@pytest.mark.parametrize("both_failed", [False, True])
async def test_cross_seeds_come_back_whole_when_names_are_undone_before_each_call(
    subject: Subject, both_failed: bool
) -> None:
    """Although there is a file for the second one to bring along."""
    ids, ssd, hdd = await with_a_cross_seed(subject)
    good = {name: data for name, data in contents(ssd).items() if not name.endswith(".!qB")}
    await undo(hdd)
    if both_failed:
        await fail(subject, ids[1])
    for id in ids:
        await undo(ssd)
        await back(subject, id, ssd)
    for id in ids:
        await undo(ssd)
        await passed(subject, id, ssd)
    await undo(hdd)
    await files_are(ssd, lambda files: files == good)
    assert contents(hdd).keys() == good.keys()


async def test_else_a_cross_seed_brings_the_corrupt_file_along_and_the_good_one_is_deleted(
    subject: Subject,
) -> None:
    """Why the order above matters. It moves ``a``, for on the SSD there is ``a.!qB`` only."""
    ids, ssd, hdd = await with_a_cross_seed(subject)
    good = contents(ssd)["dir/a"]
    await back(subject, ids[0], ssd)
    await undo(hdd)
    bad = contents(hdd)["dir/a"]
    await back(subject, ids[1], ssd)
    assert contents(ssd).items() >= {"dir/a": bad, "dir/a.!qB": good}.items()
    await subject.client.recheck(ids[0])
    await files_are(ssd, lambda files: good not in files.values())
    assert contents(ssd)["dir/a.!qB"] == bad
