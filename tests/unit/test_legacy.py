"""What the old tool left is read whatever it is: each torrent once, and in its order."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbm_trio.core.legacy import LegacyFile, LegacyTorrent, in_order, queue_file, state_file

A, B, C = "a" * 40, "b" * 40, "c" * 40
NAME = f"{A}_1600000000.queue"


def of(file: LegacyFile) -> LegacyTorrent:
    assert file.problems == ()
    (torrent,) = file.torrents
    return torrent


# -- the files of the queue


@pytest.mark.parametrize(
    ("content", "queued_at"),
    [
        (f"{A}\n1700000000\n", 1.7e9),
        (f"{A}\n1700000000", 1.7e9),
        (f"{A}\r\n1700000000\r\n", 1.7e9),
        (f"{A}\r1700000000\r", 1.7e9),
        (f"\ufeff{A}\n1700000000\n", 1.7e9),
        (f" {A.upper()} \n 1700000000.5 \nmore\n", 1700000000.5),
        # The hash is whole, so is the torrent; its time orders it only.
        (A, 1.6e9),
        (f"{A}\n", 1.6e9),
        (f"{A}\nyesterday\n", 1.6e9),
        (f"{A}\nnan\n", 1.6e9),
        (f"{A}\n-5\n", 1.6e9),
        (f"{A}\n{'9' * 400}\n", 1.6e9),
    ],
)
def test_a_file_of_the_queue_is_one_torrent(content: str, queued_at: float) -> None:
    assert of(queue_file(NAME, content.encode())) == LegacyTorrent(hash=A, queued_at=queued_at)


def test_a_time_that_nothing_tells_is_unknown() -> None:
    assert of(queue_file("x.queue", A.encode())).queued_at is None


def test_hashes_of_every_kind_are_known() -> None:
    assert of(queue_file("x", b"d" * 64)).hash == "d" * 64
    assert of(queue_file("x", b"GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ")).hash == b"1234567890".hex() * 2


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"\0" * 50, A[:39].encode(), b"\xff\xfe" + A.encode(), b"x" * 2000, b"-", b"all"],
)
def test_a_damaged_file_of_the_queue_is_a_problem_that_is_said(content: bytes) -> None:
    file = queue_file(NAME, content)
    assert file.torrents == ()
    (problem,) = file.problems
    assert problem.startswith("its first line ")
    assert len(problem) < 300


@given(st.text(), st.binary(max_size=200))
def test_any_file_of_the_queue_is_a_torrent_or_a_problem(name: str, content: bytes) -> None:
    file = queue_file(name, content)
    assert len(file.torrents) + len(file.problems) == 1


# -- the document


def document(**parts: Any) -> bytes:
    return json.dumps({"version": "1.0", **parts}).encode()


def test_the_document_gives_what_ran_and_what_was_queued() -> None:
    file = state_file(
        document(
            queue_items=[
                {
                    "torrent_data": {"hash": B.upper(), "name": "Film 🐉", "category": "movies"},
                    "priority": 5,
                    "queued_time": 1.7e9,
                },
                {"torrent_data": {"hash": C}, "queued_time": "2023-11-14T22:13:20"},
            ],
            running_processes=[{"torrent_hash": A}],
            saved_at="whatever else",
        )
    )
    assert file == LegacyFile(
        torrents=(
            LegacyTorrent(hash=A, queued_at=None, running=True),
            LegacyTorrent(hash=B, queued_at=1.7e9, priority=5, name="Film 🐉", category="movies"),
            LegacyTorrent(hash=C, queued_at=1.7e9),
        ),
        problems=(),
    )


@pytest.mark.parametrize(
    "running",
    [
        [{"torrent_hash": A}],
        {"process 1": {"torrent_hash": A}},
        {A: {"started": 1}},
        [A],
        [{"torrent_data": {"hash": A}}],
        [{"torrent_data": A}],
        [{"id": "7", "hash": A}],
    ],
)
def test_the_forms_in_which_it_may_name_a_torrent(running: object) -> None:
    assert of(state_file(document(running_processes=running))).hash == A


@pytest.mark.parametrize(
    ("priority", "read"),
    [(3, 3), ("3", 3), (3.0, 3), (None, 0), ("high", 0), ([], 0), (10**30, 2**31), (True, 1)],
)
def test_a_priority_that_is_not_understood_loses_no_torrent(priority: object, read: int) -> None:
    item = {"torrent_data": {"hash": A}, "priority": priority}
    assert of(state_file(document(queue_items=[item]))).priority == read


@pytest.mark.parametrize(
    "at", [None, True, [], "soon", -1, 0, 1e300, "9" * 400, "0001-01-01", float("nan")]
)
def test_a_time_that_is_not_understood_loses_no_torrent(at: object) -> None:
    item = {"torrent_data": {"hash": A}, "queued_time": at}
    assert of(state_file(document(queue_items=[item]))).queued_at is None


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (None, "it is no object"),
        (7, "it is no object"),
        ({}, "it names no torrent"),
        ({"torrent_data": None}, "it names no torrent"),
        ({"torrent_data": {"hash": "x"}}, "its hash must be a torrent hash"),
        ("x", "must be a torrent hash"),
    ],
)
def test_an_entry_that_is_wrong_is_said_and_the_others_are_taken(
    entry: object, problem: str
) -> None:
    good = {"torrent_data": {"hash": A}}
    file = state_file(document(queue_items=[good, entry, {"torrent_data": {"hash": B}}]))
    assert [t.hash for t in file.torrents] == [A, B]
    (said,) = file.problems
    assert said.startswith(f"queue_items[1]: {problem}")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it is not JSON"),
        (b'{"version": "1.0", "queue_items": [', "it is not JSON"),
        (b"\xff\xff", "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b"[]", "it is no object"),
        (b"{}", "its version is None"),
        (b'{"version": "2.0"}', "its version is '2.0'"),
    ],
)
def test_a_damaged_document_is_a_problem_that_is_said(content: bytes, problem: str) -> None:
    file = state_file(content)
    assert file.torrents == ()
    assert file.problems[0].startswith(problem)


def test_a_part_that_is_no_list_is_said_and_the_other_is_taken() -> None:
    file = state_file(document(queue_items=7, running_processes=[A]))
    assert [t.hash for t in file.torrents] == [A]
    assert file.problems == ("queue_items: it is no list",)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(A),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["torrent_data", "hash", "torrent_hash", "priority", "queued_time", "name", "id"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(json_values, json_values)
def test_whatever_the_document_holds_its_entries_are_torrents_or_problems(
    items: Any, running: Any
) -> None:
    file = state_file(document(queue_items=items, running_processes=running))
    expected = sum(
        len(part) if isinstance(part, list | dict) else part is not None
        for part in (items, running)
    )
    assert len(file.torrents) + len(file.problems) == expected
    for torrent in in_order(file.torrents):
        assert torrent.hash == A
        torrent.name.encode()


@given(st.binary(max_size=300))
def test_any_bytes_are_a_document_or_a_problem(content: bytes) -> None:
    file = state_file(content)
    assert file.torrents or file.problems or b"1.0" in content


# -- all of it


def test_what_ran_comes_first_then_the_oldest_then_what_has_no_time() -> None:
    def torrent(letter: str, at: float | None, running: bool = False) -> LegacyTorrent:
        return LegacyTorrent(hash=letter * 40, queued_at=at, running=running)

    found = [torrent("1", None), torrent("2", 9), torrent("3", 5), torrent("4", 7, running=True)]
    assert "".join(t.hash[0] for t in in_order(found)) == "4321"


def test_one_that_both_formats_name_is_one_with_the_highest_priority() -> None:
    found = [
        LegacyTorrent(hash=A, queued_at=9, priority=-3, category="tv"),
        LegacyTorrent(hash=A, queued_at=5, priority=4, name="a", category="movies"),
        LegacyTorrent(hash=A, queued_at=None, running=True),
    ]
    assert in_order(found) == [
        LegacyTorrent(hash=A, queued_at=5, priority=4, running=True, name="a", category="tv")
    ]
