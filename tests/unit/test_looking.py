"""Looking at both places of every file, before anything is written."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest
import trio

from qbm_trio.adapters.looking import Seen, look, names_are_text, space_at
from qbm_trio.core.errors import DestinationConflict, JobError, SourceChanged, UnsafePath
from qbm_trio.core.placement import PlannedFile


def planned(name: str, size: int = 3, *, wanted: bool = True, index: int = 0) -> PlannedFile:
    return PlannedFile(
        index=index,
        size_bytes=size,
        wanted=wanted,
        on_ssd=PurePosixPath("s") / name,
        on_hdd=PurePosixPath("h") / name,
    )


@pytest.fixture
def tiers(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "ssd/s").mkdir(parents=True)
    (tmp_path / "hdd/h").mkdir(parents=True)
    return tmp_path / "ssd", tmp_path / "hdd"


async def see(tiers: tuple[Path, Path], *files: PlannedFile) -> tuple[Seen, ...]:
    return await look(*tiers, files, limiter=trio.CapacityLimiter(1))


async def test_a_file_is_seen_at_both_places(tiers: tuple[Path, Path]) -> None:
    ssd, hdd = tiers
    (ssd / "s/f").write_bytes(b"abc")
    (seen,) = await see(tiers, planned("f"))
    assert (seen.source, seen.destination) == (ssd / "s/f", hdd / "h/f")
    assert seen.there is None
    (hdd / "h/f").write_bytes(b"abcd")
    (seen,) = await see(tiers, planned("f"))
    assert seen.there is not None
    assert seen.there.st_size == 4
    assert not seen.same_file


async def test_a_hard_link_is_one_file(tiers: tuple[Path, Path]) -> None:
    ssd, hdd = tiers
    (ssd / "s/f").write_bytes(b"abc")
    os.link(ssd / "s/f", hdd / "h/f")
    (seen,) = await see(tiers, planned("f"))
    assert seen.same_file


@pytest.mark.parametrize("size", [2, 4])
async def test_a_wanted_file_must_have_the_size_that_qbittorrent_says(
    tiers: tuple[Path, Path], size: int
) -> None:
    (tiers[0] / "s/f").write_bytes(b"abc")
    with pytest.raises(SourceChanged, match="PATH_MAPPINGS"):
        await see(tiers, planned("f", size))
    await see(tiers, planned("f", size, wanted=False))


async def test_a_wanted_file_must_be_there_an_unwanted_one_need_not(
    tiers: tuple[Path, Path],
) -> None:
    with pytest.raises(SourceChanged, match=r"missing.*PATH_MAPPINGS"):
        await see(tiers, planned("f"))
    (seen,) = await see(tiers, planned("f", wanted=False))
    assert seen.there is None


async def test_what_is_no_regular_file_is_refused_at_either_place(
    tiers: tuple[Path, Path],
) -> None:
    ssd, hdd = tiers
    os.mkfifo(ssd / "s/f")
    with pytest.raises(UnsafePath, match="not a regular file"):
        await see(tiers, planned("f", 0))
    (ssd / "s/g").write_bytes(b"abc")
    (hdd / "h/g").mkdir()
    with pytest.raises(DestinationConflict, match="not a regular file"):
        await see(tiers, planned("g"))
    (ssd / "s/sub").mkdir()
    (ssd / "s/sub/x").write_bytes(b"abc")
    (hdd / "h/sub").write_bytes(b"")
    with pytest.raises(DestinationConflict, match="should be a folder"):
        await see(tiers, planned("sub/x"))


async def test_links_are_followed_within_a_tier_and_refused_beyond(
    tiers: tuple[Path, Path], tmp_path: Path
) -> None:
    ssd, hdd = tiers
    (ssd / "real").write_bytes(b"abc")
    (ssd / "s/f").symlink_to("../real")
    (seen,) = await see(tiers, planned("f"))
    assert seen.source == ssd / "real"
    (tmp_path / "out").mkdir()
    (tmp_path / "out/f").write_bytes(b"abc")
    for link in (ssd / "s/g", hdd / "h/g"):
        link.symlink_to(tmp_path / "out")
        (ssd / "s/g").mkdir(exist_ok=True)
        with pytest.raises(UnsafePath, match="leads out of"):
            await see(tiers, planned("g/f"))
        link.unlink()


async def test_a_link_in_the_files_own_place_on_the_hdd_is_a_conflict(
    tiers: tuple[Path, Path],
) -> None:
    """Else set_aside would move what the link leads to, which is somebody else's."""
    ssd, hdd = tiers
    (ssd / "s/f").write_bytes(b"abc")
    (hdd / "other").write_bytes(b"xyz")
    for target in ("../other", "../nothing"):
        (hdd / "h/f").symlink_to(target)
        with pytest.raises(DestinationConflict, match="not a regular file"):
            await see(tiers, planned("f"))
        (hdd / "h/f").unlink()


async def test_what_stands_where_an_unwanted_file_would_go_is_in_nobodys_way(
    tiers: tuple[Path, Path],
) -> None:
    (tiers[1] / "h/f").mkdir()
    (seen,) = await see(tiers, planned("f", wanted=False))
    assert seen.there is None


async def test_space_is_that_of_the_deepest_folder_that_exists(tmp_path: Path) -> None:
    device, space = await space_at(tmp_path / "not/there/yet", limiter=trio.CapacityLimiter(1))
    assert device == os.stat(tmp_path).st_dev  # noqa: PTH116
    assert space.total_bytes >= space.free_bytes > 0


@pytest.mark.parametrize(("name", "text"), [(b"\xc3\xa9", True), (b"x\xff", False)])
async def test_a_name_in_bytes_that_are_no_text_is_noticed(
    tmp_path: Path, name: bytes, text: bool
) -> None:
    (tmp_path / "plain").touch()
    (tmp_path / os.fsdecode(name)).touch()
    assert await names_are_text(tmp_path, limiter=trio.CapacityLimiter(1)) is text
    with pytest.raises(JobError):
        await names_are_text(tmp_path / "none", limiter=trio.CapacityLimiter(1))
