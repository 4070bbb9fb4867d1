"""What a container of LinuxServer.io is to those who run in it, under a real s6.

A root file system made of mounts, with this machine's programs, and a user abc, /config,
/downloads and /run of its own, in namespaces of its own: mounts and processes are gone with
it, also when the tests are killed. What LinuxServer's init does at a start is done here step
by step: the container's environment, secrets from ``FILE__NAME``, the scripts of
/custom-cont-init.d, a service directory for each file of /custom-services.d. All of it
needs root, as CI has it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from scripts.rig.waiting import wait_for
from tests.rig.disks import LET_GO
from tests.rig.mounts import run
from tests.rig.qbt import cache_dir

ROOT = Path(__file__).resolve().parents[2]
PUID, PGID = 1001, 1002
CUSTOM = "custom-svc-qbm-trio"  #: what LinuxServer makes of /custom-services.d/qbm-trio
STARTED_WITHIN_S = 40.0

_SAME = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ETC = ("ld.so.cache", "nsswitch.conf", "resolv.conf", "hosts", "localtime", "ssl", "alternatives")
_DEVICES = ("null", "zero", "full", "random", "urandom")
# The environment of the container in place of one's own, as that of s6-overlay.
_WITH_CONTENV = """\
#!/bin/sh
exec env -i s6-envdir -Lf /run/s6/container_environment "$@"
"""

T = TypeVar("T")


def wheels() -> Path:
    """A folder with the locked packages, fetched once for each lock."""
    lock = ROOT / "requirements.txt"
    version = "{}.{}".format(*sys.version_info)
    folder = cache_dir() / f"wheels-{version}-{sha256(lock.read_bytes()).hexdigest()[:16]}"
    if not folder.exists():
        fresh = folder.with_name(f"{folder.name}.{os.getpid()}")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
        run(*pip, "--require-hashes", "--requirement", str(lock), "--dest", str(fresh))
        try:
            fresh.rename(folder)
        except OSError:  # two did this at once
            shutil.rmtree(fresh)
    return folder


@dataclass
class Container:
    """One container; `boot` and `halt` start and stop it. Its files outlive that."""

    folder: Path
    holder: int  #: the process that holds the namespaces
    env: dict[str, str] = field(default_factory=dict)
    svscan: subprocess.Popen[bytes] | None = None

    @property
    def root(self) -> Path:
        """Its root, as those in its mount namespace call it."""
        return self.folder / "root"

    @property
    def log(self) -> str:
        """What ``docker logs`` shows."""
        return (self.folder / "container.log").read_text(errors="replace")

    def place(self, inside: str) -> Path:
        """Where a path of the container is for us."""
        return Path(f"/proc/{self.holder}/root{self.root}{inside}")

    def entering(self, *command: str, processes: bool = True) -> list[str]:
        """A command line that runs in its namespaces; with or without that of processes."""
        kinds = ["--mount", "--pid"] if processes else ["--mount"]
        return ["nsenter", f"--target={self.holder}", *kinds, "chroot", str(self.root), *command]

    def command(self, *command: str, processes: bool = True) -> list[str]:
        """A command line that runs in the container, with its environment."""
        return self.entering("/command/with-contenv", *command, processes=processes)

    def mount(self, *arguments: str) -> None:
        """Mount something in the container; paths are ours."""
        run("nsenter", f"--target={self.holder}", "--mount", "mount", *arguments)

    def bind(self, source: Path, inside: str) -> None:
        """Show a folder of ours in the container, only for reading."""
        self.place(inside).mkdir(parents=True, exist_ok=True)
        target = f"{self.root}{inside}"
        self.mount("--bind", str(source), target)
        self.mount("-o", "remount,bind,ro", target)

    def run(self, *command: str, status: int = 0) -> str:
        """What ``docker exec`` does, as root; give what it printed."""
        done = subprocess.run(
            self.command(*command), capture_output=True, text=True, check=False, timeout=300
        )
        printed = done.stdout + done.stderr
        assert done.returncode == status, f"{command} ended with {done.returncode}:\n{printed}"
        return printed

    def boot(self, *, file_secrets: bool = True, **env: str) -> str:
        """Start it as LinuxServer's init does; give what the scripts printed.

        With ``file_secrets=False`` as an s6 without that init: nobody reads ``FILE__NAME``.
        """
        self._adopt(PUID, PGID)
        shutil.rmtree(self.place("/run"))
        self.write_environment(file_secrets=file_secrets, **env)
        printed = ""
        for script in sorted(self.place("/custom-cont-init.d").iterdir()):
            # Whatever it ends with: LinuxServer's init only tells.
            command = self.command("/bin/bash", f"/custom-cont-init.d/{script.name}")
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            printed += f"{done.stdout}{done.stderr}[{script.name}: exited {done.returncode}]\n"
        for service in self.place("/custom-services.d").iterdir():
            self.add_service(f"custom-svc-{service.name}", {"run": service})
        self.place("/run/service").mkdir(exist_ok=True)
        with (self.folder / "container.log").open("ab") as log:
            self.svscan = subprocess.Popen(
                self.entering("s6-svscan", "/run/service"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": self.env["PATH"]},
            )
        self.wait_for(lambda: self.run_quietly("s6-svok", f"/run/service/{CUSTOM}"), "s6 is up")
        return printed

    def write_environment(self, *, file_secrets: bool = True, **env: str) -> None:
        """Write what ``with-contenv`` gives to those who run in the container."""
        folder = self.place("/run/s6/container_environment")
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in {**self.env, **env}.items():
            (folder / name).write_text(value)
            if file_secrets and name.startswith("FILE__"):
                secret = self.place(value).read_text()
                (folder / name.removeprefix("FILE__")).write_text(secret.replace("\n", ""))

    def _adopt(self, user: int, group: int) -> None:
        """Give abc its ids, and what is in /config to abc."""
        self.place("/etc/passwd").write_text(
            f"root:x:0:0:root:/root:/bin/sh\nabc:x:{user}:{group}::/config:/bin/false\n"
        )
        self.place("/etc/group").write_text(f"root:x:0:\nabc:x:{group}:\n")
        run("chown", "-R", f"{user}:{group}", str(self.place("/config")))

    def add_service(self, name: str, files: Mapping[str, Path]) -> None:
        """Make a service directory: a copy of these files. A running s6 starts it at `rescan`."""
        folder = self.place(f"/run/service/{name}")
        folder.mkdir(parents=True)
        for target, source in files.items():
            shutil.copy(source, folder / target)

    def rescan(self, name: str) -> None:
        """Have s6 see a new service directory, and start it."""
        self.run("s6-svscanctl", "-a", "/run/service")
        self.wait_for(lambda: self.run_quietly("s6-svok", f"/run/service/{name}"), "s6 has it")

    def halt(self) -> None:
        """Stop it: the services are brought down and waited for, as by ``s6-rc -da change``."""
        process, self.svscan = self.svscan, None
        if process is None:
            return
        services = [
            f"/run/service/{path.name}" for path in self.place("/run/service").glob("[!.]*")
        ]
        try:
            for service in services:
                self.run_quietly("s6-svc", "-wD", "-T", "10000", "-d", service)
                self.run_quietly("s6-svc", "-k", service)
        finally:
            self.run_quietly("s6-svscanctl", "-t", "/run/service")
            process.wait(20)

    def pid(self, service: str = CUSTOM) -> int | None:
        """The process that s6 runs as this service, if one runs; as it is called inside."""
        pid = int(self.run("s6-svstat", "-o", "pid", f"/run/service/{service}"))
        return pid if pid > 0 else None

    def process(self, pid: int, file: str) -> str:
        """A file of ``/proc`` about a process in the container."""
        return self.place(f"/proc/{pid}/{file}").read_text()

    def pids_of(self, *arguments: str) -> list[int]:
        """The processes whose command lines end with these arguments."""
        found = []
        for folder in self.place("/proc").glob("[0-9]*"):
            with suppress(OSError):  # ended meanwhile
                line = folder.joinpath("cmdline").read_text().rstrip("\0").split("\0")
                if line[-len(arguments) :] == list(arguments):
                    found.append(int(folder.name))
        return found

    def run_quietly(self, *command: str) -> bool:
        """Whether a command succeeds."""
        return not subprocess.run(self.command(*command), capture_output=True).returncode

    def wait_for(
        self, condition: Callable[[], T | None], what: str, limit_s: float = STARTED_WITHIN_S
    ) -> T:
        """Ask until ``condition`` gives something."""
        return wait_for(condition, what, limit_s, output=lambda: self.log[-4000:])


@dataclass(frozen=True)
class InContainer:
    """A qBittorrent in the container, run by any user, with its environment; a `Launcher`."""

    container: Container
    folder: Path  #: its profile; seen in the container under the same path
    user: int
    group: int
    umask: str = "002"

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Give the command line that runs qbittorrent-nox with ``arguments``."""
        run("chown", "-R", f"{self.user}:{self.group}", str(self.folder))
        inside = self.container.place(str(self.folder))
        if not inside.exists():
            inside.mkdir(parents=True)
            self.container.mount("--bind", str(self.folder), f"{self.container.root}{self.folder}")
        ids = ["-u", str(self.user), "-g", str(self.group), "-G", str(self.group)]
        script = 'umask "$1"; export HOME="$2"; shift 2; exec qbittorrent-nox "$@"'
        here = ["s6-applyuidgid", *ids, "sh", "-c", script, "sh", self.umask, str(self.folder)]
        # Signals reach it itself: it is no child of what enters.
        return self.container.command(*here, *arguments, processes=False)


