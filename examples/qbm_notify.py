#!/usr/bin/env python3
"""Tells qbm-trio that a torrent has finished, and keeps what it cannot tell now.

As qbittorrent-notification.sh does it, with the same arguments and settings; besides,
a notification is on disk before it is sent, and what could not be delivered is sent by
the next run. Standard library only, Python 3.8 and later. `--help` says how to use it.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import http.client
import json
import os
import re
import signal
import stat
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import NamedTuple, NoReturn
from urllib.parse import parse_qsl, urlencode, urlsplit

BOX = '"%I" "%N" "%L" "%F" %C %Z "%G" "%K"'
HELP = f"""\
Tells qbm-trio that a torrent has finished.

  qbm_notify.py [--priority N] {BOX}
  qbm_notify.py --flush | --list | --help

The first line is for qBittorrent: Settings > Downloads > Run external program on
torrent finished, with this file's whole path. "%K" may be left out as long as no
torrent is v2-only. It tries for about a minute. What the service did not take stays in
the spool, a folder, and is sent after the next torrent that it takes, or by --flush.

  --priority N  go before torrents with a lower number; 0 unless given
  --flush       send what is in the spool: by hand, or from cron
  --list        show what is in the spool, and what was set aside there and why

Settings come from the environment, else from /config/qbm-trio.env, or from the file
that QBM_ENV_FILE names:

  QBM_URL            where the service is: http://127.0.0.1:8081 unless set; or instead
  HTTP_HOST, HTTP_PORT                    the service's own settings
  HTTP_API_KEY       the service's key; or instead
  HTTP_API_KEY_FILE  a file that holds it
  QBM_SPOOL_DIR      the spool: qbm-trio-spool beside that settings file unless set
  QBM_HOOK_LOG       a file to which the outcome is appended, one line a torrent
  QBM_RETRY_PERCENT  100; less makes the waits between tries shorter (for tests)

