"""A relay to a qBittorrent that answers as badly as it is told to, and counts what comes.

Standard library only, no pytest.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum, auto
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_OF_THE_CONNECTION = {"connection", "content-length", "keep-alive", "transfer-encoding"}


class Mood(StrEnum):
    """How it answers."""

    WELL = auto()
    ERROR_500 = auto()
    UNAVAILABLE_503 = auto()
    PAGE = auto()  #: HTML with a 200, as a login page before qBittorrent is
    HALF = auto()  #: what qBittorrent says, but the connection ends in the middle of it
    RESET = auto()


class Wayward:
    """Listens on a free port of loopback for the qBittorrent on another."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._lock = threading.Lock()
        self._seen: list[tuple[float, str]] = []
        self._open = 0
        self._change = threading.Event()
        self.most_open = 0  #: how many requests were under way at once
        self.mood = Mood.WELL
        self.delay_s = 0.0  #: each answer is so late; 0 lets those go that are held, too
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def requests(self) -> Counter[str]:
        """All requests so far, by path."""
        with self._lock:
            return Counter(path for _, path in self._seen)

    def since(self, at: float) -> Counter[str]:
        """The requests since then, monotonic seconds, by path."""
        with self._lock:
            return Counter(path for when, path in self._seen if when >= at)

    def be(self, mood: Mood = Mood.WELL, *, delay_s: float = 0.0) -> float:
        """Answer so from now on; give the time."""
        self.mood, self.delay_s = mood, delay_s
        self.most_open = 0
        self._change.set()
        self._change = threading.Event()
        return time.monotonic()

    def start(self) -> None:
        """Serve in threads."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; connections end with their clients."""
        self.be(Mood.RESET)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        relay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, format: str, *args: object) -> None:
                pass

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                with relay._lock:
                    relay._seen.append((time.monotonic(), urlsplit(self.path).path))
                    relay._open += 1
                    relay.most_open = max(relay.most_open, relay._open)
                try:
                    with suppress(OSError, HTTPException):
                        self._answer(body)
                        return
                    self.close_connection = True  # one of the two has gone
                finally:
                    with relay._lock:
                        relay._open -= 1

            def _answer(self, body: bytes) -> None:
                mood, change, delay_s = relay.mood, relay._change, relay.delay_s
                if mood in _FAULTS:
                    status, page = _FAULTS[mood]
                    self._send(status, {"content-type": "text/html"}, page)
                elif mood is Mood.RESET:
                    off = struct.pack("ii", 1, 0)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, off)
                    self.close_connection = True
                else:
                    status, headers, data = self._forward(body)
                    if delay_s:
                        change.wait(delay_s)
                    self._send(status, headers, data, half=mood is Mood.HALF)

            def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
                upstream = HTTPConnection("127.0.0.1", relay._port, timeout=60)
                try:
                    headers = {
                        key: value
                        for key, value in self.headers.items()
                        if key.lower() not in (*_OF_THE_CONNECTION, "host")
                    }
                    upstream.request(self.command, self.path, body or None, headers)
                    answer = upstream.getresponse()
                    data = answer.read()
                    kept = {
                        key: value
                        for key, value in answer.getheaders()
                        if key.lower() not in (*_OF_THE_CONNECTION, "date", "server")
                    }
                    return answer.status, kept, data
                finally:
                    upstream.close()

            def _send(
                self, status: int, headers: dict[str, str], data: bytes, *, half: bool = False
            ) -> None:
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                # Of no answer at all, something is missing, too.
                self.send_header("content-length", str(len(data) + half))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2] if half else data)
                self.close_connection |= half

            do_GET = do_POST = _serve

        return Handler


_FAULTS = {
    Mood.ERROR_500: (500, b""),
    Mood.UNAVAILABLE_503: (503, b"<html>Back soon</html>"),
    Mood.PAGE: (200, b"<!DOCTYPE html><html>Who are you?</html>"),
}


@contextmanager
def wayward(port: int) -> Iterator[Wayward]:
    """Run a relay to this port for the length of a ``with`` block."""
    relay = Wayward(port)
    relay.start()
    try:
        yield relay
    finally:
        relay.stop()
