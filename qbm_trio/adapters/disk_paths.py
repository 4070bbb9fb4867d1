"""Paths that are proven to lie below a root, and folders opened as such."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePath
from types import TracebackType

from ..core.errors import UnsafePath

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def resolve_beneath(root: Path, relative: PurePath | str) -> Path:
    """The real path of ``root / relative``, proven to lie below ``root``.

    Links that stay below the root are followed. What does not exist yet is taken as
    named. Blocks: call it in a thread.

    Raises:
        UnsafePath: it is absolute, holds ``..`` or NUL, or a link leads out.
    """
    relative = PurePath(relative)
    if relative.is_absolute() or ".." in relative.parts or "\0" in str(relative):
        raise UnsafePath(f"{str(relative)!r} cannot be a path below {root}")
    real_root = os.path.realpath(root)
    real = os.path.realpath(os.path.join(real_root, relative))
    if real != real_root and not real.startswith(real_root.rstrip("/") + "/"):
        raise UnsafePath(f"{root / relative} leads out of {root}, to {real}, by a symbolic link")
    return Path(real)


class FolderHandle:
    """The last folder used, held open, so that files in it are reached without a walk.

    Opening proves that the folder is where its path says: a link put in its place
    after the path was resolved is refused, not followed.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._path = ""

    def open(self, path: str) -> int:
        """The descriptor of a folder, given by its real path; valid until the next call.

        Raises:
            UnsafePath: a link now stands on the way.
            OSError: it cannot be opened.
        """
        if path != self._path or self._fd < 0:
            self.close()
            fd = os.open(path, _DIRECTORY)
            try:
                _prove(fd, path)
            except BaseException:
                os.close(fd)
                raise
            self._fd, self._path = fd, path
        return self._fd

    def close(self) -> None:
        """Close it; harmless when nothing is open."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> FolderHandle:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _prove(fd: int, path: str) -> None:
    try:
        real = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        real = os.path.realpath(path)  # no /proc: the next best
    if real not in (path, f"{path} (deleted)") and not _is_really_at(path, fd):
        raise UnsafePath(f"{path} leads to {real}: a symbolic link stands on the way")


def _is_really_at(path: str, fd: int) -> bool:
    """Whether the folder has that path all the same, spelt as somebody else asked for it.

    So it is where case makes no difference (exFAT, shares; seen with NTFS-3G's ``ignore_case``).
    """
    return os.path.realpath(path) == path and os.path.samestat(os.fstat(fd), os.lstat(path))


def is_regular(status: os.stat_result) -> bool:
    """Whether this is a plain file: no folder, link, pipe or device."""
    return stat.S_ISREG(status.st_mode)


def deepest_existing(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder
