"""``scripts/bench --quick`` works. No figure is asserted: other machines, other figures."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SET_UP_S = 300  # the bench's own packages, when they are not there yet
LIMIT_S = 25

pytestmark = [pytest.mark.qbittorrent, pytest.mark.slow]


def bench(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "temporary").mkdir(exist_ok=True)
    return subprocess.run(
        [ROOT / "scripts" / "bench", *arguments],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path / "temporary")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SET_UP_S,
        check=False,
    )


def test_a_quick_bench_prints_the_table_and_writes_the_chart(tmp_path: Path) -> None:
    assert bench(tmp_path, "--help").returncode == 0  # set-up takes what it takes
    began = time.monotonic()
    done = bench(tmp_path, "--quick", "--output", "figures here")
    took_s = time.monotonic() - began
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert took_s < LIMIT_S
    for expected in (
        "CPU:",
        "SSD folder:",
        "verified and synced, beside cp and sync -f",
        "what the code costs",
        "1 client, workers busy",
        "32 clients, qBittorrent away, p99",
        "three copies running",
        "RSS",
        "start to healthy over bare import",
        "Everything is cleaned up.",
    ):
        assert expected in done.stdout
    figures = tmp_path / "figures here"
    assert (figures / "bench.png").read_bytes().startswith(b"\x89PNG")
    rows = json.loads((figures / "bench.json").read_text())["rows"]
    assert {row["verdict"] for row in rows} <= {"met", "MISSED", "no target"}
    assert all(row["ours"]["values"] for row in rows)
    assert list((tmp_path / "temporary").iterdir()) == []
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def test_an_unknown_part_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    refused = bench(tmp_path, "--only", "copy,warp")
    assert refused.returncode == 2
    assert "warp" in refused.stderr
    assert "notify" in refused.stderr


def test_one_file_system_for_both_tiers_is_refused(tmp_path: Path) -> None:
    for name in ("ssd", "hdd"):
        (tmp_path / name).mkdir()
    refused = bench(tmp_path, "--quick", "--folder", "ssd", "--folder", "hdd")
    assert refused.returncode == 1
    assert "one file system" in refused.stderr
    assert list((tmp_path / "ssd").iterdir()) == []
