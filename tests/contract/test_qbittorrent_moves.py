"""What relocates a torrent: two real qBittorrents, and the fake, do alike.

On the real ones a refresh interval is 0.1 s here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from qbm_trio.core.errors import QbittorrentError
from qbm_trio.core.model import Torrent
from tests.contract.relocating import (
    always,
    contents,
    copied,
    marked,
    renamed,
    stop,
    stopped,
    until,
)
from tests.contract.subjects import PAD, REAL, UNKNOWN, Subject, subject_of

SIZES = {"dir/a": 300_000, "dir/sub/b": 70_000}
SIZE = sum(SIZES.values())


@pytest.fixture(scope="module", params=[*REAL, "fake", "old fake"])
def subject(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Subject]:
    with subject_of(request.param, tmp_path_factory.mktemp("qbittorrent")) as subject:
        yield subject


async def test_stop_start_and_forced_start_are_seen_in_the_state(subject: Subject) -> None:
    id, _, _ = subject.add(SIZES)
    client = subject.client

    await client.set_force_start(id, True)
    torrent = await until(subject, id, lambda torrent: torrent.state == "forcedUP")
    assert torrent.force_start

    before = client.requests
    await client.stop(id)
    word = await stopped(subject, True)
    torrent = await until(subject, id, lambda torrent: torrent.state == word)
    assert not torrent.force_start  # so whoever stops it must remember

    await client.start(id)
    torrent = await until(subject, id, lambda torrent: torrent.state == "stalledUP")
    assert not torrent.force_start

    await client.stop(id)
    await until(subject, id, lambda torrent: torrent.state == word)
    await client.set_force_start(id, False)  # starts it all the same
    await until(subject, id, lambda torrent: torrent.state == "stalledUP")
    assert client.requests > before


async def test_a_call_that_relocates_is_one_request(subject: Subject) -> None:
    id, ssd, _ = subject.add(SIZES)
    client = subject.client
    await client.stop(id)  # the first one of all may ask by both names
    for call in (
        lambda: client.start(id),
        lambda: client.stop(id),
        lambda: client.set_force_start(id, False),
        lambda: client.set_auto_management(id, False),
        lambda: client.set_download_path(id, ""),
        lambda: client.set_location(id, str(ssd)),
        lambda: client.recheck(id),
        client.refresh_interval_s,
    ):
        before = client.requests
        await call()
        assert client.requests - before == 1


async def test_the_refresh_interval_is_that_of_the_preferences(subject: Subject) -> None:
    assert await subject.client.refresh_interval_s() == 0.1


async def test_a_folder_is_listed_from_5_0_on(subject: Subject) -> None:
    _, ssd, _ = subject.add(SIZES)
    (ssd / "dir/.hidden").touch()
    (ssd / "odd").mkdir()
    (ssd / "odd" / os.fsdecode(b"no text: \xff")).touch()
    names = await subject.client.folder(str(ssd / "dir"))
    odd = await subject.client.folder(str(ssd / "odd"))
    absent = await subject.client.folder(str(ssd / "not there"))
    assert subject.client.contact.reachable
    if (await stopped(subject, True)).startswith("paused"):  # here: 4.5
        assert (names, odd, absent) == (None, None, None)
    else:
        assert names == frozenset({str(ssd / "dir/a"), str(ssd / "dir/sub")}), "none is hidden"
        assert odd == frozenset(), "nor is one named that is no text, nor what comes after it"
        assert absent == frozenset()


async def test_an_unknown_torrent_goes_unnoticed(subject: Subject) -> None:
    client = subject.client
    for call in (client.stop, client.start, client.recheck):
        await call(UNKNOWN)
    for switch in (client.set_force_start, client.set_auto_management):
        await switch(UNKNOWN, False)
    for put in (client.set_location, client.set_download_path):
        await put(UNKNOWN, str(subject.folder / "made for nobody"))


async def test_a_folder_that_cannot_be_made_is_refused(subject: Subject) -> None:
    id, ssd, _ = subject.add(SIZES)
    for put in (subject.client.set_location, subject.client.set_download_path):
        with pytest.raises(QbittorrentError, match="409"):
            await put(id, str(ssd / "dir/a/below a file"))
    assert subject.client.contact.reachable
    torrent = await subject.client.torrent(id)
    assert (torrent.save_path, torrent.download_path) == (str(ssd), "")


@pytest.mark.parametrize("how", ["recheck", "start"])
async def test_set_location_to_a_good_copy_of_a_stopped_torrent_is_judged_when_told_to(
    subject: Subject, how: str
) -> None:
    id, ssd, _ = subject.add(SIZES)
    hdd = copied(ssd)
    before = contents(ssd)
    await stop(subject, id)

    await subject.client.set_location(id, str(hdd))

    pending = await stopped(subject, False)
    await until(subject, id, lambda torrent: torrent.state == pending)
    torrent = await always(subject, id, lambda torrent: torrent.state == pending)
    assert (torrent.progress, torrent.amount_left_bytes) == (0, SIZE)
    assert (torrent.save_path, torrent.content_path) == (str(hdd), str(hdd / "dir"))
    assert contents(ssd) == contents(hdd) == before

    await getattr(subject.client, how)(id)

    state = await stopped(subject, True) if how == "recheck" else "stalledUP"
    torrent = await until(subject, id, lambda torrent: torrent.state == state)
    assert (torrent.progress, torrent.amount_left_bytes) == (1, 0)
    assert torrent.content_path == str(hdd / "dir")
    assert contents(ssd) == contents(hdd) == before


async def test_right_after_set_location_a_corrupt_copy_looks_like_a_finished_one_or_a_moving_one(
    subject: Subject,
) -> None:
    id, ssd, _ = subject.add(SIZES)
    hdd = copied(ssd, corrupt=True)
    await stop(subject, id)
    await subject.client.set_location(id, str(hdd))
    pending = await stopped(subject, False)
    seen = set()

    def is_pending(torrent: Torrent) -> bool:
        seen.add(torrent.state)
        return torrent.state == pending

    await until(subject, id, is_pending)
    assert seen <= {pending, await stopped(subject, True), "moving"}
    if subject.fake is not None:  # of the real ones only mostly
        assert len(seen) == 2


async def test_set_location_to_an_empty_folder_moves_the_files_wanted_or_not(
    subject: Subject,
) -> None:
    id, ssd, _ = subject.add(SIZES)
    hdd = ssd.with_name(f"{ssd.name} hdd")
    before = contents(ssd)
    subject.unwant(id, 1)
    await stop(subject, id)

    await subject.client.set_location(id, str(hdd))

    state = await stopped(subject, True)
    await until(
        subject,
        id,
        lambda torrent: (torrent.state, torrent.content_path) == (state, str(hdd / "dir")),
    )
    await always(subject, id, lambda torrent: torrent.state == state and torrent.progress == 1)
    assert contents(hdd) == before
    assert contents(ssd) == {}


async def test_set_location_where_some_files_are_moves_the_others(subject: Subject) -> None:
    id, ssd, _ = subject.add(SIZES)
    hdd = copied(ssd)
    (hdd / "dir/a").unlink()
    before = contents(ssd)
    await stop(subject, id)

    await subject.client.set_location(id, str(hdd))

    pending = await stopped(subject, False)
    torrent = await until(subject, id, lambda torrent: torrent.state == pending)
    assert torrent.progress == 0
    assert contents(hdd) == before
    assert contents(ssd).keys() == {"dir/sub/b"}


async def test_set_location_where_it_is_already_changes_nothing(subject: Subject) -> None:
    id, ssd, _ = subject.add(SIZES)
    await stop(subject, id)
    await subject.client.set_location(id, str(ssd))
    state = await stopped(subject, True)
    await always(subject, id, lambda torrent: torrent.state == state and torrent.progress == 1)


async def test_a_move_that_fails_is_seen_in_the_content_path_only(subject: Subject) -> None:
    id, ssd, _ = subject.add(SIZES)
    hdd = ssd.with_name(f"{ssd.name} hdd")
    hdd.mkdir()
    (hdd / "dir").write_bytes(b"in the way of the folder")
    before = contents(ssd)
    await stop(subject, id)

    await subject.client.set_location(id, str(hdd))

    state = await stopped(subject, True)
    await until(
        subject,
        id,
        lambda torrent: (torrent.state, torrent.content_path) == (state, str(ssd / "dir")),
    )
    torrent = await always(subject, id, lambda torrent: torrent.content_path == str(ssd / "dir"))
    assert torrent.state == state
    lies = torrent.save_path == str(hdd)
    assert lies is state.startswith("paused")  # here: 4.5
    assert contents(ssd) == before


@pytest.mark.parametrize("full", [False, True], ids=["partial last piece", "full last piece"])
async def test_a_version_2_torrent_of_a_single_file_does_not_take_over_a_copy(
    subject: Subject, full: bool
) -> None:
    """Real ones take the file for the folder of the padding that fills its last piece."""
    id, ssd, _ = subject.add({"film": 2 * PAD if full else 40_000}, "v2")
    hdd = ssd.with_name(f"{ssd.name} hdd")
    hdd.mkdir()
    os.link(ssd / "film", hdd / "film")  # the one is left when a failed move is undone
    await stop(subject, id)

    await subject.client.set_location(id, str(hdd))

    state = await stopped(subject, not full)
    place = str((hdd if full else ssd) / "film")
    await until(
        subject, id, lambda torrent: (torrent.state, torrent.content_path) == (state, place)
    )
    await always(
        subject, id, lambda torrent: (torrent.state, torrent.content_path) == (state, place)
    )


async def test_a_running_torrent_goes_on_with_a_corrupt_copy_as_unfinished(
    subject: Subject,
) -> None:
    id, ssd, _ = subject.add(SIZES)
    hdd = copied(ssd, corrupt=True)
    await subject.client.set_location(id, str(hdd))
    torrent = await until(subject, id, lambda torrent: 0 < torrent.progress < 1)
    torrent = await until(subject, id, lambda torrent: torrent.state == "stalledDL")
    assert torrent.content_path == str(hdd / "dir")
    assert torrent.amount_left_bytes == 0x4000


async def test_the_download_path_is_cleared_only_without_automatic_management(
    subject: Subject,
) -> None:
    id, ssd, _ = subject.add(SIZES, category="auto 1", auto_management=True)
    client = subject.client
    unfinished = str(subject.folder / "unfinished")

    await client.set_download_path(id, unfinished)
    assert (await client.torrent(id)).download_path == ""

    await client.set_auto_management(id, False)
    await until(subject, id, lambda torrent: not torrent.auto_management)
    await client.set_download_path(id, unfinished)
    await until(subject, id, lambda torrent: torrent.download_path == unfinished)
    await client.set_download_path(id, "")
    torrent = await until(subject, id, lambda torrent: torrent.download_path == "")
    assert torrent.content_path == str(ssd / "dir")

    await client.set_auto_management(id, True)
    await until(subject, id, lambda torrent: torrent.auto_management)
    await client.set_location(id, str(copied(ssd)))
    await until(subject, id, lambda torrent: not torrent.auto_management)


@pytest.mark.parametrize("corrupt", [False, True], ids=["good copy", "corrupt copy"])
async def test_the_safest_sequence_keeps_a_whole_copy_and_gives_all_settings_back(
    subject: Subject, corrupt: bool
) -> None:
    """With automatic management, a download path, ``.!qB`` names and a forced start."""
    client = subject.client
    unfinished = str(subject.folder / "unfinished")
    if subject.qbt is not None:
        subject.qbt.api.app_set_preferences(
            {"temp_path_enabled": True, "temp_path": unfinished, "incomplete_files_ext": True}
        )
    category = f"auto {corrupt} ö"
    id, ssd, _ = subject.add(SIZES, category=category, auto_management=True)
    if subject.fake is not None:
        subject.fake.change(id, download_path=unfinished)
        subject.fake.mark_incomplete = True
    await client.set_force_start(id, True)
    begun = await until(subject, id, lambda torrent: torrent.state == "forcedUP")
    assert begun.auto_management
    assert begun.download_path.startswith(unfinished)
    hdd = copied(ssd, corrupt=corrupt)
    before, bad = contents(ssd), contents(hdd)
    up, down = await stopped(subject, True), await stopped(subject, False)

    async def repointed(path: Path) -> None:
        await client.set_location(id, str(path))
        torrent = await until(
            subject,
            id,
            lambda torrent: (torrent.state, torrent.progress) == (down, 0),
        )
        assert torrent.content_path == str(path / "dir")

    async def rechecked(state: str) -> Torrent:
        await client.recheck(id)
        return await until(
            subject, id, lambda torrent: torrent.state == state and torrent.progress > 0
        )

    await client.set_auto_management(id, False)
    await client.set_download_path(id, "")
    await until(
        subject,
        id,
        lambda torrent: not torrent.auto_management and not torrent.download_path,
    )
    await stop(subject, id)
    await repointed(hdd)
    torrent = await rechecked(down if corrupt else up)
    assert torrent.content_path == str(hdd / "dir")
    if corrupt:
        assert torrent.amount_left_bytes == 0x4000
        await always(subject, id, lambda torrent: torrent.state == down)
        assert contents(ssd) == before
        assert await renamed(hdd, bad) == marked(bad)
        await repointed(ssd)
        # The originals of the SSD, too, and those of the HDD stay so.
        assert await renamed(ssd, before) == marked(before)
        torrent = await rechecked(up)
        assert torrent.content_path == str(ssd / "dir")
        assert contents(hdd) == marked(bad)
    assert (torrent.progress, torrent.amount_left_bytes) == (1, 0)

    await client.set_download_path(id, begun.download_path)
    if corrupt:
        await client.set_auto_management(id, True)
    await client.set_force_start(id, True)

    torrent = await until(subject, id, lambda torrent: torrent.state == "forcedUP")
    assert (torrent.auto_management, torrent.download_path) == (corrupt, begun.download_path)
    torrent = await always(subject, id, lambda torrent: torrent.progress == 1)
    assert torrent.content_path == str((ssd if corrupt else hdd) / "dir")
    assert contents(ssd) == before  # back to their names
