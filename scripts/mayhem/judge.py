"""The checker's verdict: from what is known and what was seen to what is wrong. No I/O.

It shares no code with the service. What it is told of the service's journal and of qBittorrent
counts only against them: what is whole where was hashed by `look`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from .known import Accepted, Known
from .webui import RUNNING, STOPPED

CLOSED = frozenset({"done", "undone", "moved", "gone"})
"""Last steps of a relocation."""
CONFLICT = "a spoilt copy that its user has to judge"
ALIVE = frozenset({"queued", "waiting", "running"})


class Weight(Enum):
    """How bad it is."""

    LOSS = "LOSS"  #: data is gone
    WRONG = "WRONG"  #: a promise is broken
    NOTED = "noted"  #: known to be missing, or nobody's fault: counted apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be."""

    weight: Weight
    what: str  #: in a few words, to be counted by
    about: object  #: the torrent, notification or file
    text: str

    def __str__(self) -> str:
        return f"{self.weight.value}: {self.what}: {self.about}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """The names of a torrent's files that were found as they were made."""

    on_ssd: frozenset[str]
    on_hdd: frozenset[str]


@dataclass(kw_only=True)
class Look:
    """All that was seen at one pause."""

    torrents: Mapping[str, Mapping[str, Any]]  #: qBittorrent's, by id
    copies: Mapping[int, Copies]  #: by the torrent's number
    jobs_told: Mapping[str, Mapping[str, Any]]  #: by ``/jobs``, by id
    jobs_kept: Mapping[str, Mapping[str, Any]]  #: in the journal's file
    relocations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  #: the last ones
    ended: Mapping[str, int] = field(default_factory=dict)  #: relocations, by last step
    foreign: Mapping[Path, str | None] = field(default_factory=dict)  #: SHA-256
    outside_changed: Sequence[str] = ()  #: names
    strangers: Sequence[str] = ()  #: beside the tiers
    staged: Mapping[Path, str] = field(default_factory=dict)  #: folders of jobs, and their ids

    hashed: int = 0  #: files

    @property
    def unfinished(self) -> list[Mapping[str, Any]]:
        """The jobs that are still alive."""
        return [job for job in self.jobs_kept.values() if job["state"] in ALIVE]


def judge(
    look: Look,
    torrents: Sequence[Known],
    accepted: Sequence[Accepted] = (),
    foreign: Mapping[Path, str] | None = None,
    spoilt: frozenset[Path] = frozenset(),
    mended: Mapping[Path, tuple[float, float]] | None = None,
) -> list[Finding]:
    """Say all that is wrong. Copies that we spoilt: still, or from when until when."""
    found = [finding for known in torrents for finding in _torrent(look, known, torrents)]
    by_id = {known.id: known for known in torrents}
    for one in {one.job_id: one for one in accepted}.values():
        found += _notification(look, one, by_id.get(one.torrent_id), spoilt, mended or {})
    for path, sha256 in (foreign or {}).items():
        if look.foreign.get(path) != sha256:
            gone = look.foreign.get(path) is None
            found.append(wrong("foreign file", path, "is gone" if gone else "was changed"))
    for path, job_id in look.staged.items():
        state = look.jobs_kept.get(job_id, {}).get("state")
        if state not in ALIVE:
            found.append(wrong("staging was left", path, f"its job is {state or 'not known'}"))
    found += [wrong("outside the tiers", name, "was changed") for name in look.outside_changed]
    found += [wrong("outside the tiers", name, "is new") for name in look.strangers]
    return found


def _torrent(look: Look, known: Known, torrents: Sequence[Known]) -> Iterator[Finding]:
    copies = look.copies[known.spec.number]
    ssd_lacks, hdd_lacks = known.required - copies.on_ssd, known.required - copies.on_hdd
    info = look.torrents.get(known.id)
    tale = f"{_story(look, known)}; whole but for: SSD {sorted(ssd_lacks)}, HDD {sorted(hdd_lacks)}"
    if known.removed:
        # Its files may have gone with a torrent that shares them: then they are where that one is.
        if lost := {name for name in known.required if not _anywhere(look, known, torrents, name)}:
            yield _loss("a removed torrent's files", known, f"{sorted(lost)} nowhere; {tale}")
        return
    if lost := ssd_lacks & hdd_lacks:
        yield _loss("lost", known, f"{sorted(lost)} nowhere; {tale}")
        return
    if ssd_lacks and hdd_lacks:
        yield wrong("whole on no tier", known, tale)
        return
    if info is None:
        yield _noted("qBittorrent forgot a torrent", known, tale)
        return
    yield from _seeding(look, known, info, tale)


