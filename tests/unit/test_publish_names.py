"""Names that the HDD's file system does not take, or takes for one: told before a byte is copied.

Seen with NTFS-3G (``windows_names``; ``ignore_case``). What it does is played here.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from qbm_trio.adapters.publish_staging import prepare_staging
from qbm_trio.core.errors import MustWait, UnsafePath
from qbm_trio.core.model import WaitReason
from tests.fakes.qbittorrent import FakeQbittorrent
from tests.rig.inside import inside, make

LIMITER = trio.CapacityLimiter(1)
ODD = [
    "Film: x/a",
    "what?.mkv",
    "ends.",
    "ends ",
    "日本/😀.mkv",
    "tab\t",
    "é/e\u0301",
    "É",
    "a/B",
    "A/b",
]


async def prepare(base: Path, *names: str) -> list[Path]:
    destinations = [base / name for name in names]
    return await prepare_staging(
        base, destinations, instance_id="i", job_id="j", require=lambda: None, limiter=LIMITER
    )


def refuse(monkeypatch: pytest.MonkeyPatch, number: int, bad: Callable[[str], bool]) -> None:
    real = os.mkdir

    def mkdir(path: str | Path, *rest: int) -> None:
        if bad(os.path.basename(path)):  # noqa: PTH119
            raise OSError(number, os.strerror(number))
        real(path, *rest)

    monkeypatch.setattr(os, "mkdir", mkdir)


def windows(name: str) -> bool:
    return bool(set(':?*"<>|\\\t') & set(name)) or name[-1] in " ."


async def test_where_all_names_are_taken_nothing_is_left_of_the_trial(tmp_path: Path) -> None:
    staged = await prepare(tmp_path, *ODD, *(f"{chr(n)}" for n in range(0x3041, 0x3097)))
    assert list(staged[0].parent.iterdir()) == []
    assert staged == [staged[0].with_name(str(n)) for n in range(len(staged))]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EILSEQ, errno.ENOENT])
@pytest.mark.parametrize(
    ("name", "bad"),
    [("Film: x/a", ":"), ("what?.mkv", "?"), ("ends.", "."), ("ends ", " "), ("tab\t", "\t")],
)
async def test_what_is_refused_is_named_with_its_character(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, bad: str, number: int
) -> None:
    refuse(monkeypatch, number, windows)
    with pytest.raises(UnsafePath) as caught:
        await prepare(tmp_path, "plain", "日本語", name)
    assert f"does not take the {bad!r} of {name!r}" in str(caught.value)


async def test_a_file_system_that_takes_only_short_names_refuses_no_character(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, errno.EINVAL, lambda name: len(name) > 20)
    await prepare(tmp_path, "".join(map(chr, range(0x3041, 0x3081))))


async def test_names_that_the_file_system_takes_for_one_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["T/Foo/x", "T/foo/x", "T/foo/y"]
    await prepare(tmp_path, *names)
    lexists = os.path.lexists
    monkeypatch.setattr(
        os.path,
        "lexists",
        lambda path: any(
            entry.name.lower() == Path(path).name.lower()
            for entry in (Path(path).parent.iterdir() if lexists(Path(path).parent) else ())
        ),
    )
    with pytest.raises(UnsafePath, match=r"'T/Foo/x' and 'T/foo/x' are one file"):
        await prepare(tmp_path, *names)
    await prepare(tmp_path, "T/Foo/x", "T/foo/y")  # in one folder, then


async def test_a_disk_that_goes_away_meanwhile_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(name: str) -> bool:
        if ":" in name:
            shutil.rmtree(tmp_path / ".qbm-staging")
            return True
        return False

    refuse(monkeypatch, errno.ENOENT, gone)
    with pytest.raises(MustWait) as caught:
        await prepare(tmp_path, "a:b")
    assert caught.value.reason is WaitReason.TIER


async def test_for_plain_names_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, errno.EIO, lambda name: name.startswith(("names", "x")))
    await prepare(tmp_path, "Some.Show (2020) [1080p]/a 'b' & c-d_e,f;g.mkv")


async def test_a_job_fails_at_once_and_no_byte_was_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        id_ = fake.add(make(service.ssd, "T: x", {"a": 40_000}).data, save_path=str(service.ssd))
        refuse(monkeypatch, errno.EINVAL, windows)
        job = await service.tier(id_)
        assert (job.error_code, job.attempts, job.bytes_copied) == ("unsafe_path", 1, 0)
        assert "'T: x/a'" in (job.error or "")
        assert service.contents() == {}
        assert service.staging() == []
