"""``scripts/bench --quick`` works. No figure is asserted: other machines, other figures."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv" / "bin" / "python"  # the bench's own
SET_UP_S = 300  # the bench's own packages, when they are not there yet
LIMIT_S = 300  # a deadline, no target: 20 to 30 on an idle machine, 90 were seen on a busy one
RELOCATING = ("until the SSD's file is gone", "not seeding")
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
    **{
        (f"scrapes: {where}", what): target
        for where, first in (
            ("nothing else, 300 jobs", ("CPU time of a scrape", "≤ 20")),
            *(
                (
                    f"3 copies of 48 MiB at once, 300 jobs, {how}",
                    ("copied with 20 scrapes a second", ""),
                )
                for how in ("source not cached, to disk", "source cached, to memory")
            ),
        )
        for what, target in (
            first,
            ("a scrape, median", "≤ 20"),
            ("a scrape, p99", "≤ 20"),
            ("/health meanwhile, median", ""),
            ("/health meanwhile, p99", ""),
        )
    },
    ("space management: planning", "300 torrents in 30 groups"): "≤ 100",
    ("space management: planning", "90 of them in 30 groups, 210 alone"): "",
    **{
        ("space management: calls to qBittorrent for a run", f"{what}, {count} torrents"): "≤ 1"
        for what in ("room enough", "nothing may go")
        for count in (10, 300)
    },
    **{
        ("space management: calls to qBittorrent for a run", f"{n} relocated, without polls"): ""
        for n in (1, 3)
    },
    **{
        ("relocating 16 MiB beside setLocation, refresh interval 100 ms", what): ""
        for what in RELOCATING
    },
    ("reconciler: an interval in which nothing happens", "300 torrents, CPU time"): "≤ 20",
    ("reconciler: an interval in which nothing happens", "300 torrents, calls"): "≤ 1",
    (
        "reconciler: an interval in which nothing happens",
        "the first look, at all 300 torrents",
    ): "",
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
    rows: dict[tuple[str, str], list[str]] = {}
    section = last = ""
    for line in output.splitlines():
        if line.startswith("│"):
            name, *cells = (cell.strip() for cell in line.strip("│").split("│"))
            if any(cells) and not name:  # a cell was folded
                above = rows[section, last]
                rows[section, last] = [
                    " ".join(pair).strip() for pair in zip(above, cells, strict=True)
                ]
            elif any(cells):
                rows[section, name], last = cells, name
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


def counted(line: str) -> dict[str, int]:
    """The calls that a line tells, by kind and by name."""
    return {name: int(number) for name, number in re.findall(r"([\w/]+) (\d+)", line)}


def leaves_nothing(tmp_path: Path) -> None:
    assert list((tmp_path / "temporary").iterdir()) == []
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


@dataclass(frozen=True, kw_only=True)
class Quick:
    """A quick bench that has run."""

    folder: Path
    done: subprocess.CompletedProcess[str]
    took_s: float
    rows: dict[tuple[str, str], dict[str, Any]]  #: of its raw figures, by section and name


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Quick:
    folder = tmp_path_factory.mktemp("quick")
    assert bench(folder, "--help").returncode == 0  # set-up takes what it takes
    began = time.monotonic()
    done = bench(folder, "--quick", "--output", "figures here")
    took_s = time.monotonic() - began
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    raw = json.loads((folder / "figures here" / "bench.json").read_text())
    rows = {(row["section"], row["name"]): row for row in raw["rows"]}
    return Quick(folder=folder, done=done, took_s=took_s, rows=rows)


def test_a_quick_bench_prints_every_figure_with_its_target_and_writes_the_chart(
    quick: Quick,
) -> None:
    assert quick.took_s < LIMIT_S
    for expected in ("CPU:", "SSD folder:", "Quick: sizes too small", "Everything is cleaned up."):
        assert expected in quick.done.stdout
    rows, table = quick.rows, printed(quick.done.stdout)
    assert set(rows) == set(table) - {("", "measured")} == set(FIGURES)
    for which, target in FIGURES.items():
        row, (figure, shown_target, verdict, runs, beside, note) = rows[which], table[which]
        assert row["figure"] == pytest.approx(figure_of(row)), which
        assert float(figure.split()[0]) == pytest.approx(row["figure"], rel=0.01, abs=0.006), which
        assert figure.endswith(f" {row['unit']}")
        assert shown_target == target, which
        met = {"≤": float.__le__, "≥": float.__ge__}.get(target[:1])
        missed = met is not None and not met(float(row["figure"]), float(target[2:]))
        assert verdict == ("" if met is None else "MISSED" if missed else "met"), which
        assert row["verdict"] == (verdict or "no target")
        assert len(runs.split()) == len(row["ours"]["values"]) + 1, "each run, and the unit"
        assert bool(beside) == (row["beside"] is not None)
        if which[1].endswith(" torrent"):
            assert "memory" in note, "whether memory was filled before each run"
    chart = quick.folder / "figures here" / "bench.png"
    assert int.from_bytes(chart.read_bytes()[20:24], "big") > 1000, "eight panels in two columns"
    drawn = bench(quick.folder, str(chart), program=(PYTHON, "-c", COLOURS)).stdout.split()
    assert [int(count) > 100 for count in drawn] == [True] * 3
    leaves_nothing(quick.folder)


ONCE = {"stop", "app/preferences", "app/getDirectoryContent", "app/webapiVersion"}
"""Calls whose answer is remembered: what 4.5 does not know, and its refresh interval."""


def test_the_calls_of_space_runs_are_counted_one_by_one(quick: Quick) -> None:
    section = "space management: calls to qBittorrent for a run"
    calls = {name: row for (of, name), row in quick.rows.items() if of == section}
    each: dict[int, dict[str, int]] = {}
    for name, row in calls.items():
        (line,) = (
            line for line in quick.done.stdout.splitlines() if line.startswith(f"  {name}: ")
        )
        found = counted(line.partition(": ")[2])
        kinds = {kind: found.pop(kind) for kind in ("list", "files", "polls", "fixed")}
        assert row["note"].startswith(", ".join(f"{kind} {n}" for kind, n in kinds.items()))
        assert row["figure"] == kinds["list"] + kinds["files"] + kinds["fixed"], name
        assert kinds["fixed"] == sum(found.values()), name
        if name.startswith(("room enough", "nothing may go")):
            assert kinds == {"list": 1, "files": 0, "polls": 0, "fixed": 0}, name
            continue
        relocated = int(name.split()[0])
        assert kinds["list"] == 1 + relocated, "one for the plan, one before each deletion"
        for call in ("setLocation", "recheck", "resume"):
            assert found[call] == relocated, call
        assert kinds["polls"] >= 3 * relocated
        # What one relocation has just asked, another that goes on meanwhile may ask again.
        assert kinds["files"] <= 9 * relocated
        each[relocated] = found
    one, three = (each[n] for n in (1, 3))
    assert one.keys() - three.keys() <= ONCE
    for call in one.keys() - ONCE:
        assert three[call] == 3 * one[call], f"{call}: a fixed number for each torrent"


def test_no_relocation_is_faster_than_qbittorrents_answers_can_be_believed(quick: Quick) -> None:
    section = "relocating 16 MiB beside setLocation, refresh interval 100 ms"
    gone, idle = (quick.rows[section, what] for what in RELOCATING)
    assert gone["ours"]["values"][0] >= 3 * 0.1
    assert idle["ours"]["values"][0] >= 3 * 0.1
    assert min(gone["beside"]["values"] + idle["beside"]["values"]) > 0


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
