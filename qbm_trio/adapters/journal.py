"""The journal: SQLite, one writer, group commit.

Every write is an *operation*: a function that takes the connection. Operations
handed in while a commit is on its way to the disk share the next one, so that
32 clients cost about as many ``fsync`` as one. A result is delivered only after
the commit, so whoever has it may answer 202.

The operations are in ``journal_jobs.py``, ``journal_job_queries.py``,
``journal_copies.py`` and ``journal_relocations.py``. With
``locking_mode=EXCLUSIVE`` there is one connection; reads go the same way.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, Generic, TypeVar

import outcome
import trio

from ..core.errors import JournalUnwritable
from .journal_damage import JournalDamaged, is_damage, require_whole
from .journal_schema import migrate

log = logging.getLogger(__name__)

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]

FILE_NAME: Final = "journal.sqlite3"
MOST_PER_COMMIT: Final = 512
HANGS_S: Final = 10.0
"""A commit that takes longer is called a disk that does not answer."""
MISUSE: Final = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError)
"""Errors of one operation; the others say that the disk refused."""


class Pending(Generic[T]):
    """An operation on its way. Its effect stands or falls without the caller."""

    def __init__(
        self,
        operation: Operation[T],
        on_done: Callable[[outcome.Outcome[T]], None] | None,
        *,
        shown: bool,
    ) -> None:
        self._operation = operation
        self._on_done = on_done
        self._shown = shown
        self.changed = False  #: something that is shown
        self._done = trio.Event()
        self._outcome: outcome.Outcome[T] | None = None

    async def wait(self) -> T:
        """Wait until it is on disk and return its result.

        Cancellation: stops the waiting only.

        Raises:
            JournalUnwritable: nothing of it is on the disk.
            QbmError: what the operation itself raised; nothing of it is on the disk.
        """
        await self._done.wait()
        assert self._outcome is not None
        # Unwrapped by hand: several tasks may wait for one operation, and an
        # Outcome can be unwrapped only once.
        if isinstance(self._outcome, outcome.Value):
            value: T = self._outcome.value
            return value
        assert isinstance(self._outcome, outcome.Error)
        raise self._outcome.error

    # -- the writer thread's side

    def perform(self, connection: sqlite3.Connection) -> None:
        """Run inside the batch's transaction; a failure undoes this operation alone."""
        connection.execute("SAVEPOINT operation")
        changes_before = connection.total_changes
        try:
            self._outcome = outcome.Value(self._operation(connection))
        except Exception as error:
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, MISUSE):
                raise  # the disk, not the operation: the whole batch fails
            self._outcome = outcome.Error(error)
            connection.execute("ROLLBACK TO operation")
        connection.execute("RELEASE operation")
        self.changed = self._shown and connection.total_changes != changes_before

    def read_again(self, connection: sqlite3.Connection) -> None:
        """After `fail`, on a connection that only reads: keep the answer if it is one."""
        try:
            self._outcome = outcome.Value(self._operation(connection))
        except sqlite3.Error:
            pass  # it writes: `fail` has said why that is not possible
        except Exception as error:
            self._outcome = outcome.Error(error)

    def fail(self, error: BaseException) -> None:
        """Record that the batch did not reach the disk."""
        self._outcome = outcome.Error(error)

    # -- back in the trio thread

    def deliver(self) -> None:
        """Tell the owner, then whoever waits."""
        assert self._outcome is not None
        if self._on_done is not None:
            self._on_done(self._outcome)
        self._done.set()


