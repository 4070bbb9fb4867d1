"""Who gets in, and what is refused before the body is read."""

from __future__ import annotations

import hmac
from base64 import b64encode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbm_trio.web.gate import SMALL_BODY_BYTES, Gate, header_map
from qbm_trio.web.messages import MAX_BODY_BYTES

KEY = "a key with ümlaut & 100%"


def let_in(headers: dict[str, str], query: bytes = b"", key: str = KEY) -> bool:
    return Gate(key).check(headers, query, open_to_all=False) is None


def header(text: str) -> str:
    return text.encode().decode("latin-1")  # as the server reads UTF-8 bytes


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"x-api-key": header(KEY)}, b""),
        ({"authorization": "Bearer " + header(KEY)}, b""),
        ({"authorization": "bEARER   " + header(KEY) + " "}, b""),
        ({}, b"api_key=a+key%20with+%C3%BCmlaut%20%26%20100%25"),
        ({}, b"limit=1&api_key=a+key+with+%C3%BCmlaut+%26+100%25"),
        ({"authorization": "Basic eDp5"}, b"api_key=a+key+with+%C3%BCmlaut+%26+100%25"),
    ],
)
def test_the_key_is_taken_from_either_header_or_the_query(
    headers: dict[str, str], query: bytes
) -> None:
    assert let_in(headers, query)


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({}, b""),
        ({}, b"api_key="),
        ({}, b"api_key"),
        ({}, b"x&" * 200 + b"api_key=a+key+with+%C3%BCmlaut+%26+100%25"),
        ({}, b"api_key=%FF%FE"),
        ({}, b"api_key=wrong&api_key=a+key+with+%C3%BCmlaut+%26+100%25"),
        ({"x-api-key": ""}, b""),
        ({"x-api-key": header(KEY[:-1])}, b""),
        ({"x-api-key": header(KEY) + "x"}, b""),
        ({"x-api-key": header(KEY).upper()}, b""),
        ({"x-api-key": "\xff\xfe\x80"}, b""),
        ({"authorization": "Bearer"}, b""),
        ({"authorization": "Bearer "}, b""),
        ({"authorization": header(KEY)}, b""),
        ({"authorization": "Basic " + b64encode(KEY.encode()).decode()}, b""),
        ({"x-api-key": "wrong"}, b"api_key=a+key+with+%C3%BCmlaut+%26+100%25"),
    ],
)
def test_anything_else_gets_401(headers: dict[str, str], query: bytes) -> None:
    refusal = Gate(KEY).check(headers, query, open_to_all=False)
    assert refusal is not None
    assert refusal.reply.status == 401
    assert KEY.encode() not in refusal.reply.body


@settings(deadline=None)
@given(st.text(st.characters(codec="latin-1")), st.binary(max_size=50))
def test_no_key_whatever_crashes_the_check(value: str, query: bytes) -> None:
    let_in({"x-api-key": value}, query)
    let_in({"authorization": "Bearer " + value}, query)
    let_in({}, b"api_key=" + query)


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def noticed(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return real(a, b)

    monkeypatch.setattr("qbm_trio.web.gate.hmac.compare_digest", noticed)
    assert let_in({"x-api-key": "plain-key"}, key="plain-key")
    assert not let_in({"x-api-key": "other-key"}, key="plain-key")
    assert compared == [(b"plain-key", b"plain-key"), (b"other-key", b"plain-key")]


@pytest.mark.parametrize(
    ("headers", "status", "after_body"),
    [
        ({"content-length": str(SMALL_BODY_BYTES)}, 401, True),
        ({"content-length": str(SMALL_BODY_BYTES + 1)}, 401, False),
        ({"transfer-encoding": "chunked"}, 401, False),
        ({"x-api-key": "k", "content-length": str(MAX_BODY_BYTES + 1)}, 413, False),
        ({"x-api-key": "k", "content-length": "9" * 19}, 413, False),
    ],
)
def test_a_large_body_is_not_read_from_someone_who_is_refused_anyway(
    headers: dict[str, str], status: int, after_body: bool
) -> None:
    refusal = Gate("k").check(headers, b"", open_to_all=False)
    assert refusal is not None
    assert (refusal.reply.status, refusal.after_body) == (status, after_body)
    # What is not read would be taken for the next request: the connection must end.
    assert (("connection", "close") in refusal.reply.headers) is not after_body


def test_without_a_key_only_what_is_open_to_all_is_reached() -> None:
    assert Gate("k").check({}, b"", open_to_all=True) is None
    for large in ({"content-length": str(SMALL_BODY_BYTES + 1)}, {"transfer-encoding": "chunked"}):
        refusal = Gate("k").check(large, b"", open_to_all=True)
        assert refusal is not None
        assert (refusal.reply.status, refusal.after_body) == (413, False)


def test_header_names_are_compared_without_case() -> None:
    assert header_map([(b"X-Api-KEY", b"\xff")]) == {"x-api-key": "\xff"}
