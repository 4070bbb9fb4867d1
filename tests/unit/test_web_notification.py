"""What a notification's fields become, and which can refuse it."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbm_trio.core.hashes import normalise_hash
from qbm_trio.core.model import Notification
from qbm_trio.web.bodies import read_fields
from qbm_trio.web.messages import ApiError, Call
from qbm_trio.web.notification import read_notification

V1 = "0123456789abcdef0123456789abcdef01234567"
V2 = "ab" * 32
FORM = {"content-type": "application/x-www-form-urlencoded"}


def of_json(**fields: object) -> Notification:
    return read_notification(read_fields(Call(headers={}, body=json.dumps(fields).encode())))


def of_form(text: str) -> Notification:
    return read_notification(read_fields(Call(headers=FORM, body=text.encode())))


@pytest.mark.parametrize(
    ("given_hash", "normal"),
    [
        (V1, V1),
        (V1.upper(), V1),
        (f" {V1}\n", V1),
        (V2.upper(), V2),
        (base64.b32encode(bytes.fromhex(V1)).decode(), V1),
        (base64.b32encode(bytes.fromhex(V1)).decode().lower(), V1),
    ],
)
def test_a_hash_in_any_known_spelling_becomes_lower_case_hex(given_hash: str, normal: str) -> None:
    assert normalise_hash(given_hash) == normal
    assert of_json(hash=given_hash).hash == normal


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "-",
        "all",
        "ALL",
        V1[:-1],
        V1 + "0",
        "g" * 40,
        "1" * 32,
        "torrent_hash_here",
        "%I",
        "é" * 40,
    ],
)
def test_anything_else_is_no_hash_and_the_refusal_says_why(wrong: str) -> None:
    with pytest.raises(ApiError) as refused:
        of_json(hash=wrong)
    assert refused.value.status == 422
    (detail,) = refused.value.details
    assert detail["field"] == "hash"
    assert len(detail["problem"]) > 10


def test_a_v2_only_torrents_dash_is_explained_with_what_to_send_instead() -> None:
    with pytest.raises(ApiError) as refused:
        of_json(hash="-")
    assert "%K" in refused.value.details[0]["problem"]


@pytest.mark.parametrize("wrong", [None, True, 1, 1.5, [], {}, [V1]])
def test_a_hash_that_is_not_text_is_refused(wrong: object) -> None:
    with pytest.raises(ApiError) as refused:
        of_json(hash=wrong)
    assert refused.value.status == 422


@pytest.mark.parametrize("fine", [0, -1, 5, 5.0, 2**31 - 1, -(2**31)])
def test_a_priority_is_a_whole_number(fine: float) -> None:
    assert of_json(hash=V1, priority=fine).priority == fine


@pytest.mark.parametrize("wrong", [None, True, "5", 1.5, 1e300, 2**31, 10**400, [], {}])
def test_any_other_priority_is_refused(wrong: object) -> None:
    with pytest.raises(ApiError) as refused:
        of_json(hash=V1, priority=wrong)
    assert refused.value.status == 422
    assert [d["field"] for d in refused.value.details] == ["priority"]


def test_an_unknown_top_level_field_is_refused_by_name() -> None:
    with pytest.raises(ApiError) as refused:
        of_json(hash=V1, priorty=1)
    assert refused.value.status == 422
    assert refused.value.details == [{"field": "priorty", "problem": "is not a field of this call"}]
    assert "priorty" in refused.value.message


def test_all_bad_fields_are_named_at_once() -> None:
    with pytest.raises(ApiError) as refused:
        of_json(hash="x", priority="y", z=1)
    assert {d["field"] for d in refused.value.details} == {"hash", "priority", "z"}


def test_a_repeated_top_level_field_is_refused_because_it_is_ambiguous() -> None:
    body = f'{{"hash": "{V1}", "hash": "{"0" * 40}"}}'.encode()
    with pytest.raises(ApiError) as refused:
        read_notification(read_fields(Call(headers={}, body=body)))
    assert refused.value.details == [{"field": "hash", "problem": "is given more than once"}]


def test_params_are_kept_as_hints() -> None:
    params = {
        "hash": V1.upper(),
        "name": "Ein Name 🎬 \"'\\",
        "category": "../../etc",
        "content_path": "/downloads/ssd/x",
        "num_files": 3,
        "size": 1234567890123,
        "tags": "a b",
    }
    n = of_json(hash=V1, params=params)
    assert n.params == params
    assert (n.name, n.category, n.size_bytes) == (params["name"], "../../etc", 1234567890123)


@pytest.mark.parametrize(
    "bad",
    [
        {"name": 5},
        {"name": None},
        {"name": "a\0b"},
        {"name": "\ud800"},
        {"name": "x" * 5000},
        {"category": ["a"]},
        {"content_path": {"a": 1}},
        {"num_files": "3"},
        {"num_files": True},
        {"num_files": -1},
        {"size": 1.5},
        {"size": 10**30},
        {"tags": ["a", "b"]},
        {"hash": "0" * 40},
        {"hash": "nonsense"},
        {"unheard_of": 1},
        {"priority": 9},
    ],
)
def test_a_hint_that_cannot_be_used_is_dropped_with_a_warning_and_the_rest_kept(
    bad: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    good = {"category": "movies"} if "category" not in bad else {"tags": "a"}
    with caplog.at_level(logging.WARNING):
        n = of_json(hash=V1, params={**bad, **good})
    assert n.params == good
    assert n.hash == V1
    (record,) = caplog.records
    assert V1 in record.getMessage()
    assert repr(next(iter(bad))) in record.getMessage()


@pytest.mark.parametrize("wrong", ["x", 5, [1], True, [{"name": "a"}]])
def test_params_that_are_no_object_are_dropped_with_a_warning(
    wrong: object, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert of_json(hash=V1, params=wrong).params == {}
    assert len(caplog.records) == 1


def test_params_null_or_empty_are_no_params_and_no_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert of_json(hash=V1, params=None).params == of_json(hash=V1, params={}).params == {}
    assert not caplog.records


def test_a_hint_given_twice_is_dropped() -> None:
    body = f'{{"hash":"{V1}","params":{{"name":"a","name":"b","tags":"t"}}}}'.encode()
    n = read_notification(read_fields(Call(headers={}, body=body)))
    assert n.params == {"tags": "t"}


def test_ten_thousand_bad_hints_make_one_log_line_and_no_line_is_forged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        of_json(hash=V1, params={f"x\nERROR forged {n}": n for n in range(10_000)})
    (record,) = caplog.records
    assert "10000" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert len(record.getMessage()) < 2000


def test_a_form_is_flat_and_its_numbers_are_read() -> None:
    text = urlencode(
        {
            "hash": V1.upper(),
            "priority": "-5",
            "name": "a+b & c=d\n\"'\\ $(touch pwned) 🎬",
            "category": "",
            "num_files": "2",
            "size": "99",
            "tags": "x",
        }
    )
    n = of_form(text)
    assert (n.hash, n.priority, n.size_bytes) == (V1, -5, 99)
    assert n.name == "a+b & c=d\n\"'\\ $(touch pwned) 🎬"
    assert n.params["num_files"] == 2


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (f"hash={V1}&priority=high", "priority"),
        (f"hash={V1}&priority=", "priority"),
        (f"hash={V1}&priority={'9' * 5000}", "priority"),
        (f"hash={V1}&unknown=1", "unknown"),
        (f"hash={V1}&params=1", "params"),
        (f"hash={V1}&hash={V1}", "hash"),
        (f"hash=%ff{V1}", "hash"),
        ("name=x", "hash"),
    ],
)
def test_a_form_is_refused_for_the_same_reasons_as_json(text: str, field: str) -> None:
    with pytest.raises(ApiError) as refused:
        of_form(text)
    assert refused.value.status in (400, 422)
    assert field in {d["field"] for d in refused.value.details}


@pytest.mark.parametrize(
    "text", ["name=%ff%fe", "name=a%00b", "size=many", "size=-1", "num_files=1e3", "tags=a&tags=b"]
)
def test_in_a_form_too_a_hint_that_cannot_be_used_is_dropped(text: str) -> None:
    assert of_form(f"hash={V1}&{text}").params == {}


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=20),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
            ),
            max_leaves=10,
        ),
        max_size=8,
    )
)
def test_no_params_whatever_refuse_a_notification(params: dict[str, Any]) -> None:
    body = json.dumps({"hash": V1, "params": params})
    if "NaN" in body or "Infinity" in body:
        return
    n = read_notification(read_fields(Call(headers={}, body=body.encode())))
    assert n.hash == V1
    json.dumps(dict(n.params)).encode()
    n.name.encode()
