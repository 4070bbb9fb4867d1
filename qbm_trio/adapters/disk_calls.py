"""System calls that Python does not offer: syncfs, sync_file_range, renameat2, ioprio_set.

All take file descriptors and raise OSError. Kept in one place so that a test or a
bench can replace a call.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import threading

_libc = ctypes.CDLL(None, use_errno=True)
_RENAME_NOREPLACE = 1
_NO_SUCH_RENAME = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM}
# The kernel lets go of whole folios only. None is larger with pages of 4 KiB; with those of
# 64 KiB (some arm64 kernels) one may be: then a little more stays cached.
_FOLIO_BYTES = 2 * 1024 * 1024
_FUSE_MAGIC = 0x65735546  # linux/magic.h
_SYNC_FILE_RANGE_WAIT_BEFORE = 1
_SYNC_FILE_RANGE_WRITE = 2
_SYNC_FILE_RANGE_WAIT_AFTER = 4
# Numbers for a libc without the wrapper (musl before 1.2.5 has no renameat2) and for
# ioprio_set, which no libc wraps. The second set is the kernel's generic table.
_X86_64 = platform.machine() == "x86_64"
_NR_RENAMEAT2 = 316 if _X86_64 else 276
_NR_IOPRIO_SET = 251 if _X86_64 else 30
_GENERIC_TABLE = _X86_64 or platform.machine() in ("aarch64", "riscv64", "loongarch64")

_syncfs = getattr(_libc, "syncfs", None)
_sync_file_range = getattr(_libc, "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_renameat2 = getattr(_libc, "renameat2", None)
if _renameat2 is not None:
    _renameat2.argtypes = (
        ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint
    )  # fmt: skip


def _raise(number: int) -> None:
    raise OSError(number, os.strerror(number))


def fsync(fd: int) -> None:
    """Put a file's, or a folder's, data and metadata on the disk."""
    os.fsync(fd)


def fdatasync(fd: int) -> None:
    """Put a file's data on the disk, and of its metadata what reading it back needs."""
    os.fdatasync(fd)


def syncfs(fd: int) -> None:
    """Put everything written to the file system of ``fd`` on the disk.

    Since Linux 5.8 it reports write-back errors that happened after ``fd`` was opened:
    open it before the writes that it must vouch for. On FUSE it proves nothing: `is_fuse`.
    """
    if _syncfs is None:
        os.sync()
    elif _syncfs(fd) != 0:
        _raise(ctypes.get_errno())


def is_fuse(fd: int) -> bool:
    """Whether a process serves the file system: a pool, Unraid's user shares, NTFS-3G.

    Of these only the ``fsync`` of a file is sure to reach the disk. The kernel does not tell
    them of a ``syncfs``, and mergerfs ignores the ``fsync`` of a folder; that of a renamed
    file has its name written, too (seen with mergerfs 2.33.5 over ext4).
    """
    figures = ctypes.create_string_buffer(256)  # a struct statfs begins with the type, a long
    known = _libc.fstatfs(fd, figures) == 0
    return known and ctypes.c_long.from_buffer(figures).value == _FUSE_MAGIC


def start_writeback(fd: int, offset_bytes: int, size_bytes: int) -> None:
    """Ask the kernel to begin writing this range now. Raises what it says of earlier writes."""
    _write_range(fd, offset_bytes, size_bytes, _SYNC_FILE_RANGE_WRITE)


def wait_writeback(fd: int, offset_bytes: int, size_bytes: int) -> None:
    """Wait until this range is written. Success proves nothing before the fsync.

    An error must not be dropped: the kernel tells it once to each descriptor, so that an
    fsync after it would succeed over a file with holes (seen on Linux 6.18).
    """
    flags = _SYNC_FILE_RANGE_WAIT_BEFORE | _SYNC_FILE_RANGE_WRITE | _SYNC_FILE_RANGE_WAIT_AFTER
    _write_range(fd, offset_bytes, size_bytes, flags)


def _write_range(fd: int, offset_bytes: int, size_bytes: int, flags: int) -> None:
    if _sync_file_range is None:
        return
    if _sync_file_range(fd, offset_bytes, size_bytes, flags) != 0:
        number = ctypes.get_errno()
        if number not in (errno.ENOSYS, errno.EINVAL, errno.ESPIPE):  # a file system without it
            _raise(number)


def drop_cached(fd: int, offset_bytes: int = 0, size_bytes: int = 0) -> None:
    """Let the kernel forget clean cached pages, so that the next read asks the disk.

    A size of 0 means to the end. Pages not yet written stay: fsync first. A file
    system in memory has nothing to drop.
    """
    begin = offset_bytes // _FOLIO_BYTES * _FOLIO_BYTES
    size = -(-(offset_bytes + size_bytes) // _FOLIO_BYTES) * _FOLIO_BYTES - begin
    os.posix_fadvise(fd, begin, size if size_bytes else 0, os.POSIX_FADV_DONTNEED)


def drop_behind(fd: int, offset_bytes: int, size_bytes: int) -> None:
    """Let the kernel forget what this range completes, for one who goes from start to end.

    Unlike `drop_cached` it spares what begins behind the range: it may just be read ahead.
    """
    end = (offset_bytes + size_bytes) // _FOLIO_BYTES * _FOLIO_BYTES
    if end > offset_bytes:
        drop_cached(fd, offset_bytes, end - offset_bytes)


def rename_noreplace(source_dir: int, source: str, target_dir: int, target: str) -> None:
    """Rename, refusing with EEXIST when the target exists.

    Raises:
        OSError: EINVAL or ENOSYS where the file system cannot do it (NFS, some FUSE).
    """
    old, new = os.fsencode(source), os.fsencode(target)
    if _renameat2 is not None:
        result = _renameat2(source_dir, old, target_dir, new, _RENAME_NOREPLACE)
    elif _GENERIC_TABLE:
        result = _libc.syscall(_NR_RENAMEAT2, source_dir, old, target_dir, new, _RENAME_NOREPLACE)
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if result != 0:
        _raise(ctypes.get_errno())


def move_noreplace(source_dir: int, source: str, target_dir: int, target: str) -> None:
    """Move a file within one file system, failing with EEXIST instead of replacing.

    One rename where the file system has such a one; else link and unlink. A crash
    between these two leaves both names on one inode.
    """
    try:
        rename_noreplace(source_dir, source, target_dir, target)
        return
    except OSError as error:
        if error.errno not in _NO_SUCH_RENAME:
            raise
    os.link(source, target, src_dir_fd=source_dir, dst_dir_fd=target_dir, follow_symlinks=False)
    os.unlink(source, dir_fd=source_dir)


def lower_priority(nice: int) -> None:
    """Lower the CPU and I/O priority of the calling thread, for the rest of its life.

    Linux keeps both per thread. An unprivileged thread cannot raise them again, so
    call this only in a thread that ends with its work. What is refused stays as it was.
    """
    thread = threading.get_native_id()
    try:
        nice = max(nice, os.getpriority(os.PRIO_PROCESS, thread))  # never raise it
        os.setpriority(os.PRIO_PROCESS, thread, nice)
    except OSError:
        return
    if _GENERIC_TABLE:
        # Best effort (2) at the level that the kernel derives from niceness; idle (3) for 19.
        value = 3 << 13 if nice >= 19 else 2 << 13 | (nice + 20) // 5
        _libc.syscall(_NR_IOPRIO_SET, 1, thread, value)
