"""A request and its answer, free of any framework.

Two transports carry these: the Quart application and the notification lane
(`lane.py`). Because both hand a `Call` to the same code and render the same
`Reply`, they cannot answer differently.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TypedDict

from ..core.errors import Refused

JSON_TYPE = "application/json"
MAX_BODY_BYTES = 1024 * 1024
MAX_FIELDS = 100  #: in a body or a query string


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, as far as a handler is concerned."""

    headers: Mapping[str, str]  #: names in lower case
    query: bytes = b""
    body: bytes = b""
    path_args: Mapping[str, str] = field(default_factory=dict)

    @property
    def media_type(self) -> str:
        """The ``Content-Type`` without parameters, in lower case; "" when absent."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer. ``headers`` come in addition to type and length."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    media_type: str = JSON_TYPE

    def all_headers(self) -> list[tuple[str, str]]:
        """Every header the answer itself decides, in the order they are sent."""
        return [
            ("content-type", self.media_type),
            ("content-length", str(len(self.body))),
            *self.headers,
        ]


class Detail(TypedDict):
    """One thing wrong with a request."""

    field: str
    problem: str


class ApiError(Exception):
    """The client's request cannot be served; carries the whole answer.

    ``message`` is a sentence: a capital letter, or the name of a field, first; a full
    stop last.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: Sequence[Detail] = (),
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = list(details)
        self.headers = headers

    def reply(self) -> Reply:
        """The one error shape, for every status."""
        document = {
            "success": False,
            "error": self.message,
            "code": self.code,
            "details": self.details,
        }
        # ASCII output: a lone surrogate echoed from a request could not be encoded.
        return Reply(
            status=self.status, body=json.dumps(document).encode("ascii"), headers=self.headers
        )


def sentence(message: str) -> str:
    """Make a message that inside the service is part of a log line a sentence."""
    return f"{message[:1].upper()}{message[1:]}."


def refused(error: Refused) -> ApiError:
    """The answer for a refusal by the service."""
    headers: list[tuple[str, str]] = []
    if error.retry_after_s is not None:
        headers.append(("retry-after", str(error.retry_after_s)))
    if error.code == "draining":
        # The listener closes soon; a client that kept the connection would see a reset.
        headers.append(("connection", "close"))
    return ApiError(error.status, error.code, sentence(str(error)), headers=tuple(headers))


def unauthorized() -> ApiError:
    """No key, or a wrong one; says nothing about whether the path exists."""
    return ApiError(
        401,
        "unauthorized",
        "A valid API key is needed: send it as X-API-Key, as Authorization: Bearer, "
        "or as ?api_key=.",
        headers=(("www-authenticate", "Bearer"),),
    )


def too_large() -> ApiError:
    """The body is over the limit; the rest of it is not read."""
    return ApiError(
        413,
        "too_large",
        f"The body is larger than {MAX_BODY_BYTES} bytes.",
        headers=(("connection", "close"),),
    )


def body_timeout() -> ApiError:
    """The body did not arrive in time."""
    return ApiError(
        408,
        "body_timeout",
        "The body did not arrive in time; send the request again.",
        headers=(("connection", "close"),),
    )


def internal() -> ApiError:
    """A bug of ours. The log has the traceback."""
    return ApiError(500, "internal_error", "The service met a bug of its own; its log says more.")


_CODES = {
    400: ("bad_request", "The request cannot be understood."),
    404: ("not_found", "There is nothing at this path; GET /openapi.json lists all calls."),
    405: ("method_not_allowed", "This path does not take that method."),
    431: ("headers_too_large", "The request's headers are too large."),
    505: ("http_version", "Only HTTP/1.1 and HTTP/1.0 are spoken here."),
}
_WHOLE = {408: body_timeout, 413: too_large, 500: internal}


def plain_error(status: int, headers: tuple[tuple[str, str], ...] = ()) -> ApiError:
    """An error known by its status only, as servers and frameworks raise them.

    ``headers`` come with those that have none of their own.
    """
    if status in _WHOLE:
        return _WHOLE[status]()
    code, message = _CODES.get(status, ("http_error", ""))
    if status == HTTPStatus.METHOD_NOT_ALLOWED and (allowed := dict(headers).get("allow")):
        message = f"This path takes {allowed} only."
    if not message:
        try:
            message = HTTPStatus(status).phrase + "."
        except ValueError:
            message = "The request failed."
    return ApiError(status, code, message, headers=headers)
