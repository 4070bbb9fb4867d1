"""What must be true of every answer, beside what schemathesis knows itself.

schemathesis imports this module (``schemathesis.toml``) in its own process; `api.py` hands over
the key and the state by the environment.
"""

from __future__ import annotations

import json
import os
from typing import Any

import schemathesis
from jsonschema import Draft202012Validator

KEY = os.environ["QBM_FUZZ_KEY"]
MAY_BE_UNAVAILABLE = os.environ["QBM_FUZZ_MAY_BE_UNAVAILABLE"] == "1"
WRONG_KEY = "a-wrong-key-0123456789"
NOTIFY = "POST /notify/torrent-finished"


@schemathesis.check
def no_error_of_the_server(_: Any, response: Any, __: Any) -> None:
    """A 5xx is a bug; but a 503 says "later" where qBittorrent is away, and when."""
    if response.status_code < 500:
        return
    assert response.status_code == 503, f"{response.status_code}: {response.text[:500]}"
    assert MAY_BE_UNAVAILABLE, f"503, though qBittorrent is there: {response.text[:500]}"
    assert _header(response, "retry-after"), "a 503 that does not say when to come again"


@schemathesis.check
def every_error_has_the_one_shape(_: Any, response: Any, __: Any) -> None:
    """Also where the document lists no answer: unknown methods and paths."""
    if response.status_code < 400:
        return
    assert _header(response, "content-type") == "application/json"
    document = json.loads(response.content)
    assert set(document) == {"success", "error", "code", "details"}, document
    assert document["success"] is False
    if response.status_code == 405:
        assert _header(response, "allow"), "a 405 that does not say what is allowed"
    if response.status_code == 401:
        assert _header(response, "www-authenticate") == "Bearer"


@schemathesis.hook
def before_call(_: Any, case: Any, __: Any) -> None:
    """Give the keys that are made up a form that stands nowhere else by chance.

    It changes no answer: the right key is in X-API-Key, which is looked at first.
    """
    if "Authorization" in (case.headers or {}):
        case.headers["Authorization"] = f"Bearer {WRONG_KEY}"
    if "api_key" in (case.query or {}):
        case.query["api_key"] = WRONG_KEY


@schemathesis.check
def no_key_is_shown(_: Any, response: Any, __: Any) -> None:
    """Neither the right key nor a wrong one that was sent is in what comes back."""
    shown = response.content + repr(response.headers).encode()
    assert KEY.encode() not in shown, "the answer shows the key"
    assert WRONG_KEY.encode() not in shown, "the answer shows a key that was sent"


@schemathesis.check
def hash_and_priority_alone_decide_about_a_notification(_: Any, response: Any, case: Any) -> None:
    """The rest of its JSON is hints: whatever is in ``params``, it is dropped, not refused."""
    request = response.request
    if case.operation.label != NOTIFY or request.method != "POST" or "?" in request.url:
        return
    try:
        body = json.loads(request.body or b"")
    except ValueError:
        return
    if not isinstance(body, dict) or response.status_code not in (200, 202, 422):
        return
    body.pop("params", None)
    schema = dict(case.operation.schema.raw_schema)["components"]["schemas"]["NotificationBody"]
    fits = Draft202012Validator(schema).is_valid(body)
    assert fits == (response.status_code != 422), (body, response.status_code)


def _header(response: Any, name: str) -> str | None:
    values = response.headers.get(name)
    return values[0] if values else None
