"""The reference of the API as Markdown, from the OpenAPI document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from qbm_trio import __version__
from qbm_trio.web.messages import JSON_TYPE
from qbm_trio.web.openapi import document
from qbm_trio.web.openapi_examples import example_of

Schema = dict[str, Any]
_ANSWERS = ("| status | when | shape |", "|---|---|---|")


def api_reference() -> str:
    """Return each call, then each shape that a body or an answer has."""
    api = document(__version__)
    schemas = api["components"]["schemas"]
    calls = [
        (method.upper(), path, call)
        for path, calls in api["paths"].items()
        for method, call in calls.items()
    ]
    lines = ["## Calls", "", "| call | |", "|---|---|"]
    lines += [
        f"| [`{method} {path}`](#{_anchor(f'{method} {path}')}) | {call['summary']} |"
        for method, path, call in calls
    ]
    everywhere = set.intersection(*(set(call["responses"]) for _, _, call in calls)) | {"401"}
    lines += ["", "Each of them, but for 401 at `/health`, may also answer:", "", *_ANSWERS]
    lines += [_answer(status, calls[1][2]["responses"][status]) for status in sorted(everywhere)]
    for method, path, call in calls:
        lines += ["", f"### {method} {path}", "", *_call(call, schemas, everywhere)]
    lines += ["", "## Shapes", ""]
    lines += ["What bodies and answers are made of, in the order of the alphabet."]
    for name, schema in sorted(schemas.items()):
        lines += ["", f"### {name}", "", *_shape(schema)]
    return "\n".join(lines) + "\n"


def _call(call: Schema, schemas: dict[str, Schema], everywhere: set[str]) -> Iterator[str]:
    yield f"{call['summary']}."
    if call["description"]:
        yield from ("", call["description"])
    for place, title in (("path", "In the path"), ("query", "In the query")):
        rows = [p for p in call.get("parameters", []) if p["in"] == place]
        if rows:
            yield from ("", f"**{title}**", "", "| name | type | default | meaning |")
            yield "|---|---|---|---|"
            for row in rows:
                yield _row(row["name"], row["schema"], row["description"], row["required"])
    if "requestBody" in call:
        yield from _body(call["requestBody"], schemas)
    yield from ("", "**Answers**", "", *_ANSWERS)
    for status, answer in call["responses"].items():
        if status not in everywhere:
            yield _answer(status, answer)
    for status, answer in call["responses"].items():
        content = answer["content"].get(JSON_TYPE, {})
        if (status < "400" or "ErrorAnswer" not in str(content)) and content.get("example"):
            yield from ("", f"{status}, for example:", "", *_json(content["example"]))


def _answer(status: str, answer: Schema) -> str:
    headers = "".join(f"; header `{name}`" for name in answer.get("headers", {}))
    shapes = [
        _type(content["schema"]) if media == JSON_TYPE else f"`{media.partition(';')[0]}`"
        for media, content in answer["content"].items()
    ]
    return f"| {status} | {_cell(answer['description'])} | {', '.join(shapes)}{headers} |"


def _body(body: Schema, schemas: dict[str, Schema]) -> Iterator[str]:
    schema = body["content"][JSON_TYPE]["schema"]
    shape = schemas[schema["$ref"].rpartition("/")[2]]
    optional = "" if body["required"] else ", may be left out"
    yield from ("", f"**Body**: JSON{optional}, or a form", "", *_fields(shape, required=True))
    form = body["content"]["application/x-www-form-urlencoded"]["schema"]["properties"]
    beside = [name for name in form if name not in shape["properties"]]
    if beside:
        params = shape["properties"]["params"]["properties"]
        yield from ("", "Inside `params`, or beside the others in a form:", "")
        yield from ("| field | type | meaning |", "|---|---|---|")
        for name, field in params.items():
            yield f"| `{name}` | {_type(field)} | {_cell(field.get('description', ''))} |"
    yield from ("", *_json(example_of(schema, schemas)))


def _shape(schema: Schema) -> Iterator[str]:
    yield _cell(schema.get("description", ""))
    if "enum" in schema:
        yield from ("", "One of " + ", ".join(f"`{value}`" for value in schema["enum"]) + ".")
    elif schema.get("properties"):
        yield from ("", *_fields(schema))


def _fields(schema: Schema, *, required: bool = False) -> Iterator[str]:
    """A table of fields; of a body with defaults, since an answer has every field."""
    if required:
        yield from ("| field | type | default | meaning |", "|---|---|---|---|")
    else:
        yield from ("| field | type | meaning |", "|---|---|---|")
    for name, field in schema["properties"].items():
        description = field.get("description", "")
        if required:
            yield _row(name, field, description, name in schema.get("required", []))
        else:
            yield f"| `{name}` | {_type(field)} | {_cell(description)} |"


def _row(name: str, schema: Schema, description: str, required: bool) -> str:
    default = schema.get("default")
    shown = "required" if required else "–" if default is None else f"`{json.dumps(default)}`"
    return f"| `{name}` | {_type(schema)} | {shown} | {_cell(description)} |"


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{_anchor(name)})"
    if "anyOf" in schema:
        return " or ".join(_type(choice) for choice in schema["anyOf"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    kinds = schema.get("type", "anything")
    if isinstance(kinds, list):
        return " or ".join(kinds)
    if kinds == "array":
        return f"list of {_type(schema['items'])}"
    if kinds == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    if schema.get("format") == "date-time":
        return "time"
    bounds = [str(schema[word]) for word in ("minimum", "maximum") if word in schema]
    return f"{kinds}, {' to '.join(bounds)}" if len(bounds) == 2 else str(kinds)


def _json(value: object) -> list[str]:
    return ["```json", json.dumps(value, indent=2, ensure_ascii=False), "```"]


def _cell(text: str) -> str:
    """A description on one line, in Markdown's own marks."""
    return re.sub(r"\s+", " ", text.replace("``", "`").replace("|", "\\|")).strip()


def _anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
