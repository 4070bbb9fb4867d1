"""What a container of LinuxServer.io is to those who run in it, under a real s6.

A root file system made of mounts, with this machine's programs, and a user abc, /config,
/downloads and /run of its own. What LinuxServer's init does at a start is done here step
by step: the container's environment, secrets from ``FILE__NAME``, the scripts of
/custom-cont-init.d, a service directory for each file of /custom-services.d. All of it
needs root, as CI has it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from tests.rig.disks import unmount_below
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

    root: Path
    env: dict[str, str] = field(default_factory=dict)
    svscan: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What ``docker logs`` shows."""
        return (self.root.parent / "container.log").read_text(errors="replace")

    def place(self, inside: str) -> Path:
        """Where a path of the container is for us."""
        return self.root / inside.lstrip("/")

    def command(self, *command: str) -> list[str]:
        """A command line that runs in the container, with its environment."""
        return ["chroot", str(self.root), "/command/with-contenv", *command]

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
        with (self.root.parent / "container.log").open("ab") as log:
            self.svscan = subprocess.Popen(
                ["chroot", str(self.root), "s6-svscan", "/run/service"],
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
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(20)

    def pid(self, service: str = CUSTOM) -> int | None:
        """The process that s6 runs as this service, if one runs."""
        pid = int(self.run("s6-svstat", "-o", "pid", f"/run/service/{service}"))
        return pid if pid > 0 else None

    def run_quietly(self, *command: str) -> bool:
        """Whether a command succeeds."""
        return not subprocess.run(self.command(*command), capture_output=True).returncode

    def wait_for(
        self, condition: Callable[[], T | None], what: str, limit_s: float = STARTED_WITHIN_S
    ) -> T:
        """Ask until ``condition`` gives something."""
        deadline = time.monotonic() + limit_s
        while not (found := condition()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {limit_s} s: {what}\n{self.log[-4000:]}")
            time.sleep(0.02)
        return found


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
        ids = ["-u", str(self.user), "-g", str(self.group), "-G", str(self.group)]
        script = 'umask "$1"; export HOME="$2"; shift 2; exec qbittorrent-nox "$@"'
        here = ["s6-applyuidgid", *ids, "sh", "-c", script, "sh", self.umask, str(self.folder)]
        return self.container.command(*here, *arguments)


@contextmanager
def container(folder: Path, *, checkout: Path, env: Mapping[str, str]) -> Iterator[Container]:
    """A container below ``folder``, with ``checkout`` mounted at /qbit-manager; not booted."""
    root = folder / "root"
    root.mkdir(parents=True)
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(root))
    made = Container(root, {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", **env})
    try:
        _fill(made, checkout)
        yield made
    finally:
        try:
            made.halt()
        finally:
            unmount_below(root)


def _fill(made: Container, checkout: Path) -> None:
    root = made.root
    run("mount", "--make-private", str(root))
    for name in _SAME:
        if Path("/", name).is_symlink():
            (root / name).symlink_to(Path("/", name).readlink())
        elif Path("/", name).exists():
            bind(Path("/", name), root / name)
    bind(Path("/usr"), root / "usr")
    # Debian's Python may be without venv, or be another than the one that runs the tests.
    if not Path(sys.base_prefix).is_relative_to("/usr"):
        # Where it was built for: it finds its library by that path.
        bind(Path(sys.base_prefix), root / sys.base_prefix.lstrip("/"))
        made.env["PATH"] = f"{sys.base_prefix}/bin:{made.env['PATH']}"
    for name in ("config", "command", "run", "proc", "dev", "etc", "alpine"):
        (root / name).mkdir()
    # LinuxServer adds bash, coreutils and findutils to Alpine; this one is still busybox's.
    (root / "alpine/tar").symlink_to(shutil.which("busybox") or "/bin/busybox")
    made.env["PATH"] = f"/alpine:{made.env['PATH']}"
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    run("mount", "-t", "proc", "proc", str(root / "proc"))
    for name in _DEVICES:
        (root / "dev" / name).touch()
        run("mount", "--bind", f"/dev/{name}", str(root / "dev" / name))
    (root / "dev/fd").symlink_to("/proc/self/fd")
    for name in _ETC:
        source, target = Path("/etc", name), root / "etc" / name
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore_dangling_symlinks=True)
        elif source.exists():
            shutil.copy(source, target)
    (root / "command/with-contenv").write_text(_WITH_CONTENV)
    (root / "command/with-contenv").chmod(0o755)
    bind(checkout, root / "qbit-manager")
    run("mount", "-o", "remount,bind,ro", str(root / "qbit-manager"))
    for name in ("custom-cont-init.d", "custom-services.d"):
        bind(ROOT / "scripts/linuxserver" / name, root / name)
        run("mount", "-o", "remount,bind,ro", str(root / name))
    for name in ("ssd", "hdd"):
        target = root / "downloads" / name
        target.mkdir(parents=True)
        run(
            "mount",
            "-t",
            "tmpfs",
            "-o",
            f"size=64m,mode=775,uid={PUID},gid={PGID}",
            name,
            str(target),
        )


def bind(source: Path, target: Path) -> None:
    """Show a folder in the container, without what is mounted below it."""
    target.mkdir(parents=True, exist_ok=True)
    run("mount", "--bind", str(source), str(target))
    run("mount", "--make-private", str(target))
