"""In a container of LinuxServer.io: installed, run by a real s6, beside a real qBittorrent."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from qbm_trio import __version__
from tests.rig.inside import make
from tests.rig.linuxserver import (
    CUSTOM,
    PGID,
    PUID,
    ROOT,
    Container,
    InContainer,
    container,
    wheels,
)
from tests.rig.qbt import Installed, Qbt, free_port, running
from tests.rig.trees import below

pytestmark = [
    pytest.mark.qbittorrent,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount"),
]

KEY = secrets.token_hex(32)
OTHER = 1003  #: another user than abc, in the same group
FORM = ROOT / "scripts/linuxserver/s6-rc.d/svc-qbm-trio"
PLAIN = "svc-qbm-trio"
HOOK = '/qbit-manager/examples/qbittorrent-notification.sh "%I" "%N" "%L" "%F" %C %Z "%G" "%K"'
MB = 1_000_000
STOPPED_WITHIN_S = 3.0  #: s6-overlay's S6_KILL_GRACETIME


class Box:
    """The container, and the service in it as a client sees it."""

    def __init__(self, container: Container, checkout: Path, url: str) -> None:
        self.container = container
        self.checkout = checkout
        self.http = httpx.Client(base_url=url, headers={"X-API-Key": KEY}, timeout=30)

    @contextmanager
    def booted(self, **options: Any) -> Iterator[str]:
        """The container from its start to its stop; what its scripts printed."""
        try:
            yield self.container.boot(**options)
        finally:
            self.container.halt()

    def healthy(self) -> dict[str, Any]:
        """What ``/health`` says, once it answers."""
        return self.container.wait_for(self._health, "/health answers")

    def _health(self) -> dict[str, Any] | None:
        with suppress(httpx.TransportError):
            answer = self.http.get("/health")
            if answer.status_code == 200:
                return dict(answer.json())
        return None

    def ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """One call that must succeed."""
        answer = self.http.request(method, path, **options)
        assert answer.is_success, answer.text
        return dict(answer.json())

    def notify(self, id_: str) -> str:
        """Tell it that a torrent finished; the job's id."""
        return str(self.ask("POST", "/notify/torrent-finished", json={"hash": id_})["queue_id"])

    def job_of(self, id_: str) -> dict[str, Any]:
        """The job of a torrent, once it has one."""

        def there() -> dict[str, Any] | None:
            jobs = [job for job in self.ask("GET", "/jobs")["jobs"] if job["hash"] == id_]
            return jobs[0] if jobs else None

        return self.container.wait_for(there, f"there is a job of {id_}")

    def job_is(self, job: str, state: str) -> dict[str, Any]:
        """Wait until a job is in a state."""

        def there() -> dict[str, Any] | None:
            found = self.ask("GET", f"/jobs/{job}")
            return found if found["state"] == state else None

        return self.container.wait_for(there, f"{job} is {state}")


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """The container after its first start, in which the service was installed."""
    folder = tmp_path_factory.mktemp("linuxserver")
    checkout = folder / "checkout"
    for name in ("qbm_trio", "scripts/linuxserver", "examples"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("main.py", "requirements.txt"):
        shutil.copy(ROOT / name, checkout)
    port, web_port = free_port(), free_port()
    env = {
        "UMASK": "002",
        "FILE__HTTP_API_KEY": "/run-secrets/key",
        "HTTP_PORT": str(port),
        "QBIT_PORT": str(web_port),
        "DISK_SPACE_THRESHOLD_GB": "0.001",
        "HDD_MIN_FREE_GB": "0",
        "DELETE_GRACE_S": "0",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": "/wheels",
    }
    with container(folder / "container", checkout=checkout, env=env) as made:
        made.bind(wheels(), "/wheels")
        key = made.place("/run-secrets/key")
        key.parent.mkdir()
        key.write_text(f"{KEY}\n")
        key.chmod(0o600)
        found = Box(made, checkout, f"http://127.0.0.1:{port}")
        with found.booted() as printed:
            assert "installed: qbm-trio 0" in printed, printed
            assert "exited 0" in printed
        yield found
        found.http.close()


@pytest.fixture(scope="module")
def qbt(box: Box, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Qbt]:
    """The qBittorrent of the container, run by another user of the same group."""
    folder = tmp_path_factory.mktemp("qbittorrent")
    box.container.write_environment()
    launcher = InContainer(box.container, folder, user=OTHER, group=PGID)
    port = int(box.container.env["QBIT_PORT"])
    with running(folder, launcher=launcher, web_port=port) as started:
        yield started


@pytest.fixture(scope="module")
def seeder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Qbt]:
    """Another qBittorrent, from which that of the container downloads."""
    with running(tmp_path_factory.mktemp("seeder"), launcher=Installed()) as started:
        yield started


