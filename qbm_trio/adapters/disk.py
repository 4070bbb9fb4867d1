"""Facts about the tiers' disks: space, health, markers."""

from __future__ import annotations

import errno
import os
import resource
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from ..core.errors import DiskError, MustWait
from ..core.model import WaitReason
from . import disk_calls
from .disk_errors import read_back_error, read_only, write_error

__all__ = [
    "MARKER_NAME",
    "DiskSpace",
    "check_marker",
    "check_takes_writes",
    "check_writes",
    "create_marker",
    "disk_space",
    "marker_at",
    "raise_open_files_limit",
    "read_marker",
    "require_marker",
    "same_file_system",
    "stopped_by_error",
]

MARKER_NAME = ".qbm-tier"
_MOUNTS = Path("/proc/self/mountinfo")
_STOPPED = frozenset({"emergency_ro", "shutdown"})
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpace:
    """Figures of a file system, from statvfs."""

    total_bytes: int
    free_bytes: int  #: for users other than root


async def _in_thread(call: Callable[[], T], limiter: trio.CapacityLimiter) -> T:
    return await trio.to_thread.run_sync(call, limiter=limiter)


async def disk_space(path: Path, *, limiter: trio.CapacityLimiter) -> DiskSpace:
    """Total and free bytes of the file system that holds ``path``.

    A dead disk can hold the thread, and so this call, for ever: ask under a limiter of
    its own and answer others from the last result.

    Raises:
        MustWait: the path is not there, or its disk is away.
        DiskError: the system refused otherwise.
    """

    def call() -> DiskSpace:
        try:
            figures = os.statvfs(path)
        except OSError as error:
            raise _away(error, path) from error
        return DiskSpace(
            total_bytes=figures.f_blocks * figures.f_frsize,
            free_bytes=figures.f_bavail * figures.f_frsize,
        )

    return await _in_thread(call, limiter)


async def check_takes_writes(root: Path, *, limiter: trio.CapacityLimiter) -> None:
    """Ask the system, without a write, whether ``root`` is mounted read-only.

    Raises:
        ReadOnlyDisk: it is, or its file system stopped taking writes after an error.
        MustWait, DiskError: it cannot be asked.
    """

    def call() -> None:
        try:
            flags = os.statvfs(root).f_flag
            device = root.stat().st_dev
        except OSError as error:
            raise _away(error, root) from error
        mounts = _MOUNTS.read_text("utf-8", "replace") if _MOUNTS.exists() else ""
        if flags & os.ST_RDONLY or stopped_by_error(mounts, device):
            raise read_only(root)

    await _in_thread(call, limiter)


