"""The notification lane: ``POST /notify/torrent-finished`` without the application.

The same `Gate`, `answer` and `Reply` as behind Quart, but called from the task that
reads the connection: no application task, no nurseries, no ASGI messages. Why that is
worth it, with figures: ``docs/adr/0001-notification-fast-lane.md``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h11
from hypercorn.protocol.events import Body, EndBody, Event

from .accesslog import log_access
from .backend import Backend
from .gate import Gate, header_map
from .messages import MAX_BODY_BYTES, Call, Reply, body_timeout, too_large
from .routes import NOTIFY, NOTIFY_PATH, answer

if TYPE_CHECKING:
    from .protocol import Http1

_METHOD = NOTIFY.method.encode("ascii")
_PATH = NOTIFY_PATH.encode("ascii")
_PATH_WITH_QUERY = _PATH + b"?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """What the lane's requests share."""

    backend: Backend
    gate: Gate
    body_timeout_s: float

    def takes(self, method: bytes, target: bytes) -> bool:
        """Whether the lane serves this request; any other spelling goes to the app."""
        return method == _METHOD and (target == _PATH or target.startswith(_PATH_WITH_QUERY))


class LaneStream:
    """One request in the lane. hypercorn calls `handle` from the reading task.

    That task reads nothing until the answer is sent, so it cannot notice that the
    client left: an accepted job cannot be lost that way.
    """

    __slots__ = ("_began", "_body", "_headers", "_http", "_lane", "_over", "_query", "_refusal")

    def __init__(self, lane: Lane, http: Http1, request: h11.Request, target: bytes) -> None:
        self._lane = lane
        self._http = http
        self._headers = header_map(request.headers)
        self._query = target.partition(b"?")[2]
        self._body = bytearray()
        self._began = time.perf_counter()
        self._refusal: Reply | None = None
        self._over = False

    async def begin(self) -> None:
        """Check the head; refuse at once what need not be read."""
        refusal = self._lane.gate.check(self._headers, self._query, open_to_all=False)
        if refusal is None:
            return
        if refusal.after_body:
            self._refusal = refusal.reply
        else:
            await self._finish(refusal.reply)

    async def handle(self, event: Event) -> None:
        """Take one event of the request."""
        if self._over:
            return
        if isinstance(event, Body):
            if self._refusal is not None:  # read only to keep the connection
                return
            self._body += event.data
            if len(self._body) > MAX_BODY_BYTES:
                await self._finish(too_large().reply())
        elif isinstance(event, EndBody):
            reply = self._refusal
            if reply is None:
                call = Call(headers=self._headers, query=self._query, body=bytes(self._body))
                reply = await answer(NOTIFY, self._lane.backend, call)
            await self._finish(reply)

    async def too_slow(self) -> None:
        """The body did not come in time."""
        if not self._over:
            await self._finish(body_timeout().reply())

    async def _finish(self, reply: Reply) -> None:
        self._over = True
        log_access(
            self._http.client,
            NOTIFY.method,
            NOTIFY_PATH,
            reply.status,
            len(reply.body),
            time.perf_counter() - self._began,
        )
        await self._http.reply(reply)
