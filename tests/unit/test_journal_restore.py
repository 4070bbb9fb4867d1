"""Whatever becomes of the journal's files: the service has one again, and says what it lost."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
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
    journal_restore,
    recovery_point,
)
from qbm_trio.adapters.journal import FILE_NAME, Journal
from qbm_trio.adapters.journal_copies import CopyFile
from qbm_trio.adapters.journal_damage import PAGE_BYTES, JournalDamaged, is_damage, require_whole
from qbm_trio.adapters.journal_restore import BUILDING, BUILT, DAMAGED, open_journal
from qbm_trio.adapters.journal_schema import VERSION, JournalTooNew
from qbm_trio.core.errors import JournalUnwritable
from qbm_trio.core.lifecycle import Event
from qbm_trio.core.model import Job, JobId, JobState, Notification, OnConflict, TorrentId
from qbm_trio.core.relocation import Event as Happened
from qbm_trio.core.relocation import Relocation, RunId, Step
from tests.rig.damage import DAMAGES, checkpoint, database, flip, wal
from tests.rig.journals import running
from tests.rig.library import snapshot
from tests.rig.records import COPY

NOW = 2e9
SAVED, LATER = 60, 30  #: jobs in the recovery point, and after it
ALL_READ = {
    "bits flipped in the header",
    "bits flipped in the page size",
    "bits flipped in the table of jobs",
    "bits flipped in an index",
    "a letter changed in an index",
    "bits flipped in the copies",
    "pages of zeros",
    "bits flipped in the log",
    "bits flipped in the log's header",
    "cut to nothing, with its log",
    "gone, but for its log",
}
"""Damages of which every job is still read: the others take the data with them."""


def job_id(n: int) -> JobId:
    return JobId(f"{n:016x}")


def notification(n: int) -> Notification:
    return Notification(hash=f"{n:040x}", name="🐉" * 40, priority=n % 7)


def relocation(letter: str, step: Step = Step.PREPARING) -> Relocation:
    return Relocation(
        run_id=RunId("run"),
        group=letter,
        torrent_id=TorrentId(letter * 40),
        name=letter,
        step=step,
        from_path="/ssd/tv",
        to_path="/hdd/tv",
        was_running=True,
        force_start=False,
        auto_management=True,
        download_path="/incomplete",
        bytes=2**50,
    )


FILE = CopyFile(index=0, path="tv/a", size_bytes=7, mtime_ns=5, ours=True, inode=2, source_inode=3)


def fill(connection: sqlite3.Connection) -> None:
    for n in range(SAVED):
        journal_jobs.admit(connection, notification(n), job_id=job_id(n), now=1.0)
    journal_jobs.begin(connection, job_id(0), now=2.0)
    journal_jobs.move(connection, job_id(1), Event.CANCEL, now=2.0)
    journal_facts.set_meta(connection, "first_run_at", "17")
    journal_facts.count(connection, "bytes_copied", 2**60)
    journal_copies.begin(connection, COPY, [FILE])
    journal_copies.published(connection, COPY.torrent_id, now=3.0)
    journal_relocations.begin(connection, [relocation("a")], now=4.0)


def go_on(connection: sqlite3.Connection, n: int) -> None:
    """What comes after the recovery point, a commit each."""
    journal_jobs.admit(connection, notification(n), job_id=job_id(n), now=5.0)
    if n == SAVED:
        for event in (Happened.ADVANCE, Happened.ADVANCE):
            (row,) = [r for r in journal_relocations.open_ones(connection) if r.name == "a"]
            journal_relocations.step(connection, [row.id], event, expected=row.step, now=6.0)
        journal_relocations.begin(connection, [relocation("b")], now=7.0)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state directory of a service that was killed some time after a recovery point."""
    state, kept = tmp_path_factory.mktemp("state"), tmp_path_factory.mktemp("killed")

    async def live() -> None:
        async with running(state) as journal:
            await journal.do(fill)
            await recovery_point.save(journal, now=1e9, limiter=trio.CapacityLimiter(1))
            for n in range(SAVED, SAVED + LATER):
                await journal.do(partial(go_on, n=n))
            for file in state.iterdir():
                (kept / file.name).write_bytes(file.read_bytes())

    trio.run(live)
    return kept


