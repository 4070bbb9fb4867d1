"""A disk that fails behind the page cache, while a large file is still being written."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

import pytest
import trio

from qbm_trio.adapters import copy_write, disk_calls
from qbm_trio.adapters.copying import CopyItem, CopyOptions, copy_and_verify
from qbm_trio.adapters.metainfo import parse
from qbm_trio.core.errors import JobError
from qbm_trio.core.model import Progress
from tests.rig import mounts
from tests.rig.torrents import make_torrent, write_files

MIB = 1 << 20


async def copy(folder: Path, staged: Path, size_bytes: int) -> None:
    write_files(folder, {"t": size_bytes})
    made = make_torrent(folder, "t", piece_length=MIB)
    item = CopyItem(index=0, source=folder / "t", size_bytes=size_bytes, wanted=True, staged=staged)
    await copy_and_verify(
        parse(made.data),
        [item],
        options=CopyOptions(nice=0),
        progress=Progress(),
        limiter=trio.CapacityLimiter(1),
        require=lambda: None,
    )


async def test_an_error_that_a_disk_reports_in_mid_copy_fails_the_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk recovers: every later call succeeds, and so would the fsync at the end."""
    image, hdd = tmp_path / "disk" / "image", tmp_path / "hdd"
    hdd.mkdir()
    with mounts.mounted(tmp_path / "disk", size="80m"):
        with image.open("wb") as file:
            file.truncate(256 * MIB)
        mounts.run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", os.fspath(image))
        mounts.run("mount", "-o", "loop", os.fspath(image), os.fspath(hdd))
        try:
            real, failed = disk_calls.wait_writeback, False

            def wait_writeback(fd: int, offset_bytes: int, size_bytes: int) -> None:
                nonlocal failed
                try:
                    real(fd, offset_bytes, size_bytes)
                finally:
                    if offset_bytes >= 100 * MIB and not failed:
                        # What lies below was full, and has been written to in vain.
                        failed = True
                        mounts.run("mount", "-o", "remount,size=512m", os.fspath(tmp_path / "disk"))

            monkeypatch.setattr(disk_calls, "wait_writeback", wait_writeback)
            with pytest.raises(JobError):
                await copy(tmp_path, hdd / "staged", 192 * MIB)
        finally:
            mounts.unmount(hdd)


@pytest.mark.parametrize("call", ["start_writeback", "wait_writeback"])
async def test_no_answer_about_written_data_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fails(*_: object) -> int:
        ctypes.set_errno(errno.EIO)
        return -1

    quiet = "start_writeback" if call == "wait_writeback" else "wait_writeback"
    monkeypatch.setattr(disk_calls, quiet, lambda *_: None)
    monkeypatch.setattr(disk_calls, "_sync_file_range", fails)
    monkeypatch.setattr(copy_write, "_WINDOW_BYTES", 2 * MIB)
    with pytest.raises(JobError, match="staged"):
        await copy(tmp_path, tmp_path / "staged", copy_write.LARGE_BYTES)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL, errno.ESPIPE])
async def test_a_file_system_without_ranges_is_copied_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def unknown(*_: object) -> int:
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(disk_calls, "_sync_file_range", unknown)
    await copy(tmp_path, tmp_path / "staged", copy_write.LARGE_BYTES)
    assert (tmp_path / "staged").read_bytes() == (tmp_path / "t").read_bytes()