Exit status: 0 accepted, 1 gave up, 2 set up wrongly, 3 refused. Otherwise than 0 the
service does not know of the torrent yet; the line that is printed says where it is kept.
"""

FIELDS = ("hash", "name", "category", "content_path", "num_files", "size", "tags")
TRIES_FOR_S = 60  #: waits between the tries, together
CONNECT_S, TRY_S = 5, 15  #: at most, for a connection and for a whole try
MOST_KEPT = 10_000  #: entries in the spool; the next is sent, but not kept
MOST_ASIDE = 100  #: of what was set aside, the newest
ENTRY_BYTES = 1_000_000  #: more is no entry; Linux passes far less in arguments
STALE_S = 3600  #: an unfinished file of a process that is gone


class Wrong(Exception):
    """It is set up wrongly; the text says what to do."""


# -- settings: exactly as qbittorrent-notification.sh reads them -------------


def read_settings(text: str) -> dict[str, str]:
    """The settings in a file. It is read, never run: a value may hold any character.

    Of the key's two names the last line counts, of the others the first with a value.
    """
    found: dict[str, str] = {}
    for line in text.split("\n"):
        if line.endswith("\r"):
            line = line[:-1]
        if line.startswith("export "):
            line = line[len("export ") :]
        name, equals, value = line.partition("=")
        if not (equals and "A" <= name[:1] <= "Z"):
            continue
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        if name in ("HTTP_API_KEY", "HTTP_API_KEY_FILE") or not found.get(name):
            found[name] = value
    return found


class Settings:
    """What the environment says, else the settings file."""

    def __init__(self) -> None:
        named = os.environ.get("QBM_ENV_FILE")
        self.file = named or "/config/qbm-trio.env"
        self.problem = ""
        self._from_file: dict[str, str] = {}
        try:
            with open(self.file, "rb") as file:
                self._from_file = read_settings(os.fsdecode(file.read()))
        except (FileNotFoundError, NotADirectoryError) as error:
            self.problem = self._unreadable(error) if named else ""
        except OSError as error:
            self.problem = self._unreadable(error)

    def _unreadable(self, error: OSError) -> str:
        return (
            f"cannot read {self.file}: check that it exists and that qBittorrent's user "
            f"may read it ({error.strerror})"
        )

    def get(self, name: str, default: str = "") -> str:
        """One setting; an empty one counts as not given."""
        return os.environ.get(name) or self._from_file.get(name) or default

    @property
    def spool(self) -> str:
        """The folder of what is not delivered yet."""
        beside = os.path.join(os.path.dirname(os.path.abspath(self.file)), "qbm-trio-spool")
        return self.get("QBM_SPOOL_DIR", beside)

    def key(self) -> str:
        """The service's key."""
        names = ("HTTP_API_KEY", "HTTP_API_KEY_FILE")
        source = os.environ if any(map(os.environ.get, names)) else self._from_file
        key, path = map(source.get, names)
        if not key and path:
            try:
                with open(path, "rb") as file:
                    key = os.fsdecode(file.readline().rstrip(b"\n"))
            except OSError as error:
                problem = f"cannot read {path} (HTTP_API_KEY_FILE): {error.strerror}"
                raise Wrong(problem) from error
            key = key[:-1] if key.endswith("\r") else key
        if not key:
            raise Wrong(
                f"no key: set HTTP_API_KEY or HTTP_API_KEY_FILE, for example in {self.file}"
            )
        if "\n" in key or "\r" in key:
            raise Wrong("the key (HTTP_API_KEY) holds a line break: it must be one line")
        return key

    def url(self) -> str:
        """Where notifications go."""
        host = self.get("HTTP_HOST", "127.0.0.1")
        if host == "0.0.0.0":
            host = "127.0.0.1"  # it listens everywhere; this is where to find it
        elif host in ("::", "[::]"):
            host = "[::1]"
        elif ":" in host and not host.startswith("["):
            host = f"[{host}]"
        url = self.get("QBM_URL", f"http://{host}:{self.get('HTTP_PORT', '8081')}")
        for end in ("/", "/notify/torrent-finished"):
            if url.endswith(end):
                url = url[: -len(end)]
        return (url if "://" in url else f"http://{url}") + "/notify/torrent-finished"

    def retry_percent(self) -> int:
        """How much of the waits is waited."""
        percent = self.get("QBM_RETRY_PERCENT", "100")
        if not re.fullmatch("[0-9]+", percent):
            raise Wrong(f"QBM_RETRY_PERCENT is not a whole number: {percent}")
        return int(percent)


# -- what qBittorrent passes ------------------------------------------------


def read_arguments(arguments: list[str]) -> str:
    """The form to send, from what qBittorrent passes. It holds names byte for byte.

    Raises:
        Wrong: they are not what belongs into the box.
    """
    priority = None
    if arguments[:1] == ["--priority"]:
        priority, arguments = "".join(arguments[1:2]), arguments[2:]
        if not re.fullmatch(r"[+-]?[0-9]{1,10}", priority):
            raise Wrong(f"--priority needs a whole number: --priority 10 {BOX}")
    if not 7 <= len(arguments) <= 8:
        raise Wrong(
            f"got {len(arguments)} arguments, not 7 or 8: in qBittorrent, after the script's "
            f"name: {BOX} (for a person: --help)"
        )
    fields = dict(zip(FIELDS, arguments))
    if arguments[7:] and arguments[7]:
        fields["hash"] = arguments[7]
    if fields["hash"] in ("", "-"):
        raise Wrong(
            f'"%K" is missing: "{fields["name"]}" is a v2 torrent and has no %I; '
            'add "%K" after "%G"'
        )
    if priority is not None:
        fields["priority"] = priority
    return urlencode([(name, os.fsencode(value)) for name, value in fields.items()])


def read_form(form: str) -> dict[str, str]:
    """The fields of a form that `read_arguments` made. Raises `ValueError`."""
    form.encode("ascii")
    fields = dict(
        parse_qsl(form, keep_blank_values=True, strict_parsing=True, errors="surrogateescape")
    )
    if not fields.get("hash"):
        raise ValueError("it names no torrent")
    return fields


