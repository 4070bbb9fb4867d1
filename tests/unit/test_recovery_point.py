"""A recovery point is whole or absent, five are kept, and one alone restores the queue."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from qbm_trio.adapters import (
    journal_copies,
    journal_facts,
    journal_job_queries,
    journal_jobs,
    journal_relocations,
    recovery_point,
)
from qbm_trio.adapters.journal_copies import Copy, CopyFile
from qbm_trio.core.errors import JournalUnwritable
from qbm_trio.core.lifecycle import Event
from qbm_trio.core.model import Job, JobId, Notification, TorrentId, Verification, WaitReason
from qbm_trio.core.relocation import Event as Happened
from qbm_trio.core.relocation import Relocation, RunId, Step
from tests.rig.journals import running

ROOT = Path(__file__).parents[2]


def points(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.glob(recovery_point.PATTERN))


def hidden(folder: Path) -> list[Path]:
    return list(folder.glob(".*"))


def load(path: str | Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(path).read_bytes())
    return content


async def test_a_point_holds_every_field_of_all_that_must_outlive_the_journal(
    tmp_path: Path,
) -> None:
    torrent = TorrentId("a" * 40)
    copy = Copy(
        torrent_id=torrent,
        job_id=JobId("1"),
        destination="tv",
        save_root="/ssd",
        category="tv",
        name="🐉\n",
        verification=Verification.PIECES,
        size_bytes=2**50,
        begun_at=1.5,
        published_at=None,
    )
    moving, ended = (
        Relocation(
            run_id=RunId("run"),
            group=letter,
            torrent_id=TorrentId(letter * 40),
            name="🐉\n",
            from_path="/ssd/tv",
            to_path="/hdd/tv",
            was_running=True,
            force_start=False,
            auto_management=True,
            download_path="/incomplete",
            bytes=2**50,
        )
        for letter in "ab"
    )
    entry = CopyFile(
        index=0,
        path="tv/\u2028",
        size_bytes=1,
        mtime_ns=None,
        ours=True,
        inode=2**62,
        source_inode=2**63 - 1,
    )

    async with running(tmp_path) as journal:

        def fill(db: Any) -> None:
            for n in range(4):
                journal_jobs.admit(
                    db,
                    Notification(hash=f"{n:040x}", name="Ünï '\"🐉", priority=n, category="a/b"),
                    job_id=JobId(str(n)),
                    now=n + 0.25,
                )
            journal_jobs.begin(db, JobId("1"), now=5)
            journal_jobs.move(
                db,
                JobId("2"),
                Event.WAIT,
                now=6,
                changes={"wait_reason": WaitReason.RETRY, "next_at": 66.5, "attempts": 2},
            )
            journal_jobs.cancel(db, JobId("3"), now=7)
            journal_facts.set_meta(db, "first_run_at", "1")
            journal_facts.count(db, "bytes_copied", 2**60)
            journal_copies.begin(db, copy, [entry])
            for relocation in (moving, ended):
                journal_relocations.begin(db, [relocation], now=8.5)
            journal_relocations.step(db, [2], Happened.GONE, expected=Step.PREPARING, now=9)

        await journal.do(fill)
        saved = await recovery_point.save(journal, now=1e9, limiter=trio.CapacityLimiter(1))
        alive = await journal.do(journal_job_queries.alive)
        relocating = await journal.do(journal_relocations.open_ones)

    assert saved.counts == {"relocations": 1, "jobs": 3, "copies": 1, "copy_files": 1}
    assert saved.saved_at == 1e9
    content = load(saved.path)
    assert content["format"] == recovery_point.FORMAT
    assert content["meta"] == {"first_run_at": "1"}
    assert content["counters"] == {"bytes_copied": 2**60}
    # Rebuilt from the text alone, each value equals the one in the journal.
    assert [Job(**row) for row in content["jobs"]] == alive
    assert len(alive) == 3
    assert [Relocation(**row) for row in content["relocations"]] == relocating
    assert [row.torrent_id for row in relocating] == [moving.torrent_id]
    (row,) = content["copies"]
    assert [CopyFile(**f) for f in row.pop("files")] == [entry]
    assert Copy(**row) == copy


async def test_the_newest_five_are_kept_even_when_the_clock_was_set_back(tmp_path: Path) -> None:
    async with running(tmp_path) as journal:
        limiter = trio.CapacityLimiter(1)
        made = [
            Path((await recovery_point.save(journal, now=1e9 + n, limiter=limiter)).path).name
            for n in range(8)
        ]
        assert points(tmp_path) == made[-5:]
        # The last is the newest, whatever the clock says: a restore begins with it.
        late = await recovery_point.save(journal, now=5e8, limiter=limiter)
        assert points(tmp_path) == [*made[-4:], Path(late.path).name]
        assert load(late.path)["saved_at"] == late.saved_at == 5e8
    assert not hidden(tmp_path)


async def test_a_disk_that_refuses_is_reported_and_earlier_points_stay(small_disk: Path) -> None:
    limiter = trio.CapacityLimiter(1)
    filler = trio.Path(small_disk / "filler")
    async with running(small_disk) as journal:
        await recovery_point.save(journal, now=1e9, limiter=limiter)
        with pytest.raises(OSError, match="No space"):
            await filler.write_bytes(bytes(2**20))
        before = points(small_disk)
        assert len(before) == 1
        with pytest.raises(JournalUnwritable, match="No space left on device; free space"):
            await recovery_point.save(journal, now=2e9, limiter=limiter)
        assert points(small_disk) == before
        assert not hidden(small_disk)
        await filler.unlink()
        await recovery_point.save(journal, now=2e9, limiter=limiter)
        assert len(points(small_disk)) == 2


def fill_with_copies(db: sqlite3.Connection, *, copies: int, files: int) -> None:
    """Many published copies; one in three has no file."""
    for n in range(copies):
        torrent = f"{n:040x}"
        db.execute(
            "INSERT INTO copies VALUES (?, 'j', 'tv', '/ssd', 'tv', 'n', 'pieces', 1, ?, 2.5)",
            (torrent, 1e9 + n / 7),  # more digits than SQLite writes
        )
        db.executemany(
            "INSERT INTO copy_files VALUES (?, ?, ?, 1, 5, ?, 8, 6)",
            [(torrent, i, f'tv/"{n}"\\/\x01 {i}', i % 2) for i in range(files * (n % 3 > 0))],
        )


async def test_many_copies_are_read_in_pages_between_which_others_use_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery_point, "PAGE", 10)
    async with running(tmp_path) as journal:
        await journal.do(partial(fill_with_copies, copies=30, files=7))
        expected = await journal.do(
            lambda db: [
                (journal_copies.find(db, tid), journal_copies.files(db, tid))
                for tid in (TorrentId(f"{n:040x}") for n in range(30))
            ]
        )
        turns = 0
        real = recovery_point._copies

        def page(db: sqlite3.Connection, *, after: str) -> Any:
            nonlocal turns
            turns += 1
            found = real(db, after=after)
            assert found.files <= 10 + 7, "a page and the rest of a copy at most"
            return found

        monkeypatch.setattr(recovery_point, "_copies", page)
        saved = await recovery_point.save(journal, now=1e9, limiter=trio.CapacityLimiter(1))
    assert turns > 10
    rows = load(saved.path)["copies"]
    found = [([CopyFile(**f) for f in row.pop("files")], Copy(**row)) for row in rows]
    assert [(copy, files) for files, copy in found] == expected
    assert saved.counts == {"relocations": 0, "jobs": 0, "copies": 30, "copy_files": 140}


async def test_a_save_that_is_cancelled_between_two_pages_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery_point, "PAGE", 10)
    limiter = trio.CapacityLimiter(1)
    async with running(tmp_path) as journal:
        await journal.do(partial(fill_with_copies, copies=30, files=7))
        real, pages = recovery_point._copies, 0
        with trio.CancelScope() as scope:

            def page(db: sqlite3.Connection, *, after: str) -> Any:
                nonlocal pages
                pages += 1
                if pages == 3:
                    trio.from_thread.run_sync(scope.cancel)
                return real(db, after=after)

            monkeypatch.setattr(recovery_point, "_copies", page)
            await recovery_point.save(journal, now=1e9, limiter=limiter)
        assert scope.cancelled_caught
        assert pages < 6
        assert not points(tmp_path)
        assert not hidden(tmp_path)
        monkeypatch.setattr(recovery_point, "_copies", real)
        await recovery_point.save(journal, now=1e9, limiter=limiter)
        assert len(points(tmp_path)) == 1


def test_a_point_gets_its_name_only_after_all_of_it_is_on_the_disk_and_then_the_name_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[str, int]] = []
    fsync, replace = os.fsync, Path.replace

    def spy_fsync(fd: int) -> None:
        status = os.fstat(fd)
        steps.append(("folder", 0) if stat.S_ISDIR(status.st_mode) else ("file", status.st_size))
        fsync(fd)

    def spy_replace(self: Path, target: Path) -> Path:
        steps.append(("rename", 0))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    size = recovery_point._write(tmp_path, ["{" * 5, "y" * 7], 1e9).stat().st_size
    assert size > 12
    assert steps == [("file", size), ("rename", 0), ("folder", 0)]


SAVE_IN_A_LOOP = """
import sys, trio
from pathlib import Path
from qbm_trio.adapters.recovery_point import _write
pieces = ['{"jobs": [', *['{"name": "%s"},\\n' % ("x" * 1000)] * 499, '{}], "end": true']
print("ready", flush=True)
n = 0
while True:
    n += 1
    _write(Path(sys.argv[1]), pieces, 1e9 + n)
"""


def test_a_point_is_whole_or_absent_when_the_process_is_killed_at_any_moment(
    tmp_path: Path,
) -> None:
    dice = random.Random(5)
    for n in range(8):
        folder = tmp_path / str(n)
        folder.mkdir()
        with subprocess.Popen(
            [sys.executable, "-c", SAVE_IN_A_LOOP, str(folder)], stdout=subprocess.PIPE, cwd=ROOT
        ) as child:
            try:
                assert child.stdout is not None
                assert child.stdout.readline() == b"ready\n"
                until = time.monotonic() + 10
                while not points(folder) and time.monotonic() < until:
                    pass
                moment = time.monotonic() + 0.1 + dice.random() * 0.05
                while time.monotonic() < moment:
                    # A reader in between never sees half of one; perhaps that it is gone,
                    # when it is so slow that five newer ones came meanwhile.
                    newest = folder / points(folder)[-1]
                    with suppress(FileNotFoundError):
                        assert newest.read_bytes().endswith(b"}\n")
            finally:
                child.send_signal(signal.SIGKILL)
        found = points(folder)
        assert 1 <= len(found) <= 6, "five, and perhaps the one whose elders it had no time to drop"
        for name in found:
            assert load(folder / name)["end"] is True
