"""Publishing: never over another file, never half, and finished after any crash."""

# ruff: noqa: ASYNC240 (nothing else runs in these tests)
from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from qbm_trio.adapters import disk_calls, disk_owner, publish_staging, publishing
from qbm_trio.adapters.copy_write import Written
from qbm_trio.adapters.publish_staging import (
    STAGING_NAME,
    discard_staging,
    list_staging,
    prepare_staging,
)
from qbm_trio.adapters.publishing import PublishItem, publish, set_aside, shortened, sync_adopted
from qbm_trio.core.errors import (
    DestinationChanged,
    DestinationConflict,
    DiskError,
    MustWait,
    UnsafePath,
)
from qbm_trio.core.model import WaitReason

LIMITER = trio.CapacityLimiter(2)
NAMES = ("Show/one.mkv", "Show/Subs/ü.srt", "Show/Subs/empty")
MTIME_NS = 1_500_000_000_000_000_000
ID, JOB = "instance-1", "job-1"


def mounted() -> None:
    """The disk is."""


class Crash(BaseException):
    """Stands for ``kill -9``: nothing may depend on its being handled."""


class Rig:
    """An SSD with files, and an HDD to publish their staged copies on."""

    def __init__(self, folder: Path) -> None:
        self.ssd, self.hdd = folder / "ssd", folder / "hdd"
        self.hdd.mkdir()
        for number, name in enumerate(NAMES):
            source = self.ssd / name
            source.parent.mkdir(parents=True, exist_ok=True)
            source.write_bytes(b"%d" % number * number)
            source.chmod(0o664 if number else 0o4640)
        (self.ssd / "Show").chmod(0o2775)
        (self.ssd / "Show/Subs").chmod(0o500)
        for path in ("Show/Subs", "Show"):
            os.utime(self.ssd / path, ns=(MTIME_NS, MTIME_NS))
        self.destinations = [self.hdd / "tv" / "hd" / name for name in NAMES]

    async def stage(self) -> list[PublishItem]:
        staged = await prepare_staging(
            self.hdd,
            self.destinations,
            instance_id=ID,
            job_id=JOB,
            require=mounted,
            limiter=LIMITER,
        )
        items = []
        for path, name, destination in zip(staged, NAMES, self.destinations, strict=True):
            source = self.ssd / name
            path.touch(mode=0o600)
            path.write_bytes(source.read_bytes())
            os.utime(path, ns=(MTIME_NS, MTIME_NS))
            status = path.stat()
            written = Written(size_bytes=status.st_size, mtime_ns=MTIME_NS, inode=status.st_ino)
            items.append(
                PublishItem(staged=path, destination=destination, source=source, written=written)
            )
        return items

    async def publish(self, items: list[PublishItem]) -> None:
        await publish(self.hdd, items, source_root=self.ssd, limiter=LIMITER)

    def check_published(self) -> None:
        for destination, name in zip(self.destinations, NAMES, strict=True):
            source = self.ssd / name
            assert destination.read_bytes() == source.read_bytes()
            there, model = destination.stat(), source.stat()
            assert there.st_nlink == 1
            assert there.st_mode & 0o7777 == model.st_mode & 0o777
            assert (there.st_uid, there.st_gid) == (model.st_uid, model.st_gid)
            assert there.st_mtime_ns == MTIME_NS

    def everything(self) -> list[str]:
        return sorted(str(p.relative_to(self.hdd)) for p in self.hdd.rglob("*"))


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def without_rename(monkeypatch: pytest.MonkeyPatch, number: int = errno.EINVAL) -> None:
    """A file system without RENAME_NOREPLACE, such as NFS."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(disk_calls, "rename_noreplace", refuse)


@pytest.fixture(params=["rename", "link"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "link":
        without_rename(monkeypatch)
    return str(request.param)


# -- the good way ----------------------------------------------------------------


@pytest.mark.usefixtures("way")
async def test_files_and_folders_end_in_place_looking_like_their_sources(rig: Rig) -> None:
    items = await rig.stage()
    assert stat.S_IMODE(items[0].staged.parent.stat().st_mode) == 0o700
    await rig.publish(items)
    rig.check_published()
    show, subs = rig.hdd / "tv/hd/Show", rig.hdd / "tv/hd/Show/Subs"
    assert stat.S_IMODE(show.stat().st_mode) == 0o2775
    assert stat.S_IMODE(subs.stat().st_mode) == 0o700  # the model, and room for our files
    assert show.stat().st_mtime_ns == subs.stat().st_mtime_ns == MTIME_NS
    await discard_staging(rig.hdd, instance_id=ID, job_id=JOB, limiter=LIMITER)
    assert not (rig.hdd / STAGING_NAME).exists()


async def test_owner_and_group_follow_where_permitted(rig: Rig) -> None:
    if os.geteuid():
        pytest.skip("only root may give files away")
    for name in ("Show", *NAMES):
        os.chown(rig.ssd / name, 1234, 2345)
    await rig.publish(await rig.stage())
    rig.check_published()
    folder = (rig.hdd / "tv/hd/Show").stat()
    assert (folder.st_uid, folder.st_gid) == (1234, 2345)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL])
async def test_where_owner_and_mode_are_not_permitted_publishing_goes_on(
    rig: Rig, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def chown(path: object, uid: int, gid: int, **_: object) -> None:
        asked.append((uid, gid))
        raise OSError(number, "no")

    def chmod(*_: object, **__: object) -> None:
        raise OSError(number, "no")

    items = [replace(i, source=rig.ssd / NAMES[1]) for i in await rig.stage()]
    real = os.stat_result(
        tuple(99 if n in (4, 5) else v for n, v in enumerate((rig.ssd / NAMES[1]).stat()))
    )
    monkeypatch.setattr(os, "chown", chown)
    monkeypatch.setattr(os, "chmod", chmod)
    disk_owner.follow_owner_and_mode(str(items[0].staged), real)
    assert asked == [(99, 99), (-1, 99)]  # at least the group is tried
    await rig.publish(items)
    assert all(d.exists() for d in rig.destinations)


async def test_what_is_right_already_is_not_touched_after_its_sync(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = await rig.stage()
    for item in items:
        disk_owner.follow_owner_and_mode(str(item.staged), item.source.stat())

    def touched(*_: object, **__: object) -> None:
        pytest.fail("a synced file was changed")

    for parent in {d.parent for d in rig.destinations}:
        parent.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(os, "chown", touched)
    monkeypatch.setattr(os, "chmod", touched)
    await rig.publish(items)
    assert all(d.exists() for d in rig.destinations)


async def test_existing_folders_are_left_as_they_are(rig: Rig) -> None:
    (rig.hdd / "tv").mkdir(mode=0o711)
    (rig.hdd / "tv").chmod(0o711)
    await rig.publish(await rig.stage())
    assert stat.S_IMODE((rig.hdd / "tv").stat().st_mode) == 0o711


async def test_every_folder_that_changed_is_synced_once_and_after_its_last_change(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = await rig.stage()
    synced: list[str] = []
    real = disk_calls.fsync

    def note(fd: int) -> None:
        assert all(d.exists() for d in rig.destinations)
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink().relative_to(rig.hdd)))
        real(fd)

    monkeypatch.setattr(disk_calls, "fsync", note)
    await rig.publish(items)
    assert sorted(synced) == [".", "tv", "tv/hd", "tv/hd/Show", "tv/hd/Show/Subs"]


async def test_publishing_again_syncs_folders_that_a_killed_try_made(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = await rig.stage()
    await rig.publish(items)  # say that it was killed before its syncs
    synced: list[str] = []
    monkeypatch.setattr(publishing, "_sync", synced.append)
    await rig.publish(items)
    parts = ["tv/hd/Show/Subs", "tv/hd/Show", "tv/hd", "tv", "."]
    assert synced == [str(rig.hdd / part) for part in parts]


async def test_adopted_files_and_their_folders_are_synced(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.publish(await rig.stage())
    synced: list[str] = []
    real = publishing._sync

    def note(path: str) -> None:
        synced.append(str(Path(path).relative_to(rig.hdd)))
        real(path)

    monkeypatch.setattr(publishing, "_sync", note)
    one = rig.destinations[0]
    await sync_adopted(rig.hdd, {one: one.stat()}, limiter=LIMITER)
    assert synced == ["tv/hd/Show/one.mkv", "tv/hd/Show", "tv/hd", "tv", "."]
    with pytest.raises(MustWait):
        await sync_adopted(rig.hdd, {rig.hdd / "absent": one.stat()}, limiter=LIMITER)


async def test_a_linked_ssd_folder_still_bounds_the_models(rig: Rig, tmp_path: Path) -> None:
    rig.ssd.chmod(0o751)
    tmp_path.chmod(0o700)
    alias = tmp_path / "alias"
    alias.symlink_to(rig.ssd)
    await publish(rig.hdd, await rig.stage(), source_root=alias, limiter=LIMITER)
    assert stat.S_IMODE((rig.hdd / "tv").stat().st_mode) == 0o751


# -- after a crash at any step -----------------------------------------------------


CHANGES = [
    *((os, name) for name in ("mkdir", "rmdir", "chown", "chmod", "link", "unlink", "utime")),
    (disk_calls, "rename_noreplace"),
    (disk_calls, "fsync"),
]
"""The calls by which publishing changes the disk."""


def crash_at(rig: Rig, items: list[PublishItem], number: int) -> str | None:
    """Publish up to the ``number``-th change; say what it was, None when all were made."""
    done: list[str] = []

    def crashing(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def change(*args: object, **kwargs: object) -> object:
            result = call(*args, **kwargs)
            done.append(name)
            if len(done) == number:
                raise Crash
            return result

        return change

    with pytest.MonkeyPatch.context() as patch:
        for module, name in CHANGES:
            patch.setattr(module, name, crashing(name, getattr(module, name)))
        try:
            publishing._publish(rig.hdd, items, rig.ssd, lambda: None)
        except Crash:
            return done[-1]
    return None


async def test_publishing_again_finishes_after_a_crash_at_every_step(
    tmp_path: Path, way: str
) -> None:
    words = set()
    for number in range(1, 1000):
        folder = tmp_path / str(number)
        folder.mkdir()
        rig = Rig(folder)
        items = await rig.stage()
        word = crash_at(rig, items, number)
        for destination in rig.destinations:  # never half-written
            assert (
                not destination.exists()
                or destination.read_bytes()
                == (rig.ssd / destination.relative_to(rig.hdd / "tv/hd")).read_bytes()
            )
        if word is not None:
            words.add(word)
        await rig.publish(items)
        rig.check_published()
        await rig.publish(items)  # and once more changes nothing
        rig.check_published()
        await discard_staging(rig.hdd, instance_id=ID, job_id=JOB, limiter=LIMITER)
        assert not any(STAGING_NAME in path for path in rig.everything())
        if word is None:
            break
    moved = {"rename": {"rename_noreplace"}, "link": {"link", "unlink"}}[way]
    assert {"mkdir", "chmod", "utime", "fsync"} | moved <= words
    assert number > 10


# -- what is shared with another torrent -------------------------------------------


def share(rig: Rig, items: list[PublishItem]) -> tuple[list[PublishItem], list[Path]]:
    """Stage hardlinks to files of another torrent instead; give those files, too."""
    originals, shared = [], []
    for number, item in enumerate(items):
        original = rig.hdd / f"another torrent's {number}"
        item.staged.rename(original)
        original.chmod(0o604)
        os.chown(original, 1234, 1234)
        os.link(original, item.staged)
        originals.append(original)
        shared.append(replace(item, shared=True))
    return shared, originals


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
async def test_publishing_what_is_shared_changes_nothing_of_it_and_finishes_after_a_crash(
    tmp_path: Path, way: str
) -> None:
    for number in range(1, 1000):
        folder = tmp_path / str(number)
        folder.mkdir()
        rig = Rig(folder)
        items, originals = share(rig, await rig.stage())
        before = [o.stat() for o in originals]
        word = crash_at(rig, items, number)
        await rig.publish(items)
        for original, destination, was in zip(originals, rig.destinations, before, strict=True):
            now = destination.stat()
            assert now.st_ino == original.stat().st_ino == was.st_ino
            assert now.st_nlink == 2
            assert (now.st_mode, now.st_uid, now.st_gid) == (was.st_mode, was.st_uid, was.st_gid)
            assert now.st_mtime_ns == was.st_mtime_ns
        if word is None:
            break
    assert number > 10


async def test_what_is_shared_and_changed_since_it_was_verified_is_not_published(rig: Rig) -> None:
    items, originals = share(rig, await rig.stage())
    os.utime(originals[0], ns=(1, 1))
    with pytest.raises(DestinationChanged, match="was changed while the job worked"):
        await rig.publish(items)
    assert not rig.destinations[0].exists()
    assert originals[0].exists()


async def test_a_file_whose_staged_copy_and_published_one_are_gone_is_an_error(
    rig: Rig,
) -> None:
    items = await rig.stage()
    items[0].staged.unlink()
    with pytest.raises(MustWait):
        await rig.publish(items)
    rig.destinations[0].write_bytes(b"another")  # not what was written
    with pytest.raises(MustWait):
        await rig.publish(items)


# -- what stands at the destination --------------------------------------------------


def a_file(path: Path) -> None:
    path.write_bytes(b"mine")


def a_link(path: Path) -> None:
    path.symlink_to("nowhere")


def a_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("thing", [a_file, a_link, a_folder])
async def test_nothing_that_stands_at_the_destination_is_touched(
    rig: Rig, thing: Callable[[Path], None]
) -> None:
    rig.destinations[0].parent.mkdir(parents=True)
    thing(rig.destinations[0])
    before = rig.destinations[0].lstat()
    with pytest.raises(DestinationConflict, match=r"one\.mkv"):
        await rig.publish(await rig.stage())
    after = rig.destinations[0].lstat()
    assert (before.st_ino, before.st_mode, before.st_mtime_ns) == (
        after.st_ino,
        after.st_mode,
        after.st_mtime_ns,
    )


async def test_a_file_in_a_folders_place_is_a_conflict(rig: Rig) -> None:
    (rig.hdd / "tv").write_bytes(b"mine")
    with pytest.raises(DestinationConflict, match="not a folder"):
        await rig.publish(
            [
                replace(i, destination=d)
                for i, d in zip(await stage_elsewhere(rig), rig.destinations, strict=True)
            ]
        )
    assert (rig.hdd / "tv").read_bytes() == b"mine"


async def stage_elsewhere(rig: Rig) -> list[PublishItem]:
    destinations, rig.destinations = rig.destinations, [rig.hdd / n for n in NAMES]
    try:
        return await rig.stage()
    finally:
        rig.destinations = destinations


@pytest.mark.parametrize("inside", [True, False])
async def test_a_link_is_followed_only_within_the_tier(
    rig: Rig, tmp_path: Path, inside: bool
) -> None:
    target = rig.hdd / "series" if inside else tmp_path / "outside"
    target.mkdir()
    (rig.hdd / "tv").symlink_to(target)
    if inside:
        await rig.publish(await rig.stage())
        rig.check_published()
        assert (target / "hd" / NAMES[0]).exists()
    else:
        with pytest.raises(UnsafePath, match="symbolic link"):
            await rig.stage()
        with pytest.raises(UnsafePath, match="symbolic link"):
            await rig.publish(await stage_elsewhere_for(rig))
        assert not list(target.iterdir())


async def stage_elsewhere_for(rig: Rig) -> list[PublishItem]:
    items = await stage_elsewhere(rig)
    return [replace(i, destination=d) for i, d in zip(items, rig.destinations, strict=True)]


@pytest.mark.parametrize("bad", ["../x", "tv/../../x"])
async def test_a_destination_outside_the_tier_is_refused(rig: Rig, bad: str) -> None:
    items = await rig.stage()
    with pytest.raises(UnsafePath):
        await rig.publish([replace(items[0], destination=rig.hdd / bad)])
    with pytest.raises(UnsafePath):
        await rig.publish([replace(items[0], destination=Path("/etc/x"))])
    rig.destinations = [rig.hdd / bad]
    with pytest.raises(UnsafePath):
        await prepare_staging(
            rig.hdd, rig.destinations, instance_id=ID, job_id="2", require=mounted, limiter=LIMITER
        )


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOSPC, WaitReason.SPACE), (errno.EROFS, WaitReason.TIER)]
)
async def test_what_the_disk_refuses_is_a_wait(
    rig: Rig, number: int, reason: WaitReason, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = await rig.stage()
    without_rename(monkeypatch, number)
    with pytest.raises(MustWait) as caught:
        await rig.publish(items)
    assert caught.value.reason is reason


# -- staging ---------------------------------------------------------------------------


async def test_staging_for_another_file_system_lies_beside_and_is_found_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    show = rig.hdd / "tv" / "hd"
    show.mkdir(parents=True)
    monkeypatch.setattr(publish_staging, "_can_rename", lambda _, folder: folder != show)
    items = await rig.stage()
    assert {i.staged.parent for i in items} == {show / STAGING_NAME / ID / JOB}
    again = await rig.stage()  # what an earlier try left is removed
    assert [i.staged for i in again] == [i.staged for i in items]
    await rig.publish(again)
    rig.check_published()
    again[0].staged.write_bytes(b"left behind")
    await discard_staging(rig.hdd, instance_id=ID, job_id=JOB, limiter=LIMITER)
    assert not any(STAGING_NAME in path for path in rig.everything())
    rig.check_published()


async def test_a_pool_that_refuses_at_publishing_gets_staging_beside_on_the_next_try(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = await rig.stage()
    assert items[0].staged.is_relative_to(rig.hdd / STAGING_NAME)
    real = disk_calls.rename_noreplace

    def rename(source_dir: int, source: str, target_dir: int, target: str) -> None:
        here = os.readlink(f"/proc/self/fd/{source_dir}")  # noqa: PTH115
        if here.startswith(f"{rig.hdd}/{STAGING_NAME}") and not source.startswith("folder-"):
            raise OSError(errno.EXDEV, "pool")
        real(source_dir, source, target_dir, target)

    monkeypatch.setattr(disk_calls, "rename_noreplace", rename)
    with pytest.raises(DiskError, match="another file system"):
        await rig.publish(items)
    second = await rig.stage()
    assert second[0].staged.parent == rig.hdd / "tv/hd/Show" / STAGING_NAME / ID / JOB
    for _ in range(2):  # each folder of the pool can refuse once
        try:
            await rig.publish(await rig.stage())
            break
        except DiskError:
            continue
    await rig.publish(await rig.stage()) if not rig.destinations[2].exists() else None
    rig.check_published()
    await discard_staging(rig.hdd, instance_id=ID, job_id=JOB, limiter=LIMITER)
    assert not any(STAGING_NAME in path for path in rig.everything())


async def test_renaming_is_tried_before_anything_is_copied(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    (rig.hdd / "tv").mkdir()

    def refuse(self: Path, target: object) -> None:
        raise OSError(errno.EXDEV, "pool")

    monkeypatch.setattr(Path, "rename", refuse)
    items = await rig.stage()
    assert items[0].staged.parent == rig.hdd / "tv" / STAGING_NAME / ID / JOB
    assert not [p for p in rig.everything() if "probe" in p]


async def test_only_our_own_staging_is_listed_and_that_of_one_job_discarded(
    rig: Rig, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_bytes(b"x")
    staging = rig.hdd / STAGING_NAME
    for path in (f"{ID}/old/1", f"{ID}/kept/1", "other/old/1"):
        (staging / path).parent.mkdir(parents=True)
        (staging / path).write_bytes(b"x")
    (staging / ID / "old" / "link").symlink_to(precious)
    (staging / ID / "linked").symlink_to(precious)
    assert await list_staging(rig.hdd, instance_id=ID, limiter=LIMITER) == ["kept", "old"]
    for job_id in ("old", "linked"):
        await discard_staging(rig.hdd, instance_id=ID, job_id=job_id, limiter=LIMITER)
    assert not (staging / ID / "old").exists()
    assert (staging / ID / "kept" / "1").exists()
    assert (staging / "other" / "old" / "1").exists()
    assert (precious / "file").exists()
    assert await list_staging(rig.hdd, instance_id="x", limiter=LIMITER) == []
    assert await list_staging(rig.hdd, instance_id="..", limiter=LIMITER) == []


async def test_staging_that_another_job_removes_while_it_is_listed_is_none(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    (rig.hdd / STAGING_NAME / ID).mkdir(parents=True)
    real = os.listdir

    def listdir(path: Path) -> list[str]:
        publish_staging._remove_empty(path)
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    assert await list_staging(rig.hdd, instance_id=ID, limiter=LIMITER) == []


async def test_a_note_that_leads_out_of_the_tier_is_ignored(rig: Rig, tmp_path: Path) -> None:
    outside = tmp_path / "outside" / STAGING_NAME / ID / JOB
    outside.mkdir(parents=True)
    await rig.stage()
    (rig.hdd / STAGING_NAME / ID / JOB / "beside-0").write_bytes(b"../outside")
    await discard_staging(rig.hdd, instance_id=ID, job_id=JOB, limiter=LIMITER)
    assert outside.exists()


@pytest.mark.parametrize("bad", ["..", "a/b", "", ".x"])
async def test_an_id_that_is_no_plain_name_makes_no_staging(rig: Rig, bad: str) -> None:
    with pytest.raises(UnsafePath):
        await prepare_staging(
            rig.hdd, rig.destinations, instance_id=bad, job_id=JOB, require=mounted, limiter=LIMITER
        )


async def test_staging_is_made_although_another_job_clears_up_at_that_moment(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one removes the folders above, empty for now, after they were seen."""
    real = Path.mkdir
    removed: list[Path] = []

    def mkdir(self: Path, mode: int = 0o777) -> None:
        if self.name == JOB and len(removed) < 3:
            publish_staging._remove_empty(self.parent, self.parent.parent)
            removed.append(self.parent)
        real(self, mode=mode)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    (path,) = await prepare_staging(
        rig.hdd, rig.destinations[:1], instance_id=ID, job_id=JOB, require=mounted, limiter=LIMITER
    )
    assert len(removed) == 3
    assert path.parent.is_dir()


