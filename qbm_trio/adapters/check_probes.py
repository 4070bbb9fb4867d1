"""What a check asks of the disks: facts about folders, and a probe that both sides can see.

Everything here blocks, and may for ever where a disk hangs: call it in a thread that may
be left behind. All that is made has a name of its own, and is removed again.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..core.check_folders import FolderFacts, Mount, TierFacts, mount_of
from ..core.check_qbittorrent import Compared
from ..core.errors import JobError
from . import disk
from .disk_paths import deepest_existing

PROBE_PREFIX: Final = ".qbm-check-"
SEEN: Final = "seen"
"""The folder in a probe. Not a hidden one: qBittorrent lists none of those."""

COMMAND: Final = "command"
"""The owner of what ``--check-config`` puts on a tier; a service has its instance's id."""

_RUN: Final = secrets.token_hex(4)  #: tells the probes of this process from what a crash left
_LEFT_AFTER_S: Final = 3600.0
_FOLDERS: Final = 1000
"""So many folders of a tier are looked at, to see whether they are other file systems."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A folder with a random name in a tier, and one more in it."""

    folder: Path
    clock_ahead_s: float  #: of the times that its file system writes, to ours


def make_probe(root: Path, owner: str) -> Probe:
    """Put a probe into a tier.

    Args:
        root: the tier's folder.
        owner: who checks: what it left itself when it was killed is removed.

    Raises:
        OSError: it cannot be made.
    """
    _remove_left(root, f"{PROBE_PREFIX}{owner}-")
    folder = root / f"{PROBE_PREFIX}{owner}-{_RUN}-{secrets.token_hex(8)}"
    folder.mkdir()
    try:
        # Whatever our umask says: qBittorrent may run as another user.
        folder.chmod(0o755)
        before = time.time()
        (folder / SEEN).mkdir()
        ahead_s = (folder / SEEN).stat().st_mtime - before
    except BaseException:
        remove_probe(folder)
        raise
    return Probe(folder=folder, clock_ahead_s=ahead_s)


def own_disk(root: Path, expected: str | None, *, needs_marker: bool) -> bool:
    """Whether a probe may be put there: below the mount point of a disk that is away it may not.

    Args:
        root: the tier's folder.
        expected: its marker, where that is known.
        needs_marker: whether it must have one, whichever it is.
    """
    try:
        marker = disk.marker_at(root)
    except JobError:
        return False
    return _is_own(marker, expected, needs_marker)


def _is_own(marker: str | None, expected: str | None, needs_marker: bool) -> bool:
    return marker == expected if expected else marker is not None or not needs_marker


def remove_probe(folder: Path) -> None:
    """Remove a probe; one that cannot be removed now is by a later check."""
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def probe_in(root: Path, owner: str) -> Iterator[Probe]:
    """Have a probe in a tier for as long as the block runs; arguments as of `make_probe`."""
    probe = make_probe(root, owner)
    try:
        yield probe
    finally:
        remove_probe(probe.folder)


def same_storage(one: Path, other: Path, owner: str) -> str | None:
    """Why two folders are two views of one place; None when they are not, or it cannot be seen."""
    try:
        same = one.samefile(other)
        for made, seen in ((one, other), (other, one)):
            with probe_in(made, owner) as probe:
                same = same or (seen / probe.folder.name).exists()
    except OSError:
        return None
    return f"{one} and {other} are two views of the same files" if same else None


def _remove_left(root: Path, own: str) -> None:
    """Remove what was left by checks that were killed; not that of one that runs now.

    There is one service with a name, but there may be several commands.
    """
    for path in root.glob(f"{PROBE_PREFIX}*"):
        with suppress(OSError):
            old = time.time() - path.lstat().st_mtime > _LEFT_AFTER_S
            ours = path.name.startswith(own) and own != f"{PROBE_PREFIX}{COMMAND}-"
            if old or (ours and not path.name.startswith(f"{own}{_RUN}-")):
                shutil.rmtree(path)


def who() -> str:
    """The user that we are, in words."""
    return f"uid {os.geteuid()}, gid {os.getegid()}"


