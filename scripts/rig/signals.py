"""Signals that end a program which has something to clean up."""

from __future__ import annotations

import signal
from types import FrameType


def leave_on_signals() -> None:
    """Make SIGTERM and SIGHUP raise `SystemExit`, as SIGINT raises `KeyboardInterrupt`."""
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _leave)


def ignore_signals() -> None:
    """Let no second Ctrl-C stop the cleaning."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)


def _leave(signum: int, frame: FrameType | None) -> None:
    del frame
    raise SystemExit(128 + signum)
