"""What was published stays known, file by file, apart from the jobs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from qbm_trio.adapters import journal_copies as ops
from qbm_trio.adapters import journal_jobs
from qbm_trio.adapters.journal import Journal
from qbm_trio.adapters.journal_copies import Copy, CopyFile
from qbm_trio.core.lifecycle import Event
from qbm_trio.core.model import JobId, Notification, TorrentId, Verification

A, B = TorrentId("a" * 40), TorrentId("b" * 40)
COPY = Copy(
    torrent_id=A,
    job_id=JobId("j"),
    destination="tv/Ünï",
    save_root="/downloads/ssd",
    category="tv/Ünï",
    name="n",
    verification=Verification.READBACK,
    size_bytes=2**41,
    begun_at=5.0,
    published_at=None,
)


def entry(index: int, path: str, *, ours: bool, mtime_ns: int = 1, inode: int = 9) -> CopyFile:
    return CopyFile(index=index, path=path, size_bytes=7, mtime_ns=mtime_ns, ours=ours, inode=inode)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = Journal.open(tmp_path)._connection
    yield connection
    connection.close()


def test_a_copy_is_begun_with_its_files_and_published_with_their_times(
    db: sqlite3.Connection,
) -> None:
    files = [
        entry(0, "tv/Ünï/0", ours=True, mtime_ns=2**62),
        entry(2, "tv/Ünï/2", ours=False, inode=2**63 - 1),
    ]
    assert ops.find(db, A) is None
    ops.begin(db, COPY, files)
    assert ops.find(db, A) == COPY
    assert ops.files(db, A) == files
    ops.published(db, A, now=9.0)
    assert ops.find(db, A) == replace(COPY, published_at=9.0)
    assert ops.files(db, A) == files


def test_a_copy_begun_anew_is_unpublished_forgets_old_files_and_keeps_what_is_ours(
    db: sqlite3.Connection,
) -> None:
    ops.begin(db, COPY, [entry(0, "a", ours=True), entry(1, "b", ours=False), entry(2, "c", ours=True)])  # fmt: skip  # noqa: E501
    ops.published(db, A, now=6.0)
    # Found again at its place, the file looks like anyone's; the journal knows better.
    ops.begin(db, COPY, [entry(0, "a", ours=False), entry(1, "b", ours=False)])
    assert ops.find(db, A) == COPY
    assert ops.files(db, A) == [entry(0, "a", ours=True), entry(1, "b", ours=False)]


@pytest.mark.parametrize(
    ("found", "ours"),
    [
        ({}, True),
        ({"inode": 10}, False),
        ({"mtime_ns": 2}, False),
        ({"size_bytes": 8}, False),
        ({"inode": None}, False),
    ],
    ids=["the very file", "another file", "written to", "another size", "not known"],
)
def test_what_was_only_begun_makes_no_other_file_ours(
    db: sqlite3.Connection, found: dict[str, int], ours: bool
) -> None:
    """A foreign file may have come between, and kept us from publishing."""
    begun = entry(0, "a", ours=True)
    ops.begin(db, COPY, [begun])
    again = replace(begun, ours=False, **found)  # type: ignore[arg-type]
    ops.begin(db, COPY, [again])
    ops.published(db, A, now=6.0)
    assert ops.files(db, A) == [replace(again, ours=ours)]


def test_a_file_of_an_unknown_inode_is_not_taken_for_the_one_begun(db: sqlite3.Connection) -> None:
    unknown = replace(entry(0, "a", ours=True), inode=None)
    ops.begin(db, COPY, [unknown])
    ops.begin(db, COPY, [replace(unknown, ours=False)])
    assert [f.ours for f in ops.files(db, A)] == [False]


def test_claims_name_every_torrent_that_has_the_path_and_whose_file_it_is(
    db: sqlite3.Connection,
) -> None:
    ops.begin(db, COPY, [entry(0, "shared", ours=True), entry(1, "mine", ours=True)])
    ops.begin(db, replace(COPY, torrent_id=B), [entry(0, "shared", ours=False)])
    assert sorted(ops.claims(db, "shared")) == [(A, True), (B, False)]
    assert ops.claims(db, "mine") == [(A, True)]
    assert ops.claims(db, "Shared") == []


def test_copies_outlive_their_jobs(db: sqlite3.Connection) -> None:
    journal_jobs.admit(db, Notification(hash=A), job_id=JobId("j"), now=1)
    ops.begin(db, COPY, [entry(0, "a", ours=True)])
    journal_jobs.move(db, JobId("j"), Event.CANCEL, now=2)
    assert journal_jobs.prune(db, finished_before=3) == 1
    assert ops.find(db, A) == COPY
    assert ops.files(db, A) == [entry(0, "a", ours=True)]


# -- which other torrents have what was made from a file of the SSD -----------------------


def test_published_files_of_other_torrents_are_found_by_their_source_the_last_first(
    db: sqlite3.Connection,
) -> None:
    c, begun = TorrentId("c" * 40), TorrentId("d" * 40)
    made = {
        torrent_id: [
            replace(entry(0, f"{torrent_id[0]}/0", ours=True), source_inode=2**63 - 1),
            replace(entry(1, f"{torrent_id[0]}/1", ours=False), source_inode=5),
            entry(2, f"{torrent_id[0]}/2", ours=True),
        ]
        for torrent_id in (A, B, c, begun)
    }
    for torrent_id, files in made.items():
        ops.begin(db, replace(COPY, torrent_id=torrent_id), files)
        assert ops.files(db, torrent_id) == files
    for torrent_id, now in ((c, 8.0), (A, 7.0), (B, 9.0)):
        ops.published(db, torrent_id, now=now)

    found = ops.made_from(db, [2**63 - 1, 5, 77], besides=A)

    assert found == [made[B][0], made[B][1], made[c][0], made[c][1]]
    assert ops.made_from(db, [5], besides=B) == [made[c][1], made[A][1]]
    assert ops.made_from(db, [9], besides=A) == [], "that is an inode of the HDD"
    assert ops.made_from(db, [], besides=A) == []


def test_a_source_is_looked_up_by_an_index_not_by_reading_all_that_was_ever_copied(
    db: sqlite3.Connection,
) -> None:
    seen: list[str] = []
    db.set_trace_callback(seen.append)
    ops.made_from(db, [5, 6], besides=A)
    db.set_trace_callback(None)
    plan = "\n".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {seen[0]}"))
    assert "USING INDEX copy_files_by_source (source_inode=?)" in plan
    assert "SCAN copy" not in plan
