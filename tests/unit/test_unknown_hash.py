"""How long a job waits for a torrent that qBittorrent does not know."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from qbm_trio.core.errors import MustWait
from qbm_trio.core.model import Job, JobId, WaitReason
from qbm_trio.core.roots import Roots
from qbm_trio.tasks.planning import Planner, UnknownForTooLong
from tests.fakes.inline_journal import InlineJournal
from tests.fakes.qbittorrent import FakeQbittorrent


async def test_an_unknown_hash_is_looked_for_every_few_seconds_for_a_minute_and_then_fails(
    mock_clock: MockClock, tmp_path: Path
) -> None:
    journal = InlineJournal.open(tmp_path)
    assert isinstance(journal, InlineJournal)
    planner = Planner(
        roots=Roots(ssd=tmp_path / "ssd", hdd=tmp_path / "hdd", path_mappings=()),
        client=FakeQbittorrent(),
        journal=journal,
        computing=trio.CapacityLimiter(1),
    )
    job = Job(id=JobId("j"), seq=1, hash="ab" * 20)
    for later_s in (0, 30, 29):
        mock_clock.jump(later_s)
        with pytest.raises(MustWait) as wait:
            await planner.find(job)
        assert wait.value.reason is WaitReason.UNKNOWN_TORRENT
        assert wait.value.delay_s == 5
    mock_clock.jump(1)
    with pytest.raises(UnknownForTooLong, match="has no torrent with the hash"):
        await planner.find(job)
    journal.end()