@pytest.fixture
def state(killed: Path, tmp_path: Path) -> Path:
    """A copy of it to be spoiled."""
    folder = tmp_path / "state"
    folder.mkdir()
    for file in killed.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@contextmanager
def opened(state: Path) -> Iterator[Journal]:
    journal = open_journal(state, now=NOW)
    try:
        yield journal
    finally:
        journal._connection.close()


def alive(journal: Journal) -> dict[str, Job]:
    return {job.hash: job for job in journal_job_queries.alive(journal._connection)}


def hashes(*numbers: int) -> set[str]:
    return {f"{n:040x}" for n in numbers}


IN_THE_POINT = hashes(*range(SAVED)) - hashes(1)
EVERYTHING = IN_THE_POINT | hashes(*range(SAVED, SAVED + LATER))


def aside(state: Path) -> list[str]:
    return sorted(p.name for p in state.glob(f"{DAMAGED}-*"))


# -- every kind of damage


def cut_off(path: Path) -> None:
    """Leave a change as a kill does when there is no write-ahead log: half in the database."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in (
            "PRAGMA journal_mode=DELETE",
            "PRAGMA cache_size=1",  # pages are written before the commit
            "BEGIN",
            "CREATE TABLE half (done)",
        ):
            connection.execute(statement)
        connection.executemany("INSERT INTO half VALUES (?)", [("x" * PAGE_BYTES,)] * 9)
        files = {file: file.read_bytes() for file in path.parent.glob(f"{path.name}*")}
    assert set(files) == {path, path.with_name(f"{path.name}-journal")}
    for file, content in files.items():
        file.write_bytes(content)


def test_what_a_kill_cuts_off_before_there_is_a_log_is_taken_back(
    state: Path, tmp_path: Path
) -> None:
    """A first start, and the first after a restore, make a write-ahead log of none."""
    checkpoint(state)
    for folder, expected in ((tmp_path, set[str]()), (state, EVERYTHING)):
        cut_off(database(folder))
        with opened(folder) as journal:
            assert journal.restored is None
            assert set(alive(journal)) == expected
            assert journal._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_what_a_kill_leaves_is_no_damage(state: Path) -> None:
    before = snapshot(state)
    require_whole(database(state))
    assert snapshot(state) == before, "looking changes nothing"
    with opened(state) as journal:
        assert journal.restored is None
        assert set(alive(journal)) == EVERYTHING
    assert not aside(state)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_journal_is_set_aside_and_restored_with_all_that_can_be_read(
    state: Path, name: str
) -> None:
    DAMAGES[name](state)
    files = {p.name for p in state.glob(f"{FILE_NAME}*")}
    damaged = snapshot(state)
    with opened(state) as journal:
        jobs = alive(journal)
        assert set(jobs) == (EVERYTHING if name in ALL_READ else IN_THE_POINT)
        told = {hash_: job_id(int(hash_, 16)) for hash_ in jobs}
        if name != "pages of zeros":  # the index that has the ids is among them
            assert {hash_: job.id for hash_, job in jobs.items()} == told
        # In its order, what ran first.
        recovered = journal_jobs.recover(journal._connection, now=NOW)
        assert (recovered[0].hash, recovered[0].head) == (f"{0:040x}", True)
        said = journal.restored
        assert said is not None
        assert "2001-09-09T01:46:40Z" in said
        assert str(state) not in said
        assert journal_facts.meta(journal._connection, "first_run_at") == "17"
        assert journal_facts.counters(journal._connection)["bytes_copied"] == 2**60
    # Nothing of what was there is changed, and all of it is kept.
    kept = {n.partition(".damaged-")[2].partition("-")[2] for n in aside(state)}
    assert kept == {n.removeprefix(FILE_NAME).removeprefix("-") for n in files}
    for file in files:
        (moved,) = [n for n in aside(state) if _end(n) == _end(file)]
        if (state / moved).is_file():
            assert snapshot(state)[moved] == damaged[file]
    assert not (state / BUILDING).exists()
    assert not (state / f"{FILE_NAME}.salvage").exists()
    # Once: the next start is an ordinary one.
    with opened(state) as journal:
        assert journal.restored is None
        assert set(alive(journal)) == set(jobs)


def _end(name: str) -> str:
    return next((end for end in ("-wal", "-shm", "-journal") if name.endswith(end)), "")


@pytest.mark.parametrize("at", range(0, 32 * 4120, 1511))
def test_a_flipped_bit_anywhere_in_the_log_loses_no_job_without_a_word(
    state: Path, at: int
) -> None:
    """SQLite takes a damaged frame for the log's end, and forgets all behind it."""
    flip(wal(state), at, 1)
    with opened(state) as journal:
        jobs = set(alive(journal))
        # In the text of the schema it costs all that came after the recovery point.
        assert jobs == EVERYTHING or (journal.restored is not None and jobs == IN_THE_POINT)


