"""Send raw bytes to a service's port, and judge what comes back."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from scripts.fuzzing.raw import SMUGGLED_HASH, WRONG_KEY, Case, cases
from scripts.rig.service import Service

CLIENTS = 8
LIMIT_S = 20.0  #: for one connection
MOST_FINDINGS = 20
#: 505 is what another version of HTTP gets. 503 is no answer here: nothing is short.
METRICS_TYPES = ("text/plain;", "application/openmetrics-text;")
FINE = frozenset({100, 200, 202, 505, *range(400, 500)})


@dataclass(kw_only=True)
class WireRun:
    """What was sent and found."""

    cases: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, case: Case, took_s: float, statuses: list[int], finding: str | None) -> None:
        """Keep what one case gave."""
        with self._lock:
            self.cases += 1
            self.slowest_s = max(self.slowest_s, took_s)
            self.kinds[case.kind] += 1
            self.statuses.update(statuses)
            if finding and len(self.findings) < MOST_FINDINGS:
                sent = b"".join(case.pieces)
                self.findings.append(f"case {case.number} ({case.kind}): {finding}: {sent[:600]!r}")


def attack_wire(
    service: Service, *, seed: int, count: int | None = None, limit_s: float | None = None
) -> WireRun:
    """Send ``count`` cases of ``seed``, or as many as fit into ``limit_s``.

    Ambiguous ones get 400 and the end of the connection. All others get answers that are in
    order, or the end. No answer shows a key. The log has no error, and the service answers.
    """
    run = WireRun()
    began = time.monotonic()
    todo = _limited(seed, service.key, count, began + limit_s if limit_s else None)
    lock = threading.Lock()

    def client() -> None:
        while True:
            with lock:
                case = next(todo, None)
            if case is None:
                return
            _one(service, case, run)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.seconds = time.monotonic() - began
    run.findings += _afterwards(service)
    return run


def _limited(seed: int, key: str, count: int | None, until: float | None) -> Iterator[Case]:
    for case in cases(seed, key=key):
        if (count is not None and case.number >= count) or (until and time.monotonic() > until):
            return
        yield case


def _one(service: Service, case: Case, run: WireRun) -> None:
    began = time.monotonic()
    statuses: list[int] = []
    try:
        received = _exchange(service.port, case)
        answers = parse(received)
        statuses = [status for status, _, _ in answers]
        finding = None if case.leaves else _judge(case, received, answers, service.key)
    except TimeoutError:
        finding = f"no end within {LIMIT_S} s"
    except ValueError as error:
        finding = f"an answer that cannot be read ({error})"
    run.take(case, time.monotonic() - began, statuses, finding)


def _exchange(port: int, case: Case) -> bytes:
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) as client:
        # The service may have answered, and ended, before all is sent.
        with suppress(BrokenPipeError, ConnectionResetError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in case.pieces:
                client.sendall(piece)
            if case.leaves:
                return b""
            client.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError, OSError):
            while data := client.recv(65536):
                received += data
    return received


def parse(received: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """Status, headers and body of each answer. Raises `ValueError` for what is none."""
    answers = []
    while received:
        head, found, rest = received.partition(b"\r\n\r\n")
        if not found:
            raise ValueError(f"no end of the head in {received[:80]!r}")
        line, *lines = head.decode("ascii").split("\r\n")
        version, status, _ = line.split(" ", 2)
        if version != "HTTP/1.1":
            raise ValueError(line)
        headers = {n.lower(): v.strip() for n, _, v in (one.partition(":") for one in lines)}
        length = int(headers.get("content-length", 0)) if status != "100" else 0
        if len(rest) < length:
            raise ValueError(f"{len(rest)} of {length} bytes after {line}")
        answers.append((int(status), headers, rest[:length]))
        received = rest[length:]
    return answers


def _judge(
    case: Case, received: bytes, answers: list[tuple[int, dict[str, str], bytes]], key: str
) -> str | None:
    if key.encode() in received or WRONG_KEY.encode() in received:
        return "an answer shows a key"
    for status, headers, body in answers:
        if status not in FINE:
            return f"status {status}"
        if status == 100:
            continue
        if status == 200 and headers.get("content-type", "").startswith(METRICS_TYPES):
            continue
        if headers.get("content-type") != "application/json":
            return f"{status} with the type {headers.get('content-type')}"
        document = json.loads(body)
        if status >= 400 and set(document) != {"success", "error", "code", "details"}:
            return f"{status} of another shape: {document}"
    if case.ambiguous:
        statuses = [status for status, _, _ in answers]
        if statuses != [400]:
            return f"{statuses} where the end of the body is not certain"
        if answers[0][1].get("connection") != "close":
            return "a 400 that does not say that the connection ends"
    return None


def _afterwards(service: Service) -> list[str]:
    findings = []
    if service.get("/health")["service"] != "qbm-trio":
        findings.append("/health is not what it was")
    jobs = service.get("/jobs?limit=500")["jobs"]
    if any(job["hash"] == SMUGGLED_HASH for job in jobs):
        findings.append("a request that hid behind another was served")
    return findings
