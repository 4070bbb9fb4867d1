"""Decode bencode (BEP 3) as leniently as libtorrent does, and no more.

Keys need not be sorted, since qBittorrent loads such torrents and exports them as they
are (seen on 4.5.2); the libraries that accept them take the last of two equal keys,
libtorrent the first, so a key that is there twice is refused. No recursion: depth costs
no stack.
"""

from __future__ import annotations

from typing import Any, Final

MAX_DEPTH: Final = 100
"""Levels of lists and dictionaries; libtorrent's own limit (``load_torrent_limits``)."""

_DICTIONARY, _LIST, _INTEGER, _END = b"dlie"


class NotBencoded(ValueError):
    """The bytes cannot be decoded. The sentence's subject is "it"."""


def decode(data: bytes) -> tuple[dict[bytes, Any], dict[bytes, tuple[int, int]]]:
    """Decode a dictionary.

    Returns:
        The dictionary, of bytes, integers, lists and dictionaries with bytes as keys;
        and for each of its own keys where the bytes of its value begin and end.

    Raises:
        NotBencoded: it is damaged, nested too deep, or not a dictionary.
    """
    if data[:1] != b"d":
        raise NotBencoded("it is not a bencoded dictionary")
    try:
        return _decode(data)
    except NotBencoded:
        raise
    except (ValueError, IndexError) as error:
        raise NotBencoded("it is cut short or is not bencoded") from error


def _decode(data: bytes) -> tuple[dict[bytes, Any], dict[bytes, tuple[int, int]]]:
    spans: dict[bytes, tuple[int, int]] = {}
    inner: dict[bytes, Any] | list[Any] = {}  # the innermost one that is open
    outer: list[tuple[dict[bytes, Any] | list[Any], bytes | None]] = []  # those around it
    key: bytes | None = None  # of the value that comes next, in a dictionary
    began = 0  # where the value of the outermost key begins
    at = 1
    value: Any
    while True:
        kind = data[at]
        if kind in (_DICTIONARY, _LIST):
            if len(outer) + 1 >= MAX_DEPTH:
                raise NotBencoded(f"it is nested deeper than {MAX_DEPTH} levels")
            outer.append((inner, key))
            inner, key = {} if kind == _DICTIONARY else [], None
            at += 1
            continue
        if kind == _END:
            if key is not None:
                raise ValueError(at)  # no value
            at += 1
            if not outer:
                break
            value = inner
            inner, key = outer.pop()
        elif kind == _INTEGER:
            end = data.index(b"e", at)
            value = _integer(data[at + 1 : end])
            at = end + 1
        else:
            begin, at = _string(data, at)
            value = data[begin:at]
            if key is None and isinstance(inner, dict):
                if value in inner:
                    shown = value.decode("utf-8", "backslashreplace")
                    raise NotBencoded(f"the key {shown!r} is in it twice")
                key = value
                began = began if outer else at
                continue
        if isinstance(inner, list):
            inner.append(value)
            continue
        if key is None:
            raise ValueError(at)  # a key that is not a string
        inner[key] = value
        if not outer:
            spans[key] = (began, at)
        key = None
    if at != len(data):
        raise NotBencoded("something follows its end")
    assert isinstance(inner, dict)
    return inner, spans


def _integer(digits: bytes) -> int:
    if not digits.removeprefix(b"-").isdigit():
        raise ValueError(digits)
    number = int(digits)
    if number.bit_length() > 63:
        raise ValueError(digits)
    return number


def _string(data: bytes, at: int) -> tuple[int, int]:
    """Where a string's bytes begin and end; if that is beyond the data, nothing follows."""
    colon = data.index(b":", at, at + 12)
    digits = data[at:colon]
    if not digits.isdigit():
        raise ValueError(at)
    return colon + 1, colon + 1 + int(digits)
