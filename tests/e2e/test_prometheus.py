"""A real Prometheus scrapes the real service; its rules and its dashboard know what is there.

One service with 10,000 jobs in its journal, a real qBittorrent and one Prometheus serve all
of these tests. It is configured as ``examples/prometheus.yml`` says, twice: with the key in a
file, and with the key in the URL.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qbm_trio.core.model import JobState
from tests.rig.figures import Series, all_expected, samples, series
from tests.rig.inside import put
from tests.rig.journals import fill
from tests.rig.overviews import full_overview
from tests.rig.prometheus import Prometheus, promtool, scraping
from tests.rig.qbt import Qbt
from tests.rig.service import KEY, Service

pytestmark = pytest.mark.qbittorrent

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
DASHBOARD = json.loads((EXAMPLES / "grafana-dashboard.json").read_text(encoding="utf-8"))
RULES = (EXAMPLES / "prometheus-rules.yml").read_text(encoding="utf-8")
RULE_TESTS = Path(__file__).with_name("prometheus-rules-test.yml")

JOBS = {
    JobState.DONE: 8_000,
    JobState.FAILED: 400,
    JobState.CANCELLED: 300,
    JobState.CLEARED: 200,
    JobState.MERGED: 100,
    JobState.WAITING: 1_000,
}
SCRAPE_LIMIT_S = 0.02
"""Of CPU time, which a busy machine does not make longer as it does the time that passes."""
TYPES = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, qbt: Qbt) -> Iterator[Service]:
    """A service that has copied one torrent and has 10,000 jobs more in its journal."""
    root = tmp_path_factory.mktemp("service")
    service = Service(root, qbt.url)
    fill(service.state, JOBS, now=time.time())
    try:
        service.start()
        made = put(qbt, service.ssd, "T", 1_000_000)
        service.wait_for_job(service.notify(made.id).json()["queue_id"], "done")
        assert service.http.post("/space-management/trigger").status_code == 202
        service.wait_for(
            lambda: service.http.get("/status").json()["space"]["last_run"],
            "space management has looked",
        )
        yield service
    finally:
        service.kill()
        service.http.close()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory, service: Service) -> Iterator[Prometheus]:
    """A Prometheus that has scraped the service in both ways, more than once."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "key").write_text(KEY + "\n", encoding="utf-8")
    with scraping(folder, configuration(service, folder)) as prometheus:
        for job in ("qbm-trio", "qbm-trio-params"):
            scrapes = f'count_over_time(up{{job="{job}"}}[1m])'
            prometheus.wait_for(
                lambda scrapes=scrapes: prometheus.query(f"{scrapes} > 2"),  # type: ignore[misc]
                f"{job} is scraped",
            )
        yield prometheus


def configuration(service: Service, folder: Path) -> str:
    """The example, with this service's place and key; and the job a second time, as commented."""
    text = (EXAMPLES / "prometheus.yml").read_text(encoding="utf-8")
    text = replaced(text, "interval: 15s", "interval: 500ms", times=2)
    text = replaced(text, "prometheus-rules.yml", str(EXAMPLES / "prometheus-rules.yml"))
    text = replaced(text, "localhost:8081", service.url.removeprefix("http://"))
    text = replaced(text, "/etc/prometheus/qbm-trio.key", str(folder / "key"))
    text = replaced(text, "your-secret-key", KEY)
    above, job = text.split("scrape_configs:\n")
    second = replaced(job, "job_name: qbm-trio", "job_name: qbm-trio-params")
    second = re.sub(r" +authorization:\n.*credentials_file.*\n", "", second)
    second = re.sub(r"# (params:|  api_key:)", r"\1", second)
    return f"{above}scrape_configs:\n{job}{second}"


def replaced(text: str, old: str, new: str, *, times: int = 1) -> str:
    assert text.count(old) == times, old
    return text.replace(old, new)


def scraped(prometheus: Prometheus, job: str) -> dict[Series, float]:
    """The service's metrics as Prometheus has them, without the labels that it adds itself."""
    found = prometheus.query(f'{{__name__=~"qbm_.+", job="{job}"}}')
    return {
        series(
            labels.pop("__name__"),
            {k: v for k, v in labels.items() if k not in ("job", "instance")},
        ): value
        for labels, value in found
    }


