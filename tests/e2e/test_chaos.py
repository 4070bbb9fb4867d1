"""``scripts/chaos`` loses nothing, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.rig.chaos_runs import END_WITHIN_S, SEED, chaos, figures, finished, leaves_nothing

pytestmark = [
    pytest.mark.qbittorrent,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount"),
]


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
