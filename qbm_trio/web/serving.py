"""Serve the application on a socket, inside the caller's nursery."""

from __future__ import annotations

import errno
import logging
import socket
from typing import ClassVar

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from quart_trio import QuartTrio

from ..core.errors import QbmError
from .accesslog import ServerLogger
from .backend import Backend
from .connection import Connection, Limits
from .gate import Gate
from .lane import Lane

log = logging.getLogger(__name__)

_BACKLOG = 1024
#: ``accept`` fails so for want of descriptors or memory; both come back.
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_RETRY_ACCEPT_S = 0.1


class BindError(QbmError):
    """The address cannot be listened on."""

    code: ClassVar[str] = "bind"


def bind(host: str, port: int) -> socket.socket:
    """Listen on ``host`` and ``port``; clients that connect wait until `serve` runs.

    Done before any start-up work, so that a port in use is noticed before anything
    is changed. Port 0 takes a free one.

    Raises:
        BindError: says what to do.
    """
    where = f"HTTP_HOST={host} HTTP_PORT={port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise BindError(f"{where}: no such address; use one of this machine") from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        hints = {
            errno.EADDRINUSE: "another program listens there; stop it or choose another HTTP_PORT",
            errno.EACCES: "ports below 1024 need privileges; choose a higher HTTP_PORT",
            errno.EADDRNOTAVAIL: "no such address on this machine; change HTTP_HOST",
        }
        hint = hints.get(error.errno or 0, error.strerror or str(error))
        raise BindError(f"{where}: {hint}") from error
    listener.setblocking(False)
    return listener


async def serve(
    app: QuartTrio,
    backend: Backend,
    listener: socket.socket,
    *,
    shutdown: trio.Event,
    limits: Limits | None = None,
    fast_lane: bool = True,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests until ``shutdown``; ready, with our URL, once started.

    After ``shutdown`` nothing is accepted, idle connections end at once, and requests
    in flight get ``limits.grace_s``. To turn notifications away before that, let
    `Jobs.accept` raise `Draining` for a while first.

    Args:
        app: from `create_app`, with the same backend.
        backend: for the notification lane.
        listener: from `bind`. Closed by this function.
        shutdown: ends the serving.
        limits: how much a client may take.
        fast_lane: False sends notifications through the application as well.
        task_status: gets the URL.

    Cancellation:
        Prompt: connections are cut, whatever their clients do. An accepted job stays.
    """
    limits = limits or Limits()
    app.config["BODY_TIMEOUT"] = limits.body_s
    listener.setblocking(False)
    # Inherited by each connection: a peer that vanished while we send is noticed.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limits.tcp_user_timeout_ms)
    server = _Server(app, backend, limits, fast_lane=fast_lane)
    async with (
        trio.SocketListener(trio.socket.from_stdlib_socket(listener)) as accepting,
        trio.open_nursery() as clients,
    ):
        async with trio.open_nursery() as acceptor:
            acceptor.start_soon(server.accept, accepting, clients)
            task_status.started(_url(listener))
            await shutdown.wait()
            acceptor.cancel_scope.cancel()
        await accepting.aclose()
        clients.cancel_scope.deadline = trio.current_time() + limits.grace_s
        await server.end()


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server:
    """The connections there are, and what they share."""

    def __init__(
        self, app: QuartTrio, backend: Backend, limits: Limits, *, fast_lane: bool
    ) -> None:
        config = Config()
        config.logger_class = ServerLogger
        config.include_server_header = False
        config.keep_alive_max_requests = 1_000_000
        self._app = ASGIWrapper(app)
        self._config = config
        self._context = WorkerContext(None)
        self._lane = (
            Lane(backend=backend, gate=Gate(backend.api_key), body_timeout_s=limits.body_s)
            if fast_lane
            else None
        )
        self._limits = limits
        self._large_bodies = trio.CapacityLimiter(limits.large_bodies)
        self._count_request = backend.count_request
        self._connections: set[Connection] = set()
        self._room: trio.Event | None = None  #: while the acceptor waits

    async def accept(self, listener: trio.SocketListener, clients: trio.Nursery) -> None:
        """Take clients in for ever."""
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in _SHORTAGES:
                    raise
                log.warning("cannot take a connection now: %s", error.strerror)
                await trio.sleep(_RETRY_ACCEPT_S)
                continue
            try:
                await self._wait_for_room()
            except trio.Cancelled:
                await trio.aclose_forcefully(stream)
                raise
            connection = Connection(
                stream,
                app=self._app,
                config=self._config,
                context=self._context,
                lane=self._lane,
                limits=self._limits,
                large_bodies=self._large_bodies,
                on_idle=self._changed,
                on_request=self._count_request,
            )
            self._connections.add(connection)
            clients.start_soon(self._run, connection)

    async def end(self) -> None:
        """Take no further request on any connection."""
        await self._context.terminated.set()
        for connection in self._connections:
            if connection.idle_since is not None:
                connection.close()

    async def _wait_for_room(self) -> None:
        """Wait until there is a place; the client that keeps us waiting longest loses its own.

        Not the one that is idle longest: clients that send a body byte by byte would keep
        all others out, and they need no key for it.
        """
        while len(self._connections) >= self._limits.connections:
            self._room = trio.Event()
            since, slowest = min(
                ((c.waits_since, c) for c in self._connections), key=lambda pair: pair[0]
            )
            now, patience_s = trio.current_time(), self._limits.patience_s
            if since + patience_s <= now:
                slowest.give_way()
            # Whoever waits for nothing now may do so soon, and nobody tells of that.
            with trio.move_on_after(min(patience_s, max(0.01, since + patience_s - now))):
                await self._room.wait()

    def _changed(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None

    async def _run(self, connection: Connection) -> None:
        try:
            await connection.run()
        except Exception:
            # A bug met by one client must not end the service for all.
            log.exception("a bug in a connection; it was closed")
        finally:
            self._connections.discard(connection)
            self._changed()
