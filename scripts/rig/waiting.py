"""Wait for a condition, with a deadline; never for a time."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

POLL_S = 0.02

T = TypeVar("T")


def wait_for(
    condition: Callable[[], T | None],
    what: str,
    limit_s: float = 30.0,
    *,
    process: subprocess.Popen[bytes] | None = None,
    output: Callable[[], str] = str,
) -> T:
    """Ask until ``condition`` is true; give what it returned.

    Args:
        condition: what is waited for.
        what: the same, for people.
        limit_s: seconds, at most.
        process: it must not end meanwhile.
        output: what it has written, for people.

    Raises:
        TimeoutError: it was not true in time.
        RuntimeError: the process has ended.
    """
    deadline_s = time.monotonic() + limit_s
    while not (found := condition()):
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"it ended with {process.returncode}:\n{output()}")
        if time.monotonic() > deadline_s:
            raise TimeoutError("\n".join([f"not within {limit_s:g} s: {what}", output()]).rstrip())
        time.sleep(POLL_S)
    return found