@contextmanager
def container(folder: Path, *, checkout: Path, env: Mapping[str, str]) -> Iterator[Container]:
    """A container with ``checkout`` at /qbit-manager, its log in ``folder``; not booted."""
    (folder / "root").mkdir(parents=True)
    # Whatever becomes of us, the kernel ends the first of these two, the second with it, and with
    # that, the first process of its namespace, all others in there.
    dies_with_us = ["setpriv", "--pdeathsig", "KILL", "unshare", "--fork", "--kill-child"]
    kinds = ["--mount", "--propagation", "private", "--pid"]
    first = ["sh", "-c", f"{LET_GO}; echo; exec sleep infinity"]
    with subprocess.Popen([*dies_with_us, *kinds, *first], stdout=subprocess.PIPE) as unshare:
        try:
            assert unshare.stdout is not None
            unshare.stdout.readline()
            children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text()
            path = "/alpine:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
            made = Container(folder, int(children), {"PATH": path, **env})
            _fill(made, checkout)
            yield made
        finally:
            unshare.kill()


def _fill(made: Container, checkout: Path) -> None:
    made.mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(made.root))
    for name in _SAME:
        if Path("/", name).is_symlink():
            made.place(f"/{name}").symlink_to(Path("/", name).readlink())
        elif Path("/", name).exists():
            made.bind(Path("/", name), f"/{name}")
    made.bind(Path("/usr"), "/usr")
    # Debian's Python may be without venv, or be another than the one that runs the tests.
    if not Path(sys.base_prefix).is_relative_to("/usr"):
        # Where it was built for: it finds its library by that path.
        made.bind(Path(sys.base_prefix), sys.base_prefix)
        made.env["PATH"] = f"{sys.base_prefix}/bin:{made.env['PATH']}"
    for name in ("config", "command", "run", "proc", "dev", "etc", "alpine", "tmp"):
        made.place(f"/{name}").mkdir()
    made.place("/tmp").chmod(0o1777)
    # LinuxServer adds bash, coreutils and findutils to Alpine; this one is still busybox's.
    made.place("/alpine/tar").symlink_to(shutil.which("busybox") or "/bin/busybox")
    # Mounted by a process of the namespace, whose processes it shows.
    proc = ["mount", "-t", "proc", "proc", str(made.root / "proc")]
    run("nsenter", f"--target={made.holder}", "--mount", "--pid", *proc)
    for name in _DEVICES:
        made.place(f"/dev/{name}").touch()
        made.mount("--bind", f"/dev/{name}", str(made.root / "dev" / name))
    made.place("/dev/fd").symlink_to("/proc/self/fd")
    for name in _ETC:
        source, target = Path("/etc", name), made.place(f"/etc/{name}")
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore_dangling_symlinks=True)
        elif source.exists():
            shutil.copy(source, target)
    made.place("/command/with-contenv").write_text(_WITH_CONTENV)
    made.place("/command/with-contenv").chmod(0o755)
    made.bind(checkout, "/qbit-manager")
    for name in ("custom-cont-init.d", "custom-services.d"):
        made.bind(ROOT / "scripts/linuxserver" / name, f"/{name}")
    for name in ("ssd", "hdd"):
        made.place(f"/downloads/{name}").mkdir(parents=True)
        options = f"size=64m,mode=775,uid={PUID},gid={PGID}"
        made.mount("-t", "tmpfs", "-o", options, name, str(made.root / "downloads" / name))