@pytest.mark.parametrize("cut", [1, 100, 4120, 5000])
def test_a_log_that_a_power_cut_has_torn_is_no_damage(state: Path, cut: int) -> None:
    """In the last commit, which nobody was told of."""
    log = wal(state)
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size - cut)
    require_whole(database(state))


def test_a_torn_last_commit_is_no_damage(state: Path) -> None:
    log = wal(state).read_bytes()
    end = max(n for n, frame in enumerate(_current(log)) if frame) + 1
    flip(wal(state), 32 + end * 4120 - 50, 4)
    require_whole(database(state))


def _current(log: bytes) -> list[bool]:
    from qbm_trio.adapters.journal_damage import frames

    return [frame.current for frame in frames(log)]


# -- what is in the new one


def test_restored_copies_are_records_of_what_was_found_and_proof_of_nothing(state: Path) -> None:
    DAMAGES["garbage"](state)
    with opened(state) as journal:
        copy = journal_copies.find(journal._connection, COPY.torrent_id)
        files = journal_copies.files(journal._connection, COPY.torrent_id)
        assert journal_copies.claims(journal._connection, "tv/a") == [(COPY.torrent_id, False)]
    assert copy is not None
    assert (copy.job_id, copy.published_at, copy.size_bytes) == ("", 3.0, 7)
    assert [(f.path, f.mtime_ns, f.inode, f.source_inode) for f in files] == [("tv/a", 5, 2, 3)]


@pytest.mark.parametrize(
    ("name", "torrents"), [("garbage", {"a"}), ("bits flipped in the header", {"a", "b"})]
)
def test_open_relocations_are_restored_and_nothing_is_believed_of_how_far_they_are(
    state: Path, name: str, torrents: set[str]
) -> None:
    DAMAGES[name](state)
    with opened(state) as journal:
        rows = journal_relocations.recover(journal._connection, now=NOW)
    assert {row.name for row in rows} == torrents
    assert {row.step for row in rows} == {Step.LOCATING}
    for row in rows:
        assert (row.was_running, row.auto_management, row.force_start) == (True, True, False)
        assert (row.from_path, row.to_path) == ("/ssd/tv", "/hdd/tv")
        assert row.download_path == "/incomplete"


def test_a_job_that_has_ended_since_the_recovery_point_is_done_again(state: Path) -> None:
    """Twice is safe; which of the two is right, a damaged file cannot say."""
    with Journal.open(state)._connection as connection:
        journal_jobs.move(connection, job_id(2), Event.CANCEL, now=8.0)
    connection.close()
    flip(database(state), 0)
    with opened(state) as journal:
        assert hashes(2) <= set(alive(journal))


async def test_the_consent_to_have_a_file_moved_is_not_restored(tmp_path: Path) -> None:
    """The job may have ended since, and what stands there by now be a file of somebody else."""
    async with running(tmp_path) as journal:
        admit = partial(journal_jobs.admit, n=notification(1), job_id=job_id(1), now=1.0)
        await journal.do(admit)
        await journal.do(partial(journal_jobs.cancel, job_id=job_id(1), now=2.0))
        again = partial(journal_jobs.again, job_id=job_id(1), on_conflict=OnConflict.SET_ASIDE)
        await journal.do(partial(again, now=3.0))
        await recovery_point.save(journal, now=1e9, limiter=trio.CapacityLimiter(1))
        await journal.do(partial(journal_jobs.begin, job_id=job_id(1), now=4.0))
        await journal.do(partial(journal_jobs.move, job_id=job_id(1), event=Event.FINISH, now=5.0))
    flip(database(tmp_path), 0)
    with opened(tmp_path) as journal:
        assert alive(journal)[f"{1:040x}"].on_conflict is OnConflict.FAIL


