"""The figures of ``/status``, read from its JSON by another way than the service's own.

What a test compares metrics with: those of the code's renderer, and those of a real Prometheus.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families as text_families

from qbm_trio.core.overview import Overview
from qbm_trio.web.metrics import FIGURES, OPENMETRICS_TYPE, Figure, metrics_reply
from qbm_trio.web.status import StatusAnswer, status_answer

SCHEMA = StatusAnswer.model_json_schema(mode="serialization")

Series = tuple[str, frozenset[tuple[str, str]]]
"""A metric's name, and its labels."""


def series(name: str, labels: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> Series:
    """A metric's name and labels, as a key."""
    return name, frozenset(dict(labels).items())


def all_expected(document: Any) -> dict[Series, float]:
    """Every metric that a document's figures make."""
    return {
        series(row.name, labels): value
        for row in FIGURES
        for labels, value in expected(document, row)
    }


def leaves(value: Any, schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a document that is no container, with its path as the table writes it.

    The schema tells names that are always the same from those that are data (``*``).
    """
    while "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    for option in schema.get("anyOf", []):
        if value is not None and option.get("type") != "null":
            yield from leaves(value, option, path)
            return
    if isinstance(value, dict):
        for name, part in value.items():
            fixed = name in schema.get("properties", {})
            below = schema["properties"][name] if fixed else schema["additionalProperties"]
            yield from leaves(part, below, f"{path}.{name if fixed else '*'}".lstrip("."))
    elif isinstance(value, list):
        for part in value:
            yield from leaves(part, schema["items"], f"{path}[]")
    else:
        yield path, value


def document_of(seen: Overview) -> Any:
    """The JSON document, as a client reads it."""
    return json.loads(status_answer(seen).model_dump_json())


def samples(seen: Overview, media_type: str) -> dict[Series, float]:
    """The metrics as a scraper reads them."""
    text = metrics_reply(status_answer(seen), media_type).body.decode()
    families = openmetrics_families if media_type == OPENMETRICS_TYPE else text_families
    found = [s for family in families(text) for s in family.samples]
    result = {series(s.name, s.labels): s.value for s in found}
    assert len(result) == len(found), "a figure is there twice"
    return result


def figure(value: Any) -> float:
    """What a value of the document is as a number: also a time, and a text that is there."""
    if isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\dT", value):
        return datetime.fromisoformat(value).timestamp()
    return 1.0 if isinstance(value, str) else float(value)


def at(document: Any, path: str) -> Any:
    """What stands at ``path``; None where something on the way is null."""
    for name in path.split("."):
        if document is None:
            return None
        document = document[name]
    return document


def words(path: str) -> list[str]:
    """What may stand at ``path``, by the document's schema."""
    schema = SCHEMA
    for name in path.split("."):
        while "$ref" in schema:
            schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
        schema = schema["properties"][name]
    return list(schema["enum"])


def expected(document: Any, row: Figure) -> Iterator[tuple[dict[str, str], float]]:
    """A metric's samples, from the JSON document, by a way of its own."""
    first = row.source.paths[0]
    if row.type == "info":
        texts = [at(document, path) for path in row.source.paths]
        if None not in texts:
            yield dict(zip(row.source.labels, texts, strict=True)), 1.0
    elif first == "processes[].kind":
        wanted = [(p["kind"], p["phase"]) for p in document["processes"]]
        options = SCHEMA["$defs"]["ProcessStatus"]["properties"]["phase"]["anyOf"]
        phase, step = (SCHEMA["$defs"][o["$ref"].rpartition("/")[2]]["enum"] for o in options)
        ended = {"done", "undone", "moved", "gone"}
        pairs = [("tiering", word) for word in phase]
        pairs += [("relocation", word) for word in step if word not in ended]
        for kind, word in pairs:
            yield {"kind": kind, "phase": word}, wanted.count((kind, word))
    elif first.startswith("processes[]."):
        name = first.removeprefix("processes[].")
        for kind in ("tiering", "relocation"):
            found = [
                figure(p[name])
                for p in document["processes"]
                if p["kind"] == kind and p[name] is not None
            ]
            if name != "eta_seconds":
                yield {"kind": kind}, sum(found)
            elif found:
                yield {"kind": kind}, max(found)
    elif first == "checks[].level":
        for word in SCHEMA["$defs"]["CheckItem"]["properties"]["level"]["enum"]:
            yield {"level": word}, sum(item["level"] == word for item in document["checks"])
    elif "*" in first:
        above, _, below = first.partition(".*")
        for name, entry in (at(document, above) or {}).items():
            value = at(entry, below.lstrip(".")) if below else entry
            yield {row.source.labels[0]: name}, figure(value)
    elif row.source.labels == ("tier",):
        for path in row.source.paths:
            if at(document, path) is not None:
                yield {"tier": path.split(".")[1]}, figure(at(document, path))
    elif row.source.labels:
        for word in words(first):
            yield {row.source.labels[0]: word}, float(at(document, first) == word)
    elif first in ("space.current_run", "space.paused"):
        yield {}, float(at(document, first) is not None)
    elif first == "space.last_run.problem":
        if document["space"]["last_run"] is not None:
            yield {}, float(at(document, first) is not None)
    elif at(document, first) is not None:
        yield {}, figure(at(document, first))
