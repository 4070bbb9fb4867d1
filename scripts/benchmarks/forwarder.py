"""Between the service and qBittorrent: passes each request on, and counts it by kind."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

KINDS = ("list", "files", "polls", "fixed")
_OF_THE_CONNECTION = {"connection", "content-length", "keep-alive", "transfer-encoding"}


class Forwarder:
    """Listens on a free port of loopback for the qBittorrent on another."""

    def __init__(self, qbittorrent_port: int) -> None:
        self._qbittorrent_port = qbittorrent_port
        self._seen: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def counts(self) -> Counter[tuple[str, str]]:
        """All requests so far, by kind and name."""
        with self._lock:
            return self._seen.copy()

    def start(self) -> None:
        """Serve in threads."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; connections end with their clients."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _count(self, target: str, body: bytes) -> None:
        url = urlsplit(target)
        name = url.path.removeprefix("/api/v2/")
        about_one = "hashes" in parse_qs(url.query) or "hashes" in parse_qs(body.decode("latin-1"))
        with self._lock:
            self._seen[kind_of(name, about_one=about_one), name] += 1

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        forwarder = self
        port = self._qbittorrent_port

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                self.upstream = HTTPConnection("127.0.0.1", port, timeout=60)

            def finish(self) -> None:
                self.upstream.close()
                super().finish()

            def log_message(self, format: str, *args: object) -> None:
                pass

            def _forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                forwarder._count(self.path, body)
                headers = {
                    name: value
                    for name, value in self.headers.items()
                    if name.lower() not in _OF_THE_CONNECTION
                }
                # It refuses a port that is not its own.
                headers["Host"] = f"127.0.0.1:{port}"
                try:
                    self.upstream.request(self.command, self.path, body or None, headers)
                    answer = self.upstream.getresponse()
                    content = answer.read()
                except (OSError, HTTPException):
                    self.upstream.close()
                    self.close_connection = True  # no answer is passed on as none
                    return
                self.send_response_only(answer.status, answer.reason)
                for name, value in answer.getheaders():
                    if name.lower() not in _OF_THE_CONNECTION:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = _forward

        return Handler


def kind_of(name: str, *, about_one: bool) -> str:
    """What a call counts as: one of `KINDS`, or ``contact`` for those that no run makes."""
    match name:
        case "torrents/info":
            return "polls" if about_one else "list"
        case "torrents/files":
            return "files"
        case "app/version" | "app/webapiVersion" | "sync/maindata":
            return "contact"
        case _:
            return "fixed"


@contextmanager
def forwarding(qbittorrent_port: int) -> Iterator[Forwarder]:
    """Run a `Forwarder` for the length of a block."""
    forwarder = Forwarder(qbittorrent_port)
    forwarder.start()
    try:
        yield forwarder
    finally:
        forwarder.stop()
