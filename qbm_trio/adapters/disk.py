"""Facts about the tiers' disks: space, markers, whether both show the same files."""

from __future__ import annotations

import errno
import os
import resource
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import trio

from ..core.errors import DiskError, MustWait, SameStorage
from ..core.model import WaitReason
from . import disk_calls
from .disk_errors import read_back_error, read_error, read_only, write_error

__all__ = [
    "MARKER_NAME",
    "DiskSpace",
    "check_marker",
    "check_not_aliased",
    "check_takes_writes",
    "check_writes",
    "create_marker",
    "disk_space",
    "marker_at",
    "probe_name",
    "raise_open_files_limit",
    "read_marker",
    "remove_old_probes",
    "same_file_system",
    "stopped_by_error",
]

MARKER_NAME = ".qbm-tier"
_PROBE_PREFIX = ".qbm-probe-"
_MOUNTS = Path("/proc/self/mountinfo")
_STOPPED = frozenset({"emergency_ro", "shutdown"})
_RUN = secrets.token_hex(4)  #: tells the probes of this process from what a crash left
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
    found = await read_marker(root, limiter=limiter)
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


# -- one place under two names -----------------------------------------------


async def check_not_aliased(
    one: Path,
    other: Path,
    *,
    instance_id: str,
    limiter: trio.CapacityLimiter,
) -> None:
    """Prove that two folders are not two views of one place (a pool, a bind mount).

    A probe file with a random name is made in each folder; it must not appear in the
    other. Inode numbers alone prove nothing: pools make up their own.

    Args:
        one: a folder on the SSD.
        other: the folder on the HDD that would stand for it.
        instance_id: names the probes, so that leftovers of a crash are known as ours.
        limiter: for the thread.

    Raises:
        SameStorage: they are.
        MustWait: a folder is not there, full or read-only.
        DiskError: the system refused otherwise.
    """

    def call() -> None:
        _refuse_same(one, other)
        for made, seen in ((one, other), (other, one)):
            remove_old_probes(made, instance_id)
            probe = made / probe_name(instance_id)
            try:
                os.close(os.open(probe, _CREATE, 0o600))
                try:
                    if _stands(seen / probe.name):
                        raise _same(one, other)
                finally:
                    probe.unlink(missing_ok=True)
            except OSError as error:
                raise write_error(error, probe) from error

    await _in_thread(call, limiter)


def _stands(path: Path) -> bool:
    """Whether something is there. A disk that cannot tell does not say that nothing is."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise read_back_error(error, path) from error
    return True


def probe_name(instance_id: str) -> str:
    """A name that nothing else has, and that says whose it is."""
    return f"{_PROBE_PREFIX}{instance_id}-{_RUN}-{secrets.token_hex(16)}"


def remove_old_probes(folder: Path, instance_id: str) -> int:
    """Remove the probes that an earlier run left in one folder when it was killed. Blocks.

    Those of this run stay: another job may be looking at them.

    Returns:
        How many there were.

    Raises:
        MustWait, DiskError: the system refused.
    """
    own, live = f"{_PROBE_PREFIX}{instance_id}-", f"{_PROBE_PREFIX}{instance_id}-{_RUN}-"
    count = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if (
                    entry.name.startswith(own)
                    and not entry.name.startswith(live)
                    and entry.is_file(follow_symlinks=False)
                ):
                    Path(entry.path).unlink(missing_ok=True)
                    count += 1
    except OSError as error:
        raise write_error(error, folder) from error
    return count


def _refuse_same(one: Path, other: Path) -> None:
    try:
        a, b = one.stat(), other.stat()
    except FileNotFoundError:
        return  # what is not there is not the same; the probe tells about folders
    except OSError as error:
        raise read_error(error, one) from error
    if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino):
        raise _same(one, other)


def _same(one: Path, other: Path) -> SameStorage:
    return SameStorage(
        f"{one} and {other} are two views of the same files; give each tier a disk of its "
        "own (not a pool and one of its members)",
        reason=WaitReason.TIER,
    )


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
