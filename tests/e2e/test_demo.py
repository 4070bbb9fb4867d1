"""``scripts/demo`` keeps its promises: it works, and it leaves nothing behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import IO, Literal

import pytest
import qbittorrentapi
from rich.console import Console
from rich.table import Table

from scripts.demo import SAMPLES
from scripts.rig.screen import (
    Landed,
    Row,
    Seen,
    landed_table,
    plan_table,
    progress_table,
    seen_table,
)
from scripts.rig.space_run import MB, MOST_BYTES, Ballast
from scripts.rig.witness import judge
from tests.rig.mounts import in_memory, mounted

ROOT = Path(__file__).resolve().parents[2]
STATES = ("awaits hook", "done: tiered", "publishing")
DEADLINE_S = 120.0  # the demo's own promise is two minutes, once installed
FILM, SERIES, RECORDINGS = (sample.name for sample in SAMPLES)
ALL_FILES = sorted(Path(name).name for sample in SAMPLES for name in sample.sizes)

pytestmark = [pytest.mark.qbittorrent, pytest.mark.slow]


@contextmanager
def demo(tmp_path: Path, ssd: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the demo without a terminal, 80 columns wide, in temporary folders of ours."""
    (tmp_path / "a place").mkdir(exist_ok=True)
    process = subprocess.Popen(
        [ROOT / "scripts" / "demo"],
        cwd=tmp_path,
        env=os.environ
        | {
            "TMPDIR": str(tmp_path / "a place"),
            "QBM_DEMO_SSD": str(ssd),
            "COLUMNS": "80",
        },
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


def read_until(stream: IO[str] | None, text: str) -> str:
    assert stream is not None
    for line in stream:
        if text in line:
            return line
    pytest.fail(f"the demo ended before it said {text!r}")


@pytest.fixture
def ssd(tmp_path: Path) -> Iterator[Path]:
    """As root, a disk that nobody else writes to: the demo's figures are exact."""
    with mounted(tmp_path / "ssd", size="600m") if os.geteuid() == 0 else in_memory() as folder:
        yield folder


def leaves_nothing(tmp_path: Path, ssd: Path) -> None:
    place = tmp_path / "a place"
    assert [*place.iterdir(), *ssd.iterdir()] == []
    # A script that was sending may try on for a few seconds.
    until(lambda: not processes_below(place), 30)


def part(out: str, number: int) -> list[str]:
    """The lines of one part, without its headline."""
    return re.split(r"(?m)^─+ .*─+$", out)[number].splitlines()


def in_order(found: Sequence[str]) -> list[str]:
    """Without repetitions."""
    return list(dict.fromkeys(found))


def test_every_byte_lands_and_the_oldest_torrent_leaves_the_ssd(tmp_path: Path, ssd: Path) -> None:
    began = time.monotonic()
    with demo(tmp_path, ssd) as process:
        out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, f"{out}\n{err}"
    assert time.monotonic() - began < DEADLINE_S
    for expected in (
        "accepted: torrent",
        "A Film (2026).mkv: done: tiered",
        "12 files, 78 MB: every byte is on both tiers.",
        '"status": "healthy"',
        '"torrents_processed": 3',
        "With your own qBittorrent",
        "Everything is cleaned up.",
    ):
        assert expected in out
    assert out.count("the service drained and ended with exit status 0") == 2
    lines = out.splitlines()
    at = {line.index("http") for line in lines if "127.0.0.1" in line and "curl" not in line}
    assert len(at) == 1, "the addresses stand below each other"
    # Longer than the terminal are only lines to be copied as they are.
    to_copy = ("qbittorrent-notification.sh", "$ curl ")
    assert all(len(line) <= 80 for line in lines if not any(text in line for text in to_copy))
    for command, remark in pairwise(lines):
        cut_down = command.endswith(("/status", "/jobs"))
        assert not command.startswith("$ ") or remark.startswith("(shortened: ") == cut_down
    assert yes_lines(part(out, 3)) == ALL_FILES
    it_was_the_oldest(part(out, 5))
    seeds_from_both_tiers(before=part(out, 3), after=part(out, 6))
    leaves_nothing(tmp_path, ssd)


def yes_lines(lines: Sequence[str]) -> list[str]:
    """Names of the files that are said to be as they should be."""
    found = [re.fullmatch(r"  (.+?)  +\S.* yes *", line) for line in lines]
    return sorted(match[1] for match in found if match)


def it_was_the_oldest(lines: Sequence[str]) -> None:
    """The plan, the steps, what the others did meanwhile, and what was measured."""
    text = "\n".join(lines)
    assert "it still knows its 3 jobs" in text
    decided = re.findall(r"(?m)^(\S.*?)  +([\d.]+)  (relocate|tier_first|spared) +(\S+ \S+)", text)
    assert decided == [
        (FILM, "41.9", "relocate", "The SSD"),
        (SERIES, "31.5", "spared", "There is"),
        (RECORDINGS, "4.2", "spared", "It is"),
    ]
    seen = re.findall(r"(?m)^ *[\d.]+ s  (.+?): (?:(\w+): )?(\w+), (.+?) *$", text)
    steps = in_order([step for name, step, _, _ in seen if name == FILM and step])
    quick = ["preparing", "restoring", "deleting"]  # may be over before they were seen
    slow = [step for step in steps if step not in quick]
    assert slow == ["stopping", "repointing", "checking", "waiting", "done"]
    states = [state for name, _, state, _ in seen if name == FILM]
    assert {"pausedUP", "pausedDL"} <= set(states) or {"stoppedUP", "stoppedDL"} <= set(states)
    where = in_order([where for name, _, _, where in seen if name == FILM])
    assert where == ["seeds from the SSD", "on the SSD", "on the HDD", "seeds from the HDD"]
    others = {(name, step, where) for name, step, _, where in seen if name != FILM}
    assert others == {(name, "", "seeds from the SSD") for name in (SERIES, RECORDINGS)}
    looks = re.findall(r"(?m)^(.+): seeded from the SSD each of the (\d+) times we looked", text)
    assert [name for name, _ in looks] == [SERIES, RECORDINGS]
    assert all(int(count) > 20 for _, count in looks)
    assert re.search(rf"(?m)^{re.escape(FILM)}: did not seed for [\d.]+ s", text)
    gb = {what: float(value) for what, value in re.findall(r"(?m)^(\w[\w ]+?) +([\d.]+) GB", text)}
    assert gb["freed"] == pytest.approx(0.042)
    assert gb["free after"] - gb["free before"] == pytest.approx(0.042, abs=0.0021)
    assert gb["free before"] < gb["target"] < gb["free after"]
    assert re.search(r"(?m)^target .* met *$", text)


def seeds_from_both_tiers(*, before: Sequence[str], after: Sequence[str]) -> None:
    """What was on both tiers still is, but for the film, which is on the HDD alone."""
    assert yes_lines(after) == ALL_FILES
    assert [line.split()[-1] for line in after if re.search(r"/ +(SSD|HDD) *$", line)] == [
        "HDD",
        "SSD",
        "SSD",
    ]

    def digests(lines: Sequence[str]) -> dict[str, list[str]]:
        return {line[:30].strip(): re.findall(r"[0-9a-f]{12}…|deleted", line) for line in lines}

    was, now = digests(before), digests(after)
    for name in ALL_FILES:
        on_ssd, on_hdd = was[name]
        assert on_ssd == on_hdd
        assert now[name] == ["deleted" if name == FILM else on_ssd, on_hdd]


def seen(name: str, *states_and_tiers: tuple[str, str]) -> list[Seen]:
    return [
        Seen(at_s=float(n), name=name, step="", state=state, tier=tier)
        for n, (state, tier) in enumerate(states_and_tiers)
    ]


SEEDS = ("stalledUP", "SSD")
STOPPED = ("pausedUP", "SSD")
GONE = ("uploading", "HDD")


@pytest.mark.parametrize(
    ("old", "middle", "pinned", "complaint"),
    [
        ((SEEDS, STOPPED, GONE), (SEEDS, SEEDS), (SEEDS,), None),
        ((SEEDS, STOPPED, GONE), (STOPPED, GONE), (SEEDS,), None),
        ((SEEDS, SEEDS), (SEEDS, SEEDS), (SEEDS,), "no torrent was relocated"),
        ((SEEDS, SEEDS), (STOPPED, GONE), (SEEDS,), "not the oldest went, but 'middle'"),
        ((STOPPED, GONE), (SEEDS, SEEDS), (GONE,), "not the oldest went"),
        ((STOPPED, GONE), (GONE,), (GONE,), "no torrent stayed"),
        ((STOPPED, GONE), (SEEDS, STOPPED, SEEDS), (SEEDS,), "'middle' should seed, but: pausedUP"),
        ((STOPPED, GONE), (SEEDS, GONE, SEEDS), (SEEDS,), "'middle' should seed, but: uploading"),
        ((STOPPED, ("pausedUP", "HDD")), (SEEDS,), (SEEDS,), "'old' should seed, but: pausedUP"),
        ((STOPPED, ("stalledUP", "/x")), (SEEDS,), (SEEDS,), "'old' should seed, but: stalledUP"),
    ],
)
def test_the_demo_judges_what_it_saw(
    old: Sequence[tuple[str, str]],
    middle: Sequence[tuple[str, str]],
    pinned: Sequence[tuple[str, str]],
    complaint: str | None,
) -> None:
    looks = {
        "1": seen("old", *old),
        "2": seen("middle", *middle),
        "3": seen("pinned", *pinned),
    }
    wrong = judge(looks, ["1", "2"])
    assert [text for text in wrong if complaint and complaint in text] or wrong == []
    assert bool(wrong) == (complaint is not None)


def test_what_fills_the_ssd_grows_and_shrinks_but_not_without_bound(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    with mounted(tmp_path / "ssd", size="400m") as ssd:

        def free_bytes() -> int:
            return shutil.disk_usage(ssd).free

        ballast = Ballast(ssd / "another download")
        for aim_bytes in (300 * MB, 280 * MB, 310 * MB, 310 * MB + 1):
            assert ballast.leave_free(aim_bytes)
            assert free_bytes() == pytest.approx(aim_bytes, abs=4096)
        whole_bytes = free_bytes() + ballast.bytes
        others = ssd / "others"
        others.write_bytes(bytes(200 * MB))
        assert ballast.leave_free(310 * MB)
        assert ballast.bytes == 0, "it has nothing more to give back"
        others.unlink()
        assert not ballast.leave_free(whole_bytes - MOST_BYTES - MB)
        assert ballast.bytes == 0


@pytest.mark.parametrize("columns", [80, 100])
def test_no_table_of_the_demo_wraps(columns: int) -> None:
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
    lines = printed(progress_table(rows, wide=columns == 100), columns=columns)
    shows(lines, [FILM, SERIES, RECORDINGS, *STATES, "123.4", "100 s"])
    assert len(lines) == 1 + 3

    steps = ["repointing", "rechecking", ""]
    now = [
        Seen(at_s=0, name=sample.name, step=step, state="checkingResumeData", tier="HDD")
        for sample, step in zip(SAMPLES, steps, strict=True)
    ]
    lines = printed(seen_table(now), columns=columns)
    shows(lines, [FILM, SERIES, RECORDINGS, *steps, "checkingResumeData", "– (HDD)"])
    assert len(lines) == 1 + 3

    lasts: tuple[Literal["tags", "seeds from"], ...] = ("tags", "seeds from")
    for last in lasts:
        lines = printed(landed_table(landed(tier="SSD"), last=last), columns=columns)
        names = [f"  {Path(name).name} " for sample in SAMPLES for name in sample.sizes]
        shows(lines, [*names, "music/ambient/Field recordings/", "0" * 12 + "…"])
        assert len(lines) == 1 + 3 + 12
        assert sum(line.endswith({"tags": "hdd, ssd"}.get(last, "SSD")) for line in lines) == 3

    plan = [
        {"name": sample.name, "bytes": 10**12, "decision": "tier_first", "sentence": "Wrapped " * 9}
        for sample in SAMPLES
    ]
    lines = printed(plan_table(plan), columns=columns)
    shows(lines, [FILM, SERIES, RECORDINGS, "1000000.0  tier_first  Wrapped"])
    assert sum(line.count("Wrapped") for line in lines) == 9 * 3


@pytest.mark.parametrize(
    ("tier", "on_ssd", "on_hdd", "shown"),
    [
        ("SSD", "good", "good", "good good yes"),
        ("SSD", "good", "bad", "good bad NO"),
        ("SSD", "bad", "good", "bad good NO"),
        ("SSD", "good", None, "good missing NO"),
        ("SSD", None, "good", "missing good NO"),
        ("HDD", None, "good", "deleted good yes"),
        ("HDD", "good", "good", "good good NO"),
        ("HDD", None, "bad", "deleted bad NO"),
        ("HDD", None, None, "deleted missing NO"),
        ("/elsewhere", "good", "good", "good good NO"),
    ],
)
def test_the_demo_says_no_unless_a_file_is_as_it_should_be(
    tier: str, on_ssd: str | None, on_hdd: str | None, shown: str
) -> None:
    one = replace(landed(tier=tier)[0], sha256_seeded="good", sha256_ssd=on_ssd, sha256_hdd=on_hdd)
    line = printed(landed_table([one], last="tags"), columns=80)[-1]
    assert line.replace("…", "").split()[-3:] == shown.split()
    assert one.wrong == shown.endswith("NO")


def landed(*, tier: str) -> list[Landed]:
    return [
        Landed(
            folder=str((Path(sample.category) / name).parent),
            name=Path(name).name,
            sha256_seeded="0" * 64,
            sha256_ssd="0" * 64,
            sha256_hdd="0" * 64,
            tags="hdd, ssd",
            tier=tier,
        )
        for sample in SAMPLES
        for name in sample.sizes
    ]


def printed(table: Table, *, columns: int) -> list[str]:
    console = Console(file=StringIO(), width=columns, force_terminal=True, color_system=None)
    console.print(table)
    assert isinstance(console.file, StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert max(map(len, lines)) <= columns
    return lines


def shows(lines: Sequence[str], whole: Sequence[str]) -> None:
    assert [text for text in whole if not any(text in line for line in lines)] == []


def test_a_demo_with_both_tiers_on_one_disk_says_what_to_set(tmp_path: Path) -> None:
    ssd = tmp_path / "ssd"
    ssd.mkdir()
    with demo(tmp_path, ssd) as process:
        out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "are on one file system, where relocating frees nothing; set QBM_DEMO_SSD" in err
    assert out.endswith("Everything is cleaned up.\n")
    leaves_nothing(tmp_path, ssd)


def test_a_demo_without_a_place_for_the_ssd_says_what_to_set(tmp_path: Path) -> None:
    with demo(tmp_path, tmp_path / "absent") as process:
        out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "absent: No such file or directory; set QBM_DEMO_SSD" in err
    assert out.endswith("Everything is cleaned up.\n")
    assert [*(tmp_path / "a place").iterdir()] == []


@pytest.mark.parametrize(
    ("signum", "status", "moment"),
    [
        (signal.SIGINT, 130, "Making 3 torrents"),
        (signal.SIGINT, 130, ": copying"),
        (signal.SIGTERM, 143, ": copying"),
        (signal.SIGINT, 130, "A Film (2026).mkv: repointing"),
    ],
)
def test_an_interrupted_demo_cleans_up(
    tmp_path: Path, ssd: Path, signum: signal.Signals, status: int, moment: str
) -> None:
    with demo(tmp_path, ssd) as process:
        read_until(process.stdout, moment)
        process.send_signal(signum)
        out, err = process.communicate(timeout=30)
    assert process.returncode == status
    assert out.endswith("Everything is cleaned up.\n")
    assert "Traceback" not in err
    leaves_nothing(tmp_path, ssd)


def test_a_demo_whose_service_dies_fails_and_cleans_up(tmp_path: Path, ssd: Path) -> None:
    with demo(tmp_path, ssd) as process:
        read_until(process.stdout, ": copying")
        (service,) = (
            pid for pid, command in processes_below(tmp_path).items() if "-m qbm_trio" in command
        )
        os.kill(service, signal.SIGKILL)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "FAILED" in err
    leaves_nothing(tmp_path, ssd)


def test_a_demo_in_which_another_torrent_stops_seeding_fails(tmp_path: Path, ssd: Path) -> None:
    with demo(tmp_path, ssd) as process:
        said = read_until(process.stdout, ", downloading: http")
        client = qbittorrentapi.Client(host=said.split()[-1])
        read_until(process.stdout, f"{FILM}: stopping")
        (other,) = (str(t["hash"]) for t in client.torrents_info() if t["name"] == SERIES)
        client.torrents_stop(torrent_hashes=other)
        out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1, out
    assert re.search(f"FAILED: '{SERIES}' should seed, but: (paused|stopped)UP, on the SSD", err)
    leaves_nothing(tmp_path, ssd)
