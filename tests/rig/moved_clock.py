"""The service on a wall clock that a test moves while it runs: run as a module.

The file that ``QBM_CLOCK`` names says how many seconds it is ahead of the real one. Monotonic
clocks, and the times of files, are real. (libfaketime does it too, but with seconds of delay
at each change of threads.)
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

real_time, real_gmtime = time.time, time.gmtime


def moved_time() -> float:
    """The time of day, in seconds of the epoch."""
    return real_time() + float(Path(os.environ["QBM_CLOCK"]).read_text())


def moved_gmtime(seconds: float | None = None) -> time.struct_time:
    """These seconds, or now, in UTC."""
    return real_gmtime(moved_time() if seconds is None else seconds)


class WallClock:
    """The test's end of it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.env = {"QBM_CLOCK": str(file)}
        self.ahead(0)

    def ahead(self, seconds: int) -> None:
        """Let it be so many seconds ahead of the real one, or behind, from now on."""
        new = self._file.with_name("clock.new")
        new.write_text(str(seconds))
        new.replace(self._file)  # never seen half-written


if __name__ == "__main__":
    # Before all else is imported: some of it takes the function, not the module.
    setattr(time, "time", moved_time)  # noqa: B010
    setattr(time, "gmtime", moved_gmtime)  # noqa: B010
    from qbm_trio.__main__ import main

    sys.exit(main(sys.argv[1:]))
