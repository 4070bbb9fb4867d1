"""Checkpoints of a running copy: synced, then recorded, while the copy goes on.

A kill costs what was read since the last recorded checkpoint. So the copy waits for the
disk when it is too far ahead of that, and only then.
"""

from __future__ import annotations

from collections.abc import Callable

from ..core.resuming import Pace
from .copy_threads import Stop, WorkThread

_POLL_S = 0.05


class Checkpoints:
    """Makes one checkpoint at a time, each in a thread of its own."""

    def __init__(
        self,
        pace: Pace,
        *,
        begin_at: int,
        record: Callable[[int], None],
        proven: Callable[[], int],
        take_unsynced: Callable[[], Callable[[], None]],
        stop: Stop,
        nice: int,
    ) -> None:
        """What a checkpoint needs.

        Args:
            pace: when.
            begin_at: the stream position that the copy goes on from.
            record: writes a position to the journal and returns once that is committed.
            proven: gives the last position between two pieces before which all is
                written and proven, what had to be repaired included.
            take_unsynced: as `StagedWriter.take_unsynced`.
            stop: ends the waiting.
            nice: of the threads.
        """
        self._pace = pace
        self._record = record
        self._proven = proven
        self._take_unsynced = take_unsynced
        self._stop = stop
        self._nice = nice
        self._at = begin_at  #: the last position that was recorded, or is about to be
        self._read_bytes = 0
        self._recorded_bytes = 0  #: of them, before the last recorded position; at most
        self._thread: WorkThread | None = None
        self._thread_bytes = 0  #: what `_recorded_bytes` will be when it is done

    def passed(self, written_at: int, read_bytes: int) -> None:
        """Go on from here, or wait for the disk first.

        Args:
            written_at: the stream position behind what is written.
            read_bytes: read for it since the last call.

        Raises:
            JobError: what was written did not reach the disk.
            JournalUnwritable: a checkpoint could not be recorded.
            Stopped: asked to stop meanwhile.
        """
        self._read_bytes += read_bytes
        self._settle()
        self._begin(written_at)
        while self._thread is not None and self._ahead_bytes() > self._pace.lead_bytes:
            self._wait()
            self._begin(written_at)

    def finish(self) -> None:
        """Wait for the last one. Raises as `passed` does."""
        while self._thread is not None:
            self._wait()

    def _ahead_bytes(self) -> int:
        return self._read_bytes - self._recorded_bytes

    def _begin(self, written_at: int) -> None:
        if self._thread is not None or self._ahead_bytes() < self._pace.interval_bytes:
            return
        at = self._proven()
        if at <= self._at:
            return
        self._at = at
        # Between the two positions lie at most so many bytes that were read.
        before = self._read_bytes - (written_at - at)
        self._thread_bytes = max(before, self._recorded_bytes)
        sync = self._take_unsynced()

        def work() -> None:
            sync()
            # Not before: what is recorded must survive a power cut.
            self._record(at)

        self._thread = WorkThread(work, nice=self._nice)

    def _wait(self) -> None:
        assert self._thread is not None
        # When stopped, the thread is left to end by itself: it writes nothing new.
        while not self._thread.done.wait(_POLL_S):
            self._stop.check()
        self._settle()

    def _settle(self) -> None:
        if self._thread is not None and self._thread.done.is_set():
            thread, self._thread = self._thread, None
            thread.result()
            self._recorded_bytes = self._thread_bytes
