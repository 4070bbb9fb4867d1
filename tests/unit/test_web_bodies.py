"""Bytes to fields: whatever comes, a value or a refusal."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from qbm_trio.web.bodies import MAX_DEPTH, Fields, as_model, read_fields, read_query
from qbm_trio.web.messages import ApiError, Call
from qbm_trio.web.schemas import JobsQuery, NotificationBody, RetryBody

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


def fields(body: bytes, content_type: str | None = None, **headers: str) -> Fields:
    if content_type is not None:
        headers["content-type"] = content_type
    return read_fields(Call(headers=headers, body=body))


def refusal(body: bytes, content_type: str | None = None, **headers: str) -> ApiError:
    with pytest.raises(ApiError) as refused:
        fields(body, content_type, **headers)
    return refused.value


def _read_as(model: type[BaseModel], call: Call) -> BaseModel:
    return as_model(model, read_fields(call))


def tried(function: Callable[[], object]) -> ApiError | None:
    try:
        function()
    except ApiError as error:
        return error
    return None


@pytest.mark.parametrize(
    "content_type", [None, "", JSON, FORM, "text/plain", "Application/JSON; charset=utf-8", "a/b"]
)
@pytest.mark.parametrize("lead", [b"", b" \r\n\t", b"\xef\xbb\xbf"])
def test_a_body_that_begins_with_a_brace_is_json_whatever_its_type(
    content_type: str | None, lead: bytes
) -> None:
    assert fields(lead + b'{"a": 1}', content_type) == {"a": 1}


@pytest.mark.parametrize("content_type", [None, JSON, FORM, "text/plain"])
@pytest.mark.parametrize("body", [b"", b" ", b"\r\n", b" " * 1000])
def test_an_empty_body_has_no_fields(body: bytes, content_type: str | None) -> None:
    assert fields(body, content_type) == {}


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "multipart/form-data; boundary=x"]
)
def test_any_other_body_of_an_unknown_type_gets_415(content_type: str | None) -> None:
    assert refusal(b"hash=1", content_type).status == 415


def test_a_compressed_body_gets_415() -> None:
    assert refusal(b'{"a": 1}', JSON, **{"content-encoding": "gzip"}).status == 415


@pytest.mark.parametrize("body", [b"hash", b"{", b"{'a': 1}", b'{"a": 1} x', b'{"a": tru}', b"nul"])
def test_what_is_not_json_gets_400(body: bytes) -> None:
    error = refusal(body, JSON)
    assert (error.status, error.code) == (400, "not_json")


@pytest.mark.parametrize("constant", [b"NaN", b"Infinity", b"-Infinity"])
def test_python_constants_are_not_json(constant: bytes) -> None:
    assert refusal(b'{"a": ' + constant + b"}").code == "not_json"


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"1", b"null", b"true", b'[{"hash": 1}]'])
def test_json_that_is_no_object_gets_422(body: bytes) -> None:
    assert refusal(body, JSON).status == 422


def test_a_list_is_json_whatever_its_content_type_says() -> None:
    error = refusal(b" [1]", FORM)
    assert (error.status, error.message) == (422, "The body must be a JSON object.")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [(b'{"a": "\xff"}', JSON), (b"a=\xff", FORM), ('{"a": 1}'.encode("utf-16"), JSON)],
)
def test_what_is_not_utf8_gets_400(body: bytes, content_type: str) -> None:
    error = refusal(body, content_type)
    assert (error.status, error.code) == (400, "not_utf8")


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 30_000, 300_000])
@pytest.mark.parametrize("nest", [b'{"a":', b"["])
def test_deep_nesting_gets_400(nest: bytes, depth: int) -> None:
    error = refusal(nest * depth, JSON)
    assert (error.status, error.code) == (400, "too_deep")


def test_nesting_up_to_the_limit_is_read() -> None:
    assert fields(b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH)


def test_brackets_inside_text_are_not_nesting() -> None:
    name = '[[{{"\\' * 100
    assert fields(json.dumps({"name": name}).encode()) == {"name": name}


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":"' + b'\\"' * 500_000,
        b'{"a":"' + b"[" * 1_000_000,
        b"{" * 40 + b'"' * 1_000_000,
        b'{"a":"' + b"[" * 40 + b'\\"' * 500_000,
        b'{"a":[' + b'"\\",' * 250_000,
        b'{"' + b'":0,"' * 200_000 + b'":0}',
        b'{"a": ' + b"9" * 1_000_000 + b"}",
    ],
    ids=[
        "escapes",
        "brackets",
        "quotes",
        "brackets and escapes",
        "open strings",
        "repeated names",
        "digits",
    ],
)
def test_a_hostile_megabyte_is_refused_in_linear_time(body: bytes) -> None:
    began = time.perf_counter()
    with pytest.raises(ApiError):
        as_model(NotificationBody, fields(body, JSON))
    assert time.perf_counter() - began < 3


def test_too_many_fields_are_refused_without_a_detail_for_each() -> None:
    body = json.dumps({f"f{n}": n for n in range(50_000)}).encode()
    with pytest.raises(ApiError) as refused:
        as_model(NotificationBody, fields(body))
    assert refused.value.status == 422
    assert len(refused.value.reply().body) < 1000


def test_a_form_with_too_many_fields_gets_400() -> None:
    assert refusal(b"a=1&" * 200, FORM).status == 400


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from([None, JSON, FORM, "text/plain", "é/ü"]))
def test_any_bytes_give_fields_or_a_refusal(body: bytes, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    models: tuple[type[BaseModel], ...] = (NotificationBody, RetryBody)
    for model in models:
        error = tried(partial(_read_as, model, Call(headers=headers, body=body)))
        if error is not None:
            assert 400 <= error.status < 500
            json.loads(error.reply().body)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(codec=None, exclude_categories=[]), max_size=5),
        st.text(st.characters(codec=None, exclude_categories=[]), max_size=5) | st.none(),
        max_size=4,
    )
)
def test_lone_surrogates_anywhere_give_fields_or_a_refusal(value: dict[str, object]) -> None:
    body = json.dumps({"hash": "x", **value}).encode("ascii")
    with pytest.raises(ApiError) as refused:
        as_model(NotificationBody, read_fields(Call(headers={}, body=body)))
    json.loads(refused.value.reply().body)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_query_gives_values_or_a_refusal(query: bytes) -> None:
    error = tried(lambda: read_query(JobsQuery, query))
    assert error is None or error.status in (400, 422)


def test_the_query_is_read_without_the_key() -> None:
    query = read_query(JobsQuery, b"api_key=secret&limit=7&state=failed&after=abc")
    assert isinstance(query, JobsQuery)
    assert (query.limit, query.state, query.after) == (7, "failed", "abc")


@pytest.mark.parametrize(
    "query", [b"limit=0", b"limit=x", b"limit=501", b"state=nope", b"status=1"]
)
def test_a_query_that_cannot_be_used_gets_422(query: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        read_query(JobsQuery, query)
    assert refused.value.status == 422


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"priority": "1"}', "must be a whole number"),
        (b'{"priority": true}', "must be a whole number"),
        (b'{"priority": null}', "must be a whole number"),
        (b'{"priority": 2147483648}', "must be 2147483647 or less"),
        (b'{"priority": -2147483649}', "must be -2147483648 or more"),
        (b'{"hash": 5}', "must be text"),
        (b'{"hash": "\\ud800"}', "must be Unicode text"),
        (b'{"hash": "' + b"a" * 201 + b'"}', "must have at most 200 characters"),
        (
            b'{"hash": "{}"}',
            "must be a torrent hash: 40 hex digits (v1 or torrent id), 64 (v2) or 32 of base32",
        ),
        (b'{"on_conflict": "no"}', "must be 'fail' or 'set_aside'"),
        (b'{"on_conflict": null}', "must be 'fail' or 'set_aside'"),
        (b'{"other": 1}', "is not a field of this call"),
    ],
)
def test_what_is_wrong_with_a_field_is_said_in_words_of_the_api(body: bytes, problem: str) -> None:
    model = RetryBody if b"on_conflict" in body else NotificationBody
    read = fields(body)
    if model is NotificationBody:
        read.setdefault("hash", "a" * 40)
    with pytest.raises(ApiError) as refused:
        as_model(model, read)
    (field,) = json.loads(body)
    assert refused.value.details == [{"field": field, "problem": problem}]
    assert refused.value.message == f"{field}: {problem}."


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        (b"limit=x", "must be a whole number"),
        (b"limit=1.5", "must be a whole number"),
        (b"limit=" + b"9" * 5000, "must be a whole number of fewer digits"),
        (b"limit=0", "must be 1 or more"),
        (b"limit=501", "must be 500 or less"),
        (b"after=", "must not be empty"),
        (
            b"state=nope",
            "must be 'queued', 'waiting', 'running', 'done', 'failed', 'cancelled', 'cleared' "
            "or 'merged'",
        ),
    ],
)
def test_what_is_wrong_with_a_query_is_said_in_words_of_the_api(query: bytes, problem: str) -> None:
    with pytest.raises(ApiError) as refused:
        read_query(JobsQuery, query)
    assert [detail["problem"] for detail in refused.value.details] == [problem]


def test_the_sentence_names_the_first_problem_and_how_many_more_the_details_have() -> None:
    with pytest.raises(ApiError) as refused:
        as_model(NotificationBody, fields(b'{"other": 1, "priority": "x"}'))
    assert refused.value.message == "hash: is required; 2 more in details."


def test_a_query_with_too_many_fields_gets_400() -> None:
    with pytest.raises(ApiError) as refused:
        read_query(JobsQuery, b"x&" * 200)
    assert refused.value.status == 400
