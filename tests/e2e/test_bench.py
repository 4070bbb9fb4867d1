"""``scripts/bench --quick`` works. No figure is asserted: other machines, other figures."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from statistics import median
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv" / "bin" / "python"  # the bench's own
SET_UP_S = 300  # the bench's own packages, when they are not there yet
LIMIT_S = 40  # 16 to 20 on an idle machine
#: Every figure that must be there, by section and name, and the target it must be held against.
FIGURES = {
    **{
        (f"{what}, {where}", f"{version} torrent"): target
        for what, limit in (("one file of 48 MiB", "≤ 1.2"), ("200 files of 20 KiB", "≤ 3"))
        for where, target in (
            ("source not cached, verified and synced, beside cp", limit),
            ("source cached, to memory, no sync: what the code costs", ""),
        )
        for version in ("v1", "v2", "hybrid")
    },
    **{
        ("notification", f"{clients}, {what}"): target
        for clients, rate, p99 in (("1 client", 500, 10), ("32 clients", 1000, 70))
        for what, target in (
            ("the load's own limit", ""),
            ("workers busy", f"≥ {rate}"),
            ("workers busy, p99", f"≤ {p99}"),
            ("qBittorrent away", f"≥ {rate}"),
            ("qBittorrent away, p99", f"≤ {p99}"),
        )
    },
    ("notification", "1 client, three copies running, p99 over fdatasync's"): "≤ 50",
    ("memory", "RSS, three copies running, 300 jobs"): "≤ 120",
    ("start", "start to the first answer over bare import, 300 jobs"): "",
    ("start", "start to healthy over bare import, 300 jobs"): "≤ 0.6",
}
#: The same bench, with a target that nothing can meet.
UNREACHABLE = """
import sys
from scripts import bench
from scripts.benchmarks.model import Target
bench.COPY_TARGET = Target(limit=0)
sys.exit(bench.main(sys.argv[1:]))
"""
#: How many pixels of a picture have each of the colours of our bars, cp's bars, and targets.
COLOURS = """
import sys
from matplotlib.image import imread
pixels = (imread(sys.argv[1])[..., :3] * 255).round()
for colour in ((0x2F, 0x6F, 0xA7), (0xB0, 0xB0, 0xB0), (0xC0, 0x39, 0x2B)):
    print((pixels == colour).all(-1).sum())
"""

pytestmark = [pytest.mark.qbittorrent, pytest.mark.slow]


def bench(
    tmp_path: Path, *arguments: str, program: tuple[object, ...] = (ROOT / "scripts" / "bench",)
) -> subprocess.CompletedProcess[str]:
    (tmp_path / "temporary").mkdir(exist_ok=True)
    return subprocess.run(
        [*map(str, program), *arguments],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path / "temporary")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SET_UP_S,
        check=False,
    )


def printed(output: str) -> dict[tuple[str, str], list[str]]:
    """The table's cells behind the name, by section and name."""
    rows, section = {}, ""
    for line in output.splitlines():
        if line.startswith("│"):
            name, *cells = (cell.strip() for cell in line.strip("│").split("│"))
            if any(cells):
                rows[section, name] = cells
            else:
                section = name
    return rows


def figure_of(row: dict[str, Any]) -> float:
    """Worked out again from the single runs."""
    ours = median(row["ours"]["values"])
    if row["beside"] is None:
        return float(ours)
    beside = median(row["beside"]["values"])
    return float(ours / beside if row["unit"] == "×" else ours - beside)


def leaves_nothing(tmp_path: Path) -> None:
    assert list((tmp_path / "temporary").iterdir()) == []
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def test_a_quick_bench_prints_every_figure_with_its_target_and_writes_the_chart(
    tmp_path: Path,
) -> None:
    assert bench(tmp_path, "--help").returncode == 0  # set-up takes what it takes
    began = time.monotonic()
    done = bench(tmp_path, "--quick", "--output", "figures here")
    took_s = time.monotonic() - began
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert took_s < LIMIT_S
    for expected in ("CPU:", "SSD folder:", "Quick: sizes too small", "Everything is cleaned up."):
        assert expected in done.stdout

    figures = tmp_path / "figures here"
    rows = {
        (row["section"], row["name"]): row
        for row in json.loads((figures / "bench.json").read_text())["rows"]
    }
    table = printed(done.stdout)
    assert set(rows) == set(table) - {("", "measured")} == set(FIGURES)
    for which, target in FIGURES.items():
        row, (figure, shown_target, verdict, runs, beside, note) = rows[which], table[which]
        assert row["figure"] == pytest.approx(figure_of(row)), which
        assert float(figure.split()[0]) == pytest.approx(row["figure"], rel=0.01, abs=0.006), which
        assert figure.endswith(f" {row['unit']}")
        assert shown_target == target, which
        met = {"≤": float.__le__, "≥": float.__ge__}.get(target[:1])
        missed = met is not None and not met(row["figure"], float(target[2:]))
        assert verdict == ("" if met is None else "MISSED" if missed else "met"), which
        assert row["verdict"] == (verdict or "no target")
        assert len(runs.split()) == len(row["ours"]["values"]) + 1, "each run, and the unit"
        assert bool(beside) == (row["beside"] is not None)
        if which[1].endswith(" torrent"):
            assert "memory" in note, "whether memory was filled before each run"
    chart = figures / "bench.png"
    assert int.from_bytes(chart.read_bytes()[20:24], "big") > 1000, "eight panels in two columns"
    drawn = bench(tmp_path, str(chart), program=(PYTHON, "-c", COLOURS)).stdout.split()
    assert [int(count) > 100 for count in drawn] == [True] * 3
    leaves_nothing(tmp_path)


def test_a_missed_target_is_said_and_is_no_failure(tmp_path: Path) -> None:
    assert bench(tmp_path, "--help").returncode == 0
    done = bench(
        tmp_path,
        *("--quick", "--only", "copy", "--output", "figures"),
        program=(PYTHON, "-c", UNREACHABLE),
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    rows = json.loads((tmp_path / "figures" / "bench.json").read_text())["rows"]
    held = {(row["section"], row["name"]) for row in rows if row["target"]}
    assert len(held) == 3
    table = printed(done.stdout)
    for which in held:
        assert table[which][1:3] == ["≤ 0", "MISSED"]
    assert {row["verdict"] for row in rows if row["target"]} == {"MISSED"}
    leaves_nothing(tmp_path)


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
