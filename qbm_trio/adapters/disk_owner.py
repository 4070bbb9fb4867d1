"""Whose a file or folder is, and who may use it: as of its counterpart on the SSD."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

_REFUSED = {errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


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
            with _where_permitted():
                _chown(name, -1, model.st_gid, dir_fd)
    folder = stat.S_ISDIR(now.st_mode)
    keep = 0o777 | (stat.S_ISGID if folder else 0)
    own = 0o700 if folder else 0  # files must get into a folder even if its model is read-only
    mode = model.st_mode & keep | own | at_least
    # After chown, which clears such bits.
    if changed or mode != stat.S_IMODE(now.st_mode):
        with _where_permitted():
            # Nobody else can put a link here: the folder is ours alone.
            os.chmod(name, mode, dir_fd=dir_fd)


@contextmanager
def _where_permitted() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSED:
            raise


def _chown(name: str, user: int, group: int, dir_fd: int | None) -> None:
    os.chown(name, user, group, dir_fd=dir_fd, follow_symlinks=False)
