"""A result means that it is on the disk: group commit, kills, full disks, closing."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import outcome
import pytest
import trio
import trio.testing

from qbm_trio.adapters.journal import FILE_NAME, MOST_PER_COMMIT, Journal
from qbm_trio.adapters.journal_damage import JournalDamaged
from qbm_trio.adapters.journal_schema import VERSION, JournalTooNew
from qbm_trio.core.errors import JournalUnwritable, NoSuchJob
from tests.rig.inside import condition
from tests.rig.journals import running

ROOT = Path(__file__).parents[2]


def put(name: str) -> Callable[[sqlite3.Connection], str]:
    def operation(connection: sqlite3.Connection) -> str:
        connection.execute("INSERT INTO meta VALUES (?, 'x')", (name,))
        return name

    return operation


def names(connection: sqlite3.Connection) -> set[str]:
    return {str(name) for (name,) in connection.execute("SELECT name FROM meta")}


def on_disk(state_dir: Path) -> set[str]:
    """What the journal holds after a start, read with nothing but SQLite."""
    with sqlite3.connect(state_dir / FILE_NAME) as connection:
        found = names(connection)
    connection.close()
    return found


def files_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


class Commits:
    """Counts commits through SQLite's own trace of statements."""

    def __init__(self, journal: Journal) -> None:
        self.count = 0
        journal._connection.set_trace_callback(self._see)

    def _see(self, statement: str) -> None:
        self.count += statement == "COMMIT"


class Gate:
    """An operation that holds the writer up until the gate is opened."""

    def __init__(self) -> None:
        self._reached, self._opened = trio.Event(), threading.Event()

    @classmethod
    async def close(cls, journal: Journal) -> Gate:
        """Return once the writer stands before it: what comes later is in another batch."""
        gate = cls()
        journal.submit(gate._hold)
        await gate._reached.wait()
        return gate

    def _hold(self, _: sqlite3.Connection) -> None:
        trio.from_thread.run_sync(self._reached.set)
        self._opened.wait(10)

    def open(self) -> None:
        self._opened.set()


async def test_a_commit_that_takes_too_long_is_a_journal_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as journal:
        gate = await Gate.close(journal)
        assert not journal.hangs
        with monkeypatch.context() as patch:
            patch.setattr("qbm_trio.adapters.journal.HANGS_S", -1)
            assert journal.hangs
            gate.open()
            await journal.do(put("after"))
            await condition(lambda: not journal.hangs)


# -- group commit -----------------------------------------------------------


async def test_32_waiters_share_one_commit_and_none_waits_for_company(tmp_path: Path) -> None:
    async with running(tmp_path) as journal:
        commits = Commits(journal)
        await journal.do(put("alone"))
        assert commits.count == 1

        gate = await Gate.close(journal)  # a commit on its way, during which 32 clients arrive
        results: list[str] = []

        async def client(name: str) -> None:
            results.append(await journal.do(put(name)))

        async with trio.open_nursery() as nursery:
            for n in range(32):
                nursery.start_soon(client, f"c{n}")
            await trio.testing.wait_all_tasks_blocked()
            assert results == []
            gate.open()
        assert sorted(results) == sorted(f"c{n}" for n in range(32))
        assert commits.count == 3, "alone, the gate, and one for all 32"


async def test_a_flood_is_committed_in_bounded_batches_and_in_order(tmp_path: Path) -> None:
    async with running(tmp_path) as journal:
        commits = Commits(journal)
        gate = await Gate.close(journal)
        done: list[int] = []
        last = journal.submit(put("first"), lambda _: done.append(-1))
        for n in range(2 * MOST_PER_COMMIT):
            last = journal.submit(put(str(n)), lambda _, n=n: done.append(n))  # type: ignore[misc]
        gate.open()
        await last.wait()
        assert done == list(range(-1, 2 * MOST_PER_COMMIT))
        assert commits.count == 4


