"""Calls to qBittorrent's Web API, written anew: no code of these is the service's."""

from __future__ import annotations

import json
import secrets
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

RUNNING = frozenset({"stalledUP", "uploading", "queuedUP", "forcedUP"})
STOPPED = frozenset({"pausedUP", "stoppedUP"})
LIMIT_S = 20.0
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class WebUi:
    """One qBittorrent that asks for no login. Each call raises `OSError` when it fails."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/api/v2/"

    def torrents(self) -> dict[str, dict[str, Any]]:
        """All torrents, by id."""
        return {str(row["hash"]): row for row in json.loads(self._call("torrents/info"))}

    def files(self, id: str) -> list[dict[str, Any]]:
        """The files of a torrent."""
        rows: list[dict[str, Any]] = json.loads(self._call("torrents/files?" + _form(hash=id)))
        return rows

    def set_preferences(self, **preferences: object) -> None:
        """Change some of its settings."""
        self.post("app/setPreferences", json=json.dumps(preferences))

    def post(self, call: str, **fields: str) -> None:
        """Have it do something."""
        self._call(call, _form(**fields).encode())

    def stop(self, id: str) -> None:
        """Stop a torrent: 4.5 has another word for it than 5."""
        self._either("torrents/stop", "torrents/pause", hashes=id)

    def start(self, id: str) -> None:
        """Start it."""
        self._either("torrents/start", "torrents/resume", hashes=id)

    def remove(self, id: str, *, with_files: bool) -> None:
        """Remove a torrent."""
        self.post("torrents/delete", hashes=id, deleteFiles=str(with_files).lower())

    def add(self, torrent: bytes, options: Mapping[str, str]) -> None:
        """Add a torrent."""
        border = secrets.token_hex(16)
        begin = f"--{border}\r\nContent-Disposition: form-data; name="
        fields = "".join(f'{begin}"{name}"\r\n\r\n{options[name]}\r\n' for name in options)
        head = f'{fields}{begin}"torrents"; filename="t.torrent"\r\n'
        head += "Content-Type: application/x-bittorrent\r\n\r\n"
        body = head.encode() + torrent + f"\r\n--{border}--\r\n".encode()
        answer = self._call("torrents/add", body, f"multipart/form-data; boundary={border}")
        if answer != b"Ok.":
            raise OSError(f"qBittorrent refused the torrent: {answer!r}")

    def _either(self, new: str, old: str, **fields: str) -> None:
        try:
            self.post(new, **fields)
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            self.post(old, **fields)

    def _call(self, call: str, body: bytes | None = None, kind: str = "") -> bytes:
        headers = {"Content-Type": kind} if kind else {}
        request = urllib.request.Request(self._url + call, data=body, headers=headers)
        try:
            with _OPENER.open(request, timeout=LIMIT_S) as answer:
                return bytes(answer.read())
        except OSError:
            raise
        except Exception as error:  # http.client has errors of its own for an answer cut short
            raise OSError(f"{call}: {error!r}") from error


def _form(**fields: str) -> str:
    return urllib.parse.urlencode(fields)
