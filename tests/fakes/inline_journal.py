"""The journal without its thread, for tests under a virtual clock.

`trio.testing.MockClock` jumps ahead while a thread works, so the real writer would
cost a test hours of virtual time. This is the real `Journal` otherwise: the same
file, the same batches, results delivered one step of the loop later.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

import outcome
import trio

from qbm_trio.adapters.journal import Journal, Operation, Pending

T = TypeVar("T")

_WRITES = {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE}


def _refuse_writes(action: int, *_about: str | None) -> int:
    return sqlite3.SQLITE_DENY if action in _WRITES else sqlite3.SQLITE_OK


class InlineJournal(Journal):
    """Commits in the trio thread, all that was handed in during one step at once.

    Set ``full`` to make every write fail, as on a full disk, until it is unset; set
    ``held`` to have commits take as long as the test likes.
    """

    _full = False
    held = False  #: nothing is committed while this is set; see `let_go`

    @property
    def full(self) -> bool:
        """Whether the disk has no room."""
        return self._full

    @full.setter
    def full(self, full: bool) -> None:
        self._full = full
        self._connection.set_authorizer(_refuse_writes if full else None)

    def submit(
        self,
        operation: Operation[T],
        on_done: Callable[[outcome.Outcome[T]], None] | None = None,
        *,
        shown: bool = True,
    ) -> Pending[T]:
        """Hand in an operation; it is committed in the next step of the loop."""
        pending = super().submit(operation, on_done, shown=shown)
        if not self._closing:
            trio.lowlevel.current_trio_token().run_sync_soon(self._flush)
        return pending

    def _flush(self) -> None:
        if self.held or self._inbox.empty():
            return
        batch: list[Pending[Any]] = self._next_batch()[0]
        self._commit(batch)
        self._deliver(batch)

    def let_go(self) -> None:
        """Commit what was held up, in one batch, and hold no more."""
        self.held = False
        self._flush()

    def end(self) -> None:
        """Close the file, as a process that ends does."""
        self._closing = True
        self._connection.close()