async def test_nothing_is_reported_before_the_commit_has_returned(tmp_path: Path) -> None:
    """The order of events in the writer: operation, COMMIT, and only then the news."""
    async with running(tmp_path) as journal:
        events: list[str] = []
        journal._connection.set_trace_callback(
            lambda sql: events.append(sql.split()[0]) if not sql.startswith("--") else None
        )
        # COMMIT is traced when it begins; the hook runs when it has gone through.
        await journal.submit(put("a"), lambda _: events.append("told")).wait()
        assert events == ["BEGIN", "SAVEPOINT", "INSERT", "RELEASE", "COMMIT", "told"]


# -- kill -9 ----------------------------------------------------------------

ACCEPT_IN_A_LOOP = """
import os, secrets, sys, trio
from functools import partial
from pathlib import Path
from qbm_trio.adapters import journal_jobs as ops
from qbm_trio.adapters.journal import Journal
from qbm_trio.core.model import Notification
from qbm_trio.tasks.jobs import Jobs
from qbm_trio.tasks.queue import JobQueue

async def client(jobs):
    while True:
        accepted = await jobs.accept(Notification(hash=secrets.token_hex(20)))
        os.write(1, f"{accepted.job.id} {accepted.job.hash}\\n".encode())

async def main():
    journal = Journal.open(Path(sys.argv[1]))
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run, trio.CapacityLimiter(1))
        jobs = Jobs(journal, JobQueue(10**6))
        os.write(1, b"ready\\n")
        for _ in range(8):
            nursery.start_soon(client, jobs)

trio.run(main)
"""


def test_no_acknowledged_job_is_missing_after_a_kill_at_any_moment(tmp_path: Path) -> None:
    """Six lives of one journal, each ended by SIGKILL while eight clients are served."""
    dice = random.Random(20)
    acknowledged: dict[str, str] = {}
    for _ in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", ACCEPT_IN_A_LOOP, str(tmp_path)],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        ) as child:
            try:
                assert child.stdout is not None
                assert child.stdout.readline() == b"ready\n"
                # A random number of answers, then a random moment within the next commit.
                lines = [child.stdout.readline() for _ in range(dice.randrange(1, 400))]
                until = time.monotonic() + dice.random() * 0.005
                while time.monotonic() < until:
                    pass
            finally:
                child.send_signal(signal.SIGKILL)
            text = b"".join(lines) + child.stdout.read()
        assert child.returncode == -signal.SIGKILL
        for line in text.decode().splitlines():
            job_id, _, torrent_hash = line.partition(" ")
            if len(torrent_hash) == 40:
                acknowledged[job_id] = torrent_hash

        reader = sqlite3.connect(tmp_path / FILE_NAME)
        assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = dict(reader.execute("SELECT id, hash FROM jobs WHERE state = 'queued'").fetchall())
        reader.close()
        missing = acknowledged.items() - rows.items()
        assert not missing, f"{len(missing)} of {len(acknowledged)} acknowledged jobs are missing"
    assert len(acknowledged) > 100


KILL_ITSELF_WHEN_TOLD = """
import os, signal, sys, trio
from pathlib import Path
from qbm_trio.adapters.journal import Journal

def put(connection):
    connection.execute("INSERT INTO meta VALUES ('told', 'x')")

async def main():
    journal = Journal.open(Path(sys.argv[1]))
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run, trio.CapacityLimiter(1))
        journal.submit(put, lambda _: os.kill(os.getpid(), signal.SIGKILL))
        await trio.sleep_forever()

trio.run(main)
"""


def test_a_result_that_was_told_is_there_when_the_process_dies_in_that_instant(
    tmp_path: Path,
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", KILL_ITSELF_WHEN_TOLD, str(tmp_path)], cwd=ROOT, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    assert on_disk(tmp_path) == {"told"}


def test_the_commit_waits_for_the_disk(tmp_path: Path) -> None:
    """Power loss cannot be tried here; that SQLite is told to sync can be looked up."""
    journal = Journal.open(tmp_path)
    asked = [
        journal._connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "locking_mode", "foreign_keys")
    ]
    journal._connection.close()
    assert asked == ["wal", 2, "exclusive", 1]