def about(form: str) -> str:
    """The torrent, for people."""
    fields = read_form(form)
    return f'torrent {fields["hash"]} "{fields.get("name", "")}"'


# -- the spool --------------------------------------------------------------


class Entry(NamedTuple):
    """A notification. While it is open, no other process sends it."""

    form: str
    name: str = ""  #: of its file; empty if it could not be kept
    fd: int = -1  #: holds the lock, which ends with the process, however it ends


class Damaged(Exception):
    """An entry that cannot be read. It was set aside."""


class Spool:
    """Notifications that are not delivered yet: a folder with one file each.

    An entry is written under another name, synced, renamed and the folder synced, so that
    it is there whole or not at all. From its first byte until it is delivered its process
    holds a lock on the file itself. Killed anywhere, it is sent by another run: twice at
    worst, which the service takes as one.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.aside = os.path.join(folder, "aside")

    def names(self, folder: str = "") -> list[str]:
        """The entries' files, oldest first."""
        try:
            found = os.listdir(folder or self.folder)
        except FileNotFoundError:
            return []
        return sorted(name for name in found if name.endswith(".json") and name[0] != ".")

    def record(self, form: str) -> Entry:
        """Keep a notification. When this returns, it survives a kill and a power cut.

        Raises:
            OSError: it is not kept.
        """
        _make_folder(self.folder)
        _sweep(self.folder)
        if len(self.names()) >= MOST_KEPT:
            raise OSError(errno.ENOSPC, f"{MOST_KEPT} notifications are kept already")
        now = datetime.now(timezone.utc)
        torrent = re.sub("[^0-9A-Za-z]", "_", read_form(form)["hash"])[:64]
        # The time puts them in order, the end makes the name its own.
        name = f"{now:%Y%m%dT%H%M%S.%fZ}-{torrent}-{os.urandom(4).hex()}.json"
        entry = {"recorded_at": f"{now:%Y-%m-%dT%H:%M:%SZ}", "form": form}
        return Entry(form, name, _write(self.folder, name, entry))

    def take(self, name: str) -> Entry | None:
        """Open an entry; None if another process sends it, or has sent it.

        Raises:
            Damaged: it was no entry, and is set aside now.
            OSError: it cannot be read; it stays.
        """
        path = os.path.join(self.folder, name)
        try:
            fd = os.open(path, os.O_RDWR | _AS_IT_IS)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise
            self._move_aside(name)
            raise Damaged(f"{name} is no file") from error
        try:
            if _lock(fd) and _is_still(path, fd):
                return Entry(_read(fd)["form"], name, fd)
        except ValueError as error:
            self._move_aside(name)
            os.close(fd)
            raise Damaged(f"{name}: {error}") from error
        os.close(fd)
        return None

    def remove(self, entry: Entry) -> None:
        """It was delivered. Should it stay, or a power cut bring it back, it is sent twice."""
        with contextlib.suppress(OSError):
            if entry.name:
                os.unlink(os.path.join(self.folder, entry.name))
        self.close(entry)

    def close(self, entry: Entry) -> None:
        """Leave it to another run."""
        if entry.fd >= 0:
            os.close(entry.fd)

    def set_aside(self, entry: Entry, reason: str) -> str:
        """It will never be accepted: keep it, and why, out of the way. Gives where."""
        name = entry.name or f"{os.urandom(4).hex()}.json"
        _make_folder(self.aside)
        _sweep(self.aside)
        os.close(_write(self.aside, name, {"reason": reason, "form": entry.form}))
        self.remove(entry)
        self._trim()
        return os.path.join(self.aside, name)

    def describe(self, name: str, folder: str) -> str:
        """One entry, for people."""
        try:
            fd = os.open(os.path.join(folder, name), os.O_RDONLY | _AS_IT_IS)
            try:
                entry = _read(fd)
            finally:
                os.close(fd)
        except (OSError, ValueError) as error:
            return f"{name}: cannot be read: {error}"
        end = f": {entry['reason']}" if entry.get("reason") else ""
        return f"{name[:15]}Z  {about(entry['form'])}{end}"

    def _move_aside(self, name: str) -> None:
        _make_folder(self.aside)
        os.rename(os.path.join(self.folder, name), os.path.join(self.aside, name))
        self._trim()

    def _trim(self) -> None:
        for name in self.names(self.aside)[:-MOST_ASIDE]:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self.aside, name))