def tier_facts(
    setting: str,
    name: str,
    root: Path,
    *,
    owner: str | None,
    used_before: bool,
    expected: str | None,
    needs_marker: bool = False,
) -> TierFacts:
    """What there is to know of a tier. With an ``owner``, a probe is made and removed.

    Args:
        setting: the variable that names it.
        name: SSD or HDD.
        root: its folder.
        owner: who checks, as for `make_probe`; None: nothing may be written.
        used_before: whether a service has run on it, so that its marker should be there.
        expected: its marker, as the journal has it; None where that is not known.
        needs_marker: as of `own_disk`, without which no probe is made.
    """
    refused, ahead_s = _refused(root), None
    marker = problem = None
    try:
        marker = disk.marker_at(root)
    except JobError as error:
        problem = str(error)
    own = problem is None and _is_own(marker, expected, needs_marker)
    if owner is not None and refused is None and own:
        try:
            with probe_in(root, owner) as probe:
                ahead_s = probe.clock_ahead_s
        except OSError as error:
            # A full disk is judged by its figures: it is no matter of rights.
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                refused = error.strerror or str(error)
    total, free, device = _figures(root)
    return TierFacts(
        setting=setting,
        path=str(root),
        refused=refused,
        tried=ahead_s is not None,
        owner=_owner(root),
        mount=_mount(root),
        device=device,
        total_bytes=total,
        free_bytes=free,
        clock_ahead_s=ahead_s,
        others=_others(root, device),
        name=name,
        marker=marker,
        marker_problem=problem,
        marker_expected=expected,
        used_before=used_before,
    )


def state_facts(root: Path) -> FolderFacts:
    """What there is to know of STATE_DIR, which the service makes when it starts."""
    there = deepest_existing(root)
    return FolderFacts(
        setting="STATE_DIR",
        path=str(root),
        refused=_refused(there),
        owner=_owner(there),
        mount=_mount(there),
        device=_figures(there)[2],
    )


def log_facts(file: Path) -> FolderFacts:
    """What there is to know of LOG_FILE. It is opened if it is there, never made."""
    there = deepest_existing(file)
    refused = _refused(there) if there != file else None
    if there == file:
        try:
            os.close(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK))
        except OSError as error:
            refused = error.strerror or str(error)
    return FolderFacts(
        setting="LOG_FILE",
        path=str(file),
        refused=refused,
        owner=_owner(there),
        mount=_mount(there),
    )


def compare(name: str, pairs: Sequence[tuple[str, Path, int]]) -> Compared:
    """Look whether a torrent's files are as qBittorrent lists them.

    Args:
        name: the torrent's.
        pairs: of each file qBittorrent's path, ours, and its size in bytes; at least one.
    """
    for theirs, ours, size_bytes in pairs:
        problem = None
        try:
            found = ours.stat()
        except OSError as error:
            problem = error.strerror or str(error)
        else:
            if not stat.S_ISREG(found.st_mode):
                problem = "it is no regular file"
            elif found.st_size != size_bytes:
                problem = f"it has {found.st_size} bytes there, not {size_bytes}"
        if problem is not None:
            return Compared(name=name, their_path=theirs, our_path=str(ours), problem=problem)
    theirs, ours, _ = pairs[0]
    return Compared(name=name, their_path=theirs, our_path=str(ours), problem=None)


def _refused(folder: Path) -> str | None:
    """Why a folder cannot be written to, by its rights."""
    try:
        if not stat.S_ISDIR(folder.stat().st_mode):
            return "it is no folder"
        if os.statvfs(folder).f_flag & os.ST_RDONLY:
            return "it is mounted read-only"
    except OSError as error:
        return error.strerror or str(error)
    allowed = os.access(folder, os.R_OK | os.W_OK | os.X_OK, effective_ids=True)
    return None if allowed else "its rights forbid it"


def _owner(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return "unknown"
    return f"uid {found.st_uid}, gid {found.st_gid}, mode {stat.S_IMODE(found.st_mode):04o}"


def _mount(path: Path) -> Mount | None:
    try:
        mounts = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    except OSError:
        return None
    return mount_of(mounts, os.path.realpath(path))


def _figures(path: Path) -> tuple[int, int, int]:
    try:
        figures, device = os.statvfs(path), path.stat().st_dev
    except OSError:
        return 0, 0, 0
    return figures.f_blocks * figures.f_frsize, figures.f_bavail * figures.f_frsize, device


def _others(root: Path, device: int) -> tuple[str, ...]:
    """Folders of a tier, two levels deep, that are on other file systems."""
    found: list[str] = []
    left = [(root, 2)]
    looked = 0
    while left and looked < _FOLDERS:
        folder, depth = left.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if looked == _FOLDERS or not entry.is_dir(follow_symlinks=False):
                        continue
                    looked += 1
                    if entry.stat(follow_symlinks=False).st_dev != device:
                        found.append(entry.path)
                    elif depth > 1:
                        left.append((Path(entry.path), depth - 1))
        except OSError:
            continue
    return tuple(sorted(found))
