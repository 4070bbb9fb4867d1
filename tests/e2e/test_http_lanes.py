"""Both lanes answer every request alike."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import trio

from tests.rig.clients import QUICK
from tests.rig.site import (
    KEY,
    NOTIFY,
    Answer,
    StandIn,
    backend,
    notification,
    raw,
    site_on,
    v1,
)

FORM = "application/x-www-form-urlencoded"


# -- both lanes -------------------------------------------------------------

CORPUS: dict[str, tuple[bytes, dict[str, str]]] = {
    "plain": (notification(1), {}),
    "duplicate": (notification(1), {}),
    "json type": (notification(2), {"Content-Type": "application/json"}),
    "form type but json": (notification(3), {"Content-Type": FORM}),
    "form": (f"hash={v1(4)}&priority=1".encode(), {"Content-Type": FORM}),
    "form with bad hint": (f"hash={v1(5)}&size=x&name=%ff".encode(), {"Content-Type": FORM}),
    "empty": (b"", {}),
    "blank": (b" \r\n ", {"Content-Type": "application/json"}),
    "not json": (b"hash", {"Content-Type": "application/json"}),
    "text": (b"hash", {"Content-Type": "text/plain"}),
    "no type": (b"hash", {}),
    "multipart": (b"--x", {"Content-Type": "multipart/form-data; boundary=x"}),
    "gzip": (b"\x1f\x8b", {"Content-Type": "application/json", "Content-Encoding": "gzip"}),
    "not utf8": (b'{"hash": "\xff"}', {}),
    "array": (b"[]", {"Content-Type": "application/json"}),
    "deep object": (b'{"a":' * 30_000, {}),
    "deep array": (b"[" * 30_000, {"Content-Type": "application/json"}),
    "nan": (b'{"hash": NaN}', {}),
    "huge int": (b'{"hash": "x", "priority": ' + b"9" * 5000 + b"}", {}),
    "big int": (b'{"hash": "x", "priority": ' + b"9" * 300 + b"}", {}),
    "float": (b'{"hash": "x", "priority": 1e999}', {}),
    "surrogate": (b'{"hash": "\\ud800", "\\udfff": "\\ud800"}', {}),
    "surrogate hint": (notification(6, params={"name": "\ud800"}), {}),
    "nul": (b'{"hash": "\\u0000", "\\u0000": 1}', {}),
    "nul hint": (notification(7, params={"name": "a\0"}), {}),
    "repeated": (b'{"hash": "a", "hash": "b"}', {}),
    "unknown": (notification(8, bogus=1), {}),
    "params list": (notification(9, params=[1]), {}),
    "params bad": (notification(10, params={"size": "x", "tags": {}, "y": None}), {}),
    "hash dash": (b'{"hash": "-"}', {}),
    "hash all": (b'{"hash": "all"}', {}),
    "hash number": (b'{"hash": 5}', {}),
    "hash v2": (json.dumps({"hash": "AB" * 32}).encode(), {}),
    "wrong key": (notification(11), {"X-API-Key": "wrong"}),
    "key beyond ascii": (notification(11), {"X-API-Key": "schl\xfcssel"}),
    "wrong bearer": (notification(11), {"X-API-Key": "", "Authorization": "Bearer x"}),
    "2 MiB": (b'{"hash": "' + b"a" * 2**21, {}),
    "1 MiB exactly": (b"{" + b" " * (2**20 - 1), {}),
    "1 MiB and one": (b"{" + b" " * 2**20, {}),
    "wrong key, 2 MiB": (b"x" * 2**21, {"X-API-Key": "wrong"}),
    "no such expectation": (notification(12), {"Expect": "something"}),
    "connection close": (notification(13), {"Connection": "close"}),
    "odd host": (notification(14), {"Host": "[bad"}),
    "empty host": (notification(15), {"Host": ""}),
}


async def _answers(fast_lane: bool) -> dict[str, Answer]:
    answers = {}
    async with site_on(backend(StandIn()), fast_lane=fast_lane) as site:
        for name, (body, headers) in CORPUS.items():
            answers[name] = await site.notify(body, **headers)
        for name, chunks in {
            "chunked": [notification(20)],
            "chunked in pieces": [notification(21)[:5], notification(21)[5:]],
            "chunked 2 MiB": [b"x" * 2**16] * 32,
            "chunked, wrong key": [b"x"],
        }.items():
            key = "wrong" if "key" in name else KEY
            async with site.wire() as wire:
                head = raw("POST", NOTIFY, key=key, headers={"Transfer-Encoding": "chunked"})
                sent = b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\n"
                await wire.send(head + sent)
                answers[name] = await wire.answer()
    async with (
        site_on(backend(StandIn()), fast_lane=fast_lane, limits=QUICK) as site,
        site.wire() as wire,
    ):
        await wire.send(raw("POST", NOTIFY, headers={"Content-Length": "100"}) + b"{")
        answers["stalled"] = await wire.answer()
    return answers


async def test_the_lane_and_the_application_answer_every_request_byte_for_byte_alike() -> None:
    lane, app = await _answers(True), await _answers(False)
    for name in lane:
        assert lane[name].status == app[name].status, name
        assert lane[name].body == app[name].body, name
        for answer in (lane[name], app[name]):
            assert set(answer.headers) >= {"date", "content-type", "content-length"}
            dict(answer.headers).pop("date")
        headers = [{k: v for k, v in a[name].headers.items() if k != "date"} for a in (lane, app)]
        assert headers[0] == headers[1], name
        assert list(headers[0]) == list(headers[1]), name
        assert lane[name].status != 500, name


EXPECTED = {
    "plain": 202,
    "duplicate": 200,
    "form type but json": 202,
    "form": 202,
    "form with bad hint": 202,
    "empty": 422,
    "blank": 422,
    "not json": 400,
    "text": 415,
    "no type": 415,
    "multipart": 415,
    "gzip": 415,
    "not utf8": 400,
    "array": 422,
    "deep object": 400,
    "deep array": 400,
    "nan": 400,
    "huge int": 400,
    "big int": 422,
    "surrogate": 422,
    "surrogate hint": 202,
    "nul": 422,
    "nul hint": 202,
    "repeated": 422,
    "unknown": 422,
    "params list": 202,
    "params bad": 202,
    "hash v2": 202,
    "wrong key": 401,
    "key beyond ascii": 401,
    "2 MiB": 413,
    "1 MiB and one": 413,
    "1 MiB exactly": 400,
    "wrong key, 2 MiB": 401,
    "chunked": 202,
    "chunked 2 MiB": 413,
    "chunked, wrong key": 401,
    "stalled": 408,
}


async def test_bad_input_gets_the_status_it_should() -> None:
    answers = await _answers(True)
    assert {name: answers[name].status for name in EXPECTED} == EXPECTED


async def test_the_lane_is_really_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the comparison above would compare the application with itself."""
    used = []
    from qbm_trio.web import lane

    original: Callable[..., None] = lane.LaneStream.__init__

    def noticed(self: lane.LaneStream, *args: object) -> None:
        used.append(self)
        original(self, *args)

    monkeypatch.setattr(lane.LaneStream, "__init__", noticed)
    async with site_on(backend(StandIn())) as site:
        await site.notify(notification(1))
        await site.call("POST", NOTIFY + "?api_key=x", body=notification(2))
        await site.call("POST", "/queue/clear")
        assert len(used) == 2
    async with site_on(backend(StandIn()), fast_lane=False) as site:
        await site.notify(notification(1))
        assert len(used) == 2
    await trio.lowlevel.checkpoint()
