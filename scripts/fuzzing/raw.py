"""Bytes that a port on a network gets to see: drawn from a seed, before anything is sent."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

WRONG_KEY = "a-wrong-key-0123456789"
NOTIFY = "/notify/torrent-finished"
SMUGGLED_HASH = "5" * 40  #: of the request that hides behind an ambiguous body

_TARGETS = (
    "/health",
    "/jobs",
    "/jobs?limit=1&state=done",
    "/nope",
    NOTIFY,
    "/queue/clear",
    "/tags",
)
_METHODS = ("GET", "POST", "DELETE", "PUT", "OPTIONS", "BREW")
_WORDS = (
    b"Content-Length: 7\r\n",
    b"Content-Length: 99999999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive, Upgrade\r\nUpgrade: h2c\r\n",
    b"Expect: 100-continue\r\n",
    b"Host: [::\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"\0",
    b": ",
    b" HTTP/1.1",
    b"%00",
    b"%",
    b"?",
    b"#",
    b"&&=",
    b'{"hash":',
    b"[" * 40,
    b'"\\ud800"',
    b"\xff\xfe",
    b"\xc3\x28",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
)
_STRANGERS = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0" + b"\0\0\10\7\0\0\0\0\0\0\0\0\0\0\0\0\0",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),  # TLS
    b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10",  # SSL 2
    b"SSH-2.0-OpenSSH_9.2p1\r\n",
    b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\r\n\r\n\0\r\nQUIT\n!\x11\0\x0c" + bytes(12),  # PROXY protocol 2
    b"*1\r\n$4\r\nPING\r\n",  # Redis
    b"EHLO example.org\r\nMAIL FROM:<a@b>\r\n",
    b"\x13BitTorrent protocol" + bytes(48),
    b"OPTIONS rtsp://x/ RTSP/1.0\r\nCSeq: 1\r\n\r\n",
    b"\x00\x00\x00\x85\xffSMBr" + bytes(64),
)
# Each is one thing that a proxy in front might read in another way than we do.
_LENGTHS = (
    "Content-Length: +{n}",
    "Content-Length: -{n}",
    "Content-Length: 0x{n:x}",
    "Content-Length: {n}_0",
    "Content-Length: {n} {n}",
    "Content-Length: {n}, 0",
    "Content-Length: {n}.0",
    "Content-Length: {n}\r\nContent-Length: 0",
    "Content-Length: 0\r\ncontent-length: {n}",
    "Content-Length:\r\n {n}",
    "Content-Length: {n}\r\n\t0",
    "Content-Length : {n}",
    " Content-Length: {n}",
    "Content-Length: {n}\0",
    "Content-Length: \x0b{n}",
    "Content\0-Length: {n}",
)
_CODINGS = (
    "Transfer-Encoding: chunked\r\nContent-Length: {n}",
    "Content-Length: {n}\r\nTransfer-Encoding: chunked",
    "transfer-encoding: CHUNKED\r\nContent-Length: 0",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: identity, chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: identity\r\nContent-Length: {n}",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: chunked;q=1",
    'Transfer-Encoding: "chunked"',
    "Transfer-Encoding:\r\n chunked",
    "Transfer-Encoding:\r\n\tchunked",
    "Transfer-Encoding: chunked\r\n x",
    "Transfer-Encoding: \x0bchunked",
    "Transfer-Encoding: chunked\0",
    "Transfer-Encoding : chunked",
    " Transfer-Encoding: chunked",
    "Transfer-Encoding\0: chunked",
    "X: y\r\n Transfer-Encoding: chunked",
)
_CHUNKS = (
    b"+7\r\n1234567\r\n0\r\n\r\n",
    b"-7\r\n1234567\r\n0\r\n\r\n",
    b"0x7\r\n1234567\r\n0\r\n\r\n",
    b" 7\r\n1234567\r\n0\r\n\r\n",
    b"7\n1234567\n0\n\n",
    b"7\r1234567\r0\r\r",
    b"7\r\n12345678\r\n0\r\n\r\n",
    b"7\r\n1234567XX0\r\n\r\n",
    b"7\r\n1234567\n\n0\r\n\r\n",
    b"111111111111111111111\r\n1",
    b"\r\n7\r\n1234567\r\n0\r\n\r\n",
    b"7_0\r\n1234567\r\n0\r\n\r\n",
    b"0\r\nA: b\r\n c\r\n\r\n",
    b"0\r\n: b\r\n\r\n",
    b"0\r\nA\0: b\r\n\r\n",
    b"\r\n\r\n",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One connection's bytes."""

    number: int
    kind: str
    pieces: tuple[bytes, ...]  #: each sent by a call of its own
    ambiguous: bool = False  #: must get 400 and the end, whatever follows it
    leaves: bool = False  #: the client goes without reading an answer


def cases(seed: int, *, key: str) -> Iterator[Case]:
    """Cases without end; the same for the same seed."""
    draw = random.Random(seed)
    makers = (_mutated, _random, _truncated, _pipelined, _chunked, _ends, _giant, _strange)
    for number in _count():
        # Every third one hides a request: these are the most dangerous.
        if number % 3 == 0:
            yield Case(
                number=number, kind="ambiguous", pieces=_smuggling(draw, key), ambiguous=True
            )
            continue
        make = draw.choice(makers)
        data = make(draw, key)
        yield Case(
            number=number,
            kind=make.__name__.strip("_"),
            pieces=_cut(draw, data),
            leaves=draw.random() < 0.05,
        )


def _count() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


