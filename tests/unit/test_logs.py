"""What the log promises: no secrets, one line a record, and no harm when the disk fails."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path
from urllib.parse import quote

import pytest
import trio

from qbm_trio import logs
from qbm_trio.logs import REDACTED, lines_about, logging_to, subject
from qbm_trio.settings import Settings, load

SECRET = "s3cret/with&signs 'and' \"quotes\" \\"
log = logging.getLogger("qbm_trio.test")


@pytest.fixture
def settings(environ: dict[str, str]) -> Settings:
    return load(environ | {"QBIT_PASSWORD": SECRET, "LOG_LEVEL": "debug"})[0]


@pytest.fixture(autouse=True)
def root_logger_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    assert (root.handlers, root.level) == before


def lines_of(settings: Settings) -> list[str]:
    return settings.log_file.read_text(encoding="utf-8").splitlines()


def with_format(settings: Settings, name: str) -> Settings:
    return settings.model_copy(update={"log_format": name})


def test_lines_go_to_the_file_and_to_standard_output(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    with logging_to(settings):
        log.info("copied %d files", 3)
    (line,) = lines_of(settings)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO     qbm_trio\.test: copied 3 files", line
    )
    assert capsys.readouterr().out == line + "\n"


def test_a_traceback_with_what_is_no_text_is_not_lost(settings: Settings) -> None:
    with logging_to(settings):
        try:
            raise ValueError("/ssd/\udcff")
        except ValueError:
            log.exception("it failed")
    assert lines_of(settings)[-1] == r"ValueError: /ssd/\udcff"


def test_what_is_below_the_level_is_not_logged(settings: Settings) -> None:
    with logging_to(settings.model_copy(update={"log_level": "WARNING"})):
        log.info("small talk")
        log.warning("hear me")
    assert len(lines_of(settings)) == 1


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_secret_reaches_the_log(
    settings: Settings, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    quoted = quote(SECRET, safe="")
    with logging_to(with_format(settings, form)):
        log.info("plain %s, url ?api_key=%s, repr %r", SECRET, quoted, SECRET)
        logging.getLogger("somebody.else").warning({"password": SECRET})
        try:
            raise ValueError(SECRET)
        except ValueError:
            log.exception("it failed")
        with lines_about(subject(job_id="j1", name=SECRET)):
            log.info("named so")
    text = settings.log_file.read_text() + capsys.readouterr().out
    assert "s3cret" not in text
    assert text.count(REDACTED) == 2 * 6
    assert "ValueError" in text


def test_json_lines_are_objects_with_the_job_and_the_traceback(settings: Settings) -> None:
    with (
        logging_to(with_format(settings, "json")),
        lines_about(subject(job_id="j1", name='a "name"\n✓')),
    ):
        try:
            raise ValueError("why")
        except ValueError:
            log.exception("failed on %s", "disk")
    (line,) = lines_of(settings)
    entry = json.loads(line)
    assert {k: entry[k] for k in ("level", "logger", "message", "job_id", "torrent")} == {
        "level": "ERROR",
        "logger": "qbm_trio.test",
        "message": "failed on disk",
        "job_id": "j1",
        "torrent": 'a "name"\n✓',
    }
    assert entry["exception"].endswith("ValueError: why")
    assert line.isascii()


def test_a_name_cannot_forge_a_line(settings: Settings) -> None:
    with (
        logging_to(settings),
        lines_about(subject(job_id="j1", name="evil\n2026-01-01 INFO forged")),
    ):
        log.info("about %s", "x\r\ny\x1b[31m\udcff")
    (line,) = lines_of(settings)
    assert line.endswith(r"about x\r\ny\x1b[31m\udcff [job j1 evil\n2026-01-01 INFO forged]"), line


async def test_each_task_and_its_threads_name_their_own_job(settings: Settings) -> None:
    async def work(name: str) -> None:
        with lines_about(subject(job_id=name, name=f"torrent {name}")):
            await trio.lowlevel.checkpoint()
            await trio.to_thread.run_sync(log.info, "from a thread")
            log.info("from the task")
        log.info("after")

    with logging_to(settings):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, "a")
            nursery.start_soon(work, "b")
    tails = sorted(line.split("test: ")[1] for line in lines_of(settings))
    assert tails == [
        "after",
        "after",
        "from a thread [job a torrent a]",
        "from a thread [job b torrent b]",
        "from the task [job a torrent a]",
        "from the task [job b torrent b]",
    ]


def test_a_log_file_that_cannot_be_written_is_a_warning(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with logging_to(settings.model_copy(update={"log_file": tmp_path / "file" / "x.log"})):
        log.info("goes on")
    out = capsys.readouterr().out
    assert "cannot be written (" in out
    assert "goes on" in out


def test_a_disk_that_fails_later_is_said_once_and_shows_no_line(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: RotatingFileHandler, record: logging.LogRecord) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RotatingFileHandler, "shouldRollover", full)
    with logging_to(settings):
        log.info("one %s", SECRET)
        log.info("two")
    captured = capsys.readouterr()
    assert captured.err.count("No space left on device") == 1
    assert "s3cret" not in captured.err
    assert "two" in captured.out


def test_a_disk_that_hangs_holds_up_neither_the_service_nor_its_end(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung, release = threading.Event(), threading.Event()
    real = RotatingFileHandler.shouldRollover

    def hang(self: RotatingFileHandler, record: logging.LogRecord) -> int:
        hung.set()
        release.wait(60)
        return int(real(self, record))

    monkeypatch.setattr(RotatingFileHandler, "shouldRollover", hang)
    monkeypatch.setattr(logs, "_STOP_S", 0.05)
    monkeypatch.setattr(logs, "_QUEUE_LINES", 10)
    before = set(threading.enumerate())
    with logging_to(settings):
        for n in range(1000):
            log.info("line %d", n)
        assert hung.wait(10)
    release.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    # What was queued is written all the same; memory stayed bounded.
    assert 1 <= len(lines_of(settings)) <= 12


def test_warnings_of_libraries_are_logged(settings: Settings) -> None:
    with logging_to(settings), warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old ways", DeprecationWarning, stacklevel=1)
    assert "old ways" in "".join(lines_of(settings))


def test_everything_logged_is_written_when_the_process_ends(environ: dict[str, str]) -> None:
    code = """
