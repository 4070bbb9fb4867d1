"""Decide which torrents to relocate so that the SSD has room. Pure: facts in, plan out.

Safety rules come before the space rule, so no shortage, however large, reaches
a torrent that must not be touched. A group goes together or not at all. Why it
is so: ``docs/adr/0005-groups-and-plan.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Final

from .model import JobState, Torrent, TorrentId
from .readiness import why_not_ready
from .sharing import Group
from .text import one_line

PIN_TAG: Final = "qbm-pin"  #: the user's: leave this torrent where it is
RELOCATING_TAG: Final = "qbm-relocating"  #: ours, while a relocation is open


class Choice(StrEnum):
    """What a run does with a torrent that it does not spare."""

    RELOCATE = "relocate"
    TIER_FIRST = "tier_first"  #: a copy on the HDD comes first; a later run relocates it


class Spared(StrEnum):
    """Why a run leaves a torrent alone. Of several reasons the first listed here is given."""

    RELOCATING = "relocating"  #: a relocation of it is open
    PINNED = "pinned"  #: tagged `PIN_TAG`
    ERROR = "error"  #: qBittorrent reports an error or missing files
    BUSY = "busy"  #: moving or checking
    INCOMPLETE = "incomplete"
    UNUSABLE = "unusable"  #: a path of it cannot be relied on
    UNWANTED_FILE = "unwanted_file"  #: one is on the SSD without a copy: it would be moved along
    RELOCATION_FAILED = "relocation_failed"  #: not long ago, and its copy was not made anew since
    LAST_JOB_ENDED_BADLY = "last_job_ended_badly"  #: failed, cancelled or cleared
    FREES_NOTHING = "frees_nothing"  #: all its data has other links, or its copy the same disk
    TIERING = "tiering"  #: a job of it is queued, waiting or running
    HALF_OF_QUEUE = "half_of_queue"  #: needed, but tiering more now would crowd the queue
    NOT_TIERED = "not_tiered"  #: no verified copy on the HDD
    TARGET_MET = "target_met"  #: could go, but there is room enough without it
    SHARED = "shared"  #: nothing is wrong with it, but with one that shares its files


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the decision needs to know of one torrent."""

    torrent: Torrent
    tiered: bool  #: the journal has a verified, published copy on the HDD
    last_job: JobState | None = None  #: how its newest job stands; None when it had none
    alive_job: bool = False  #: it has a job that is queued, waiting or running
    relocating: bool = False  #: the journal has an open relocation of it
    obstacle: tuple[Spared, str] | None = None  #: found on the disk or in the journal; why
    forgiven: str | None = None  #: what would speak against it in a run that begins by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Relocate:
    """A group to relocate now."""

    group: Group
    bytes: int  #: what this should free


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenTorrent:
    """A torrent that the run does something with, and why."""

    torrent_id: TorrentId
    name: str
    bytes: int  #: what its files occupy on the SSD
    choice: Choice
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SparedTorrent:
    """A torrent that the run leaves alone, and why."""

    torrent_id: TorrentId
    name: str
    bytes: int  #: what its files occupy on the SSD
    reason: Spared
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SpacePlan:
    """What a run does. Each torrent is either in ``chosen`` or in ``spared``, once."""

    relocate: tuple[Relocate, ...]  #: oldest first
    tier_first: tuple[TorrentId, ...]  #: oldest first
    chosen: tuple[ChosenTorrent, ...]  #: members of ``relocate``, and ``tier_first``
    spared: tuple[SparedTorrent, ...]  #: oldest group first
    spared_bytes: Mapping[Spared, int]  #: data that stays, once, by what keeps its group there
    missing_bytes: int  #: at the start, beyond what is free and pending
    planned_bytes: int  #: what ``relocate`` should free
    shortfall_bytes: int  #: still missing after that

    @property
    def target_met(self) -> bool:
        """Whether the target is reached once the plan is carried out."""
        return self.shortfall_bytes == 0


