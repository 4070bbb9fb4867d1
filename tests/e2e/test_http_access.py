"""Who may call what, and where: keys, methods, paths, query parameters."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from qbm_trio.web.routes import ROUTES
from tests.rig.site import (
    KEY,
    NOTIFY,
    StandIn,
    backend,
    notification,
    raw,
    site_on,
    site_with_journal,
)


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
        assert f"takes {allow} only" in answer.json()["error"]


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


@pytest.mark.parametrize("path", [r.path for r in ROUTES if r.method == "POST"])
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
