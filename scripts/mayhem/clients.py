"""Clients of the service: those that notify, and one that abuses it."""

from __future__ import annotations

import base64
import json
import random
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from typing import Any

from .known import Accepted, Known
from .plan import Event, Kind
from .site import Site

LIMIT_S = 10.0
TRY_FOR_S = 4.0  #: as the hook script does, which is more patient
TRY_EVERY_S = 0.3
NOTIFY = "/notify/torrent-finished"
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Client:
    """Tells the service what has finished, and asks for runs."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def do(self, event: Event) -> bool:
        """Have it happen; False if nobody answered, or there is no such torrent."""
        match event.kind:
            case Kind.NOTIFY:
                known = self._site.ledger.get(event.torrent)
                return known is not None and self.notify(known, event.draw)
            case Kind.TRIGGER:
                return self._ask("/space-management/trigger", b"{}", "application/json")[0] == 202
            case Kind.TAG_ALL:
                body = b'{"dry_run": false}'
                return self._ask("/tags/existing", body, "application/json")[0] == 200
            case _:
                raise ValueError(f"not a client's: {event.kind}")

    def notify(self, known: Known, draw: float) -> bool:
        """One notification, and sometimes the same at once again; whether it was accepted."""
        rng = random.Random(draw)
        accepted = self._notify(known, rng)
        if rng.random() < 0.25:
            accepted |= self._notify(known, rng)
            self._site.tally.count("duplicate notifications sent")
        return accepted

    def _notify(self, known: Known, rng: random.Random) -> bool:
        body, kind = _worded(known, rng)
        deadline_s = time.monotonic() + TRY_FOR_S
        while True:
            status, answer = self._ask(NOTIFY, body, kind)
            if status in (200, 202):
                self._site.ledger.accept(
                    Accepted(job_id=answer["queue_id"], torrent_id=known.id, at=time.time())
                )
                self._site.tally.count("notifications accepted")
                return True
            if status and status != 503:
                self._site.alarm("a good notification was refused", f"{known}: {status} {answer}")
                return False
            if time.monotonic() > deadline_s or self._site.stop.wait(TRY_EVERY_S):
                self._site.tally.count("notifications given up")
                return False

    def _ask(self, path: str, body: bytes, kind: str) -> tuple[int, Any]:
        """Status and answer; 0 if nobody answered."""
        service = self._site.service
        headers = {"X-API-Key": service.key, "Content-Type": kind}
        request = urllib.request.Request(service.url + path, data=body, headers=headers)
        try:
            with _OPENER.open(request, timeout=LIMIT_S) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(errors="replace")
        except Exception:  # cut off in any of many ways
            return 0, None


def _worded(known: Known, rng: random.Random) -> tuple[bytes, str]:
    """One of the forms in which a client may say it, and its content type."""
    hash = rng.choice(known.hashes)
    match rng.randrange(3):
        case 1:
            hash = hash.upper()
        case 2 if len(hash) == 40:
            hash = base64.b32encode(bytes.fromhex(hash)).decode()
    params = {
        "name": known.spec.name,
        "category": known.spec.category,
        "content_path": str(known.on_ssd / known.spec.name),
        "num_files": len(known.files),
        "size": known.spec.total_bytes,
        "tags": "",
    }
    match rng.randrange(4):
        case 0:
            fields = {"hash": hash, **params, "priority": rng.randrange(-3, 3)}
            return urllib.parse.urlencode(fields).encode(), "application/x-www-form-urlencoded"
        case 1:  # what curl sends without a header of its own
            return json.dumps({"hash": hash}).encode(), "application/x-www-form-urlencoded"
        case 2:
            body = {"hash": hash, "params": {**params, "hash": hash}, "priority": rng.randrange(5)}
            return json.dumps(body).encode(), "application/json"
        case _:
            return json.dumps({"hash": hash, "params": params}).encode(), "application/json"


class Abuser:
    """Sends what no client should. A 2xx for it, or a 5xx but 503, is counted as wrong."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._held: list[socket.socket] = []

    def do(self, event: Event) -> bool:
        """Have it happen; False if nobody listened."""
        rng = random.Random(event.draw)
        key = self._site.service.key
        match event.kind:
            case Kind.HALF_OPEN:
                return self._half_open(rng)
            case Kind.HUGE:
                return self._send(NOTIFY, key, b'{"hash": "' + b"a" * (rng.randrange(2, 9) << 20))
            case Kind.WRONG_KEY:
                wrong = rng.choice(("", "wrong", key[:-1], key + "x"))
                return self._send(NOTIFY, wrong, b'{"hash": "%s"}' % (b"a" * 40))
            case Kind.RUBBISH:
                return self._send(*self._rubbish(rng, key))
            case _:
                raise ValueError(f"no abuse: {event.kind}")

    def close(self) -> None:
        """Let go of what is held open."""
        for held in self._held:
            held.close()
        self._held.clear()

    def _rubbish(self, rng: random.Random, key: str) -> tuple[str, str, bytes]:
        path = rng.choice((NOTIFY, NOTIFY, "/tags/existing", "/space-management/trigger", "/no"))
        body = rng.choice(
            (
                rng.randbytes(300),
                b"{",
                b"[" * 5000,
                b'{"hash": 5}',
                b'{"hash": "../../etc/passwd"}',
                b'{"hash": "%s", "priority": 1e999}' % (b"b" * 40),
                b'{"nonsense": true}',
                b"null",
                b'{"hash": "all"}',
            )
        )
        return path, key, body

    def _half_open(self, rng: random.Random) -> bool:
        """Begin a request and never end it; the oldest of ten is let go."""
        try:
            held = socket.create_connection(("127.0.0.1", self._site.service.port), LIMIT_S)
        except OSError:
            return False
        self._held.append(held)
        with suppress(OSError):
            held.sendall(
                b"POST /notify/torrent-finished HTTP/1.1\r\nHost: x\r\nContent-Le"[
                    : rng.randrange(1, 70)
                ]
            )
        if len(self._held) > 10:
            self._held.pop(0).close()
        return True

    def _send(self, path: str, key: str, body: bytes) -> bool:
        service = self._site.service
        request = urllib.request.Request(
            service.url + path,
            data=body,
            headers={"X-API-Key": key, "Content-Type": "application/json"},
        )
        try:
            with _OPENER.open(request, timeout=LIMIT_S) as answer:
                status = answer.status
        except urllib.error.HTTPError as error:
            error.close()
            status = error.code
        except Exception:  # cut off: also an answer
            return True
        if status < 400 or (status >= 500 and status != 503):
            self._site.alarm("abuse answered wrongly", f"{status}: {path} {body[:80]!r}")
        return True
