"""The real qBittorrents of ``scripts/rig``, and a newer one in a root of its own.

``QBM_TEST_CACHE`` (default ``$XDG_CACHE_HOME/qbm-trio``) keeps the root file
system with the newer qBittorrent between runs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scripts.rig.qbt import (
    PASSWORD,
    Installed,
    Launcher,
    Qbt,
    free_port,
    has_settled,
    running,
)

__all__ = [
    "PASSWORD",
    "Chroot",
    "Installed",
    "Launcher",
    "Qbt",
    "cache_dir",
    "free_port",
    "has_settled",
    "running",
]


_PACKAGES = ("qbittorrent-nox", "curl", "python3")  #: the others are for what it runs


@dataclass(frozen=True)
class Chroot:
    """A qbittorrent-nox inside a Debian root of its own (5.1.0 on Debian 13).

    The folder ``shared`` is seen inside under the same path, with what is mounted
    below it. What is mounted or unmounted there later is seen inside where it is below a
    shared mount (`disks.shared_place`) that was there first. Needs root, in a mount
    namespace of its own, so nothing stays mounted when it ends.
    """

    shared: Path
    # Named after what is in it, since one that is there is never changed.
    root: Path = field(default_factory=lambda: cache_dir() / "trixie-curl-python3")
    suite: str = "trixie"

    def command(self, arguments: Sequence[str]) -> list[str]:
        self.install()
        script = (
            'set -e; root=$1 shared=$2; shift 2; mount -t tmpfs tmpfs "$root/tmp"; '
            'mkdir -p "$root$shared"; mount --rbind "$shared" "$root$shared"; '
            'mount -t proc proc "$root/proc"; mount --rbind /dev "$root/dev"; '
            'exec chroot "$root" /usr/bin/qbittorrent-nox "$@"'
        )
        # A slave: it sees our mounts, we do not see its. Private, it would hold each disk
        # that is mounted now for as long as it runs.
        unshare = ["unshare", "--mount", "--propagation", "slave"]
        here = [*unshare, "sh", "-c", script, "sh", str(self.root), str(self.shared)]
        return [*here, *arguments, "--confirm-legal-notice"]

    def install(self) -> None:
        """Make the root with debootstrap, once, in under a minute."""
        if (self.root / "usr/bin/qbittorrent-nox").exists():
            return
        self.root.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.root.with_name(f"{self.root.name}.{os.getpid()}")
        options = ["--variant=minbase", f"--include={','.join(_PACKAGES)}"]
        done = subprocess.run(
            ["debootstrap", *options, self.suite, str(fresh)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"debootstrap failed:\n{done.stdout.decode()[-2000:]}")
        # The file system decides between two that did this at once.
        try:
            fresh.rename(self.root)
        except OSError:
            shutil.rmtree(fresh)


def cache_dir() -> Path:
    """Where things that take long to make are kept."""
    chosen = os.environ.get("QBM_TEST_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen) if chosen else Path(base) / "qbm-trio"
