"""The OpenAPI 3.1 document, made from the route table and the pydantic models."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from .bodies import FORM_BOOLEANS, MAX_DEPTH
from .messages import JSON_TYPE, MAX_BODY_BYTES
from .openapi_examples import example_of
from .openapi_texts import ANSWERS, CALLS, EXAMPLES, FIELDS, SCHEMAS
from .routes import NOTIFY, ROUTES, Route
from .schemas import PARAMS, ErrorAnswer, NoBody, NoQuery

_REF = "#/components/schemas/{model}"
_KEYED_ERRORS = (401,)
_BODY_ERRORS = (400, 408, 413, 415, 422)
_ERRORS = {
    400: "Not JSON, not UTF-8, too deep, or not HTTP.",
    401: "No API key, or a wrong one. The same for paths that do not exist.",
    404: "No such job.",
    408: "The body did not arrive in time.",
    409: "The state of things does not allow this; `error` says what does not.",
    413: f"The body is larger than {MAX_BODY_BYTES} bytes.",
    415: "The body is neither a JSON object nor a form.",
    422: "A field is missing, unknown or unusable; `details` names each.",
    503: "Queue full, draining, journal not writable, qBittorrent away, or a tier not mounted: "
    "try again after `Retry-After`.",
}


def _header(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "required": True, "schema": schema}


_ENDS = {"Connection": _header("The connection ends.", {"const": "close"})}
_ERROR_HEADERS = {
    401: {"WWW-Authenticate": _header("How to send the key.", {"const": "Bearer"})},
    408: _ENDS,
    413: _ENDS,
    503: {"Retry-After": _header("Seconds.", {"type": "integer", "minimum": 1})},
}


@lru_cache(maxsize=1)
def document_json(version: str) -> bytes:
    """The document as it is served. Made on first use: few processes are ever asked."""
    return json.dumps(document(version)).encode()


def document(version: str) -> dict[str, Any]:
    """The document as plain values.

    Args:
        version: of the service.
    """
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [(ErrorAnswer, "serialization")]
    for route in ROUTES:
        if route.body is not NoBody:
            models.append((route.body, "validation"))
        models.append((route.query, "validation"))
        models.extend((model, "serialization") for model in route.answers.values())
    refs, definitions = models_json_schema(list(dict.fromkeys(models)), ref_template=_REF)
    schemas = definitions.get("$defs", {})
    queries = {route.query.__name__: schemas.pop(route.query.__name__) for route in _by_query()}
    for name, schema in schemas.items():
        _describe(name, schema)
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        operation = _operation(route, refs, queries[route.query.__name__], schemas)
        paths.setdefault(route.path, {})[route.method.lower()] = operation
        _exemplify(f"{route.method} {route.path}", operation["responses"], schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "qbm-trio",
            "version": version,
            "description": "Keeps finished torrents safe and fast on two tiers. "
            "Times are RFC 3339 UTC. A body that begins with `{` is JSON whatever its "
            f"content type says; JSON may be nested {MAX_DEPTH} levels deep. Beside the answers "
            "listed here, any path but `/health` gets 401 without the key, a path that is not "
            "here 404, a method that is not here 405 with `Allow`, and what is no HTTP/1.1 gets "
            "400, 431 or 505: all in the shape of `ErrorAnswer`.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "security": [{"header": []}, {"bearer": []}, {"query": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
                "query": {"type": "apiKey", "in": "query", "name": "api_key"},
            },
        },
    }


def _describe(name: str, schema: dict[str, Any]) -> None:
    """Say what is not said yet, and give examples."""
    if name in SCHEMAS:
        schema["description"] = SCHEMAS[name]
    # A job is shown in two ways, which have the same fields.
    owner = "JobItem" if name == "JobAnswer" else name
    for field, its in schema.get("properties", {}).items():
        description, example = FIELDS.get(f"{owner}.{field}") or FIELDS.get(field) or ("", None)
        if description:
            its.setdefault("description", description)
        if example is not None and "const" not in its:
            its.setdefault("examples", [example])


def _exemplify(call: str, responses: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Say what each answer of a call means, and give an example."""
    for status, answer in responses.items():
        name = f"{call} {status}"
        answer["description"] = ANSWERS.get(name, answer["description"])
        if (content := answer["content"].get(JSON_TYPE)) is not None:
            example = example_of(content["schema"], schemas)
            example |= EXAMPLES.get(name, {})
            content["example"] = {n: value for n, value in example.items() if value is not ...}


