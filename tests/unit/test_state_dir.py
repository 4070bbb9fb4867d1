"""One service at a time holds a state directory, until it ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qbm_trio.adapters.state_dir import StateDirUnusable, held

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from pathlib import Path
from qbm_trio.adapters.state_dir import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the directory until its standard input is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"held\n"
            yield child
        finally:
            child.kill()


def test_a_second_holder_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    state = tmp_path / "made" / "when missing"
    with holder(state) as child:
        for _ in range(2):  # being refused takes nothing away
            with pytest.raises(StateDirUnusable, match=rf"\(process {child.pid}\)"), held(state):
                pytest.fail("held twice")
    with held(state):
        assert (state / "lock").read_text() == f"{os.getpid()} {os.uname().nodename}\n"


def test_kill_9_lets_go_of_it(tmp_path: Path) -> None:
    with holder(tmp_path) as child:
        child.send_signal(signal.SIGKILL)
        child.wait(10)
        with held(tmp_path):
            pass


def test_the_end_of_the_block_lets_go_of_it_also_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), held(tmp_path):
        raise KeyError
    with held(tmp_path), pytest.raises(StateDirUnusable, match=f"process {os.getpid()}"):
        held(tmp_path).__enter__()


def test_a_child_process_does_not_inherit_the_lock(tmp_path: Path) -> None:
    with held(tmp_path):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    with child:
        try:
            with held(tmp_path):
                pass
        finally:
            child.kill()


def test_a_directory_that_cannot_be_made_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateDirUnusable, match=r"STATE_DIR .*/file/x cannot be used: .*; make it"):
        held(tmp_path / "file" / "x").__enter__()


def test_a_holder_on_another_host_is_said_to_be_there(tmp_path: Path) -> None:
    """A share, or a container: its process number means nothing here."""
    with held(tmp_path):
        (tmp_path / "lock").write_text("4711 nas\n")
        with pytest.raises(StateDirUnusable, match=r"\(process 4711 on the host nas\)"):
            held(tmp_path).__enter__()
        (tmp_path / "lock").write_text("4711\n")  # of an older version
        with pytest.raises(StateDirUnusable, match=r"\(process 4711\)"):
            held(tmp_path).__enter__()


def test_the_lock_file_of_a_dead_one_is_no_obstacle(tmp_path: Path) -> None:
    for left in (b"1 elsewhere\n", b"", b"\xff" * 1000):
        (tmp_path / "lock").write_bytes(left)
        with held(tmp_path):
            pass


def test_a_share_that_keeps_no_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StateDirUnusable, match="cannot be locked: No locks available; put it on"):
        held(tmp_path).__enter__()


def test_a_full_disk_does_not_keep_the_service_from_starting(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "filler").write_bytes(bytes(2**20))
    with held(small_disk), pytest.raises(StateDirUnusable, match="process unknown"):
        held(small_disk).__enter__()
