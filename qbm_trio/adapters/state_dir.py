"""The state directory: made when missing, held by one service at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import trio

from ..core.errors import QbmError

LOCK_NAME = "lock"


class StateDirUnusable(QbmError):
    """The state directory cannot be made, or another service has it."""

    code = "state_dir"


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the state directory for as long as the block runs.

    The lock is the kernel's: it ends with the process, however that ends.

    Raises:
        StateDirUnusable: it cannot be made or written, or is held by another.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StateDirUnusable(
            f"STATE_DIR {path} cannot be used: {error.strerror}; "
            "make it, or let the service's user write there"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateDirUnusable(
                f"STATE_DIR {path} is in use by another qbm-trio (process {_holder(descriptor)}); "
                "stop that one, or give this one a STATE_DIR of its own"
            ) from None
        except OSError as error:
            raise StateDirUnusable(
                f"STATE_DIR {path} cannot be locked: {error.strerror}; put it on a local disk, "
                "or on a share whose server keeps locks"
            ) from error
        # Only told to people: on a full disk the lock holds all the same.
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} {_host()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


async def beat(path: Path, *, limiter: trio.CapacityLimiter) -> None:
    """Set the time of the lock file to now: a sign of life for whoever may look at the folder.

    Cancellation waits for the disk. Raises `OSError` when it refuses.
    """
    await trio.to_thread.run_sync(os.utime, path / LOCK_NAME, limiter=limiter)


def _holder(descriptor: int) -> str:
    """Who has it, as far as the file tells; on a share, or in a container, another host."""
    pid, _, host = os.pread(descriptor, 300, 0).decode("ascii", "replace").strip().partition(" ")
    if host and host != _host():
        return f"{pid} on the host {host}"
    return pid or "unknown"


def _host() -> str:
    return os.uname().nodename.encode("ascii", "replace").decode("ascii")
