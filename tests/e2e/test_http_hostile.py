"""Clients that leave, stall, or do not end as they should."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from qbm_trio.web.connection import Limits
from tests.rig.clients import (
    LANES,
    QUICK,
    arrived,
    reset,
    true,
    until_job,
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

# -- leaving ----------------------------------------------------------------


@LANES
@pytest.mark.parametrize("how", ["end", "reset", "half"])
async def test_a_client_that_leaves_after_its_body_has_its_job_kept(
    tmp_path: Path, fast_lane: bool, how: str
) -> None:
    async with site_with_journal(tmp_path, fast_lane=fast_lane) as site:
        for n in range(20):
            async with site.wire() as wire:
                await wire.send(raw("POST", NOTIFY, body=notification(n)))
                if how == "reset":
                    reset(wire)
                elif how == "half":
                    await wire.stream.send_eof()
                    assert (await wire.answer()).status == 202
                    assert await wire.ends()
        for n in range(20):
            await until_job(site, n)


@LANES
@pytest.mark.parametrize("how", ["end", "reset", "half"])
async def test_a_client_that_leaves_does_not_cancel_what_it_asked_for(
    fast_lane: bool, how: str
) -> None:
    """The handler is in the middle of its work when the client goes."""
    jobs = StandIn(hold=trio.Event())
    async with site_on(backend(jobs), fast_lane=fast_lane) as site, site.wire() as wire:
        await wire.send(raw("POST", NOTIFY, body=notification(1)))
        await arrived(jobs, 1)
        if how == "reset":
            reset(wire)
        elif how == "half":
            await wire.stream.send_eof()
        else:
            await wire.stream.aclose()
        for _ in range(3):  # the service has noticed, if it notices at all
            assert (await site.call("GET", "/health")).status == 200
        assert not jobs.jobs
        assert jobs.hold is not None
        jobs.hold.set()
        if how == "half":
            assert (await wire.answer()).status == 202
        await true(lambda: bool(jobs.jobs))


@LANES
async def test_a_body_that_ends_early_is_refused_and_nothing_is_accepted(fast_lane: bool) -> None:
    jobs = StandIn()
    async with site_on(backend(jobs), fast_lane=fast_lane) as site, site.wire() as wire:
        body = notification(1)
        head = raw("POST", NOTIFY, headers={"Content-Length": str(len(body) + 10)})
        await wire.send(head + body)
        await wire.stream.send_eof()
        answer = await wire.answer()
        assert answer.status == 400
        assert answer.json()["success"] is False
        assert await wire.ends()
        assert not jobs.arrived


# -- stalling ---------------------------------------------------------------


@LANES
@pytest.mark.parametrize("begun", [b"", b'{"hash": '])
async def test_a_stalled_body_gets_408_and_the_connection_ends(
    fast_lane: bool, begun: bytes
) -> None:
    served = backend(StandIn())
    async with (
        site_on(served, fast_lane=fast_lane, limits=QUICK) as site,
        site.wire() as wire,
    ):
        await wire.send(raw("POST", NOTIFY, headers={"Content-Length": "100"}) + begun)
        answer = await wire.answer()
        assert (answer.status, answer.code) == (408, "body_timeout")
        assert await wire.ends()


async def test_a_body_that_drips_gains_no_time() -> None:
    async with site_on(backend(StandIn()), limits=QUICK) as site, site.wire() as wire:
        await wire.send(raw("POST", NOTIFY, headers={"Content-Length": "100000"}))
        with trio.fail_after(DEADLINE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_drip, wire)
                assert (await wire.answer()).status == 408
                nursery.cancel_scope.cancel()


@pytest.mark.parametrize("begun", [b"", b"P", b"POST / HTTP/1.1\r\nHost: x\r\n"])
async def test_slow_headers_and_silence_end_the_connection(begun: bytes) -> None:
    async with site_on(backend(StandIn()), limits=QUICK) as site, site.wire() as wire:
        if begun:
            await wire.send(begun)
        assert await wire.ends()


async def test_headers_that_drip_gain_no_time() -> None:
    limits = Limits(head_s=0.3, idle_s=60)
    async with site_on(backend(StandIn()), limits=limits) as site, site.wire() as wire:
        await wire.send(b"GET / HTTP/1.1\r\nX: ")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_drip, wire)
            assert await wire.ends()
            nursery.cancel_scope.cancel()


async def test_an_idle_connection_is_kept_between_requests_and_ended_later() -> None:
    limits = Limits(idle_s=1)
    async with site_on(backend(StandIn()), limits=limits) as site, site.wire() as wire:
        for n in range(5):
            await wire.send(raw("POST", NOTIFY, body=notification(n)))
            assert (await wire.answer()).status == 202
            await wire.send(raw("GET", "/jobs"))
            assert (await wire.answer()).status == 200
        assert await wire.ends()


async def _drip(wire: Wire) -> None:
    while True:
        try:
            await wire.send(b"x")
        except trio.BrokenResourceError:
            return
        await trio.sleep(0.02)


# -- ending -----------------------------------------------------------------


@pytest.mark.parametrize("target", ["/health", NOTIFY, "/nope"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_connection_close_gets_the_end_promptly(target: str, version: str) -> None:
    """hypercorn's own connection with quart-trio never ends one (see `web/connection.py`)."""
    async with site_on(backend(StandIn())) as site, site.wire() as wire:
        method = "POST" if target == NOTIFY else "GET"
        body = notification(1) if method == "POST" else None
        request = raw(method, target, body=body, headers={"Connection": "close"})
        await wire.send(request.replace(b"HTTP/1.1", b"HTTP/" + version.encode()))
        assert (await wire.answer()).status in (200, 202, 404)
        assert await wire.ends(within_s=5)


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with site_on(backend(StandIn())) as site, site.wire() as wire:
        requests = [
            raw("POST", NOTIFY, body=notification(1)),
            raw("GET", "/jobs"),
            raw("POST", NOTIFY, body=b"{}"),
            raw("GET", "/nope"),
            raw("POST", NOTIFY, body=notification(2), key=None),
            raw("GET", "/health", headers={"Connection": "close"}),
        ]
        await wire.send(b"".join(requests))
        statuses = [(await wire.answer()).status for _ in range(6)]
        assert statuses == [202, 200, 422, 404, 401, 200]
        assert await wire.ends()


