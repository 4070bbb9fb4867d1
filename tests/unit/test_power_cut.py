"""What the HDD really has when a job is done: an image of its disk at that moment tells."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from qbm_trio.adapters.publishing import PublishItem, publish
from qbm_trio.core.model import Outcome
from tests.fakes.qbittorrent import FakeQbittorrent
from tests.rig import mounts
from tests.rig.disks import pooled
from tests.rig.inside import inside, make

MIB = 1 << 20
FILES = {f"{number:02}": 5000 + number for number in range(20)}  # more than are synced one by one
NEVER = (
    "commit=300"  #: by itself ext4 writes nothing but the data that it must, for so many seconds
)


@contextmanager
def disk(folder: Path, hdd: Path, *, pool: bool) -> Iterator[Path]:
    """A disk at ``hdd``, or a pool of it alone; give its image."""
    with mounts.mounted(folder, size="96m"):
        image, branch = folder / "image", folder / "branch"
        with image.open("wb") as file:
            file.truncate(32 * MIB)
        mounts.run("mkfs.ext4", "-q", "-F", os.fspath(image))
        at = branch if pool else hdd
        for path in (branch, hdd):
            path.mkdir()
        mounts.run("mount", "-o", f"loop,{NEVER}", os.fspath(image), os.fspath(at))
        try:
            if pool:
                with pooled([branch], hdd, "minfreespace=0"):
                    yield image
            else:
                yield image
        finally:
            mounts.unmount(at)


@contextmanager
def after_a_power_cut(image: Path) -> Iterator[Path]:
    """The disk as it would be mounted again, if its power were cut now."""
    copy, at = image.with_name("copy"), image.with_name("again")
    shutil.copyfile(image, copy)
    at.mkdir(exist_ok=True)
    mounts.run("mount", "-o", "loop", os.fspath(copy), os.fspath(at))
    try:
        yield at
    finally:
        mounts.unmount(at)


@pytest.mark.parametrize("pool", [False, True], ids=["disk", "pool"])
async def test_files_are_on_the_disk_before_they_are_published_and_their_names_when_the_job_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: bool
) -> None:
    """mergerfs lets a ``syncfs`` and the ``fsync`` of a folder pass, and does nothing."""
    fake, before = FakeQbittorrent(), list[Path]()

    async def published(base: Path, items: Sequence[PublishItem], **more: Any) -> None:
        with after_a_power_cut(image) as hdd:
            for item in items:
                staged = hdd / item.staged.relative_to(base)
                if staged.exists() and staged.read_bytes() == item.source.read_bytes():
                    before.append(staged)
        await publish(base, items, **more)

    monkeypatch.setattr("qbm_trio.tasks.tiering.publish", published)
    with disk(tmp_path / "disk", tmp_path / "hdd", pool=pool) as image:
        async with inside(tmp_path, client=fake) as service:
            made = make(service.ssd, "T", FILES)
            id_ = fake.add(made.data, save_path=str(service.ssd))
            assert (await service.tier(id_)).outcome is Outcome.TIERED
            assert len(before) == len(FILES)
            with after_a_power_cut(image) as hdd:
                for name in FILES:
                    assert (hdd / "T" / name).read_bytes() == (
                        service.ssd / "T" / name
                    ).read_bytes()