# -- cancellation, failing operations ---------------------------------------


async def test_a_cancelled_waiter_neither_undoes_nor_orphans(tmp_path: Path) -> None:
    async with running(tmp_path) as journal:
        gate = await Gate.close(journal)
        told: list[outcome.Outcome[str]] = []
        with trio.move_on_after(0) as scope:
            await journal.submit(put("abandoned"), told.append).wait()
        assert scope.cancelled_caught
        assert told == []
        gate.open()
        assert "abandoned" in await journal.do(names)
        assert [t.unwrap() for t in told] == ["abandoned"]
    assert on_disk(tmp_path) == {"abandoned"}


@pytest.mark.parametrize("bad", ["raises", "breaks a constraint", "binds what cannot be bound"])
async def test_an_operation_that_fails_is_undone_alone_and_its_batch_goes_on(
    tmp_path: Path, bad: str
) -> None:
    def fails(connection: sqlite3.Connection) -> None:
        put("half")(connection)
        if bad == "raises":
            raise KeyError("a bug")
        put("before" if bad == "breaks a constraint" else "\ud800")(connection)

    async with running(tmp_path) as journal:
        gate = await Gate.close(journal)
        before = journal.submit(put("before"))
        failing = journal.submit(fails)
        after = journal.submit(put("after"))
        gate.open()
        assert (await before.wait(), await after.wait()) == ("before", "after")
        with pytest.raises((KeyError, sqlite3.IntegrityError, UnicodeEncodeError)):
            await failing.wait()
        assert journal.problem is None
    assert on_disk(tmp_path) == {"before", "after"}


async def test_several_tasks_can_wait_for_one_operation(tmp_path: Path) -> None:
    async with running(tmp_path) as journal:
        good, bad = journal.submit(put("a")), journal.submit(put("a"))
        for _ in range(2):
            assert await good.wait() == "a"
            with pytest.raises(sqlite3.IntegrityError):
                await bad.wait()


# -- a full disk ------------------------------------------------------------


async def test_a_full_disk_refuses_whole_batches_and_the_journal_goes_on_once_there_is_room(
    small_disk: Path,
) -> None:
    acknowledged: set[str] = set()
    refused: list[JournalUnwritable] = []
    filler = small_disk / "filler"

    def put_big(name: str, connection: sqlite3.Connection) -> str:
        connection.execute("INSERT INTO meta VALUES (?, ?)", (name, "x" * 3000))
        return name

    async with running(small_disk) as journal:

        async def client(name: str) -> None:
            try:
                acknowledged.add(await journal.do(partial(put_big, name)))
            except JournalUnwritable as error:
                refused.append(error)

        await client("first")
        with filler.open("wb") as stream:
            stream.write(bytes(300 * 1024))
        for batch in range(40):
            async with trio.open_nursery() as nursery:
                for n in range(4):
                    nursery.start_soon(client, f"{batch}-{n}")
            if refused:
                break
        assert len(acknowledged) > 4
        assert "nothing was recorded" in str(refused[0])
        assert "free space" in str(refused[0])
        assert journal.problem is not None
        assert await journal.do(names) == acknowledged, "half-accepted"
        assert journal.problem is not None, "a mere look at the journal hides the full disk"

        filler.unlink()
        await client("after")
        assert "after" in acknowledged
        assert journal.problem is None
        assert await journal.do(names) == acknowledged
    assert on_disk(small_disk) == acknowledged


async def test_an_operation_that_reads_works_while_the_disk_is_full(small_disk: Path) -> None:
    async with running(small_disk) as journal:
        await journal.do(put("kept"))
        with pytest.raises(OSError, match="No space left"), (small_disk / "f").open("wb") as stream:
            stream.write(bytes(2**20))
        with pytest.raises(JournalUnwritable):
            await journal.do(put("x" * 50_000))
        assert "kept" in await journal.do(names)