def plan_space(
    groups: Iterable[Group],
    facts: Mapping[TorrentId, Facts],
    *,
    free_bytes: int,
    target_bytes: int,
    pending_bytes: int,
    tier_room: int,
) -> SpacePlan:
    """Choose the oldest groups that may go until the target is met.

    A group is as old as its youngest member's completion. Groups whose only
    fault is that a copy on the HDD is missing are tiered first: as many as the
    shortage needs after what is relocated now and what is being tiered already.
    Equal inputs give equal plans, whatever their order.

    Args:
        groups: all torrents on the SSD, from `sharing.groups`.
        facts: of each torrent in ``groups``.
        free_bytes: of the SSD, from statvfs.
        target_bytes: how much should be free.
        pending_bytes: what relocations that wait for their deletion will free.
        tier_room: how many torrents may be queued for tiering now.

    Raises:
        KeyError: a torrent of a group has no facts: a bug of the caller.
    """
    missing_bytes = max(0, target_bytes - free_bytes - pending_bytes)
    candidates = sorted((_Candidate(group, facts) for group in groups), key=_by_age)

    relocate: list[Relocate] = []
    planned_bytes = 0
    curable: list[_Candidate] = []
    for candidate in candidates:
        group, faults = candidate.group, candidate.kinds_of_fault
        if not faults <= _CURABLE:
            pass  # spared for these faults
        elif group.frees_bytes == 0:
            candidate.decide(Spared.FREES_NOTHING, _frees_nothing(group))
        elif faults:
            curable.append(candidate)
        elif planned_bytes < missing_bytes:
            relocate.append(Relocate(group=group, bytes=group.frees_bytes))
            planned_bytes += group.frees_bytes
            candidate.decide(Choice.RELOCATE, _goes(group))
        else:
            candidate.decide(Spared.TARGET_MET, "there is room enough without relocating it")

    tier_first = _tier_first(curable, needed_bytes=missing_bytes - planned_bytes, room=tier_room)

    chosen: list[ChosenTorrent] = []
    spared: list[SparedTorrent] = []
    spared_bytes = dict.fromkeys(Spared, 0)
    for candidate in candidates:
        candidate.report(chosen, spared, spared_bytes)
    return SpacePlan(
        relocate=tuple(relocate),
        tier_first=tier_first,
        chosen=tuple(chosen),
        spared=tuple(spared),
        spared_bytes={reason: count for reason, count in spared_bytes.items() if count},
        missing_bytes=missing_bytes,
        planned_bytes=planned_bytes,
        shortfall_bytes=max(0, missing_bytes - planned_bytes),
    )


def _tier_first(
    curable: list[_Candidate], *, needed_bytes: int, room: int
) -> tuple[TorrentId, ...]:
    """Choose what to tier; say so in the verdicts."""
    # What is in the queue already will be relocatable soon. Without this, each
    # run until then would queue as many again.
    for candidate in curable:
        if Spared.NOT_TIERED not in candidate.kinds_of_fault:
            needed_bytes -= candidate.group.frees_bytes
    chosen: list[TorrentId] = []
    for candidate in curable:
        if Spared.NOT_TIERED not in candidate.kinds_of_fault:
            continue
        if needed_bytes <= 0:
            break
        needed_bytes -= candidate.group.frees_bytes
        for n, fault in enumerate(candidate.faults):
            if fault is None or fault[0] is not Spared.NOT_TIERED:
                continue
            # A group larger than the room is tiered in parts: some now, the rest
            # in later runs. Taken whole or not at all, it might never be.
            if len(chosen) < room:
                chosen.append(candidate.members[n].torrent.id)
                candidate.verdicts[n] = _TIER_FIRST
            else:
                candidate.verdicts[n] = _HALF_OF_QUEUE
    return tuple(chosen)


_CURABLE: Final = frozenset({Spared.TIERING, Spared.NOT_TIERED})
"""Faults that a finished tiering job takes away."""

_RANK: Final = {reason: n for n, reason in enumerate(Spared)}

_Verdict = tuple[Choice | Spared, str]

_TIER_FIRST: Final = (
    Choice.TIER_FIRST,
    "the SSD is short of space, and it has no verified copy on the HDD yet: "
    "it is copied there first",
)
_HALF_OF_QUEUE: Final = (
    Spared.HALF_OF_QUEUE,
    "it has no verified copy on the HDD yet; it is copied there later, as space "
    "management never takes more than half of the queue",
)
_ENDED: Final = {
    JobState.FAILED: "failed",
    JobState.CANCELLED: "was cancelled",
    JobState.CLEARED: "was cleared from the queue",
}


