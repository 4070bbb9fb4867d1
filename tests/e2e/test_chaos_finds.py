"""``scripts/chaos`` notices a service that loses data."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.rig.chaos_runs import SEED, figures, finished, leaves_nothing

PLAIN_SEED = 5
"""Its qBittorrent does not rename the files of a copy that it found bad. If it did, even a service
that trusts every copy would miss them, and go back."""
pytestmark = [
    pytest.mark.qbittorrent,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount"),
]


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