class Journal:
    """An open journal. `run` must run for anything to be written."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self.path = path
        self._inbox: SimpleQueue[Pending[object] | None] = SimpleQueue()
        self._closing = False
        self.closed = trio.Event()  #: set once everything is on disk and the file is closed
        self.problem: str | None = None  #: why the last write failed; None when it did not
        self.changes = 0  #: of what ``/status`` shows: what was read at this number still holds
        self.restored: str | None = None  #: what was restored at this start, and why
        self._commit_began_s: float | None = None  #: of the one that is under way; monotonic
        self._damage: JournalUnwritable | None = None
        self.damaged = trio.Event()  #: set once its file turns out not to be what was written

    @classmethod
    def open(cls, state_dir: Path) -> Journal:
        """Open or create the journal and bring its schema up to date. Blocks.

        Raises:
            JournalDamaged: it is not what was written; its files are left as they are.
            JournalTooNew: see ``journal_schema``.
            JournalUnwritable: it cannot be opened or written.
        """
        path = state_dir / FILE_NAME
        connection: sqlite3.Connection | None = None
        try:
            require_whole(path)
            # timeout=0: whoever holds the file does not let go, so waiting is in vain.
            connection = sqlite3.connect(
                path, timeout=0, isolation_level=None, check_same_thread=False
            )
            for pragma in (
                "locking_mode=EXCLUSIVE",
                "journal_mode=WAL",
                "synchronous=FULL",
                "foreign_keys=ON",
                "cache_size=-4096",
                # No folder for temporary files is needed: it may be full, or all read-only.
                "temp_store=MEMORY",
            ):
                connection.execute(f"PRAGMA {pragma}")
            migrate(connection)
        except BaseException as error:
            if connection is not None:
                connection.close()  # it holds the file's lock
            if not isinstance(error, sqlite3.Error | OSError):
                raise
            if isinstance(error, sqlite3.Error) and is_damage(error):
                raise JournalDamaged(str(error)) from error
            raise JournalUnwritable(
                f"the journal {path} cannot be opened: {error}; it is left as it is; "
                "look at the disk of STATE_DIR, its free space and the folder's owner, "
                "then start again"
            ) from error
        return cls(connection, path)

    async def run(
        self,
        limiter: trio.CapacityLimiter,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Write until `close` is called; then flush, checkpoint and close the file.

        Cancellation: none until `close`: a cancelled writer would strand every
        task that waits for a commit.
        """
        token = trio.lowlevel.current_trio_token()
        task_status.started()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._write_loop, token, limiter=limiter)
        self.closed.set()

    def submit(
        self,
        operation: Operation[T],
        on_done: Callable[[outcome.Outcome[T]], None] | None = None,
        *,
        shown: bool = True,
    ) -> Pending[T]:
        """Hand in an operation without waiting. ``on_done`` runs in the trio thread.

        It runs after the commit and before any waiter goes on, also when the
        waiter was cancelled: what must follow a commit belongs there. ``shown`` is
        false when nothing that ``/status`` shows is changed.
        """
        pending = Pending(operation, on_done, shown=shown)
        if self._closing:
            pending.fail(JournalUnwritable("the journal is closed: the service is stopping"))
            # Not at once: as after a commit, ``on_done`` runs when the caller has let go.
            trio.lowlevel.current_trio_token().run_sync_soon(pending.deliver)
        else:
            self._inbox.put(pending)  # type: ignore[arg-type]  # Pending[T] is only written to
        return pending

    async def do(self, operation: Operation[T], *, shown: bool = True) -> T:
        """Hand in an operation and wait for it; see `submit` and `Pending.wait`."""
        return await self.submit(operation, shown=shown).wait()

    @property
    def hangs(self) -> bool:
        """Whether its disk has not answered for long."""
        began_s = self._commit_began_s
        return began_s is not None and time.monotonic() - began_s > HANGS_S

    def close(self) -> None:
        """Let `run` end after what was handed in so far."""
        if not self._closing:
            self._closing = True
            self._inbox.put(None)

    # -- the writer thread

    def _write_loop(self, token: trio.lowlevel.TrioToken) -> None:
        last = False
        while not last:
            batch, last = self._next_batch()
            if batch:
                self._commit_began_s = time.monotonic()
                self._commit(batch)
                self._commit_began_s = None
                # RunFinishedError: the loop died under us; nobody is left to tell.
                with suppress(trio.RunFinishedError):
                    token.run_sync_soon(self._deliver, batch)
        with suppress(sqlite3.Error):  # the log is complete without it
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.close()

    def _next_batch(self) -> tuple[list[Pending[object]], bool]:
        batch: list[Pending[object]] = []
        item = self._inbox.get()
        while True:
            if item is None:
                return batch, True
            batch.append(item)
            if len(batch) == MOST_PER_COMMIT:
                return batch, False
            try:
                item = self._inbox.get_nowait()
            except Empty:
                return batch, False

    def _commit(self, batch: list[Pending[object]]) -> None:
        if self._damage is not None:
            for pending in batch:
                pending.fail(self._damage)
            return
        changes_before = self._connection.total_changes
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for pending in batch:
                pending.perform(self._connection)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
            self.problem = str(error)
            log.error("journal: %d operations could not be written: %s", len(batch), error)
            if is_damage(error):
                # Nothing more is written: it could only make it worse.
                self._damage = JournalUnwritable(
                    f"the journal is damaged ({error}); nothing was recorded; the service stops, "
                    "and its next start restores the journal; send again then"
                )
            for pending in batch:
                pending.fail(
                    self._damage
                    or JournalUnwritable(
                        f"the journal cannot be written ({error}); nothing was recorded; "
                        "free space on the disk of STATE_DIR or mend it, then try again"
                    )
                )
            self._read_again(batch)
        else:
            # A batch that only read says nothing about a full disk.
            if self._connection.total_changes != changes_before:
                self.problem = None
            self.changes += any(pending.changed for pending in batch)

    def _read_again(self, batch: list[Pending[object]]) -> None:
        """A full disk refuses writes only: whoever just reads has an answer all the same."""
        with suppress(sqlite3.Error):
            self._connection.execute("PRAGMA query_only=ON")  # a write fails at once
            for pending in batch:
                pending.read_again(self._connection)
        with suppress(sqlite3.Error):
            self._connection.execute("PRAGMA query_only=OFF")

    def _deliver(self, batch: list[Pending[object]]) -> None:
        if self._damage is not None:
            self.damaged.set()
        for pending in batch:
            pending.deliver()
