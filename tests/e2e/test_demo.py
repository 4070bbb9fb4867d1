"""``scripts/demo`` keeps its promises: it works, and it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import IO

import pytest
from rich.console import Console

from scripts.demo import SAMPLES
from scripts.rig.screen import Landed, Row, Screen, landed_table

ROOT = Path(__file__).resolve().parents[2]
STATES = ("awaits hook", "done: tiered", "publishing")
DEADLINE_S = 120.0  # the demo's own promise is two minutes, once installed

pytestmark = [pytest.mark.qbittorrent, pytest.mark.slow]


@contextmanager
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the demo without a terminal, 80 columns wide, in a temporary folder of ours."""
    (tmp_path / "a place").mkdir()
    process = subprocess.Popen(
        [ROOT / "scripts" / "demo"],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path / "a place"), "COLUMNS": "80"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job would hand on that it ignores this signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
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
    lines = out.splitlines()
    at = {line.index("http") for line in lines if "127.0.0.1" in line and "curl" not in line}
    assert len(at) == 1, "the addresses stand below each other"
    # Longer than the terminal are only lines to be copied as they are.
    assert all(len(line) <= 80 for line in lines if "qbittorrent-notification.sh" not in line)
    assert sum(line.rstrip().endswith("yes") for line in lines) == 12
    for command, remark in pairwise(lines):
        cut_down = command.endswith(("/status", "/jobs"))
        assert not command.startswith("$ ") or remark.startswith("(shortened: ") == cut_down
    leaves_nothing(tmp_path)


@pytest.mark.parametrize("columns", [80, 100])
def test_no_table_of_the_demo_wraps(columns: int) -> None:
    console = Console(file=StringIO(), width=columns, force_terminal=True, color_system=None)
    rows = [
        Row(
            sample=sample,
            downloaded=0.5,
            copied=0.5,
            state=state,
            rate_bytes_s=123.4e6,
            eta_s=100,
        )
        for sample, state in zip(SAMPLES, STATES, strict=True)
    ]
    console.print(Screen(console).table(rows))
    console.print(
        landed_table(
            Landed(
                folder=str((Path(sample.category) / name).parent),
                name=Path(name).name,
                sha256_ssd="0" * 64,
                sha256_hdd="missing",
                as_seeded=False,
                tags="hdd, ssd",
            )
            for sample in SAMPLES
            for name in sample.sizes
        )
    )
    assert isinstance(console.file, StringIO)
    shown = console.file.getvalue()
    whole = [row.sample.name for row in rows] + [row.state for row in rows] + ["123.4", "100 s"]
    whole += [f"  {Path(name).name} " for sample in SAMPLES for name in sample.sizes]
    whole += ["music/ambient/Field recordings/", "0" * 12 + "…", "missing", "hdd, ssd"]
    assert [text for text in whole if text not in shown] == []
    lines = [line.rstrip() for line in shown.splitlines()]
    assert len(lines) == 1 + 3 + 1 + 3 + 12
    assert max(map(len, lines)) <= columns
    assert sum(line.endswith("NO") for line in lines) == 12


@pytest.mark.parametrize(
    ("signum", "status", "moment"),
    [
        (signal.SIGINT, 130, "Making 3 torrents"),
        (signal.SIGINT, 130, ": copying"),
        (signal.SIGTERM, 143, ": copying"),
    ],
)
def test_an_interrupted_demo_cleans_up(
    tmp_path: Path, signum: signal.Signals, status: int, moment: str
) -> None:
    with demo(tmp_path) as process:
        read_until(process.stdout, moment)
        process.send_signal(signum)
        out, err = process.communicate(timeout=30)
    assert process.returncode == status
    assert out.endswith("Everything is cleaned up.\n")
    assert "Traceback" not in err
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
