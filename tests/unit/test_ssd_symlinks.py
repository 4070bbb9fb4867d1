"""Symbolic links are found by what they lead to."""

# ruff: noqa: ASYNC240 (nothing else runs in these tests)
from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trio

from qbm_trio.adapters.ssd_symlinks import find_symlinks
from qbm_trio.core.errors import MustWait

LIMITER = trio.CapacityLimiter(1)


async def names(root: Path, path: str) -> list[str]:
    real = root.resolve()
    links = await find_symlinks(root, limiter=LIMITER)
    return sorted(str(Path(name).relative_to(real)) for name in links.leading_to(str(real / path)))


async def test_a_path_has_the_names_that_links_to_it_and_to_the_folders_above_it_give(
    tmp_path: Path,
) -> None:
    (tmp_path / "ssd/a/b").mkdir(parents=True)
    (tmp_path / "ssd/a/b/f").touch()
    (tmp_path / "ssd/x").mkdir()
    (tmp_path / "ssd/x/file").symlink_to("../a/b/f")
    (tmp_path / "ssd/x/folder").symlink_to(tmp_path / "ssd/a")
    (tmp_path / "ssd/x/twice").symlink_to("file")
    (tmp_path / "ssd/x/nothing").symlink_to("../a/none")
    (tmp_path / "named").symlink_to("ssd")
    for root in (tmp_path / "ssd", tmp_path / "named"):
        assert await names(root, "a/b/f") == ["x/file", "x/folder/b/f", "x/twice"]
        assert await names(root, "a/b") == ["x/folder/b"]
        assert await names(root, "x") == []
        assert await names(root, "a/none") == ["x/folder/none", "x/nothing"]


async def test_a_link_to_a_folder_above_itself_is_no_endless_way(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/up").symlink_to("..")
    assert await names(tmp_path, "a/f") == ["a/up/a/f"]


async def test_an_ssd_that_has_vanished_is_no_ssd_without_links(tmp_path: Path) -> None:
    (tmp_path / "ssd").mkdir()
    shutil.rmtree(tmp_path / "ssd")
    with pytest.raises(MustWait):
        await find_symlinks(tmp_path / "ssd", limiter=LIMITER)
