"""Metrics over HTTP: who gets them, in which form, with which key."""

from __future__ import annotations

import pytest

from qbm_trio.core.errors import JournalUnwritable
from qbm_trio.core.overview import Overview
from tests.rig.site import KEY, StandIn, backend, overview, site_on

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


@pytest.mark.parametrize(
    ("path", "accept", "content_type"),
    [
        ("/status", PROMETHEUS, OPENMETRICS),
        ("/status", "text/plain", TEXT),
        ("/status", "*/*", "application/json"),
        ("/status", None, "application/json"),
        # The client library would answer these two with an error of its own.
        ("/status", "application/openmetrics-text;version=abc", OPENMETRICS),
        ("/status", "text/plain;version=abc", TEXT),
        ("/metrics", PROMETHEUS, OPENMETRICS),
        ("/metrics", "application/json", TEXT),
        ("/metrics", None, TEXT),
    ],
)
async def test_the_form_is_the_client_s_choice(
    path: str, accept: str | None, content_type: str
) -> None:
    headers = {} if accept is None else {"Accept": accept}
    async with site_on(backend(StandIn())) as site:
        answer = await site.call("GET", path, headers=headers)
        assert (answer.status, answer.headers["content-type"]) == (200, content_type)
        assert answer.headers["vary"] == "accept"
        if content_type != "application/json":
            assert b"\nqbm_torrents_processed_total 3.0\n" in answer.body
            assert answer.body.endswith(b"\n# EOF\n") == (content_type == OPENMETRICS)
        head = await site.call("HEAD", path, headers=headers)
        for name in ("content-type", "content-length", "vary"):
            assert head.headers[name] == answer.headers[name]


@pytest.mark.parametrize(
    ("path", "accept", "in_haste"),
    [
        ("/status", PROMETHEUS, True),
        ("/status", "*/*", False),
        ("/metrics", PROMETHEUS, True),
        ("/metrics", "*/*", True),
    ],
)
async def test_only_who_asks_for_metrics_is_in_haste(
    path: str, accept: str, in_haste: bool
) -> None:
    asked: list[bool] = []

    async def seen(*, in_haste: bool) -> Overview:
        asked.append(in_haste)
        return overview()

    async with site_on(backend(StandIn(), overview=seen)) as site:
        await site.call("GET", path, headers={"Accept": accept})
    assert asked == [in_haste]


@pytest.mark.parametrize("path", ["/status", "/metrics"])
async def test_metrics_need_the_key_in_one_of_the_three_places(path: str) -> None:
    headers = {"Accept": PROMETHEUS}
    async with site_on(backend(StandIn())) as site:
        for target, more in (
            (f"{path}?api_key={KEY}", {}),
            (path, {"Authorization": f"Bearer {KEY}"}),
            (path, {"X-API-Key": KEY}),
        ):
            answer = await site.call("GET", target, key=None, headers=headers | more)
            assert answer.headers["content-type"] == OPENMETRICS
        for target, more in (
            (path, {}),
            (f"{path}?api_key=wrong", {}),
            (path, {"Authorization": "Bearer wrong"}),
        ):
            answer = await site.call("GET", target, key=None, headers=headers | more)
            assert (answer.status, answer.code) == (401, "unauthorized")


@pytest.mark.parametrize("path", ["/status", "/metrics"])
async def test_without_a_journal_there_are_no_metrics_but_an_error_so_that_up_is_0(
    path: str,
) -> None:
    async def closed(*, in_haste: bool) -> Overview:
        raise JournalUnwritable("the journal is closed; ask again later")

    async with site_on(backend(StandIn(), overview=closed)) as site:
        answer = await site.call("GET", path, headers={"Accept": PROMETHEUS})
        assert (answer.status, answer.code) == (503, "journal_unwritable")
