"""The page on monitoring says what the code and the examples do."""

from __future__ import annotations

import re
from pathlib import Path

from qbm_trio.web.metrics import FIGURES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/monitoring.md").read_text(encoding="utf-8")
CONFIGURATION = (ROOT / "examples/prometheus.yml").read_text(encoding="utf-8")
RULES = (ROOT / "examples/prometheus-rules.yml").read_text(encoding="utf-8")


def seconds(text: str) -> float:
    """A time as the rules write it, or as the page does."""
    number, unit = re.fullmatch(r"(\d+) ?(m|min|h|d|day)", text, re.ASCII).groups()  # type: ignore[union-attr]
    return int(number) * {"m": 60, "h": 3600, "d": 86_400}[unit[0]]


def test_every_alert_is_in_the_table_with_its_time_and_severity() -> None:
    rows = re.findall(r"^\| `(QbmTrio\w+)` \| .* \| (.*) \| (\w+) \|$", PAGE, re.MULTILINE)
    told = [(name, 0.0 if time == "–" else seconds(time), level) for name, time, level in rows]
    rules = []
    for block in RULES.split("- alert: ")[1:]:
        waits = re.search(r"^ +for: (\w+)$", block, re.MULTILINE)
        (level,) = re.findall(r"severity: (\w+)", block)
        rules.append((block.split("\n")[0], seconds(waits[1]) if waits else 0.0, level))
    assert told == rules


def test_every_metric_that_the_page_names_exists() -> None:
    text = PAGE.partition("<!-- generated")[0]
    named = set(re.findall(r"\bqbm_\w+", text))
    assert named
    assert named <= {row.name for row in FIGURES}


def test_the_configuration_of_the_page_is_that_of_the_example() -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    lines = [re.sub(r"  #.*", "", line) for line in CONFIGURATION.splitlines()]
    assert set(shown.splitlines()) <= set(lines)
