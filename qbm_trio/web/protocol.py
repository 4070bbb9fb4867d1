"""hypercorn's HTTP/1.1 protocol, narrowed to what this service speaks.

This module and `connection.py` build on parts of hypercorn that are not its public
interface; the locks hold its version, and ``tests/unit/test_web_hypercorn.py`` says
which parts, and fails when one of them changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import inf
from typing import Any

import h11
import trio
from h11._receivebuffer import ReceiveBuffer
from hypercorn.events import Closed, RawData
from hypercorn.protocol.events import Request
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.typing import H11SendableEvent

from .lane import Lane, LaneStream
from .messages import Reply, plain_error

_CLOSE = (("connection", "close"),)
_ABSOLUTE = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)


def _ambiguous(request: h11.Request) -> bool:
    """Whether a proxy in front of us may see the body's end elsewhere.

    Then the rest could be taken for a request of its own: request smuggling (RFC 9112,
    sections 6.1 and 6.3). Lengths that differ, and codings but "chunked", h11 refuses.
    """
    names = {name for name, _ in request.headers}  # in lower case
    return b"transfer-encoding" in names and (
        b"content-length" in names or request.http_version == b"1.0"
    )


class _Lines(ReceiveBuffer):
    """h11's buffer, but a header line that goes on in the next one is an error.

    h11 joins the two, and a proxy in front of us may not: it would see no
    ``Transfer-Encoding`` where we see one (RFC 9112, section 5.2, has a server refuse it).
    """

    def maybe_extract_lines(self) -> list[bytearray] | None:
        lines = super().maybe_extract_lines()
        if lines and any(line.startswith((b" ", b"\t")) for line in lines):
            raise h11.RemoteProtocolError("a folded header line")
        return lines


class Http1(H11Protocol):
    """One connection's requests: to the lane or to the application.

    No upgrades: neither WebSocket nor HTTP/2. Each answer is written at once, not as
    head, body and end: fewer system calls, and fewer turns of the scheduler.
    """

    lane: Lane | None = None
    on_request: Callable[[], None] | None = None
    body_deadline = inf  #: trio time by which the lane's body must be here
    _held = b""  #: a response head that waits for its body
    _settled: trio.Event | None = None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.connection._receive_buffer = _Lines()  # type: ignore[union-attr]

    @property
    def head_began(self) -> bool:
        """Whether a request's first bytes are here, but not its whole head."""
        return bool(self.connection.trailing_data[0])

    @property
    def body_unread(self) -> bool:
        """Whether the client may still be sending what nobody reads."""
        return self.connection.their_state in (h11.SEND_BODY, h11.ERROR)

    async def settled(self) -> None:
        """Wait until no request is being served."""
        while self.stream is not None:
            if self._settled is None:
                self._settled = trio.Event()
            await self._settled.wait()

    async def too_slow(self) -> None:
        """The client let a deadline pass."""
        if isinstance(self.stream, LaneStream):
            await self.stream.too_slow()

    async def reply(self, reply: Reply) -> None:
        """Send a whole answer in one write; the request is then over."""
        headers = [
            *((name.encode("ascii"), value.encode("ascii")) for name, value in reply.all_headers()),
            *self.config.response_headers("h11"),
        ]
        try:
            data = b"".join(
                self.connection.send(event) or b""
                for event in (
                    h11.Response(status_code=reply.status, headers=headers),
                    h11.Data(data=reply.body),
                    h11.EndOfMessage(),
                )
            )
        except h11.LocalProtocolError:  # the client broke the protocol meanwhile
            await self.send(Closed())
        else:
            await self.send(RawData(data))
            await self._maybe_recycle()

    # -- overrides ----------------------------------------------------------

    async def _check_protocol(self, event: h11.Request) -> None:
        """Take no upgrade: an ``Upgrade: h2c`` is answered over HTTP/1.1."""

    async def _create_stream(self, request: h11.Request) -> None:
        self.body_deadline = inf
        if _ambiguous(request):
            await self._refuse(400)
            return
        target = request.target
        if not target.startswith(b"/"):
            target = _ABSOLUTE.sub(b"", target, count=1)
            target = target if target.startswith(b"/") else b"/" + target
            if not _ABSOLUTE.match(request.target):  # "*", or a proxy's host:port
                await self._refuse(400)
                return
        if request.http_version not in (b"1.1", b"1.0"):
            await self._refuse(505)
            return
        self.keep_alive_requests += 1
        if self.on_request is not None:
            self.on_request()
        if self.lane is not None and self.lane.takes(request.method, target):
            stream = LaneStream(self.lane, self, request, target)
            self.stream = stream  # type: ignore[assignment]  # has what H11Protocol calls
            self.body_deadline = trio.current_time() + self.lane.body_timeout_s
            await stream.begin()
            return
        self.stream = HTTPStream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii"),
                raw_path=target,
                state=self.connection_state,
            )
        )

    async def _refuse(self, status: int) -> None:
        await self._send_error_response(status)
        await self.send(Closed())

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        try:
            data = self.connection.send(event)
        except h11.LocalProtocolError:
            if self.connection.their_state != h11.ERROR:
                raise
            return
        if isinstance(event, h11.Response):
            self._held = data or b""
            return
        held, self._held = self._held, b""
        if held or data:
            await self.send(RawData(held + (data or b"")))

    async def _send_error_response(self, status_code: int) -> None:
        """What h11 cannot read gets the same error shape as everything else."""
        if status_code == 501:
            # h11's word for any transfer coding but "chunked". A body whose end cannot be
            # known calls for 400 and the end of the connection (RFC 9112, section 6.3).
            status_code = 400
        reply = plain_error(status_code, _CLOSE).reply()
        headers = [(n.encode("ascii"), v.encode("ascii")) for n, v in reply.all_headers()]
        await self._send_h11_event(
            h11.Response(
                status_code=status_code,
                headers=[*headers, *self.config.response_headers("h11")],
            )
        )
        await self._send_h11_event(h11.Data(data=reply.body))
        await self._send_h11_event(h11.EndOfMessage())

    async def _close_stream(self) -> None:
        await super()._close_stream()
        if self._settled is not None:
            self._settled.set()
            self._settled = None
