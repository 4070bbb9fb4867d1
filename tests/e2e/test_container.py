"""The image, built and run for real, on a Debian that debootstrap made.

A service in a container and a real qBittorrent outside it, which sees the same folders under
other names.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from container.healthcheck import SILENT_S
from qbm_trio import __version__
from tests.rig.containers import BASE, IMAGE, Contained, Podman, podman
from tests.rig.library import Library
from tests.rig.qbt import Installed, Qbt, free_port, running

pytestmark = [
    pytest.mark.qbittorrent,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount"),
]

UID, GID = 4001, 4002
AS_LINUXSERVER = {"PUID": str(UID), "PGID": str(GID), "UMASK": "027"}
# As strict as docker's: podman alone would put a writable /tmp into it.
READ_ONLY = ("--read-only", "--read-only-tmpfs=false")
NO_RIGHTS = ("--cap-drop=all", "--security-opt=no-new-privileges", f"--user={UID}:{GID}")
PAGE = Path(__file__).resolve().parents[2] / "docs/install-container.md"


def few_rights() -> list[str]:
    """The options that the documentation gives."""
    (line,) = re.findall("^--read-only .*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [*READ_ONLY, *line.split()]


@dataclass(frozen=True)
class AsUser:
    """The installed qBittorrent, run by the owner of the folders that it writes to."""

    folder: Path

    def command(self, arguments: Sequence[str]) -> list[str]:
        own(self.folder)
        becoming = ["setpriv", f"--reuid={UID}", f"--regid={GID}", "--clear-groups"]
        return [*becoming, *Installed().command(arguments)]


def own(folder: Path) -> None:
    subprocess.run(["chown", "-R", f"{UID}:{GID}", str(folder)], check=True)


def owners(folder: Path) -> set[tuple[int, int]]:
    found = [path.lstat() for path in folder.rglob("*")]
    return {(status.st_uid, status.st_gid) for status in found}


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that every user may pass through; pytest's own are root's alone."""
    folder = Path(tempfile.mkdtemp(prefix="qbm-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def built(place: Path) -> Iterator[Podman]:
    with podman(place / "podman") as podman_here:
        podman_here.build()
        yield podman_here


@pytest.fixture(scope="module")
def qbt(place: Path) -> Iterator[Qbt]:
    folder = place / "qbittorrent"
    with running(folder, launcher=AsUser(folder)) as qbt:
        yield qbt


@contextmanager
def contained(
    built: Podman, folder: Path, qbittorrent_url: str, *options: str, **env: str
) -> Iterator[Contained]:
    """A container that is not started; its tiers are the user's, its state is root's."""
    service = Contained(folder, qbittorrent_url, env, podman=built, options=options)
    for tier in (service.ssd, service.hdd):
        own(tier)
    try:
        yield service
    finally:
        service.kill()
        service.http.close()


def ended(service: Contained, signum: signal.Signals, *, within_s: float) -> int:
    """Send a signal to its process 1, not to podman; give its exit status."""
    process, began = service.process, time.monotonic()
    assert process is not None
    os.kill(service.pid, signum)
    status = process.wait(within_s + 10)
    assert time.monotonic() - began < within_s + 1  # for podman's own end
    service.process = None
    return status


def status_of(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}


# -- the image ----------------------------------------------------------------


def test_the_image_says_what_it_is(built: Podman) -> None:
    image = built.inspect(IMAGE)
    config, labels = image["Config"], image["Labels"]
    name = "org.opencontainers.image"
    assert labels[f"{name}.version"] == __version__
    assert labels[f"{name}.base.name"] == BASE
    assert labels[f"{name}.title"] == "qbm-trio"
    assert "HTTP_HOST=0.0.0.0" in config["Env"]
    assert list(config["ExposedPorts"]) == ["8081/tcp"]
    assert list(config["Volumes"]) == ["/config"]
    assert image["Healthcheck"]["Test"][-1] == "/qbit-manager/healthcheck.py"


def test_the_image_holds_nothing_that_only_the_build_needed(built: Podman) -> None:
    added = built.inspect(IMAGE)["Size"] - built.inspect(BASE)["Size"]
    assert added < 60_000_000
    root = Path(built("image", "mount", IMAGE).strip())
    try:
        assert not (root / "build").exists()
        assert not (root / "etc/pip.conf").exists()
        assert not list(root.glob("root/.cache"))
        here = [path.relative_to(root / "qbit-manager") for path in root.glob("qbit-manager/*")]
        assert sorted(map(str, here)) == ["entrypoint.py", "healthcheck.py", "main.py", "venv"]
        installed = {path.name for path in root.glob("qbit-manager/venv/lib/*/site-packages/*")}
        assert "qbm_trio" in installed
        assert not {"pip", "setuptools", "wheel", "pytest"} & installed
        # Which index the build asked is nobody's business.
        for folder in ("etc", "qbit-manager", "root"):
            done = subprocess.run(["grep", "-rqF", "only-while-building", str(root / folder)])
            assert done.returncode == 1
        assert "only-while-building" not in built("history", "--no-trunc", IMAGE)
    finally:
        built("image", "unmount", IMAGE)


@pytest.mark.parametrize("python", ["python3", "/usr/bin/python3"])
def test_the_old_path_works_inside_with_whatever_python(built: Podman, python: str) -> None:
    command = [python, "/qbit-manager/main.py", "--version"]
    done = subprocess.run(
        built.run_command("--network=none", IMAGE, *command),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, f"qbm-trio {__version__}\n"), done.stderr


WITH_MUCH_TO_UNDO = """
from pathlib import Path
from qbm_trio.adapters.journal import Journal
connection = Journal.open(Path("/config"))._connection
connection.execute("BEGIN")
connection.executemany("INSERT INTO meta VALUES (?, 'value')", ((str(n),) for n in range(20_000)))
connection.execute("SAVEPOINT an_operation")
connection.execute("UPDATE meta SET value = value || name")  # beyond what SQLite keeps in memory
connection.execute("ROLLBACK TO an_operation")
connection.execute("COMMIT")
print("done")
"""


def test_the_journal_needs_no_folder_for_temporary_files(built: Podman, place: Path) -> None:
    """SQLite would look for one, and with a read-only root there is none."""
    (place / "journal").mkdir()
    volume = f"--volume={place / 'journal'}:/config"
    done = subprocess.run(
        built.run_command(
            *(*READ_ONLY, "--network=none", "--env=PUID=0", volume, IMAGE),
            *("python3", "-c", WITH_MUCH_TO_UNDO),
        ),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


# -- the service in it --------------------------------------------------------


def test_as_another_user_on_a_read_only_root_a_torrent_is_tiered(
    built: Podman, place: Path, qbt: Qbt
) -> None:
    with contained(built, place / "root", qbt.url, *few_rights(), **AS_LINUXSERVER) as service:
        service.start()
        process_1 = status_of(service.pid)
        assert process_1["NSpid"][-1] == "1"
        assert process_1["Uid"] == [str(UID)] * 4
        assert process_1["Gid"] == [str(GID)] * 4
        assert process_1["CapEff"] == process_1["CapPrm"] == ["0" * 16]
        library = Library(service, qbt)
        library.make("Album", {"a.flac": 300_000, "b/c.flac": 70_000}, category="music")
        own(service.ssd)
        library.add()
        job_id = service.notify(library.torrents[0].id).json()["queue_id"]
        assert service.wait_for_job(job_id, "done", "failed")["state"] == "done"
        library.assert_tiered()
        assert owners(service.hdd) == {(UID, GID)}
        assert owners(service.state) == {(UID, GID)}
        journal = service.state / "qbit-manager-state/journal.sqlite3"
        assert journal.stat().st_mode & 0o777 == 0o640  # the UMASK
        assert (service.state / "log/qbit-manager.log").exists()
        assert service.healthy() == (0, "healthy")

        assert ended(service, signal.SIGTERM, within_s=3) == 0
        assert "the journal is closed" in service.output_of_run().splitlines()[-1]


def test_a_second_signal_ends_process_1_at_once_and_the_next_container_goes_on(
    built: Podman, place: Path, qbt: Qbt
) -> None:
    options = (*READ_ONLY, *NO_RIGHTS)
    slow = {"COPY_RATE_LIMIT_MB_S": "1", "SHUTDOWN_GRACE_S": "60"}
    with contained(built, place / "user", qbt.url, *options, **slow) as service:
        own(service.state)
        service.start()
        assert status_of(service.pid)["Uid"] == [str(UID)] * 4
        library = Library(service, qbt)
        library.make("Film.mkv", 20_000_000)
        own(service.ssd)
        library.add()
        job_id = service.notify(library.torrents[0].id).json()["queue_id"]
        service.wait_for_job(job_id, "running")
        os.kill(service.pid, signal.SIGTERM)
        service.wait_for(lambda: "draining" in service.output_of_run(), "it drains")
        assert service.healthy() == (0, "draining")  # it is at work
        assert ended(service, signal.SIGTERM, within_s=5) == 128 + signal.SIGTERM

        service.env = {}
        service.start()
        assert service.wait_for_job(job_id, "done", "failed")["state"] == "done"
        library.assert_tiered()
        assert owners(service.hdd) == {(UID, GID)}


def test_by_default_it_can_be_asked_from_outside_and_is_healthy_without_qbittorrent(
    built: Podman, place: Path
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    default = {"HTTP_HOST": "", "HTTP_PORT": "", "PUID": "", "PGID": ""}
    with contained(built, place / "alone", url, "--network=none", **default) as service:
        for tier in (service.ssd, service.hdd):
            tier.chmod(0o777)
        service.start()
        assert service.url == "http://0.0.0.0:8081"
        assert status_of(service.pid)["Uid"] == ["1000"] * 4
        assert service.healthy() == (0, "degraded")  # and a restart would mend nothing
        assert ended(service, signal.SIGINT, within_s=3) == 0


def test_without_http_a_dead_or_hung_service_is_found_all_the_same(
    built: Podman, place: Path
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    options = (*few_rights(), "--network=none")
    env = {**AS_LINUXSERVER, "UMASK": "077", "HTTP_ENABLED": "false", "HTTP_API_KEY": ""}
    with contained(built, place / "silent", url, *options, **env) as service:
        service.start()
        assert service.healthy() == (0, "alive, without HTTP")
        lock = service.state / "qbit-manager-state/lock"
        os.kill(service.pid, signal.SIGSTOP)
        long_ago = time.time() - SILENT_S - 5  # as after so long without a beat
        os.utime(lock, (long_ago, long_ago))
        status, words = service.healthy()
        assert status != 0
        assert "no sign of life" in words
        os.kill(service.pid, signal.SIGCONT)
        assert ended(service, signal.SIGTERM, within_s=3) == 0

        # The service is gone, what it left is there.
        os.utime(lock, (long_ago, long_ago))
        check = ("python3", "/qbit-manager/healthcheck.py")
        done = subprocess.run(
            built.run_command(
                f"--volume={service.state}:/config", "--env=HTTP_ENABLED=false", IMAGE, *check
            ),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 1
        assert "no sign of life" in done.stderr
