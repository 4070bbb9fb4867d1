"""The old tool's queue is taken over once, whatever lies in it and whatever comes between."""

from __future__ import annotations

import errno
import json
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from qbm_trio.adapters import journal_facts, journal_job_queries, journal_jobs, recovery_point
from qbm_trio.adapters.journal import Journal
from qbm_trio.core.errors import JournalUnwritable
from qbm_trio.core.lifecycle import Event
from qbm_trio.core.model import Job, JobId, JobState, Notification, Outcome
from qbm_trio.tasks import legacy
from qbm_trio.tasks.legacy import TAKEN, take_legacy
from tests.fakes.qbittorrent import FakeQbittorrent
from tests.rig.inside import inside
from tests.rig.journals import running
from tests.rig.library import snapshot
from tests.rig.mounts import mounted, run


def hash_of(n: int) -> str:
    return f"{n:040x}"


def queue(state: Path, *numbers: int, at: Callable[[int], float] = lambda n: 1.6e9 + n) -> None:
    folder = state / "queue"
    folder.mkdir(parents=True, exist_ok=True)
    for n in numbers:
        (folder / f"{hash_of(n)}_{at(n):.0f}.queue").write_text(f"{hash_of(n)}\n{at(n):.0f}\n")


def state_file(state: Path, **parts: Any) -> Path:
    path = state / "state" / "orchestrator_state.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": "1.0", **parts}))
    return path


def names(state: Path) -> list[str]:
    return sorted(
        str(p.relative_to(state))
        for folder in ("queue", "state")
        for p in (state / folder).rglob("*")
    )


def migrated(state: Path) -> list[Path]:
    return list(state.rglob("*.migrated"))


def points(state: Path) -> list[Path]:
    return list(state.glob(recovery_point.PATTERN))


@asynccontextmanager
async def taken(state: Path, *, dry_run: bool = False) -> AsyncIterator[Journal]:
    async with running(state) as journal:
        limiter = trio.CapacityLimiter(1)

        async def save() -> recovery_point.SavedState:
            return await recovery_point.save(journal, now=time.time(), limiter=limiter)

        await take_legacy(journal, save, dry_run=dry_run)
        yield journal


async def alive(journal: Journal) -> list[Job]:
    return await journal.do(journal_job_queries.alive)


async def test_everything_is_taken_in_its_order_and_renamed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    queue(tmp_path, 1, 2, 3, at=lambda n: 9e9 if n == 3 else 1.6e9 + n)
    state_file(
        tmp_path,
        queue_items=[
            {"torrent_data": {"hash": hash_of(3), "name": "three"}, "priority": 2},
            {"torrent_data": {"hash": hash_of(4)}, "queued_time": 1.5e9},
        ],
        running_processes=[{"torrent_hash": hash_of(9)}],
    )
    async with taken(tmp_path) as journal:
        jobs = await alive(journal)
        assert await journal.do(partial(journal_facts.meta, name=TAKEN)) is None
    assert [(int(j.hash, 16), j.priority, j.head) for j in jobs] == [
        (9, 0, True),
        (3, 2, False),
        (4, 0, False),
        (1, 0, False),
        (2, 0, False),
    ]
    assert jobs[1].name == "three"
    assert jobs[3].accepted_at == 1.6e9 + 1
    assert jobs[1].accepted_at <= time.time(), "its file says when a clock was wrong"
    assert names(tmp_path) == [
        *(f"queue/{hash_of(n)}_{1600000000 + n}.queue.migrated" for n in (1, 2)),
        f"queue/{hash_of(3)}_9000000000.queue.migrated",
        "state/orchestrator_state.json.migrated",
    ]
    # A recovery point has them, too: their files are gone for good now.
    (point,) = points(tmp_path)
    assert len(json.loads(point.read_bytes())["jobs"]) == 5
    (said,) = [line for line in caplog.messages if line.startswith("took over")]
    assert said == "took over 5 torrents of the old tool (1 of them running then) from 4 files"
    async with taken(tmp_path) as journal:
        assert len(await alive(journal)) == 5