def download(qbt: Qbt, seeder: Qbt, name: str, sizes: dict[str, int] | int) -> str:
    """Have the container's qBittorrent download a torrent to the SSD."""
    made = make(seeder.save, name, sizes, seed=len(name))
    id_ = seeder.add(made.data, complete=True)
    qbt.add(made.data, save_path=Path("/downloads/ssd/tv"), category="tv")
    qbt.fetch_from(seeder, id_)
    return id_


def environ(container: Container, pid: int) -> dict[str, str]:
    pairs = container.process(pid, "environ").rstrip("\0").split("\0")
    return dict(pair.split("=", 1) for pair in pairs)


def status_of(container: Container, pid: int) -> dict[str, str]:
    lines = container.process(pid, "status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_it_runs_as_abc_with_the_containers_umask_and_its_secret(box: Box) -> None:
    with box.booted():
        assert box.healthy()["service"] == "qbm-trio"
        assert box.ask("GET", "/status")["service"]["version"]  # the key of the file is its key
        pid = box.container.pid()
        assert pid is not None
        process = status_of(box.container, pid)
        assert process["Uid"].split() == [str(PUID)] * 4
        assert process["Gid"].split() == [str(PGID)] * 4
        assert process["Umask"] == "0002"
        given = environ(box.container, pid)
        assert given["SHUTDOWN_GRACE_S"] == "2"
        assert not [name for name in given if name.startswith("FILE__")]
        warned = re.findall(r"WARNING .* is no setting", box.container.log)
        assert warned == []


def test_a_later_start_is_quick_and_needs_no_network(box: Box) -> None:
    before = box.container.place("/config/qbm-trio/venv").lstat()
    began = time.monotonic()
    with box.booted(PIP_NO_INDEX="", PIP_FIND_LINKS="", PIP_INDEX_URL="http://127.0.0.1:9"):
        assert time.monotonic() - began < 3
        box.healthy()
    after = box.container.place("/config/qbm-trio/venv").lstat()
    assert before.st_ino == after.st_ino


def test_file_secrets_work_under_an_s6_that_does_not_read_them(box: Box) -> None:
    """The file is root's alone, and is read before the service becomes abc."""
    with box.booted(file_secrets=False):
        box.healthy()
        assert box.ask("GET", "/status")


def test_it_is_started_again_after_kill_9_with_its_queue(box: Box, qbt: Qbt, seeder: Qbt) -> None:
    id_ = download(qbt, seeder, "Killed", {"a": 300_000, "sub/b": 50_000})
    with box.booted():
        box.healthy()
        pid = box.container.pid()
        assert pid is not None
        job = box.notify(id_)
        box.container.run("sh", "-c", f"kill -KILL {pid}")
        again = box.container.wait_for(
            lambda: (now := box.container.pid()) != pid and now, "s6 starts it again"
        )
        assert again != pid
        box.healthy()
        assert box.job_is(job, "done")["outcome"] == "tiered"


def test_it_drains_within_the_three_seconds_of_s6(box: Box, qbt: Qbt, seeder: Qbt) -> None:
    """As a service directory of s6-rc, in the middle of a copy that takes longer."""
    id_ = download(qbt, seeder, "Drained", 9 * MB)
    c = box.container
    with box.booted(COPY_RATE_LIMIT_MB_S="1"):
        c.run("s6-svc", "-wD", "-T", "5000", "-d", f"/run/service/{CUSTOM}")
        began_log = len(c.log)
        c.add_service(PLAIN, {path.name: path for path in FORM.iterdir() if path.is_file()})
        c.place(f"/run/service/{PLAIN}/timeout-kill").write_text("3000\n")
        c.rescan(PLAIN)
        box.healthy()
        job = box.notify(id_)
        c.wait_for(lambda: box.ask("GET", "/status")["processes"], "the copy has begun")
        began = time.monotonic()
        c.run("s6-svc", "-wD", "-T", "10000", "-d", f"/run/service/{PLAIN}")
        took_s = time.monotonic() - began
        ended = c.run("s6-svstat", "-o", "exitcode,signal", f"/run/service/{PLAIN}").split()
        said = c.log[began_log:]
        assert ended == ["0", "NA"], said
        assert 1.5 < took_s < STOPPED_WITHIN_S  # the copy had its grace, and not more
        assert "stopped: the journal is closed" in said
        assert said.endswith("qbm-trio: stopped\n")  # by its finish script
        c.place("/run/s6/container_environment/COPY_RATE_LIMIT_MB_S").unlink()
        c.run("s6-svc", "-u", f"/run/service/{PLAIN}")
        box.healthy()
        assert box.job_is(job, "done")["outcome"] == "tiered"


def test_qbittorrent_of_another_user_can_delete_what_was_tiered(
    box: Box, qbt: Qbt, seeder: Qbt
) -> None:
    """The notification script tells of both: the container's environment is all it needs."""
    with box.booted():
        box.healthy()
        qbt.on_finished(HOOK)
        stays = download(qbt, seeder, "Stays", {"a": 300_000, "sub/b": 50_000})
        goes = download(qbt, seeder, "Goes away", {"a": 300_000, "sub/deep/b": 50_000})
        for job in [box.job_of(stays), box.job_of(goes)]:
            assert job["priority"] == 0  # the reconciler's would have another
            assert box.job_is(job["id"], "done")["outcome"] == "tiered"
        qbt.api.app_set_preferences({"autorun_enabled": False})
    qbt.api.torrents_add_tags(tags="qbm-pin", torrent_hashes=stays)
    with box.booted(DISK_SPACE_THRESHOLD_GB="0.067", DISK_SPACE_TARGET_GB="0.068"):
        box.healthy()
        qbt.wait_for(
            lambda: (
                qbt.info(goes)["content_path"] == "/downloads/hdd/tv/Goes away"
                and qbt.info(goes)["state"] == "stalledUP"
            ),
            "it seeds from the HDD",
            60,
        )
        ssd = box.container.place("/downloads/ssd/tv")
        box.container.wait_for(lambda: not (ssd / "Goes away").exists(), "the SSD files are gone")
    hdd = box.container.place("/downloads/hdd/tv")
    copies = [hdd, *below(hdd)]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in copies} == {(PUID, PGID)}
    assert {path.stat().st_mode & 0o777 for path in copies if path.is_file()} == {0o664}
    assert {path.stat().st_mode & 0o777 for path in copies if path.is_dir()} == {0o775}
    qbt.api.torrents_delete(delete_files=True, torrent_hashes=[stays, goes])
    box.container.wait_for(
        lambda: not (hdd / "Goes away").exists() and not (ssd / "Stays").exists(),
        "their files are gone",
    )


