"""An SSD and an HDD as file systems of their own, seen alike by all who are tested.

Everything is mounted below one `shared_place`: a mount that propagates, so that a
qBittorrent in a mount namespace of its own (`qbt.Chroot`) sees each disk come and go
as the service does. When the place ends, nothing stays mounted and no loop device
attached, whatever the test did. All of it needs root, as CI has it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.rig.mounts import mounts_below, run, unmount
from tests.rig.qbt import Chroot, Installed, Launcher, Qbt, running

MIB = 1024 * 1024
DETACHED_WITHIN_S = 5.0  #: of the last user's end


LET_GO: Final = (
    "awk '$1 ~ /^.dev.loop/ {print $1}' /proc/self/mounts"
    ' | while read -r device; do umount --lazy "$device"; done'
)
"""For the shell, first thing in a mount namespace of one's own: let go of what others test on.

A namespace begins with a mount of everything, and holds each disk that is unmounted elsewhere.
"""


@contextmanager
def shared_place(folder: Path) -> Iterator[Path]:
    """A folder whose later mounts are seen in every namespace made meanwhile.

    It is a tmpfs, so that images on it cost no disk I/O. A qBittorrent that is to see the
    mounts is started after this, and ended before: while it runs, it may hold a disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # What is below a mount that an earlier, killed run left there would never be seen.
    if mounts_below(folder):
        raise RuntimeError(f"something is mounted at or below {folder} already")
    run("mount", "-t", "tmpfs", "tmpfs", str(folder))
    device = folder.stat().st_dev
    try:
        # Out of whatever the system propagates to, then a group of its own.
        run("mount", "--make-private", str(folder))
        run("mount", "--make-shared", str(folder))
        yield folder
    finally:
        unmount_below(folder)
    _require_detached(device)


def unmount_below(folder: Path) -> None:
    """Unmount all that is mounted at ``folder`` and below, the last one first."""
    for target in reversed(mounts_below(folder)):
        with suppress(RuntimeError):  # the one above may have taken it along
            unmount(target)
    if left := mounts_below(folder):
        raise AssertionError(f"still mounted: {[str(path) for path in left]}")


def loop_devices(device: int) -> list[str]:
    """The loop devices whose images lie on the file system ``device`` (an ``st_dev``)."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    rows = run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-MAJ:MIN").splitlines()
    return [name for name, backing in map(str.split, rows) if backing == wanted]


def _require_detached(device: int) -> None:
    """The kernel detaches a loop device itself, when nobody uses its disk any more."""
    deadline = time.monotonic() + DETACHED_WITHIN_S
    while left := loop_devices(device):
        if time.monotonic() > deadline:
            for name in left:
                run("losetup", "--detach", name)
            users = {name: _users(name) for name in left}
            raise AssertionError(f"in use by somebody, although unmounted: {users}")
        time.sleep(0.02)


def _users(name: str) -> list[str]:
    """The processes that have a loop device mounted, or a file on it open."""
    device = Path(name).stat().st_rdev
    mark = f" {os.major(device)}:{os.minor(device)} "
    found = []
    mounted_in: dict[str, bool] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, RuntimeError):  # ended meanwhile
            namespace = process / "ns/mnt"
            command = process.joinpath("cmdline").read_text().replace("\0", " ")
            if (key := str(namespace.readlink())) not in mounted_in:
                # From inside: what a process shows ends at its root, which may be changed.
                inside = run("nsenter", f"--mount={namespace}", "cat", "/proc/self/mountinfo")
                mounted_in[key] = mark in inside
            if mounted_in[key]:
                found.append(f"mounted in {key}: {command}")
            for file in process.joinpath("fd").iterdir():
                if file.exists() and file.stat().st_dev == device:
                    found.append(f"{file.readlink()} open: {command}")
    return found


@dataclass
class Disk:
    """A small ext4 file system in an image, and the folder where it is mounted."""

    at: Path
    size_bytes: int = 64 * MIB
    image: Path = field(init=False)

    def __post_init__(self) -> None:
        self.image = self.at.with_name(f"{self.at.name}.img")
        self.at.mkdir(parents=True, exist_ok=True)
        with self.image.open("xb") as file:
            file.truncate(self.size_bytes)
        # No blocks kept for root, who runs all this: full is full. No journal: nothing
        # here is about a kernel that crashes, and it would take much of a small disk.
        options = ["-q", "-m", "0", "-N", "2000", "-O", "^has_journal"]
        run("mkfs.ext4", *options, str(self.image))
        self.mount()
        (self.at / "lost+found").rmdir()

    def mount(self) -> None:
        """Mount it (again)."""
        run("mount", "-o", "loop", str(self.image), str(self.at))

    def unmount(self) -> None:
        """Take it away, also from under those who have files open on it."""
        unmount(self.at)

    def unmount_idle(self) -> None:
        """Take it away as an administrator would. Raises `RuntimeError` while it is in use."""
        run("umount", str(self.at))

    def remount(self, *, read_only: bool) -> None:
        """Make it read-only, or writable again.

        Raises:
            RuntimeError: a file is open for writing.
        """
        run("mount", "-o", f"remount,{'ro' if read_only else 'rw'}", str(self.at))

    @property
    def free_bytes(self) -> int:
        """What can still be written, by ``statvfs``."""
        status = os.statvfs(self.at)
        return status.f_bavail * status.f_frsize

    def fill(self, *, leave_bytes: int) -> Path:
        """Fill it up but for so many bytes, within some blocks; give the file to delete."""
        filler = self.at / "filler"
        with filler.open("wb") as file, suppress(OSError):  # its own bookkeeping needs room, too
            os.posix_fallocate(file.fileno(), 0, self.free_bytes - leave_bytes)
        return filler


@contextmanager
def two_disks(
    root: Path, *, ssd_bytes: int = 64 * MIB, hdd_bytes: int = 64 * MIB
) -> Iterator[tuple[Disk, Disk]]:
    """An SSD and an HDD at ``ssd`` and ``hdd`` below ``root``, in a `shared_place`."""
    root.mkdir(parents=True, exist_ok=True)
    try:
        yield Disk(root / "ssd", ssd_bytes), Disk(root / "hdd", hdd_bytes)
    finally:
        unmount_below(root)


@contextmanager
def pooled(branches: list[Path], target: Path, options: str = "") -> Iterator[Path]:
    """A mergerfs of several folders."""
    target.mkdir(parents=True, exist_ok=True)
    extra = ["-o", options] if options else []
    run("mergerfs", *extra, ":".join(map(str, branches)), str(target))
    try:
        yield target
    finally:
        if target in mounts_below(target):
            unmount(target)


@contextmanager
def real_qbittorrent(version: str, place: Path) -> Iterator[Qbt]:
    """The real qBittorrent 4.5.2, or 5.1.0 in a root of its own, that sees ``place`` as we do."""
    launchers: dict[str, Launcher] = {"4.5.2": Installed(), "5.1.0": Chroot(shared=place)}
    with running(place / f"qbittorrent-{version}", launcher=launchers[version]) as started:
        yield started
