"""The plan of a run: every event, drawn from the seed alone, before anything happens.

Nothing here knows what became of an earlier event. Torrents have numbers, so that an event
can name one; an event whose torrent is not there (any more, or yet) does nothing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from itertools import count

from .specs import MIB, Spec, draw_family

ROUND_S = 30.0
AT_FIRST = 26  #: families of torrents before the first round
LIBRARY_BYTES = 60 * MIB  #: what its user keeps; the oldest torrents go at a pause
CLIENTS = ("client 1", "client 2", "client 3", "client 4")
USER = "user"
FAULTS = "faults"
ABUSER = "abuser"


class Kind(StrEnum):
    """What can happen."""

    SERVICE_KILL = "kill -9 of the service"
    SERVICE_TERM = "SIGTERM of the service"
    QBITTORRENT_KILL = "kill -9 of qBittorrent"
    BOTH_KILL = "kill -9 of both"
    QBITTORRENT_FREEZE = "qBittorrent hangs"
    HDD_FULL = "HDD full"
    HDD_READ_ONLY = "HDD read-only"
    HDD_UNMOUNT = "HDD unmounted"
    SPOIL = "copy on the HDD spoilt"
    PRESSURE = "SSD short of space"
    ADD = "torrents added"
    REMOVE = "torrent removed"
    REMOVE_WITH_FILES = "torrent removed with its files"
    FOREIGN = "foreign file written"
    NOTIFY = "notification"
    TRIGGER = "space run triggered"
    TAG_ALL = "all torrents tagged"
    RUBBISH = "rubbish body"
    WRONG_KEY = "wrong key"
    HALF_OPEN = "half-open connection"
    HUGE = "huge body"


#: How often each happens in a round, on the average.
FAULT_WEIGHTS = {
    Kind.SERVICE_KILL: 4.0,
    Kind.SERVICE_TERM: 1.5,
    Kind.QBITTORRENT_KILL: 2.5,
    Kind.BOTH_KILL: 0.7,
    Kind.QBITTORRENT_FREEZE: 0.6,
    Kind.HDD_FULL: 1.2,
    Kind.HDD_READ_ONLY: 1.2,
    Kind.HDD_UNMOUNT: 1.2,
    Kind.SPOIL: 7.0,
}
USER_WEIGHTS = {
    Kind.PRESSURE: 5.0,
    Kind.ADD: 6.0,
    Kind.REMOVE: 1.2,
    Kind.REMOVE_WITH_FILES: 1.0,
    Kind.FOREIGN: 1.5,
}
CLIENT_WEIGHTS = {Kind.NOTIFY: 12.0, Kind.TRIGGER: 1.0, Kind.TAG_ALL: 0.3}
ABUSE_WEIGHTS = {Kind.RUBBISH: 8.0, Kind.WRONG_KEY: 3.0, Kind.HALF_OPEN: 3.0, Kind.HUGE: 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happens."""

    at_s: float  #: from the round's begin
    actor: str  #: who does it; each does one thing after another
    kind: Kind
    torrent: int = -1  #: the number of the one it is about
    specs: tuple[Spec, ...] = ()  #: to be added
    draw: float = 0.0  #: from 0 to 1: chooses among what there is then
    lasts_s: float = 0.0  #: until what was killed is started, or the disk is well

    def __str__(self) -> str:
        about = [f"torrent {self.torrent}"] if self.torrent >= 0 else []
        about += [spec.name for spec in self.specs]
        return ", ".join([f"{self.at_s:5.1f} s {self.actor}: {self.kind}", *about])


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a world is like, whatever happens in it."""

    delete_grace_s: int
    refresh_ms: int  #: qBittorrent's refresh interval
    incomplete_folder: bool  #: qBittorrent downloads elsewhere first
    unfinished_names: bool  #: it appends .!qB to unfinished files


class Plan:
    """Draws one round after another; equal seeds and versions give equal plans."""

    def __init__(self, seed: int, version: str) -> None:
        self._root = f"{seed} {version}"
        self._numbers = count(1)
        self._families = count(1)
        self._rounds = count(1)
        self._here: dict[int, Spec] = {}  #: added and not removed, as planned
        rng = random.Random(f"{self._root} world")
        self.world = World(
            delete_grace_s=rng.choice((0, 0, 1)),
            refresh_ms=rng.choice((100, 100, 400)),
            incomplete_folder=rng.random() < 0.5,
            unfinished_names=rng.random() < 0.5,
        )
        self.first = [self._family(rng) for _ in range(AT_FIRST)]

    def _family(self, rng: random.Random) -> tuple[Spec, ...]:
        specs = draw_family(rng, self._root, next(self._families), self._numbers)
        self._here.update({spec.number: spec for spec in specs})
        return specs

    def next_round(self) -> list[Event]:
        """The events of the next round, in order."""
        rng = random.Random(f"{self._root} round {next(self._rounds)}")
        events = [
            *self._drawn(rng, FAULTS, FAULT_WEIGHTS, flavour=2.0),
            *self._drawn(rng, USER, USER_WEIGHTS),
            *(e for client in CLIENTS for e in self._drawn(rng, client, CLIENT_WEIGHTS)),
            *self._drawn(rng, ABUSER, ABUSE_WEIGHTS),
        ]
        return sorted(events, key=lambda event: event.at_s)

    def _drawn(
        self, rng: random.Random, actor: str, weights: dict[Kind, float], flavour: float = 1.0
    ) -> list[Event]:
        # Each round has its own flavour: one kind is frequent, two are rare.
        kinds = list(weights)
        much, *little = rng.sample(kinds, 3)
        shares = dict(weights)
        shares[much] *= flavour
        for kind in little:
            shares[kind] /= flavour
        number = round(sum(weights.values()) * rng.uniform(0.7, 1.3))
        times = sorted(rng.uniform(0, ROUND_S) for _ in range(number))
        chosen = rng.choices(kinds, list(shares.values()), k=number)
        return [
            self._event(rng, at_s, actor, kind) for at_s, kind in zip(times, chosen, strict=True)
        ]

    def _event(self, rng: random.Random, at_s: float, actor: str, kind: Kind) -> Event:
        draw, lasts_s = rng.random(), rng.choice((0.0, rng.uniform(0.2, 4.0)))
        torrent = -1
        specs: tuple[Spec, ...] = ()
        if kind is Kind.ADD:
            specs = self._family(rng)
        elif kind in (Kind.REMOVE, Kind.REMOVE_WITH_FILES):
            torrent = rng.choice(list(self._here))
            del self._here[torrent]
        elif kind in (Kind.NOTIFY, Kind.FOREIGN):
            # Rather those that are new.
            torrent = rng.choice(list(self._here)[-rng.choice((4, 12, 1000)) :])
        if kind in (Kind.HDD_FULL, Kind.HDD_READ_ONLY, Kind.HDD_UNMOUNT, Kind.QBITTORRENT_FREEZE):
            lasts_s = rng.uniform(0.5, 4.0)
        return Event(
            at_s=at_s, actor=actor, kind=kind, torrent=torrent, specs=specs, draw=draw,
            lasts_s=lasts_s,
        )  # fmt: skip

    def cleared(self) -> list[int]:
        """At a pause: the torrents that their user has had long enough, the oldest first."""
        gone = []
        total_bytes = sum(spec.total_bytes for spec in self._here.values())
        for number, spec in list(self._here.items()):
            if total_bytes <= LIBRARY_BYTES:
                break
            total_bytes -= spec.total_bytes
            gone.append(number)
            del self._here[number]
        return gone