class _Candidate:
    """One group while the plan is made: its members, oldest first, and a verdict on each."""

    __slots__ = ("age", "faults", "group", "kinds_of_fault", "members", "verdicts")

    def __init__(self, group: Group, facts: Mapping[TorrentId, Facts]) -> None:
        self.group = group
        # `Group.torrent_ids` is sorted, and sorting by age keeps that among equals.
        self.members = [*map(facts.__getitem__, group.torrent_ids)]
        if len(self.members) > 1:
            self.members.sort(key=_completed_at)
        self.age = _completed_at(self.members[-1])
        self.faults = [*map(_fault, self.members)]
        self.kinds_of_fault = {fault[0] for fault in self.faults if fault}
        #: Until decided otherwise: spared for its own fault. None: for that of another.
        self.verdicts: list[_Verdict | None] = [*self.faults]

    def decide(self, verdict: Choice | Spared, sentence: str) -> None:
        """Give all members the same verdict."""
        self.verdicts = [(verdict, sentence)] * len(self.members)

    def report(
        self,
        chosen: list[ChosenTorrent],
        spared: list[SparedTorrent],
        spared_bytes: dict[Spared, int],
    ) -> None:
        """Add the verdicts to what the plan reports."""
        occupied_bytes = self._occupied_bytes()
        shared = (Spared.SHARED, self._shared() if None in self.verdicts else "")
        strongest: Spared | None = None
        for member, verdict in zip(self.members, self.verdicts, strict=True):
            torrent = member.torrent
            what, sentence = verdict or shared
            if isinstance(what, Spared):
                if strongest is None or _RANK[what] < _RANK[strongest]:
                    strongest = what
                spared.append(
                    SparedTorrent(
                        torrent_id=torrent.id,
                        name=torrent.name,
                        bytes=occupied_bytes[torrent.id],
                        reason=what,
                        sentence=sentence,
                    )
                )
            else:
                if member.forgiven is not None:
                    sentence += f"; a run that begins by itself would not: {member.forgiven}"
                chosen.append(
                    ChosenTorrent(
                        torrent_id=torrent.id,
                        name=torrent.name,
                        bytes=occupied_bytes[torrent.id],
                        choice=what,
                        sentence=sentence,
                    )
                )
        if strongest is not None:
            spared_bytes[strongest] += self.group.frees_bytes + self.group.held_bytes

    def _shared(self) -> str:
        """Say with whom those who have no fault of their own share their files."""
        faulty = ((m, fault) for m, fault in zip(self.members, self.faults, strict=True) if fault)
        member, fault = min(faulty, key=lambda found: _RANK[found[1][0]])
        name = one_line(member.torrent.name)
        return f"it shares files with '{name}', which cannot go now: {fault[1]}"

    def _occupied_bytes(self) -> dict[TorrentId, int]:
        group = self.group
        if len(group.torrent_ids) == 1:
            return {group.torrent_ids[0]: group.frees_bytes + group.held_bytes}
        occupied_bytes = dict.fromkeys(group.torrent_ids, 0)
        counted = set[tuple[TorrentId, tuple[int, int]]]()
        for file in group.files:
            if file.links > 1:  # a torrent may hold several names of one inode
                if (file.torrent_id, file.inode) in counted:
                    continue
                counted.add((file.torrent_id, file.inode))
            occupied_bytes[file.torrent_id] += file.disk_bytes
        return occupied_bytes


def _completed_at(facts: Facts) -> float:
    # Not known (qBittorrent leaves it unset for some): taken as the youngest, to go last.
    at = facts.torrent.completed_at
    return inf if at is None else at


def _by_age(candidate: _Candidate) -> tuple[float, TorrentId]:
    return candidate.age, candidate.group.torrent_ids[0]


def _fault(facts: Facts) -> tuple[Spared, str] | None:
    """Say what speaks against relocating this torrent, whatever the space; None if nothing."""
    torrent = facts.torrent
    # First, because a torrent in mid-relocation looks stopped and incomplete.
    if facts.relocating:
        return Spared.RELOCATING, "it is being relocated now"
    if RELOCATING_TAG in torrent.tags:
        return Spared.RELOCATING, (
            f"it is tagged {RELOCATING_TAG}; if no relocation of it is running, remove the tag"
        )
    if PIN_TAG in torrent.tags:
        return Spared.PINNED, f"it is tagged {PIN_TAG}"
    not_ready = why_not_ready(torrent, ())
    if not_ready is not None:
        return _unready(torrent), not_ready
    if facts.obstacle is not None:
        return facts.obstacle
    if facts.alive_job:
        return Spared.TIERING, "a job to copy it to the HDD is queued or under way"
    if facts.last_job in _ENDED:
        return Spared.LAST_JOB_ENDED_BADLY, (
            f"its last job {_ENDED[facts.last_job]}; retry that job, or notify the torrent again"
        )
    if not facts.tiered:
        return Spared.NOT_TIERED, "it has no verified copy on the HDD yet"
    return None


def _unready(torrent: Torrent) -> Spared:
    if torrent.state in ("error", "missingFiles"):
        return Spared.ERROR
    if torrent.state == "moving" or torrent.state.startswith("checking"):
        return Spared.BUSY
    return Spared.INCOMPLETE


def _frees_nothing(group: Group) -> str:
    if not (group.files or group.estimated):
        return "none of its files are on the SSD"
    if group.held_bytes == 0:
        return "its files occupy no space on the SSD"
    return (
        "all its data is also hardlinked from elsewhere on the SSD (a media library?), "
        "so deleting its files would free nothing"
    )


def _goes(group: Group) -> str:
    others = len(group.torrent_ids) - 1
    sentence = "the SSD is short of space, and it is among the oldest with a verified copy"
    if others:
        plural = "torrent that shares" if others == 1 else "torrents that share"
        sentence += f"; relocated together with {others} {plural} its files"
    return sentence