async def test_staging_is_not_made_through_a_link(rig: Rig, tmp_path: Path) -> None:
    (rig.hdd / STAGING_NAME).symlink_to(tmp_path)
    with pytest.raises(UnsafePath, match="not a folder"):
        await rig.stage()


async def test_a_base_that_is_not_there_is_a_wait_for_the_tier(rig: Rig) -> None:
    rig.hdd.rmdir()
    with pytest.raises(MustWait) as caught:
        await rig.stage()
    assert caught.value.reason is WaitReason.TIER
    assert not rig.hdd.exists()


# -- setting aside -----------------------------------------------------------------------


@pytest.mark.usefixtures("way")
async def test_what_is_set_aside_keeps_its_content_under_a_name_that_says_so(
    tmp_path: Path,
) -> None:
    made = []
    for number in range(3):
        path = tmp_path / "f.mkv"
        path.write_bytes(b"%d" % number)
        moved = await set_aside(path, path.stat(), limiter=LIMITER)
        assert moved is not None
        made.append(moved)
        assert not path.exists()
    assert len(set(made)) == 3
    assert all(p.name.startswith("f.mkv.qbm-conflict-2") for p in made)
    assert [p.read_bytes() for p in made] == [b"0", b"1", b"2"]


async def test_the_longest_name_can_be_set_aside(tmp_path: Path) -> None:
    path = tmp_path / ("日" * 85)
    path.write_bytes(b"x")
    new = await set_aside(path, path.stat(), limiter=LIMITER)
    assert new is not None
    assert new.read_bytes() == b"x"
    assert len(os.fsencode(new.name)) <= 255


