"""What ``examples/qbm_notify.py`` reads and decides, whatever it is given."""

from __future__ import annotations

import ast
import errno
import fcntl
import json
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from examples import qbm_notify as notify
from qbm_trio.web.bodies import read_fields
from qbm_trio.web.messages import Call
from qbm_trio.web.notification import read_notification

EXAMPLES = Path(__file__).parents[2] / "examples"
ID = "0123456789" * 4
NAMES = (
    "QBM_URL",
    "HTTP_HOST",
    "HTTP_PORT",
    "HTTP_API_KEY",
    "HTTP_API_KEY_FILE",
    "QBM_HOOK_LOG",
    "QBM_RETRY_PERCENT",
)

# -- settings: as the shell script reads them ---------------------------------


def lines(often: str) -> st.SearchStrategy[bytes]:
    """Lines of a settings file, most of them with this name."""
    return st.one_of(
        st.tuples(
            st.sampled_from(["", "", "", "export ", "export", "exportX", "export  ", " ", "#"]),
            st.sampled_from([often, often, often, *NAMES, "OTHER", "http_host", ""]),
            st.sampled_from(["=", "=", "=", " = ", "==", ""]),
            st.sampled_from(["", "", '"', "'", '""', " "]),
            st.sampled_from(["", "x", "a b", "\\", "$HOME", "`id`", "\t", "ö", "\udcff"])
            | st.text("ab\"'="),
            st.sampled_from(["", "", '"', "'", "' ", "\r", "\r\r", '"\r']),
        ).map("".join),
        st.text("AZ=\"'\r \x7f\xff", max_size=6),
    ).map(os.fsencode)


FILES = (
    st.sampled_from(NAMES).flatmap(lambda name: st.lists(lines(name), max_size=5)).map(b"\n".join)
)


def by_the_shell_script(file: Path) -> dict[str, str]:
    """What the shell script takes from a settings file."""
    script = (EXAMPLES / "qbittorrent-notification.sh").read_text(encoding="utf-8")
    found = re.search(r"^read_settings\(\) \{$.*?^\}$", script, re.MULTILINE | re.DOTALL)
    assert found
    names = [name for name in NAMES if not name.startswith("HTTP_API_KEY")]
    show = "".join(f'printf "%s\\0" "${{{name}:-}}"; ' for name in names)
    code = (
        f"cr=$(printf '\\r'); file_key='' file_key_file=''\n{found[0]}\n"
        f'read_settings "$1"; {show} printf "%s\\0" "$file_key" "$file_key_file"'
    )
    done = subprocess.run(
        ["sh", "-c", code, "sh", str(file)], env={"LC_ALL": "C"}, capture_output=True, check=True
    )
    values = [os.fsdecode(value) for value in done.stdout.split(b"\0")[:-1]]
    return dict(zip([*names, "HTTP_API_KEY", "HTTP_API_KEY_FILE"], values, strict=True))


