"""``scripts/demo`` keeps its promises: it works, and it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 120.0  # the demo's own promise is two minutes, once installed

pytestmark = [pytest.mark.qbittorrent, pytest.mark.slow]


@contextmanager
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the demo without a terminal, with its temporary folder in a place of ours."""
    (tmp_path / "a place").mkdir()
    process = subprocess.Popen(
        [ROOT / "scripts" / "demo"],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path / "a place")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def processes_below(folder: Path) -> dict[int, str]:
    """Every process that has the folder in its arguments or its environment."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            about = command + (entry / "environ").read_bytes()
        except OSError:
            continue  # ended meanwhile, or somebody else's
        if os.fsencode(folder) in about:
            found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


def until(condition: Callable[[], object], limit_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def read_until(stream: IO[str] | None, text: str) -> None:
    assert stream is not None
    for line in stream:
        if text in line:
            return
    pytest.fail(f"the demo ended before it said {text!r}")


def leaves_nothing(tmp_path: Path) -> None:
    place = tmp_path / "a place"
    assert list(place.iterdir()) == []
    # A script that was sending may try on for a few seconds.
    until(lambda: not processes_below(place), 30)


def test_every_byte_lands_verified_and_tagged(tmp_path: Path) -> None:
    began = time.monotonic()
    with demo(tmp_path) as process:
        out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, f"{out}\n{err}"
    assert time.monotonic() - began < DEADLINE_S
    for expected in (
        "accepted: torrent",
        "A Film (2026).mkv: done: tiered",
        "12 files, 78 MB: every byte is on both tiers.",
        '"status": "healthy"',
        '"torrents_processed": 3',
        "the service drained and ended with exit status 0",
        "With your own qBittorrent",
        "Everything is cleaned up.",
    ):
        assert expected in out
    leaves_nothing(tmp_path)


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_demo_cleans_up(tmp_path: Path, signum: signal.Signals, status: int) -> None:
    with demo(tmp_path) as process:
        read_until(process.stdout, ": copying")
        process.send_signal(signum)
        process.communicate(timeout=30)
    assert process.returncode == status
    leaves_nothing(tmp_path)


def test_a_demo_whose_service_dies_fails_and_cleans_up(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        read_until(process.stdout, ": copying")
        (service,) = (
            pid for pid, command in processes_below(tmp_path).items() if "-m qbm_trio" in command
        )
        os.kill(service, signal.SIGKILL)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "FAILED" in err
    leaves_nothing(tmp_path)
