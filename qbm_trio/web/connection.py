"""One client's connection: hypercorn's HTTP/1.1 engine on a trio stream.

hypercorn's own trio connection (``hypercorn.trio.tcp_server``, 0.18) cannot be used
as it is, for four reasons that each have a test:

- it closes a finished connection from inside the application's last ``send``, which
  quart-trio cancels at that very moment: the client never sees the end;
- it shields ``send_all``, so that a client which stops reading stops a shutdown;
- it takes a half-closed connection for a lost one and cancels the handler;
- it offers HTTP/2 without TLS, with no switch to turn that off.

Here the task that reads also closes, everything it waits for can be cancelled, and
the end of the client's data is not the end of our answer.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from math import inf

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import parse_socket_addr

from .gate import SMALL_BODY_BYTES
from .lane import Lane
from .protocol import Http1

_RECEIVE_BYTES = 64 * 1024
_LINGER_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a client may take."""

    connections: int = 512  #: at once; beyond it one that waits for its client gives way
    patience_s: float = 0.25  #: how long it must have waited for that
    large_bodies: int = 16  #: of more than `SMALL_BODY_BYTES`, read at once; others wait
    idle_s: float = 60.0  #: a connection kept without a request
    head_s: float = 10.0  #: from the first byte of a request to the end of its headers
    body_s: float = 30.0  #: from there to the end of its body
    answer_s: float = 300.0  #: to find an answer, before it counts as waiting
    send_s: float = 30.0  #: for one write, while the client does not read
    linger_s: float = 2.0  #: reading on after an early refusal, so that it arrives
    tcp_user_timeout_ms: int = 10_000  #: sent data not acknowledged: the kernel gives up
    grace_s: float = 3.0  #: for requests in flight at shutdown


class Connection:
    """Reads for one client until either side is done."""

    def __init__(
        self,
        stream: trio.SocketStream,
        *,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        lane: Lane | None,
        limits: Limits,
        large_bodies: trio.CapacityLimiter,
        on_idle: Callable[[], None],
        on_request: Callable[[], None],
    ) -> None:
        self._stream = stream
        self._app = app
        self._config = config
        self._context = context
        self._lane = lane
        self._limits = limits
        self._large_bodies = large_bodies
        self._has_turn = False  #: to read more than a small body
        self._taken_bytes = 0  #: of the request that is being read
        self._on_idle = on_idle
        self._on_request = on_request
        self._closing = False
        self._http: Http1 | None = None  #: once `run` runs
        self._reader = trio.CancelScope()
        self._head_deadline: float | None = None
        self._send_ended: trio.Event | None = None  #: while one send is under way
        self._send_began = 0.0
        self._head_ended = 0.0
        self._whole = trio.CancelScope()
        self.idle_since: float | None = trio.current_time()  #: None while serving

    @property
    def waits_since(self) -> float:
        """Since when its client keeps it waiting: for a request, a body, or to take an answer.

        While the service is at work for it: when that will have taken too long. So it is where
        the disk of ``STATE_DIR`` hangs: clients give up one after another, and that is not seen.
        """
        if self.idle_since is not None:
            return self.idle_since
        if self._send_ended is not None:
            return self._send_began
        if self._http is not None and self._http.body_unread:
            return self._head_ended
        return self._head_ended + self._limits.answer_s

    async def run(self) -> None:
        """Serve the client until it leaves, is too slow, or `close` is called.

        A client that leaves does not cancel what it asked for: only the caller does.
        """
        try:
            socket = self._stream.socket
            try:
                client = parse_socket_addr(socket.family, socket.getpeername())
                server = parse_socket_addr(socket.family, socket.getsockname())
            except OSError:  # gone already
                return
            with self._whole:
                await self._serve(client, server)
        finally:
            self._end_turn()
            await trio.aclose_forcefully(self._stream)

    async def _serve(self, client: tuple[str, int] | None, server: tuple[str, int] | None) -> None:
        async with TaskGroup() as task_group:
            http = Http1(
                self._app,
                self._config,
                self._context,
                task_group,
                ConnectionState({}),
                False,
                client,
                server,
                self._on_event,
            )
            http.lane = self._lane
            http.on_request = self._on_request
            self._http = http
            with self._reader:
                await self._read(http)
            if self._reader.cancelled_caught and not self._closing:
                await http.too_slow()
            await http.handle(Closed())
        if http.body_unread:
            await self._linger()

    def close(self) -> None:
        """Read no further request and end. Never waits."""
        self._closing = True
        self._reader.cancel()

    def give_way(self) -> None:
        """End at once, without an answer. For one that `waits_since`: nothing is lost by it."""
        self._whole.cancel()

    # -- reading ------------------------------------------------------------

    async def _read(self, http: Http1) -> None:
        while True:
            self._set_deadline()
            try:
                data = await self._receive()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            self._reader.deadline = inf
            await http.handle(RawData(data))
            if not data:
                # The client may have ended its side only, and wait for the answer.
                await http.settled()
                return

    async def _receive(self) -> bytes:
        """What comes next; more than a small body only in its turn.

        All that clients may send at once would not fit into a container's memory.
        """
        small_bytes = SMALL_BODY_BYTES - self._taken_bytes
        if small_bytes <= 0 and not self._has_turn:
            await self._large_bodies.acquire_on_behalf_of(self)
            self._has_turn = True
        data = await self._stream.receive_some(_RECEIVE_BYTES if self._has_turn else small_bytes)
        self._taken_bytes += len(data)
        return bytes(data)

    def _end_turn(self) -> None:
        self._taken_bytes = 0
        if self._has_turn:
            self._has_turn = False
            self._large_bodies.release_on_behalf_of(self)

    def _set_deadline(self) -> None:
        """How long the reading may wait, as things are now.

        Also called while it waits: an application's answer ends in another task.
        """
        http = self._http
        if http is None:
            return
        if self.idle_since is None:
            deadline = http.body_deadline
        elif not http.head_began:
            deadline = self.idle_since + self._limits.idle_s
        else:
            # Counted from the first byte, so that a byte now and then gains nothing.
            if self._head_deadline is None:
                self._head_deadline = trio.current_time() + self._limits.head_s
            deadline = self._head_deadline
        self._reader.deadline = deadline

    async def _linger(self) -> None:
        """Let an early answer arrive.

        Closing a socket that holds unread data resets the connection, and the client
        would see that instead of the answer.
        """
        with trio.move_on_after(self._limits.linger_s):
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._stream.send_eof()
                seen = 0
                while seen < _LINGER_BYTES:
                    data = await self._stream.receive_some(_RECEIVE_BYTES)
                    if not data:
                        return
                    seen += len(data)

    # -- what the engine asks for -------------------------------------------

    async def _on_event(self, event: Event) -> None:
        if isinstance(event, RawData):
            await self._send(event.data)
        elif isinstance(event, Updated):
            self._head_deadline = None
            if event.idle:
                self._end_turn()
                self.idle_since = trio.current_time()
                self._set_deadline()
                self._on_idle()
            else:
                self.idle_since = None
                self._head_ended = trio.current_time()
                self._reader.deadline = inf
        elif isinstance(event, Closed):
            # No checkpoint here: the caller may be a handler that is being cancelled.
            self.close()

    async def _send(self, data: bytes) -> None:
        # An application's answer and the reader's own (100 Continue) may meet.
        while self._send_ended is not None:
            await self._send_ended.wait()
        if self._closing:
            return
        self._send_ended = trio.Event()
        self._send_began = trio.current_time()
        try:
            with trio.fail_after(self._limits.send_s):
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            self.close()
        finally:
            self._send_ended.set()
            self._send_ended = None
