"""Every shape of torrent that a real qBittorrent holds reaches the HDD as it is."""

from __future__ import annotations

import os
from hashlib import sha1
from pathlib import Path

import pytest
from bencode2 import bencode

from qbm_trio.core.model import JobState, Outcome
from tests.rig.inside import give, inside, make, put, tags
from tests.rig.qbt import Qbt
from tests.rig.torrents import Version

pytestmark = pytest.mark.qbittorrent
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")

TREE = {"a.bin": 70_000, "sub/b.bin": 50_001, "empty": 0, "sub/deep/c.bin": 1, "z.bin": 16_384}


@pytest.mark.parametrize(
    ("version", "padded"),
    [(Version.V1, False), (Version.V1, True), (Version.V2, False), (Version.HYBRID, False)],
)
async def test_every_version_reaches_the_hdd_whole_under_its_category(
    qbt: Qbt, tmp_path: Path, version: Version, padded: bool
) -> None:
    async with inside(tmp_path, qbt.url) as service:
        name = f"Show {version.value} {padded}"
        torrent = put(
            qbt, service.ssd, name, TREE, version=version, padded=padded, category="tv/4K été"
        )
        assert any(pad for *_, pad in torrent.made.files) is (padded or version is not Version.V1)

        job = await service.tier(torrent.made.infohash_v2 or torrent.made.infohash_v1 or "")

        assert (job.state, job.outcome) == (JobState.DONE, Outcome.TIERED), job.error
        assert service.contents() == {
            f"tv/4K été/{name}/{n}": (service.ssd / name / n).read_bytes() for n in TREE
        }
        assert job.destination == f"tv/4K été/{name}"
        assert job.bytes_copied == job.bytes_total == sum(TREE.values())
        assert tags(qbt, torrent.id) == {"ssd", "hdd"}
        assert service.staging() == []


async def test_unwanted_files_stay_behind_whether_they_are_there_or_not(
    qbt: Qbt, tmp_path: Path
) -> None:
    # Pieces of 16 KiB: each border lies inside a piece that two or three files share.
    sizes = {"1": 20_000, "2 unwanted": 9_000, "3": 30_000, "4 absent": 50_000, "5": 20_001}
    async with inside(tmp_path, qbt.url) as service:
        torrent = put(qbt, service.ssd, "Partial", sizes)
        qbt.api.torrents_file_priority(torrent.id, file_ids=[1, 3], priority=0)
        qbt.wait_for(
            lambda: qbt.api.torrents_files(torrent.id)[3]["priority"] == 0, "they are unwanted"
        )
        (service.ssd / "Partial/4 absent").unlink()
        (service.ssd / "Partial/not of the torrent.nfo").write_text("mine")
        (service.hdd / "Partial/2 unwanted").mkdir(parents=True)  # in nobody's way

        job = await service.tier(torrent.id)

        assert (job.state, job.outcome) == (JobState.DONE, Outcome.TIERED), job.error
        assert service.contents() == {
            f"Partial/{n}": (service.ssd / "Partial" / n).read_bytes() for n in ("1", "3", "5")
        }
        assert job.bytes_copied == 70_001


async def test_the_copy_of_a_piece_shared_with_an_unwanted_file_is_compared_with_its_source(
    qbt: Qbt, tmp_path: Path
) -> None:
    """Bytes whose piece cannot be hashed are adopted only when they equal the source."""
    async with inside(tmp_path, qbt.url) as service:
        torrent = put(qbt, service.ssd, "Edge", {"wanted": 10_000, "unwanted": 10_000})
        qbt.api.torrents_file_priority(torrent.id, file_ids=[1], priority=0)
        (service.ssd / "Edge/unwanted").unlink()
        source = (service.ssd / "Edge/wanted").read_bytes()
        (service.hdd / "Edge").mkdir()
        (service.hdd / "Edge/wanted").write_bytes(source[:-1] + bytes([source[-1] ^ 1]))

        job = await service.tier(torrent.id)

        assert (job.state, job.error_code) == (JobState.FAILED, "destination_conflict")


async def test_renamed_files_and_folders_keep_their_new_names(qbt: Qbt, tmp_path: Path) -> None:
    async with inside(tmp_path, qbt.url) as service:
        torrent = put(qbt, service.ssd, "Old", {"a": 20_000, "sub/b": 20_000, "sub/c": 5})
        qbt.api.torrents_rename_file(torrent.id, old_path="Old/a", new_path="Old/other/ä")
        qbt.api.torrents_rename_folder(torrent.id, old_path="Old/sub", new_path="Old/neu")
        qbt.api.torrents_rename_folder(torrent.id, old_path="Old", new_path="New name")
        names = {"New name/other/ä", "New name/neu/b", "New name/neu/c"}
        qbt.wait_for(
            lambda: (
                {f["name"] for f in qbt.api.torrents_files(torrent.id)} == names
                and all((service.ssd / n).exists() for n in names)
            ),
            "they are renamed",
        )

        job = await service.tier(torrent.id)

        assert job.outcome is Outcome.TIERED, job.error
        assert service.contents() == {n: (service.ssd / n).read_bytes() for n in names}


