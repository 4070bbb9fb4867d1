"""Other file systems, and second names of folders. Mounts need root, as CI has it."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def in_memory() -> Iterator[Path]:
    """A folder on another file system than temporary files usually are. Needs no root."""
    with tempfile.TemporaryDirectory(prefix="qbm-test-", dir="/dev/shm") as name:
        yield Path(name)


@contextmanager
def mounted(folder: Path, *, size: str = "4m", options: str = "") -> Iterator[Path]:
    """A small file system of its own (tmpfs) at ``folder``. Needs root."""
    folder.mkdir(parents=True, exist_ok=True)
    mount(folder, size=size, options=options)
    try:
        yield folder
    finally:
        if is_mounted(folder):
            unmount(folder)


def mount(folder: Path, *, size: str = "4m", options: str = "") -> None:
    """Mount a small, empty file system."""
    extra = f",{options}" if options else ""
    run("mount", "-t", "tmpfs", "-o", f"size={size}{extra}", "tmpfs", str(folder))


def is_mounted(folder: Path) -> bool:
    """Whether something is mounted there; `os.path.ismount` misses bind mounts."""
    return folder in mounts_below(folder)


def mounts_below(folder: Path) -> list[Path]:
    """What is mounted at ``folder`` and below it, in the order in which it was."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    targets = [Path(os.fsdecode(_unescaped(line.split()[4]))) for line in lines]
    return [target for target in targets if target.is_relative_to(folder)]


def _unescaped(name: str) -> bytes:
    """A name of ``mountinfo``, which has its spaces in octal."""
    octal = re.compile(rb"\\([0-7]{3})")
    return octal.sub(lambda found: bytes([int(found[1], 8)]), os.fsencode(name))


def unmount(folder: Path) -> None:
    """Take a file system away, also from under those who use it."""
    run("umount", "--lazy", str(folder))


@contextmanager
def bound(source: Path, target: Path) -> Iterator[Path]:
    """The folder ``source`` under a second name. Needs root."""
    target.mkdir(parents=True, exist_ok=True)
    run("mount", "--bind", str(source), str(target))
    try:
        yield target
    finally:
        if is_mounted(target):
            unmount(target)


def run(*command: str) -> str:
    """Run a command that must succeed; give what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout
