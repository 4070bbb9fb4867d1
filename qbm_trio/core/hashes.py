"""Torrent hashes as people and programs write them, in one form."""

from __future__ import annotations

import base64
import re

_HEX = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_BASE32 = re.compile(r"[a-z2-7]{32}")


def normalise_hash(value: str) -> str:
    """The hash as 40 or 64 lower-case hex digits.

    Base32 is how older magnet links write a v1 hash (BEP 9).

    Raises:
        ValueError: a sentence on what is wrong and what to do.
    """
    text = value.strip().lower()
    if _HEX.fullmatch(text):
        return text
    if _BASE32.fullmatch(text):
        return base64.b32decode(text.upper()).hex()
    if text == "-":
        raise ValueError(
            'is "-": qBittorrent gives that as %I for a v2-only torrent; send %K instead'
        )
    if text == "all":
        raise ValueError('is "all": name one torrent; there is no call for all of them')
    raise ValueError(
        "must be a torrent hash: 40 hex digits (v1 or torrent id), 64 (v2) or 32 of base32"
    )