async def test_an_early_refusal_arrives_although_the_client_goes_on_sending() -> None:
    """Closing with unread data would reset the connection and lose the answer."""
    async with site_on(backend(StandIn())) as site:
        for key, path, status in (("wrong", NOTIFY, 401), (KEY, NOTIFY, 413), (KEY, "/jobs", 413)):
            async with site.wire() as wire:
                body = b"x" * (5 * 2**20)
                await wire.send(raw("POST", path, body=body, key=key))
                answer = await wire.answer()
                assert answer.status == status
                assert answer.headers["connection"] == "close"
                assert await wire.ends()


async def test_a_client_that_waits_to_be_told_to_send_its_body_is_told() -> None:
    async with site_on(backend(StandIn())) as site, site.wire() as wire:
        body = notification(1)
        headers = {"Expect": "100-continue", "Content-Length": str(len(body))}
        await wire.send(raw("POST", NOTIFY, headers=headers))
        assert (await wire.answer()).status == 100
        await wire.send(body)
        assert (await wire.answer()).status == 202


async def test_a_client_that_asks_before_sending_too_much_is_refused_at_once() -> None:
    async with site_on(backend(StandIn())) as site, site.wire() as wire:
        headers = {"Expect": "100-continue", "Content-Length": str(2**21)}
        await wire.send(raw("POST", NOTIFY, headers=headers))
        assert (await wire.answer()).status == 413
