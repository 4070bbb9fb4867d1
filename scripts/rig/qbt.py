"""Run real qBittorrents on loopback: made on the spot, ended by pid.

Standard library and qbittorrentapi only: the demo and the tests both use it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import pbkdf2_hmac
from pathlib import Path
from typing import Any, Protocol

import qbittorrentapi

from scripts.rig.waiting import wait_for

PASSWORD = "correct horse"  #: of user admin, where a login is asked for

# Its log is read: at its usual 65 KiB it would be turned over at any moment.
_SETTINGS = """\
[Application]
FileLogger\\MaxSizeBytes=1024000
[LegalNotice]
Accepted=true
[BitTorrent]
Session\\DHTEnabled=false
Session\\DefaultSavePath={save}
Session\\LSDEnabled=false
Session\\PeXEnabled=false
Session\\Port={peer_port}
Session\\QueueingSystemEnabled=false
Session\\RefreshInterval=100
[Network]
PortForwardingEnabled=false
[Preferences]
WebUI\\Address=127.0.0.1
WebUI\\LocalHostAuth={login}
WebUI\\Password_PBKDF2="@ByteArray({password})"
WebUI\\Port={web_port}
"""


class Launcher(Protocol):
    """Starts one build of qbittorrent-nox."""

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Give the command line that runs qbittorrent-nox with ``arguments``."""
        ...


@dataclass(frozen=True)
class Installed:
    """The qbittorrent-nox on the PATH (4.5.2 on Debian 12)."""

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Find it. Raises `RuntimeError` when it is not installed."""
        binary = shutil.which("qbittorrent-nox")
        if binary is None:
            raise RuntimeError("qbittorrent-nox is missing: apt-get install qbittorrent-nox")
        return [binary, *arguments]


@dataclass
class Qbt:
    """One qBittorrent with a profile of its own under ``folder``."""

    folder: Path
    launcher: Launcher = field(default_factory=Installed)
    login: bool = False  #: ask for user admin and `PASSWORD` on loopback too
    env: Mapping[str, str] = field(default_factory=dict)
    web_port: int = field(default_factory=lambda: free_port())
    peer_port: int = field(default_factory=lambda: free_port())
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.save = self.folder / "downloads"
        self.log = self.folder / "output.log"
        self.api = qbittorrentapi.Client(
            host=f"http://127.0.0.1:{self.web_port}",
            username="admin",
            password=PASSWORD,
            FORCE_SCHEME_FROM_HOST=True,
            SIMPLE_RESPONSES=True,
            REQUESTS_ARGS={"timeout": 30},
        )

    @property
    def url(self) -> str:
        """Where its Web UI answers."""
        return f"http://127.0.0.1:{self.web_port}"

    def start(self) -> None:
        """Start it, and return once its Web UI answers."""
        config = self.folder / "profile/qBittorrent/config/qBittorrent.conf"
        if not config.exists():
            config.parent.mkdir(parents=True)
            self.save.mkdir(parents=True, exist_ok=True)
            config.write_text(
                _SETTINGS.format(
                    save=self.save,
                    peer_port=self.peer_port,
                    web_port=self.web_port,
                    login=str(self.login).lower(),
                    password=_pbkdf2(PASSWORD),
                )
            )
        command = self.launcher.command([f"--profile={self.folder / 'profile'}"])
        environment = {**os.environ, "HOME": str(self.folder), **self.env}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self.wait_for(self._answers, "its Web UI answers", limit_s=30)

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> None:
        """End it; SIGKILL as the last resort."""
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(signum)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)

    def wait_for(self, condition: Callable[[], Any], what: str, limit_s: float = 30) -> Any:
        """Ask until ``condition`` is true; give what it returned."""
        return wait_for(condition, what, limit_s, process=self.process, output=self.output)

    def output(self) -> str:
        """The end of what it printed and logged."""
        logs = [self.log, self.folder / "profile/qBittorrent/data/logs/qbittorrent.log"]
        return "\n".join(log.read_text(errors="replace")[-2000:] for log in logs if log.exists())

    def add(
        self,
        torrent: bytes,
        *,
        save_path: Path | None = None,
        complete: bool = False,
        **options: Any,
    ) -> str:
        """Add a torrent; with ``complete`` its data is there and is not checked. Gives its id."""
        before = self.ids()
        answer = self.api.torrents_add(
            torrent_files=torrent,
            save_path=str(save_path or self.save),
            is_skip_checking=complete,
            **options,
        )
        if answer != "Ok.":
            raise RuntimeError(f"qBittorrent refused the torrent: {answer}")
        (id,) = self.wait_for(lambda: self.ids() - before, "the torrent is listed")
        if complete:
            self.wait_for(lambda: has_settled(self.info(id)), "the torrent is complete")
        return str(id)

    def ids(self) -> set[str]:
        """The ids of all its torrents."""
        return {str(row["hash"]) for row in self.api.torrents_info()}

    def info(self, id: str) -> dict[str, Any]:
        """What it says of one torrent."""
        (row,) = self.api.torrents_info(torrent_hashes=id)
        return dict(row)

    def on_finished(self, command: str) -> None:
        """Set "run external program on torrent finished"."""
        self.api.app_set_preferences({"autorun_enabled": True, "autorun_program": command})

    def fetch_from(self, seeder: Qbt, id: str, *, limit_s: float = 30) -> None:
        """Download the torrent ``id`` from another instance that has it whole."""
        peer = f"127.0.0.1:{seeder.peer_port}"

        def done() -> bool:
            if self.info(id)["progress"] == 1:
                return True
            self.api.torrents_add_peers(peers=[peer], torrent_hashes=[id])
            return False

        self.wait_for(done, "the download is complete", limit_s)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.web_port), 1) as web:
                web.sendall(b"GET / HTTP/1.0\r\nHost: 127.0.0.1:%d\r\n\r\n" % self.web_port)
                web.settimeout(5)
                return web.recv(4) == b"HTTP"
        except OSError:
            return False


def has_settled(row: Mapping[str, Any]) -> bool:
    """Whether what a torrent added as complete shows is true by now.

    In its first moments 4.5 shows a progress of 1 while it still reads what it was given
    (checkingResumeData): at first with a relative content path, at times with an absolute one.
    """
    known = row["content_path"].startswith("/") and not row["state"].startswith("checking")
    return known and row["progress"] == 1


@contextmanager
def running(folder: Path, **options: Any) -> Iterator[Qbt]:
    """Run a qBittorrent for the length of a ``with`` block. Options as for `Qbt`."""
    folder.mkdir(parents=True, exist_ok=True)
    qbt = Qbt(folder, **options)
    try:
        qbt.start()
        yield qbt
    finally:
        qbt.stop()


def free_port() -> int:
    """Give a TCP port of loopback that nothing used a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _pbkdf2(password: str) -> str:
    salt = os.urandom(16)
    key = pbkdf2_hmac("sha512", password.encode(), salt, 100_000, 64)
    return f"{b64encode(salt).decode()}:{b64encode(key).decode()}"
