"""Logging: to standard output and a file, off the trio thread, without secrets.

Records go through a queue to one listener thread, so a disk that stalls holds up
the log and nothing else. Secrets are struck out where lines are written, whatever
logger, library or traceback they came from.
"""

from __future__ import annotations

import copy
import json
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler
from pathlib import Path
from queue import SimpleQueue
from typing import TextIO
from urllib.parse import quote, quote_plus

from .core.model import Job
from .core.text import one_line
from .settings import Settings

REDACTED = "[redacted]"

_FILE_BYTES = 10 * 2**20
_FILES_KEPT = 5
# A listener that is behind by so many lines (a disk that hangs) loses the newest:
# memory must stay bounded.
_QUEUE_LINES = 50_000
# Time for the last lines to reach a slow disk when the service ends.
_STOP_S = 2.0

log = logging.getLogger(__name__)

_COOKIE = re.compile(r"(SID(?:_\d+)?=)[^\s;,'\"<>]+")
_SUBJECT = ("job_id", "torrent_id", "torrent")
_WORDS = ("job", "torrent", "")

Subject = Mapping[str, str]
"""What a line is about: ``job_id``, ``torrent_id``, ``torrent`` (its name), as far as known."""

_subject: ContextVar[Subject | None] = ContextVar("subject", default=None)


def subject(*, job_id: str | None = None, torrent_id: str | None = None, name: str = "") -> Subject:
    """Say what lines are about; as ``extra`` of a logging call, of one line."""
    given = {"job_id": job_id, "torrent_id": torrent_id, "torrent": name}
    return {key: value for key, value in given.items() if value}


def about(job: Job) -> Subject:
    """The subject of lines about a job."""
    return subject(job_id=job.id, torrent_id=job.torrent_id, name=job.name or job.hash)


@contextmanager
def lines_about(what: Subject) -> Iterator[None]:
    """Name this in every line logged inside, also by threads and tasks started there."""
    token = _subject.set(what)
    try:
        yield
    finally:
        _subject.reset(token)


def resolved(torrent_id: str, name: str) -> None:
    """From here on, the job that lines are about has this torrent, by its true name."""
    known = _subject.get()
    if known is not None:
        _subject.set({**known, "torrent_id": torrent_id, "torrent": name})


@contextmanager
def logging_to(settings: Settings) -> Iterator[None]:
    """Send all logging to standard output and to ``settings.log_file``.

    A log file that cannot be written is a warning, and standard output has to do.
    On exit everything logged so far is written, the file is closed, and the root
    logger is as it was.
    """
    formatter = JsonFormatter if settings.log_format == "json" else TextFormatter
    handlers: list[logging.Handler] = [_Output(sys.stdout)]
    problem = None
    try:
        handlers.append(_LogFile.at(settings.log_file))
    except OSError as error:
        problem = error.strerror
    for handler in handlers:
        handler.setFormatter(formatter(settings.secrets()))

    lines: SimpleQueue[logging.LogRecord] = SimpleQueue()
    listener = QueueListener(lines, *handlers)
    root = logging.getLogger()
    handlers_before, level_before = root.handlers[:], root.level
    root.handlers[:] = [_Entry(lines)]
    root.setLevel(settings.log_level)
    logging.captureWarnings(True)
    listener.start()
    try:
        if problem is not None:
            log.warning(
                "the log file %s cannot be written (%s); logging to standard output only. "
                "Mend it, or set LOG_FILE",
                settings.log_file,
                problem,
            )
        yield
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = handlers_before
        root.setLevel(level_before)
        # In a thread: a disk that hangs must not keep the process.
        stopping = threading.Thread(target=_finish, args=(listener, handlers), daemon=True)
        stopping.start()
        stopping.join(_STOP_S)


def hide_secrets_in_tracebacks(settings: Settings) -> None:
    """Have what ends the process, or one of its threads, told without secrets, too."""
    redact = _Redacting(settings.secrets()).redact

    def show(error: BaseException | None) -> None:
        if error is not None:
            sys.stderr.write(redact("".join(traceback.format_exception(error))))

    sys.excepthook = lambda _kind, error, _trace: show(error)
    threading.excepthook = lambda failed: show(failed.exc_value)