def test_what_ran_when_it_was_damaged_goes_first_though_no_recovery_point_has_it(
    state: Path,
) -> None:
    with closing(sqlite3.connect(database(state), isolation_level=None)) as connection:
        journal_jobs.begin(connection, job_id(SAVED + 3), now=8.0)
    DAMAGES["bits flipped in the header"](state)
    with opened(state) as journal:
        first = {job.hash for job in journal_jobs.recover(journal._connection, now=NOW)[:2]}
        assert first == hashes(0, SAVED + 3)


def test_the_higher_priority_of_a_job_that_both_have_is_kept(state: Path) -> None:
    with Journal.open(state)._connection as connection:
        journal_jobs.raise_priority(connection, job_id(2), 99, now=8.0)
    connection.close()
    flip(database(state), 0)
    with opened(state) as journal:
        assert alive(journal)[f"{2:040x}"].priority == 99


def test_a_damaged_page_costs_no_more_than_the_names_of_its_own_jobs(state: Path) -> None:
    checkpoint(state)
    content = database(state).read_bytes()
    row = content.index(b"%016x%040x" % (SAVED + 5, SAVED + 5))  # id and hash, in the table
    flip(database(state), row // PAGE_BYTES * PAGE_BYTES, 8)
    with opened(state) as journal:
        jobs = alive(journal)
    assert set(jobs) == EVERYTHING
    named = [int(hash_, 16) for hash_, job in jobs.items() if job.name == notification(0).name]
    assert SAVED + LATER - 1 in named
    assert SAVED + 5 not in named


def test_rows_that_cannot_be_what_was_written_are_left_out(state: Path) -> None:
    with closing(sqlite3.connect(database(state))) as connection:
        connection.execute("UPDATE jobs SET hash = 'nothing' WHERE id = ?", (job_id(SAVED + 1),))
        connection.execute("UPDATE relocations SET from_path = '' WHERE name = 'b'")
        connection.commit()
    checkpoint(state)
    flip(database(state), 0)
    with opened(state) as journal:
        assert set(alive(journal)) == EVERYTHING - hashes(SAVED + 1)
        rows = journal_relocations.open_ones(journal._connection)
    assert [row.name for row in rows] == ["a"]


def test_a_journal_that_may_not_be_read_is_set_aside_as_it_is(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = database(state).read_bytes()
    real = os.open

    def refuse(path: Any, *args: Any, **kwargs: Any) -> int:
        if Path(path) == database(state):
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        journal = open_journal_once(state, patch)
    assert journal.restored is not None
    assert set(alive(journal)) >= IN_THE_POINT
    journal._connection.close()
    (kept,) = [name for name in aside(state) if not _end(name)]
    assert (state / kept).read_bytes() == before


def open_journal_once(state: Path, patch: pytest.MonkeyPatch) -> Journal:
    """Open it; the new journal may be read again."""
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name == BUILT:
            patch.undo()
        return real(self, target)

    patch.setattr(Path, "rename", rename)
    return open_journal(state, now=NOW)


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_CORRUPT_INDEX])
def test_a_disk_that_does_not_give_it_is_damage(code: int) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    assert is_damage(error)
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    assert not is_damage(error)
    assert not is_damage(sqlite3.OperationalError("of Python's own"))


# -- which recovery point


def later_point(state: Path, text: str | bytes) -> Path:
    path = state / "recovery-20300101T000000.000000Z.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def changed(state: Path, change: Callable[[Any], None]) -> str:
    """The recovery point with a change, its checksum right."""
    (path,) = state.glob(recovery_point.PATTERN)
    content = json.loads(path.read_bytes())
    del content["crc32"]
    change(content)
    body = json.dumps(content).removesuffix("}")
    return f'{body},\n"crc32": {zlib.crc32(body.encode())}}}\n'


def _wrong(*keys: str, value: object) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
            content = content[0] if isinstance(content, list) else content
        content[keys[-1]] = value

    return change


