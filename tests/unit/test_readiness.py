"""A torrent is copied only when qBittorrent says in every way that it is whole and at rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

import pytest

from qbm_trio.core.model import TorrentFile
from qbm_trio.core.readiness import why_not_ready
from tests.rig.seen import SEEDING

FILE = TorrentFile(index=0, name=PurePosixPath("t"), size_bytes=2, priority=1, progress=1.0)

# Every state of qBittorrent 4.5 to 5.3, from its own TorrentState.
AT_REST = "uploading stalledUP queuedUP forcedUP pausedUP stoppedUP"
NOT_AT_REST = """error missingFiles moving unknown allocating checkingUP checkingDL
    checkingResumeData downloading metaDL forcedMetaDL stalledDL queuedDL forcedDL pausedDL
    stoppedDL"""


@pytest.mark.parametrize("state", AT_REST.split())
def test_a_whole_torrent_in_a_seeding_state_is_ready(state: str) -> None:
    assert why_not_ready(replace(SEEDING, state=state), [FILE]) is None


@pytest.mark.parametrize("state", NOT_AT_REST.split())
def test_any_other_state_is_not_ready_though_all_figures_say_so(state: str) -> None:
    # Moving out of the incomplete folder, 4.5.2 shows progress 1 and a completion time.
    why = why_not_ready(replace(SEEDING, state=state), [FILE])
    assert why is not None
    assert state.removesuffix("DL").removesuffix("UP").removesuffix("ResumeData") in why


@pytest.mark.parametrize(
    "lacking",
    [{"progress": 0.999}, {"amount_left_bytes": 1}, {"progress": 0.0, "amount_left_bytes": 2}],
)
def test_anything_left_to_download_is_not_ready(lacking: dict[str, float]) -> None:
    assert "incomplete" in str(why_not_ready(replace(SEEDING, **lacking), [FILE]))  # type: ignore[arg-type]


def test_an_unfinished_file_counts_only_when_it_is_wanted() -> None:
    part = replace(FILE, index=1, name=PurePosixPath("dir/extra.nfo"), progress=0.5)
    assert "'dir/extra.nfo'" in str(why_not_ready(SEEDING, [FILE, part]))
    assert why_not_ready(SEEDING, [FILE, replace(part, priority=0)]) is None
