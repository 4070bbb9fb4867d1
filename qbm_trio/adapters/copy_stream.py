"""Read spans of a torrent in stream order into a few buffers, and hash them beside.

The calling thread takes a filled buffer, hands it to the hashing threads (one for each
version of the torrent's hashes), and does what it wants with it meanwhile (write it, say),
while another thread fills the next. A buffer holds many small files or a part of a large
one, so that all go at the disk's speed. hashlib and the system calls release the GIL.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ..core.errors import DestinationChanged, JobError, SourceChanged
from ..core.pieces import Role, Span
from .copy_hashing import Hasher, PieceChecker
from .copy_threads import Stop, WorkThread
from .disk_errors import read_back_error, read_error
from .disk_paths import FolderHandle, is_regular

BUFFER_BYTES = 2 * 1024 * 1024
_MOST_CHUNKS = 4096  # of a batch: so many empty or tiny files fill no buffer
_BUFFERS = 4  # one being read, one hashed, one written, one that waits
READ_AHEAD_BYTES = _BUFFERS * BUFFER_BYTES  #: the most that is read and not written or hashed
_ZEROS = memoryview(bytes(256 * 1024))
# O_NONBLOCK: opening a pipe that stands in a file's place must not wait for a writer.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """Where the bytes of one file are read."""

    path: Path  #: a real path, proven to lie in its tier
    size_bytes: int
    on_hdd: bool = False  #: a copy, adopted or staged: qBittorrent knows nothing of it


@dataclass(slots=True)
class Chunk:
    """Bytes of one file within a buffer."""

    span: Span
    offset_bytes: int  #: in the file
    stream_offset_bytes: int
    data: memoryview
    status: os.stat_result | None  #: of the input, when it was opened; None for padding
    last: bool  #: ends its span


@dataclass(slots=True)
class Batch:
    """A filled buffer."""

    buffer: memoryview
    chunks: list[Chunk] = field(default_factory=list)
    used_bytes: int = 0


class OpenInput:
    """A regular file of the expected size, which must not change while it is read."""

    def __init__(self, folders: FolderHandle, source: Input) -> None:
        self.path = source.path
        self._on_hdd = source.on_hdd
        self._error = read_back_error if source.on_hdd else read_error
        try:
            folder_fd = folders.open(str(source.path.parent))
            self.fd = os.open(source.path.name, _READ, dir_fd=folder_fd)
        except OSError as error:
            raise missing_or(error, source) from error
        try:
            self.status = os.fstat(self.fd)
            if not is_regular(self.status):
                raise self._changed("is not a regular file")
            if self.status.st_size != source.size_bytes:
                raise self._changed(
                    f"has {self.status.st_size} bytes instead of {source.size_bytes}"
                )
            if source.size_bytes > BUFFER_BYTES:
                # Doubles the kernel's read-ahead. WILLNEED made it slower (Linux 6.18).
                os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        except BaseException:
            os.close(self.fd)
            raise

    def read_into(self, view: memoryview, offset_bytes: int) -> None:
        """Fill ``view`` from this place."""
        while len(view):
            try:
                count = os.preadv(self.fd, [view], offset_bytes)
            except OSError as error:
                raise self._error(error, self.path) from error
            if count == 0:
                raise self._changed("shrank while it was read")
            view = view[count:]
            offset_bytes += count

    def check_unchanged(self) -> None:
        """Raise when it was written to since it was opened."""
        try:
            now, then = os.fstat(self.fd), self.status
        except OSError as error:
            raise self._error(error, self.path) from error
        if (now.st_mtime_ns, now.st_size) != (then.st_mtime_ns, then.st_size):
            raise self._changed("was changed while it was read")

    def close(self) -> None:
        """Close it."""
        os.close(self.fd)

    def _changed(self, how: str) -> JobError:
        if self._on_hdd:
            return _vanished(self.path)
        return SourceChanged(f"{self.path} {how}; recheck the torrent in qBittorrent")


def _vanished(path: Path) -> DestinationChanged:
    return DestinationChanged(
        f"{path} was removed from the HDD, or changed there, while the job worked; "
        "the next try looks at it anew"
    )


def missing_or(error: OSError, source: Input) -> JobError:
    """`read_error`, which says so when the file is there under an unfinished name."""
    path = source.path
    if isinstance(error, FileNotFoundError):
        if source.on_hdd:
            return _vanished(path)
        unfinished = path.with_name(f"{path.name}.!qB")
        if os.path.lexists(unfinished):
            return SourceChanged(
                f"{path} is there only as {unfinished.name}: unfinished; "
                "recheck the torrent in qBittorrent"
            )
    return read_back_error(error, path) if source.on_hdd else read_error(error, path)


def run_pass(
    spans: Iterable[Span],
    inputs: Mapping[int, Input],
    *,
    checker: PieceChecker | None,
    stop: Stop,
    nice: int,
    use: Callable[[Batch], None],
) -> None:
    """Read all spans, hash them in threads of their own, and give each batch to ``use``.

    Args:
        spans: from ``core.pieces.plan_spans``.
        inputs: by position in ``Metainfo.files``; for every span that is not padding.
        checker: takes all bytes in order; None to hash nothing.
        stop: looked at once a batch.
        nice: of the reading and the hashing threads.
        use: called in this thread while the batch is hashed. All pieces found bad by
            its end lie in batches already used.

    Raises:
        JobError: an input is missing, changed, or cannot be read.
        Stopped: asked to stop.
    """
    spans = list(spans)
    total_bytes = sum(s.segment.size_bytes for s in spans)
    hashers = () if checker is None else checker.hashers
    # No larger than what is read: small torrents come by the thousand.
    buffers = _Buffers(min(BUFFER_BYTES, max(1, total_bytes)), users=1 + len(hashers))
    batches: Iterable[Batch] = _Reader(inputs).batches(spans, buffers.take)
    ahead = None
    if total_bytes > BUFFER_BYTES:
        batches = ahead = _Ahead(batches, nice)
    threads = [_HashThread(h, buffers, nice, user) for user, h in enumerate(hashers, 1)]
    try:
        for batch in batches:
            stop.check()
            for thread in threads:
                # Not before it is used: a piece found bad is written again at once.
                thread.submit(batch)
            use(batch)
            buffers.release(batch, 0)
    except _Ended:
        pass  # a hashing thread says why
    finally:
        buffers.end()
        if ahead is not None:
            ahead.join()
        for thread in threads:
            thread.end()
    for thread in threads:
        thread.result()
    for hasher in hashers:
        hasher.finish()


class _Ended(Exception):
    """No buffer will come free any more."""


class _Buffers:
    """Buffers that go round. One is free again when each of its users released it."""

    def __init__(self, size_bytes: int, *, users: int) -> None:
        # All use them in the order of reading: so all queues hold the same order.
        self._free: list[queue.SimpleQueue[memoryview | None]] = [
            queue.SimpleQueue() for _ in range(users)
        ]
        self._ended = False
        for _ in range(_BUFFERS):
            buffer = memoryview(bytearray(size_bytes))
            for free in self._free:
                free.put(buffer)

    def take(self) -> memoryview:
        """Wait for a free one. Raises `_Ended` after `end`."""
        buffer, *_ = [free.get() for free in self._free]  # of each user the same one
        if buffer is None or self._ended:
            raise _Ended
        return buffer

    def release(self, batch: Batch, user: int) -> None:
        self._free[user].put(batch.buffer)

    def end(self) -> None:
        self._ended = True
        for free in self._free:
            free.put(None)


class _Ahead:
    """Runs an iterator in a thread of its own, which waits only for its buffers."""

    def __init__(self, batches: Iterable[Batch], nice: int) -> None:
        self._filled: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._thread = WorkThread(partial(self._run, batches), nice=nice)

    def __iter__(self) -> Iterator[Batch]:
        while (batch := self._filled.get()) is not None:
            yield batch
        self._thread.result()

    def join(self) -> None:
        self._thread.join()

    def _run(self, batches: Iterable[Batch]) -> None:
        try:
            for batch in batches:
                self._filled.put(batch)
        finally:
            self._filled.put(None)


class _HashThread:
    def __init__(self, hasher: Hasher, buffers: _Buffers, nice: int, user: int) -> None:
        self._hasher = hasher
        self._buffers = buffers
        self._user = user
        self._work: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._thread = WorkThread(self._run, nice=nice)

    def submit(self, batch: Batch) -> None:
        self._work.put(batch)

    def end(self) -> None:
        self._work.put(None)
        self._thread.join()

    def result(self) -> None:
        self._thread.result()

    def _run(self) -> None:
        feed = self._hasher.feed
        try:
            while (batch := self._work.get()) is not None:
                for chunk in batch.chunks:
                    feed(
                        chunk.span.segment.position,
                        chunk.offset_bytes,
                        chunk.stream_offset_bytes,
                        chunk.data,
                        whole_file=chunk.span.role is Role.COPY,
                    )
                self._buffers.release(batch, self._user)
        except BaseException:
            self._buffers.end()  # the reading thread waits for one
            raise


class _Reader:
    def __init__(self, inputs: Mapping[int, Input]) -> None:
        self._inputs = inputs
        self._folders = FolderHandle()
        self._open: OpenInput | None = None

    def close(self) -> None:
        self._folders.close()
        if self._open is not None:
            self._open.close()
            self._open = None

    def batches(self, spans: Iterable[Span], buffer: Callable[[], memoryview]) -> Iterator[Batch]:
        try:
            batch = Batch(buffer())
            for span in spans:
                if span.role is Role.PAD:
                    _add_padding(batch, span)
                else:
                    batch = yield from self._read(span, batch, buffer)
            yield batch
        finally:
            self.close()

    def _read(
        self, span: Span, batch: Batch, buffer: Callable[[], memoryview]
    ) -> Generator[Batch, None, Batch]:
        """Read one span into ``batch`` and those that follow it; return the last."""
        segment = span.segment
        source = self._open = OpenInput(self._folders, self._inputs[segment.position])
        done, last = 0, False
        while not last:
            room = len(batch.buffer) - batch.used_bytes
            if room == 0 or len(batch.chunks) >= _MOST_CHUNKS:
                yield batch
                batch = Batch(buffer())
                room = len(batch.buffer)
            take = min(room, segment.size_bytes - done)
            view = batch.buffer[batch.used_bytes : batch.used_bytes + take]
            source.read_into(view, segment.offset_bytes + done)
            last = done + take == segment.size_bytes
            if last:
                source.check_unchanged()
            batch.chunks.append(
                Chunk(
                    span,
                    segment.offset_bytes + done,
                    span.stream_offset_bytes + done,
                    view,
                    source.status,
                    last,
                )
            )
            batch.used_bytes += take
            done += take
        source.close()
        self._open = None
        return batch


def _add_padding(batch: Batch, span: Span) -> None:
    done = 0
    while done < span.segment.size_bytes:
        data = _ZEROS[: span.segment.size_bytes - done]
        batch.chunks.append(
            Chunk(
                span,
                span.segment.offset_bytes + done,
                span.stream_offset_bytes + done,
                data,
                None,
                done + len(data) == span.segment.size_bytes,
            )
        )
        done += len(data)
