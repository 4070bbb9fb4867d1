"""The files that the old tool left in the state directory: found, read, renamed."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from ..core.legacy import LegacyFile, queue_file, state_file
from .recovery_point import sync_folder

log = logging.getLogger(__name__)

QUEUE: Final = "queue"
STATE: Final = "state/orchestrator_state.json"
MIGRATED, INVALID = ".migrated", ".invalid"
LARGEST_QUEUE_FILE_BYTES: Final = 64 * 1024
LARGEST_STATE_FILE_BYTES: Final = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFile:
    """One of them, and what it holds."""

    path: Path
    key: str  #: its name and what is in it: tells it from a later one of the same name
    content: LegacyFile


async def find(
    state_dir: Path, *, limiter: trio.CapacityLimiter
) -> tuple[list[FoundFile], Sequence[Path]]:
    """Read all of them; give them, and what could not be read now.

    What is no file (a folder, a link) or cannot be read is left as it is, and said.
    """

    def work() -> tuple[list[FoundFile], list[Path]]:
        unread: list[Path] = []
        queued = _queue_files(state_dir / QUEUE, unread)
        document = [state_dir / STATE]
        found = [
            *_found(queued, queue_file, LARGEST_QUEUE_FILE_BYTES, unread),
            *_found(
                document, lambda _, content: state_file(content), LARGEST_STATE_FILE_BYTES, unread
            ),
        ]
        return found, unread

    return await trio.to_thread.run_sync(work, limiter=limiter)


async def rename_all(files: Iterable[FoundFile], *, limiter: trio.CapacityLimiter) -> set[str]:
    """Give each the name that says what became of it; return the keys of those that kept theirs.

    What was renamed stays so, whatever happens: the folders are synced.
    """
    return await trio.to_thread.run_sync(_rename_all, files, limiter=limiter)


def _rename_all(files: Iterable[FoundFile]) -> set[str]:
    kept: set[str] = set()
    folders: set[Path] = set()
    reason: OSError | None = None
    for file in files:
        ending = INVALID if file.content.problems else MIGRATED
        try:
            file.path.rename(_free_name(file.path, ending))
            folders.add(file.path.parent)
        except FileNotFoundError:
            pass  # somebody else has taken it away
        except OSError as error:
            kept.add(file.key)
            reason = error
    for folder in folders:
        with suppress(OSError):
            sync_folder(folder)
    if reason is not None:
        log.error(
            "%d files of the old tool keep their names: %s; what is in them is in the journal; "
            "let the service's user write in the folder",
            len(kept),
            reason,
        )
    return kept


def _free_name(path: Path, ending: str) -> Path:
    """A name that nothing has; a rename replaces what has it."""
    target, number = path.with_name(f"{path.name}{ending}"), 1
    while os.path.lexists(target):
        number += 1
        target = path.with_name(f"{path.name}.{number}{ending}")
    return target


def _queue_files(folder: Path, unread: list[Path]) -> list[Path]:
    if folder.is_symlink():
        log.warning("%s is a link: it is not followed", folder)
        return []
    try:
        return sorted(p for p in folder.iterdir() if p.name.endswith(".queue"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        log.error("%s cannot be read: %s; it is looked at again at the next start", folder, error)
        unread.append(folder)
        return []


def _found(
    paths: Iterable[Path],
    parse: Callable[[str, bytes], LegacyFile],
    most: int,
    unread: list[Path],
) -> Iterator[FoundFile]:
    for path in paths:
        try:
            content = _read(path, most)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except _NoFile as error:
            log.warning("%s %s: it is left as it is", path, error)
            continue
        except OSError as error:
            log.error("%s cannot be read: %s; it is tried again at the next start", path, error)
            unread.append(path)
            continue
        if len(content) > most:
            parsed = LegacyFile(torrents=(), problems=(f"it is larger than {most} bytes",))
        else:
            parsed = parse(path.name, content)
        name = f"{path.parent.name}/{path.name}".encode("utf-8", "surrogateescape")
        key = hashlib.sha256(name + b"\0" + content).hexdigest()
        yield FoundFile(path=path, key=key, content=parsed)


class _NoFile(Exception):
    """Something else has the name."""


def _read(path: Path, most: int) -> bytes:
    """The content, up to one byte more than allowed. Never waits, never follows a link."""
    if path.parent.is_symlink():
        raise _NoFile("is in a folder that is a link")
    # As a symbolic link it could be anything; a pipe would be waited for.
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise _NoFile("is no regular file")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(most + 1)
