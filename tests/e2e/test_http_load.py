"""Many clients at once: each is served, or told to wait."""

from __future__ import annotations

import errno
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
import trio.testing

from qbm_trio.core.model import JobId
from qbm_trio.web.connection import Limits
from tests.rig.clients import (
    LANES,
    arrived,
    shut_down,
)
from tests.rig.site import (
    DEADLINE_S,
    KEY,
    NOTIFY,
    StandIn,
    Wire,
    backend,
    notification,
    raw,
    site_on,
    site_with_journal,
)


async def test_beyond_the_limit_of_connections_the_longest_idle_one_gives_way() -> None:
    async with (
        site_on(backend(StandIn()), limits=Limits(connections=3)) as site,
        site.wire() as first,
        site.wire() as second,
        site.wire() as third,
    ):
        for wire in (second, third, first):
            await wire.send(raw("GET", "/health"))
            assert (await wire.answer()).status == 200
        async with site.wire() as fourth:
            await fourth.send(raw("GET", "/health"))
            assert (await fourth.answer()).status == 200
            assert await second.ends()
            for wire in (first, third):
                await wire.send(raw("GET", "/health"))
                assert (await wire.answer()).status == 200


async def test_with_every_connection_at_work_a_new_client_waits_its_turn() -> None:
    jobs = StandIn(hold=trio.Event())
    async with (
        site_on(backend(jobs), limits=Limits(connections=2)) as site,
        site.wire() as first,
        site.wire() as second,
    ):
        for n, wire in enumerate((first, second)):
            await wire.send(raw("POST", NOTIFY, body=notification(n)))
        await arrived(jobs, 2)
        async with site.wire() as third:
            await third.send(raw("GET", "/health"))
            assert not await third.ends(within_s=0.1)
            assert jobs.hold is not None
            jobs.hold.set()
            assert (await third.answer()).status == 200


@LANES
async def test_with_every_connection_at_work_for_too_long_the_oldest_gives_way(
    fast_lane: bool,
) -> None:
    """As where the disk of STATE_DIR hangs: their clients may be long gone."""
    jobs = StandIn(hold=trio.Event())
    limits = Limits(connections=2, answer_s=0.5)
    async with (
        site_on(backend(jobs), fast_lane=fast_lane, limits=limits) as site,
        site.wire() as first,
        site.wire() as second,
    ):
        for n, wire in enumerate((first, second)):
            await wire.send(raw("POST", NOTIFY, body=notification(n)))
            await arrived(jobs, 1 + n)
        assert (await site.call("GET", "/health")).status == 200
        assert await first.ends()
        assert not await second.ends(within_s=0.05)


@LANES
@pytest.mark.parametrize("key", [KEY, None], ids=["key", "no key"])
async def test_clients_that_send_their_bodies_slowly_do_not_keep_others_out(
    fast_lane: bool, key: str | None
) -> None:
    """Their thirty seconds for a body are longer than this waits."""
    jobs = StandIn()
    limits = Limits(connections=2, body_s=10 * DEADLINE_S)
    async with (
        site_on(backend(jobs), fast_lane=fast_lane, limits=limits) as site,
        site.wire() as first,
        site.wire() as second,
    ):
        for wire in (first, second):
            await wire.send(raw("POST", NOTIFY, key=key, headers={"Content-Length": "100"}) + b"{")
            assert not await wire.ends(within_s=0.05)
        assert (await site.notify(notification(1))).status == 202
        assert await first.ends()
        assert not await second.ends(within_s=0.05)
        assert len(jobs.arrived) == 1


LARGE = raw("POST", NOTIFY, body=b"{}".ljust(2**20))  #: as large as it may be, and refused


@LANES
async def test_large_bodies_are_read_in_turn_and_each_is_answered(fast_lane: bool) -> None:
    answered: list[Wire] = []
    async with (
        site_on(backend(StandIn()), fast_lane=fast_lane, limits=Limits(large_bodies=2)) as site,
        AsyncExitStack() as stack,
    ):

        async def send(wire: Wire) -> None:
            await wire.send(LARGE)
            assert (await wire.answer()).status == 422
            answered.append(wire)

        wires = [await stack.enter_async_context(site.wire()) for _ in range(10)]
        with trio.fail_after(DEADLINE_S):
            for _ in range(2):  # all stay connected
                async with trio.open_nursery() as nursery:
                    for wire in wires:
                        nursery.start_soon(send, wire)
        assert len(answered) == 20


