"""A disk that hangs: a mounted file system frozen by the kernel, as `fsfreeze` does.

Who writes to it hangs in the kernel and cannot be killed; reads of what is cached go on.
A disk left frozen would hang the machine, so the freezing is a process of its own: it
thaws when told, when the test goes away in whatever manner, and after so many seconds.
It needs root.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
LONGEST_S = 40


@contextmanager
def frozen(disk: Path) -> Iterator[Callable[[], None]]:
    """Freeze the file system mounted at ``disk``; gives the call that thaws it earlier."""
    child = subprocess.Popen(
        [sys.executable, __file__, str(disk), str(LONGEST_S)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the test
    )
    assert child.stdin is not None
    assert child.stdout is not None

    def thaw() -> None:
        if child.returncode is None:
            child.communicate()  # its input ends
            assert child.returncode == 0, f"it was thawed after {LONGEST_S} s, not by the test"

    try:
        assert child.stdout.readline() == b"frozen\n"
        yield thaw
    finally:
        thaw()


def main(disk: str, longest_s: str) -> int:
    """Freeze until standard input ends, or for so long."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    # Opened before: this reaches the file system also when it is unmounted meanwhile.
    fd = os.open(disk, os.O_RDONLY)
    fcntl.ioctl(fd, FIFREEZE, 0)
    try:
        os.write(1, b"frozen\n")
        told, _, _ = select.select([0], [], [], float(longest_s))
    finally:
        fcntl.ioctl(fd, FITHAW, 0)
    return 0 if told else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
