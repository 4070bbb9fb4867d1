"""Which location tags torrents should have, which they have, and what to change.

Pure. A tag matches as a whole and in its case, as in qBittorrent: ``ssd`` is neither
``SSD`` nor ``ssd-2``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum

from .model import Torrent, TorrentId
from .placement import Place


class Location(StrEnum):
    """Where a torrent's data is, on either tier or both."""

    SSD = "ssd"
    HDD = "hdd"
    BOTH = "both"  #: on the SSD, with a published copy on the HDD
    ELSEWHERE = "elsewhere"  #: on neither tier, or nowhere yet


@dataclass(frozen=True, slots=True, kw_only=True)
class LocationTags:
    """The tags that tell where a torrent's data is."""

    ssd: str
    hdd: str

    def right_for(self, location: Location) -> frozenset[str]:
        """The location tags of a torrent whose data is there."""
        return {
            Location.SSD: frozenset({self.ssd}),
            Location.HDD: frozenset({self.hdd}),
            Location.BOTH: frozenset({self.ssd, self.hdd}),
            Location.ELSEWHERE: frozenset[str](),
        }[location]


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A torrent and where its data is."""

    torrent: Torrent
    location: Location
    known: bool = True  #: False: it has no data yet, or qBittorrent does not say where


@dataclass(frozen=True, slots=True, kw_only=True)
class TagChange:
    """What is to change on one torrent, so that its location tags are right."""

    torrent_id: TorrentId
    name: str
    location: Location
    add: frozenset[str]
    remove: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TagRequest:
    """One tag, added to or removed from many torrents: one call."""

    add: bool
    tag: str
    torrent_ids: tuple[TorrentId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """How much there is of something."""

    torrents: int = 0
    bytes: int = 0  #: of wanted files, with padding, as qBittorrent counts


def locate(
    torrents: Iterable[Torrent],
    *,
    place_of: Callable[[Torrent], Place],
    published: AbstractSet[TorrentId],
    relocating: AbstractSet[TorrentId],
) -> tuple[Located, ...]:
    """Say where each torrent's data is.

    Args:
        torrents: as qBittorrent lists them.
        place_of: on which tier qBittorrent has the data.
        published: torrents with a published copy on the HDD.
        relocating: torrents with an open relocation.
    """
    return tuple(
        _locate(
            torrent,
            place_of(torrent),
            published=torrent.id in published,
            relocating=torrent.id in relocating,
        )
        for torrent in torrents
    )


def _locate(torrent: Torrent, place: Place, *, published: bool, relocating: bool) -> Located:
    if place is Place.UNKNOWN:
        return Located(torrent=torrent, location=Location.ELSEWHERE, known=False)
    if place is Place.ELSEWHERE:
        return Located(torrent=torrent, location=Location.ELSEWHERE)
    if published and (place is Place.SSD or relocating):
        # A relocation deletes from the SSD last, and may still be undone: until it has
        # ended, qBittorrent's path does not tell.
        return Located(torrent=torrent, location=Location.BOTH)
    return Located(torrent=torrent, location=Location.SSD if place is Place.SSD else Location.HDD)


def changes(located: Iterable[Located], tags: LocationTags) -> tuple[TagChange, ...]:
    """What is to change so that every location tag is right; no other tag is touched."""
    ours = {tags.ssd, tags.hdd}
    found = []
    for item in located:
        if not item.known:
            continue
        torrent, right = item.torrent, tags.right_for(item.location)
        add, remove = right - torrent.tags, (ours - right) & torrent.tags
        if add or remove:
            found.append(
                TagChange(
                    torrent_id=torrent.id,
                    name=torrent.name,
                    location=item.location,
                    add=add,
                    remove=frozenset(remove),
                )
            )
    return tuple(found)


def requests(found: Sequence[TagChange], tags: LocationTags) -> tuple[TagRequest, ...]:
    """The calls that make these changes: four at most, however many torrents there are.

    Additions come first: whatever happens in between, no torrent is without a tag that
    it had, or should have.
    """
    wanted = [
        TagRequest(
            add=add,
            tag=tag,
            torrent_ids=tuple(c.torrent_id for c in found if tag in (c.add if add else c.remove)),
        )
        for add in (True, False)
        for tag in (tags.ssd, tags.hdd)
    ]
    return tuple(request for request in wanted if request.torrent_ids)


def amounts_by_location(located: Iterable[Located]) -> Mapping[Location, Amount]:
    """How much is where; every location is named."""
    found = dict.fromkeys(Location, Amount())
    for item in located:
        found[item.location] = _plus(found[item.location], item.torrent)
    return found


def amounts_by_tag(torrents: Iterable[Torrent], tags: LocationTags) -> Mapping[str, Amount]:
    """How much has each tag: the location tags first, then the others by name."""
    found = dict.fromkeys((tags.ssd, tags.hdd), Amount())
    for torrent in torrents:
        for tag in torrent.tags:
            found[tag] = _plus(found.get(tag, Amount()), torrent)
    others = sorted(found.keys() - {tags.ssd, tags.hdd})
    return {tag: found[tag] for tag in (tags.ssd, tags.hdd, *others)}


def _plus(amount: Amount, torrent: Torrent) -> Amount:
    return Amount(torrents=amount.torrents + 1, bytes=amount.bytes + torrent.size_bytes)
