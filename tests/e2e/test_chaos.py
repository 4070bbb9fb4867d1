"""``scripts/chaos`` loses nothing, would notice if it did, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.rig.mounts import mounts_below

ROOT = Path(__file__).resolve().parents[2]
SEED = 20261128
PLAIN_SEED = 5
"""Its qBittorrent does not rename the files of a copy that it found bad. If it did, even a service
that trusts every copy would miss them, and go back."""
RUN_WITHIN_S = 900  # two minutes, and what the last pause takes on a busy machine
END_WITHIN_S = 60
pytestmark = [
    pytest.mark.qbittorrent,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount"),
]


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


def test_two_minutes_of_chaos_lose_nothing(tmp_path: Path) -> None:
    status, out = finished(tmp_path, "--minutes", "2", "--seed", str(SEED))
    assert status == 0, out
    found = figures(out)
    assert found["LOSSES"] == ["0", "0"]
    kills = ("kill -9 of the service", "kill -9 of qBittorrent", "kill -9 of both")
    for world in (0, 1):
        assert sum(int(found[kill][world]) for kill in kills) > 0
        for what in ("torrents checked", "notifications accepted", "relocations done"):
            assert int(found[what][world]) > 0, what
    for version in ("4.5.2", "5.1.0"):
        kept = tmp_path / "output" / f"{version}-{SEED}"
        assert {"events.log", "service.log", "state"} <= {path.name for path in kept.iterdir()}
    leaves_nothing(tmp_path)


@pytest.mark.parametrize(("module", "seed"), [("eats_copies", SEED), ("trusts_copies", PLAIN_SEED)])
def test_a_service_that_loses_data_is_found_out_and_all_is_kept_to_look_into_it(
    tmp_path: Path, module: str, seed: int
) -> None:
    status, out = finished(
        tmp_path,
        *("--minutes", "6", "--seed", str(seed), "--qbittorrent", "4.5.2"),
        *("--service-module", f"tests.rig.{module}"),
    )
    assert status == 1, out
    assert int(figures(out)["LOSSES"][0]) > 0
    assert re.search(r"LOSS: lost: T\d+", out)
    assert f"seed {seed}" in out
    kept = {path.name for path in (tmp_path / "output" / f"4.5.2-{seed}").iterdir()}
    assert {"events.log", "service.log", "qbittorrent.log", "ssd.img", "hdd.img"} <= kept
    leaves_nothing(tmp_path)


def test_an_interrupted_run_ends_in_order_with_its_figures_so_far(tmp_path: Path) -> None:
    with chaos(tmp_path, "--minutes", "5", "--qbittorrent", "4.5.2") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "round 1" in line:
                break
        process.send_signal(signal.SIGINT)
        began_s = time.monotonic()
        out, _ = process.communicate(timeout=END_WITHIN_S)
        assert time.monotonic() - began_s < END_WITHIN_S
    assert process.returncode == 130, out
    assert figures(out)["LOSSES"] == ["0"]
    assert int(figures(out)["notifications accepted"][0]) > 0
    leaves_nothing(tmp_path)
