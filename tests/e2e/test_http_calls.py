"""Every call on a real socket, with a real journal; and both lanes answer alike."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from qbm_trio.core.errors import Draining, JournalUnwritable, QueueFull
from qbm_trio.core.overview import Health, Overview
from qbm_trio.web.routes import ROUTES
from tests.rig.site import (
    KEY,
    NOTIFY,
    Answer,
    StandIn,
    backend,
    notification,
    raw,
    site_on,
    site_with_journal,
    v1,
)

FORM = "application/x-www-form-urlencoded"
LANES = pytest.mark.parametrize("fast_lane", [True, False], ids=["lane", "app"])


# -- notifications ----------------------------------------------------------


@LANES
async def test_a_notification_gets_202_and_its_job_is_in_the_journal(
    tmp_path: Path, fast_lane: bool
) -> None:
    async with site_with_journal(tmp_path, fast_lane=fast_lane) as site:
        answer = await site.notify(notification(1, priority=3, params={"name": "A"}))
        assert answer.status == 202
        told = answer.json()
        assert set(told) == {"success", "queue_id", "hash", "status", "position", "message"}
        assert (told["success"], told["hash"], told["status"]) == (True, v1(1), "queued")
        assert told["position"] == 1
    async with site_with_journal(tmp_path) as site:  # a new life of the service
        job = (await site.call("GET", f"/jobs/{told['queue_id']}")).json()
        assert (job["id"], job["hash"], job["priority"]) == (told["queue_id"], v1(1), 3)


@LANES
async def test_the_same_torrent_again_gets_200_with_the_same_id_and_the_higher_priority(
    tmp_path: Path, fast_lane: bool
) -> None:
    async with site_with_journal(tmp_path, fast_lane=fast_lane) as site:
        first = (await site.notify(notification(1, priority=3))).json()
        again = await site.notify(notification(1, priority=7))
        lower = await site.notify(notification(1, priority=1))
        assert [again.status, lower.status] == [200, 200]
        for answer in (again, lower):
            assert answer.json()["duplicate"] is True
            assert answer.json()["queue_id"] == first["queue_id"]
            assert answer.json()["hash"] == v1(1)
        job = (await site.call("GET", f"/jobs/{first['queue_id']}")).json()
        assert job["priority"] == 7


@LANES
async def test_a_form_as_curl_sends_it_is_taken(tmp_path: Path, fast_lane: bool) -> None:
    async with site_with_journal(tmp_path, fast_lane=fast_lane) as site:
        body = f"hash={v1(1)}&name=%22%27%5C%24%28x%29%0A%F0%9F%8E%AC&size=5&priority=2".encode()
        told = await site.notify(body, **{"Content-Type": FORM})
        assert told.status == 202
        job = (await site.call("GET", f"/jobs/{told.json()['queue_id']}")).json()
        assert job["name"] == "\"'\\$(x)\n🎬"
        assert job["priority"] == 2


@LANES
@pytest.mark.parametrize(
    ("refusal", "code", "retry_after"),
    [
        (QueueFull("full"), "queue_full", "5"),
        (Draining("stopping"), "draining", "10"),
        (JournalUnwritable("disk"), "journal_unwritable", "30"),
    ],
)
async def test_what_cannot_be_accepted_now_gets_503_and_when_to_try_again(
    refusal: Exception, code: str, retry_after: str, fast_lane: bool
) -> None:
    served = backend(StandIn(refuse_with=refusal))
    async with site_on(served, fast_lane=fast_lane) as site, site.wire() as wire:
        await wire.send(raw("POST", NOTIFY, body=notification(1)))
        answer = await wire.answer()
        assert (answer.status, answer.code) == (503, code)
        assert answer.headers["retry-after"] == retry_after
        if code == "draining":
            assert answer.headers["connection"] == "close"
            assert await wire.ends()
        else:  # the connection can be used again
            await wire.send(raw("GET", "/health"))
            assert (await wire.answer()).status == 200


async def test_a_full_queue_is_told_by_the_real_jobs_too(tmp_path: Path) -> None:
    async with site_with_journal(tmp_path, capacity=2) as site:
        answers = [await site.notify(notification(n)) for n in range(4)]
        assert [a.status for a in answers] == [202, 202, 503, 503]
        assert answers[2].code == "queue_full"
        again = await site.notify(notification(1))
        assert again.status == 200  # known ones are answered, full or not


@LANES
async def test_a_defect_of_ours_gets_500_in_the_same_shape_and_a_traceback_in_the_log(
    fast_lane: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with site_on(
        backend(StandIn(refuse_with=ZeroDivisionError("boom"))), fast_lane=fast_lane
    ) as site:
        async with site.wire() as wire:
            await wire.send(raw("POST", NOTIFY, body=notification(1)))
            answer = await wire.answer()
        assert (answer.status, answer.code) == (500, "internal")
        assert "boom" not in answer.body.decode()
        assert any(r.exc_info for r in caplog.records)


# -- the rest ---------------------------------------------------------------


async def test_health_needs_no_key_and_says_what_is_wrong_without_waiting() -> None:
    state = Health(status="healthy")
    served = backend(StandIn(), health=lambda: state)
    async with site_on(served) as site:
        answer = await site.call("GET", "/health", key=None)
        assert answer.status == 200
        assert answer.json() == {"status": "healthy", "service": "qbm-trio", "version": "test"}
        state = Health(status="degraded", problems=("qBittorrent cannot be reached",))
        answer = await site.call("GET", "/health", key=None)
        assert answer.status == 200
        assert answer.json()["problems"] == ["qBittorrent cannot be reached"]
        state = Health(status="draining")
        answer = await site.call("GET", "/health", key=None)
        assert (answer.status, answer.json()["status"]) == (503, "draining")
        assert (await site.call("HEAD", "/health", key=None)).status == 503


async def test_status_and_the_openapi_document_are_served(tmp_path: Path) -> None:
    async with site_with_journal(tmp_path) as site:
        status = await site.call("GET", "/status")
        assert status.status == 200
        assert status.json()["service"]["started_at"].endswith("Z")
        document = await site.call("GET", "/openapi.json")
        assert document.json()["openapi"].startswith("3.1")


async def test_jobs_are_listed_newest_first_page_by_page_and_by_state(tmp_path: Path) -> None:
    async with site_with_journal(tmp_path) as site:
        ids = [(await site.notify(notification(n))).json()["queue_id"] for n in range(5)]
        assert (await site.call("DELETE", f"/jobs/{ids[1]}")).json()["state"] == "cancelled"

        seen = []
        after = ""
        while True:
            page = (await site.call("GET", f"/jobs?limit=2{after}")).json()
            seen += [job["id"] for job in page["jobs"]]
            if page["next_after"] is None:
                break
            after = f"&after={page['next_after']}"
        assert seen == ids[::-1]

        listed = (await site.call("GET", "/jobs?state=cancelled")).json()["jobs"]
        assert [job["id"] for job in listed] == [ids[1]]
        assert (await site.call("GET", "/jobs?after=unheard-of")).status == 404


async def test_a_job_is_cancelled_and_retried(tmp_path: Path) -> None:
    async with site_with_journal(tmp_path) as site:
        job_id = (await site.notify(notification(1))).json()["queue_id"]
        wrong = await site.call("POST", f"/jobs/{job_id}/retry")
        assert (wrong.status, wrong.code) == (409, "wrong_state")
        assert (await site.call("DELETE", f"/jobs/{job_id}")).json()["state"] == "cancelled"
        again = await site.call(
            "POST", f"/jobs/{job_id}/retry", body=b'{"on_conflict": "set_aside"}'
        )
        assert (again.status, again.json()["state"]) == (202, "queued")
        assert again.json()["on_conflict"] == "set_aside"


@pytest.mark.parametrize("body", [None, b"", b"{}", b" {} "])
async def test_an_empty_body_means_the_defaults(tmp_path: Path, body: bytes | None) -> None:
    async with site_with_journal(tmp_path) as site:
        job_id = (await site.notify(notification(1))).json()["queue_id"]
        await site.call("DELETE", f"/jobs/{job_id}")
        again = await site.call("POST", f"/jobs/{job_id}/retry", body=body)
        assert (again.status, again.json()["on_conflict"]) == (202, "fail")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/jobs/nope"), ("DELETE", "/jobs/%00"), ("POST", "/jobs/x/retry")]
)
async def test_an_unknown_job_gets_404(tmp_path: Path, method: str, path: str) -> None:
    async with site_with_journal(tmp_path) as site:
        answer = await site.call(method, path)
        assert (answer.status, answer.code) == (404, "no_such_job")


async def test_the_queue_is_cleared(tmp_path: Path) -> None:
    async with site_with_journal(tmp_path) as site:
        for n in range(3):
            await site.notify(notification(n))
        assert (await site.call("POST", "/queue/clear")).json() == {
            "success": True,
            "cleared_count": 3,
        }
        assert (await site.call("POST", "/queue/clear")).json()["cleared_count"] == 0


async def test_a_recovery_point_is_reported() -> None:
    async with site_on(backend(StandIn())) as site:
        assert (await site.call("POST", "/state/save")).json() == {
            "success": True,
            "path": "/state/recovery.json",
            "counts": {"jobs": 0, "copies": 0},
            "saved_at": "2023-11-14T22:13:20.000Z",
        }


@pytest.mark.parametrize("body", [None, b'{"dry_run": true}'])
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/space-management/trigger"), ("POST", "/tags/existing"), ("GET", "/tags/summary")],
)
async def test_calls_of_a_later_version_get_501(method: str, path: str, body: bytes | None) -> None:
    async with site_on(backend(StandIn())) as site:
        answer = await site.call(method, path, body=body)
        assert (answer.status, answer.code) == (501, "not_implemented")


async def test_a_status_that_cannot_be_gathered_is_a_500_and_the_service_goes_on() -> None:
    async def broken() -> Overview:
        raise RuntimeError("no overview")

    async with site_on(backend(StandIn(), overview=broken)) as site, site.wire() as wire:
        await wire.send(raw("GET", "/status"))
        answer = await wire.answer()
        assert (answer.status, answer.code) == (500, "internal")
        await wire.send(raw("GET", "/health"))
        assert (await wire.answer()).status == 200


@LANES
async def test_every_request_is_counted_once_whatever_its_answer(fast_lane: bool) -> None:
    counted: list[int] = []
    served = backend(StandIn(), count_request=lambda: counted.append(1))
    async with site_on(served, fast_lane=fast_lane) as site:
        await site.call("POST", NOTIFY, body=notification(1))
        await site.call("GET", "/health", key=None)
        await site.call("GET", "/nope")
        await site.call("POST", NOTIFY, body=notification(1), key=None)
    assert len(counted) == 4


# -- who may, and where -----------------------------------------------------


async def test_every_path_but_health_needs_the_key_known_or_not(tmp_path: Path) -> None:
    async with site_with_journal(tmp_path) as site:
        paths = [(r.method, r.path) for r in ROUTES if not r.open_to_all]
        paths += [
            ("GET", "/"),
            ("GET", "/nope"),
            ("PUT", NOTIFY),
            ("GET", "/health/"),
            ("GET", "//"),
        ]
        bodies = set()
        for method, path in paths:
            for key in (None, "wrong", "schlüssel"):
                answer = await site.call(method, path, key=key, body=b"")
                assert (method, path, answer.status) == (method, path, 401)
                bodies.add(answer.body)
        assert len(bodies) == 1


@pytest.mark.parametrize("target", [NOTIFY, "/jobs", "/nope"])
async def test_the_key_may_be_in_either_header_or_the_query(tmp_path: Path, target: str) -> None:
    async with site_with_journal(tmp_path) as site:
        method = "POST" if target == NOTIFY else "GET"
        for n, (headers, query) in enumerate(
            [({"X-API-Key": KEY}, ""), ({"Authorization": f"Bearer {KEY}"}, ""), ({}, KEY)]
        ):
            answer = await site.call(
                method,
                f"{target}?api_key={query}" if query else target,
                key=None,
                headers=headers,
                body=notification(n) if method == "POST" else None,
            )
            assert answer.status == {NOTIFY: 202, "/jobs": 200, "/nope": 404}[target]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", NOTIFY, "POST"),
        ("PUT", NOTIFY, "POST"),
        ("OPTIONS", NOTIFY, "POST"),
        ("POST", "/status", "GET, HEAD"),
        ("PATCH", "/jobs/x", "DELETE, GET, HEAD"),
        ("BREW", "/health", "GET, HEAD"),
    ],
)
async def test_a_method_that_is_not_taken_gets_405_with_those_that_are(
    method: str, path: str, allow: str
) -> None:
    async with site_on(backend(StandIn())) as site:
        answer = await site.call(method, path, body=b"")
        assert (answer.status, answer.headers["allow"]) == (405, allow)


@pytest.mark.parametrize(
    "path",
    ["/", "/jobs/", "/jobs/a/b", "/notify", NOTIFY + "/", "/%00", "/ü", "/static/x"],
)
async def test_a_path_that_is_not_there_gets_404_and_never_a_redirect(path: str) -> None:
    async with site_on(backend(StandIn())) as site:
        target = path.replace("ü", "%C3%BC%FF")
        for method in ("GET", "POST"):
            assert (await site.call(method, target, body=b"{}")).status == 404


async def test_two_slashes_of_a_careless_base_url_do_no_harm() -> None:
    async with site_on(backend(StandIn())) as site, site.wire() as wire:
        await wire.send(raw("POST", "/" + NOTIFY, body=notification(1)))
        assert (await wire.answer()).status == 202
        await wire.send(raw("GET", "//jobs", key=None))
        assert (await wire.answer()).status == 401


@pytest.mark.parametrize(
    "call", [("GET", "/status?x=1"), ("POST", NOTIFY + "?priority=5"), ("GET", "/jobs?status=a")]
)
async def test_an_unknown_query_parameter_is_refused_by_name(call: tuple[str, str]) -> None:
    async with site_on(backend(StandIn())) as site:
        body = notification(1) if call[0] == "POST" else None
        answer = await site.call(*call, body=body)
        assert answer.status == 422
        assert answer.json()["details"][0]["field"] in call[1]


async def test_a_monitor_may_add_to_the_url_of_a_health_check() -> None:
    async with site_on(backend(StandIn())) as site:
        assert (await site.call("GET", "/health?t=123", key=None)).status == 200


@pytest.mark.parametrize(
    "path", [r.path for r in ROUTES if r.method == "POST" and r.errors != (501,)]
)
async def test_a_field_no_call_has_is_refused_by_name(path: str) -> None:
    async with site_on(backend(StandIn())) as site:
        answer = await site.call("POST", path.replace("{job_id}", "x"), body=b'{"bogus": 1}')
        assert answer.status == 422
        assert "bogus" in {d["field"] for d in answer.json()["details"]}


async def test_no_secret_gets_into_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with site_with_journal(tmp_path) as site:
        for target in (f"/jobs?api_key={KEY}", f"/nope?api_key={KEY}", f"/jobs?x&api_key={KEY}"):
            await site.call("GET", target, headers={"Referer": f"http://x/?api_key={KEY}"})
        await site.call("POST", f"{NOTIFY}?api_key={KEY}", key=None, body=notification(1))
        await site.call("GET", "/jobs/%0AFORGED%20LINE")
    text = "\n".join(r.getMessage() for r in caplog.records)
    assert '"GET /jobs" 200' in text
    assert f'"POST {NOTIFY}" 202' in text
    assert KEY not in text
    assert "api_key" not in text
    assert "\nFORGED" not in text


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
