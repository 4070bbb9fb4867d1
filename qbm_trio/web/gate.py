"""What is decided from a request's head, before its body is read."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl

from .messages import MAX_BODY_BYTES, MAX_FIELDS, ApiError, Reply, too_large, unauthorized

SMALL_BODY_BYTES = 64 * 1024  #: read and thrown away, so that the connection can be kept


def header_map(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by lower-case name; of a repeated one the last counts."""
    return {n.decode("latin-1").lower(): v.decode("latin-1") for n, v in pairs}


def query_pairs(query: bytes) -> list[tuple[str, str]]:
    """The query string's names and values. Bytes that are not UTF-8 become surrogates.

    Raises:
        ApiError: more than `MAX_FIELDS`.
    """
    try:
        return parse_qsl(
            query.decode("latin-1"),
            keep_blank_values=True,
            errors="surrogateescape",
            max_num_fields=MAX_FIELDS,
        )
    except ValueError as error:
        raise ApiError(400, "bad_query", "The query string has too many fields.") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer that does not depend on the body."""

    reply: Reply
    after_body: bool  #: read the body first; else answer at once and close


class Gate:
    """Checks key and length. Holds the key; never shows it."""

    __slots__ = ("_key",)

    def __init__(self, api_key: str) -> None:
        self._key = api_key.encode()

    def check(
        self, headers: Mapping[str, str], query: bytes, *, open_to_all: bool
    ) -> Refusal | None:
        """The refusal, if the head alone calls for one.

        Of ``X-API-Key``, ``Authorization: Bearer`` and ``?api_key=`` the first that is
        there decides.
        """
        try:
            if not open_to_all:
                self._require_key(headers, query)
        except ApiError as error:
            if _body_is_small(headers):
                return Refusal(reply=error.reply(), after_body=True)
            reply = error.reply()
            closing = (*reply.headers, ("connection", "close"))
            return Refusal(reply=replace(reply, headers=closing), after_body=False)
        # Without a key nobody may make us hold more than a small body.
        if (open_to_all and not _body_is_small(headers)) or (
            _declared_length(headers) > MAX_BODY_BYTES
        ):
            return Refusal(reply=too_large().reply(), after_body=False)
        return None

    def _require_key(self, headers: Mapping[str, str], query: bytes) -> None:
        offered = _offered(headers, query)
        # Bytes, not str: compare_digest refuses str beyond ASCII, and a client chooses.
        if offered is None or not hmac.compare_digest(offered, self._key):
            raise unauthorized()


def _offered(headers: Mapping[str, str], query: bytes) -> bytes | None:
    # Header values were decoded as Latin-1, so this gives back the bytes that were sent.
    if (value := headers.get("x-api-key")) is not None:
        return value.encode("latin-1")
    # Another scheme is left alone: it may be meant for a proxy in front of us.
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip().encode("latin-1")
    if b"api_key" in query:
        try:
            values = [value for name, value in query_pairs(query) if name == "api_key"]
        except ApiError:  # no key was found, so nothing else is told
            return None
        if len(values) == 1:
            return values[0].encode("utf-8", "surrogateescape")
    return None


def _declared_length(headers: Mapping[str, str]) -> int:
    value = headers.get("content-length", "0")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else 0


def _body_is_small(headers: Mapping[str, str]) -> bool:
    return "transfer-encoding" not in headers and _declared_length(headers) <= SMALL_BODY_BYTES
