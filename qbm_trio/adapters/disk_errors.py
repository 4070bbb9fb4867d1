"""What an operating system's refusal means for a job."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from ..core.errors import (
    DiskError,
    FailingDisk,
    JobError,
    MustWait,
    ReadOnlyDisk,
    SourceChanged,
    UnsafePath,
)
from ..core.model import WaitReason

_AWAY = {errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.EHOSTDOWN}
_FAILING = {errno.EIO, errno.EREMOTEIO, errno.ETIMEDOUT, errno.EUCLEAN, errno.EBADMSG}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_ABSENT = {errno.ENOENT, errno.ENOTDIR}
_DENIED = {errno.EACCES, errno.EPERM}


def read_error(error: OSError, path: Path | str) -> JobError:
    """The error to raise for a refused read of torrent data."""
    if error.errno in _ABSENT:
        return SourceChanged(
            f"{path} is missing, though qBittorrent lists it; recheck the torrent there"
        )
    if error.errno == errno.ELOOP:
        return UnsafePath(f"{path} is a symbolic link, which is not followed")
    return _common(error, path, "read")


def read_back_error(error: OSError, path: Path | str) -> JobError:
    """The error to raise for a refused read of the HDD: its copies, and what the tier is."""
    return _failing(error, path, "read") or read_error(error, path)


def write_error(error: OSError, path: Path | str) -> JobError:
    """The error to raise for a refused write, or other change, on a tier."""
    if error.errno in _FULL:
        quota = " (a quota)" if error.errno == errno.EDQUOT else ""
        return MustWait(
            f"no space left for {path}{quota}; free some, and the job goes on",
            reason=WaitReason.SPACE,
        )
    if error.errno == errno.EROFS:
        return read_only(path)
    if error.errno in _ABSENT:
        return MustWait(
            f"the folder of {path} has vanished; mount the disk again",
            reason=WaitReason.TIER,
        )
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return UnsafePath(f"{path} cannot be made: {_why(error)}; rename it in qBittorrent")
    if error.errno == errno.EFBIG:
        return DiskError(f"{path} is larger than its file system allows; reformat the disk")
    return _failing(error, path, "write") or _common(error, path, "write")


def read_only(path: Path | str) -> ReadOnlyDisk:
    """The error to raise for a file system that takes no writes."""
    return ReadOnlyDisk(
        f"{path} is on a file system that is read-only now; look for disk errors "
        "in the kernel log and mount it writable again",
        reason=WaitReason.TIER,
    )


def _failing(error: OSError, path: Path | str, verb: str) -> FailingDisk | None:
    """A disk that fails while it is written to is waited for.

    Not so the reads of a source: one bad sector there would have its job read all again
    and again, for ever.
    """
    if error.errno not in _FAILING:
        return None
    return FailingDisk(
        f"cannot {verb} {path}: {_why(error)}; look in the kernel log, and check the disk: "
        "it is tried again until it works"
    )


def _common(error: OSError, path: Path | str, verb: str) -> JobError:
    if error.errno in _AWAY:
        return MustWait(
            f"the disk of {path} is away ({_why(error)}); mount it again",
            reason=WaitReason.TIER,
        )
    if error.errno in _DENIED:
        return DiskError(
            f"not allowed to {verb} {path}; let the service's user {verb} there "
            "(the same PUID and PGID as qBittorrent's is simplest)"
        )
    return DiskError(
        f"cannot {verb} {path}: {_why(error)}; look in the kernel log, and check the disk"
    )


def _why(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