async def test_names_that_no_file_can_have_are_those_that_qbittorrent_made_of_them(
    qbt: Qbt, tmp_path: Path
) -> None:
    """Nothing is ever called as a .torrent says: qBittorrent's list has the names."""
    paths = [[b"a"], [b"x/y"], [b".", b"b"]]
    contents = [os.urandom(9_000 + n) for n in range(len(paths))]
    stream = b"".join(contents)
    pieces = (stream[at : at + 16384] for at in range(0, len(stream), 16384))
    info = {
        "name": "AC/DC",
        "piece length": 16384,
        "pieces": b"".join(sha1(piece).digest() for piece in pieces),
        "files": [
            {"path": path, "length": len(content)}
            for path, content in zip(paths, contents, strict=True)
        ],
    }
    async with inside(tmp_path, qbt.url) as service:
        id_ = qbt.add(bencode({"info": info}), save_path=service.ssd, is_stopped=True)
        names = [str(file["name"]) for file in qbt.api.torrents_files(id_)]
        assert names == ["ACDC/a", "ACDC/xy", "ACDC/b"]
        for name, content in zip(names, contents, strict=True):
            (service.ssd / name).parent.mkdir(parents=True, exist_ok=True)
            (service.ssd / name).write_bytes(content)
        qbt.api.torrents_recheck(torrent_hashes=id_)
        qbt.wait_for(lambda: qbt.info(id_)["progress"] == 1, "it is complete")

        job = await service.tier(id_)

        assert job.outcome is Outcome.TIERED, job.error
        assert service.contents() == dict(zip(names, contents, strict=True))


async def test_a_torrent_without_a_subfolder_is_laid_out_below_its_category(
    qbt: Qbt, tmp_path: Path
) -> None:
    async with inside(tmp_path, qbt.url) as service:
        folder = service.ssd / "flat"
        made = make(folder, "Root", {"a": 20_000, "sub/b": 20_000})
        for child in list((folder / "Root").iterdir()):
            child.rename(folder / child.name)
        (folder / "Root").rmdir()
        torrent = give(qbt, made, folder, category="films", content_layout="NoSubfolder")
        assert qbt.info(torrent.id)["content_path"] == str(folder)

        job = await service.tier(torrent.id)

        assert job.outcome is Outcome.TIERED, job.error
        assert service.contents() == {
            f"films/{n}": (folder / n).read_bytes() for n in ("a", "sub/b")
        }
        assert job.destination == "films"


async def test_a_single_file_and_a_single_file_in_a_folder_keep_their_layout(
    qbt: Qbt, tmp_path: Path
) -> None:
    async with inside(tmp_path, qbt.url) as service:
        bare = put(qbt, service.ssd, "film.mkv", 40_000, seed=1)
        boxed = put(qbt, service.ssd, "Box", {"film.mkv": 40_000}, seed=2, category="c")

        jobs = [await service.tier(bare.id), await service.tier(boxed.id)]

        assert [j.outcome for j in jobs] == [Outcome.TIERED] * 2, jobs
        assert [j.destination for j in jobs] == ["film.mkv", "c/Box/film.mkv"]
        assert service.contents() == {
            "film.mkv": (service.ssd / "film.mkv").read_bytes(),
            "c/Box/film.mkv": (service.ssd / "Box/film.mkv").read_bytes(),
        }


async def test_a_single_file_put_into_a_folder_by_qbittorrent_lands_in_it(
    qbt: Qbt, tmp_path: Path
) -> None:
    async with inside(tmp_path, qbt.url) as service:
        made = make(service.ssd, "film.mkv", 40_000, seed=3)
        (service.ssd / "film").mkdir()
        (service.ssd / "film.mkv").rename(service.ssd / "film/film.mkv")
        torrent = give(qbt, made, service.ssd, content_layout="Subfolder")

        assert (await service.tier(torrent.id)).outcome is Outcome.TIERED
        assert list(service.contents()) == ["film/film.mkv"]


async def test_names_of_255_bytes_can_be_copied_and_set_aside(qbt: Qbt, tmp_path: Path) -> None:
    name = "é" * 127 + "x"
    assert len(name.encode()) == 255
    async with inside(tmp_path, qbt.url) as service:
        # libtorrent cuts names in a .torrent at 240 bytes; a rename may be longer.
        torrent = put(qbt, service.ssd, "Short", {"s": 20_000}, category=name)
        qbt.api.torrents_rename_file(torrent.id, old_path="Short/s", new_path=f"{name}/{name}")
        qbt.wait_for((service.ssd / name / name).exists, "it is renamed")

        job = await service.tier(torrent.id)
        assert job.outcome is Outcome.TIERED, job.error
        (path,) = service.contents()
        assert path == f"{name}/{name}/{name}"

        # Our own copy goes bad: it is set aside under a name that fits.
        (service.hdd / path).write_bytes(bytes(20_000))
        job = await service.tier(torrent.id)
        assert job.outcome is Outcome.TIERED, job.error
        assert sorted(len(p.name.encode()) for p in (service.hdd / path).parent.iterdir()) == [
            254,
            255,
        ]
        assert service.contents()[path] == (service.ssd / name / name).read_bytes()