def test_bad_settings_make_no_restart_storm_and_mend_themselves(box: Box) -> None:
    hdd = "/downloads/late"
    began_log = len(box.container.log)
    with box.booted(FINAL_DEST_BASE_HDD=hdd):
        c = box.container

        def said(text: str) -> bool:
            return text in c.log[began_log:]

        c.wait_for(lambda: said("the next try is in 2 s"), "it waits longer each time")
        assert c.log[began_log:].count("FINAL_DEST_BASE_HDD: /downloads/late does not exist") == 2
        assert said("see above; the next try is in 1 s")
        c.place(hdd).mkdir()
        os.chown(c.place(hdd), PUID, PGID)
        box.healthy()


def test_an_installation_that_takes_too_long_is_given_up_and_stops_nothing(box: Box) -> None:
    began_log = len(box.container.log)
    with box.booted(QBM_INSTALL_LIMIT_S="0.2", QBM_HOME="/config/elsewhere") as printed:
        assert "NOT INSTALLED" in printed
        assert "qBittorrent runs without it" in printed
        assert "exited 1" in printed
        box.container.wait_for(
            lambda: "not installed in /config/elsewhere" in box.container.log[began_log:],
            "the service says so too",
        )


def test_the_command_of_the_old_tool_starts_it_as_abc(box: Box) -> None:
    c = box.container
    with box.booted():
        box.healthy()
        c.run("s6-svc", "-wD", "-T", "5000", "-d", f"/run/service/{CUSTOM}")
        # What "docker exec" gives: the container's environment as it was before the init.
        command = c.entering("env", "-i", *(f"{name}={value}" for name, value in c.env.items()))
        command += ["python3", "/qbit-manager/main.py"]
        done = subprocess.run([*command, "--check-config"], capture_output=True, check=False)
        assert f"by uid {PUID}, gid {PGID}".encode() in done.stdout, done.stdout + done.stderr
        # Whether a qBittorrent runs by now is other tests' matter.
        away = b"problem  no connection to qBittorrent" in done.stdout
        assert (done.stdout.count(b"  problem "), done.returncode) == ((1, 3) if away else (0, 0))
        process = subprocess.Popen([*command, "--service"], stdout=subprocess.DEVNULL)
        box.healthy()
        assert box.ask("GET", "/status")
        (pid,) = c.pids_of("-m", "qbm_trio", "--service")
        assert status_of(c, pid)["Uid"].split() == [str(PUID)] * 4
        c.run("sh", "-c", f"kill {pid}")
        assert process.wait(20) == 0


