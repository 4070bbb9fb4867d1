"""Examples of requests and answers, put together from those of their fields.

So a new field comes with its example, and no example can miss one.
"""

from __future__ import annotations

from typing import Any

_REF = "#/components/schemas/"
_OF_TYPE: dict[str, Any] = {
    "array": [],
    "boolean": False,
    "integer": 0,
    "null": None,
    "number": 0.0,
    "object": {},
    "string": "…",
}


def example_of(schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
    """A value that ``schema`` allows: its own example, or one made of its parts.

    Args:
        schema: of an answer, a body or a field.
        schemas: those of ``components``, which it may refer to.
    """
    if "examples" in schema:
        return schema["examples"][0]
    if "$ref" in schema:
        return example_of(schemas[schema["$ref"].removeprefix(_REF)], schemas)
    for word in ("const", "default"):
        if word in schema:
            return schema[word]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        choices = schema["anyOf"]
        if {"type": "null"} in choices:
            return None
        return example_of(choices[0], schemas)
    if "properties" in schema:
        return {name: example_of(field, schemas) for name, field in schema["properties"].items()}
    if "items" in schema:
        return [example_of(schema["items"], schemas)]
    kinds = schema.get("type", "object")
    return _OF_TYPE[kinds if isinstance(kinds, str) else kinds[0]]
