"""Disks: space, markers, aliases, and paths that stay in their tier."""

# ruff: noqa: ASYNC240 (nothing else runs in these tests)
from __future__ import annotations

import errno
import os
import re
import resource
import uuid
from pathlib import Path

import pytest
import trio

from qbm_trio.adapters import disk, disk_aliases, disk_calls, disk_paths
from qbm_trio.adapters.disk_errors import read_back_error, read_error, write_error
from qbm_trio.core.errors import (
    DiskError,
    FailingDisk,
    JobError,
    MustWait,
    ReadOnlyDisk,
    SameStorage,
    UnsafePath,
)
from qbm_trio.core.model import WaitReason
from tests.rig.mounts import mounted

LIMITER = trio.CapacityLimiter(2)


# -- writes ----


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.EIO, FailingDisk),
        (errno.EROFS, ReadOnlyDisk),
        (errno.ENOSPC, None),
        (errno.EACCES, None),
    ],
)
async def test_a_disk_that_refuses_a_write_is_told_from_one_that_is_full_or_anothers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[JobError] | None
) -> None:
    await disk.create_marker(tmp_path, limiter=LIMITER)

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(disk_calls, "fsync", refuse)
    if error is None:
        await disk.check_writes(tmp_path, limiter=LIMITER)
        return
    with pytest.raises(error):
        await disk.check_writes(tmp_path, limiter=LIMITER)


def test_io_errors_of_the_hdd_are_the_disks_those_of_a_source_the_files() -> None:
    for number in (errno.EIO, errno.ETIMEDOUT, errno.EUCLEAN):
        error = OSError(number, os.strerror(number))
        assert isinstance(write_error(error, "/hdd/a"), FailingDisk)
        assert isinstance(read_back_error(error, "/hdd/a"), FailingDisk)
        assert type(read_error(error, "/ssd/a")) is DiskError
    denied = OSError(errno.EACCES, "denied")
    assert (
        type(write_error(denied, "/hdd/a")) is type(read_back_error(denied, "/hdd/a")) is DiskError
    )


# -- space ---------------------------------------------------------------------------


async def test_free_space_is_what_others_than_root_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Figures:
        f_frsize, f_bsize, f_blocks, f_bfree, f_bavail = 1024, 4096, 1000, 300, 200

    monkeypatch.setattr(os, "statvfs", lambda _: Figures)
    space = await disk.disk_space(tmp_path, limiter=LIMITER)
    assert (space.total_bytes, space.free_bytes) == (1000 * 1024, 200 * 1024)


async def test_space_of_a_real_and_of_a_missing_folder(tmp_path: Path) -> None:
    space = await disk.disk_space(tmp_path, limiter=LIMITER)
    assert 0 < space.free_bytes < space.total_bytes
    with pytest.raises(MustWait) as caught:
        await disk.disk_space(tmp_path / "absent", limiter=LIMITER)
    assert caught.value.reason is WaitReason.TIER


async def test_one_file_system_is_known_by_its_device(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert await disk.same_file_system(tmp_path, tmp_path / "a", limiter=LIMITER)
    assert not await disk.same_file_system(tmp_path, Path("/proc"), limiter=LIMITER)
    with pytest.raises(MustWait, match="absent"):
        await disk.same_file_system(tmp_path, tmp_path / "absent", limiter=LIMITER)


async def test_a_read_only_mount_and_a_missing_folder_are_told_and_a_writable_one_is_fine(
    tmp_path: Path,
) -> None:
    await disk.check_takes_writes(tmp_path, limiter=LIMITER)
    with pytest.raises(MustWait, match="absent is not there"):
        await disk.check_takes_writes(tmp_path / "absent", limiter=LIMITER)
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    with mounted(tmp_path / "ro", options="ro") as folder:
        with pytest.raises(ReadOnlyDisk, match="read-only") as caught:
            await disk.check_takes_writes(folder, limiter=LIMITER)
        assert caught.value.reason is WaitReason.TIER


def test_a_file_system_that_stopped_after_an_error_is_known_by_its_options() -> None:
    # The first as Linux 6.18 shows ext4 with errors=remount-ro after an error.
    mounts = (
        "42 27 7:0 / /mnt/hdd rw,relatime - ext4 /dev/loop0 rw,emergency_ro\n"
        "43 27 7:1 / /mnt/emergency_ro rw shared:1 master:2 - ext4 /dev/loop1 rw\n"
        "44 27 7:2 / /mnt/x rw,emergency_ro - fuse.x shutdown rw,a=emergency_ro\n"
        "strange\n"
    )
    told = [disk.stopped_by_error(mounts, os.makedev(7, n)) for n in range(4)]
    assert told == [True, False, False, False]


# -- markers ---------------------------------------------------------------------------


async def test_a_marker_is_made_once_and_proves_its_tier(tmp_path: Path) -> None:
    assert await disk.read_marker(tmp_path, limiter=LIMITER) is None
    made = await disk.create_marker(tmp_path, limiter=LIMITER)
    assert str(uuid.UUID(made)) == made
    assert await disk.create_marker(tmp_path, limiter=LIMITER) == made
    assert await disk.read_marker(tmp_path, limiter=LIMITER) == made
    await disk.check_marker(tmp_path, made, limiter=LIMITER)
    assert [p.name for p in tmp_path.iterdir()] == [disk.MARKER_NAME]


async def test_a_marker_is_made_without_the_rename_call_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, "no such rename")

    monkeypatch.setattr(disk_calls, "rename_noreplace", refuse)
    made = await disk.create_marker(tmp_path, limiter=LIMITER)
    assert await disk.read_marker(tmp_path, limiter=LIMITER) == made
    assert [p.name for p in tmp_path.iterdir()] == [disk.MARKER_NAME]


