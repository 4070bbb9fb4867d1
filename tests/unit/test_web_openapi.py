"""The document, the route table and the application agree."""

from __future__ import annotations

import json
import re
import threading
from typing import Any
from urllib.parse import urlencode

import jsonschema
import pytest

from qbm_trio.core.model import JobState
from qbm_trio.web import notification, openapi, routes
from qbm_trio.web.app import create_app
from qbm_trio.web.bodies import FORM_BOOLEANS, as_model, read_fields
from qbm_trio.web.messages import ApiError, Call
from qbm_trio.web.openapi import document, document_json
from qbm_trio.web.openapi_texts import ANSWERS, CALLS, EXAMPLES, FIELDS, SCHEMAS
from qbm_trio.web.routes import ROUTES
from qbm_trio.web.schemas import NotificationBody
from qbm_trio.web.space import TriggerBody
from tests.rig.site import StandIn, backend

METHODS = {"GET", "POST", "DELETE", "PUT", "PATCH"}
DOCUMENT = document("1.2.3")
V1 = "a" * 40


def refs(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(refs(v) for v in value.values()))
    if isinstance(value, list):
        return set().union(*(refs(v) for v in value))
    return set()


def test_each_route_of_the_application_is_documented_and_each_documented_one_exists() -> None:
    app = create_app(backend(StandIn()))
    served = {
        (method, re.sub(r"<(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) & METHODS
    }
    documented = {
        (method.upper(), path)
        for path, operations in DOCUMENT["paths"].items()
        for method in operations
    }
    assert served == documented == {(r.method, r.path) for r in ROUTES}


def test_every_reference_leads_somewhere_and_no_schema_is_left_over() -> None:
    schemas = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert refs(DOCUMENT) == schemas


def test_every_schema_is_a_valid_json_schema() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_it_says_what_it_is() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    assert DOCUMENT["info"]["version"] == "1.2.3"
    assert json.loads(document_json("1.2.3")) == DOCUMENT


async def test_it_is_made_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a sixth of a second, in which notifications would wait."""
    threads: list[int] = []

    def made(version: str) -> dict[str, Any]:
        threads.append(threading.get_ident())
        return DOCUMENT

    monkeypatch.setattr(openapi, "document", made)
    document_json.cache_clear()
    route = next(route for route in ROUTES if route.path == "/openapi.json")
    try:
        reply = await routes.answer(route, backend(StandIn()), Call(headers={}))
    finally:
        document_json.cache_clear()
    assert json.loads(reply.body) == DOCUMENT
    assert len(threads) == 1
    assert threads != [threading.get_ident()]


def test_only_health_needs_no_key() -> None:
    without = [
        path
        for path, operations in DOCUMENT["paths"].items()
        for operation in operations.values()
        if operation.get("security") == []
    ]
    assert without == ["/health"]
    keys = {
        s["in"] if s["type"] == "apiKey" else s["scheme"]
        for s in (DOCUMENT["components"]["securitySchemes"].values())
    }
    assert keys == {"header", "query", "bearer"}


def test_operation_ids_are_unique() -> None:
    ids = [o["operationId"] for ops in DOCUMENT["paths"].values() for o in ops.values()]
    assert len(ids) == len(set(ids))


def test_the_query_of_the_job_list_is_documented() -> None:
    parameters = {p["name"]: p["schema"] for p in DOCUMENT["paths"]["/jobs"]["get"]["parameters"]}
    assert set(parameters) == {"state", "limit", "after"}
    states = DOCUMENT["components"]["schemas"]["JobState"]["enum"]
    assert set(states) == {str(s) for s in JobState}


@pytest.mark.parametrize(
    ("body", "fine"),
    [
        ({"hash": "A" * 40}, True),
        ({"hash": "a" * 64, "priority": 5, "params": {"name": "x"}}, True),
        ({"hash": "A" * 32, "params": None}, True),
        ({"hash": "-"}, False),
        ({"hash": "all"}, False),
        ({"hash": "1" * 32}, False),
        ({"hash": "a" * 41}, False),
        ({}, False),
        ({"hash": "a" * 40, "priority": "1"}, False),
        ({"hash": "a" * 40, "priority": True}, False),
        ({"hash": "a" * 40, "priority": 2**31}, False),
        ({"hash": "a" * 40, "other": 1}, False),
    ],
)
def test_the_documented_notification_allows_what_the_service_takes(
    body: dict[str, Any], fine: bool
) -> None:
    schema = DOCUMENT["components"]["schemas"]["NotificationBody"]
    allowed = jsonschema.Draft202012Validator(schema).is_valid(body)
    try:
        NotificationBody.model_validate(body, strict=True)
        taken = True
    except ValueError:
        taken = False
    assert allowed == taken == fine


def test_the_params_are_documented_name_by_name_with_an_example_that_is_taken_whole() -> None:
    params = DOCUMENT["components"]["schemas"]["NotificationBody"]["properties"]["params"]
    assert {n: p["type"] for n, p in params["properties"].items()} == {
        name: {str: "string", int: "integer"}[kind] for name, kind in notification._PARAMS.items()
    }
    call = DOCUMENT["paths"]["/notify/torrent-finished"]["post"]["requestBody"]["content"]
    form = call["application/x-www-form-urlencoded"]["schema"]["properties"]
    assert set(form) == {"priority", *notification._PARAMS}
    (example,) = params["examples"]
    jsonschema.validate(example, params)
    fields = read_fields(
        Call(headers={}, body=json.dumps({"hash": V1, "params": example}).encode())
    )
    assert notification.read_notification(fields).params == example


def form_of(path: str) -> dict[str, Any]:
    content = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]
    schema: dict[str, Any] = content["application/x-www-form-urlencoded"]["schema"]
    return schema


@pytest.mark.parametrize("path", ["/space-management/trigger", "/tags/existing"])
@pytest.mark.parametrize("word", [*FORM_BOOLEANS, "TRUE", "Off", "2", "", "wahr", "1.0", "null"])
def test_a_boolean_in_a_form_may_be_what_the_document_lists_in_upper_or_lower_case(
    path: str, word: str
) -> None:
    schema = form_of(path)["properties"]["dry_run"]
    fields = read_fields(
        Call(
            headers={"content-type": "application/x-www-form-urlencoded"},
            body=f"dry_run={word}".encode(),
        )
    )
    try:
        as_model(TriggerBody, fields)
        taken = True
    except ApiError:
        taken = False
    assert jsonschema.Draft202012Validator(schema).is_valid(word.lower()) == taken


@pytest.mark.parametrize(
    ("form", "fine"),
    [
        ({"hash": "A" * 40, "num_files": "many", "size": "-1", "name": ""}, True),
        ({"hash": "a" * 40, "priority": 5}, True),
        ({"hash": "a" * 40, "priority": 2**31}, False),
        ({"hash": "-"}, False),
        ({"hash": "a" * 40, "params": "{}"}, False),
        ({"name": "a"}, False),
    ],
)
def test_the_documented_form_of_a_notification_allows_what_the_service_takes(
    form: dict[str, Any], fine: bool
) -> None:
    allowed = jsonschema.Draft202012Validator(form_of("/notify/torrent-finished")).is_valid(form)
    fields = read_fields(
        Call(
            headers={"content-type": "application/x-www-form-urlencoded"},
            body=urlencode(form).encode(),
        )
    )
    try:
        notification.read_notification(fields)
        taken = True
    except ApiError:
        taken = False
    assert allowed == taken == fine


def test_the_headers_that_tell_a_client_what_to_do_next_are_documented() -> None:
    for path, operations in DOCUMENT["paths"].items():
        for operation in operations.values():
            for status, name in (("401", "WWW-Authenticate"), ("503", "Retry-After")):
                answer = operation["responses"].get(status)
                if answer is not None and (path, status) != ("/health", "503"):
                    assert answer["headers"][name]["required"]


def test_params_beyond_the_document_are_taken_all_the_same() -> None:
    """Hints never refuse a notification."""
    for params in ("text", {"name": 5}, {"size": -1}):
        body = {"hash": V1, "params": params}
        schema = DOCUMENT["components"]["schemas"]["NotificationBody"]
        assert not jsonschema.Draft202012Validator(schema).is_valid(body)
        assert NotificationBody.model_validate(body, strict=True).hash == V1


def test_the_forms_of_the_status_are_documented() -> None:
    forms = {
        path: set(DOCUMENT["paths"][path]["get"]["responses"]["200"]["content"])
        for path in ("/status", "/metrics", "/jobs", "/openapi.json")
    }
    metrics = {"text/plain", "application/openmetrics-text"}
    json_only = {"application/json"}
    assert forms == {
        "/status": json_only | metrics,
        "/metrics": metrics,
        "/jobs": json_only,
        "/openapi.json": json_only,
    }


def test_every_call_and_every_field_is_described() -> None:
    for path, operations in DOCUMENT["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert operation["description"], (method, path)
            assert all(p["description"] for p in operation.get("parameters", []))
    for name, schema in DOCUMENT["components"]["schemas"].items():
        assert schema["description"], name
        for field, its in schema.get("properties", {}).items():
            assert its.get("description"), f"{name}.{field}"


def test_every_example_is_what_the_document_allows() -> None:
    def allowed(schema: dict[str, Any], example: object) -> None:
        jsonschema.Draft202012Validator(
            {**schema, "components": DOCUMENT["components"]},
            format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
        ).validate(example)

    for schema in DOCUMENT["components"]["schemas"].values():
        for field in schema.get("properties", {}).values():
            for example in field.get("examples", []):
                allowed(field, example)
    for operations in DOCUMENT["paths"].values():
        for operation in operations.values():
            for answer in operation["responses"].values():
                if "application/json" in answer["content"]:
                    content = answer["content"]["application/json"]
                    allowed(content["schema"], content["example"])


def test_what_is_said_of_a_call_or_a_field_is_of_one_that_exists() -> None:
    calls = {
        f"{method.upper()} {path}": set(operation["responses"])
        for path, operations in DOCUMENT["paths"].items()
        for method, operation in operations.items()
    }
    assert set(CALLS) <= set(calls)
    for name in {*ANSWERS, *EXAMPLES}:
        call, _, status = name.rpartition(" ")
        assert status in calls[call], name
    schemas = DOCUMENT["components"]["schemas"]
    fields = {
        word
        for name, schema in schemas.items()
        for field in schema.get("properties", {})
        for word in (field, f"{name}.{field}")
    }
    assert set(FIELDS) - fields == set()
    assert set(SCHEMAS) - set(schemas) == set()
