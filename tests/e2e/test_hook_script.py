"""The hook scripts against a scripted server: one in the shells that people have, one in Python."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.web_server import Reply, Seen, serving
from tests.rig.qbt import free_port
from tests.rig.service import KEY as SERVICE_KEY
from tests.rig.service import serving as service_on

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPT = EXAMPLES / "qbittorrent-notification.sh"
PYTHON = EXAMPLES / "qbm_notify.py"
KEY = 'a "quoted" \\ back\'slash $HOME key: #1'
ACCEPTED = Reply(
    status=202, body=b'{"success": true, "queue_id": "q-17", "hash": "x", "status": "queued"}'
)
FULL = Reply(
    status=503,
    body=b'{"success": false, "error": "the queue is full", "code": "queue_full"}',
    headers={"Retry-After": "3"},
)
ID = "0123456789" * 4
NASTY = (
    'it\'s "quoted" \\ $(touch pwned) `touch pwned` $HOME %N %K ;|&<>*?[a]{b} '
    "@file =a&b=c +%2B \n second line\ttab 🎉 ö – ﬀ"
)


@dataclass(frozen=True)
class Run:
    """How the script ended."""

    status: int
    lines: list[str]  #: of its standard error
    out: bytes

    @property
    def line(self) -> str:
        """The one line that it must print."""
        assert self.out == b""
        assert len(self.lines) == 1, self.lines
        return self.lines[0]


class Hook:
    """Runs a script in one shell, with nothing in the environment but what is given."""

    def __init__(self, shell: Sequence[str], path: str, cwd: Path, script: Path = SCRIPT) -> None:
        self.shell, self.path, self.cwd, self.script = shell, path, cwd, script

    def start(
        self, env: Mapping[str, str], arguments: Sequence[str], pass_fds: Sequence[int] = ()
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self.shell, str(self.script), *arguments],
            env={
                "PATH": self.path,
                "QBM_RETRY_PERCENT": "1",
                "QBM_SPOOL_DIR": str(self.cwd / "spool"),
                **env,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
            cwd=self.cwd,
        )

    def end(self, process: subprocess.Popen[bytes]) -> Run:
        out, err = process.communicate(timeout=30)
        return Run(process.returncode, os.fsdecode(err).splitlines(), out)

    def run(self, env: Mapping[str, str], *arguments: str) -> Run:
        return self.end(self.start(env, arguments or torrent()))


SHELLS = ["dash", "bash --posix", "busybox"]


@pytest.fixture(params=[*SHELLS, "python"])
def hook(request: pytest.FixtureRequest, tmp_path: Path) -> Hook:
    if request.param == "python":
        return Hook([sys.executable], os.environ["PATH"], tmp_path, PYTHON)
    if request.param != "busybox":
        return Hook(request.param.split(), os.environ["PATH"], tmp_path)
    # As on Alpine: every tool but curl is BusyBox's own.
    busybox, curl = shutil.which("busybox"), shutil.which("curl")
    assert busybox is not None, "busybox is missing: apt-get install busybox"
    assert curl is not None, "curl is missing: apt-get install curl"
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "date", "tr", "sed", "sleep", "tail"):
        (tools / name).symlink_to(busybox)
    (tools / "curl").symlink_to(curl)
    return Hook([str(tools / "sh")], str(tools), tmp_path)


def torrent(name: str = "Name", *, hash: str = ID, id: str | None = None) -> list[str]:
    """Arguments as qBittorrent gives them."""
    arguments = [hash, name, "tv/new", f"/ssd/{name}", "3", "1234", "one,two"]
    return arguments if id is None else [*arguments, id]


# -- what is sent -----------------------------------------------------------


def test_a_nasty_name_arrives_byte_for_byte_and_nothing_is_run(hook: Hook, tmp_path: Path) -> None:
    with serving(lambda _: ACCEPTED) as server:
        done = hook.run({"QBM_URL": server.url, "HTTP_API_KEY": KEY}, *torrent(NASTY))

    assert done.status == 0
    assert "accepted" in done.line
    assert "queued as q-17" in done.line
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("POST", "/notify/torrent-finished")
    assert seen.headers["content-type"] == "application/x-www-form-urlencoded"
    assert seen.form == {
        "hash": ID,
        "name": NASTY,
        "category": "tv/new",
        "content_path": f"/ssd/{NASTY}",
        "num_files": "3",
        "size": "1234",
        "tags": "one,two",
    }
    assert not [*tmp_path.rglob("pwned")]


@pytest.mark.parametrize("name", ["-", "--help", "@/etc/passwd", "=", "", "\n", "\\n", "a\n\n"])
def test_a_name_is_never_an_option_or_a_file(hook: Hook, name: str) -> None:
    with serving(lambda _: ACCEPTED) as server:
        done = hook.run({"QBM_URL": server.url, "HTTP_API_KEY": KEY}, *torrent(name))
    assert done.line
    assert server.seen[0].form["name"] == name


def test_bytes_that_are_not_utf_8_arrive_as_they_are(hook: Hook) -> None:
    name = b"caf\xe9 \xff\xfe"
    with serving(lambda _: ACCEPTED) as server:
        hook.run({"QBM_URL": server.url, "HTTP_API_KEY": KEY}, *torrent(os.fsdecode(name)))
    body = server.seen[0].body.replace(b"+", b"%20")  # older curls and newer ones
    assert b"name=caf%E9%20%FF%FE&" in body


def test_the_torrent_id_is_sent_as_hash_when_it_is_given(hook: Hook) -> None:
    with serving(lambda _: ACCEPTED) as server:
        env = {"QBM_URL": server.url, "HTTP_API_KEY": KEY}
        assert hook.run(env, *torrent(hash="-", id=ID)).status == 0
        assert hook.run(env, *torrent(hash="f" * 40, id=ID)).status == 0
    assert [seen.form["hash"] for seen in server.seen] == [ID, ID]


@pytest.mark.parametrize("id", [None, ""])
def test_a_v2_torrent_without_its_id_says_what_is_missing(hook: Hook, id: str | None) -> None:
    with serving(lambda _: ACCEPTED) as server:
        done = hook.run({"QBM_URL": server.url, "HTTP_API_KEY": KEY}, *torrent(hash="-", id=id))
    assert done.status == 2
    assert '"%K" is missing' in done.line
    assert server.seen == []


def test_wrong_arguments_say_what_belongs_into_the_box(hook: Hook) -> None:
    for arguments in (["x"], torrent()[:6], [*torrent(), "8", "9"]):
        done = hook.run({"HTTP_API_KEY": KEY}, *arguments)
        assert done.status == 2
        assert '"%I" "%N" "%L" "%F" %C %Z "%G" "%K" (for a person: --help)' in done.line


def test_a_person_who_asks_is_told_what_it_is_and_its_settings(hook: Hook) -> None:
    done = hook.run({}, "--help")
    assert (done.status, done.lines) == (0, [])
    told = done.out.decode().splitlines()
    assert told[0].startswith("Tells qbm-trio")
    assert [line for line in told if line.startswith("  HTTP_API_KEY ")]
    assert "Exit status: 0 accepted, 1 gave up, 2 set up wrongly" in done.out.decode()
    assert "set -u" not in told  # nothing of the program itself


# -- the key ----------------------------------------------------------------


def test_the_key_arrives_whole_and_is_in_no_argument(hook: Hook) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def answer(seen: Seen) -> Reply:
        asked.set()
        go_on.wait(20)
        return ACCEPTED

    with serving(answer) as server:
        process = hook.start({"QBM_URL": server.url, "HTTP_API_KEY": KEY}, torrent())
        try:
            assert asked.wait(20)
            commands = [command_line(pid) for pid in family(process.pid)]
        finally:
            go_on.set()
            done = hook.end(process)

    looked_for = b"qbm_notify.py" if hook.script == PYTHON else b"--data-urlencode"
    assert any(looked_for in command for command in commands)
    assert not any(b'a "quoted"' in command for command in commands)
    assert server.seen[0].headers["x-api-key"] == KEY
    assert done.status == 0
    assert "quoted" not in done.line


def family(pid: int) -> list[int]:
    """A process and all that came from it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []  # it has ended meanwhile
    return [pid, *(found for child in children for found in family(int(child)))]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@pytest.mark.parametrize("fd", [5, 12])
