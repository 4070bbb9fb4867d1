"""The tags follow the data, in a real qBittorrent."""

from __future__ import annotations

from pathlib import Path

import pytest

from qbm_trio.core.model import Outcome
from tests.rig.inside import inside, put, tags
from tests.rig.qbt import running

pytestmark = pytest.mark.qbittorrent


async def test_a_torrent_that_was_moved_to_the_hdd_by_hand_loses_the_tag_of_the_ssd(
    tmp_path: Path,
) -> None:
    with running(tmp_path / "qbt") as qbt:
        async with inside(tmp_path, qbt.url) as service:
            torrent = put(qbt, service.hdd, "Moved", {"a": 40_000}, tags="ssd,mine,ssd-too")
            assert (await service.tier(torrent.id)).outcome is Outcome.ALREADY_ON_HDD
            assert tags(qbt, torrent.id) == {"hdd", "mine", "ssd-too"}
