"""Make destination folders that look like their counterparts on the SSD."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

from . import disk_calls
from .disk_errors import read_error
from .disk_owner import follow_owner_and_mode


def make_folders(
    folder: Path,
    *,
    staging: Path,
    model: Path,
    model_root: Path,
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
        _make(path, staging, like)
    return missing


def _make(path: Path, staging: Path, like: Path) -> None:
    try:
        status = like.stat()
    except OSError as error:
        raise read_error(error, like) from error
    fresh = staging / f"folder-{secrets.token_hex(8)}"
    fresh.mkdir(mode=0o700)
    follow_owner_and_mode(str(fresh), status)
    try:
        _move_folder(fresh, path)
    except OSError:
        fresh.rmdir()
        if not path.is_dir():  # unless somebody made it meanwhile
            raise


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


def set_folder_times(folder: Path, model: Path) -> None:
    """Give a folder the times of its model, where permitted and the model is still there."""
    with suppress(FileNotFoundError, PermissionError):
        status = model.stat()
        os.utime(folder, ns=(status.st_atime_ns, status.st_mtime_ns))
