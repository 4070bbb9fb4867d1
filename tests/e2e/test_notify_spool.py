"""The spool of ``examples/qbm_notify.py``: nothing is lost, nothing is sent for ever.

Real processes against a scripted server. "Killed" is ``kill -9``.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.fakes.web_server import Reply, Seen, WebServer, serving
from tests.rig.qbt import free_port

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples/qbm_notify.py"
RIG = "tests.rig.notifying"
KEY = "a-key-of-the-spool-test"
LIMIT_S = 60.0


def accepted(n: object = 1) -> Reply:
    document = {"success": True, "queue_id": f"q-{n}", "status": "queued"}
    return Reply(status=202, body=json.dumps(document).encode())


def refused(status: int, error: str) -> Reply:
    return Reply(status=status, body=json.dumps({"success": False, "error": error}).encode())


def id_of(n: int) -> str:
    return f"{n:040x}"


def torrent(n: int, name: str = "Name") -> list[str]:
    """Arguments as qBittorrent gives them."""
    return [id_of(n), f"{name} {n}", "tv", f"/ssd/{name} {n}", "1", "1234", "", id_of(n)]


@dataclass(frozen=True)
class Run:
    """How the script ended."""

    status: int
    lines: list[str]
    out: str

    @property
    def line(self) -> str:
        assert len(self.lines) == 1, self.lines
        return self.lines[0]


@dataclass
class Script:
    """Runs the script with a spool and settings of its own."""

    folder: Path
    url: str
    env: dict[str, str] = field(default_factory=dict)

    @property
    def spool(self) -> Path:
        return self.folder / "qbm-trio-spool"

    @property
    def aside(self) -> Path:
        return self.spool / "aside"

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[bytes]:
        settings = self.folder / "qbm-trio.env"
        text = f"QBM_URL={self.url}\nHTTP_API_KEY={KEY}\nQBM_RETRY_PERCENT=1\n"
        if not settings.exists() or settings.read_text() != text:  # another may be reading it
            settings.write_text(text)
        spoilt = env.keys() & {"QBM_DIE_AFTER", "QBM_CONSTANTS"}
        return subprocess.Popen(
            [sys.executable, *(["-m", RIG] if spoilt else [SCRIPT]), *arguments],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
                "QBM_ENV_FILE": str(settings),
                **self.env,
                **env,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def end(self, process: subprocess.Popen[bytes]) -> Run:
        try:
            out, err = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        return Run(process.returncode, os.fsdecode(err).splitlines(), os.fsdecode(out))

    def run(self, *arguments: str, **env: str) -> Run:
        return self.end(self.start(*arguments, **env))

    def kept(self) -> list[str]:
        """The entries that are to be sent."""
        return sorted(path.name for path in self.spool.glob("[!.]*.json"))

    def keep(self, *numbers: int) -> None:
        """Have notifications kept, with the service away."""
        url, self.url = self.url, f"http://127.0.0.1:{free_port()}"
        runs = [self.end(process) for process in [self.start(*torrent(n)) for n in numbers]]
        self.url = url
        assert {run.status for run in runs} <= {1}


@pytest.fixture
def server() -> Iterator[WebServer]:
    with serving(lambda seen: accepted(seen.form["hash"])) as server:
        yield server


@pytest.fixture
def script(server: WebServer, tmp_path: Path) -> Script:
    return Script(tmp_path, server.url)


def hashes(server: WebServer) -> list[str]:
    return [seen.form["hash"] for seen in server.seen]


# -- kept, and sent by the next run -----------------------------------------


def test_what_the_service_missed_is_sent_by_the_next_hook_and_by_flush(
    script: Script, server: WebServer
) -> None:
    script.keep(1, 2)
    assert len(script.kept()) == 2

    run = script.run(*torrent(3))

    assert run.status == 0
    # Its own first; those that waited in their order, each with a line of its own.
    assert hashes(server)[0] == id_of(3)
    assert sorted(hashes(server)) == [id_of(1), id_of(2), id_of(3)]
    assert all("accepted: torrent" in line for line in run.lines)
    assert len(run.lines) == 3
    assert server.seen[1].form["name"] in {"Name 1", "Name 2"}
    assert script.kept() == []

    script.keep(4)
    run = script.run("--flush")
    assert run.status == 0
    assert 'torrent 0000000000000000000000000000000000000004 "Name 4"' in run.lines[0]
    assert "nothing is left to send" in run.lines[1]
    assert script.kept() == []
    assert "nothing is left to send" in script.run("--flush").line
    assert len(server.seen) == 4


def test_a_service_that_stays_away_is_said_and_all_stays_in_order(script: Script) -> None:
    script.url = f"http://127.0.0.1:{free_port()}"
    line = script.run(*torrent(1)).line
    assert "gave up after 7 tries" in line
    assert line.endswith(f"; it is kept in {script.spool}")
    script.run(*torrent(2))
    first, second = script.kept()
    assert (id_of(1) in first, id_of(2) in second) == (True, True)

    run = script.run("--flush")
    assert run.status == 1
    assert id_of(1) in run.line  # the oldest; the others are not tried then
    assert script.kept() == [first, second]


def test_a_busy_service_gets_all_of_it_from_one_flush(script: Script, server: WebServer) -> None:
    script.keep(1, 2, 3)
    full = Reply(status=503, headers={"Retry-After": "3"})
    server.answer = lambda _: full if len(server.seen) % 2 else accepted()
    assert script.run("--flush").status == 0
    assert len(server.seen) == 6
    assert script.kept() == []


def test_trouble_with_what_waited_is_not_this_torrents(script: Script, server: WebServer) -> None:
    script.keep(1, 2)
    server.answer = lambda _: accepted() if len(server.seen) == 1 else Reply(status=500)
    run = script.run(*torrent(3))
    assert run.status == 0
    assert "accepted" in run.lines[0]
    assert len(server.seen) == 2  # one of the others was tried, once
    assert len(script.kept()) == 2


# -- set up wrongly, refused ------------------------------------------------


def test_a_wrong_set_up_loses_nothing(script: Script, server: WebServer) -> None:
    server.answer = lambda _: refused(401, "The key is wrong.")
    wrong_key = script.run(*torrent(1))
    server.answer = lambda _: Reply(status=302, headers={"Location": "/login"})
    misled = script.run(*torrent(2))
    unusable = script.run(*torrent(3), QBM_URL="nonsense://x")
    keyless = script.run(*torrent(4), HTTP_API_KEY_FILE="/nowhere")
    unreadable = script.run(*torrent(5), QBM_ENV_FILE="/nowhere", QBM_SPOOL_DIR=str(script.spool))
    runs = (wrong_key, misled, unusable, keyless, unreadable)
    assert [run.status for run in runs] == [3, 2, 2, 2, 2]
    assert all(run.line.endswith(f"; it is kept in {script.spool}") for run in runs)
    assert "refused with 401: The key is wrong (HTTP_API_KEY, or " in wrong_key.line
    assert len(server.seen) == 2  # tried once each, without a pause

    server.answer = lambda _: accepted()
    assert script.run("--flush").status == 0
    assert sorted(hashes(server)[2:]) == [id_of(n) for n in (1, 2, 3, 4, 5)]
    assert script.kept() == []


def test_what_is_refused_is_set_aside_with_the_reason_and_holds_up_nothing(
    script: Script, server: WebServer
) -> None:
    for n in (1, 2, 3):
        script.keep(n)
    server.answer = lambda seen: (
        refused(422, "hash: must be a torrent hash.")
        if seen.form["hash"] == id_of(1)
        else accepted()
    )
    run = script.run("--flush")
    assert run.status == 3
    (there,) = script.aside.iterdir()
    (line,) = (line for line in run.lines if "refused with" in line)
    assert "refused with 422: hash: must be a torrent hash: torrent" in line
    assert line.endswith(f'"Name 1"; set aside as {there}')
    assert len(server.seen) == 3
    assert script.kept() == []

    assert script.run("--flush").status == 0  # it is not sent again
    assert len(server.seen) == 3
    assert 'Name 1": refused with 422: hash: must be' in script.run("--list").out
    # A person who knows better puts it back.
    there.rename(script.spool / there.name)
    server.answer = lambda _: accepted()
    assert script.run("--flush").status == 0
    assert len(server.seen) == 4


def test_damaged_entries_are_set_aside_and_the_others_sent(
    script: Script, server: WebServer, tmp_path: Path
) -> None:
    script.keep(7)
    (good,) = script.kept()
    whole = (script.spool / good).read_bytes()
    cut = whole[: len(whole) // 2]
    wrong = [cut, b"", b"\xff\x00", b"[" * 100_000, b"[]", b"{}", b'{"form": 3}']
    forms = ["hash=", "name=x", "hash=ö"]
    wrong += [json.dumps({"form": form}, ensure_ascii=False).encode() for form in forms]
    for n, data in enumerate(wrong):
        (script.spool / f"0-{n}.json").write_bytes(data)
    (script.spool / "0-folder.json").mkdir()
    (script.spool / "0-link.json").symlink_to(tmp_path / "qbm-trio.env")
    os.mkfifo(script.spool / "0-pipe.json")
    (script.spool / "notes.txt").write_text("the user's own")

    run = script.run("--flush")

    assert sum("a damaged entry was set aside" in line for line in run.lines) == 13
    assert hashes(server) == [id_of(7)]
    assert script.kept() == []
    assert len([*script.aside.iterdir()]) == 13
    assert script.run("--list").out.count("cannot be read") >= 11
    assert "nothing is left" in script.run("--flush").line  # it is not said for ever
    assert (script.spool / "notes.txt").exists()


# -- private, bounded, in the way of nothing ------------------------------------


def test_the_spool_is_private_and_holds_no_key(script: Script, server: WebServer) -> None:
    old = os.umask(0)
    try:
        server.answer = lambda _: refused(422, "No.")
        script.run(*torrent(1))
        script.keep(2)
    finally:
        os.umask(old)
    for path in (script.spool, script.aside):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    files = [path for path in script.spool.rglob("*") if path.is_file()]
    assert len(files) == 2
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert KEY not in path.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user")
def test_run_by_root_by_hand_it_leaves_nothing_that_the_hook_cannot_read(
    script: Script, server: WebServer
) -> None:
    os.chown(script.folder, 1234, 1235)
    server.answer = lambda _: refused(422, "No.")
    script.run(*torrent(1))
    script.keep(2)
    made = [script.spool, *script.spool.rglob("*")]
    assert len(made) == 4
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(1234, 1235)}


def test_the_spool_is_bounded_and_a_full_one_is_no_reason_not_to_send(
    script: Script, server: WebServer
) -> None:
    few = json.dumps({"MOST_KEPT": 20, "MOST_ASIDE": 5})
    script.spool.mkdir(0o700)
    for n in range(19):
        (script.spool / f"9-{n:02}.json").touch()
    server.answer = lambda _: Reply(status=500)
    assert "; it is kept in" in script.run(*torrent(1), QBM_CONSTANTS=few).line
    run = script.run(*torrent(2), QBM_CONSTANTS=few)
    assert run.status == 1
    assert "; it is NOT kept: " in run.line
    assert "20 notifications are kept already" in run.line
    assert len(script.kept()) == 20

    server.answer = lambda _: accepted()
    assert "accepted" in script.run(*torrent(3), QBM_CONSTANTS=few).line
    script.run("--flush", QBM_CONSTANTS=few)  # all but one are none
    assert hashes(server)[-1] == id_of(1)
    assert script.kept() == []
    kept = sorted(path.name for path in script.aside.iterdir())
    assert kept == [f"9-{n}.json" for n in range(14, 19)]


@pytest.mark.parametrize("there", ["file", "no parent"])
def test_without_a_spool_it_still_sends(script: Script, server: WebServer, there: str) -> None:
    spool = script.folder / "x" / "spool"
    if there == "file":
        spool.parent.write_text("")
    assert "accepted" in script.run(*torrent(1), QBM_SPOOL_DIR=str(spool)).line
    server.answer = lambda _: Reply(status=500)
    run = script.run(*torrent(2), QBM_SPOOL_DIR=str(spool))
    assert run.status == 1
    assert f"it is NOT kept: {spool}: " in run.line


def test_unfinished_files_of_the_dead_go_and_those_of_the_living_stay(
    script: Script, server: WebServer
) -> None:
    script.spool.mkdir()
    old, new = script.spool / ".a.json.tmp", script.spool / ".b.json.tmp"
    for path in (old, new):
        path.write_text("{")
    os.utime(old, (1, 1))
    assert script.run(*torrent(1)).status == 0
    assert (old.exists(), new.exists()) == (False, True)


@contextmanager
def trickling(start: bytes) -> Iterator[str]:
    """A server whose answers go on for ever: each byte comes in time, the end never does."""
    stop = threading.Event()

    def serve(listener: socket.socket) -> None:
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection, suppress(OSError):
                connection.sendall(start)
                while not stop.wait(0.02):
                    connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize(
    "start", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n"], ids=["head", "body"]
)
def test_an_answer_that_trickles_is_not_waited_for(script: Script, start: bytes) -> None:
    with trickling(start) as script.url:
        constants = json.dumps({"TRY_S": 0.2, "TRIES_FOR_S": 1})
        run = script.run(*torrent(1), QBM_CONSTANTS=constants)
    assert run.status == 1
    assert "no answer within 0.2 s" in run.line
    assert len(script.kept()) == 1


# -- for people -------------------------------------------------------------


def test_the_list_names_each_torrent_and_never_a_line_break(
    script: Script, server: WebServer
) -> None:
    assert script.run("--list").out.count("nothing") == 2
    server.answer = lambda _: Reply(status=500)
    script.run(*torrent(1, "two\nlines\x1b[2J 🎉"))
    run = script.run("--list")
    assert run.status == 0
    assert run.lines == []
    title, entry, aside = run.out.splitlines()
    assert title == f"to send, in {script.spool}:"
    assert entry.endswith(f'Z  torrent {id_of(1)} "two?lines?[2J 🎉 1"')
    assert aside.startswith("set aside")


def test_help_says_what_a_person_needs(script: Script) -> None:
    run = script.run("--help")
    assert run.status == 0
    for word in (
        '"%I" "%N" "%L" "%F" %C %Z "%G" "%K"',
        *("--priority", "--flush", "--list", "QBM_URL", "HTTP_API_KEY_FILE", "QBM_SPOOL_DIR"),
        *("/config/qbm-trio.env", "QBM_HOOK_LOG", "Exit status"),
    ):
        assert word in run.out
    assert not script.spool.exists()


def test_the_priority_arrives(script: Script, server: WebServer) -> None:
    assert script.run("--priority", "7", *torrent(1)).status == 0
    assert server.seen[0].form["priority"] == "7"
    assert script.run("--priority", "x", *torrent(1)).status == 2


# -- several at once ----------------------------------------------------------


def test_what_one_is_sending_another_leaves_alone_until_it_is_killed(
    script: Script, server: WebServer
) -> None:
    go_on = threading.Event()
    ask = server.answer

    def held(seen: Seen) -> Reply:
        if len(server.seen) == 1:
            go_on.wait(LIMIT_S)
        return ask(seen)

    server.answer = held
    process = script.start(*torrent(1))
    try:
        server.wait_for(1)
        assert script.run("--flush").status == 0
        assert script.run(*torrent(2)).status == 0
        assert hashes(server) == [id_of(1), id_of(2)]
        assert len(script.kept()) == 1
    finally:
        process.kill()
        process.communicate()
        go_on.set()
    assert script.run("--flush").status == 0
    assert hashes(server) == [id_of(1), id_of(2), id_of(1)]  # nobody knows whether it arrived
    assert script.kept() == []


def test_many_at_once_deliver_each_exactly_once(script: Script, server: WebServer) -> None:
    script.keep(*range(12))
    with ThreadPoolExecutor(12) as threads:
        hooks = [threads.submit(script.run, *torrent(100 + n)) for n in range(8)]
        flushes = [threads.submit(script.run, "--flush") for _ in range(4)]
        assert [run.result().status for run in hooks + flushes] == [0] * 12
    expected = {id_of(n) for n in (*range(12), *range(100, 108))}
    assert Counter(hashes(server)) == dict.fromkeys(expected, 1)
    assert script.kept() == []


# -- killed at every step -----------------------------------------------------


def test_killed_at_any_step_of_a_hook_what_was_recorded_arrives(
    server: WebServer, tmp_path: Path
) -> None:
    def die_after(n: int) -> list[str]:
        folder = tmp_path / str(n)
        folder.mkdir()
        script = Script(folder, server.url)
        steps = folder / "steps"
        run = script.run(*torrent(n), QBM_DIE_AFTER=str(n), QBM_STEPS=str(steps))
        taken = steps.read_text().split()
        if len(taken) < n:
            assert run.status == 0
            return taken  # it came to its end
        assert run.status == -signal.SIGKILL
        # Recorded, before anything was said to the service.
        entries = script.kept()
        recorded = "rename" in taken
        told = "post" in taken
        assert recorded or not told
        assert len(entries) == (1 if recorded and "unlink" not in taken else 0)

        assert script.run("--flush").status == 0
        assert script.kept() == []
        arrived = hashes(server).count(id_of(n))
        assert 1 <= arrived <= 2 if recorded else arrived == 0
        assert not script.aside.exists()
        return taken

    whole = die_after(1000)
    assert whole == [
        *("mkdir", "open", "fsync"),  # the spool, and its parent
        *("open", "write", "write", "fsync", "rename", "open", "fsync"),
        *("post", "unlink", "write"),  # the last is what it says of it
    ]
    with ThreadPoolExecutor(3) as threads:
        for n, taken in enumerate(threads.map(die_after, range(1, len(whole) + 1)), 1):
            assert taken == whole[:n]


def test_killed_at_any_step_of_a_flush_nothing_is_lost_and_nothing_is_sent_for_ever(
    server: WebServer, tmp_path: Path
) -> None:
    poison = "f" * 40
    server.answer = lambda seen: (
        refused(422, "No.") if seen.form["tags"] == poison else accepted(seen.form["hash"])
    )

    def die_after(n: int) -> list[str]:
        folder = tmp_path / str(n)
        folder.mkdir()
        script = Script(folder, server.url)
        spool = script.spool
        spool.mkdir(0o700)
        for order, (tags, end) in enumerate([("", ""), (poison, ""), ("", "damaged"), ("", "")]):
            form = f"hash={id_of(n * 10 + order)}&name=Name&tags={tags}"
            (spool / f"{order}.json").write_text(json.dumps({"form": form}) + end)
        steps = folder / "steps"
        run = script.run("--flush", QBM_DIE_AFTER=str(n), QBM_STEPS=str(steps))
        taken = steps.read_text().split()
        killed = len(taken) >= n
        assert run.status == (-signal.SIGKILL if killed else 3)

        run = script.run("--flush")
        assert run.status in (0, 3)
        assert script.kept() == []
        aside = {path.name: path.read_text() for path in script.aside.glob("[!.]*")}
        assert set(aside) == {"1.json", "2.json"}
        assert json.loads(aside["1.json"])["reason"] == "refused with 422: No"
        assert aside["2.json"].endswith("damaged")
        came = Counter(hashes(server))
        assert [1 <= came[id_of(n * 10 + order)] <= 2 for order in (0, 1, 3)] == [True] * 3
        assert came[id_of(n * 10 + 2)] == 0
        return taken

    whole = die_after(1000)
    assert (whole.count("post"), whole.count("rename"), whole.count("unlink")) == (3, 2, 3)
    with ThreadPoolExecutor(3) as threads:
        for n, taken in enumerate(threads.map(die_after, range(1, len(whole) + 1)), 1):
            assert taken == whole[:n]
