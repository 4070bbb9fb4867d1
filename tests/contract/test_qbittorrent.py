"""The adapter on two real qBittorrents, and the fake, answer alike.

What is asserted here is what the rest of the service relies on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha1, sha256
from pathlib import Path, PurePosixPath

import bencode2
import libtorrent as lt
import pytest
import trio

from qbm_trio.adapters.metainfo import parse
from qbm_trio.core.client import Preferences
from qbm_trio.core.errors import QbittorrentError, TooEarlyToTell, TorrentUnknown
from qbm_trio.core.model import TorrentId
from tests.contract.subjects import KINDS, PAD, REAL, UNKNOWN, Subject, subject_of


@pytest.fixture(scope="module", params=[*REAL, "fake"])
def subject(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Subject]:
    with subject_of(request.param, tmp_path_factory.mktemp("qbittorrent")) as subject:
        yield subject


@pytest.mark.parametrize("kind", KINDS)
async def test_a_finished_torrent_is_described(subject: Subject, kind: str) -> None:
    id, save_path, metainfo = subject.add({"dir/a": 50_000, "dir/b": 70_000}, kind)

    torrent = await subject.client.torrent(id)

    info = lt.torrent_info(metainfo)
    v1 = sha1(info.info_section()).hexdigest() if kind != "v2" else ""
    v2 = sha256(info.info_section()).hexdigest() if kind != "v1" else ""
    assert (torrent.infohash_v1, torrent.infohash_v2) == (v1, v2)
    assert torrent.id == id == (v2[:40] or v1)
    assert torrent.name == "dir"
    assert torrent.save_path == str(save_path)
    assert torrent.content_path == str(save_path / "dir")
    assert torrent.progress == 1
    assert torrent.amount_left_bytes == 0
    # With padding or without: versions differ. Whoever needs bytes adds up the files.
    assert torrent.size_bytes in (120_000, info.total_size())
    assert torrent.category == ""
    assert torrent.tags == frozenset()
    assert torrent.download_path == ""
    assert not torrent.auto_management
    assert not torrent.force_start
    assert torrent.state.endswith("UP")


async def test_an_unfinished_torrent_has_no_time_of_completion(subject: Subject) -> None:
    id, _, _ = subject.add({"partial": 40_000}, complete=False)
    if subject.qbt is not None:
        # Not the files that were just made: they would be found and checked.
        id, _, _ = _without_data(subject)

    torrent = await subject.client.torrent(id)

    assert torrent.completed_at is None
    assert torrent.progress == 0
    assert torrent.amount_left_bytes == 40_000
    assert torrent.state.endswith("DL")


def _without_data(subject: Subject) -> tuple[TorrentId, Path, bytes]:
    qbt = subject.qbt
    assert qbt is not None
    lost = subject.folder / f"lost {subject.count}"
    (lost / "absent").mkdir(parents=True)
    (lost / "missing").write_bytes(os.urandom(40_000))
    maker = lt.create_torrent(lt.list_files(str(lost / "missing")), PAD, KINDS["v1"])
    lt.set_piece_hashes(maker, str(lost))
    metainfo = lt.bencode(maker.generate())
    id = TorrentId(qbt.add(metainfo, save_path=lost / "absent", is_stopped=True))
    qbt.wait_for(lambda: qbt.info(id)["state"].endswith("DL"), "it is stopped and checked")
    return id, lost / "absent", metainfo


@pytest.mark.parametrize("kind", KINDS)
async def test_files_are_listed_without_padding_after_renames_with_what_is_wanted(
    subject: Subject, kind: str
) -> None:
    long = "ö" * 120  # 240 bytes: the most that libtorrent takes from a .torrent file
    longest = "ö" * 127 + "z"  # 255 bytes: the most that a file system takes
    sizes = {"dir/1 'quoted' \"$x\"": 20_000, f"dir/{long}": 30_000, "dir/sub/3 🎉": 40_000}
    id, _, _ = subject.add(sizes, kind)
    listed = await subject.client.files(id)
    assert {str(file.name): file.size_bytes for file in listed} == sizes
    assert [file.index for file in listed] == [0, 1, 2]
    assert all(file.wanted and file.progress == 1 for file in listed)

    (index,) = (file.index for file in listed if file.name.name == "3 🎉")
    subject.rename(id, index, "dir/sub/3 🎉", f"dir/new é/{longest}")
    subject.unwant(id, 0)

    files = await subject.client.files(id)
    assert str(files[index].name) == f"dir/new é/{longest}"
    assert [file.wanted for file in files] == [file.index != 0 for file in files]
    assert [file.size_bytes for file in files] == [file.size_bytes for file in listed]


async def test_a_name_too_long_for_libtorrent_is_listed_as_it_is_on_disk(subject: Subject) -> None:
    # Not as complete: under its own name the file is not found, and that comes out at any time.
    id, _, _ = subject.add({"dir/" + "ö" * 127 + "z": 9, "dir/b": 9}, complete=False)
    names = [file.name.name for file in await subject.client.files(id)]
    assert sorted(names) == ["b", "ö" * 120]


@pytest.mark.parametrize(
    ("files", "subfolder", "content"),
    [
        ({"single": 9}, True, "single"),
        ({"dir/one": 9}, True, "dir/one"),
        ({"dir/one": 9, "dir/two": 9}, True, "dir"),
        ({"dir/one": 9, "dir/two": 9}, False, ""),
    ],
    ids=["single file", "one file in a folder", "folder", "no subfolder"],
)
async def test_the_content_path_shows_the_layout(
    subject: Subject, files: dict[str, int], subfolder: bool, content: str
) -> None:
    id, save_path, _ = subject.add(files, subfolder=subfolder)

    torrent = await subject.client.torrent(id)
    listed = await subject.client.files(id)

    assert torrent.content_path == str(save_path / content)
    assert torrent.save_path == str(save_path)
    prefix = PurePosixPath("dir") if "/" in next(iter(files)) and subfolder else PurePosixPath()
    assert sorted(file.name for file in listed) == [
        prefix / PurePosixPath(name).name for name in files
    ]


async def test_a_category_may_have_levels(subject: Subject) -> None:
    id, _, _ = subject.add({"film": 9}, category="media/films/4K ö")
    assert (await subject.client.torrent(id)).category == "media/films/4K ö"


@pytest.mark.parametrize("kind", KINDS)
async def test_the_exported_torrent_has_the_same_info_hash_and_the_piece_layers(
    subject: Subject, kind: str
) -> None:
    id, _, metainfo = subject.add({"dir/a": 50_000, "dir/b": 70_000}, kind)

    exported = bencode2.bdecode(await subject.client.export(id))

    original = bencode2.bdecode(metainfo)
    assert bencode2.bencode(exported[b"info"]) == bencode2.bencode(original[b"info"])
    assert exported.get(b"piece layers") == original.get(b"piece layers")


async def test_after_a_restart_a_hybrid_is_exported_with_version_1_at_least(
    subject: Subject,
) -> None:
    id, _, metainfo = subject.add({"dir/a": 50_000, "dir/b": 70_000}, "hybrid")
    if subject.qbt is not None:
        subject.qbt.stop()
        subject.qbt.start()

    meta = parse(await subject.client.export(id))

    assert meta.torrent_id == id
    assert meta.v1_hashes == parse(metainfo).v1_hashes


async def test_after_a_restart_a_version_2_torrent_is_exported_or_a_recheck_is_advised_that_helps(
    subject: Subject,
) -> None:
    id, _, metainfo = subject.add({"dir/a": 50_000, "dir/b": 70_000}, "v2")
    if subject.qbt is not None:
        subject.qbt.stop()
        subject.qbt.start()
    exported, refused = None, ""
    try:
        exported = await subject.client.export(id)
    except QbittorrentError as error:  # 5.1.0
        refused = str(error)
    if refused:
        assert "force a recheck of it in qBittorrent" in refused
        await subject.client.recheck(id)
    with trio.fail_after(20):
        while exported is None:
            with suppress(QbittorrentError):
                exported = await subject.client.export(id)
            await trio.sleep(0.05)
    assert parse(exported) == parse(metainfo)


async def test_a_torrent_whose_keys_are_not_sorted_is_exported_as_it_is_and_can_be_read(
    subject: Subject,
) -> None:
    folder = subject.folder / "unsorted"
    folder.mkdir(exist_ok=True)
    (folder / "f").write_bytes(bytes(9))
    info = (
        b"d6:pieces20:" + sha1(bytes(9)).digest() + b"4:name1:f6:lengthi9e12:piece lengthi16384ee"
    )
    metainfo = b"d4:info" + info + b"8:announce0:e"
    if subject.qbt is not None:
        id = TorrentId(subject.qbt.add(metainfo, save_path=folder, complete=True))
    else:
        assert subject.fake is not None
        id = subject.fake.add(metainfo, save_path=str(folder))
    assert id == sha1(info).hexdigest()

    exported = await subject.client.export(id)

    assert info in exported
    assert parse(exported).torrent_id == id


async def test_tags_are_added_and_removed_one_by_one(subject: Subject) -> None:
    id, _, _ = subject.add({"tagged": 9})
    client = subject.client

    await client.add_tags([id], ["ssd", "two words", "ö"])
    await client.add_tags([id], ["ssd"])
    assert (await client.torrent(id)).tags == {"ssd", "two words", "ö"}

    await client.remove_tags([id], ["ssd", "never there"])
    assert (await client.torrent(id)).tags == {"two words", "ö"}


async def test_tags_of_many_torrents_change_in_one_request_each_and_others_keep_theirs(
    subject: Subject,
) -> None:
    ids = [subject.add({f"one of many {n}": 9})[0] for n in range(3)]
    client = subject.client
    await client.version()  # a first call may have to log in
    before = client.requests

    await client.add_tags([*ids, UNKNOWN], ["both", "first two"])
    await client.remove_tags([UNKNOWN, ids[2]], ["first two"])

    assert client.requests - before == 2
    tags = [(await client.torrent(id)).tags for id in ids]
    assert tags == [{"both", "first two"}] * 2 + [{"both"}]
    others = [torrent for torrent in await client.torrents() if torrent.id not in ids]
    assert not any("both" in torrent.tags for torrent in others)


async def test_no_tags_or_no_torrents_change_nothing_and_ask_nothing(subject: Subject) -> None:
    id, _, _ = subject.add({"kept": 9})
    await subject.client.add_tags([id], ["mine"])
    before = subject.client.requests

    await subject.client.remove_tags([id], [])
    await subject.client.add_tags([id], [])
    await subject.client.remove_tags([], ["mine"])
    await subject.client.add_tags([], ["everybody's"])

    assert subject.client.requests == before
    assert (await subject.client.torrent(id)).tags == {"mine"}


async def test_an_unknown_torrent_is_called_that(subject: Subject) -> None:
    client = subject.client
    for call in (client.torrent, client.files, client.export, client.find):
        with pytest.raises(TorrentUnknown):
            await call(UNKNOWN)
    await client.add_tags([UNKNOWN], ["nobody's"])
    assert client.contact.reachable


async def test_a_hash_is_unknown_only_by_a_list_that_was_asked_for_since(subject: Subject) -> None:
    client = subject.client
    if subject.fake is not None:
        subject.fake.may_list = False
    before = client.lists_asked
    await client.torrents()
    assert client.lists_asked == before + 1
    with pytest.raises(TorrentUnknown):
        await client.find(UNKNOWN, list_after=before)
    with pytest.raises(TooEarlyToTell):  # another list so soon is not asked for
        await client.find(UNKNOWN, list_after=client.lists_asked)
    with pytest.raises(TorrentUnknown):  # a v2 hash needs no list
        await client.find(UNKNOWN + "0" * 24, list_after=client.lists_asked)
    if subject.fake is not None:
        subject.fake.may_list = True


@pytest.mark.parametrize("kind", KINDS)
async def test_a_torrent_is_found_by_each_of_its_hashes(subject: Subject, kind: str) -> None:
    id, _, _ = subject.add({"dir/a": 50_000, "dir/b": 70_000}, kind)
    torrent = await subject.client.torrent(id)
    for hash in filter(None, (id, torrent.infohash_v1, torrent.infohash_v2)):
        assert await subject.client.find(hash) == id


async def test_all_torrents_are_listed(subject: Subject) -> None:
    first, _, _ = subject.add({"first": 9})
    second, _, _ = subject.add({"second": 9})
    torrents = {torrent.id: torrent for torrent in await subject.client.torrents()}
    assert torrents[first].name == "first"
    assert torrents[second].name == "second"


async def test_a_torrent_takes_four_requests(subject: Subject) -> None:
    id, _, _ = subject.add({"dir/a": 50_000, "dir/b": 70_000})
    await subject.client.version()  # a first call may have to log in
    before = subject.client.requests

    await subject.client.torrent(id)
    await subject.client.files(id)
    await subject.client.export(id)
    await subject.client.add_tags([id], ["hdd"])

    assert subject.client.requests - before == 4


async def test_the_versions_are_known_after_they_were_asked_for(subject: Subject) -> None:
    app, web_api = await subject.client.version()
    contact = subject.client.contact
    assert (contact.version, contact.web_api_version) == (app, web_api)
    assert app.startswith("v")
    assert web_api.startswith("2.")
    assert contact.reachable
    assert contact.problem is None


async def test_export_without_metadata_is_refused_with_a_reason(subject: Subject) -> None:
    qbt = subject.qbt
    if qbt is None:
        return  # the fake has metadata for every torrent
    id = "ab" * 20
    qbt.api.torrents_add(urls=f"magnet:?xt=urn:btih:{id}")
    qbt.wait_for(lambda: id in qbt.ids(), "the magnet link is listed")
    with pytest.raises(QbittorrentError, match=id):
        await subject.client.export(TorrentId(id))
    assert subject.client.contact.reachable


async def test_its_own_settings_and_its_clock_are_read(subject: Subject) -> None:
    if subject.qbt is not None:
        before = subject.qbt.api.app_preferences()
        program = "/x/hook.sh %K"
        subject.qbt.api.app_set_preferences(
            {
                "autorun_enabled": True,
                "autorun_program": program,
                "temp_path_enabled": True,
                "temp_path": str(subject.folder / "temp"),
                "incomplete_files_ext": True,
                "max_ratio_enabled": True,
                "max_ratio_act": 3,
            }
        )
        try:
            found = await subject.client.preferences()
        finally:
            subject.qbt.api.app_set_preferences(
                {
                    name: before[name]
                    for name in (
                        "autorun_enabled",
                        "autorun_program",
                        "temp_path_enabled",
                        "temp_path",
                        "incomplete_files_ext",
                        "max_ratio_enabled",
                        "max_ratio_act",
                    )
                }
            )
        assert found == Preferences(
            save_path=str(subject.qbt.save),
            temp_path=str(subject.folder / "temp"),
            runs_program=True,
            program=program,
            marks_incomplete=True,
            removes_with_files=True,
        )
        contact = subject.client.contact
        assert contact.clock_ahead_s is not None
        assert abs(contact.clock_ahead_s) < 5
        assert (contact.logins_tried, contact.logged_in) == (0, False)
    found = await subject.client.preferences()
    assert (found.temp_path, found.runs_program, found.removes_with_files) == ("", False, False)