def test_sockets_that_qbittorrent_hands_on_are_closed(hook: Hook, fd: int) -> None:
    """Else a qBittorrent that is restarted while the script waits cannot listen."""
    asked, go_on = threading.Event(), threading.Event()

    def answer(seen: Seen) -> Reply:
        asked.set()
        go_on.wait(20)
        return ACCEPTED

    with serving(answer) as server, socket.create_server(("127.0.0.1", 0)) as theirs:
        handed_on = str(Path(f"/proc/self/fd/{theirs.fileno()}").readlink())
        with passing(theirs, fd):
            process = hook.start(
                {"QBM_URL": server.url, "HTTP_API_KEY": KEY}, torrent(NASTY), pass_fds=(fd,)
            )
        try:
            assert asked.wait(20)
            held = [link for pid in family(process.pid) for link in open_files(pid)]
        finally:
            go_on.set()
            done = hook.end(process)
    assert len(held) >= 4
    assert handed_on not in held
    assert done.status == 0
    assert server.seen[0].form["name"] == NASTY  # also when another shell takes over


@contextmanager
def passing(theirs: socket.socket, fd: int) -> Iterator[None]:
    """Have a socket under this number too, as long as a process is started."""
    saved = None
    with suppress(OSError):
        saved = os.dup(fd)
    os.dup2(theirs.fileno(), fd)
    try:
        yield
    finally:
        if saved is None:
            os.close(fd)
        else:
            os.dup2(saved, fd, inheritable=False)
            os.close(saved)


