"""Shutdown in spite of what clients do; and which addresses can be bound."""

from __future__ import annotations

import gc
import socket
from contextlib import suppress

import pytest
import trio
import trio.testing

from qbm_trio.core.model import Job, JobId
from qbm_trio.core.overview import Overview
from qbm_trio.web.connection import Limits
from qbm_trio.web.serving import BindError, bind
from tests.rig.clients import (
    LANES,
    QUICK,
    arrived,
    shut_down,
    until_refused,
)
from tests.rig.site import (
    DEADLINE_S,
    NOTIFY,
    StandIn,
    Wire,
    backend,
    notification,
    overview,
    raw,
    site_on,
    v1,
)


async def test_idle_and_half_asked_connections_end_at_once_at_shutdown() -> None:
    async with (
        site_on(backend(StandIn()), limits=Limits(grace_s=30)) as site,
        site.wire() as silent,
        site.wire() as used,
        site.wire() as half,
    ):
        await used.send(raw("GET", "/health"))
        await used.answer()
        await half.send(b"GET /he")
        assert (await site.call("GET", "/health")).status == 200  # all were accepted
        async with shut_down(site, within_s=2):
            for wire in (silent, used, half):
                assert await wire.ends()


@LANES
async def test_a_request_in_flight_at_shutdown_is_answered_and_the_end_comes_right_after(
    fast_lane: bool,
) -> None:
    jobs = StandIn(hold=trio.Event())
    served = backend(jobs)
    async with (
        site_on(served, limits=Limits(grace_s=30), fast_lane=fast_lane) as site,
        site.wire() as wire,
    ):
        await wire.send(raw("POST", NOTIFY, body=notification(1)))
        await arrived(jobs, 1)
        async with shut_down(site, within_s=2):
            await until_refused(site)
            assert jobs.hold is not None
            jobs.hold.set()
            assert (await wire.answer()).status == 202
            assert await wire.ends()


@LANES
async def test_work_that_does_not_end_holds_shutdown_for_the_grace_only(fast_lane: bool) -> None:
    jobs = StandIn(hold=trio.Event())
    async with (
        site_on(backend(jobs), limits=QUICK, fast_lane=fast_lane) as site,
        site.wire() as wire,
    ):
        await wire.send(raw("POST", NOTIFY, body=notification(1)))
        await arrived(jobs, 1)
        async with shut_down(site, within_s=QUICK.grace_s + 5):
            assert await wire.ends()


async def test_a_client_that_never_reads_holds_shutdown_for_the_grace_only() -> None:
    """hypercorn's own connection shields its writing: the end would never come."""
    job = Job(id=JobId("1"), seq=1, hash=v1(1), name="x" * 1000)

    async def large(*, in_haste: bool) -> Overview:
        await trio.lowlevel.checkpoint()
        return overview(recent=(job,) * 4000)

    async with (
        site_on(backend(StandIn(), overview=large), limits=QUICK) as site,
        site.wire() as wire,
    ):
        await wire.send(raw("GET", "/status") * 3)
        await trio.testing.wait_all_tasks_blocked(0.3)  # the pipe is full
        async with shut_down(site, within_s=QUICK.grace_s + 5):
            pass


async def test_a_client_that_never_reads_is_let_go_after_a_while() -> None:
    job = Job(id=JobId("1"), seq=1, hash=v1(1), name="x" * 1000)

    async def large(*, in_haste: bool) -> Overview:
        await trio.lowlevel.checkpoint()
        return overview(recent=(job,) * 4000)

    limits = Limits(send_s=0.3)
    async with (
        site_on(backend(StandIn(), overview=large), limits=limits) as site,
        site.wire() as wire,
    ):
        await wire.send(raw("GET", "/status") * 3)
        await trio.testing.wait_all_tasks_blocked(0.6)
        received = 0
        with trio.fail_after(DEADLINE_S):
            try:
                while chunk := await wire.stream.receive_some():
                    received += len(chunk)
            except trio.BrokenResourceError:
                pass
        assert 0 < received < 3 * 4_000_000


async def test_cancelling_serve_is_prompt_whatever_clients_do() -> None:
    jobs = StandIn(hold=trio.Event())
    began = trio.current_time()
    async with site_on(backend(jobs), limits=Limits(grace_s=30)) as site:
        wire = Wire(await trio.open_tcp_stream("127.0.0.1", site.port))
        await wire.send(raw("POST", NOTIFY, body=notification(1)))
        await arrived(jobs, 1)
    assert trio.current_time() - began < 5
    await wire.stream.aclose()


async def test_sent_data_that_is_not_acknowledged_is_given_up_by_the_kernel() -> None:
    limits = Limits(tcp_user_timeout_ms=1234)
    async with site_on(backend(StandIn()), limits=limits) as site, site.wire() as wire:
        await wire.send(raw("GET", "/health"))
        await wire.answer()
        assert [timeout for timeout in _user_timeouts(site.port) if timeout] == [1234]


def _user_timeouts(port: int) -> list[int]:
    """Of each connection in this process whose own port is ``port``."""
    found = []
    for thing in gc.get_objects():
        if isinstance(thing, socket.socket) and thing.family == socket.AF_INET:
            with suppress(OSError):  # closed, or listening only
                thing.getpeername()
                if thing.getsockname()[1] == port:
                    found.append(thing.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
    return found


# -- binding ----------------------------------------------------------------


async def test_a_port_in_use_is_told_with_the_settings_to_change() -> None:
    taken = bind("127.0.0.1", 0)
    with pytest.raises(BindError, match=r"HTTP_PORT=\d+: another program listens there"):
        bind("127.0.0.1", taken.getsockname()[1])
    taken.close()


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "x" * 300, "\udcff"])
async def test_a_host_that_is_not_ours_is_told(host: str) -> None:
    with pytest.raises(BindError, match="HTTP_HOST="):
        bind(host, 0)


async def test_ipv6_and_localhost_can_be_bound() -> None:
    for host in ("localhost", "0.0.0.0", "127.0.0.1"):
        bind(host, 0).close()
    if socket.has_ipv6:
        try:
            bind("::1", 0).close()
        except BindError:
            pytest.skip("no IPv6 on this machine")
