"""One blocking session with qBittorrent: what is sent, when, and what errors mean.

A subclass of the library's client, because the library by itself retries POSTs,
logs in as often as it likes, asks for the version around many calls, and reads
environment variables. Runs in worker threads, one call at a time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Literal, TypeVar, cast

import qbittorrentapi
import requests
from qbittorrentapi.definitions import APINames, Dictionary, List

from ..core.errors import (
    QbittorrentError,
    QbittorrentLoginRefused,
    QbittorrentTooLate,
    QbittorrentUnreachable,
    TorrentUnknown,
)
from ..core.model import TorrentId
from .qbittorrent_login import LoginGate

T = TypeVar("T")

CONNECT_LIMIT_S = 5.0
READ_LIMIT_S = 30.0  # 4.5.2 takes seconds to list thousands of torrents


_LISTS_FOLDERS = (2, 11)
_VERSION = re.compile(r"v?\d+\.\d+")


class Session(qbittorrentapi.Client):
    """The library's client, made predictable: one call, one request."""

    def __init__(
        self,
        *,
        url: str,
        username: str,
        password: str,
        api_key: str,
        verify_ssl: bool,
        clock: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        """Connect to nothing yet. Empty ``password`` and ``api_key``: never log in."""
        self.sent = 0  #: HTTP requests tried
        self.sessions = 0  #: that qBittorrent has given: it remembers none over a restart
        self._session_cookies: set[tuple[str, str | None]] = set()
        self.gate = LoginGate(clock)
        self._lists_no_folders = False  #: as before 5.0
        self._old_names = False  #: it says "pause" and "resume", as it did before 5.0
        self._now = now
        self.where = url
        self.logins_tried = 0
        self.logged_in = False  #: the last one was accepted
        self.clock_ahead_s: float | None = None  #: of its clock to ours, at the last answer
        super().__init__(
            host=url,
            username=username,
            password=password,
            api_key=api_key,
            # A scheme is always given: no HEAD requests to find it out.
            FORCE_SCHEME_FROM_HOST=True,
            SIMPLE_RESPONSES=True,
            REQUESTS_ARGS={
                "timeout": (CONNECT_LIMIT_S, READ_LIMIT_S),
                # A redirected POST arrives as a GET: better to say so.
                "allow_redirects": False,
            },
            HTTPADAPTER_ARGS={"max_retries": 0},
        )
        # The library fills empty values from QBITTORRENTAPI_* variables.
        self.username, self._password, self._api_key = username, password, api_key
        self._VERIFY_WEBUI_CERTIFICATE = verify_ssl

    def perform(
        self, call: Callable[[Session], T], *, about: TorrentId | None, repeatable: bool
    ) -> T:
        """Run ``call``, once more if the connection broke and it is ``repeatable``.

        Args:
            call: uses this session for one request.
            about: the torrent that a 404 means; None where a 404 means that
                there is no qBittorrent.
            repeatable: doing it twice is the same as doing it once.

        Raises:
            QbittorrentError: or one of its kinds; nothing else.
        """
        try:
            try:
                return call(self)
            except requests.ConnectionError:
                # Mostly a kept connection that qBittorrent closed meanwhile, as
                # when it was restarted. Whether it applied the call is unknown.
                if not repeatable:
                    raise
                return call(self)
        except QbittorrentError:
            raise
        except qbittorrentapi.NotFound404Error as error:
            if about is not None and not _is_of_a_proxy(error):
                raise TorrentUnknown(f"qBittorrent has no torrent {about}") from error
            raise QbittorrentUnreachable(self._no_api()) from error
        except qbittorrentapi.HTTP5XXError as error:
            raise QbittorrentUnreachable(
                f"qBittorrent at {self.where} answered {error.http_status_code}; "
                "look at its log, or at that of the proxy before it"
            ) from error
        except qbittorrentapi.HTTPError as error:
            status = getattr(error, "http_status_code", "an error")
            subject = f" for torrent {about}" if about else ""
            raise QbittorrentError(
                f"qBittorrent refused a call{subject}: {status} {str(error)[:200]}".rstrip()
            ) from error
        except qbittorrentapi.APIConnectionError as error:
            raise QbittorrentUnreachable(f"no usable answer from {self.where}") from error
        except requests.RequestException as error:
            if isinstance(error, requests.ConnectionError) and not isinstance(
                error, requests.Timeout
            ):
                self.gate.may_have_restarted()
            late = isinstance(error, requests.ReadTimeout)
            kind = QbittorrentTooLate if late else QbittorrentUnreachable
            raise kind(self._no_connection(error)) from error
        except (qbittorrentapi.APIError, KeyError, TypeError, ValueError, AttributeError) as error:
            # What came was not what the API sends: not JSON, or without what is read of it.
            raise QbittorrentUnreachable(self._no_api()) from error

    def version_of(self, what: Literal["version", "webapiVersion"]) -> str:
        """Ask for the version of the application, or of its Web API."""
        ask = self.app_version if what == "version" else self.app_web_api_version
        version = ask()
        # A proxy that answers with a page, or a program with words of its own, is not it.
        if not _VERSION.match(version):
            raise QbittorrentUnreachable(self._no_api())
        return version

    def stop_torrent(self, id: TorrentId) -> None:
        """Call ``stop``, which was ``pause`` before 5.0."""
        self._by_either_name("stop", "pause", id)

    def start_torrent(self, id: TorrentId) -> None:
        """Call ``start``, which was ``resume`` before 5.0."""
        self._by_either_name("start", "resume", id)

    def _by_either_name(self, new: str, old: str, id: TorrentId) -> None:
        # The library would ask for the version each time. The name that is not known
        # gets a 404 and changes nothing; an unknown torrent gets a 200.
        data = {"hashes": id}
        try:
            self._post(_name=APINames.Torrents, _method=old if self._old_names else new, data=data)
        except qbittorrentapi.NotFound404Error:
            self._post(_name=APINames.Torrents, _method=new if self._old_names else old, data=data)
            self._old_names = not self._old_names

    def export_torrent(self, id: TorrentId) -> bytes:
        """Fetch the .torrent file."""
        try:
            return self.torrents_export(torrent_hash=id)
        except qbittorrentapi.Conflict409Error as error:
            # Seen on 5.1.0 for version 2 torrents, with a sentence that helps nobody.
            raise QbittorrentError(
                f"qBittorrent does not give the .torrent file of {id} (409 {str(error)[:200]}); "
                "force a recheck of it in qBittorrent: 5.1 gives a version 2 torrent's file only "
                "after one since its start"
            ) from error

    def folder_entries(self, path: str) -> frozenset[str] | None:
        """List a folder (Web API 2.11 and later); None where that call does not exist."""
        if self._lists_no_folders:
            return None
        try:
            return frozenset(map(str, self.app_get_directory_content(path)))
        except qbittorrentapi.NotFound404Error:
            # The call is not known, or the folder is not there: both are a 404.
            major, minor, *_ = self.app_web_api_version().split(".")
            self._lists_no_folders = (int(major), int(minor)) < _LISTS_FOLDERS
            return None if self._lists_no_folders else frozenset()

    def refresh_interval_ms(self) -> int:
        """Ask the preferences: the list of all, which has it too, takes 4.5 seconds."""
        return int(self.preferences_row()["refresh_interval"])

    def preferences_row(self) -> Mapping[str, Any]:
        """Ask for qBittorrent's own settings."""
        return cast(Mapping[str, Any], self.app_preferences())

    # -- the library's insides that are replaced ----------------------------

    def _auth_request(
        self,
        http_method: Literal["get", "GET", "post", "POST"],
        api_namespace: APINames | str,
        api_method: str,
        _retry_backoff_factor: float = 0.0,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Send one request; if a login is asked for, log in and send it again."""
        # Each would cost a request for the version, around every such call.
        kwargs.pop("version_introduced", None)
        kwargs.pop("version_removed", None)
        send = partial(self._request, http_method, api_namespace, api_method, *args, **kwargs)
        if api_namespace == APINames.Authorization:
            return send()
        try:
            return send()
        except qbittorrentapi.Unauthorized401Error as error:
            raise QbittorrentLoginRefused(self._unauthorized()) from error
        except qbittorrentapi.Forbidden403Error as error:
            if api_method == "setDownloadPath" and str(error) != "Forbidden":
                # No login is asked for: the folder cannot be written to, which is
                # said in qBittorrent's language. The other 403 is not translated.
                raise QbittorrentError(f"qBittorrent refused a folder: {error}") from error
            self._log_in(error)
        # A call answered with 403 was not applied, so a POST may go out again too.
        try:
            return send()
        except qbittorrentapi.Forbidden403Error as error:
            self.gate.refused(
                f"qBittorrent at {self.where} accepted the login but not the session; if its "
                "cookies are marked secure, use an https:// address in QBIT_HOST"
            )
            raise QbittorrentLoginRefused(self._refused()) from error

    def _request(self, *args: Any, **kwargs: Any) -> Any:
        self.sent += 1
        try:
            return super()._request(*args, **kwargs)
        finally:
            # SID; QBT_SID_<port> since 5.2.
            cookies = {(c.name, c.value) for c in self._session.cookies if "SID" in c.name}
            if cookies != self._session_cookies:
                self._session_cookies = cookies
                self.sessions += 1

    @property
    def _session(self) -> Any:
        session = super()._session
        # No proxy and no .netrc from the environment: the settings say it all.
        session.trust_env = False
        return session

    def _cast(
        self, response: requests.Response, response_class: type, **response_kwargs: Any
    ) -> Any:
        """Read an answer: JSON in such a way that the event loop is let in meanwhile."""
        said = _epoch(response.headers.get("date"))
        self.clock_ahead_s = None if said is None else said - self._now()
        # A login page, or the error of a proxy, with a 200: taken for the empty answer to a
        # call that changes something, it would say that it was done.
        if response.content[:100].lstrip().startswith(b"<"):
            raise QbittorrentUnreachable(self._no_api())
        if not issubclass(response_class, (Dictionary, List)):
            return super()._cast(response, response_class, **response_kwargs)
        # Thousands of torrents are 16 MB, which the parser would read in one go, with the
        # interpreter's lock. At each call of the hook the interpreter can let others in.
        try:
            answer = json.loads(response.content, object_hook=_unchanged)
        except (ValueError, RecursionError) as error:
            raise qbittorrentapi.APIError(f"not JSON: {error}") from error
        if not isinstance(answer, list if issubclass(response_class, List) else dict):
            raise qbittorrentapi.APIError(f"not a {response_class.__name__}")
        return answer

    @staticmethod
    def _handle_error_responses(
        data: Mapping[str, Any], params: Mapping[str, Any], response: requests.Response
    ) -> None:
        if response.is_redirect:
            raise QbittorrentUnreachable(
                f"qBittorrent's address redirects to {response.headers['location']}; "
                "set QBIT_HOST to the address it should be"
            )
        qbittorrentapi.Client._handle_error_responses(data, params, response)

    def _log_in(self, cause: Exception) -> None:
        if self._api_key:
            raise QbittorrentLoginRefused(
                f"qBittorrent at {self.where} refuses QBIT_API_KEY; it needs version 5.2 or "
                "later, and the key shown in its Web UI settings"
            ) from cause
        if not self._password:
            raise QbittorrentLoginRefused(
                f"qBittorrent at {self.where} asks for a login: set QBIT_PASSWORD, or let this "
                "machine bypass authentication in qBittorrent's Web UI settings"
            ) from cause
        if self.gate.wait_s() > 0:
            raise QbittorrentLoginRefused(self._refused()) from cause
        self.logins_tried += 1
        self.logged_in = False
        try:
            self.auth_log_in()
        except qbittorrentapi.Forbidden403Error as error:
            self.gate.refused(
                f"qBittorrent at {self.where} has banned this address after failed logins; "
                "wait, or restart qBittorrent, and check QBIT_USERNAME and QBIT_PASSWORD"
            )
            raise QbittorrentLoginRefused(self._refused()) from error
        except qbittorrentapi.LoginFailed as error:
            self.gate.refused(
                f"qBittorrent at {self.where} refuses the login: "
                "check QBIT_USERNAME and QBIT_PASSWORD"
            )
            raise QbittorrentLoginRefused(self._refused()) from error
        except requests.ConnectionError as error:
            # Never sent again at once: it may have been counted as a failure.
            raise QbittorrentUnreachable(self._no_connection(error)) from error
        self.gate.accepted()
        self.logged_in = True

    # -- sentences ------------------------------------------------------------

    def _refused(self) -> str:
        at = datetime.fromtimestamp(self._now() + self.gate.wait_s(), UTC)
        # A start is a try too: whoever restarts in the hope of help would bring the ban.
        return (
            f"{self.gate.reason} (next try at {at:%H:%M} UTC; restart with the right ones only: "
            "each start is one more try, and after five qBittorrent bans this address)"
        )

    def _unauthorized(self) -> str:
        if self._api_key:
            return f"qBittorrent at {self.where} refuses QBIT_API_KEY"
        return (
            f"qBittorrent at {self.where} answered 401: the host and port in QBIT_HOST and "
            "QBIT_PORT must be those it listens on (its Web UI port inside and outside the "
            "container must be equal), or turn its host header validation off"
        )

    def _no_api(self) -> str:
        return (
            f"what answers at {self.where} is not qBittorrent's Web API; "
            "check QBIT_HOST and QBIT_PORT"
        )

    def _no_connection(self, error: requests.RequestException) -> str:
        if isinstance(error, requests.exceptions.SSLError):
            return (
                f"the certificate of {self.where} is not trusted; "
                "QBIT_VERIFY_SSL=false accepts a self-signed one"
            )
        if isinstance(error, requests.Timeout):
            # A handshake that hangs is reported as a read, but ends by the limit to connect.
            hint = "; is its Web UI really https?" if self.where.startswith("https") else ""
            return (
                f"qBittorrent at {self.where} did not answer in time ({CONNECT_LIMIT_S:g} s to "
                f"connect, {READ_LIMIT_S:g} s to answer){hint}"
            )
        broken = requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError
        if isinstance(error, broken):
            return (
                f"an answer of qBittorrent at {self.where} ended in the middle; look at its log, "
                "or at that of the proxy before it"
            )
        return (
            f"no connection to qBittorrent at {self.where}; is it running, are QBIT_HOST and "
            "QBIT_PORT right (https:// in QBIT_HOST if its Web UI uses HTTPS)?"
        )


def _epoch(date: str | None) -> float | None:
    """Read a ``Date`` header: epoch seconds."""
    try:
        return parsedate_to_datetime(date).timestamp() if date else None
    except ValueError:
        return None


def _unchanged(row: dict[str, Any]) -> dict[str, Any]:
    return row


def _is_of_a_proxy(error: qbittorrentapi.NotFound404Error) -> bool:
    """Whether a 404 is not qBittorrent's, whose body says "Not Found" and no more."""
    body = error.response.content[:100].lstrip() if error.response is not None else b""
    return body.startswith((b"<", b"404 page not found"))
