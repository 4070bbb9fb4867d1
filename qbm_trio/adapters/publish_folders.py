"""Make destination folders that look like their counterparts on the SSD."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from . import disk_calls
from .disk_errors import read_error

_REFUSED = {errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


def deepest_existing(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder


def make_folders(
    folder: Path,
    *,
    staging: Path,
    model: Path,
    model_root: Path,
    step: Callable[[str], None] = lambda _: None,
) -> list[tuple[Path, Path]]:
    """Make ``folder`` and what is missing above it.

    Each is made in staging, given its owner and mode there, and renamed into place:
    a crash leaves no folder with the wrong ones, and no existing folder is changed.

    Args:
        folder: a real path.
        staging: a folder of our own on the same file system.
        model: the SSD folder to look like; the one above it is the model for the folder
            above, and so on up to ``model_root``, which serves for all above it.
        model_root: nothing above it is a model.
        step: called between two changes to the disk.

    Returns:
        The folders made, with their models, outermost first.

    Raises:
        OSError: EEXIST or ENOTDIR where a file stands in the way.
        JobError: a model is gone or cannot be read.
    """
    missing: list[tuple[Path, Path]] = []
    at, like = folder, model
    while not at.is_dir():
        if os.path.lexists(at):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), str(at))
        missing.append((at, like))
        at = at.parent
        if like not in (model_root, like.parent):
            like = like.parent
    missing.reverse()
    for path, like in missing:
        _make(path, staging, like, step)
    return missing


def _make(path: Path, staging: Path, like: Path, step: Callable[[str], None]) -> None:
    try:
        status = like.stat()
    except OSError as error:
        raise read_error(error, like) from error
    fresh = staging / f"folder-{secrets.token_hex(8)}"
    fresh.mkdir(mode=0o700)
    step("folder made in staging")
    follow_owner_and_mode(str(fresh), status)
    step("folder given its owner")
    try:
        _move_folder(fresh, path)
    except OSError:
        fresh.rmdir()
        if not path.is_dir():  # unless somebody made it meanwhile
            raise
    step("folder published")


def _move_folder(fresh: Path, path: Path) -> None:
    old = os.open(fresh.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        new = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            disk_calls.rename_noreplace(old, fresh.name, new, path.name)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EXDEV):
                raise
            # No such rename here: make it in place, and accept that a crash right
            # after this leaves a folder that only the service may enter.
            os.mkdir(path.name, 0o700, dir_fd=new)
            follow_owner_and_mode(path.name, fresh.stat(), dir_fd=new)
            fresh.rmdir()
        finally:
            os.close(new)
    finally:
        os.close(old)


def follow_owner_and_mode(
    name: str,
    model: os.stat_result,
    *,
    dir_fd: int | None = None,
    now: os.stat_result | None = None,
    at_least: int = 0,
) -> None:
    """Give a file or folder the owner, group and mode of ``model``, where permitted.

    What is right already is not touched. Set-user-id and set-group-id bits are not taken
    over for files; a folder keeps its set-group-id, by which shared libraries hand their
    group down.

    Args:
        name: of the file or folder; never followed as a link.
        model: whose owner, group and mode.
        dir_fd: the folder that ``name`` is in.
        now: its present status, where the caller knows it.
        at_least: permissions that it has in any case.

    Raises:
        OSError: the system refused for another reason than a lack of rights.
    """
    if now is None:
        now = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    changed = (now.st_uid, now.st_gid) != (model.st_uid, model.st_gid)
    if changed:
        try:
            _chown(name, model.st_uid, model.st_gid, dir_fd)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            with suppress(PermissionError):
                _chown(name, -1, model.st_gid, dir_fd)
    folder = stat.S_ISDIR(now.st_mode)
    keep = 0o777 | (stat.S_ISGID if folder else 0)
    own = 0o700 if folder else 0  # files must get into a folder even if its model is read-only
    mode = model.st_mode & keep | own | at_least
    # After chown, which clears such bits.
    if changed or mode != stat.S_IMODE(now.st_mode):
        try:
            # Nobody else can put a link here: the folder is ours alone.
            os.chmod(name, mode, dir_fd=dir_fd)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise


def _chown(name: str, user: int, group: int, dir_fd: int | None) -> None:
    os.chown(name, user, group, dir_fd=dir_fd, follow_symlinks=False)


def set_folder_times(folder: Path, model: Path) -> None:
    """Give a folder the times of its model, where permitted and the model is still there."""
    with suppress(FileNotFoundError, PermissionError):
        status = model.stat()
        os.utime(folder, ns=(status.st_atime_ns, status.st_mtime_ns))