SPOILED: dict[str, Callable[[str], str | bytes]] = {
    "empty": lambda _: "",
    "half": lambda text: text[: len(text) // 2],
    "all but the end": lambda text: text[:-3],
    "a digit changed": lambda text: text.replace('"priority": 3', '"priority": 4', 1),
    "garbage": lambda _: b"\xff\xfe" * 100,
    "another document": lambda _: "[]",
    "very deep": lambda _: "[" * 100_000,
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_recovery_point_that_is_not_whole_is_skipped_with_a_word(
    state: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    (good,) = state.glob(recovery_point.PATTERN)
    bad = later_point(state, SPOILED[name](good.read_text()))
    DAMAGES["garbage"](state)
    with opened(state) as journal:
        assert set(alive(journal)) == IN_THE_POINT
        assert "2001-09-09" in (journal.restored or "")
    assert f"the recovery point {bad} cannot be used" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        _wrong("format", value=2),
        _wrong("jobs", "state", value="unheard of"),
        _wrong("jobs", "hash", value=None),
        _wrong("jobs", "hash", value={"a": 1}),
        _wrong("jobs", "priority", value=2**64),
        _wrong("jobs", value=None),
        _wrong("jobs", value=[1]),
        _wrong("meta", value=[1]),
        _wrong("copies", "files", value=None),
        _wrong("copies", "verification", value="unheard of"),
        _wrong("relocations", "to_path", value=None),
        _wrong("saved_at", value="yesterday"),
    ],
)
def test_a_recovery_point_with_what_this_program_does_not_know_is_skipped(
    state: Path, change: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    bad = later_point(state, changed(state, change))
    DAMAGES["garbage"](state)
    with opened(state) as journal:
        assert set(alive(journal)) == IN_THE_POINT
        assert len(journal_relocations.open_ones(journal._connection)) == 1
    assert f"the recovery point {bad} cannot be used" in caplog.text


def test_the_newest_recovery_point_is_taken_with_fields_of_a_later_program(state: Path) -> None:
    def later(content: Any) -> None:
        content["jobs"][0]["of the future"] = content["copies"][0]["of the future"] = 1
        content["more"] = {}
        content["jobs"] = content["jobs"][:2]

    later_point(state, changed(state, later))
    DAMAGES["garbage"](state)
    with opened(state) as journal:
        assert len(alive(journal)) == 2


def test_a_folder_or_what_cannot_be_read_is_no_recovery_point(state: Path) -> None:
    (state / "recovery-20300101T000000.000000Z.json").mkdir()
    (state / "recovery-20300102T000000.000000Z.json").symlink_to("nowhere")
    (state / ".recovery.part").write_text("{")
    DAMAGES["garbage"](state)
    with opened(state) as journal:
        assert set(alive(journal)) == IN_THE_POINT


def test_without_any_recovery_point_what_can_be_read_is_all_and_it_is_said(
    state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in state.glob(recovery_point.PATTERN):
        path.unlink()
    DAMAGES["bits flipped in the header"](state)
    with opened(state) as journal:
        assert set(alive(journal)) == EVERYTHING
        assert "restored from nothing" in (journal.restored or "")
    assert "there is no recovery point that can be used" in caplog.text


FACTS = {
    "instance_id": "0123456789ab",
    "first_run_at": "17.5",
    "tier.ssd": "01234567-89ab-cdef-0123-456789abcdef",
    "tier.hdd": "11234567-89ab-cdef-0123-456789abcdef",
}


def with_facts(state: Path, facts: dict[str, str], *, point: bool = False) -> None:
    with opened(state) as journal:
        for name, value in facts.items():
            journal_facts.set_meta(journal._connection, name, value)
    for path in () if point else state.glob(recovery_point.PATTERN):
        path.unlink()
    DAMAGES["bits flipped in the header"](state)


def test_without_any_recovery_point_it_still_knows_its_disks_and_its_own_staging(
    state: Path,
) -> None:
    """Else it would mark the empty folder below a disk that is not mounted right now."""
    with_facts(state, FACTS)
    with opened(state) as journal:
        for name, value in FACTS.items():
            assert journal_facts.meta(journal._connection, name) == value


@pytest.mark.parametrize("name", FACTS)
def test_facts_that_cannot_be_what_was_written_are_not_taken(state: Path, name: str) -> None:
    with_facts(state, {**FACTS, name: f"../{FACTS[name]}"})
    with opened(state) as journal:
        assert journal_facts.meta(journal._connection, name) is None


def test_the_first_start_is_still_known_where_the_instances_name_is_lost(state: Path) -> None:
    """Else no lost hook of before would be found, with the jobs that can be read no more."""
    with_facts(state, {**FACTS, "instance_id": "?"})
    with opened(state) as journal:
        name, since = journal_facts.instance(journal._connection, now=NOW)
        assert (len(name), since) == (12, 17.5)


def test_facts_of_the_recovery_point_go_before_those_of_the_damaged_journal(state: Path) -> None:
    with opened(state) as journal:
        journal_facts.set_meta(journal._connection, "first_run_at", "99.5")
    DAMAGES["bits flipped in the header"](state)
    with opened(state) as journal:
        assert journal_facts.meta(journal._connection, "first_run_at") == "17"


@pytest.mark.parametrize("point", [True, False])
def test_what_its_user_had_cancelled_before_the_point_is_not_taken_for_a_lost_hook(
    state: Path, point: bool
) -> None:
    """That its job had ended is forgotten. Without a point, what was accepted may be, too."""
    with_facts(state, FACTS, point=point)
    for now in (NOW, NOW + 9):  # and so it stays
        with opened(state) as journal:
            _, since = journal_facts.instance(journal._connection, now=now)
        assert since == (1e9 - 3600 if point else 17.5)


def test_an_empty_place_without_recovery_points_is_a_first_start(tmp_path: Path) -> None:
    for content in (None, b""):
        if content is not None:  # killed in its first moment
            (tmp_path / FILE_NAME).write_bytes(content)
        with opened(tmp_path) as journal:
            assert journal.restored is None
        (tmp_path / FILE_NAME).unlink()


# -- crash first


class Killed(BaseException):
    """The process is no more."""


@pytest.mark.parametrize("name", ["garbage", "bits flipped in the log", "gone, but for its log"])
def test_a_kill_at_any_step_of_a_restore_loses_nothing(
    state: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    DAMAGES[name](state)
    spoiled = {p.name: p.read_bytes() for p in state.iterdir()}
    expected = EVERYTHING if name in ALL_READ else IN_THE_POINT
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

    for owner, call in ((Path, "rename"), (Path, "replace"), (Path, "unlink"), (os, "fsync")):
        monkeypatch.setattr(owner, call, struck(getattr(owner, call)))
    for kill in range(99):
        folder = state.parent / str(kill)
        folder.mkdir()
        for file, content in spoiled.items():
            (folder / file).write_bytes(content)
        before = snapshot(folder)
        steps_left = kill
        try:
            with opened(folder) as journal:
                assert set(alive(journal)) == expected
                break
        except Killed:
            steps_left = None
            with opened(folder) as journal:
                assert set(alive(journal)) == expected, f"killed at step {kill}"
        # Whatever was there is there still, under some name.
        assert set(before.values()) <= set(snapshot(folder).values())
        assert not (folder / BUILT).exists()
    else:
        pytest.fail("it never ended")
    assert kill > 5


@pytest.mark.parametrize("stuck", [FILE_NAME, BUILT])
def test_what_cannot_be_renamed_is_said_at_each_start_and_restored_once_it_can_be(
    state: Path, stuck: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    DAMAGES["garbage"](state)
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name == stuck:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(self))
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        for _ in range(3):
            with pytest.raises(JournalUnwritable, match=r"busy.*; look at the disk of STATE_DIR"):
                open_journal(state, now=NOW)
    with opened(state) as journal:
        assert set(alive(journal)) == IN_THE_POINT
        assert journal.restored is not None
    assert not (state / BUILT).exists()


# -- what is no damage


def test_the_new_journal_and_its_name_are_on_the_disk_before_a_file_is_renamed(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kill cannot show: a power cut takes what was not synced."""
    DAMAGES["garbage"](state)
    steps: list[str] = []
    real_fill = journal_restore._fill
    real_replace, real_rename = Path.replace, Path.rename

    def fill(connection: sqlite3.Connection, point: journal_restore.Point) -> str:
        (level,) = connection.execute("PRAGMA synchronous").fetchone()
        steps.append(f"built, synchronous={level}")
        return real_fill(connection, point)

    def sync(folder: Path) -> None:
        recovery_point.sync_folder(folder)
        steps.append("synced")

    def replace(self: Path, target: Path) -> Path:
        steps.append(f"replaced {target.name}")
        return real_replace(self, target)

    def rename(self: Path, target: Path) -> Path:
        if self.exists():
            steps.append(f"renamed {self.name}")
        return real_rename(self, target)

    monkeypatch.setattr(journal_restore, "_fill", fill)
    monkeypatch.setattr(journal_restore, "sync_folder", sync)
    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(Path, "rename", rename)
    with opened(state):
        assert steps == [
            "built, synchronous=2",  # which is FULL
            f"replaced {BUILT}",
            "synced",
            f"renamed {FILE_NAME}",
            f"renamed {BUILT}",
            "synced",
        ]


def test_a_newer_journal_is_refused_and_left_as_it_is_beside_recovery_points(state: Path) -> None:
    checkpoint(state)
    with closing(sqlite3.connect(database(state))) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    before = snapshot(state)
    with pytest.raises(JournalTooNew):
        open_journal(state, now=NOW)
    assert {k: v for k, v in snapshot(state).items() if not k.endswith("-wal")} == {
        k: v for k, v in before.items() if not k.endswith("-wal")
    }


def test_a_journal_that_another_process_has_is_not_damaged(state: Path) -> None:
    first = Journal.open(state)
    with pytest.raises(JournalUnwritable, match="locked"):
        open_journal(state, now=NOW)
    first._connection.close()


def test_on_a_full_disk_the_damaged_journal_stays_until_there_is_room(
    state: Path, small_disk: Path
) -> None:
    DAMAGES["garbage"](state)
    for file in state.iterdir():
        (small_disk / file.name).write_bytes(file.read_bytes())
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"):
        ballast.write_bytes(bytes(2**24))
    before = snapshot(small_disk)
    with pytest.raises(JournalUnwritable, match=r"cannot be restored: .*; it is left as it is"):
        open_journal(small_disk, now=NOW)
    after = snapshot(small_disk)
    assert {k: v for k, v in after.items() if k in before} == before
    ballast.unlink()
    with opened(small_disk) as journal:
        assert set(alive(journal)) == IN_THE_POINT


async def test_damage_that_shows_later_is_told_and_nothing_more_is_written(tmp_path: Path) -> None:
    async with running(tmp_path) as journal:
        await journal.do(partial(journal_facts.set_meta, name="a", value="1"))
        assert not journal.damaged.is_set()

        def corrupt(connection: sqlite3.Connection) -> None:
            journal_facts.set_meta(connection, "b", "1")
            error = sqlite3.DatabaseError("database disk image is malformed")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error

        with pytest.raises(JournalUnwritable, match=r"the journal is damaged .* next start"):
            await journal.do(corrupt)
        assert journal.damaged.is_set()
        with pytest.raises(JournalUnwritable, match="the journal is damaged"):
            await journal.do(partial(journal_facts.set_meta, name="c", value="1"))
    with closing(sqlite3.connect(database(tmp_path))) as connection:
        assert connection.execute("SELECT name FROM meta").fetchall() == [("a",)]


def test_states_of_jobs_are_those_that_the_queue_knows(state: Path) -> None:
    DAMAGES["garbage"](state)
    with opened(state) as journal:
        states = {job.state for job in alive(journal).values()}
    assert states == {JobState.QUEUED, JobState.RUNNING}


def test_what_is_in_the_place_of_the_journal_is_named(tmp_path: Path) -> None:
    database(tmp_path).mkdir()
    with pytest.raises(JournalDamaged, match=r"a folder stands in the place of journal\.sqlite3"):
        require_whole(database(tmp_path))
    database(tmp_path).rmdir()
    os.mkfifo(database(tmp_path))
    with pytest.raises(JournalDamaged, match="no file stands in the place"):
        require_whole(database(tmp_path))