async def test_files_of_no_bytes_are_made(qbt: Qbt, tmp_path: Path) -> None:
    async with inside(tmp_path, qbt.url) as service:
        torrent = put(qbt, service.ssd, "Mostly empty", {"a": 0, "b": 1, "c/d": 0})
        assert (await service.tier(torrent.id)).outcome is Outcome.TIERED
        assert service.contents().keys() == {f"Mostly empty/{n}" for n in ("a", "b", "c/d")}


# -- path mappings -----------------------------------------------------------------


async def test_qbittorrents_name_of_the_ssd_is_mapped_to_the_services(
    qbt: Qbt, tmp_path: Path
) -> None:
    (tmp_path / "ssd").mkdir()
    (tmp_path / "downloads").symlink_to(tmp_path / "ssd")
    mapping = f"{tmp_path}/downloads={tmp_path}/ssd,{tmp_path}={tmp_path}/wrong"
    async with inside(tmp_path, qbt.url, PATH_MAPPINGS=mapping) as service:
        seen_as = tmp_path / "downloads"
        torrent = put(qbt, service.ssd, "Mapped", TREE, seen_as=seen_as)
        assert qbt.info(torrent.id)["content_path"] == str(seen_as / "Mapped")

        job = await service.tier(torrent.id)

        assert job.outcome is Outcome.TIERED, job.error
        assert service.contents().keys() == {f"Mapped/{n}" for n in TREE}


async def test_a_wrong_mapping_is_named_before_anything_is_written(
    qbt: Qbt, tmp_path: Path
) -> None:
    (tmp_path / "ssd/other").mkdir(parents=True)
    (tmp_path / "downloads").symlink_to(tmp_path / "ssd")
    mapping = f"{tmp_path}/downloads={tmp_path}/ssd/other"
    async with inside(tmp_path, qbt.url, PATH_MAPPINGS=mapping, COPY_RETRY_ATTEMPTS="1") as service:
        torrent = put(qbt, service.ssd, "Mismapped", 20_000, seen_as=tmp_path / "downloads")

        job = await service.tier(torrent.id)

        assert (job.state, job.error_code) == (JobState.FAILED, "source_changed")
        assert str(service.ssd / "other/Mismapped") in (job.error or "")
        assert "PATH_MAPPINGS" in (job.error or "")
        assert service.contents() == {}
        assert service.staging() == []


async def test_a_mapping_that_leads_to_a_file_of_another_size_is_named(
    qbt: Qbt, tmp_path: Path
) -> None:
    (tmp_path / "ssd/other").mkdir(parents=True)
    (tmp_path / "ssd/other/Mixed up").write_bytes(b"short")
    (tmp_path / "downloads").symlink_to(tmp_path / "ssd")
    mapping = f"{tmp_path}/downloads={tmp_path}/ssd/other"
    async with inside(tmp_path, qbt.url, PATH_MAPPINGS=mapping, COPY_RETRY_ATTEMPTS="1") as service:
        torrent = put(qbt, service.ssd, "Mixed up", 20_001, seen_as=tmp_path / "downloads")
        job = await service.tier(torrent.id)
        assert (job.state, job.error_code) == (JobState.FAILED, "source_changed")
        assert "has 5 bytes, qBittorrent says 20001" in (job.error or "")
        assert "PATH_MAPPINGS" in (job.error or "")


async def test_a_missing_mapping_is_said_in_the_log(
    qbt: Qbt, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with inside(tmp_path, qbt.url) as service:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        torrent = put(qbt, elsewhere, "Unmapped", 20_002)

        job = await service.tier(torrent.id)

        assert (job.state, job.outcome) == (JobState.DONE, Outcome.OUTSIDE_TIERS)
        assert str(elsewhere / "Unmapped") in caplog.text
        assert "PATH_MAPPINGS" in caplog.text
        assert tags(qbt, torrent.id) == set()
        assert service.contents() == {}


# -- owners and times -----------------------------------------------------------------


@needs_root
async def test_owner_group_mode_and_times_follow_the_source(qbt: Qbt, tmp_path: Path) -> None:
    async with inside(tmp_path, qbt.url) as service:
        torrent = put(qbt, service.ssd, "Owned", {"sub/f": 20_003, "g": 1}, category="cat")
        sources = ["Owned/sub/f", "Owned/g", "Owned/sub", "Owned"]
        for number, name in enumerate(sources):
            path = service.ssd / name
            os.chown(path, 1000 + number, 2000 + number)
            path.chmod(0o2775 if path.is_dir() else 0o640)
            os.utime(path, ns=(1_600_000_000_123_456_789, 1_500_000_000_987_654_321 + number))
        before = [(service.ssd / n).stat() for n in sources]

        assert (await service.tier(torrent.id)).outcome is Outcome.TIERED

        after = [(service.hdd / "cat" / n).stat() for n in sources]
        assert [(s.st_uid, s.st_gid, s.st_mode, s.st_mtime_ns) for s in after] == [
            (s.st_uid, s.st_gid, s.st_mode, s.st_mtime_ns) for s in before
        ]