def open_files(pid: int) -> list[str]:
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(fd.readlink()))
    return found


@pytest.mark.parametrize("where", ["environment", "file", "env file", "env file, quoted", "CRLF"])
def test_the_key_may_stand_in_several_places(hook: Hook, tmp_path: Path, where: str) -> None:
    secret = tmp_path / "key"
    settings = tmp_path / "qbm-trio.env"
    with serving(lambda _: ACCEPTED) as server:
        env = {"QBM_ENV_FILE": str(settings)}
        settings.write_text(f"# a comment\n\nQBM_URL={server.url}\n")
        with settings.open("a", newline="") as file:
            if where == "environment":
                env["HTTP_API_KEY"] = KEY
                file.write("HTTP_API_KEY=another\n")
            elif where == "file":
                secret.write_text(KEY + "\n")
                env["HTTP_API_KEY_FILE"] = str(secret)
                file.write("HTTP_API_KEY=another\n")
            elif where == "env file":
                file.write(f"export HTTP_API_KEY={KEY}")  # and no newline at the end
            elif where == "CRLF":
                file.write(f"HTTP_API_KEY={KEY}\r\n")
            else:
                file.write(f"HTTP_API_KEY='{KEY}'\n")
        assert hook.run(env).status == 0
    assert server.seen[0].headers["x-api-key"] == KEY


def test_the_settings_file_is_read_and_not_run(hook: Hook, tmp_path: Path) -> None:
    settings = tmp_path / "qbm-trio.env"
    with serving(lambda _: ACCEPTED) as server:
        settings.write_text(
            f"touch pwned\nHTTP_API_KEY=$(touch pwned)`touch pwned`\nPATH=/nowhere\n"
            f"QBM_URL={server.url}\nOTHER=x; touch pwned\n"
        )
        assert hook.run({"QBM_ENV_FILE": str(settings)}).status == 0
    assert server.seen[0].headers["x-api-key"] == "$(touch pwned)`touch pwned`"
    assert not [*tmp_path.rglob("pwned")]


def test_what_is_set_up_wrongly_is_said(hook: Hook, tmp_path: Path) -> None:
    for env, sentence in (
        ({}, "no key: set HTTP_API_KEY"),
        ({"HTTP_API_KEY_FILE": "/nowhere"}, "cannot read /nowhere"),
        ({"QBM_ENV_FILE": "/nowhere"}, "cannot read /nowhere"),
        ({"HTTP_API_KEY": KEY, "QBM_RETRY_PERCENT": "x"}, "QBM_RETRY_PERCENT"),
        ({"HTTP_API_KEY": KEY, "QBM_URL": "nonsense://x"}, "cannot be used"),
    ):
        done = hook.run(env)
        assert done.status == 2
        assert sentence in done.line


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_the_service_is_found_by_its_own_settings(hook: Hook, host: str) -> None:
    with serving(lambda _: ACCEPTED) as server:
        env = {"HTTP_HOST": host, "HTTP_PORT": str(server.port), "HTTP_API_KEY": KEY}
        assert hook.run(env).status == 0
    assert server.seen[0].path == "/notify/torrent-finished"


