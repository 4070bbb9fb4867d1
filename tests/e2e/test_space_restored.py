"""The journal is damaged or lost in mid-relocation: a real torrent does not stay stopped."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from qbm_trio.core.relocation import Step
from qbm_trio.core.space import RELOCATING_TAG
from tests.rig.damage import DAMAGES
from tests.rig.kills import LIMIT_S, files_of, victim
from tests.rig.qbt import Qbt
from tests.rig.relocations import RUNNING

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


LOST = [(Step.STOPPING, "done"), (Step.REPOINTING, "done"), (Step.CHECKING, "done")]


@pytest.mark.parametrize(("step", "when"), LOST, ids=[f"{step}-{when}" for step, when in LOST])
def test_a_state_dir_that_is_lost_in_mid_relocation_leaves_its_torrent_whole_and_running(
    qbt: Qbt, tmp_path: Path, step: Step, when: str
) -> None:
    seed = 120 + LOST.index((step, when))
    with victim(tmp_path, qbt, f"lost-{step}-{when}", seed=seed) as one:
        one.tier()
        one.die(f"{step}:{when}")
        shutil.rmtree(one.service.state)
        service = one.service
        service.module = "qbm_trio"
        service.env |= {"RECONCILE_INTERVAL_S": "1", "DISK_SPACE_THRESHOLD_GB": "0.0001"}
        service.start(limit_s=LIMIT_S)

        def well() -> bool:
            said = [qbt.info(id_) for id_ in one.ids]
            return all(
                info["state"] in RUNNING
                and info["progress"] == 1
                and RELOCATING_TAG not in info["tags"]
                for info in said
            )

        service.wait_for(well, "they run", LIMIT_S)
        # Where it was on the SSD is a guess without the journal; what is there stays.
        assert one.content.items() <= files_of(service.ssd / "tv").items()
        assert one.content.items() <= files_of(service.hdd).items()
