"""Contact with qBittorrent: calm while all is well, patient while it is not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qbm_trio.core.model import WaitReason
from qbm_trio.tasks.prober import IDLE_S, LONGEST_S, keep_contact
from qbm_trio.tasks.waits import Waits
from tests.fakes.qbittorrent import FakeQbittorrent, away


@dataclass
class Woken:
    """Counts wake-ups in the place of `Waits`."""

    reasons: list[WaitReason] = field(default_factory=list)

    def wake(self, reason: WaitReason) -> None:
        self.reasons.append(reason)


@asynccontextmanager
async def keeping(fake: FakeQbittorrent) -> AsyncIterator[Woken]:
    woken = Woken()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_contact, fake, cast(Waits, woken))
        await wait_all_tasks_blocked()
        yield woken
        nursery.cancel_scope.cancel()


async def test_it_asks_once_a_minute_while_qbittorrent_answers(
    autojump_clock: MockClock,
) -> None:
    fake = FakeQbittorrent()
    async with keeping(fake) as woken:
        await trio.sleep(10 * IDLE_S + 1)
        assert fake.calls == [("version",)] * 11
        assert set(woken.reasons) == {WaitReason.QBITTORRENT}


async def test_while_others_ask_it_does_not_but_for_the_version_of_a_new_session(
    autojump_clock: MockClock,
) -> None:
    fake = FakeQbittorrent()
    async with keeping(fake):
        for _ in range(20):
            await trio.sleep(IDLE_S * 0.7)
            await fake.changes(0)
        assert ("version",) not in fake.calls[1:]
        fake.restart()
        for _ in range(3):
            await trio.sleep(IDLE_S * 0.7)
            await fake.changes(0)
        assert fake.calls[1:].count(("version",)) == 1


async def test_while_it_is_away_it_asks_ever_more_rarely_and_logs_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    fake = FakeQbittorrent()
    fake.down = away()
    async with keeping(fake) as woken:
        await trio.sleep(60)
        assert len(fake.calls) <= 8
        await trio.sleep(3540)
        assert 3600 / LONGEST_S <= len(fake.calls) <= 2 * 3600 / LONGEST_S + 10
        assert woken.reasons == []
        assert caplog.text.count("no connection to qBittorrent") == 1


async def test_jobs_are_woken_when_it_is_back(autojump_clock: MockClock) -> None:
    fake = FakeQbittorrent()
    fake.down = away()
    async with keeping(fake) as woken:
        await trio.sleep(100)
        fake.down = None
        with trio.fail_after(LONGEST_S + 1):
            await fake.wait_reachable()
        await wait_all_tasks_blocked()
        assert woken.reasons == [WaitReason.QBITTORRENT]


async def test_another_tasks_failed_call_is_looked_into_within_a_second(
    autojump_clock: MockClock,
) -> None:
    fake = FakeQbittorrent()
    async with keeping(fake):
        fake.failures = [away()]
        with pytest.raises(type(away())):
            await fake.torrents()
        await trio.sleep(1.1)
        assert fake.calls[-1] == ("version",)
        assert fake.contact.reachable


async def test_one_call_that_always_fails_does_not_wake_every_job_for_ever(
    autojump_clock: MockClock,
) -> None:
    fake = FakeQbittorrent()
    async with keeping(fake) as woken:
        began = trio.current_time()
        rounds = 0
        while trio.current_time() - began < 600:
            fake.failures = [away()]
            with pytest.raises(type(away())):
                await fake.torrents()
            await fake.wait_reachable()
            rounds += 1
        assert rounds < 60
        assert len(woken.reasons) <= rounds + 1
