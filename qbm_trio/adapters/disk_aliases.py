"""Whether two folders are two views of one place: a pool and its member, a bind mount."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

import trio

from ..core.errors import SameStorage
from ..core.model import WaitReason
from .disk_errors import read_back_error, read_error, write_error

_PROBE_PREFIX = ".qbm-probe-"
_RUN = secrets.token_hex(4)  #: tells the probes of this process from what a crash left
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


async def check_not_aliased(
    one: Path,
    other: Path,
    *,
    instance_id: str,
    linkable: tuple[Path, Path],
    limiter: trio.CapacityLimiter,
) -> None:
    """Prove that two folders are not two views of one place (a pool, a bind mount).

    A probe file with a random name is made in each folder; it must not appear in the
    other. Inode numbers alone prove nothing: pools make up their own.

    Args:
        one: a folder on the SSD.
        other: the folder on the HDD that would stand for it.
        instance_id: names the probes, so that leftovers of a crash are known as ours.
        linkable: a file of ours on the disk of each. Where there is no room for a new file, a
            link to it is the probe: a full XFS takes links only (seen on Linux 6.18), and
            the SSD is probed before it is freed.
        limiter: for the thread.

    Raises:
        SameStorage: they are.
        MustWait: a folder is not there, full or read-only.
        DiskError: the system refused otherwise.
    """

    def call() -> None:
        _refuse_same(one, other)
        for made, seen, spare in ((one, other, linkable[0]), (other, one, linkable[1])):
            remove_old_probes(made, instance_id)
            probe = made / probe_name(instance_id)
            try:
                _make(probe, spare)
                try:
                    if _stands(seen / probe.name):
                        raise _same(one, other)
                finally:
                    probe.unlink(missing_ok=True)
            except OSError as error:
                raise write_error(error, probe) from error

    await trio.to_thread.run_sync(call, limiter=limiter)


def _make(probe: Path, linkable: Path) -> None:
    try:
        os.close(os.open(probe, _CREATE, 0o600))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        try:
            os.link(linkable, probe, follow_symlinks=False)
        except OSError:
            raise error from None  # that it is full says more


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
