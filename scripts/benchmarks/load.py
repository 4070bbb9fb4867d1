"""Programs that put load on the service, each in a process and on a core of its own.

    python -m scripts.benchmarks.load notify PORT KEY CLIENTS SECONDS COUNT
    python -m scripts.benchmarks.load stand-in PORT
    python -m scripts.benchmarks.load fdatasync FOLDER SECONDS COUNT
    python -m scripts.benchmarks.load scrape PORT KEY RATE SCRAPES

The first sends notifications over kept-alive connections, each client one at a time,
for so many seconds or, if COUNT is not 0, until there are that many. The second is a
server that answers the same without doing anything: what the first reaches with it is
the generator's own limit. The third appends 4 KiB and syncs them, again and again. The
fourth asks for metrics as a Prometheus does (not if SCRAPES is 0), and for ``/health``,
RATE times a second each, until SIGTERM.
All but the second print JSON. ``QBM_BENCH_CORE`` in the environment pins them.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

_RECEIVE_BYTES = 65536
_SCRAPE_ACCEPT = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


def body_of(info_hash: str) -> bytes:
    """A notification as the hook script sends it, with all its parameters."""
    return json.dumps(
        {
            "hash": info_hash,
            "params": {
                "hash": info_hash,
                "name": "A Film With a Usual Name (2026) 1080p",
                "category": "movies",
                "content_path": "/downloads/ssd/movies/A Film With a Usual Name (2026) 1080p.mkv",
                "num_files": 1,
                "size": 1234567890,
                "tags": "tag1 tag2",
            },
            "priority": 0,
        }
    ).encode()


class _Requests:
    """Requests with hashes that were never used before, put together from pieces made before."""

    def __init__(self, port: int, key: str) -> None:
        self.sent = 0
        self._prefix = secrets.token_hex(12)
        mark = "#" * 40
        body = body_of(mark)
        head = (
            "POST /notify/torrent-finished HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{port}\r\nX-API-Key: {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._parts = (head.encode() + body).split(mark.encode())

    def next(self) -> tuple[str, bytes]:
        info_hash = f"{self._prefix}{self.sent:016x}"
        self.sent += 1
        return info_hash, info_hash.encode().join(self._parts)


def notify(port: int, key: str, clients: int, seconds: float, count: int) -> dict[str, Any]:
    """Send notifications; return latencies, answers and what was wrong with them."""
    requests = _Requests(port, key)
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    waiting: dict[int, tuple[str, float, bytearray]] = {}
    done: list[tuple[str, float, bytes]] = []

    def send(fd: int) -> None:
        info_hash, request = requests.next()
        waiting[fd] = (info_hash, time.perf_counter(), bytearray())
        sockets[fd].sendall(request)

    for _ in range(clients):
        client = socket.create_connection(("127.0.0.1", port))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets[client.fileno()] = client
        poll.register(client, select.EPOLLIN)
    began = time.perf_counter()
    until = began + seconds
    for fd in sockets:
        send(fd)
    while waiting:
        for fd, _ in poll.poll(10):
            info_hash, sent_at, received = waiting[fd]
            data = sockets[fd].recv(_RECEIVE_BYTES)
            received += data
            if data and not _complete(received):
                continue
            now = time.perf_counter()
            done.append((info_hash, now - sent_at, bytes(received)))
            del waiting[fd]
            if not data:
                poll.unregister(fd)
            elif now < until and (not count or requests.sent < count):
                send(fd)
    elapsed_s = time.perf_counter() - began
    for client in sockets.values():
        client.close()
    return {"elapsed_s": elapsed_s, "latencies_s": [d[1] for d in done], **_judged(done)}


def _complete(received: bytearray) -> bool:
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = bytes(received[:end]).lower()
    at = head.find(b"content-length:")
    length = int(head[at + 15 :].split(b"\r\n", 1)[0])
    return len(received) >= end + 4 + length


def _judged(done: list[tuple[str, float, bytes]]) -> dict[str, Any]:
    """Every answer must be a 202 for the hash that was sent, with a queue id of its own."""
    accepted, problems, queue_ids = [], [], set()
    for info_hash, _, received in done:
        head, _, body = received.partition(b"\r\n\r\n")
        try:
            answer = json.loads(body)
            if head.split(b" ", 2)[1] != b"202" or answer["hash"] != info_hash:
                raise ValueError
            if answer["queue_id"] in queue_ids:
                raise ValueError
            queue_ids.add(answer["queue_id"])
            accepted.append(info_hash)
        except (ValueError, KeyError, IndexError):
            problems.append(received[:200].decode("latin-1"))
    return {"accepted": accepted, "problems": problems[:20], "problem_count": len(problems)}


def stand_in(port: int) -> None:
    """Answer every notification at once, until killed."""
    listener = socket.create_server(("127.0.0.1", port), backlog=128)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    clients: dict[int, socket.socket] = {}
    number = 0
    while True:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                client = listener.accept()[0]
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                clients[client.fileno()] = client
                poll.register(client, select.EPOLLIN)
                continue
            try:
                request = clients[fd].recv(_RECEIVE_BYTES)
            except ConnectionError:
                request = b""
            if not request:
                clients.pop(fd).close()
                continue
            number += 1
            info_hash = request.partition(b'"hash": "')[2][:40]
            body = b'{"success":true,"queue_id":"%d","hash":"%s"}' % (number, info_hash)
            clients[fd].sendall(
                b"HTTP/1.1 202 \r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
            )


def fdatasync(folder: Path, seconds: float, count: int) -> dict[str, Any]:
    """Append and sync; return the latencies."""
    path = folder / "fdatasync.bench"
    block = os.urandom(4096)
    latencies_s: list[float] = []
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        began = time.perf_counter()
        while not count or len(latencies_s) < count:
            before = time.perf_counter()
            if before - began > seconds:
                break
            os.write(fd, block)
            os.fdatasync(fd)
            latencies_s.append(time.perf_counter() - before)
        elapsed_s = time.perf_counter() - began
    finally:
        os.close(fd)
        path.unlink()
    return {"elapsed_s": elapsed_s, "latencies_s": latencies_s}


def scrape(port: int, key: str, rate: float, scrapes: bool) -> dict[str, Any]:
    """Ask in turn for metrics and for ``/health``, over one connection, until told to stop.

    Returns latencies, and what was wrong with the answers. One that comes late makes none of
    the others come faster.

    Args:
        port: of the service.
        key: for the metrics.
        rate: how many of each a second.
        scrapes: else ``/health`` alone, just as often.
    """
    told = False

    def stop(*_: object) -> None:
        nonlocal told
        told = True

    signal.signal(signal.SIGTERM, stop)
    health = _get(port, "/health")
    metrics = _get(port, "/status", f"Authorization: Bearer {key}", f"Accept: {_SCRAPE_ACCEPT}")
    found: dict[str, list[float]] = {"scrapes_s": [], "healths_s": []}
    problems: list[str] = []
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def ask(request: bytes, name: str, ending: bytes) -> None:
            sent_at = time.perf_counter()
            client.sendall(request)
            received = bytearray()
            while not _complete(received):
                data = client.recv(_RECEIVE_BYTES)
                if not data:
                    raise SystemExit("the service closed the connection")
                received += data
            found[name].append(time.perf_counter() - sent_at)
            if received.split(b" ", 2)[1] != b"200" or not received.endswith(ending):
                problems.append(received[:200].decode("latin-1"))
            time.sleep(max(0.0, sent_at + 0.5 / rate - time.perf_counter()))

        while not told:
            if scrapes:
                ask(metrics, "scrapes_s", b"\n# EOF\n")
            else:
                time.sleep(0.5 / rate)
            ask(health, "healths_s", b"}")
    elapsed_s = time.perf_counter() - began
    bad = {"problems": problems[:20], "problem_count": len(problems)}
    return {"elapsed_s": elapsed_s, **found, **bad}


def _get(port: int, path: str, *headers: str) -> bytes:
    lines = (f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", *headers, "", "")
    return "\r\n".join(lines).encode()


def main(arguments: list[str]) -> int:
    """Run one of the programs."""
    core = os.environ.get("QBM_BENCH_CORE")
    if core:
        os.sched_setaffinity(0, {int(core)})
    program, *rest = arguments
    if program == "stand-in":
        stand_in(int(rest[0]))
    elif program == "notify":
        port, key, clients, seconds, count = rest
        print(json.dumps(notify(int(port), key, int(clients), float(seconds), int(count))))
    elif program == "fdatasync":
        folder, seconds, count = rest
        print(json.dumps(fdatasync(Path(folder), float(seconds), int(count))))
    elif program == "scrape":
        port, key, rate, scrapes = rest
        print(json.dumps(scrape(int(port), key, float(rate), scrapes == "1")))
    else:
        raise SystemExit(__doc__)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