import logging, os
from qbm_trio.logs import logging_to
from qbm_trio.settings import load
settings, _ = load(os.environ)
with logging_to(settings):
    for n in range(2000):
        logging.info("line %d", n)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE, check=True
    )
    assert done.stdout.count(b"\n") == 2000


def test_the_file_is_of_bounded_size_and_loses_no_line_of_what_it_keeps(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_FILE_BYTES", 20_000)
    with logging_to(settings):
        for n in range(3000):
            log.info("line %d of many", n)
    files = sorted(settings.log_file.parent.iterdir())
    assert [path.name for path in files] == ["qbit-manager.log"] + [
        f"qbit-manager.log.{n}" for n in range(1, 6)
    ]
    assert all(path.stat().st_size <= 20_000 for path in files)
    kept = "".join(path.read_text() for path in [*files[:0:-1], files[0]]).splitlines()
    numbers = [int(re.findall(r"line (\d+) of many$", line)[0]) for line in kept]
    assert numbers == list(range(3000 - len(kept), 3000))
    assert len(kept) > 500


def test_a_line_may_say_itself_what_it_is_about(settings: Settings) -> None:
    with logging_to(settings), lines_about(subject(job_id="j1", name="T")):
        log.info("of another", extra=subject(job_id="j2"))
        log.info("of a torrent", extra=subject(torrent_id="ab", name="U"))
        log.info("of this")
        logs.resolved("cd", "true name")
        log.info("of this, too")
    assert [line.split("test: ")[1] for line in lines_of(settings)] == [
        "of another [job j2]",
        "of a torrent [torrent ab U]",
        "of this [job j1 T]",
        "of this, too [job j1 torrent cd true name]",
    ]


def test_the_name_of_a_session_is_struck_out(settings: Settings) -> None:
    with logging_to(settings):
        log.info("Cookie: SID=abc123; QBT_SID_8080=def456 <Cookie SID=ghi789 for x>")
    (line,) = lines_of(settings)
    assert not any(value in line for value in ("abc123", "def456", "ghi789"))
    assert line.count(REDACTED) == 3
