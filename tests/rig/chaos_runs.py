"""Runs of ``scripts/chaos`` in folders of the test's own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.rig.mounts import mounts_below

ROOT = Path(__file__).resolve().parents[2]
SEED = 20261128
RUN_WITHIN_S = 900  # two minutes, and what the last pause takes on a busy machine
END_WITHIN_S = 60


@contextmanager
def chaos(tmp_path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run it in temporary folders of ours."""
    (tmp_path / "place").mkdir()
    process = subprocess.Popen(
        [ROOT / "scripts" / "chaos", "--output", tmp_path / "output", *arguments],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path / "place"), "COLUMNS": "100"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell's background job would hand on that it ignores this signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()  # it has mounts to undo
                try:
                    process.wait(END_WITHIN_S)
                finally:
                    process.kill()


def finished(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    """Exit status and output of a whole run."""
    with chaos(tmp_path, *arguments) as process:
        out, _ = process.communicate(timeout=RUN_WITHIN_S)
        return process.returncode, out


def figures(out: str) -> dict[str, list[str]]:
    """The table's rows: one figure for each qBittorrent."""
    rows = (line.strip("│").split("│") for line in out.splitlines() if line.startswith("│"))
    return {name.strip(): [cell.strip() for cell in cells] for name, *cells in rows}


def leaves_nothing(tmp_path: Path) -> None:
    assert mounts_below(tmp_path) == []
    assert list((tmp_path / "place").iterdir()) == []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = process.read_bytes()
        except OSError:
            continue  # ended meanwhile
        assert os.fsencode(tmp_path / "place") not in command, command
