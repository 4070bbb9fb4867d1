"""That the service is told to stop, and the guard that it does."""

from __future__ import annotations

import os
import signal
import threading

import trio


class Shutdown:
    """That the service was told to stop, and the guard that it does."""

    def __init__(self, *, whole_s: float) -> None:
        self.asked = trio.Event()
        self.signum = 0
        self.saved = False  #: the journal is closed: nothing can be lost any more
        self._whole_s = whole_s

    async def watch_signals(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Turn the first SIGTERM or SIGINT into a drain; a second ends the process."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            self.signum = await anext(aiter(signals))
            self.guard(self._whole_s)
            self.asked.set()
            signum = await anext(aiter(signals))
            os._exit(128 + signum)

    def guard(self, seconds: float) -> None:
        """See to it that the process ends within ``seconds``."""
        # A thread of the system's, not of trio's: it works whatever the loop does.
        guard = threading.Timer(seconds, self.exit_now)
        guard.daemon = True
        guard.start()

    def exit_now(self) -> None:
        """End the process although a thread hangs in the kernel, on a dead disk for example."""
        os._exit(0 if self.saved else 70)