@given(FILES)
@example(b"HTTP_API_KEY=first\nHTTP_API_KEY=last\nHTTP_HOST=first\nHTTP_HOST=last")
@example(b"HTTP_API_KEY=first\nHTTP_API_KEY=\nHTTP_HOST=\nHTTP_HOST=last")
@settings(max_examples=150)
def test_a_settings_file_means_what_it_means_to_the_shell_script(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "settings"
    file.write_bytes(data)
    read = notify.read_settings(os.fsdecode(data))
    assert {name: read.get(name, "") for name in NAMES} == by_the_shell_script(file)


def settings_of(environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> notify.Settings:
    monkeypatch.setattr(os, "environ", dict(environment))
    return notify.Settings()


def test_the_spool_lies_beside_the_settings_file_unless_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mine.env").write_text("")
    env = {"QBM_ENV_FILE": str(tmp_path / "mine.env")}
    assert settings_of({}, monkeypatch).spool == "/config/qbm-trio-spool"
    assert settings_of(env, monkeypatch).spool == str(tmp_path / "qbm-trio-spool")
    assert settings_of({**env, "QBM_SPOOL_DIR": "/x"}, monkeypatch).spool == "/x"
    (tmp_path / "mine.env").write_text("QBM_SPOOL_DIR=/y")
    assert settings_of(env, monkeypatch).spool == "/y"


@pytest.mark.parametrize(
    "url",
    ["http://user:secret@host", "ftp://host", "http://host:port", "http://ho st", "//"],
)
def test_an_address_that_cannot_be_used_is_said_without_its_password(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    given = settings_of({"QBM_URL": url, "HTTP_API_KEY": "k"}, monkeypatch)
    with pytest.raises(notify.Wrong, match="cannot be used: ") as caught:
        notify.Service(given)
    assert "secret" not in str(caught.value)


def test_a_key_of_two_lines_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings_of({"HTTP_API_KEY": "one\nX-Other: two"}, monkeypatch)
    with pytest.raises(notify.Wrong, match="line break"):
        given.key()


# -- arguments ----------------------------------------------------------------

ARGUMENT = st.binary(max_size=40).map(lambda data: os.fsdecode(data.replace(b"\0", b"")))
OTHERS = st.lists(ARGUMENT, min_size=6, max_size=6)


@given(OTHERS, st.sampled_from(["-", "", ID, "f" * 40]), st.none() | st.integers(-9, 9))
def test_every_name_arrives_at_the_service_byte_for_byte(
    others: list[str], v1: str, priority: int | None
) -> None:
    options = [] if priority is None else ["--priority", str(priority)]
    form = notify.read_arguments([*options, v1, *others, ID])

    pairs = [pair.split("=") for pair in form.replace("+", " ").split("&")]
    expected = dict(zip(notify.FIELDS, [ID, *others], strict=True))
    if priority is not None:
        expected["priority"] = str(priority)
    assert {name: os.fsdecode(unquote_to_bytes(value)) for name, value in pairs} == expected
    assert notify.read_form(form) == expected

    headers = {"content-type": "application/x-www-form-urlencoded"}
    notified = read_notification(read_fields(Call(headers=headers, body=form.encode())))
    assert (notified.hash, notified.priority) == (ID, priority or 0)


@given(st.lists(ARGUMENT | st.sampled_from(["--priority", "-", "1"]), max_size=11))
def test_arguments_are_a_form_or_wrong_and_a_name_is_never_an_option(arguments: list[str]) -> None:
    try:
        form = notify.read_arguments(arguments)
    except notify.Wrong as error:
        said = str(error)
    else:
        said = '"%K" is there'
        rest = arguments[2:] if arguments[0] == "--priority" else arguments
        assert len(rest) in (7, 8)
        assert notify.read_form(form)["name"] == rest[1]
    assert "%K" in said


@pytest.mark.parametrize("priority", ["", "x", "1.5", "１", "12345678901"])
def test_a_priority_that_is_none_is_said(priority: str) -> None:
    with pytest.raises(notify.Wrong, match="--priority needs a whole number"):
        notify.read_arguments(["--priority", priority, ID, "n", "c", "p", "1", "2", "t"])


# -- what an answer means -------------------------------------------------------

BODIES = st.one_of(
    st.binary(max_size=30),
    st.just(b"[" * 100_000),
    st.just(b'{"queue_id": "\\ud800", "status": "\\ud800", "error": "\\ud800"}'),
    st.dictionaries(
        st.sampled_from(["queue_id", "status", "error"]),
        st.none() | st.integers() | st.text() | st.lists(st.integers()),
    ).map(lambda value: json.dumps(value).encode()),
)


@given(st.integers(100, 999), st.text("0123456789-. ö", max_size=6), BODIES)
def test_every_answer_means_something_and_only_the_service_can_accept(
    status: int, retry_after: str, body: bytes
) -> None:
    answer = notify.judge(status, retry_after, body)
    accepted = answer.kind is notify.Kind.ACCEPTED
    assert accepted == (200 <= status < 300 and b'"queue_id"' in body)
    assert 0 <= answer.wait_s <= 30
    assert answer.text.encode()


def test_what_is_about_the_torrent_is_told_from_what_is_about_the_set_up() -> None:
    kinds = {status: notify.judge(status, "", b"").kind for status in range(300, 600)}
    refused = {status for status, kind in kinds.items() if kind is notify.Kind.REFUSED}
    again = {status for status, kind in kinds.items() if kind is notify.Kind.AGAIN}
    assert refused == {400, 413, 415, 422}
    assert again == {408, 429, *range(500, 600)}
    assert kinds[401] is notify.Kind.BARRED
    assert kinds[302] is notify.Kind.MISLED


# -- the spool's files -----------------------------------------------------------


@given(OTHERS, st.integers(0, 400), st.binary(max_size=3))
def test_an_entry_that_was_damaged_is_an_entry_or_known_to_be_none(
    tmp_path_factory: pytest.TempPathFactory, others: list[str], at: int, put: bytes
) -> None:
    form = notify.read_arguments([ID, *others])
    folder = tmp_path_factory.mktemp("spool", numbered=True)
    fd = notify._write(str(folder), "one.json", {"form": form, "recorded_at": "now"})
    assert notify._read(fd) == {"form": form, "recorded_at": "now"}

    data = os.pread(fd, 10_000, 0)
    os.ftruncate(fd, 0)
    os.pwrite(fd, data[:at] + put + data[at + len(put) :] if put else data[:at], 0)
    try:
        found = notify._read(fd)
    except ValueError:
        pass
    else:
        assert notify.about(found["form"]).startswith("torrent ")
    finally:
        os.close(fd)


@given(st.text())
def test_what_is_shown_is_one_line_and_plays_with_no_terminal(text: str) -> None:
    assert not re.search(r"[\0-\x1f\x7f]", notify.shown(text))


def test_it_is_python_3_8() -> None:
    source = (EXAMPLES / "qbm_notify.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 8))
    assert source.startswith("#!/usr/bin/env python3\n")
    assert os.access(EXAMPLES / "qbm_notify.py", os.X_OK)


def test_an_entry_that_another_process_sends_before_it_is_locked_is_not_sent_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spool = notify.Spool(str(tmp_path / "spool"))
    one, two, three = (
        spool.record(notify.read_arguments([ID, name, "", "/", "1", "1", ""])) for name in "abc"
    )
    assert spool.take(one.name) is None  # we hold its lock ourselves
    for entry in (one, two, three):
        spool.close(entry)
    lock = notify._lock

    def lock_when_it_is_gone(fd: int) -> bool:
        (tmp_path / "spool" / two.name).unlink()
        return lock(fd)

    def lock_when_it_is_another(fd: int) -> bool:
        path = tmp_path / "spool" / three.name
        path.rename(path.with_name("old"))
        path.write_bytes(path.with_name("old").read_bytes())
        return lock(fd)

    monkeypatch.setattr(notify, "_lock", lock_when_it_is_gone)
    assert spool.take(two.name) is None
    monkeypatch.setattr(notify, "_lock", lock_when_it_is_another)
    assert spool.take(three.name) is None
    monkeypatch.undo()
    taken = spool.take(one.name)
    assert taken is not None
    assert (taken.form, taken.name) == (one.form, one.name)
    spool.close(taken)
    assert spool.take("never.json") is None


def test_a_file_system_without_locks_does_not_keep_it_from_sending(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_locks(fd: int, how: int) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    spool = notify.Spool(str(tmp_path))
    entry = spool.record("hash=x")
    spool.close(entry)
    taken = spool.take(entry.name)
    assert taken is not None
    spool.remove(taken)
    assert spool.names() == []