async def test_damaged_ones_are_renamed_said_and_stop_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    queue(tmp_path, 1, 2)
    folder = tmp_path / "queue"
    (folder / "empty.queue").touch()
    (folder / "huge.queue").write_bytes(hash_of(5).encode() + b"\n" * 10**6)
    (folder / os.fsdecode(b"odd \xff\n.queue")).write_text(hash_of(6))
    (folder / "other.txt").write_text("not ours")
    state_file(tmp_path, queue_items=[{"torrent_data": {"hash": hash_of(7)}}, {"torrent_data": 1}])
    async with taken(tmp_path) as journal:
        assert {int(job.hash, 16) for job in await alive(journal)} == {1, 2, 6, 7}
    assert names(tmp_path) == sorted(
        [
            *(f"queue/{hash_of(n)}_{1600000000 + n}.queue.migrated" for n in (1, 2)),
            "queue/empty.queue.invalid",
            "queue/huge.queue.invalid",
            os.fsdecode(b"queue/odd \xff\n.queue.migrated"),
            "queue/other.txt",
            # Not all of it could be used: it says so, and is kept.
            "state/orchestrator_state.json.invalid",
        ]
    )
    assert "from 6 files; not taken whole, and now called *.invalid: 3" in caplog.text
    for said in ("empty.queue: its first line", "huge.queue: it is larger", "queue_items[1]"):
        assert said in caplog.text


async def test_what_is_no_file_is_left_and_not_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    queue(tmp_path, 1)
    outside = tmp_path / "outside"
    outside.write_text(hash_of(5))
    folder = tmp_path / "queue"
    (folder / "link.queue").symlink_to(outside)
    (folder / "folder.queue").mkdir()
    os.mkfifo(folder / "pipe.queue")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "orchestrator_state.json").symlink_to(outside)
    before = snapshot(outside.parent / "outside") if outside.is_dir() else outside.read_text()
    with trio.fail_after(10):
        async with taken(tmp_path) as journal:
            assert [job.hash for job in await alive(journal)] == [hash_of(1)]
    assert outside.read_text() == before
    assert {"queue/link.queue", "queue/folder.queue", "queue/pipe.queue"} <= set(names(tmp_path))
    assert "state/orchestrator_state.json" in names(tmp_path)
    assert caplog.text.count("is no regular file") == 4


async def test_folders_that_are_links_are_not_followed(tmp_path: Path) -> None:
    queue(tmp_path / "elsewhere", 1)
    state_file(tmp_path / "elsewhere", running_processes=[hash_of(2)])
    for name in ("queue", "state"):
        (tmp_path / name).symlink_to(tmp_path / "elsewhere" / name)
    async with taken(tmp_path) as journal:
        assert await alive(journal) == []
    assert not migrated(tmp_path)


async def test_a_name_that_is_taken_is_not_replaced(tmp_path: Path) -> None:
    queue(tmp_path, 1)
    (file,) = (tmp_path / "queue").iterdir()
    earlier = file.with_name(f"{file.name}.migrated")
    earlier.write_text("of an earlier time")
    async with taken(tmp_path):
        pass
    assert earlier.read_text() == "of an earlier time"
    assert file.with_name(f"{file.name}.2.migrated").read_text().startswith(hash_of(1))


async def test_without_anything_of_the_old_tool_nothing_is_done(tmp_path: Path) -> None:
    (tmp_path / "queue").write_text("a file")
    async with taken(tmp_path) as journal:
        assert await alive(journal) == []
    assert not points(tmp_path)


async def test_a_dry_run_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    queue(tmp_path, 1, 2)
    state_file(tmp_path, running_processes=[hash_of(2)])
    before = names(tmp_path)
    async with taken(tmp_path, dry_run=True) as journal:
        assert await alive(journal) == []
    assert names(tmp_path) == before
    assert "dry run: would take over 2 torrents from 3 files" in caplog.text


