"""What a check has found, and the rules about settings and the clock. Pure: facts in, findings out.

The rules about folders are in ``check_folders.py``, those about qBittorrent in
``check_qbittorrent.py``; ``adapters/check_probes.py`` gathers the facts.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from .text import one_line


class Level(StrEnum):
    """How much a finding matters; the last one matters most."""

    OK = "ok"  #: as it should be
    NOTE = "note"  #: nothing is wrong; good to know
    WARNING = "warning"  #: it works, but not as its user may expect
    PROBLEM = "problem"  #: torrents will not be copied, or not be relocated


class Group(StrEnum):
    """What a finding is about, in the order in which findings are shown."""

    SETTINGS = "settings"
    FOLDERS = "folders"
    QBITTORRENT = "qBittorrent"
    PATHS = "paths"
    CLOCK = "clock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    code: str  #: one stable word
    group: Group
    what: str  #: what was found, and where
    advice: str = ""  #: how to mend it

    @property
    def message(self) -> str:
        """What and advice, in one line that no name can break."""
        return one_line(f"{self.what}; {self.advice}" if self.advice else self.what)


def needs_attention(findings: Iterable[Finding]) -> list[Finding]:
    """The warnings and problems, the problems first."""
    found = [f for f in findings if f.level in (Level.WARNING, Level.PROBLEM)]
    return sorted(found, key=lambda f: f.level is not Level.PROBLEM)


def report(findings: Sequence[Finding]) -> list[str]:
    """Give what a person reads: grouped, the advice below what it is about, a sum at the end."""
    lines = []
    for group in Group:
        of_group = [f for f in findings if f.group is group]
        if of_group:
            lines += ["", f"{group}:"]
        for finding in of_group:
            lines.append(f"  {finding.level:<8} {one_line(finding.what)}")
            if finding.advice:
                lines.append(f"{'':<10} -> {one_line(finding.advice)}")
    usable = not any(f.level is Level.PROBLEM for f in findings)
    verdict = "The settings can be used" if usable else "This will not work as it is"
    return [*lines[1:], "", f"{verdict}: {summary(findings)}."]


def summary(findings: Sequence[Finding]) -> str:
    """How many there are of what needs a look, the worst first."""
    counts = [
        f"{count} {level}{'s'[: count > 1]}"
        for level in (Level.PROBLEM, Level.WARNING, Level.NOTE)
        if (count := sum(f.level is level for f in findings))
    ]
    return ", ".join(counts) or "nothing is wrong"


# -- settings ----------------------------------------------------------------

WEAK_BITS: Final = 40
"""A key whose characters a guesser need not try more often than 2 to this power is weak."""
_POOLS: Final = (("[0-9]", 10), ("[a-z]", 26), ("[A-Z]", 26), ("[^0-9a-zA-Z]", 33))


def key_bits(key: str) -> float:
    """Estimate how many bits of chance are in a key. Words are not known here.

    What continues what stands before (the same character, or the next in the alphabet) adds
    nothing, nor does what is repeated as a whole.
    """
    block = re.fullmatch(r"(.+?)\1+", key, re.DOTALL)
    counted = block[1] if block else key
    steps = itertools.pairwise(counted)
    surprising = 1 + sum(abs(ord(b) - ord(a)) > 1 for a, b in steps) if counted else 0
    if re.fullmatch("[0-9a-f]+|[0-9A-F]+", counted):
        pool = 16
    else:
        pool = sum(size for pattern, size in _POOLS if re.search(pattern, counted))
    # Two letters in any order are no alphabet.
    return surprising * math.log2(min(pool, len(set(counted)) ** 2)) if surprising else 0.0


def check_key(name: str, key: str | None) -> list[Finding]:
    """Judge a secret of ours that clients must send; None when it is not used."""
    if key is None:
        return []
    if key_bits(key) < WEAK_BITS:
        return [
            _setting(
                Level.WARNING,
                "weak_key",
                f"{name} can be guessed: it repeats itself or has few different characters",
                "make one with: openssl rand -hex 32",
            )
        ]
    return [_setting(Level.OK, "key", f"{name} is long and varied enough")]


def check_settings(
    warnings: Iterable[str], *, dry_run: bool, secrets: Iterable[str]
) -> list[Finding]:
    """Judge what is given.

    Args:
        warnings: of reading the settings: old names, misspelt ones.
        dry_run: whether nothing is to be written.
        secrets: all that are set, to see whether one stands for two.
    """
    found = []
    for warning in warnings:
        what, _, advice = warning.partition("; ")
        found.append(_setting(Level.WARNING, "without_effect", what, advice))
    given = list(secrets)
    if len(set(given)) < len(given):
        found.append(
            _setting(
                Level.WARNING,
                "shared_secret",
                "one secret is used for two of HTTP_API_KEY, QBIT_PASSWORD and QBIT_API_KEY",
                "who learns it from one client has both; make HTTP_API_KEY with: "
                "openssl rand -hex 32",
            )
        )
    if dry_run:
        found.append(
            _setting(
                Level.NOTE,
                "dry_run",
                "DRY_RUN is on: plans are logged, nothing is copied, tagged, moved or deleted",
                "set DRY_RUN=false when the plans are what you want",
            )
        )
    return found


def _setting(level: Level, code: str, what: str, advice: str = "") -> Finding:
    return Finding(level=level, code=code, group=Group.SETTINGS, what=what, advice=advice)


# -- the clock ---------------------------------------------------------------

EARLIEST_AT: Final = 1_704_067_200.0  # 2024-01-01
"""Before this was written: a clock that says so is not set."""
CLOCK_OFF_S: Final = 60.0


def check_clock(now: float, *, others: Iterable[tuple[str, float | None]]) -> list[Finding]:
    """Compare the clock with others.

    Args:
        now: epoch seconds, by the service's own clock.
        others: whose clock, and how many seconds it is ahead; None where it does not tell.
    """
    if now < EARLIEST_AT:
        return [
            _clock(
                Level.PROBLEM,
                "clock_not_set",
                "the clock says a year before 2024: it is not set",
                "set it (NTP); which torrents are new is told by it",
            )
        ]
    known = [(whose, ahead_s) for whose, ahead_s in others if ahead_s is not None]
    off = [(whose, ahead_s) for whose, ahead_s in known if abs(ahead_s) > CLOCK_OFF_S]
    if not off:
        if not known:
            return []
        whose = ", ".join(whose for whose, _ in known)
        return [_clock(Level.OK, "clock", f"the clock agrees with those of: {whose}")]
    return [
        _clock(
            Level.WARNING,
            "clock_differs",
            f"the clock of {whose} is {abs(ahead_s):.0f} s "
            f"{'ahead of' if ahead_s > 0 else 'behind'} the service's",
            "set both by NTP; when torrents finished, and which are new, is told by them",
        )
        for whose, ahead_s in off
    ]


def _clock(level: Level, code: str, what: str, advice: str = "") -> Finding:
    return Finding(level=level, code=code, group=Group.CLOCK, what=what, advice=advice)
