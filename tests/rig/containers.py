"""Real containers without a registry and without a daemon.

buildah builds the image on a base that debootstrap makes; podman runs it, by runc, in namespaces
of its own. Needs root. What takes long to make is kept in ``QBM_TEST_CACHE``: a Debian 13
with Python, and the wheels that its image is made of.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.rig.disks import LET_GO, unmount_below
from tests.rig.mounts import mount
from tests.rig.qbt import cache_dir, free_port
from tests.rig.service import KEY, Service

ROOT = Path(__file__).resolve().parents[2]
BASE = "localhost/debian-python:13"
IMAGE = "localhost/qbm-trio:test"
SUITE, PYTHON = "trixie", "3.13"


def base_tar() -> Path:
    """A root file system with Python, packed: made with debootstrap, once, in under a minute."""
    tar = cache_dir() / f"{SUITE}-python.tar"
    if not tar.exists():
        tar.parent.mkdir(parents=True, exist_ok=True)
        fresh = tar.with_name(f"{tar.name}.{os.getpid()}")
        # In memory, where dpkg's many syncs cost nothing; gone with its mount namespace.
        script = (
            f"set -e; {LET_GO}; mount -t tmpfs tmpfs /mnt; "
            'debootstrap --variant=minbase --include=python3-venv "$1" /mnt; '
            'rm -rf /mnt/var/cache/apt/archives/*.deb; tar -C /mnt -cf "$2" .'
        )
        try:
            _run("unshare", "--mount", "sh", "-c", script, "sh", SUITE, str(fresh))
            fresh.rename(tar)
        finally:
            fresh.unlink(missing_ok=True)
    return tar


def wheels() -> Path:
    """What the image installs, fetched as this machine fetches packages; kept by its locks."""
    locks = [ROOT / "requirements.txt", ROOT / "container/requirements-build.txt"]
    key = hashlib.sha256(b"".join(lock.read_bytes() for lock in locks)).hexdigest()[:16]
    # Not "wheels-": another rig keeps those of its own Python there, which may be the same.
    folder = cache_dir() / f"image-wheels-{PYTHON}-{key}"
    if not folder.exists():
        for old in cache_dir().glob(f"image-wheels-{PYTHON}-{'?' * len(key)}"):
            shutil.rmtree(old)
        fresh = folder.with_name(f"{folder.name}.{os.getpid()}")
        machine = platform.machine()
        kinds = [
            f"{kind}_{machine}" for kind in ("manylinux2014", "manylinux_2_17", "manylinux_2_28")
        ]
        try:
            _run(
                *(sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(fresh)),
                *("--only-binary", ":all:", "--require-hashes", "--python-version", PYTHON),
                *(option for kind in kinds for option in ("--platform", kind)),
                *(option for lock in locks for option in ("--requirement", str(lock))),
            )
            fresh.rename(folder)
        except OSError:  # two did this at once
            if not folder.exists():
                raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return folder


@dataclass(frozen=True)
class Podman:
    """Images and containers below ``folder``, and no others."""

    folder: Path

    def command(self, *arguments: str) -> list[str]:
        """The command line for ``arguments``."""
        return [
            # Nothing runs the health check by the clock: that would take systemd.
            *("env", "DISABLE_HC_SYSTEMD=true", "podman", *self._storage),
            *("--tmpdir", str(self.folder / "tmp"), "--cgroup-manager", "cgroupfs"),
            *("--runtime", "runc", "--events-backend", "none", *arguments),
        ]

    @property
    def _storage(self) -> list[str]:
        place = ["--root", str(self.folder / "images"), "--runroot", str(self.folder / "run")]
        return [*place, "--storage-driver", "overlay"]

    def __call__(self, *arguments: str) -> str:
        """Run podman; give what it printed. Raises `RuntimeError` if it fails."""
        return _run(*self.command(*arguments))

    def build(self) -> None:
        """Build the image from the checkout, with no network."""
        self("import", str(base_tar()), BASE)
        pip = self.folder / "pip.conf"
        pip.write_text("# only-while-building\n[global]\nno-index = true\nfind-links = /wheels\n")
        # In a namespace of its own, for those that it makes from it take long.
        _run(
            *("unshare", "--mount", "sh", "-c", f'{LET_GO}; exec "$@"', "sh"),
            *("env", f"TMPDIR={self.folder}", "buildah", *self._storage, "build"),
            *("--isolation", "chroot", "--format", "docker", "--layers=false", "--pull-never"),
            *("--build-arg", f"BASE={BASE}", "--secret", f"id=pip,src={pip}"),
            *("--volume", f"{wheels()}:/wheels:ro", "--tag", IMAGE, str(ROOT)),
        )

    def inspect(self, what: str) -> dict[str, Any]:
        """All that podman knows of an image or a container."""
        (found,) = json.loads(self("inspect", what))
        return dict(found)

    def run_command(self, *arguments: str) -> list[str]:
        """The command line that runs a container in the foreground; removed when it ends."""
        # podman's own are more than a root without CAP_SYS_RESOURCE may give.
        limits = [f"--ulimit={name}=1000:1000" for name in ("nofile", "nproc")]
        return self.command("run", "--rm", *limits, *arguments)


@dataclass
class Contained(Service):
    """The service in a container, for as long as it runs; its folders are those of `Service`.

    It sees the tiers and its state as the image's own settings say, below ``/downloads``
    and ``/config``, and uses this machine's network unless told otherwise.
    """

    podman: Podman = field(default_factory=lambda: Podman(Path()))
    options: Sequence[str] = ()  #: of ``podman run``

    def launch(self) -> subprocess.Popen[bytes]:
        """Start it, and return at once."""
        self._begin = self.output_path.stat().st_size if self.output_path.exists() else 0
        self.pid_file = self.root / "pid"
        self.pid_file.unlink(missing_ok=True)
        env = {
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": str(free_port()),
            "HTTP_API_KEY": KEY,
            "QBIT_HOST": self.qbittorrent_url,
            "PATH_MAPPINGS": f"{self.ssd}=/downloads/ssd,{self.hdd}=/downloads/hdd",
            "DISK_SPACE_THRESHOLD_GB": "0",
            "HDD_MIN_FREE_GB": "0",
            "SHUTDOWN_GRACE_S": "1",
            **self.env,
        }
        network = (
            () if any(o.startswith("--network") for o in self.options) else ("--network=host",)
        )
        volumes = {self.ssd: "/downloads/ssd", self.hdd: "/downloads/hdd", self.state: "/config"}
        command = self.podman.run_command(
            *("--name", self.name, "--pidfile", str(self.pid_file), *network),
            *(f"--volume={ours}:{theirs}" for ours, theirs in volumes.items()),
            *(f"--env={name}={value}" for name, value in env.items() if value),
            *self.options,
            IMAGE,
        )
        with self.output_path.open("ab") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        return self.process

    @property
    def name(self) -> str:
        """Of its container."""
        return f"qbm-{self.root.name}"

    @property
    def pid(self) -> int:
        """Its process, as this machine numbers it: process 1 inside."""
        return int(self.pid_file.read_text())

    def healthy(self) -> tuple[int, str]:
        """The image's own health check: its exit status, and what podman shows of it."""
        command = self.podman.command("healthcheck", "run", self.name)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        log = self.podman.inspect(self.name)["State"]["Health"]["Log"]
        return done.returncode, str(log[-1]["Output"]).strip()

    def kill(self) -> None:
        """``kill -9`` of its process, and of podman's own if it had not come so far."""
        process, self.process = self.process, None
        if process is not None and process.poll() is None:
            command = self.podman.command("rm", "--force", "--time", "0", "--ignore", self.name)
            subprocess.run(command, capture_output=True, check=False, timeout=30)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


@contextmanager
def podman(folder: Path) -> Iterator[Podman]:
    """Images and containers in memory, for as long as the block lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    mount(folder, size="2g")
    try:
        yield Podman(folder)
    finally:
        unmount_below(folder)


def _run(*command: str) -> str:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        words = f"{done.stdout}\n{done.stderr}".strip()[-3000:]
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{words}")
    return done.stdout