# -- scrapes ------------------------------------------------------------------


@pytest.mark.parametrize("job", ["qbm-trio", "qbm-trio-params"], ids=["bearer", "params"])
def test_prometheus_has_the_figures_of_the_json_document(
    service: Service, prometheus: Prometheus, job: str
) -> None:
    assert prometheus.query(f'up{{job="{job}"}} == 1')
    wanted = all_expected(service.http.get("/status").json())
    found = scraped(prometheus, job)
    assert found.keys() == wanted.keys()
    moves = re.compile("uptime|free_bytes|api_requests|last_contact|last_run.*timestamp|runs_total")
    still = {key for key in wanted if not moves.search(key[0])}
    assert len(still) > 80
    assert {key: found[key] for key in still} == pytest.approx(
        {key: wanted[key] for key in still}, abs=0.001
    )
    for state, count in JOBS.items():
        more = 1 if state is JobState.DONE else 0  # the real one
        assert found[series("qbm_jobs", {"state": state})] == count + more
    assert found[series("qbm_copied_bytes_total")] == 1_000_000
    assert found[series("qbm_qbittorrent_reachable")] == 1


def test_a_key_in_a_file_is_on_no_page_of_prometheus(prometheus: Prometheus) -> None:
    targets = prometheus.get("targets")["activeTargets"]
    with_key = {t["labels"]["job"] for t in targets if KEY in json.dumps(t)}
    assert with_key == {"qbm-trio-params"}, "the example says so of the other"


def cpu_s(service: Service) -> float:
    """What the service has used so far, of all cores together."""
    assert service.process
    stat = Path(f"/proc/{service.process.pid}/stat").read_text()
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("accept", ["application/json", TYPES], ids=["json", "metrics"])
def test_a_scrape_with_10_000_jobs_is_quick(service: Service, accept: str) -> None:
    count = 50
    before = cpu_s(service)
    for _ in range(count):
        answer = service.http.get("/status", headers={"Accept": accept})
        assert answer.status_code == 200
        assert ("qbm_jobs" in answer.text) == (accept == TYPES)
    assert (cpu_s(service) - before) / count < SCRAPE_LIMIT_S


def test_promtool_finds_nothing_to_say_of_the_metrics(service: Service) -> None:
    text = service.http.get("/metrics").text
    assert text.startswith("# HELP qbm_build_info ")
    checked = promtool("check", "metrics", stdin=text)
    assert (checked.returncode, checked.stdout) == (0, "")


# -- rules --------------------------------------------------------------------


def test_promtool_takes_configuration_and_rules(prometheus: Prometheus) -> None:
    checked = promtool("check", "config", str(prometheus.folder / "prometheus.yml"))
    assert checked.returncode == 0, checked.stdout
    checked = promtool("check", "rules", str(EXAMPLES / "prometheus-rules.yml"))
    assert checked.returncode == 0, checked.stdout
    assert f"{RULES.count('- alert: ')} rules found" in checked.stdout


def test_each_alert_fires_when_it_should_and_only_then() -> None:
    tested = promtool("test", "rules", str(RULE_TESTS))
    assert tested.returncode == 0, tested.stdout
    cases = RULE_TESTS.read_text(encoding="utf-8")
    for alert in re.findall(r"alert: (\w+)", RULES):
        checks = re.findall(rf"alertname: {alert}\n +exp_alerts:( \[\])?\n", cases)
        assert {"", " []"} <= set(checks), f"{alert} lacks a case in which it fires, or does not"


def test_a_real_prometheus_evaluates_every_rule_and_none_alarms(prometheus: Prometheus) -> None:
    def evaluated() -> list[dict[str, Any]] | None:
        (group,) = prometheus.get("rules")["groups"]
        rules = group["rules"]
        return rules if all(rule["health"] != "unknown" for rule in rules) else None

    rules = prometheus.wait_for(evaluated, "the rules are evaluated")
    assert [rule["name"] for rule in rules] == re.findall(r"alert: (\w+)", RULES)
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}
    assert {rule["name"] for rule in rules if rule["state"] != "inactive"} == set()


