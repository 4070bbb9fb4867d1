"""Clients that stall, leave, lie or never read; and shutdown in spite of them."""

from __future__ import annotations

import errno
import gc
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qbm_trio.core.model import Job, JobId
from qbm_trio.core.overview import Overview
from qbm_trio.web.connection import Limits
from qbm_trio.web.serving import BindError, bind
from tests.rig.site import (
    DEADLINE_S,
    KEY,
    NOTIFY,
    Site,
    StandIn,
    Wire,
    backend,
    notification,
    overview,
    raw,
    site_on,
    site_with_journal,
    v1,
)

LANES = pytest.mark.parametrize("fast_lane", [True, False], ids=["lane", "app"])
QUICK = Limits(idle_s=0.2, head_s=0.2, body_s=0.2, linger_s=0.5, grace_s=0.3)


async def until_job(site: Site, n: int) -> None:
    """Wait until the torrent ``n`` has a job."""
    with trio.fail_after(DEADLINE_S):
        while True:
            answer = await site.call("GET", "/jobs?limit=500")
            if v1(n) in {job["hash"] for job in answer.json()["jobs"]}:
                return
            await trio.sleep(0.01)


async def true(condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds."""
    with trio.fail_after(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  # what it asks for has no event
            await trio.sleep(0.001)


async def arrived(jobs: StandIn, count: int) -> None:
    """Wait until ``count`` notifications are being handled."""
    await true(lambda: len(jobs.arrived) >= count)


async def until_refused(site: Site) -> None:
    """Wait until nobody listens any more."""
    with trio.fail_after(DEADLINE_S):
        while True:
            try:
                await (await trio.open_tcp_stream("127.0.0.1", site.port)).aclose()
            except OSError:
                return


def reset(wire: Wire) -> None:
    """Leave with a reset instead of a proper end."""
    wire.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.stream.socket.close()


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
        site_on(served, fast_lane=fast_lane, limits=QUICK, body_timeout_s=1) as site,
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


# -- other protocols --------------------------------------------------------


async def test_an_upgrade_to_http2_is_answered_over_http_1() -> None:
    async with site_on(backend(StandIn())) as site, site.wire() as wire:
        upgrade = {
            "Connection": "Upgrade, HTTP2-Settings",
            "Upgrade": "h2c",
            "HTTP2-Settings": "AAMAAABkAARAAAAAAAIAAAAA",
        }
        await wire.send(raw("GET", "/health", headers=upgrade))
        assert (await wire.answer()).status == 200


async def test_http2_without_asking_is_refused() -> None:
    async with site_on(backend(StandIn())) as site, site.wire() as wire:
        await wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        assert (await wire.answer()).status in (400, 505)
        assert await wire.ends()


@pytest.mark.parametrize("target", ["/health", "/jobs", NOTIFY])
async def test_a_websocket_is_not_opened(target: str) -> None:
    async with site_on(backend(StandIn())) as site, site.wire() as wire:
        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        await wire.send(raw("GET", target, headers=upgrade))
        assert (await wire.answer()).status == (405 if target == NOTIFY else 200)


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET * HTTP/1.1", 400),
        (b"OPTIONS * HTTP/1.1", 400),
        (b"CONNECT localhost:80 HTTP/1.1", 400),
        (b"GET ?x HTTP/1.1", 400),
        (b"GET health HTTP/1.1", 400),
        (b"GET http://[bad/health HTTP/1.1", 200),
        (b"GET http://localhost/health HTTP/1.1", 200),
        (b"GET HTTP://LOCALHOST HTTP/1.1", 404),
        (b"GET http://localhost?x=1 HTTP/1.1", 404),
        (b"GET /%ff%00%zz HTTP/1.1", 404),
        (b"GET /health# HTTP/1.1", 404),
        (b"GET /\xff HTTP/1.1", 400),
        (b"GET /health HTTP/3.0", 505),
        (b"GET /health", 400),
        (b"nonsense", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"GET /" + b"a" * 15_000 + b" HTTP/1.1", 404),
        (b"GET /" + b"a" * 200_000 + b" HTTP/1.1", 431),
    ],
)
async def test_any_request_line_gets_an_answer_below_500(request_line: bytes, status: int) -> None:
    async with site_on(backend(StandIn())) as site, site.wire() as wire:
        await wire.send(request_line + f"\r\nHost: x\r\nX-API-Key: {KEY}\r\n\r\n".encode())
        answer = await wire.answer()
        assert answer.status == status
        assert answer.headers["content-type"] == "application/json"
        if status >= 400:
            assert set(answer.json()) == {"success", "error", "code", "details"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "[bad"},
        {"Host": ""},
        {"Host": "a b"},
        {"Host": "x" * 5000},
        {"Content-Length": "-1"},
        {"Content-Length": "abc"},
        {"Content-Length": "1, 2"},
        {"Content-Length": "9" * 400},
        {"Transfer-Encoding": "gzip"},
        {"Transfer-Encoding": "chunked", "Content-Length": "5"},
        {"Content-Type": "\xff\xfe; charset=\xff"},
        {"Content-Type": "multipart/form-data"},
        {"Content-Type": "application/x-www-form-urlencoded; boundary=\xff"},
        {"Authorization": "Bearer"},
        {"Cookie": "\xff=\xff"},
        {"Range": "bytes=x-y"},
        {"Accept": "\xff"},
        {"If-None-Match": "*"},
        {"X-Forwarded-For": "\xff"},
    ],
)
@pytest.mark.parametrize("target", ["/health", "/jobs", NOTIFY])
async def test_odd_headers_get_an_answer_below_500(headers: dict[str, str], target: str) -> None:
    async with site_on(backend(StandIn()), limits=Limits(linger_s=0.5)) as site:
        for method in ("GET", "POST"):
            async with site.wire() as wire:
                await wire.send(raw(method, target, headers=headers) + b"0\r\n\r\n")
                await wire.stream.send_eof()
                answer = await wire.answer()
                assert answer.status < 500, answer
                assert answer.headers["content-type"] == "application/json"


SMUGGLED = raw("POST", NOTIFY, body=notification(2))
BODY = notification(1)
CHUNKED = f"{len(BODY):x}\r\n".encode() + BODY + b"\r\n0\r\n\r\n"


@LANES
@pytest.mark.parametrize("target", [NOTIFY, "/queue/clear"])
@pytest.mark.parametrize(
    ("lines", "body"),
    [
        (("Transfer-Encoding: chunked", f"Content-Length: {len(CHUNKED)}"), CHUNKED),
        ((f"content-length: {len(CHUNKED)}", "TRANSFER-ENCODING: Chunked"), CHUNKED),
        (("Transfer-Encoding: chunked", "Content-Length: 0"), b"0\r\n\r\n"),
        ((f"Content-Length: {len(BODY)}", f"Content-Length: {len(BODY) + 1}"), BODY),
        ((f"Content-Length: {len(BODY)}, 0",), BODY),
        ((f"Content-Length: +{len(BODY)}",), BODY),
        (("Content-Length: 0x2",), b"{}"),
        (("Transfer-Encoding: gzip",), CHUNKED),
        (("Transfer-Encoding: gzip, chunked",), CHUNKED),
        (("Transfer-Encoding: chunked, chunked",), CHUNKED),
        (("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), CHUNKED),
        (("Transfer-Encoding: chunked", "Transfer-Encoding: identity"), CHUNKED),
        (("Transfer-Encoding: xchunked",), CHUNKED),
        (("Transfer-Encoding : chunked",), CHUNKED),
        (("Transfer-Encoding: identity", f"Content-Length: {len(BODY)}"), BODY),
        (("Transfer-Encoding: chunked",), b"5\r\n{}\r\n"),
        (("Transfer-Encoding: chunked",), b"-1\r\n{}\r\n0\r\n\r\n"),
    ],
)
async def test_a_body_whose_end_is_ambiguous_gets_400_and_nothing_after_it_is_served(
    target: str, lines: tuple[str, ...], body: bytes, fast_lane: bool
) -> None:
    """A proxy may see another end: what follows could be a request that it never checked."""
    await no_smuggling(target, "1.1", lines, body, fast_lane)


@LANES
async def test_http_1_0_knows_no_transfer_encoding(fast_lane: bool) -> None:
    await no_smuggling(NOTIFY, "1.0", ("Transfer-Encoding: chunked",), CHUNKED, fast_lane)


async def no_smuggling(
    target: str, version: str, lines: tuple[str, ...], body: bytes, fast_lane: bool
) -> None:
    jobs = StandIn()
    limits = Limits(linger_s=0.5)
    async with site_on(backend(jobs), limits=limits, fast_lane=fast_lane) as site:
        head = [f"POST {target} HTTP/{version}", "Host: x", f"X-API-Key: {KEY}", *lines]
        async with site.wire() as wire:
            await wire.send("\r\n".join([*head, "", ""]).encode() + body + SMUGGLED)
            await wire.stream.send_eof()
            answer = await wire.answer()
            assert (answer.status, answer.code) == (400, "bad_request")
            assert answer.headers["connection"] == "close"
            assert await wire.ends()
        assert not jobs.arrived


@pytest.mark.parametrize(
    ("line", "body"),
    [
        (f"Content-Length: {len(BODY)}\r\nContent-Length: {len(BODY)}", BODY),
        ("Transfer-Encoding: Chunked", CHUNKED),
    ],
)
async def test_the_same_length_twice_and_chunks_are_fine(line: str, body: bytes) -> None:
    async with site_on(backend(StandIn())) as site, site.wire() as wire:
        head = f"POST {NOTIFY} HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\n{line}\r\n\r\n"
        await wire.send(head.encode() + body + raw("GET", "/health"))
        assert (await wire.answer()).status == 202
        assert (await wire.answer()).status == 200


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    pieces=st.lists(
        st.sampled_from(
            [
                b"GET ",
                b"POST ",
                NOTIFY.encode(),
                b"/jobs?limit=",
                b" HTTP/1.1\r\n",
                b"Host: x\r\n",
                f"X-API-Key: {KEY}\r\n".encode(),
                b"Content-Length: 20\r\n",
                b"Transfer-Encoding: chunked\r\n",
                b"Connection: close\r\n",
                b"\r\n",
                b'{"hash": "a", "params": 1}',
                b"5\r\nhello\r\n0\r\n\r\n",
                b"\0\xff",
            ]
        )
        | st.binary(max_size=10),
        max_size=14,
    )
)
async def test_no_bytes_whatever_get_a_500_or_stop_the_service(
    caplog: pytest.LogCaptureFixture, pieces: list[bytes]
) -> None:
    async with (
        site_on(backend(StandIn()), limits=Limits(linger_s=0.5)) as site,
        site.wire() as wire,
    ):
        with trio.fail_after(DEADLINE_S):
            for piece in pieces:
                try:
                    await wire.send(piece)
                except trio.BrokenResourceError:
                    break
            received = b""
            try:
                await wire.stream.send_eof()
                while chunk := await wire.stream.receive_some():
                    received += chunk
            except trio.BrokenResourceError:
                pass
        assert b"HTTP/1.1 500" not in received
        assert not [r for r in caplog.records if r.levelname == "ERROR"]
        assert (await site.call("GET", "/health")).status == 200


# -- many -------------------------------------------------------------------


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
        assert all(site.jobs.of(JobId(job_id)) is not None for job_id in kept)


async def test_a_defect_met_by_one_client_does_not_end_the_service_for_others(
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


# -- shutdown ---------------------------------------------------------------


@asynccontextmanager
async def shut_down(site: Site, within_s: float) -> AsyncIterator[None]:
    """Ask for the end, run the block, and fail unless all is over in time."""
    began = trio.current_time()
    site.shutdown.set()
    yield
    with trio.fail_after(DEADLINE_S):
        await site.ended.wait()
    assert trio.current_time() - began < within_s


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
        async with shut_down(site, within_s=QUICK.grace_s + 1):
            assert await wire.ends()


async def test_a_client_that_never_reads_holds_shutdown_for_the_grace_only() -> None:
    """hypercorn's own connection shields its writing: the end would never come."""
    job = Job(id=JobId("1"), seq=1, hash=v1(1), name="x" * 1000)

    async def large() -> Overview:
        await trio.lowlevel.checkpoint()
        return overview(recent=(job,) * 4000)

    async with (
        site_on(backend(StandIn(), overview=large), limits=QUICK) as site,
        site.wire() as wire,
    ):
        await wire.send(raw("GET", "/status") * 3)
        await trio.testing.wait_all_tasks_blocked(0.3)  # the pipe is full
        async with shut_down(site, within_s=QUICK.grace_s + 1):
            pass


async def test_a_client_that_never_reads_is_let_go_after_a_while() -> None:
    job = Job(id=JobId("1"), seq=1, hash=v1(1), name="x" * 1000)

    async def large() -> Overview:
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