async def test_a_torrent_that_has_a_job_keeps_it_with_the_higher_priority(tmp_path: Path) -> None:
    async with running(tmp_path) as journal:
        notification = Notification(hash=hash_of(1), priority=1)
        await journal.do(
            partial(journal_jobs.admit, n=notification, job_id=JobId("known"), now=1.0)
        )
    queue(tmp_path, 1)
    state_file(
        tmp_path,
        queue_items=[{"torrent_data": {"hash": hash_of(1)}, "priority": 5}],
        running_processes=[hash_of(1)],
    )
    async with taken(tmp_path) as journal:
        (job,) = await alive(journal)
    assert (job.id, job.priority, job.head) == ("known", 5, True)


# -- crash first


class Killed(Exception):
    """The process is no more."""


def finish_all(connection: sqlite3.Connection) -> None:
    for job in journal_job_queries.alive(connection):
        if job.state is JobState.QUEUED:
            journal_jobs.begin(connection, job.id, now=2.0)
        changes = {"outcome": Outcome.TIERED}
        journal_jobs.move(connection, job.id, Event.FINISH, now=3.0, changes=changes)


@pytest.mark.parametrize("done_meanwhile", [False, True])
async def test_a_kill_at_any_step_takes_nothing_twice_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done_meanwhile: bool
) -> None:
    steps_left: int | None = None

    def struck(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal steps_left
            if steps_left is not None:
                if steps_left == 0:
                    raise Killed
                steps_left -= 1
            return real(*args, **kwargs)

        return step

    monkeypatch.setattr(Path, "rename", struck(Path.rename))
    monkeypatch.setattr(recovery_point, "_write", struck(recovery_point._write))
    monkeypatch.setattr(legacy, "_note", struck(legacy._note))
    for kill in range(50):
        state = tmp_path / str(kill)
        queue(state, 1, 2, 3)
        state_file(state, running_processes=[hash_of(2), hash_of(4)])
        steps_left = kill
        killed = False
        try:
            async with taken(state):
                pass
        except* Killed:
            killed = True
        steps_left = None
        if done_meanwhile:
            async with running(state) as journal:
                await journal.do(finish_all)
        for _ in range(2):
            async with taken(state) as journal:
                jobs = await journal.do(partial(journal_job_queries.newest, limit=99))
                assert sorted(int(job.hash, 16) for job in jobs) == [1, 2, 3, 4], kill
                assert await journal.do(partial(journal_facts.meta, name=TAKEN)) is None
        assert len(migrated(state)) == 4
        if not done_meanwhile:  # nor would a damaged journal
            assert len(recovery_point.load(max(points(state)))["jobs"]) == 4, kill
        if not killed:
            break
    assert kill > 5


async def test_the_new_names_are_on_the_disk_before_it_is_forgotten_that_they_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut between the two would have the next start take them once more."""
    queue(tmp_path, 1, 2)
    state_file(tmp_path, running_processes=[hash_of(2)])
    steps: list[str] = []
    real_note, real_sync = legacy._note, recovery_point.sync_folder

    def note(connection: sqlite3.Connection, *, keys: Collection[str]) -> None:
        real_note(connection, keys=keys)
        steps.append(f"{len(keys)} are noted")

    def sync(folder: Path) -> None:
        real_sync(folder)
        assert not list(folder.glob("*.queue")) + list(folder.glob("*.json"))
        steps.append(f"{folder.name} is synced")

    monkeypatch.setattr(legacy, "_note", note)
    monkeypatch.setattr("qbm_trio.adapters.legacy_files.sync_folder", sync)
    async with taken(tmp_path):
        pass
    assert (steps[0], steps[-1]) == ("3 are noted", "0 are noted")
    assert sorted(steps[1:-1]) == ["queue is synced", "state is synced"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
async def test_files_that_cannot_be_renamed_are_said_and_taken_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with mounted(tmp_path / "queue") as folder:
        queue(tmp_path, 1, 2)
        run("mount", "-o", "remount,ro", str(folder))
        for life in range(3):
            async with taken(tmp_path) as journal:
                jobs = await journal.do(partial(journal_job_queries.newest, limit=99))
                assert len(jobs) == 2
                if life == 0:
                    await journal.do(finish_all)
            assert caplog.text.count("2 files of the old tool keep their names") == life + 1
        run("mount", "-o", "remount,rw", str(folder))
        # Another one comes while these are known.
        queue(tmp_path, 3)
        async with taken(tmp_path) as journal:
            assert [job.hash for job in await alive(journal)] == [hash_of(3)]
            assert len(await journal.do(partial(journal_job_queries.newest, limit=99))) == 3
        assert all(path.suffix == ".migrated" for path in folder.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("what", ["the folder", "a file", "all files"])
async def test_what_cannot_be_read_for_once_is_still_known_as_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    real_open, real_iterdir = os.open, Path.iterdir

    def refuse(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith(".queue") and (what == "all files" or hash_of(2) in str(path)):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real_open(path, *args, **kwargs)

    def iterdir(self: Path) -> Iterator[Path]:
        if self.name == "queue":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real_iterdir(self)

    with mounted(tmp_path / "queue") as folder:
        queue(tmp_path, 1, 2)
        run("mount", "-o", "remount,ro", str(folder))
        async with taken(tmp_path) as journal:
            await journal.do(finish_all)
        with monkeypatch.context() as patch:
            if what == "the folder":
                patch.setattr(Path, "iterdir", iterdir)
            else:
                patch.setattr(os, "open", refuse)
            async with taken(tmp_path):
                pass
        run("mount", "-o", "remount,rw", str(folder))
        async with taken(tmp_path) as journal:
            assert await alive(journal) == []
            assert await journal.do(partial(journal_facts.meta, name=TAKEN)) is None
        assert len(migrated(tmp_path)) == 2


async def test_one_that_cannot_be_read_is_left_for_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    queue(tmp_path, 1, 2)
    unreadable = hash_of(2)
    real = os.open

    def refuse(path: Any, *args: Any, **kwargs: Any) -> int:
        if unreadable in str(path):
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        async with taken(tmp_path) as journal:
            assert [job.hash for job in await alive(journal)] == [hash_of(1)]
    assert "it is tried again at the next start" in caplog.text
    async with taken(tmp_path) as journal:
        assert len(await alive(journal)) == 2


async def test_a_journal_that_refuses_takes_nothing_and_renames_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue(tmp_path, 1)
    before = names(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(journal_facts, "set_meta", full)
    with pytest.raises(ExceptionGroup) as caught:
        async with taken(tmp_path):
            pass
    assert caught.group_contains(JournalUnwritable)
    assert names(tmp_path) == before


async def test_a_start_whose_recovery_point_cannot_be_written_says_so(tmp_path: Path) -> None:
    state = tmp_path / "state"
    queue(state, 1)
    before = names(state)
    (state / ".recovery.part").mkdir()
    with pytest.raises(ExceptionGroup) as caught:
        async with inside(tmp_path, client=FakeQbittorrent()):
            pass
    said = "^cannot start: the recovery point .* cannot be written: Is a directory; free space"
    assert caught.group_contains(JournalUnwritable, match=said)
    assert names(state) == before


async def test_ten_thousand_files_are_taken_in_one_commit_and_soon(tmp_path: Path) -> None:
    queue(tmp_path, *range(10_000))
    began = time.monotonic()
    async with taken(tmp_path) as journal:
        took_s = time.monotonic() - began
        assert len(await alive(journal)) == 10_000
    assert took_s < 20
    assert len(migrated(tmp_path)) == 10_000


async def test_the_service_takes_them_at_its_start_beyond_the_capacity_of_its_queue(
    tmp_path: Path,
) -> None:
    queue(tmp_path / "state", *range(1, 9))
    async with inside(tmp_path, client=FakeQbittorrent(), QUEUE_CAPACITY="3") as service:
        jobs = await service.service.jobs.newest(state=None, limit=99, after=None)
    assert {int(job.hash, 16) for job in jobs} == set(range(1, 9))