@LANES
@pytest.mark.parametrize("leaves", [False, True], ids=["stalls", "leaves"])
async def test_who_sends_a_large_body_slowly_keeps_out_only_large_ones_and_not_for_long(
    fast_lane: bool, leaves: bool
) -> None:
    limits = Limits(large_bodies=1, body_s=10 * DEADLINE_S if leaves else 0.3)
    async with site_on(backend(StandIn()), fast_lane=fast_lane, limits=limits) as site:
        async with site.wire() as slow:
            await slow.send(LARGE[:100_000])
            async with site.wire() as waiting:
                await waiting.send(LARGE[:100_000])
                assert (await site.notify(notification(1))).status == 202
                if not leaves:
                    assert [(await w.answer()).code for w in (slow, waiting)] == [
                        "body_timeout"
                    ] * 2
        with trio.fail_after(DEADLINE_S):
            async with site.wire() as next_one:
                await next_one.send(LARGE)
                assert (await next_one.answer()).status == 422


async def test_a_client_that_does_not_read_its_answers_gives_way() -> None:
    limits = Limits(connections=1, send_s=10 * DEADLINE_S, patience_s=1)
    async with site_on(backend(StandIn()), limits=limits) as site, site.wire() as greedy:
        greedy.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await greedy.send(raw("GET", "/openapi.json") * 200)
        assert (await site.call("GET", "/health")).status == 200


@LANES
async def test_ten_thousand_notifications_over_a_hundred_connections_are_kept_or_told_to_wait(
    tmp_path: Path, fast_lane: bool
) -> None:
    count, connections = (10_000, 100) if fast_lane else (1_000, 100)
    kept: set[str] = set()
    told = {"202": 0, "503": 0}
    async with site_with_journal(tmp_path, capacity=count * 6 // 10, fast_lane=fast_lane) as site:

        async def client(number: int) -> None:
            async with site.wire() as wire:
                for n in range(number, count, connections):
                    await wire.send(raw("POST", NOTIFY, body=notification(n)))
                    answer = await wire.answer()
                    told[str(answer.status)] += 1
                    if answer.status == 202:
                        kept.add(answer.json()["queue_id"])
                    else:
                        assert int(answer.headers["retry-after"]) > 0

        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                for number in range(connections):
                    nursery.start_soon(client, number)
    assert told["202"] == len(kept) == count * 6 // 10
    assert told["202"] + told["503"] == count
    async with site_with_journal(tmp_path, capacity=count) as site:
        assert site.jobs is not None
        assert all(site.jobs.live.get(JobId(job_id)) is not None for job_id in kept)


async def test_a_bug_met_by_one_client_does_not_end_the_service_for_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("boom")

    async with site_on(backend(StandIn())) as site:
        with monkeypatch.context() as patch:
            patch.setattr("qbm_trio.web.lane.LaneStream.begin", broken)
            async with site.wire() as wire:
                await wire.send(raw("POST", NOTIFY, body=notification(1)))
                assert await wire.ends()
        assert (await site.notify(notification(1))).status == 202
    assert "boom" in caplog.text


async def test_a_client_that_waits_for_its_turn_at_shutdown_is_let_go() -> None:
    jobs = StandIn(hold=trio.Event())
    limits = Limits(connections=1, grace_s=0.2)
    async with site_on(backend(jobs), limits=limits) as site, site.wire() as first:
        await first.send(raw("POST", NOTIFY, body=notification(1)))
        await arrived(jobs, 1)
        async with site.wire() as second:
            assert not await second.ends(within_s=0.1)
            async with shut_down(site, within_s=2):
                assert await second.ends()


async def test_running_out_of_descriptors_delays_a_client_and_loses_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = trio.SocketListener.accept
    failures = [OSError(errno.EMFILE, "Too many open files")] * 2

    async def short(self: trio.SocketListener) -> trio.SocketStream:
        if failures:
            await trio.lowlevel.checkpoint()
            raise failures.pop()
        return await real(self)

    monkeypatch.setattr(trio.SocketListener, "accept", short)
    async with site_on(backend(StandIn())) as site:
        assert (await site.call("GET", "/health")).status == 200
    assert not failures
    assert "Too many open files" in caplog.text