def _finish(listener: QueueListener, handlers: Iterable[logging.Handler]) -> None:
    listener.stop()
    for handler in handlers:
        handler.close()


class _Output(logging.StreamHandler[TextIO]):
    """Standard output. When nobody reads it any more, the service goes on."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing: the standard way prints the line unredacted."""


class _LogFile(RotatingFileHandler):
    """The log file, of bounded size."""

    _failed = False

    @classmethod
    def at(cls, path: Path) -> _LogFile:
        path.parent.mkdir(parents=True, exist_ok=True)
        return cls(
            path,
            maxBytes=_FILE_BYTES,
            backupCount=_FILES_KEPT,
            encoding="utf-8",
            errors="backslashreplace",  # a traceback may hold bytes that are no text
        )

    def handleError(self, record: logging.LogRecord) -> None:
        """Say once that the disk refuses; the standard way prints the line unredacted."""
        del record
        if not self._failed:
            self._failed = True
            reason = sys.exc_info()[1]
            print(f"qbm-trio: the log file cannot be written: {reason}", file=sys.stderr)  # noqa: T201


class _Entry(QueueHandler):
    """Takes what only the logging task knows, and hands the record over."""

    def __init__(self, lines: SimpleQueue[logging.LogRecord]) -> None:
        super().__init__(lines)
        self._lines = lines

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Return a copy that needs no object of the caller, and that says what it is about."""
        ready = copy.copy(record)
        ready.msg, ready.args = record.getMessage(), None
        if record.exc_info:
            # The base class would glue the traceback to the message.
            ready.exc_text = logging.Formatter().formatException(record.exc_info)
            ready.exc_info = None
        current = _subject.get()
        # A line that says itself what it is about knows better.
        if current is not None and not any(hasattr(ready, name) for name in _SUBJECT):
            ready.__dict__.update(current)
        return ready

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue the record unless the listener is far behind."""
        if self._lines.qsize() < _QUEUE_LINES:
            self._lines.put_nowait(record)


class _Redacting(logging.Formatter):
    """A formatter that knows the secrets: it sees the whole line, tracebacks included."""

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        super().__init__("%(asctime)s %(levelname)-8s %(name)s: %(message)s")
        forms = {form for secret in secrets if secret for form in _forms(secret)}
        # Longest first: one may be the beginning of another.
        self._secrets = sorted(forms, key=len, reverse=True)

    def redact(self, text: str) -> str:
        """Return ``text`` without any secret."""
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        # Nobody knows beforehand what qBittorrent calls a session.
        return _COOKIE.sub(rf"\1{REDACTED}", text) if "SID" in text else text

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """RFC 3339, UTC, with milliseconds."""
        del datefmt
        whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{whole}.{int(record.msecs):03d}Z"


class TextFormatter(_Redacting):
    """One line for people: time, level, logger, message, what it is about."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line without its traceback. A torrent's name cannot break it in two."""
        words = [
            f"{word} {value}".strip()
            for word, value in zip(_WORDS, map(record.__dict__.get, _SUBJECT), strict=True)
            if value
        ]
        return one_line(super().formatMessage(record) + (f" [{' '.join(words)}]" if words else ""))

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and a traceback's lines after it."""
        return self.redact(super().format(record))


class JsonFormatter(_Redacting):
    """One JSON object a line, for log collectors."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object as one line of ASCII."""
        entry = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "job_id": getattr(record, "job_id", None),
            "torrent_id": getattr(record, "torrent_id", None),
            "torrent": getattr(record, "torrent", None),
            "exception": record.exc_text,
        }
        return json.dumps({k: self.redact(v) for k, v in entry.items() if v})


def _forms(secret: str) -> set[str]:
    """How a secret can look in a line: plain, in a URL, in a ``repr``."""
    return {secret, quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]}
