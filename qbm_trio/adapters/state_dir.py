"""The state directory: made when missing, held by one service at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..core.errors import QbmError


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
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StateDirUnusable(
            f"STATE_DIR {path} cannot be used: {error.strerror}; "
            "make it, or let the service's user write there"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 100, 0).decode("ascii", "replace").strip() or "unknown"
            raise StateDirUnusable(
                f"STATE_DIR {path} is in use by another qbm-trio (process {holder}); "
                "stop that one, or give this one a STATE_DIR of its own"
            ) from None
        # Only told to people: on a full disk the lock holds all the same.
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