_AS_IT_IS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  #: no link, no wait for a pipe


def _make_folder(folder: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
        parent = os.path.dirname(os.path.abspath(folder))
        _give(folder, parent)
        _sync(parent)


def _sweep(folder: str) -> None:
    """Remove what a killed process had not finished writing: it had told nobody of it."""
    for name in os.listdir(folder):
        if name.startswith(".") and name.endswith(".tmp"):
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                if time.time() - os.lstat(path).st_mtime > STALE_S:
                    os.unlink(path)


def _write(folder: str, name: str, entry: dict[str, str]) -> int:
    """Write a file that is there whole or not at all. Gives it open and locked."""
    # A name of its own: one that was killed here may have left its own behind.
    temporary = os.path.join(folder, f".{name}.{os.urandom(4).hex()}.tmp")
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _lock(fd)
        _give(fd, folder)
        data = json.dumps(entry).encode() + b"\n"
        while data:
            data = data[os.write(fd, data) :]
        os.fsync(fd)
        os.rename(temporary, os.path.join(folder, name))
    except OSError:
        os.close(fd)
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync(folder)
    return fd


def _read(fd: int) -> dict[str, str]:
    """An entry. Raises `ValueError` if it is none."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise ValueError("no file")
    data = os.pread(fd, ENTRY_BYTES, 0)
    try:
        entry = json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not (isinstance(entry, dict) and all(isinstance(entry[name], str) for name in entry)):
        raise ValueError("no entry")
    read_form(entry.get("form", ""))
    return entry


def _lock(fd: int) -> bool:
    """Lock a file; False if another process has."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks: sent twice is harmless, not sent is not
    return True


def _is_still(path: str, fd: int) -> bool:
    """Whether the file is there under its name, not sent before we had the lock."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def _give(file: int | str, folder: str) -> None:
    """Run as root by hand: what is made belongs to the folder's owner, as in a hook."""
    if os.geteuid() == 0:
        owner = os.stat(folder)
        os.chown(file, owner.st_uid, owner.st_gid)


def _sync(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # some network file systems do not know how
        os.fsync(fd)
    os.close(fd)


# -- the service ------------------------------------------------------------


class Kind(enum.Enum):
    """What an answer means for a notification."""

    ACCEPTED = 0
    AGAIN = 1  #: try again: the service is away, or busy
    MISLED = 2  #: another address: it is set up wrongly
    BARRED = 3  #: the wrong key, or not the service: others will fare no better
    REFUSED = 4  #: this notification will never be accepted


class Answer(NamedTuple):
    """What became of one try."""

    kind: Kind
    text: str
    wait_s: int = 0  #: asked for before the next try; 0 if not


def judge(status: int, retry_after: str, body: bytes) -> Answer:
    """What an HTTP answer means."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        said = None
    said = said if isinstance(said, dict) else {}
    # JSON can hold what cannot be printed.
    said = {name: str(said[name])[:500].encode("utf-8", "replace").decode() for name in said}
    error = said.get("error", "").rstrip(".")  # what is said of it goes on
    if 200 <= status <= 299:
        if "queue_id" in said:
            return Answer(Kind.ACCEPTED, f"{said.get('status')} as {said['queue_id']}")
        return Answer(Kind.AGAIN, f"status {status}, but it is not qbm-trio that answers")
    if 300 <= status <= 399:
        return Answer(Kind.MISLED, "redirects; set QBM_URL to where it leads")
    if status in (400, 413, 415, 422):
        return Answer(Kind.REFUSED, f"refused with {status}: {error}")
    if 400 <= status <= 499 and status not in (408, 429):
        return Answer(Kind.BARRED, f"refused with {status}: {error}")
    wait_s = 0
    if re.fullmatch("[0-9]{1,4}", retry_after):
        # Not more than half of the time at once: the service may be back sooner.
        wait_s = max(1, min(int(retry_after), TRIES_FOR_S // 2))
    return Answer(Kind.AGAIN, f"status {status}: {error}", wait_s)


def _too_slow(*_: object) -> NoReturn:
    raise TimeoutError(f"no answer within {TRY_S} s")


class Service:
    """Where notifications go. No proxy is asked and no redirect followed with the key."""

    def __init__(self, settings: Settings) -> None:
        self.url = settings.url()
        self._key = os.fsencode(settings.key())
        try:
            if "@" in self.url:
                self.url = "QBM_URL"  # for it is printed
                raise ValueError("it must not hold a user name or a password")
            parts = urlsplit(self.url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("it must look like http://127.0.0.1:8081")
            kind = http.client.HTTPConnection
            self._connect = kind if parts.scheme == "http" else http.client.HTTPSConnection
            self._host, self._port = parts.hostname, parts.port
            self._path = parts.path + (f"?{parts.query}" if parts.query else "")
            self._connect(self._host).putrequest("POST", self._path)  # is it one?
        except (ValueError, http.client.HTTPException) as error:
            raise Wrong(f"{self.url} cannot be used: {error}") from error

    def post(self, form: str) -> Answer:
        """Send a notification once."""
        signal.signal(signal.SIGALRM, _too_slow)
        signal.setitimer(signal.ITIMER_REAL, TRY_S)
        connection = self._connect(self._host, self._port, timeout=CONNECT_S)
        try:
            connection.connect()
            connection.sock.settimeout(TRY_S)
            headers: dict[str, str | bytes] = {
                "X-API-Key": self._key,
                "Content-Type": "application/x-www-form-urlencoded",
                "Accept": "application/json",
                "Connection": "close",
            }
            connection.request("POST", self._path, form.encode("ascii"), headers)
            response = connection.getresponse()
            body = response.read(65536)
            return judge(response.status, response.getheader("Retry-After", ""), body)
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            return Answer(Kind.AGAIN, str(error) or type(error).__name__)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.close()


class Patience:
    """The waits between tries: 1, 2, 4 ... s, or what the service asks for."""

    def __init__(self, percent: int) -> None:
        self._percent, self._left_s, self._next_s = percent, TRIES_FOR_S, 1

    def wait(self, asked_s: int) -> bool:
        """Wait before one more try; False if it is time to give up."""
        if self._left_s <= 0:
            return False
        wait_s = min(asked_s or self._next_s, self._left_s)
        time.sleep(wait_s * self._percent / 100)
        self._left_s -= wait_s
        self._next_s *= 2
        return True


# -- the program ------------------------------------------------------------


class Program:
    """One run."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.spool = Spool(self.settings.spool)

    def say(self, text: str) -> None:
        """How it ended for one torrent, in exactly one line."""
        text = text[:-1] if text.endswith("\n") else text
        line = f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ} qbm-trio hook: {text}"
        data = os.fsencode(shown(line)) + b"\n"
        with contextlib.suppress(OSError):
            os.write(2, data)
        log = self.settings.get("QBM_HOOK_LOG")
        if log:
            with contextlib.suppress(OSError):
                fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
                os.write(fd, data)
                os.close(fd)

    def notify(self, arguments: list[str]) -> int:
        """Keep a notification, send it, and after it what was kept before."""
        form = read_arguments(arguments)
        kept = f"; it is kept in {self.spool.folder}"
        try:
            entry = self.spool.record(form)
        except OSError as error:
            entry = Entry(form)
            kept = f"; it is NOT kept: {self.spool.folder}: {error.strerror}"
        try:
            service, patience = self._ready()
        except Wrong as error:
            raise Wrong(f"{error}{kept}") from error
        kind = self._send(entry, service, patience, kept)
        if kind is Kind.ACCEPTED and entry.name:
            # It answers: send the others, too, as long as it goes well. A trouble with
            # one of them is not this torrent's.
            for other in self._others():
                if self._send(other, service, None) not in (Kind.ACCEPTED, Kind.REFUSED):
                    break
        return min(kind.value, 3)

    def flush(self) -> int:
        """Send what is in the spool."""
        service, patience = self._ready()
        worst = Kind.ACCEPTED.value
        for entry in self._others():
            kind = self._send(entry, service, patience, f"; it is kept in {self.spool.folder}")
            worst = max(worst, kind.value)
            if kind not in (Kind.ACCEPTED, Kind.REFUSED):
                break
        if not self.spool.names():
            self.say(f"nothing is left to send in {self.spool.folder}")
        return min(worst, 3)

    def show(self) -> int:
        """Show the spool."""
        for title, folder in (("to send", self.spool.folder), ("set aside", self.spool.aside)):
            names = self.spool.names(folder)
            lines = [f"{title}, in {folder}:" if names else f"{title}, in {folder}: nothing"]
            lines += [f"  {self.spool.describe(name, folder)}" for name in names]
            for line in lines:
                sys.stdout.buffer.write(os.fsencode(shown(line)) + b"\n")
        return 0

    def _ready(self) -> tuple[Service, Patience]:
        if self.settings.problem:
            raise Wrong(self.settings.problem)
        return Service(self.settings), Patience(self.settings.retry_percent())

    def _others(self) -> Iterator[Entry]:
        for name in self.spool.names():
            try:
                entry = self.spool.take(name)
            except Damaged as error:
                self.say(f"a damaged entry was set aside in {self.spool.aside}: {error}")
            except OSError as error:
                self.say(f"cannot read {os.path.join(self.spool.folder, name)}: {error.strerror}")
            else:
                if entry:
                    yield entry

    def _send(
        self, entry: Entry, service: Service, patience: Patience | None, kept: str = ""
    ) -> Kind:
        """Send one notification until there is an answer; once only without patience."""
        tries = 1
        answer = service.post(entry.form)
        while answer.kind is Kind.AGAIN and patience and patience.wait(answer.wait_s):
            tries += 1
            answer = service.post(entry.form)
        torrent = about(entry.form)
        if answer.kind is Kind.ACCEPTED:
            self.spool.remove(entry)
            self.say(f"accepted: {torrent}, {answer.text}")
        elif answer.kind is Kind.REFUSED:
            try:
                kept = f"; set aside as {self.spool.set_aside(entry, answer.text)}"
            except OSError as error:
                kept = f"; cannot set it aside: {error.strerror}"
            self.say(f"{answer.text}: {torrent}{kept}")
        else:
            self.spool.close(entry)
            if answer.kind is Kind.BARRED:
                hint = f" (HTTP_API_KEY, or {self.settings.file})" if "401" in answer.text else ""
                text = f"{answer.text}{hint}: {torrent} at {service.url}"
            elif answer.kind is Kind.MISLED:
                text = f"{torrent}: {service.url} {answer.text}"
            else:
                text = f"gave up after {tries} tries: {torrent} at {service.url}: {answer.text}"
            self.say(text + kept)
        return answer.kind


def shown(text: str) -> str:
    """The text without what would break a line or play with a terminal."""
    return re.sub("[\0-\x1f\x7f]", "?", text)


def close_sockets() -> None:
    """Close what qBittorrent before 5.2 hands on: its open sockets.

    While this waits, they would keep a restarted qBittorrent from listening on its port.
    """
    with contextlib.suppress(FileNotFoundError):
        for fd in map(int, os.listdir("/proc/self/fd")):
            with contextlib.suppress(OSError):
                if fd > 2 and stat.S_ISSOCK(os.fstat(fd).st_mode):
                    os.close(fd)


def main(arguments: list[str]) -> int:
    """Run it; gives the exit status."""
    if arguments in (["--help"], ["-h"]):
        print(HELP, end="")
        return 0
    program = Program()
    try:
        if arguments == ["--list"]:
            return program.show()
        if arguments == ["--flush"]:
            return program.flush()
        return program.notify(arguments)
    except Wrong as error:
        program.say(str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        program.say(f"failed: {error!r}: what it had kept is in {program.spool.folder}")
        raise


if __name__ == "__main__":
    close_sockets()
    sys.exit(main(sys.argv[1:]))
