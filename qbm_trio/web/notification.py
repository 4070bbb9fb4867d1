"""A notification's fields to a `Notification`: the hash normalised, the hints sifted."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ..core.hashes import normalise_hash
from ..core.model import Notification
from .bodies import Fields, as_model, integer_of_text, integral, usable_text
from .messages import ApiError
from .schemas import NotificationBody

log = logging.getLogger(__name__)

_TEXT_LIMIT = 4096  #: characters; Linux's longest path is 4096 bytes
_DROPS_NAMED = 8  #: in the log line
_MAX_INT = 2**63 - 1  #: SQLite's largest integer
_PARAMS: Mapping[str, type] = {
    "hash": str,
    "name": str,
    "category": str,
    "content_path": str,
    "num_files": int,
    "size": int,
    "tags": str,
}


def read_notification(fields: Fields) -> Notification:
    """Validate a notification, JSON or form.

    In a form the params stand beside ``hash`` and ``priority``. Hints that cannot be
    used are dropped with a warning: only ``hash`` and ``priority`` can refuse it.

    Raises:
        ApiError: 422.
    """
    if fields.form:
        if "params" in fields:
            problem = "in a form, the names inside it stand beside hash"
            raise ApiError(
                422,
                "invalid",
                f"params: {problem}.",
                details=[{"field": "params", "problem": problem}],
            )
        flat = Fields({n: fields.pop(n) for n in list(fields) if n in _PARAMS and n != "hash"})
        flat.repeated = fields.repeated & flat.keys()
        flat.form = True
        fields.repeated -= flat.keys()
        given: object = flat
    else:
        given = fields.get("params")
    body = as_model(NotificationBody, fields)
    params = _usable_params(given, torrent_hash=body.hash)
    size = params.get("size")
    return Notification(
        hash=body.hash,
        priority=body.priority,
        name=str(params.get("name", "")),
        category=str(params.get("category", "")),
        size_bytes=size if isinstance(size, int) else None,
        params=params,
    )


def _usable_params(given: object, *, torrent_hash: str) -> dict[str, object]:
    if given is None:
        return {}
    if not isinstance(given, Fields):
        log.warning("notification %s: params dropped, not an object", torrent_hash)
        return {}
    kept: dict[str, object] = {}
    dropped: list[str] = []
    for name, value in given.items():
        usable, problem = _usable(name, value, given)
        if problem is None and name == "hash":
            problem = _contradiction(str(usable), torrent_hash)
        if problem is None:
            kept[name] = usable
        elif len(dropped) < _DROPS_NAMED:
            # !a: a client chose the name; it must not forge log lines.
            dropped.append(f"{name[:40]!a} ({problem})")
    if dropped:
        # One line, however many there are: a client must not flood the log either.
        log.warning(
            "notification %s: %d of %d params dropped: %s",
            torrent_hash,
            len(given) - len(kept),
            len(given),
            ", ".join(dropped),
        )
    return kept


def _usable(name: str, value: Any, fields: Fields) -> tuple[object, str | None]:
    """The value to keep, or why it cannot be kept."""
    kind = _PARAMS.get(name)
    if kind is None:
        return None, "not a known name"
    if name in fields.repeated:
        return None, "given more than once"
    if kind is int:
        value = integer_of_text(value) if fields.form else integral(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_INT:
            return None, "not a whole number of 0 or more"
        return value, None
    if not isinstance(value, str):
        return None, "not text"
    if len(value) > _TEXT_LIMIT:
        return None, f"longer than {_TEXT_LIMIT} characters"
    if not usable_text(value):
        return None, "holds a NUL or is not Unicode text"
    return value, None


def _contradiction(inner: str, torrent_hash: str) -> str | None:
    # The outer hash is the required one and decides. The inner one is a hint like
    # the rest, and may rightly differ: a hybrid torrent has several hashes.
    try:
        same = normalise_hash(inner) == torrent_hash
    except ValueError:
        same = False
    return None if same else "differs from the notification's hash, which decides"
