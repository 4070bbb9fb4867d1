"""Write staged files, and get them onto the disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..core.errors import DestinationChanged, MustWait
from ..core.model import Progress, WaitReason
from . import disk_calls
from .copy_stream import Chunk
from .copy_threads import Stop, WriteRate, sync_stoppable
from .disk_errors import write_error
from .disk_owner import follow_owner_and_mode
from .disk_paths import FolderHandle, is_regular

LARGE_BYTES = 16 * 1024 * 1024
"""From this size a file is written back while it is copied, and synced by itself."""
_WINDOW_BYTES = 32 * 1024 * 1024
"""At most about this much of a large file waits for the disk, so that a stop is prompt."""
_FEW_FILES = 16
"""Up to so many small files are synced one by one; more, with their whole file system if it can."""
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_REWRITE = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A staged file as the disk has it."""

    size_bytes: int
    mtime_ns: int  #: the source's, as exactly as the file system keeps it
    inode: int


class StagedWriter:
    """Writes chunks of files, each file from its start to its end, then the next."""

    def __init__(
        self, *, rate: WriteRate, stop: Stop, progress: Progress, require: Callable[[], None]
    ) -> None:
        """``require`` proves that the disk is mounted; see `copy_and_verify`."""
        self.written: dict[int, Written] = {}  #: by position
        self.copied_bytes = 0
        self._rate = rate
        self._stop = stop
        self._progress = progress
        self._require = require
        self._folders = FolderHandle()
        self._folder = ""
        self._unsynced: dict[int, Path] = {}
        self._fd = -1
        self._path = Path()  #: of ``_fd``
        self._sync_fd = -1  #: opened before the first write, so that syncfs reports its errors

    def write(self, chunk: Chunk, path: Path) -> None:
        """Write the next chunk of the file at ``path``, which it creates at offset 0.

        Where it begins with a later chunk, an earlier try has staged what is before it.

        Raises:
            DestinationChanged: it has not, or what is there is shared or is no file.
            MustWait: the disk is full, read-only or away; then nothing was written elsewhere.
            DiskError: it refused for another reason.
        """
        size = len(chunk.data)
        self._rate.wait(size, self._stop)
        try:
            if chunk.offset_bytes == 0:
                self._create(path)
            elif self._fd < 0:
                self._go_on(path, chunk.offset_bytes)
            write_fully(self._fd, chunk.data, chunk.offset_bytes)
            if chunk.span.segment.size_bytes >= LARGE_BYTES:
                self._push_out(chunk.offset_bytes, size)
            self.copied_bytes += size
            self._progress.bytes_done += size
            if chunk.last:
                self._finish(chunk, path)
        except OSError as error:
            raise write_error(error, path) from error

    def rewrite(self, position: int, path: Path, offset_bytes: int, data: memoryview) -> None:
        """Replace bytes written before; the file's times stay."""
        self._rate.wait(len(data), self._stop)
        try:
            fd = os.open(path, _REWRITE)
            try:
                before = os.fstat(fd)
                write_fully(fd, data, offset_bytes)
                if position in self.written:
                    os.utime(fd, ns=(before.st_atime_ns, self.written[position].mtime_ns))
            finally:
                os.close(fd)
        except OSError as error:
            raise write_error(error, path) from error
        self._unsynced[position] = path

    def sync(self) -> None:
        """Get everything written onto the disk, but what `take_unsynced` gave away.

        Raises:
            MustWait, DiskError: what was written did not reach it.
            Stopped: asked to stop first.
        """
        sync_all(self._unsynced, self._sync_fd, partial(sync_stoppable, stop=self._stop))
        self._unsynced.clear()

    def take_unsynced(self) -> Callable[[], None]:
        """Give away what is not synced yet: the call syncs it, in whatever thread, once."""
        unsynced, self._unsynced = self._unsynced, {}
        path = self._path
        # Descriptors of its own, for the writer goes on and closes these.
        partly_written_fd = os.dup(self._fd) if self._fd >= 0 else -1
        folder_fd = os.dup(self._sync_fd) if self._sync_fd >= 0 else -1

        def sync() -> None:
            try:
                sync_all(unsynced, folder_fd, _call)
                if partly_written_fd >= 0:
                    disk_calls.fdatasync(partly_written_fd)
            except OSError as error:
                raise write_error(error, path) from error
            finally:
                for fd in (partly_written_fd, folder_fd):
                    if fd >= 0:
                        os.close(fd)

        return sync

    def close(self) -> None:
        """Close what is open. Staged files stay."""
        self._folders.close()
        for fd in (self._fd, self._sync_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._sync_fd = -1

    def _create(self, path: Path) -> None:
        folder_fd = self._open_folder(path)
        self._fd = os.open(path.name, _CREATE, 0o600, dir_fd=folder_fd)
        self._path = path

    def _go_on(self, path: Path, offset_bytes: int) -> None:
        """Open what an earlier try has staged of a file, and cut off what is not proven."""
        self._fd = os.open(path.name, _REWRITE, dir_fd=self._open_folder(path))
        self._path = path
        status = os.fstat(self._fd)
        if not is_regular(status) or status.st_nlink != 1 or status.st_size < offset_bytes:
            raise DestinationChanged(
                f"{path} is not what was staged before; the next try begins anew"
            )
        os.ftruncate(self._fd, offset_bytes)

    def _open_folder(self, path: Path) -> int:
        folder = str(path.parent)
        folder_fd = self._folders.open(folder)
        if folder != self._folder:
            # Opened first: what is mounted now was mounted then, and if the disk is taken
            # away from here on, this is still its folder, not one below the mount point.
            self._require()
            self._folder = folder
            self._vouch_for(folder_fd)
        return folder_fd

    def _vouch_for(self, folder_fd: int) -> None:
        if self._sync_fd >= 0:
            if os.fstat(self._sync_fd).st_dev == os.fstat(folder_fd).st_dev:
                return
            self.sync()  # another file system begins: settle the one before
            os.close(self._sync_fd)
        self._sync_fd = os.dup(folder_fd)

    def _push_out(self, offset_bytes: int, size_bytes: int) -> None:
        disk_calls.start_writeback(self._fd, offset_bytes, size_bytes)
        behind = offset_bytes - _WINDOW_BYTES
        if behind >= 0:
            disk_calls.wait_writeback(self._fd, behind, size_bytes)
            # Nobody reads the copy soon; kept, it would push out what others need.
            disk_calls.drop_behind(self._fd, behind, size_bytes)

    def _finish(self, chunk: Chunk, path: Path) -> None:
        position, source = chunk.span.segment.position, chunk.status
        assert source is not None
        folder_fd = self._folders.open(self._folder)
        follow_owner_and_mode(path.name, source, dir_fd=folder_fd, at_least=0o600)
        os.utime(self._fd, ns=(source.st_atime_ns, source.st_mtime_ns))
        status = os.fstat(self._fd)
        self.written[position] = Written(
            size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, inode=status.st_ino
        )
        if status.st_size >= LARGE_BYTES:
            sync_stoppable(disk_calls.fsync, self._fd, self._stop)
        else:
            self._unsynced[position] = path
        os.close(self._fd)
        self._fd = -1


def sync_all(
    paths: Mapping[int, Path], folder_fd: int, call: Callable[[Callable[[int], None], int], None]
) -> None:
    """Sync a few files one by one; more, with their whole file system by ``folder_fd``.

    On FUSE all are synced one by one.

    Args:
        paths: of the files.
        folder_fd: opened before they were written.
        call: makes the system call, which may take long.

    Raises:
        MustWait, DiskError: what was written did not reach the disk.
    """
    if not paths:
        return
    path = next(iter(paths.values()))
    try:
        if len(paths) > _FEW_FILES and not disk_calls.is_fuse(folder_fd):
            call(disk_calls.syncfs, folder_fd)
            return
        for path in paths.values():
            fd = os.open(path, _REWRITE)
            try:
                call(disk_calls.fsync, fd)
            finally:
                os.close(fd)
    except OSError as error:
        raise write_error(error, path) from error


def _call(sync: Callable[[int], None], fd: int) -> None:
    sync(fd)


def write_fully(fd: int, data: memoryview, offset_bytes: int) -> None:
    """Write all of ``data`` at a place."""
    while len(data):
        count = os.pwrite(fd, data, offset_bytes)
        if count == 0:
            raise MustWait("the disk takes no more bytes", reason=WaitReason.SPACE)
        data = data[count:]
        offset_bytes += count
