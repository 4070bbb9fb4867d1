"""Bytes of a request body to plain values, and plain values to a model.

Whatever a client sends ends here as a value or as an `ApiError`; nothing that a
client chooses can raise anything else.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError

from .gate import query_pairs
from .messages import MAX_FIELDS, ApiError, Call, Detail

MAX_DEPTH = 32
#: How a form may write a boolean, in upper or lower case (pydantic's words).
FORM_BOOLEANS = ("true", "false", "1", "0", "yes", "no", "on", "off", "y", "n", "t", "f")
_JSON_TYPES = re.compile(r"application/(?:[a-z0-9.+-]+\+)?json")
_FORM_TYPE = "application/x-www-form-urlencoded"
# Brackets, and whole strings so that brackets inside them are passed over. A string
# without an end reaches to the end of the text: trying again at each later quote
# would take quadratic time.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+\\?(?:"|\Z)|[\[\]{}]', re.DOTALL)
_INTEGER = re.compile(r"\s*[+-]?[0-9]{1,30}\s*")
# pydantic's errors in our own words, filled in from their context. One that is not here
# keeps its own: a client must not be able to bring about an error of ours.
_PROBLEMS: Mapping[str, str] = {
    "missing": "is required",
    "extra_forbidden": "is not a field of this call",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "greater_than_equal": "must be {ge} or more",
    "less_than_equal": "must be {le} or less",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "string_type": "must be text",
    "string_unicode": "must be Unicode text",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "value_error": "{error}",
}
_BLANKS = b"\xef\xbb\xbf \t\r\n"

Model = TypeVar("Model", bound=BaseModel)


class Fields(dict[str, Any]):
    """The fields of one JSON object or form, with the names that came more than once.

    `repeated` names are ambiguous: JSON leaves open which value counts (RFC 8259,
    section 4), so a caller must not act on either.
    """

    repeated: frozenset[str] = frozenset()
    form: bool = False  #: every value is text

    @classmethod
    def of(cls, pairs: list[tuple[str, Any]]) -> Fields:
        """Collect ``pairs``; of a repeated name the last value stays."""
        fields = cls(pairs)
        if len(fields) != len(pairs):
            counts = Counter(name for name, _ in pairs)
            fields.repeated = frozenset(n for n, count in counts.items() if count > 1)
        return fields


def read_fields(call: Call) -> Fields:
    """The body's fields. An empty body has none.

    A body that begins with a bracket is JSON whatever its content type says, because
    curl says "form" unless told otherwise.

    Raises:
        ApiError: 400 (not UTF-8, not JSON, too deep), 415, 422 (not an object).
    """
    body = call.body
    start = body[:64].lstrip(_BLANKS)
    if not start and not body.strip(_BLANKS):
        return Fields()
    if call.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "unsupported_media_type", "Send the body without compression.")
    if start.startswith((b"{", b"[")) or _JSON_TYPES.fullmatch(call.media_type):
        return _json_fields(_text(body))
    if call.media_type == _FORM_TYPE:
        return _form_fields(_text(body))
    raise ApiError(
        415,
        "unsupported_media_type",
        "Send a JSON object (application/json) or a form (application/x-www-form-urlencoded).",
    )


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ApiError(
            400, "not_utf8", f"The body is not UTF-8: bad byte at offset {error.start}."
        ) from error


def _json_fields(text: str) -> Fields:
    try:
        # The parser recurses: it must not meet more than it can take. Counting first is
        # cheap, and real notifications never come near the limit.
        if text.count("{") + text.count("[") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
            raise ApiError(
                400, "too_deep", f"The JSON is nested more than {MAX_DEPTH} levels deep."
            )
        value = _DECODER.decode(text)
    except ValueError as error:  # includes integers of thousands of digits
        where = f" (character {error.pos})" if isinstance(error, json.JSONDecodeError) else ""
        raise ApiError(400, "not_json", f"The body is not valid JSON{where}.") from error
    if not isinstance(value, Fields):
        raise ApiError(422, "invalid", "The body must be a JSON object.")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


# Python's parser takes NaN and Infinity, which JSON does not have.
_DECODER = json.JSONDecoder(object_pairs_hook=Fields.of, parse_constant=_no_constant)


def _depth(text: str) -> int:
    deepest = depth = 0
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token in ("[", "{"):
            depth += 1
            deepest = max(deepest, depth)
        elif token in ("]", "}"):
            depth -= 1
    return deepest


def _form_fields(text: str) -> Fields:
    try:
        # Escaped bytes that are not UTF-8 become surrogates, and the field's own
        # rules then decide: a bad ``name`` is dropped, a bad ``hash`` refused.
        pairs = parse_qsl(
            text, keep_blank_values=True, errors="surrogateescape", max_num_fields=MAX_FIELDS
        )
    except ValueError as error:
        raise ApiError(400, "bad_form", "The form has too many fields.") from error
    fields = Fields.of(cast("list[tuple[str, Any]]", pairs))
    fields.form = True
    return fields


def usable_text(value: str) -> bool:
    """Whether ``value`` can be stored, shown and used in a path: no NUL, encodable."""
    return "\0" not in value and (value.isascii() or value.isprintable() or _encodable(value))


def _encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_model(model: type[Model], fields: Fields) -> Model:
    """Validate ``fields``; unknown ones are refused, never ignored.

    Raises:
        ApiError: 422 with one detail for each bad field.
    """
    if len(fields) > MAX_FIELDS:
        raise ApiError(422, "invalid", f"There are more than {MAX_FIELDS} fields.")
    details: list[Detail] = [
        {"field": _shown(name), "problem": "is given more than once"}
        for name in sorted(fields.repeated)
    ]
    try:
        # Forms and queries carry text only, so numbers and booleans are read from it.
        result = model.model_validate(dict(fields), strict=not fields.form)
    except ValidationError as error:
        details.extend(_detail(e) for e in error.errors(include_input=False, include_url=False))
    else:
        if not details:
            return result
    # The first in words: who shows only the sentence (the hook's log) learns what to do.
    first, more = details[0], len(details) - 1
    rest = f"; {more} more in details" if more else ""
    sentence = f"{first['field']}: {first['problem']}{rest}."
    raise ApiError(422, "invalid", sentence, details=details)


def _detail(error: Mapping[str, Any]) -> Detail:
    field = ".".join(_shown(str(part)) for part in error["loc"])
    words = _PROBLEMS.get(error["type"], "{msg}")
    return {"field": field, "problem": words.format(msg=error["msg"], **error.get("ctx", {}))}


def _shown(name: str) -> str:
    return name if len(name) <= 100 else name[:100] + "…"


def read_query(model: type[Model], query: bytes) -> Model:
    """Validate the query string, the API key aside.

    Raises:
        ApiError: 422 with one detail for each bad or unknown name.
    """
    fields = Fields.of([(n, v) for n, v in query_pairs(query) if n != "api_key"])
    fields.form = True
    return as_model(model, fields)


def integral(value: object) -> object:
    """``5.0`` as ``5``: JSON has one kind of number. Anything else as it is."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return int(value)
    return value


def integer_of_text(value: str) -> int | None:
    """A decimal integer of at most 30 digits in a form's text, or None."""
    return int(value) if _INTEGER.fullmatch(value) else None
