"""A disk that answers with I/O errors when told to: a FUSE file system over a folder.

It passes everything through, but for the calls named in a file beside it, and notes
what it refused. It needs root, and the libfuse that mergerfs brings along.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.rig.mounts import is_mounted, unmount

MARKER = "/.qbm-tier"
ALL = "all"  #: every call fails, also those that concern the tier's marker
WITHIN_S = 20.0


@dataclass(frozen=True, kw_only=True)
class FailingDisk:
    """The mounted file system, and the file that says what fails."""

    at: Path
    backing: Path
    control: Path

    def fail(self, *calls: str) -> None:
        """From now on these calls, and no others, answer EIO: `ALL`, ``write``, ``fsync``, …

        Those that concern the tier's marker do so with `ALL` only, or with ``marker``.
        """
        temporary = self.control.with_suffix(".new")
        temporary.write_text(" ".join(calls))
        temporary.replace(self.control)

    def refused(self) -> list[tuple[str, str]]:
        """Each call that failed, with its path below the disk."""
        noted = _noted(self.control)
        lines = noted.read_text().splitlines() if noted.exists() else []
        return [(call, path) for call, _, path in (line.partition(" ") for line in lines)]


def _noted(control: Path) -> Path:
    return control.with_suffix(".refused")


@contextmanager
def failing_disk(at: Path, backing: Path) -> Iterator[FailingDisk]:
    """Mount it at ``at``; what it holds lies in ``backing``."""
    at.mkdir(parents=True, exist_ok=True)
    backing.mkdir(parents=True)
    disk = FailingDisk(at=at, backing=backing, control=backing.with_name("fails"))
    disk.fail()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.rig.failing_disk", *map(str, (at, backing, disk.control))],
        env={**os.environ, "FUSE_LIBRARY_PATH": "libfuse.so.2"},
        cwd=Path(__file__).parents[2],
    )
    try:
        deadline = time.monotonic() + WITHIN_S
        while not is_mounted(at):
            assert process.poll() is None, "it ended at once"
            assert time.monotonic() < deadline, "it is not mounted"
            time.sleep(0.02)
        yield disk
    finally:
        process.kill()  # whoever waits for it gets an error
        process.wait(WITHIN_S)
        if is_mounted(at):
            unmount(at)


def _passing_through(backing: str, control: Path) -> Any:
    # Here: the tests that use this module need not load libfuse.
    import mfusepy  # type: ignore[import-untyped]

    def place(path: str) -> str:
        return backing + path

    def attributes(status: os.stat_result) -> dict[str, int]:
        times = ("st_atime", "st_mtime", "st_ctime")
        rest = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_ino", "st_blocks")
        return {name: getattr(status, name) for name in rest} | {
            name: getattr(status, f"{name}_ns") for name in times
        }

    def failing(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def checked(self: object, path: str, *more: Any) -> Any:
            words = control.read_text().split()
            wanted = {ALL} if path == MARKER and "marker" not in words else {ALL, name}
            if wanted & set(words):
                with _noted(control).open("a") as file:
                    file.write(f"{name} {path}\n")
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return call(path, *more)

        return checked

    def entries(path: str, _: int) -> list[tuple[str, dict[str, int], int]]:
        folder = place(path)
        names = (".", "..", *os.listdir(folder))
        # Without a number of its own an entry is left out by the C library.
        return [(name, attributes(os.lstat(f"{folder}/{name}")), 0) for name in names]

    def write(_: str, data: bytes, offset: int, fd: int) -> int:
        return os.pwrite(fd, data, offset)

    def fsyncdir(path: str, *_: Any) -> None:
        fd = os.open(place(path), os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def utimens(path: str, times: tuple[int, int]) -> None:
        os.utime(place(path), ns=times, follow_symlinks=False)

    def statfs(path: str) -> dict[str, int]:
        figures = os.statvfs(place(path))
        return {name: getattr(figures, name) for name in dir(figures) if name.startswith("f_")}

    calls: dict[str, Callable[..., Any]] = {
        "getattr": lambda path, *_: attributes(os.lstat(place(path))),
        "readdir": entries,
        "readlink": lambda path: os.readlink(place(path)),
        "open": lambda path, flags: os.open(place(path), flags & ~os.O_NOFOLLOW),
        "create": lambda path, mode, *_: os.open(place(path), os.O_RDWR | os.O_CREAT, mode),
        "read": lambda _, size, offset, fd: os.pread(fd, size, offset),
        "write": write,
        "fsync": lambda *its: os.fsync(its[-1]),
        "fsyncdir": fsyncdir,
        "release": lambda _, fd: os.close(fd),
        "truncate": lambda path, size, *_: os.truncate(place(path), size),
        "mkdir": lambda path, mode: os.mkdir(place(path), mode),
        "rmdir": lambda path: os.rmdir(place(path)),
        "unlink": lambda path: os.unlink(place(path)),
        "rename": lambda old, new: os.rename(place(old), place(new)),
        "link": lambda new, old: os.link(place(old), place(new), follow_symlinks=False),
        "symlink": lambda new, target: os.symlink(target, place(new)),
        "chmod": lambda path, mode: os.chmod(place(path), mode),
        "chown": lambda path, uid, gid: os.chown(place(path), uid, gid, follow_symlinks=False),
        "utimens": utimens,
        "statfs": statfs,
    }

    def nothing(result: Any) -> Any:
        return 0 if result is None else result

    members: dict[str, Any] = {
        name: failing(name, lambda *a, call=call: nothing(call(*a))) for name, call in calls.items()
    }
    return mfusepy, type("FailingDisk", (mfusepy.Operations,), members | {"use_ns": True})()


def main(at: str, backing: str, control: str) -> None:
    """Serve the file system until it is unmounted."""
    mfusepy, operations = _passing_through(backing, Path(control))
    mfusepy.FUSE(
        operations, at, foreground=True, use_ino=True, big_writes=True, attr_timeout=0,
        entry_timeout=0, negative_timeout=0,
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
