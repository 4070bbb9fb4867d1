"""Is a file on the SSD still what was copied? By size and time, and else by its bytes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from qbm_trio.adapters import ssd_originals
from qbm_trio.adapters.ssd_deletion import judge_files
from qbm_trio.adapters.ssd_originals import changed_since_copied

AT_NS = 1_700_000_000_123_456_789
LIMITER = trio.CapacityLimiter(1)


async def changed(folder: Path) -> bool:
    judged = await judge_files([(folder / "ssd", folder / "hdd")], limiter=LIMITER)
    return bool(await changed_since_copied(judged, limiter=LIMITER, nice=0))


def write(path: Path, content: bytes | bytearray, at_ns: int) -> None:
    path.write_bytes(content)
    os.utime(path, ns=(at_ns, at_ns))


@pytest.mark.parametrize(
    "copied_at_ns",
    [
        AT_NS,
        pytest.param(1_700_000_000_123_456_700, id="NTFS"),
        pytest.param(1_700_000_000_120_000_000, id="exFAT"),
        pytest.param(1_700_000_000_000_000_000, id="whole seconds, FAT"),
        pytest.param(1_700_000_001_000_000_000, id="rounded up"),
    ],
)
async def test_with_the_same_size_and_time_nothing_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copied_at_ns: int
) -> None:
    """As far as the copy's file system can tell the time."""
    monkeypatch.setattr(ssd_originals, "_same_bytes", lambda *_: pytest.fail("it was read"))
    write(tmp_path / "ssd", b"content", AT_NS)
    write(tmp_path / "hdd", b"content", copied_at_ns)
    assert not await changed(tmp_path)


@pytest.mark.parametrize(
    "copied_at_ns",
    [
        AT_NS + 1,
        pytest.param(1_700_000_000_000_000_000 - 2_000_000_000, id="older than rounding makes it"),
        pytest.param(1_700_000_000_500_000_000, id="of a second that is not rounded"),
    ],
)
@pytest.mark.parametrize("at", [0, ssd_originals._AT_ONCE_BYTES + 3, None])
async def test_at_another_time_its_bytes_decide(
    tmp_path: Path, copied_at_ns: int, at: int | None
) -> None:
    content = bytearray(os.urandom(ssd_originals._AT_ONCE_BYTES + 10))
    write(tmp_path / "hdd", content, copied_at_ns)
    if at is not None:
        content[at] ^= 1
    write(tmp_path / "ssd", content, AT_NS)
    assert await changed(tmp_path) == (at is not None)


async def test_of_another_size_it_is_not_what_was_copied(tmp_path: Path) -> None:
    write(tmp_path / "ssd", b"longer content", AT_NS)
    write(tmp_path / "hdd", b"content", AT_NS)
    assert await changed(tmp_path)


async def test_what_is_gone_from_the_ssd_was_not_changed(tmp_path: Path) -> None:
    write(tmp_path / "hdd", b"content", AT_NS)
    assert not await changed(tmp_path)


async def test_links_among_the_folders_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "real/ssd", b"content", AT_NS)
    write(tmp_path / "real/hdd", b"content", AT_NS + 1)
    assert not await changed(tmp_path / "link")