@pytest.mark.parametrize("end", ["", "/", "/notify/torrent-finished"])
def test_the_url_may_be_short_or_whole_and_a_proxy_is_not_asked(hook: Hook, end: str) -> None:
    with serving(lambda _: ACCEPTED) as server:
        env = {
            "QBM_URL": f"{server.url}/qbm{end}",
            "HTTP_API_KEY": KEY,
            "http_proxy": f"http://127.0.0.1:{free_port()}",
        }
        assert hook.run(env).status == 0
    assert server.seen[0].path == "/qbm/notify/torrent-finished"


def test_a_password_in_the_url_is_refused_and_never_shown(hook: Hook, tmp_path: Path) -> None:
    log = tmp_path / "hook.log"
    with serving(lambda _: ACCEPTED) as server:
        at = f"127.0.0.1:{server.port}"
        for url in (
            f"http://user:secret@{at}",
            f"user:secret@{at}",
            f"ftp://user:secret@{at}/",
            f"http://user:1/secret@{at}",
            f"http://user:secret@[{at}",
        ):
            env = {"QBM_URL": url, "HTTP_API_KEY": KEY, "QBM_HOOK_LOG": str(log)}
            done = hook.run(env)
            assert done.status == 2
            assert "QBM_URL cannot be used: it must not hold a user name" in done.line
            assert "secret" not in done.line + log.read_text()
    assert server.seen == []


# -- trying again -----------------------------------------------------------


def test_a_full_queue_is_tried_again_after_the_time_it_asks_for(hook: Hook) -> None:
    with serving(lambda _: FULL if len(server.seen) < 3 else ACCEPTED) as server:
        began = time.monotonic()
        done = hook.run({"QBM_URL": server.url, "HTTP_API_KEY": KEY, "QBM_RETRY_PERCENT": "10"})
        first, second, third = (seen.at - began for seen in server.seen)
    assert done.status == 0
    # 3 s, at 10 %; its own delays would have been 0.1 and 0.2 s.
    assert second - first >= 0.3
    assert third - second >= 0.3
    assert server.seen[0].body == server.seen[2].body


@pytest.mark.parametrize("trouble", [Reply(status=500), Reply(status=502), Reply(drop=True)])
def test_server_trouble_is_tried_again(hook: Hook, trouble: Reply) -> None:
    with serving(lambda _: trouble if len(server.seen) < 3 else ACCEPTED) as server:
        assert hook.run({"QBM_URL": server.url, "HTTP_API_KEY": KEY}).status == 0
        assert len(server.seen) == 3


