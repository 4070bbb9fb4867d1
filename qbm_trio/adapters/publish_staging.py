"""Where files wait until they are verified: ``.qbm-staging/<instance>/<job>/``.

Staging lies in the HDD's base. Where the destination is on another file system, or a
pool refuses to rename between the two, it lies beside: in the deepest folder of the
destination that exists. A note in the base's own staging says where, so that it is
found and cleaned after a crash without a search of the disk.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePath

import trio

from ..core.errors import JobError, MustWait, UnsafePath
from ..core.model import JobId
from . import disk_aliases, disk_calls
from .disk_errors import write_error
from .disk_paths import deepest_existing, resolve_beneath
from .publish_names import require_possible

STAGING_NAME = ".qbm-staging"
_NOTE_PREFIX = "beside-"
_MAKE_TRIES = 100
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")


async def prepare_staging(
    base: Path,
    destinations: Sequence[Path],
    *,
    instance_id: str,
    job_id: str,
    keep: bool = False,
    require: Callable[[], None],
    limiter: trio.CapacityLimiter,
) -> list[Path]:
    """Make the job's staging folders, empty ones: what an earlier try staged is removed.

    Args:
        base: the HDD's base folder.
        destinations: where the files will go, below ``base``; nothing is made there.
        instance_id: this service's own, from the journal.
        job_id: the job's.
        keep: leave what an earlier try staged.
        require: proves that the HDD's disk is mounted, else raises `MustWait`.
        limiter: for the thread.

    Returns:
        For each destination the path to stage it at, on its file system. The names are
        numbers, so that no torrent's name can be too long for staging.

    Raises:
        UnsafePath: a destination lies outside of ``base``, a link leads out, or the HDD's
            file system cannot have files of these names.
        MustWait: the HDD is full, read-only or away.
        DiskError: the system refused otherwise.
    """
    return await trio.to_thread.run_sync(
        partial(_prepare, base, destinations, instance_id, job_id, keep, require), limiter=limiter
    )


def _prepare(
    base: Path,
    destinations: Sequence[Path],
    instance_id: str,
    job_id: str,
    keep: bool,
    require: Callable[[], None],
) -> list[Path]:
    try:
        real_base = Path(os.path.realpath(base))
        home = _make_staging(real_base, instance_id, job_id)
        try:
            require()
        except MustWait:
            # Taken away just now: below its mount point nothing is left behind.
            _remove_empty(home, home.parent, home.parent.parent)
            raise
        noted = set(_notes(home, real_base))
        # The notes stay: what the last try learnt of the pool is still true.
        for folder in () if keep else (real_base, *noted):
            _empty(folder / STAGING_NAME / instance_id / job_id)
        chosen: dict[Path, Path] = {}  # by folder of the destination
        by_existing: dict[Path, Path] = {}
        names: dict[Path, list[PurePath]] = defaultdict(list)  # by the folder they are staged in
        staged = []
        for number, destination in enumerate(destinations):
            parent = destination.parent
            if parent not in chosen:
                try:
                    relative = parent.relative_to(base)
                except ValueError:
                    raise UnsafePath(f"{destination} is not below {base}") from None
                existing = deepest_existing(resolve_beneath(base, relative))
                if existing not in by_existing:
                    by_existing[existing] = _choose(
                        home, real_base, existing, noted, instance_id, job_id
                    )
                chosen[parent] = by_existing[existing]
            staged.append(chosen[parent] / str(number))
            names[chosen[parent]].append(destination.relative_to(base))
        for folder, some in names.items():
            require_possible(folder, some)
        return staged
    except OSError as error:
        raise write_error(error, base / STAGING_NAME) from error


def _choose(
    home: Path, base: Path, existing: Path, noted: set[Path], instance_id: str, job_id: str
) -> Path:
    beside = existing if existing.is_dir() else existing.parent
    noted_here = any(beside == note or note in beside.parents for note in noted)
    if not noted_here and _can_rename(home, beside):
        return home
    _write_note(home, base, beside)
    return _make_staging(beside, instance_id, job_id)


def _empty(job: Path) -> None:
    if not _is_own_folder(job):
        return
    for entry in list(os.scandir(job)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry)
        elif not entry.name.startswith(_NOTE_PREFIX):
            Path(entry.path).unlink(missing_ok=True)


def _can_rename(home: Path, folder: Path) -> bool:
    """Try what publishing will do, with an empty file: pools cannot be told by device alone."""
    if home.stat().st_dev != folder.stat().st_dev:
        return False
    if folder == home.parents[2]:
        return True  # the base itself
    instance_id = home.parent.name
    disk_aliases.remove_old_probes(folder, instance_id)
    name = disk_aliases.probe_name(instance_id)
    probe = home / name
    probe.touch(mode=0o600, exist_ok=False)
    moved = folder / name
    try:
        probe.rename(moved)
    except OSError as error:
        probe.unlink()
        if error.errno == errno.EXDEV:
            return False
        raise
    moved.unlink()
    return True


def _make_staging(folder: Path, instance_id: str, job_id: str) -> Path:
    for part in (instance_id, job_id):
        if not _PLAIN.fullmatch(part):
            raise UnsafePath(f"{part!r} cannot name a staging folder")
    for _ in range(_MAKE_TRIES - 1):
        # Another job that ends right now removes the upper ones while they are empty.
        with suppress(FileNotFoundError):
            return _make_chain(folder, instance_id, job_id)
    return _make_chain(folder, instance_id, job_id)


def _make_chain(folder: Path, instance_id: str, job_id: str) -> Path:
    path = folder
    for part in (STAGING_NAME, instance_id, job_id):
        path = path / part
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise UnsafePath(f"{path} is not a folder; remove it")
    return path


# -- notes of staging beside a destination -----------------------------------


def note_beside(staged: Path, base: Path, folder: Path) -> None:
    """Remember that publishing to ``folder`` needs staging there. Errors do not matter.

    Args:
        staged: a staged file that could not be published.
        base: the HDD's base folder.
        folder: the deepest existing folder of its destination.
    """
    job, instance = staged.parent.name, staged.parent.parent.name
    with suppress(OSError, JobError):
        real_base = Path(os.path.realpath(base))
        _write_note(_make_staging(real_base, instance, job), real_base, folder)


def _write_note(home: Path, base: Path, folder: Path) -> None:
    if folder in _notes(home, base):
        return
    raw = os.fsencode(folder.relative_to(base))
    number = sum(1 for _ in home.glob(f"{_NOTE_PREFIX}*"))
    note = home / f"{_NOTE_PREFIX}{number}"
    temporary = home / f"{note.name}.new"
    with temporary.open("wb") as file:
        file.write(raw)
        file.flush()
        disk_calls.fsync(file.fileno())
    temporary.replace(note)


def _notes(home: Path, base: Path) -> Iterator[Path]:
    for note in home.glob(f"{_NOTE_PREFIX}*"):
        if note.suffix == ".new":
            continue
        with suppress(OSError, JobError):
            folder = resolve_beneath(base, os.fsdecode(note.read_bytes()))
            if folder.is_dir():
                yield folder


# -- cleaning ----------------------------------------------------------------


async def list_staging(
    base: Path, *, instance_id: str, limiter: trio.CapacityLimiter
) -> list[JobId]:
    """The jobs that have staging, of this instance alone. What is no folder, or a link, is none.

    Raises:
        MustWait, DiskError: the system refused.
    """
    return await trio.to_thread.run_sync(partial(_list, base, instance_id), limiter=limiter)


async def discard_staging(
    base: Path, *, instance_id: str, job_id: str, limiter: trio.CapacityLimiter
) -> None:
    """Remove one job's staging, wherever it lies. Harmless when there is none.

    Links are not followed, and published files are safe even where a crash left them linked
    in staging too.

    Raises:
        MustWait, DiskError: the system refused.
    """

    def call() -> None:
        try:
            _discard(Path(os.path.realpath(base)), instance_id, job_id)
        except OSError as error:
            raise write_error(error, base / STAGING_NAME) from error

    await trio.to_thread.run_sync(call, limiter=limiter)


def _list(base: Path, instance_id: str) -> list[JobId]:
    try:
        own = Path(os.path.realpath(base)) / STAGING_NAME / instance_id
        if not _PLAIN.fullmatch(instance_id) or not _is_own_folder(own):
            return []
        names = sorted(os.listdir(own))
        _remove_empty(own, own.parent)
        return [JobId(name) for name in names if _is_own_folder(own / name)]
    except FileNotFoundError:
        return []  # a job that ends right now has removed the folder, empty by then
    except OSError as error:
        raise write_error(error, base / STAGING_NAME) from error


def _discard(base: Path, instance_id: str, job_id: str) -> None:
    home = base / STAGING_NAME / instance_id / job_id
    if not _is_own_folder(home):
        return
    for folder in _notes(home, base):
        beside = folder / STAGING_NAME / instance_id / job_id
        if beside != home and _is_own_folder(beside):
            shutil.rmtree(beside)
            _remove_empty(beside.parent, beside.parent.parent)
    # The notes go last: what they name is gone by then.
    shutil.rmtree(home)
    _remove_empty(home.parent, home.parent.parent)


def _is_own_folder(path: Path) -> bool:
    """Whether it and the staging folders above it are folders, none of them a link."""
    for at in (path, path.parent, path.parent.parent):
        try:
            if not stat.S_ISDIR(at.lstat().st_mode):
                return False
        except FileNotFoundError:
            return False
        if at.name == STAGING_NAME:
            break
    return True


def _remove_empty(*folders: Path) -> None:
    """Remove those of these folders of staging in which nothing is left, the innermost first."""
    for path in folders:
        with suppress(OSError):
            path.rmdir()