async def test_what_only_reads_is_answered_although_a_write_of_its_batch_fails(
    small_disk: Path,
) -> None:
    async with running(small_disk) as journal:
        await journal.do(put("kept"))
        with pytest.raises(OSError, match="No space left"), (small_disk / "f").open("wb") as stream:
            stream.write(bytes(2**20))
        gate = await Gate.close(journal)
        write, read = journal.submit(put("x" * 50_000)), journal.submit(names)
        also, refusal = journal.submit(put("y")), journal.submit(refuse)
        gate.open()
        for pending in (write, also):
            with pytest.raises(JournalUnwritable):
                await pending.wait()
        assert await read.wait() == {"kept"}
        with pytest.raises(NoSuchJob):
            await refusal.wait()
        (small_disk / "f").unlink()
        await journal.do(put("after"))
        assert await journal.do(names) == {"kept", "after"}


def refuse(_: sqlite3.Connection) -> None:
    raise NoSuchJob("there is none")


def test_a_journal_that_cannot_be_opened_says_what_to_look_at(tmp_path: Path) -> None:
    with pytest.raises(JournalUnwritable, match="left as it is; look at the disk of STATE_DIR"):
        Journal.open(tmp_path / "missing")
    (tmp_path / FILE_NAME).write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(JournalDamaged, match="not a database"):
        Journal.open(tmp_path)


# -- schema -----------------------------------------------------------------


def test_a_journal_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    Journal.open(tmp_path)._connection.close()
    path = tmp_path / FILE_NAME
    newer = sqlite3.connect(path)
    newer.execute("CREATE TABLE of_the_future (a)")
    newer.execute(f"PRAGMA user_version = {VERSION + 1}")
    newer.close()
    content = path.read_bytes()

    for _ in range(2):  # the refusal lets go of the file
        with pytest.raises(JournalTooNew, match=f"schema version {VERSION + 1}"):
            Journal.open(tmp_path)
    assert path.read_bytes() == content
    assert files_in(tmp_path) == [FILE_NAME]


async def test_a_journal_is_found_again_as_it_was_left(tmp_path: Path) -> None:
    for n in range(3):
        async with running(tmp_path) as journal:
            await journal.do(put(f"life {n}"))
            assert await journal.do(names) == {f"life {m}" for m in range(n + 1)}


def test_a_second_service_cannot_open_the_journal(tmp_path: Path) -> None:
    first = Journal.open(tmp_path)
    with pytest.raises(JournalUnwritable, match="locked"):
        Journal.open(tmp_path)
    first._connection.close()
    Journal.open(tmp_path)._connection.close()


# -- closing ----------------------------------------------------------------


async def test_closing_flushes_what_was_handed_in_and_leaves_one_file(tmp_path: Path) -> None:
    told: list[outcome.Outcome[str]] = []
    async with running(tmp_path) as journal:
        gate = await Gate.close(journal)
        for n in range(MOST_PER_COMMIT + 10):
            journal.submit(put(str(n)), told.append)
        journal.close()
        journal.close()  # twice is harmless
        gate.open()
    assert len(told) == MOST_PER_COMMIT + 10
    assert files_in(tmp_path) == [FILE_NAME]
    assert on_disk(tmp_path) == {str(n) for n in range(MOST_PER_COMMIT + 10)}


async def test_after_closing_an_operation_is_refused_and_not_run(tmp_path: Path) -> None:
    async with running(tmp_path) as journal:
        journal.close()
        told: list[outcome.Outcome[str]] = []
        pending = journal.submit(put("late"), told.append)
        assert told == [], "told before the caller has what it handed in"
        with pytest.raises(JournalUnwritable, match="stopping"):
            await pending.wait()
        assert isinstance(told[0], outcome.Error)
    assert on_disk(tmp_path) == set()


async def test_cancelling_the_writer_strands_nobody(tmp_path: Path) -> None:
    """A cancelled writer would leave everyone who waits for a commit waiting for ever."""
    journal = Journal.open(tmp_path)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.run, trio.CapacityLimiter(1))
            nursery.cancel_scope.cancel()
            with trio.move_on_after(5, shield=True):
                assert await journal.do(put("during")) == "during"
                journal.close()
    assert on_disk(tmp_path) == {"during"}
