"""The journal is damaged in mid-relocation: a real qBittorrent's torrent does not stay stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from qbm_trio.core.relocation import Step
from tests.rig.damage import DAMAGES
from tests.rig.kills import victim
from tests.rig.qbt import Qbt

pytestmark = [pytest.mark.qbittorrent, pytest.mark.slow]

UNKNOWN = "garbage"  #: the recovery point is from before it: only qBittorrent's tag tells
READ = "bits flipped in the header"  #: it is read from the damaged file; its step is not believed

CASES = [
    (Step.STOPPING, "done", UNKNOWN),
    (Step.REPOINTING, "done", UNKNOWN),
    (Step.CHECKING, "recorded", UNKNOWN),
    (Step.CHECKING, "done", READ),
    (Step.DELETING, "recorded", READ),
    (Step.DELETING, "half", READ),
]


@pytest.mark.parametrize(
    ("step", "when", "damage"), CASES, ids=[f"{step}-{when}" for step, when, _ in CASES]
)
def test_a_journal_that_is_damaged_in_mid_relocation_leaves_its_torrent_whole_and_running(
    qbt: Qbt, tmp_path: Path, step: Step, when: str, damage: str
) -> None:
    seed = 100 + CASES.index((step, when, damage))
    with victim(tmp_path, qbt, f"{step}-{when}", seed=seed) as one:
        one.tier()
        one.die(f"{step}:{when}")
        DAMAGES[damage](one.service.state)
        one.survive(undone=when != "half")
        assert "the journal was restored" in one.service.output_of_run()
