"""Other protocols, odd requests, and bodies whose end is ambiguous."""

from __future__ import annotations

import pytest

from qbm_trio.web.connection import Limits
from tests.rig.clients import (
    LANES,
)
from tests.rig.site import (
    KEY,
    NOTIFY,
    StandIn,
    backend,
    notification,
    raw,
    site_on,
)


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
        (("Transfer-Encoding:\r\n chunked",), CHUNKED),
        (("X: y\r\n\tTransfer-Encoding: chunked",), CHUNKED),
        ((f"Content-Length:\r\n {len(BODY)}",), BODY),
        (("Transfer-Encoding: identity", f"Content-Length: {len(BODY)}"), BODY),
        (("Transfer-Encoding: chunked",), b"5\r\n{}\r\n"),
        (("Transfer-Encoding: chunked",), b"-1\r\n{}\r\n0\r\n\r\n"),
        (("Transfer-Encoding: chunked",), b"2\r\n{}\r\n0\r\nA: b\r\n c\r\n\r\n"),
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
