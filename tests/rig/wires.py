"""Peers that misbehave, and one that counts: plain sockets in threads.

Standard library only, no pytest.
"""

from __future__ import annotations

import re
import socket
import threading
from collections import Counter
from contextlib import suppress
from typing import Self

_REQUEST = re.compile(rb"^(?:GET|POST) (/[^ ?]*)[^\r\n]* HTTP/1\.1\r\n", re.MULTILINE)


class Silent:
    """Accepts connections and never answers. A context manager."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Silent:
        return self  # the kernel accepts; that nobody reads is the point

    def __exit__(self, *exc: object) -> None:
        self._listener.close()


class Counting:
    """A relay to one port of loopback that counts HTTP requests by path."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.requests: Counter[str] = Counter()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *exc: object) -> None:
        for sock in (self._listener, *self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for sock in (self._listener, *self._open):
            sock.close()

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._port))
                except OSError:
                    client.close()
                    continue
                self._open |= {client, server}
                self._start(self._relay, client, server, True)
                self._start(self._relay, server, client, False)

    def _relay(self, source: socket.socket, target: socket.socket, count: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._hear(data)
                if count:
                    # Our client sends the head of each request in one piece.
                    self.requests.update(path.decode() for path in _REQUEST.findall(data))
                target.sendall(data)
        for sock in (source, target):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _hear(self, data: bytes) -> None:
        """What passes, in either direction."""


class Recording(Counting):
    """A relay that keeps all that passes."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.heard = bytearray()

    def _hear(self, data: bytes) -> None:
        self.heard += data