async def test_a_marker_made_meanwhile_by_another_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = str(uuid.uuid4())
    real = disk_calls.rename_noreplace

    def rename(source_dir: int, source: str, target_dir: int, target: str) -> None:
        (tmp_path / disk.MARKER_NAME).write_text(other)
        real(source_dir, source, target_dir, target)

    monkeypatch.setattr(disk_calls, "rename_noreplace", rename)
    assert await disk.create_marker(tmp_path, limiter=LIMITER) == other
    assert [p.name for p in tmp_path.iterdir()] == [disk.MARKER_NAME]


async def test_a_marker_that_cannot_be_synced_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(disk_calls, "fsync", refuse)
    with pytest.raises(MustWait) as caught:
        await disk.create_marker(tmp_path, limiter=LIMITER)
    assert caught.value.reason is WaitReason.SPACE
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("there", [None, "another", "", "not a uuid", "folder", "no tier"])
async def test_a_tier_without_its_marker_is_waited_for(tmp_path: Path, there: str | None) -> None:
    tier = tmp_path / "tier"
    if there != "no tier":
        tier.mkdir()
        marker = tier / disk.MARKER_NAME
        if there == "folder":
            marker.mkdir()
        elif there is not None:
            marker.write_text(str(uuid.uuid4()) if there == "another" else there)
    with pytest.raises((MustWait, DiskError)) as caught:
        await disk.check_marker(tier, str(uuid.uuid4()), limiter=LIMITER)
    if there != "folder":
        assert isinstance(caught.value, MustWait)
        assert caught.value.reason is WaitReason.TIER


# -- aliases ---------------------------------------------------------------------------


async def probe(one: Path, other: Path) -> None:
    linkable = one.parent / "one of ours", other.parent / "another of ours"
    await disk_aliases.check_not_aliased(
        one, other, instance_id="i", linkable=linkable, limiter=LIMITER
    )


@pytest.fixture
def tiers(tmp_path: Path) -> tuple[Path, Path]:
    one, other = tmp_path / "ssd", tmp_path / "hdd"
    one.mkdir()
    other.mkdir()
    return one, other


async def test_two_places_pass_and_keep_nothing_of_the_probe(
    tiers: tuple[Path, Path],
) -> None:
    one, other = tiers
    for folder in tiers:
        (folder / "f").write_bytes(b"x")
    await probe(one, other)
    assert [p.name for p in one.iterdir()] == [p.name for p in other.iterdir()] == ["f"]


async def test_one_folder_under_two_names_is_refused(tiers: tuple[Path, Path]) -> None:
    one, _ = tiers
    alias = one.with_name("alias")
    alias.symlink_to(one)
    with pytest.raises(SameStorage) as caught:
        await probe(one, alias)
    assert caught.value.code == "same_storage"
    assert not list(one.iterdir())


