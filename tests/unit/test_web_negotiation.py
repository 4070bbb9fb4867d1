"""Who gets metrics of ``/status``, and who JSON."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbm_trio.web.negotiation import preferred

JSON, TEXT, OPENMETRICS = "application/json", "text/plain", "application/openmetrics-text"
OFFERS = (JSON, TEXT, OPENMETRICS)

PROMETHEUS_2_42 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;"
    "escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
WITH_PROTOBUF = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,"
    "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_1 = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;"
    "q=0.7,text/plain;version=0.0.4;q=0.3"
)
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (PROMETHEUS_2_42, OPENMETRICS),
        (PROMETHEUS_3, OPENMETRICS),
        (WITH_PROTOBUF, OPENMETRICS),
        (PROMETHEUS_1, TEXT),
        ("text/plain", TEXT),
        ("TEXT/Plain; Version=0.0.4", TEXT),
        ("text/*", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("text/plain;q=0.1", TEXT),
        ("application/json;q=0.4, text/plain;q=0.5", TEXT),
        ("text/plain, */*;q=0.5", TEXT),
        ("text/plain;q=0.4, application/openmetrics-text;q=0.5", OPENMETRICS),
        ("*/*, application/json;q=0", TEXT),
        ("text/plain;q=0.9, text/plain;version=0.0.4;q=0.1, application/json;q=0.5", TEXT),
        # JSON for everybody else.
        ("", JSON),
        ("*/*", JSON),
        (BROWSER, JSON),
        ("application/json", JSON),
        ("application/json, text/plain, */*", JSON),  # axios
        ("application/*", JSON),
        ("application/json;q=0.5, text/plain;q=0.4", JSON),
        ("text/plain;q=0", JSON),
        ("text/plain;q=0.5, */*", JSON),
        ("image/png", JSON),
        # What nobody should send.
        ("text/plain;q=2", JSON),
        ("text/plain;q=nan", JSON),
        ("text/plain;q=", JSON),
        ("text/plain;q=0.1234", JSON),
        (";;,,=;q", JSON),
        ("text/plain;q=abc, text/*;q=0.2", TEXT),
    ],
)
def test_a_client_gets_what_it_prefers_and_json_when_in_doubt(accept: str, form: str) -> None:
    assert preferred(accept, OFFERS) == form


@pytest.mark.parametrize(
    ("accept", "form"),
    [("", TEXT), ("application/json", TEXT), (BROWSER, TEXT), (PROMETHEUS_2_42, OPENMETRICS)],
)
def test_where_there_is_no_json_it_is_text_when_in_doubt(accept: str, form: str) -> None:
    assert preferred(accept, (TEXT, OPENMETRICS)) == form


@given(st.text(alphabet=st.sampled_from('texplain/*;q=0.15, "\\\xff\t'), max_size=60))
def test_whatever_is_sent_something_is_answered(accept: str) -> None:
    assert preferred(accept, OFFERS) in OFFERS