# -- names --------------------------------------------------------------------

KNOWN: dict[str, list[dict[str, str]]] = {}
for (_name, _labels), _ in samples(full_overview(), "text/plain").items():
    KNOWN.setdefault(_name, []).append(dict(_labels))
ADDED = {"job", "instance"}  #: labels that Prometheus adds


def dashboard_expressions() -> list[tuple[str, str]]:
    """Title of the panel, and expression."""
    return [
        (panel["title"], target["expr"])
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", ())
    ]


def selectors(text: str) -> list[tuple[str, dict[str, tuple[str, str]]]]:
    """Each metric of ours in a text, with its matchers: label to operator and value."""
    found = []
    for name, inside in re.findall(r"\b(qbm_\w+)(?:\{([^}]*)\})?", text):
        matchers = re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', inside)
        assert len(matchers) == len(list(filter(None, inside.split(",")))), inside
        found.append((name, {label: (op, value) for label, op, value in matchers}))
    return found


def assert_known(text: str) -> None:
    """Fail unless every metric, label and label's value in an expression exists."""
    for name, matchers in selectors(text):
        assert name in KNOWN, f"there is no metric {name}"
        for label, (op, value) in matchers.items():
            if label in ADDED:
                continue
            there = {labels[label] for labels in KNOWN[name] if label in labels}
            assert there, f"{name} has no label {label}"
            for word in value.split("|") if "~" in op else [value]:
                assert any(re.fullmatch(word, v) for v in there), f"{name}: no {label} {word}"


def test_rules_use_only_metrics_and_labels_that_exist(prometheus: Prometheus) -> None:
    (group,) = prometheus.get("rules")["groups"]
    for rule in group["rules"]:
        assert_known(rule["query"])
    assert len(selectors(RULES)) >= len(group["rules"]) - 1  # one is about `up`
    # What annotations show is a label of what the rule gives.
    for block in RULES.split("- alert: ")[1:]:
        for label in set(re.findall(r"\$labels\.(\w+)", block)) - ADDED:
            assert any(label in labels for n, _ in selectors(block) for labels in KNOWN[n])


def test_the_dashboard_uses_only_metrics_and_labels_that_exist() -> None:
    for _, expression in dashboard_expressions():
        assert_known(expression)
    for variable in DASHBOARD["templating"]["list"]:
        assert_known(variable["query"]["query"] if variable["type"] == "query" else "")
    legends = [t["legendFormat"] for p in DASHBOARD["panels"] for t in p.get("targets", ())]
    used = {label for legend in legends for label in re.findall(r"\{\{(\w+)\}\}", legend)}
    assert used <= {label for rows in KNOWN.values() for labels in rows for label in labels}


NOTHING_NOW = {"What stays on the SSD, and why", "What goes on", "Age of the oldest in line"}
"""Panels that are empty while nothing is short, running or in line, as here."""


def test_every_panel_of_the_dashboard_shows_what_prometheus_has(prometheus: Prometheus) -> None:
    instance = prometheus.query('qbm_build_info{job="qbm-trio"}')[0][0]["instance"]
    empty = set()
    for title, expression in dashboard_expressions():
        for name, value in {
            "$job": "qbm-trio",
            "$instance": instance,
            "$__rate_interval": "1m",
        }.items():
            expression = expression.replace(name, value)
        assert "$" not in expression
        if not prometheus.query(expression):
            empty.add(title)
    assert empty <= NOTHING_NOW


def test_the_dashboard_can_be_imported_and_nothing_overlaps() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    first, *_ = DASHBOARD["templating"]["list"]
    assert (first["name"], first["type"], first["query"]) == (
        "datasource",
        "datasource",
        "prometheus",
    )
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, (panel["title"], taken[x, y])
                taken[x, y] = panel["title"]
        if panel["type"] == "row":
            continue
        uids = {t["datasource"]["uid"] for t in [panel, *panel["targets"]]}
        assert uids == {"${datasource}"}
        assert panel["fieldConfig"]["defaults"]["unit"]
    rows = [panel["title"] for panel in panels if panel["type"] == "row"]
    assert rows == ["Space", "Queue", "Throughput", "qBittorrent and the service"]