async def test_what_is_gone_need_not_be_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "gone"
    path.touch()
    seen = path.stat()
    path.unlink()
    assert await set_aside(path, seen, limiter=LIMITER) is None
    assert list(tmp_path.iterdir()) == []


def another_file(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"same")
    other.replace(path)


def longer(path: Path) -> None:
    times = path.stat()
    path.write_bytes(b"longer")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def written_to(path: Path) -> None:
    path.write_bytes(b"SAME")
    os.utime(path, ns=(MTIME_NS, MTIME_NS))


@pytest.mark.parametrize("change", [another_file, longer, written_to])
async def test_only_the_very_file_that_was_judged_is_set_aside(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = tmp_path / "f.mkv"
    path.write_bytes(b"same")
    seen = path.stat()
    change(path)
    content = path.read_bytes()
    with pytest.raises(DestinationChanged, match=re.escape(str(path))):
        await set_aside(path, seen, limiter=LIMITER)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"f.mkv": content}


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1))
def test_a_shortened_name_fits_and_is_cut_between_characters(name: str) -> None:
    short = shortened(name, ".suffix")
    assert len(short.encode()) <= 255
    assert short.endswith(".suffix")
    assert name.startswith(short.removesuffix(".suffix"))
    if len(name.encode()) > 248:
        assert len(short.encode()) > 255 - 4
