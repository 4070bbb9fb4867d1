"""A scripted HTTP server on loopback, in threads: a stub for qBittorrent and for us.

It counts what really came over the sockets.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float  #: monotonic seconds

    @property
    def form(self) -> dict[str, str]:
        """The body as a form, strictly; what is not UTF-8 fails."""
        pairs = parse_qsl(
            self.body.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict"
        )
        assert len(pairs) == len(dict(pairs)), "a field came twice"
        return dict(pairs)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What to answer. ``drop`` closes the connection without an answer."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    drop: bool = False


Answer = Callable[[Seen], Reply]


class WebServer:
    """Answers each request with ``answer(request)`` and keeps what it saw."""

    def __init__(self, answer: Answer, port: int = 0) -> None:
        self.answer = answer
        self.seen: list[Seen] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler(), False)
        self._server.daemon_threads = True
        self._server.allow_reuse_address = True
        self._server.server_bind()
        self._server.server_activate()
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def wait_for(self, count: int, limit_s: float = 20) -> list[Seen]:
        """Wait until so many requests came."""
        deadline = time.monotonic() + limit_s
        while len(self.seen) < count:
            assert time.monotonic() < deadline, f"only {len(self.seen)} of {count} requests came"
            time.sleep(0.02)
        return self.seen

    def start(self) -> None:
        """Serve in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; connections end with their clients."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, format: str, *args: object) -> None:
                pass

            def _serve(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                seen = Seen(
                    method=self.command,
                    path=self.path,
                    headers={key.lower(): value for key, value in self.headers.items()},
                    body=self.rfile.read(length),
                    at=time.monotonic(),
                )
                server.seen.append(seen)
                reply = server.answer(seen)
                if reply.drop:
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                for key, value in reply.headers.items():
                    self.send_header(key, value)
                if reply.status != 204:
                    self.send_header("content-length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

            do_GET = do_POST = do_HEAD = _serve

        return Handler


@contextmanager
def serving(answer: Answer, *, port: int = 0) -> Iterator[WebServer]:
    """Run a `WebServer` for the length of a ``with`` block."""
    server = WebServer(answer, port)
    server.start()
    try:
        yield server
    finally:
        server.stop()