def _seeding(look: Look, known: Known, info: Mapping[str, Any], tale: str) -> Iterator[Finding]:
    copies = look.copies[known.spec.number]
    tier = known.tier_of(info["content_path"])
    here = copies.on_ssd if tier == "SSD" else copies.on_hdd if tier == "HDD" else frozenset()
    if not known.wanted <= here:
        # Whole on the HDD only, and qBittorrent looks on the SSD: it forgot the relocation.
        done = look.relocations.get(known.id, {}).get("step") == "done"
        if tier == "SSD" and known.wanted <= copies.on_hdd and done:
            yield wrong("qBittorrent forgot a relocation", known, tale)
        else:
            yield wrong("seeds from where it is not whole", known, tale)
        return
    step = look.relocations.get(known.id, {}).get("step", "done")
    if step not in CLOSED:
        # Settled all the same: it waits for one that shares its files and was removed.
        yield _noted("a relocation waits for one that was removed", known, tale)
        return
    right = STOPPED if known.stopped else RUNNING
    if info["progress"] != 1 or info["amount_left"] or info["state"] not in RUNNING | STOPPED:
        yield wrong("does not seed", known, tale)
    elif info["state"] not in right:
        should = "stopped, as its user left it" if known.stopped else "running"
        yield wrong("run state", known, f"it should be {should}; {tale}")
    if "qbm-relocating" in info["tags"]:
        yield wrong("its tag was left", known, tale)


def _anywhere(look: Look, known: Known, torrents: Sequence[Known], name: str) -> bool:
    sha256 = known.files[name].sha256
    for other in torrents:
        if other.spec.family == known.spec.family:
            copies = look.copies[other.spec.number]
            if any(other.files[n].sha256 == sha256 for n in copies.on_ssd | copies.on_hdd):
                return True
    return False


def _notification(
    look: Look,
    accepted: Accepted,
    known: Known | None,
    spoilt: frozenset[Path],
    mended: Mapping[Path, tuple[float, float]],
) -> Iterator[Finding]:
    """It ended in a verified copy, or is still in the journal."""
    kept, told = look.jobs_kept.get(accepted.job_id), look.jobs_told.get(accepted.job_id)
    about = accepted
    if kept is None or told is None:
        where = "the journal" if kept is None else "/jobs"
        yield wrong("an accepted notification is gone", about, f"it is not in {where}")
        return
    seen: set[str] = set()
    while kept["state"] == "merged":
        next_id = str(kept["merged_into"])
        kept = look.jobs_kept.get(next_id)
        if kept is None or next_id in seen:
            yield wrong("an accepted notification is gone", about, f"merged into {next_id}")
            return
        seen.add(next_id)
    if kept["state"] in ALIVE:
        return
    if known is None or known.removed or known.id not in look.torrents:
        return
    text = f"{kept['state']} {kept['outcome']} {kept['error_code']}: {kept['error']}"
    if kept["state"] == "failed" and _done_since(look, known, kept):
        return
    conflict = kept["error_code"] == "destination_conflict"
    then = frozenset(p for p, (a, b) in mended.items() if a <= (kept["finished_at"] or 0) <= b)
    if kept["state"] == "failed" and conflict and _spoilt(known, spoilt | then):
        # Two torrents have the copy that we spoilt: the service leaves it to its user. The
        # other one's job may have made it anew since.
        yield _noted(CONFLICT, about, text)
    elif kept["state"] != "done":
        yield wrong("an accepted notification came to nothing", about, text)
    elif not _copied(look, known, spoilt):
        yield wrong("done without a whole copy", about, f"{text}; {_story(look, known)}")


def _copied(look: Look, known: Known, spoilt: frozenset[Path]) -> bool:
    on_hdd = look.copies[known.spec.number].on_hdd
    if known.wanted <= on_hdd | _spoilt(known, spoilt):
        return True
    # A bad copy was set aside, and is to be made anew.
    return any(
        job["torrent_id"] == known.id and job["state"] in ALIVE for job in look.jobs_kept.values()
    )


def _done_since(look: Look, known: Known, failed: Mapping[str, Any]) -> bool:
    """Whether a later job of the torrent made the copy."""
    return known.wanted <= look.copies[known.spec.number].on_hdd and any(
        job["torrent_id"] == known.id
        and job["state"] == "done"
        and job["finished_at"] >= failed["finished_at"]
        for job in look.jobs_kept.values()
    )


def _spoilt(known: Known, spoilt: frozenset[Path]) -> set[str]:
    return {name for name in known.wanted if known.on_hdd / name in spoilt}


def _story(look: Look, known: Known) -> str:
    info = look.torrents.get(known.id)
    words = ("state", "progress", "amount_left", "content_path", "save_path", "tags")
    said = "not listed" if info is None else {word: info.get(word) for word in words}
    last = look.relocations.get(known.id)
    relocated = "never relocated" if last is None else f"relocation {last['step']} {last['error']}"
    return f"qBittorrent: {said}; {relocated}"


def _loss(what: str, about: object, text: str) -> Finding:
    return Finding(weight=Weight.LOSS, what=what, about=about, text=text)


def wrong(what: str, about: object, text: str) -> Finding:
    """A promise is broken."""
    return Finding(weight=Weight.WRONG, what=what, about=about, text=text)


def _noted(what: str, about: object, text: str) -> Finding:
    return Finding(weight=Weight.NOTED, what=what, about=about, text=text)
