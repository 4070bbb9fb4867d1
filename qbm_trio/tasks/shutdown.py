"""That the service is told to stop, and the guard that it does."""

from __future__ import annotations

import logging
import os
import signal
import threading

import trio

from ..adapters.journal import Journal

log = logging.getLogger(__name__)


class Shutdown:
    """That the service was told to stop, and the guard that it does."""

    def __init__(self, *, whole_s: float) -> None:
        self.asked = trio.Event()
        self.signum = 0
        self.why = ""  #: a clause that says who or what asked
        self.status = 0  #: of the process, when it ends in order
        self.saved = False  #: the journal is closed: nothing can be lost any more
        self._whole_s = whole_s

    async def watch_signals(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Turn the first SIGTERM or SIGINT into a drain; a second ends the process."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            self.signum = await anext(aiter(signals))
            self.ask(f"told to stop by {signal.Signals(self.signum).name}")
            signum = await anext(aiter(signals))
            os._exit(128 + signum)

    def ask(self, why: str, *, status: int = 0) -> None:
        """Have the service stop; see to it that it does."""
        if not self.asked.is_set():
            self.why, self.status = why, status
            self.guard(self._whole_s)
            self.asked.set()

    async def when_damaged(self, journal: Journal) -> None:
        """Stop when the journal is: nothing can be promised, and the next start restores it."""
        await journal.damaged.wait()
        log.critical("the journal %s is damaged; start again: it is restored then", journal.path)
        self.ask("the journal is damaged", status=1)

    def guard(self, seconds: float) -> None:
        """See to it that the process ends within ``seconds``."""
        # A thread of the system's, not of trio's: it works whatever the loop does.
        guard = threading.Timer(seconds, self.exit_now)
        guard.daemon = True
        guard.start()

    def exit_now(self) -> None:
        """End the process although a thread hangs in the kernel, on a dead disk for example."""
        os._exit(self.status if self.saved else 70)
