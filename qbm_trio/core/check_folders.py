"""The rules about the folders: mounts, rights, room. Pure: facts in, findings out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .checks import Finding, Group, Level

_POOLS: Final = ("fuse.mergerfs", "fuse.shfs", "fuse.unionfs", "mergerfs", "aufs")
_NETWORK: Final = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuse.glusterfs", "ceph")
_IN_MEMORY: Final = ("tmpfs", "ramfs")
_OF_CONTAINERS: Final = ("overlay", "aufs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """The file system that a path is on."""

    point: str
    fs_type: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderFacts:
    """What the system says of a folder, or of the file that a setting names."""

    setting: str  #: the variable that names it
    path: str
    silent: bool = False  #: its disk did not answer
    refused: str | None = None  #: why it cannot be written; None: it can, or is not there yet
    tried: bool = False  #: by writing, and not only by asking for the rights
    owner: str = ""  #: of what decides about it: "uid 1000, gid 1000, mode 0755"
    mount: Mount | None = None  #: None where the system does not tell
    device: int = 0
    total_bytes: int = 0
    free_bytes: int = 0
    clock_ahead_s: float | None = None  #: of the times its file system writes
    others: tuple[str, ...] = ()  #: folders in it that are on other file systems


@dataclass(frozen=True, slots=True, kw_only=True)
class TierFacts(FolderFacts):
    """One tier."""

    name: str  #: SSD or HDD
    marker: str | None = None
    marker_problem: str | None = None
    marker_expected: str | None = None  #: as the journal has it; None: not known here
    used_before: bool = False  #: a journal is there: markers too, unless all was a dry run


def mount_of(mounts: str, path: str) -> Mount | None:
    """Find the mount that a path is on.

    Args:
        mounts: the text of ``/proc/self/mountinfo``; see proc_pid_mountinfo(5).
        path: a real one, without links.
    """
    best: Mount | None = None
    for line in mounts.splitlines():
        ours, _, theirs = line.partition(" - ")
        fields, rest = ours.split(" "), theirs.split(" ")
        if len(fields) < 5 or len(rest) < 2:
            continue
        point = _unescaped(fields[4])
        covers = path == point or path.startswith(point.rstrip("/") + "/")
        # Of two at one place the later one covers the other.
        if covers and (best is None or len(point) >= len(best.point)):
            best = Mount(point=point, fs_type=rest[0], source=_unescaped(rest[1]))
    return best


def _unescaped(name: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), name)


def check_tiers(
    ssd: TierFacts,
    hdd: TierFacts,
    *,
    who: str,
    same_storage: str | None,
    dry_run: bool,
    threshold_bytes: int,
    target_bytes: int,
    hdd_min_free_bytes: int,
) -> list[Finding]:
    """Judge both tiers.

    Args:
        ssd: the SSD.
        hdd: the HDD.
        who: the user that the service runs as: "uid 1000, gid 1000".
        same_storage: why both are one place; None when they are two, or cannot be asked.
        dry_run: whether nothing is to be written.
        threshold_bytes: below which the SSD is short.
        target_bytes: until which it is freed.
        hdd_min_free_bytes: that copies leave on the HDD.
    """
    found = []
    for tier, other in ((ssd, hdd), (hdd, ssd)):
        if tier.silent:
            found.append(_silent(tier))
        else:
            found += [*_rights(tier, who), *_mount(tier), *_marker(tier, other, dry_run=dry_run)]
    if ssd.silent or hdd.silent:
        return found
    if ssd.marker is not None and ssd.marker == hdd.marker:
        same_storage = f"{ssd.path} and {hdd.path} carry the same marker: they are one place"
    if same_storage is not None:
        found.append(
            _finding(
                Level.PROBLEM,
                "same_storage",
                same_storage.partition("; ")[0],
                "give each tier a disk of its own, not a pool and one of its members",
            )
        )
    elif ssd.device == hdd.device:
        found.append(
            _finding(
                Level.WARNING,
                "one_file_system",
                f"both tiers are on one file system ({_where(ssd)}): torrents are copied, but "
                "relocating one would free nothing",
                f"check that the HDD is mounted at {hdd.path}",
            )
        )
    else:
        found.append(_finding(Level.OK, "two_disks", "the tiers are on two file systems"))
    found += _others(ssd, hdd)
    return found + _room(ssd, hdd, threshold_bytes, target_bytes, hdd_min_free_bytes)


def check_own(state: FolderFacts, log_file: FolderFacts, *, who: str) -> list[Finding]:
    """Judge where the service keeps its journal and its log."""
    found = []
    for own, level in ((state, Level.PROBLEM), (log_file, Level.WARNING)):
        found += [_silent(own)] if own.silent else _rights(own, who, level=level)
    mount = state.mount
    if mount is not None and mount.fs_type in (*_NETWORK, *_IN_MEMORY):
        why = "SQLite needs locks and syncs that a network's file system may not keep"
        if mount.fs_type in _IN_MEMORY:
            why = "it is gone with a restart of the machine, and what was accepted with it"
        found.append(
            _finding(
                Level.WARNING,
                "state_place",
                f"STATE_DIR {state.path} is on {mount.fs_type} (mounted at {mount.point}): {why}",
                "put it on a local disk",
            )
        )
    return found


def _rights(facts: FolderFacts, who: str, *, level: Level = Level.PROBLEM) -> list[Finding]:
    what = f"{facts.setting} {facts.path}"
    if facts.refused is not None:
        return [
            _finding(
                level,
                "not_writable",
                f"{what} cannot be written by {who} ({facts.refused}; its owner: {facts.owner})",
                "run the service as its owner (PUID and PGID in a container), or change its "
                "owner or mode; mount it read-write",
            )
        ]
    how = "" if facts.tried else ", by its rights; nothing was written"
    return [_finding(Level.OK, "writable", f"{what} can be written by {who}{how}")]


def _silent(facts: FolderFacts) -> Finding:
    return _finding(
        Level.PROBLEM,
        "silent",
        f"{facts.setting} {facts.path} does not answer",
        "look in the kernel log, and check the disk, or the network that it is on",
    )


def _where(tier: TierFacts) -> str:
    mount = tier.mount
    return f"{mount.fs_type}, mounted at {mount.point}" if mount else "mount unknown"


def _mount(tier: TierFacts) -> list[Finding]:
    mount = tier.mount
    if mount is None:
        return []
    what = f"{tier.setting} {tier.path} is on {_where(tier)}"
    if mount.point == "/":
        advice = f"if a disk of its own belongs there, mount it at {tier.path}"
        # What is on a container's own root is gone with it; the SSD may well be the system's disk.
        lost = mount.fs_type in _OF_CONTAINERS
        level = Level.WARNING if tier.name == "HDD" or lost else Level.NOTE
        why = ": the container's own, gone with it" if lost else ": the system's own disk"
        return [_finding(level, "on_root", what + why, advice)]
    found = [_finding(Level.OK, "mounted", what)]
    if mount.fs_type in _POOLS:
        found.append(
            _finding(
                Level.NOTE,
                "pool",
                f"{tier.path} is a pool ({mount.fs_type}): it chooses the disk of each file, and "
                "its free space is that of all of them",
                "see that it is not a view of the other tier, too",
            )
        )
    return found


def _marker(tier: TierFacts, other: TierFacts, *, dry_run: bool) -> list[Finding]:
    file = f"{tier.path}/.qbm-tier"
    if tier.marker_problem is not None:
        what, _, advice = tier.marker_problem.partition("; ")
        return [_finding(Level.PROBLEM, "marker_damaged", what, advice)]
    if tier.marker is None:
        # Both are made at the same start.
        surely = tier.marker_expected or (tier.used_before and other.marker)
        if not surely and (dry_run or not tier.used_before):
            made = f"{file} is made when the service first starts without DRY_RUN"
            return [_finding(Level.NOTE, "marker_to_come", made)]
        advice = f"mount it at {tier.path}" + (
            f"; if you replaced the disk, write {tier.marker_expected} into {file}"
            if tier.marker_expected
            else "; the service's log says what to do if you replaced the disk"
        )
        return [
            _finding(
                Level.PROBLEM if surely else Level.WARNING,
                "marker_missing",
                f"the {tier.name}'s marker {file} is missing, though the service has run before: "
                + ("its disk is not mounted" if surely else "was that only with DRY_RUN?"),
                advice if surely else f"if not, its disk is not mounted: {advice}",
            )
        ]
    if tier.marker_expected not in (None, tier.marker):
        return [
            _finding(
                Level.PROBLEM,
                "marker_differs",
                f"{file} is another disk's: it says {tier.marker}, not {tier.marker_expected}",
                "mount the right one",
            )
        ]
    return [_finding(Level.OK, "marker", f"the {tier.name}'s marker is there")]


def _others(ssd: TierFacts, hdd: TierFacts) -> list[Finding]:
    found = []
    if hdd.others:
        found.append(
            _finding(
                Level.NOTE,
                "folders_elsewhere",
                f"folders below {hdd.path} are on other file systems: {_some(hdd.others)}",
                "copies into them are staged there, and their own free space counts",
            )
        )
    if ssd.others:
        found.append(
            _finding(
                Level.NOTE,
                "folders_elsewhere",
                f"folders below {ssd.path} are on other file systems: {_some(ssd.others)}",
                "relocating what is in them does not free the SSD",
            )
        )
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _room(
    ssd: TierFacts, hdd: TierFacts, threshold: int, target: int, hdd_min_free: int
) -> list[Finding]:
    found = []
    if ssd.total_bytes and max(threshold, target) > ssd.total_bytes:
        code = "threshold_above_size" if threshold > ssd.total_bytes else "target_above_size"
        name, value = (
            ("DISK_SPACE_THRESHOLD_GB", threshold)
            if threshold > ssd.total_bytes
            else ("DISK_SPACE_TARGET_GB", target)
        )
        found.append(
            _finding(
                Level.WARNING,
                code,
                f"{name} is {_gb(value)}, more than the whole SSD has ({_gb(ssd.total_bytes)}): "
                "every torrent will leave it",
                f"lower {name}",
            )
        )
    elif ssd.free_bytes < threshold:
        found.append(
            _finding(
                Level.NOTE,
                "ssd_short",
                f"the SSD is short: {_gb(ssd.free_bytes)} of {_gb(ssd.total_bytes)} are free, less "
                f"than DISK_SPACE_THRESHOLD_GB ({_gb(threshold)})",
                "the oldest torrents leave it as soon as the service runs without DRY_RUN",
            )
        )
    else:
        found.append(_finding(Level.OK, "ssd_room", _free(ssd)))
    if hdd.free_bytes <= hdd_min_free:
        found.append(
            _finding(
                Level.WARNING,
                "hdd_full",
                f"the HDD is full: {_gb(hdd.free_bytes)} are free, and HDD_MIN_FREE_GB keeps "
                f"{_gb(hdd_min_free)}",
                "make room there: until then jobs wait",
            )
        )
    else:
        found.append(_finding(Level.OK, "hdd_room", _free(hdd)))
    return found


def _free(tier: TierFacts) -> str:
    return f"the {tier.name} has {_gb(tier.free_bytes)} free of {_gb(tier.total_bytes)}"


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 10**9:.3g} GB"


def _finding(level: Level, code: str, what: str, advice: str = "") -> Finding:
    return Finding(level=level, code=code, group=Group.FOLDERS, what=what, advice=advice)
