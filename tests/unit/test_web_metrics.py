"""``/status`` as JSON and as metrics: the same figures, all of them, in both."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qbm_trio.core.overview import Overview
from qbm_trio.web.metrics import FIGURES, OPENMETRICS_TYPE, TEXT_TYPE, metrics_reply
from qbm_trio.web.status import status_answer
from tests.rig.figures import SCHEMA, all_expected, document_of, leaves, samples
from tests.rig.overviews import HASH, NAME, full_overview
from tests.rig.site import overview

GOLDEN = Path(__file__).with_name("full_status.prom")
OVERVIEWS = pytest.mark.parametrize("seen", [full_overview(), overview()], ids=["full", "bare"])

SINGLE = ("queue.items[].", "recent[].", "space.last_run.failures[].")
"""The first few of many, for people: no figures of the service as a whole."""
TEXTS = {
    "checks[].code",
    "checks[].message",
    "processes[].id",
    "processes[].hash",
    "processes[].name",
    "processes[].started_at",  # of one process each
    "qbittorrent.problem",  # qbm_degraded has it
    "space.ssd.path",
    "space.ssd.problem",  # qbm_degraded has it
    "space.hdd.path",
    "space.hdd.problem",
    "space.last_run.id",
}
"""What is told in words, or of one process only, and is no figure."""


def test_the_full_document_has_a_value_everywhere() -> None:
    """Else the tests below would not see what is null."""
    empty = {path for path, value in leaves(document_of(full_overview()), SCHEMA) if value is None}
    # Of a relocation there is never an ETA, of a job never an error; `outcome` is of one job.
    assert empty <= {
        "processes[].eta_seconds",
        "processes[].error",
        "queue.items[].outcome",
        "recent[].outcome",
    }


def test_every_figure_of_the_document_is_a_metric_and_every_metric_a_figure_of_it() -> None:
    in_document = {
        path
        for path, _ in leaves(document_of(full_overview()), SCHEMA)
        if not path.startswith(SINGLE)
    }
    in_table = {path for row in FIGURES for path in row.source.paths}
    assert in_document - in_table == TEXTS
    assert in_table - in_document == set()


@OVERVIEWS
@pytest.mark.parametrize("media_type", [TEXT_TYPE, OPENMETRICS_TYPE])
def test_each_metric_has_the_figure_of_the_document(seen: Overview, media_type: str) -> None:
    wanted = all_expected(document_of(seen))
    found = samples(seen, media_type)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, rel=1e-15, abs=0.001), key  # times: to the ms


def test_the_metrics_are_those_that_were_read_through_once() -> None:
    """Names stand beside their figures here: a swap of two would show."""
    assert metrics_reply(status_answer(full_overview()), TEXT_TYPE).body.decode() == (
        GOLDEN.read_text(encoding="utf-8")
    )


def test_labels_are_few_and_never_a_torrent_s() -> None:
    text = metrics_reply(status_answer(full_overview()), TEXT_TYPE).body.decode()
    assert HASH not in text
    assert "🎬" in NAME
    assert "🎬" not in text
    assert {label for row in FIGURES for label in row.source.labels} == {
        "by",
        "kind",
        "level",
        "phase",
        "reason",
        "state",
        "status",
        "tier",
        "version",
        "web_api_version",
    }
    assert len(samples(full_overview(), TEXT_TYPE)) < 150


def test_each_metric_has_a_name_of_its_own_and_says_what_it_means() -> None:
    assert len({row.name for row in FIGURES}) == len(FIGURES)
    for row in FIGURES:
        assert re.fullmatch(r"qbm(_[a-z]+)+", row.name)
        assert re.fullmatch(r"[A-Z1][^\n]+[^.]\.", row.meaning), row.meaning