def test_a_release_takes_the_place_of_the_old_one_once_it_is_whole(
    box: Box, tmp_path: Path
) -> None:
    c, release = box.container, tmp_path / "release"
    shutil.copytree(box.checkout / "scripts", release / "scripts")
    shutil.copy(box.checkout / "requirements.txt", release)
    wheel(box.checkout, release, version="9.8.7")
    c.bind(release, "/release")
    home = c.place("/config/qbm-trio")

    with box.booted(QBM_SOURCE="/release", PIP_FIND_LINKS="/none") as printed:
        assert "No matching distribution found" in printed  # pip's own words
        assert "can the container reach the package index?" in printed
        assert "The one that was installed before runs" in printed
        assert box.healthy()["version"] != "9.8.7"
    (begun,) = set(home.glob("venv-*")) - {home / (home / "venv").readlink().name}
    (begun / "left-behind").touch()
    with box.booted(QBM_SOURCE="/release") as printed:
        assert "installed: qbm-trio 9.8.7" in printed, printed
        assert box.healthy()["version"] == "9.8.7"
    assert list(home.glob("venv-*")) == [begun]
    assert not (begun / "left-behind").exists()


def wheel(checkout: Path, folder: Path, *, version: str) -> None:
    """Build the wheel of a release from a checkout."""
    source = folder.with_name("source")
    shutil.copytree(checkout / "qbm_trio", source / "qbm_trio")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    module = source / "qbm_trio/__init__.py"
    module.write_text(module.read_text().replace(__version__, version))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    subprocess.run([*pip, *options, str(source)], check=True)
