"""The bencode decoder, against a strict one's word and libtorrent's."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import bencode2
import libtorrent as lt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbm_trio.adapters.bencode import MAX_DEPTH, NotBencoded, decode

LEAVES = st.binary(max_size=20) | st.integers(1 - 2**63, 2**63 - 1)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.binary(max_size=5), inner, max_size=5)
    ),
    max_leaves=30,
)
TORRENT_LIKE = st.dictionaries(st.binary(max_size=9), VALUES, max_size=6)


def encode(value: object, order: Callable[[list[bytes]], list[bytes]]) -> bytes:
    """Bencode, each dictionary's keys in the order that ``order`` gives them."""
    if isinstance(value, dict):
        inside = (encode(k, order) + encode(value[k], order) for k in order(list(value)))
        return b"d" + b"".join(inside) + b"e"
    if isinstance(value, list):
        return b"l" + b"".join(encode(v, order) for v in value) + b"e"
    return bytes(bencode2.bencode(value))


@given(TORRENT_LIKE)
def test_it_reads_what_a_strict_decoder_reads(value: dict[bytes, Any]) -> None:
    data = bencode2.bencode(value)
    assert decode(data)[0] == bencode2.bdecode(data) == value


@given(TORRENT_LIKE, st.randoms(use_true_random=False))
def test_keys_may_come_in_any_order(value: dict[bytes, Any], chance: random.Random) -> None:
    data = encode(value, lambda keys: chance.sample(keys, len(keys)))
    assert decode(data)[0] == value


@given(TORRENT_LIKE)
def test_the_place_of_each_outermost_value_is_that_of_its_bytes(value: dict[bytes, Any]) -> None:
    data = bencode2.bencode(value)
    spans = decode(data)[1]
    assert {k: data[slice(*spans[k])] for k in value} == {
        k: bencode2.bencode(v) for k, v in value.items()
    }


@given(st.binary(max_size=60) | st.text(alphabet="dleix:0123456789-", max_size=40).map(str.encode))
def test_no_bytes_end_in_another_error_and_nothing_is_accepted_that_libtorrent_refuses(
    data: bytes,
) -> None:
    try:
        value, _ = decode(b"d" + data)
    except NotBencoded:
        return
    assert lt.bdecode(b"d" + data) == value


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "not a bencoded dictionary"),
        (b"i1e", "not a bencoded dictionary"),
        (b"d", "cut short"),
        (b"d1:a", "cut short"),
        (b"d1:ae", "cut short"),
        (b"di1e1:a0:e", "cut short"),
        (b"d1:a9:", "cut short"),
        (b"dle1:ae", "cut short"),
        (b"dde1:ae", "cut short"),
        (b"d1:aie", "cut short"),
        (b"d1:ai--1ee", "cut short"),
        (b"d1:ai1 ee", "cut short"),
        (b"d1:ai" + b"9" * 5000 + b"ee", "cut short"),
        (b"d1:ai9223372036854775808ee", "cut short"),
        (b"d1:a-1:e", "cut short"),
        (b"d1:a9:be", "cut short"),
        (b"d1:a99999999999999:be", "cut short"),
        (b"d1:axe", "cut short"),
        (b"de0:", "follows its end"),
        (b"d1:a0:1:a0:e", "'a' is in it twice"),
        (b"d1:ad1:b0:1:c0:1:b0:ee", "'b' is in it twice"),
        (b"d1:\xff0:1:\xff0:e", "twice"),
        (b"d1:a" + b"l" * 30_000 + b"e" * 30_000 + b"e", "nested deeper"),
        (b"d1:a" * 30_000 + b"e" * 30_000, "nested deeper"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, sentence: str) -> None:
    with pytest.raises(NotBencoded, match=sentence):
        decode(data)


def test_the_deepest_that_is_accepted_is_as_deep_as_it_says() -> None:
    levels = MAX_DEPTH - 1
    decode(b"d1:a" + b"l" * levels + b"e" * levels + b"e")
    with pytest.raises(NotBencoded):
        decode(b"d1:a" + b"l" * (levels + 1) + b"e" * (levels + 1) + b"e")