@pytest.mark.parametrize("hook", SHELLS, indirect=True)  # one can see them sleep
def test_a_service_that_starts_late_gets_it(hook: Hook) -> None:
    port = free_port()
    process = hook.start(
        {"HTTP_PORT": str(port), "HTTP_API_KEY": KEY, "QBM_RETRY_PERCENT": "20"}, torrent()
    )
    try:
        # The first try has failed once the script sleeps.
        deadline = time.monotonic() + 20
        while not any(b"sleep" in command_line(pid) for pid in family(process.pid)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with serving(lambda _: ACCEPTED, port=port) as server:
            done = hook.end(process)
            assert len(server.seen) == 1
    except BaseException:
        process.kill()
        process.communicate()
        raise
    assert done.status == 0
    assert "accepted" in done.line


def test_it_gives_up_after_about_a_minute_and_says_so_once(hook: Hook, tmp_path: Path) -> None:
    log = tmp_path / "hook.log"
    env = {"HTTP_PORT": str(free_port()), "HTTP_API_KEY": KEY, "QBM_HOOK_LOG": str(log)}
    began = time.monotonic()
    done = hook.run(env, *torrent("two\nlines"))
    took_s = time.monotonic() - began

    assert done.status == 1
    assert "gave up after 7 tries" in done.line  # 1 + 2 + 4 + 8 + 16 + 29 s between them
    assert "two?lines" in done.line
    assert "onnect" in done.line  # curl's own words
    assert not done.line.endswith("000")
    assert log.read_text() == done.line + "\n"
    assert took_s >= 0.6  # a minute, at 1 %


def test_a_busy_service_is_not_asked_more_often_than_it_wants(hook: Hook) -> None:
    with serving(lambda _: FULL) as server:
        done = hook.run({"QBM_URL": server.url, "HTTP_API_KEY": KEY})
    assert done.status == 1
    assert "status 503: the queue is full" in done.line
    assert len(server.seen) == 21  # every 3 s for a minute


def test_what_answers_instead_of_the_service_does_not_take_a_notification(hook: Hook) -> None:
    page = Reply(status=200, body=b"<html>Welcome to the router</html>")
    with serving(lambda _: page) as server:
        done = hook.run({"QBM_URL": server.url, "HTTP_API_KEY": KEY})
    assert done.status == 1
    assert "status 200, but it is not qbm-trio that answers" in done.line


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422])
def test_a_refusal_is_final(hook: Hook, status: int) -> None:
    body = b'{"success": false, "error": "the key is wrong", "code": "unauthorized"}'
    with serving(lambda _: Reply(status=status, body=body)) as server:
        done = hook.run({"QBM_URL": server.url, "HTTP_API_KEY": KEY})
    assert done.status == 3
    assert f"refused with {status}" in done.line
    assert "the key is wrong" in done.line
    assert len(server.seen) == 1


def test_a_redirect_is_not_followed_with_the_key(hook: Hook) -> None:
    with serving(lambda _: Reply(status=302, headers={"Location": "/elsewhere"})) as server:
        done = hook.run({"QBM_URL": server.url, "HTTP_API_KEY": KEY})
    assert done.status == 2
    assert "redirects" in done.line
    assert len(server.seen) == 1


def test_the_outcome_of_each_torrent_is_one_line_in_the_log(hook: Hook, tmp_path: Path) -> None:
    log = tmp_path / "hook.log"
    with serving(lambda _: ACCEPTED if len(server.seen) == 1 else Reply(status=401)) as server:
        env = {"QBM_URL": server.url, "HTTP_API_KEY": KEY, "QBM_HOOK_LOG": str(log)}
        lines = [hook.run(env).line, hook.run(env).line]
    assert log.read_text().splitlines() == lines
    assert "accepted" in lines[0]
    assert "refused" in lines[1]


def test_a_log_that_cannot_be_written_stops_nothing(hook: Hook) -> None:
    with serving(lambda _: ACCEPTED) as server:
        env = {"QBM_URL": server.url, "HTTP_API_KEY": KEY, "QBM_HOOK_LOG": "/nowhere/log"}
        done = hook.run(env)
    assert done.status == 0
    assert "accepted" in done.line


def test_a_missing_curl_is_named(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("dash", "date", "tr", "sed", "sleep", "tail"):
        found = shutil.which(name)
        assert found is not None
        (tools / name).symlink_to(found)
    done = Hook(["/bin/sh"], str(tools), tmp_path).run({"HTTP_API_KEY": KEY})
    assert done.status == 2
    assert "curl is missing" in done.line


# -- the real service -------------------------------------------------------


def test_the_service_understands_what_the_script_sends(hook: Hook, tmp_path: Path) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    with service_on(tmp_path / "service", away) as service:
        env = {"QBM_URL": service.url, "HTTP_API_KEY": SERVICE_KEY}
        first = hook.run(env, *torrent(NASTY, hash="-", id=ID))
        again = hook.run(env, *torrent(NASTY, hash="-", id=ID))
        wrong = hook.run({**env, "HTTP_API_KEY": "another-key-0123456789"})
        (job,) = service.http.get("/jobs").json()["jobs"]
    assert (first.status, again.status, wrong.status) == (0, 0, 3)
    assert job["hash"] == ID
    assert job["name"] == NASTY
    assert job["category"] == "tv/new"
    assert job["id"] in first.line
    assert job["id"] in again.line
    assert "refused with 401" in wrong.line
