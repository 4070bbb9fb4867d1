"""Threads for long disk work: niced, stoppable, gone when the call returns."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import trio

from . import disk_calls

T = TypeVar("T")
_POLL_S = 0.05


class Stopped(BaseException):
    """The work was asked to stop. Not an `Exception`, so that no handler takes it for a failure."""


class Stop:
    """A flag that the supervising thread sets and the working thread looks at."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ask the work to stop at its next look."""
        self._event.set()

    def check(self) -> None:
        """Raise `Stopped` when asked to stop."""
        if self._event.is_set():
            raise Stopped

    def sleep(self, seconds: float) -> None:
        """Wait, but not past being asked to stop."""
        if self._event.wait(seconds):
            raise Stopped


async def run_supervised(
    work: Callable[[Stop], T],
    *,
    nice: int,
    limiter: trio.CapacityLimiter,
    begins: Callable[[], None] | None = None,
) -> T:
    """Run ``work`` in a thread of its own at lowered priority.

    Trio keeps its worker threads for later use, and a thread's niceness cannot be
    lowered again without privileges: so the work gets a thread that ends with it, and
    trio's thread only watches. ``begins`` is called, in the event loop, once ``limiter``
    lets it begin.

    Cancellation:
        ``work`` is asked to stop within 0.05 s; this returns when it has.
    """
    return await trio.to_thread.run_sync(_supervise, work, nice, begins, limiter=limiter)


def _supervise(work: Callable[[Stop], T], nice: int, begins: Callable[[], None] | None) -> T:
    if begins is not None:
        trio.from_thread.run_sync(begins)
    stop = Stop()
    worker = WorkThread(lambda: work(stop), nice=nice)
    try:
        while not worker.done.wait(_POLL_S):
            trio.from_thread.check_cancelled()
    except BaseException:
        stop.set()
        worker.join()
        raise
    value: T = worker.result()
    return value


class WorkThread:
    """One call in one thread, whose result or error is kept for the caller."""

    def __init__(self, call: Callable[[], Any], *, nice: int = 0) -> None:
        self.done = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None
        # The call is the thread's alone, and forgotten with it: what it holds (buffers)
        # often holds this object, and such a circle waits for the garbage collector.
        # A daemon: a disk that never answers must not keep the process from exiting.
        self._thread = threading.Thread(
            target=self._run, args=(call, nice), name="qbm-disk", daemon=True
        )
        self._thread.start()

    def _run(self, call: Callable[[], Any], nice: int) -> None:
        try:
            if nice:
                disk_calls.lower_priority(nice)
            self._value = call()
        except BaseException as error:
            self._error = error
        finally:
            self.done.set()

    def join(self) -> None:
        """Wait for the thread to end."""
        self._thread.join()

    def result(self) -> Any:
        """Wait, then return what the call returned or raise what it raised."""
        self._thread.join()
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # breaks the cycle of error, frame and self
        return self._value


def sync_stoppable(sync: Callable[[int], None], fd: int, stop: Stop) -> None:
    """Call ``fsync`` or ``syncfs``, which can take minutes on a busy disk, but stay stoppable.

    When stopped, the call is left to end by itself: it writes nothing new.

    Raises:
        OSError: what was written did not reach the disk.
        Stopped: asked to stop first.
    """
    own = os.dup(fd)

    def call() -> None:
        try:
            sync(own)
        finally:
            os.close(own)

    thread = WorkThread(call)
    while not thread.done.wait(_POLL_S):
        stop.check()
    thread.result()


class WriteRate:
    """Caps the bytes written a second, over all threads that share it."""

    def __init__(self, bytes_per_s: int | None) -> None:
        self._bytes_per_s = bytes_per_s
        self._lock = threading.Lock()
        self._free_at = 0.0

    def wait(self, size_bytes: int, stop: Stop) -> None:
        """Wait until ``size_bytes`` may be written. Prompt to stop."""
        if self._bytes_per_s is None:
            return
        with self._lock:
            begin = max(self._free_at, time.monotonic())
            self._free_at = begin + size_bytes / self._bytes_per_s
        while (left_s := begin - time.monotonic()) > 0:
            stop.sleep(left_s)