def _request(draw: random.Random, key: str) -> bytes:
    """A request that is in order, but for its key sometimes."""
    method = draw.choice(_METHODS)
    target = draw.choice(_TARGETS)
    key = draw.choice((key, key, WRONG_KEY))
    lines = ["Host: localhost"]
    match draw.randrange(4):
        case 0:
            target += ("&" if "?" in target else "?") + f"api_key={key}"
        case 1:
            lines.append(f"Authorization: Bearer {key}")
        case _:
            lines.append(f"X-API-Key: {key}")
    body = b""
    if method == "POST" or draw.random() < 0.3:
        document = {"hash": f"{draw.getrandbits(160):040x}", "params": {"name": "a ü"}}
        body = json.dumps(document, ensure_ascii=draw.random() < 0.5).encode()
        lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""])
    return head.encode() + body


def _mutated(draw: random.Random, key: str) -> bytes:
    data = bytearray(_request(draw, key))
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(data) + 1)
        match draw.randrange(5):
            case 0:
                data[at:at] = draw.choice(_WORDS)
            case 1:
                data[at : at + draw.randint(1, 8)] = b""
            case 2:
                data[at : at + 1] = draw.randbytes(1)
            case 3:
                data[at : at + 4] = draw.randbytes(draw.randint(0, 12))
            case _:
                other = draw.randrange(len(data) + 1)
                data[at:at] = data[min(at, other) : max(at, other)][:200]
    return bytes(data)


def _random(draw: random.Random, key: str) -> bytes:
    del key
    return draw.randbytes(draw.choice((1, 20, 300, 70_000)))


def _truncated(draw: random.Random, key: str) -> bytes:
    data = _request(draw, key)
    return data[: draw.randrange(len(data))]


def _pipelined(draw: random.Random, key: str) -> bytes:
    several = [_request(draw, key) for _ in range(draw.randint(2, 12))]
    if draw.random() < 0.5:
        several.insert(draw.randrange(len(several)), _mutated(draw, key))
    return b"".join(several)


def _chunked(draw: random.Random, key: str) -> bytes:
    sizes = [draw.choice((0, 1, 15, 300)) for _ in range(draw.randint(1, 20))]
    extension = draw.choice((b"", b";a", b";a=b", b';a="b"', b"; " + b"x" * 300, b" "))
    trailer = draw.choice((b"", b"A: b\r\n", b"Content-Length: 5\r\n", b"A: " + b"x" * 20_000))
    body = b"".join(b"%x" % n + extension + b"\r\n" + b"{" * n + b"\r\n" for n in sizes if n)
    head = f"POST {NOTIFY} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nTransfer-Encoding: chunked"
    return head.encode() + b"\r\n\r\n" + body + b"0\r\n" + trailer + b"\r\n"


def _ends(draw: random.Random, key: str) -> bytes:
    """Other ends of lines, and what must not stand in a line."""
    wanted = draw.choice((b"\n", b"\r", b"\r\r\n", b"\n\r", b"\x0b", b"\r\n ", b"\0\r\n"))
    return _request(draw, key).replace(b"\r\n", wanted, draw.choice((1, 2, -1)))


def _giant(draw: random.Random, key: str) -> bytes:
    match draw.randrange(4):
        case 0:
            extra = b"".join(b"X-%d: y\r\n" % n for n in range(draw.choice((100, 1000, 20_000))))
        case 1:
            extra = b"X: " + b"y" * draw.choice((10_000, 500_000)) + b"\r\n"
        case 2:
            extra = b"X: y\r\n" * draw.choice((500, 50_000))
        case _:
            return b"GET /" + b"a" * draw.choice((10_000, 500_000)) + b" HTTP/1.1\r\n\r\n"
    line, _, rest = _request(draw, key).partition(b"\r\n")
    return line + b"\r\n" + extra + rest


def _strange(draw: random.Random, key: str) -> bytes:
    data = draw.choice(_STRANGERS)
    return data if draw.random() < 0.5 else data + draw.randbytes(50) + _request(draw, key)


def _smuggling(draw: random.Random, key: str) -> tuple[bytes, ...]:
    """A request whose end is not certain, and one more behind it."""
    body = b'{"hash": "' + b"a" * 40 + b'"}'
    version = "1.1"
    match draw.randrange(4):
        case 0:
            line = draw.choice(_LENGTHS).format(n=len(body))
        case 1:
            body = b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
            line = draw.choice(_CODINGS).format(n=len(body))
        case 2:
            body, line = draw.choice(_CHUNKS), "Transfer-Encoding: chunked"
        case _:
            body, line = b"0\r\n\r\n", "Transfer-Encoding: chunked"
            version = "1.0"
    target = draw.choice((NOTIFY, NOTIFY, "/queue/clear", "/nope"))
    lines = ["Host: x", f"X-API-Key: {key}"]
    lines.insert(draw.randint(1, 2), line)
    head = "\r\n".join([f"POST {target} HTTP/{version}", *lines, "", ""]).encode()
    hidden = b'{"hash": "' + SMUGGLED_HASH.encode() + b'"}'
    behind = f"POST {NOTIFY} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n"
    behind += f"Content-Length: {len(hidden)}\r\n\r\n"
    return (head + body + behind.encode() + hidden,)


def _cut(draw: random.Random, data: bytes) -> tuple[bytes, ...]:
    """In one piece, or in a few that end anywhere."""
    if draw.random() < 0.6 or len(data) < 2:
        return (data,)
    ends = sorted({draw.randrange(1, len(data)) for _ in range(draw.randint(1, 4))})
    return tuple(data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True))