@pytest.mark.parametrize("shows", ["first", "second"])
async def test_a_pool_that_shows_the_others_files_is_refused_in_either_direction(
    tiers: tuple[Path, Path], shows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool's inode numbers are its own: only the probe's appearing tells."""
    one, other = tiers
    shown = one if shows == "first" else other
    real = Path.lstat

    def lstat(path: Path) -> os.stat_result:
        return real(shown / path.name if path.parent in tiers else path)

    monkeypatch.setattr(Path, "lstat", lstat)
    with pytest.raises(SameStorage):
        await probe(one, other)
    assert not list(one.iterdir())
    assert not list(other.iterdir())


@pytest.mark.parametrize("failing", ["first", "second"])
async def test_a_disk_that_does_not_say_whether_the_probe_is_there_is_no_proof(
    tiers: tuple[Path, Path], failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = tiers
    at = one if failing == "first" else other
    real = Path.lstat

    def lstat(path: Path) -> os.stat_result:
        if path.parent == at:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path)

    monkeypatch.setattr(Path, "lstat", lstat)
    with pytest.raises(FailingDisk, match=re.escape(str(at))):
        await probe(one, other)
    assert not list(one.iterdir())
    assert not list(other.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
async def test_on_a_full_disk_a_link_is_the_probe(
    tiers: tuple[Path, Path], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must be told from the other tier before anything on it can be deleted."""
    one, other = tiers
    create, lstat = os.open, Path.lstat
    seen: set[str] = set()

    def full(path: Path, *arguments: int) -> int:
        if path.parent == one:
            raise OSError(number, os.strerror(number), str(path))
        return create(path, *arguments)

    def watched(path: Path) -> os.stat_result:
        seen.update(entry.name for entry in one.iterdir())
        return lstat(path)

    monkeypatch.setattr(os, "open", full)
    monkeypatch.setattr(Path, "lstat", watched)
    with pytest.raises(MustWait, match="no space left"):
        await probe(one, other)
    (one.parent / "one of ours").touch()
    await probe(one, other)
    assert any(name.startswith(".qbm-probe-i-") for name in seen)
    assert not list(one.iterdir())
    monkeypatch.setattr(Path, "lstat", lambda path: lstat(one / path.name))  # a pool
    with pytest.raises(SameStorage):
        await probe(one, other)
    assert not list(one.iterdir())


async def test_a_folder_that_cannot_be_probed_is_no_proof(tiers: tuple[Path, Path]) -> None:
    one, other = tiers
    other.rmdir()
    with pytest.raises(MustWait):
        await probe(one, other)


def test_probes_left_by_a_crash_are_removed_but_only_ours_and_no_live_one(tmp_path: Path) -> None:
    live = disk_aliases.probe_name("i")
    for name in (".qbm-probe-i-1-1", ".qbm-probe-other-1-1", "f", live):
        (tmp_path / name).touch()
    (tmp_path / ".qbm-probe-i-folder").mkdir()
    assert disk_aliases.remove_old_probes(tmp_path, "i") == 1
    assert len(list(tmp_path.iterdir())) == 4
    assert (tmp_path / live).exists()
    with pytest.raises(MustWait):
        disk_aliases.remove_old_probes(tmp_path / "absent", "i")


async def test_looking_for_an_alias_removes_what_a_crash_left(tiers: tuple[Path, Path]) -> None:
    for folder in tiers:
        (folder / ".qbm-probe-i-dead-1").touch()
    await probe(*tiers)
    assert not [p for folder in tiers for p in folder.glob(".qbm-probe*")]


# -- paths -----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["/etc/passwd", "..", "a/../../x", "nul\0"])
def test_a_name_that_could_leave_the_tier_is_refused(tmp_path: Path, bad: str) -> None:
    with pytest.raises(UnsafePath):
        disk_paths.resolve_beneath(tmp_path, bad)


def test_links_are_followed_only_below_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (tmp_path / "root2").mkdir()
    (root / "in").symlink_to("real")
    (root / "out").symlink_to(tmp_path / "root2")  # shares the root's beginning
    (root / "up").symlink_to("..")
    alias = tmp_path / "alias"
    alias.symlink_to(root)
    assert disk_paths.resolve_beneath(root, "in/f") == root / "real" / "f"
    assert disk_paths.resolve_beneath(alias, "absent/f") == root / "absent" / "f"
    assert disk_paths.resolve_beneath(root, ".") == root
    assert disk_paths.resolve_beneath(Path("/"), "etc") == Path("/etc")
    for bad in ("out/f", "up/x", "up"):
        with pytest.raises(UnsafePath, match="symbolic link"):
            disk_paths.resolve_beneath(root, bad)


def test_a_folder_replaced_by_a_link_after_its_path_was_proven_is_refused(
    tmp_path: Path,
) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    with disk_paths.FolderHandle() as folders:
        fd = folders.open(str(inner))
        assert folders.open(str(inner)) == fd
    (tmp_path / "a").rename(tmp_path / "moved")
    (tmp_path / "a").symlink_to(tmp_path / "moved")
    with disk_paths.FolderHandle() as folders, pytest.raises(UnsafePath, match="stands"):
        folders.open(str(inner))


def test_a_folder_that_the_system_spells_in_another_case_is_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As exFAT, NTFS and shares may: it is called as whoever asked for it before did."""
    path = tmp_path / "Films" / "caf\u00e9"
    path.mkdir(parents=True)
    spelt = str(tmp_path / "films" / "Cafe\u0301")
    monkeypatch.setattr(os, "readlink", lambda _: spelt)
    with disk_paths.FolderHandle() as folders:
        assert os.path.samestat(os.fstat(folders.open(str(path))), path.stat())


def test_a_link_to_a_name_in_another_case_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "a").rename(tmp_path / "A")
    (tmp_path / "a").symlink_to("A")
    with disk_paths.FolderHandle() as folders, pytest.raises(UnsafePath, match="stands"):
        folders.open(str(inner))
    # And one that is gone again when it is looked for.
    through_link, real = os.open(tmp_path / "A" / "b", os.O_RDONLY), os.open
    (tmp_path / "a").unlink()
    inner.mkdir(parents=True)
    monkeypatch.setattr(os, "open", lambda *_: through_link)
    with disk_paths.FolderHandle() as folders, pytest.raises(UnsafePath, match="stands"):
        folders.open(str(inner))
    monkeypatch.setattr(os, "open", real)


# -- what a refusal means ----------------------------------------------------------------


@pytest.mark.parametrize("translate", [read_error, write_error])
@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_refusal_becomes_an_error_of_the_job_that_names_the_path(
    number: int, translate: object
) -> None:
    assert callable(translate)
    error: JobError = translate(OSError(number, "x"), "/hdd/f")
    assert isinstance(error, JobError)
    assert "/hdd/f" in str(error)


def test_an_error_without_a_number_still_says_why() -> None:
    assert "odd" in str(write_error(OSError("odd"), "/hdd/f"))


# -- limits and calls ----------------------------------------------------------------------


def test_the_limit_of_open_files_rises_to_what_is_allowed() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        hard = before[1]
        low = 256
        resource.setrlimit(resource.RLIMIT_NOFILE, (low, hard))
        assert disk.raise_open_files_limit(512) == 512
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 512
        assert disk.raise_open_files_limit(300) == 512  # never lowered
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_rename_never_replaces_and_syncing_reports_errors(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(FileExistsError):
            disk_calls.rename_noreplace(fd, "a", fd, "b")
        disk_calls.rename_noreplace(fd, "a", fd, "ü")
        disk_calls.syncfs(fd)
        disk_calls.fsync(fd)
    finally:
        os.close(fd)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "ü"]
    with pytest.raises(OSError, match="Bad file"):
        disk_calls.syncfs(fd)


def test_a_libc_without_wrappers_is_served_by_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_calls, "_renameat2", None)
    monkeypatch.setattr(disk_calls, "_syncfs", None)
    monkeypatch.setattr(disk_calls, "_sync_file_range", None)
    synced: list[bool] = []
    monkeypatch.setattr(os, "sync", lambda: synced.append(True))
    (tmp_path / "a").touch()
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        disk_calls.rename_noreplace(fd, "a", fd, "b")
        disk_calls.syncfs(fd)
        disk_calls.start_writeback(fd, 0, 1)
        disk_calls.wait_writeback(fd, 0, 1)
        monkeypatch.setattr(disk_calls, "_GENERIC_TABLE", False)
        with pytest.raises(OSError) as caught:  # noqa: PT011
            disk_calls.rename_noreplace(fd, "b", fd, "c")
        assert caught.value.errno == errno.ENOSYS
    finally:
        os.close(fd)
    assert synced == [True]
    assert (tmp_path / "b").exists()
