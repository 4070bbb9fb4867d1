"""The service on an HDD that takes one checkpoint and then no other: run as a module.

It prints ``stuck`` when a copy waits for the disk.
"""

from __future__ import annotations

import os
import sys
import threading

from qbm_trio.__main__ import main
from qbm_trio.adapters import disk_calls
from qbm_trio.adapters.copy_checkpoints import Checkpoints

done = threading.Event()
wait = Checkpoints._wait


def fdatasync(fd: int) -> None:
    """Sync, but only once."""
    if done.is_set():
        threading.Event().wait()
    os.fdatasync(fd)
    done.set()


def wait_and_say(self: Checkpoints) -> None:
    """Wait for a checkpoint."""
    if done.is_set():
        sys.stdout.write("stuck\n")
        sys.stdout.flush()
    wait(self)


if __name__ == "__main__":
    disk_calls.fdatasync = fdatasync
    setattr(Checkpoints, "_wait", wait_and_say)  # noqa: B010
    sys.exit(main(sys.argv[1:]))