def _by_query() -> list[Route]:
    return list({route.query.__name__: route for route in ROUTES}.values())


def _operation(
    route: Route, refs: dict[Any, Any], query: dict[str, Any], schemas: dict[str, Any]
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "description": CALLS.get(f"{route.method} {route.path}", ""),
        "operationId": _operation_id(route),
        "responses": _responses(route, refs),
    }
    if route.open_to_all:
        operation["security"] = []
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": route.path_docs.get(name, ""),
            "schema": {"type": "string"},
        }
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]
    if route.query is not NoQuery:
        parameters += [
            {
                "name": name,
                "in": "query",
                "required": False,
                "description": schema.get("description", ""),
                "schema": {k: v for k, v in schema.items() if k != "description"},
            }
            for name, schema in query["properties"].items()
        ]
    if parameters:
        operation["parameters"] = parameters
    if route.body is not NoBody:
        operation["requestBody"] = {
            "required": route is NOTIFY,
            "content": {
                "application/json": {"schema": refs[(route.body, "validation")]},
                "application/x-www-form-urlencoded": {"schema": _form_schema(route, schemas)},
            },
        }
    return operation


def _form_schema(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    """The same fields flat, each of them text."""
    body = schemas[route.body.__name__]
    fields = {name: _of_text(schema) for name, schema in body["properties"].items()}
    if route is NOTIFY:
        del fields["params"]
        # The params stand beside the hash, which is the notification's here. One that does not
        # fit is dropped, so that no text is refused.
        fields = {**{name: _hint(schema) for name, schema in PARAMS.items()}, **fields}
    return {
        "type": "object",
        "description": body["description"],
        "required": body.get("required", []),
        "additionalProperties": False,
        "properties": fields,
    }


def _of_text(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type") != "boolean":
        return schema
    return {**schema, "type": ["boolean", "string"], "enum": [True, False, *FORM_BOOLEANS]}


def _hint(schema: dict[str, Any]) -> dict[str, Any]:
    if schema["type"] != "integer":
        return schema
    wanted = f"A whole number of 0 or more. {schema.get('description', '')}".strip()
    return {"type": ["integer", "string"], "description": wanted}


def _responses(route: Route, refs: dict[Any, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, model in route.answers.items():
        responses[str(status)] = _response(
            HTTPStatus(status).phrase, refs[(model, "serialization")]
        )
    if not route.answers:
        responses["200"] = _response("The document", {"type": "object"})
    if "200" in responses:
        as_json = responses["200"]["content"][JSON_TYPE]
        responses["200"]["content"] = {
            media_type: as_json if media_type == JSON_TYPE else {"schema": {"type": "string"}}
            for media_type in route.media_types
        }
    errors = {*route.errors, *_BODY_ERRORS}
    if not route.open_to_all:
        errors.update(_KEYED_ERRORS)
    if "{" in route.path:
        errors.add(404)
    error_ref = refs[(ErrorAnswer, "serialization")]
    for status in sorted(errors):
        responses[str(status)] = _response(_ERRORS[status], error_ref)
        if status in _ERROR_HEADERS:
            responses[str(status)]["headers"] = _ERROR_HEADERS[status]
    return dict(sorted(responses.items()))


def _response(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": schema}},
    }


def _operation_id(route: Route) -> str:
    words = re.findall(r"[a-z]+", route.path.replace("job_id", "id"))
    return "_".join([route.method.lower(), *words])