async def check_writes(root: Path, *, limiter: trio.CapacityLimiter) -> None:
    """Have the disk take a small write: the time of the tier's marker, synced.

    What is cached is read, and statvfs answered, also by a disk that hangs or fails. Not
    for a disk that nobody uses: it would never go to sleep.

    Raises:
        MustWait, DiskError: it does not take it.
    """

    def call() -> None:
        marker = root / MARKER_NAME
        try:
            fd = os.open(marker, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.utime(fd)
                disk_calls.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            # A full disk, or another's marker, says nothing of the disk's health.
            if error.errno not in (errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT):
                raise write_error(error, marker) from error

    await _in_thread(call, limiter)


def stopped_by_error(mounts: str, device: int) -> bool:
    """Whether ext4 refuses writes on ``device`` since an error.

    With ``errors=remount-ro`` statvfs still says "writable" then: only the options of
    the file system tell (seen on Linux 6.18).

    Args:
        mounts: the text of ``/proc/self/mountinfo``; see proc_pid_mountinfo(5).
        device: as ``st_dev``.
    """
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.splitlines():
        ours, _, theirs = line.partition(" - ")
        if number in ours.split(" ")[2:3] and _STOPPED & set(theirs.split(" ")[-1].split(",")):
            return True
    return False


async def same_file_system(one: Path, other: Path, *, limiter: trio.CapacityLimiter) -> bool:
    """Whether two folders are on one file system, by device number.

    Raises:
        MustWait: one is not there.
    """

    def call() -> bool:
        try:
            return one.stat().st_dev == other.stat().st_dev
        except OSError as error:
            raise _away(error, one if not one.exists() else other) from error

    return await _in_thread(call, limiter)


# -- markers -----------------------------------------------------------------


async def read_marker(root: Path, *, limiter: trio.CapacityLimiter) -> str | None:
    """The UUID in a tier's marker; None when there is no marker.

    Raises:
        MustWait: the tier is not there, or its marker is damaged.
    """

    def call() -> str | None:
        return marker_at(root)

    return await _in_thread(call, limiter)


async def create_marker(root: Path, *, limiter: trio.CapacityLimiter) -> str:
    """Give a tier its marker, or keep the one it has. Safe to repeat after a crash.

    The marker appears whole: written under another name, synced, then linked into place.

    Returns:
        The UUID, for the journal.

    Raises:
        MustWait: the tier is not there, full or read-only, or its marker is damaged.
        DiskError: the system refused otherwise.
    """

    def call() -> str:
        found = marker_at(root)
        if found is not None:
            return found
        fresh = str(uuid.uuid4())
        try:
            _write_marker(root, fresh)
        except FileExistsError:
            pass  # another process was faster: its marker counts
        except OSError as error:
            raise write_error(error, root / MARKER_NAME) from error
        return marker_at(root) or fresh

    return await _in_thread(call, limiter)


async def check_marker(root: Path, expected: str, *, limiter: trio.CapacityLimiter) -> None:
    """Prove that the tier's own disk is mounted at ``root``.

    Raises:
        MustWait: the marker is missing or another one.
    """
    await _in_thread(partial(require_marker, root, expected), limiter)


def require_marker(root: Path, expected: str) -> None:
    """As `check_marker`; blocks."""
    found = marker_at(root)
    if found is None:
        raise _tier(
            f"{root} has no {MARKER_NAME}: its disk is not mounted there; mount it. "
            f"If you replaced the disk, write {expected} into {root / MARKER_NAME}"
        )
    if found != expected:
        raise _tier(
            f"{root} holds another disk: its {MARKER_NAME} says {found}, not {expected}; "
            "mount the right one"
        )


def marker_at(root: Path) -> str | None:
    """As `read_marker`; blocks."""
    path = root / MARKER_NAME
    try:
        root.stat()
        with path.open("rb") as file:
            text = file.read(200).decode("ascii", "replace").strip()
    except FileNotFoundError as error:
        if error.filename == str(path):
            return None
        raise _away(error, root) from error
    except OSError as error:
        raise _away(error, path) from error
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise _tier(f"{path} does not hold a UUID; restore it, or remove it") from None


def _write_marker(root: Path, text: str) -> None:
    temporary = f"{MARKER_NAME}.{secrets.token_hex(8)}"
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = os.open(temporary, _CREATE, 0o644, dir_fd=folder)
        try:
            try:
                os.write(fd, f"{text}\n".encode())
                disk_calls.fsync(fd)
            finally:
                os.close(fd)
            disk_calls.move_noreplace(folder, temporary, folder, MARKER_NAME)
        except BaseException:
            os.unlink(temporary, dir_fd=folder)
            raise
        disk_calls.fsync(folder)
    finally:
        os.close(folder)


def _away(error: OSError, path: Path) -> MustWait | DiskError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return _tier(f"{path} is not there; mount its disk, or create the folder")
    translated = read_back_error(error, path)
    if isinstance(translated, MustWait | DiskError):
        return translated
    return DiskError(str(translated))


def _tier(message: str) -> MustWait:
    return MustWait(message, reason=WaitReason.TIER)


# -- limits ------------------------------------------------------------------


def raise_open_files_limit(wanted: int = 65536) -> int:
    """Raise the soft limit of open files towards the hard one. Returns what holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
        soft = target
    return soft
