"""``/tags``: the shapes of requests and answers, made from what `tasks.tagging` found."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from ..core.tags import Location, TagChange
from ..tasks.tagging import Tagged, TagSummary
from .schemas import Answer, Body, Text, Time, showable


class TagExistingBody(Body):
    """Whether to change anything."""

    dry_run: bool = Field(False, description="Only say what would be changed.")


class TagChangeItem(Answer):
    """A torrent whose location tags are not as its data is, and what makes them so."""

    hash: str = Field(description="The torrent's id in qBittorrent.")
    name: Text
    place: Location
    add: list[Text]
    remove: list[Text]


class TagExistingAnswer(Answer):
    """What was changed; after a dry run, what would be."""

    success: Literal[True] = True
    dry_run: bool = Field(description="Nothing was changed: asked for, or by DRY_RUN.")
    torrent_count: int = Field(description="All torrents there are.")
    changed_count: int = Field(description="Those in `changes`; the others are tagged rightly.")
    changes: list[TagChangeItem]


class AmountItem(Answer):
    """How much there is."""

    torrents: int
    bytes: int = Field(description="Of wanted files, as qBittorrent counts them.")


class PlacesAnswer(Answer):
    """How much is where."""

    ssd: AmountItem = Field(description="On the SSD only.")
    hdd: AmountItem = Field(description="On the HDD only.")
    both: AmountItem = Field(description="On the SSD, with a published copy on the HDD.")
    elsewhere: AmountItem = Field(description="On neither tier, or no data yet.")


class LocationTagsItem(Answer):
    """The tags that tell where data is; both, when it is on both tiers."""

    ssd: Text
    hdd: Text


class CopyItem(Answer):
    """A published copy on the HDD."""

    hash: str = Field(description="The id that the torrent had in qBittorrent.")
    name: Text
    category: Text
    destination: Text = Field(description="The folder it lies in, relative to the HDD's base.")
    bytes: int
    published_at: Time


class TagSummaryAnswer(Answer):
    """Where all torrents are, and how they are tagged."""

    success: Literal[True] = True
    tagging_enabled: bool = Field(description="ENABLE_LOCATION_TAGGING.")
    location_tags: LocationTagsItem
    places: PlacesAnswer
    tags: dict[str, AmountItem] = Field(
        description="Every tag in use, the location tags in any case. A torrent counts once "
        "for each of its tags."
    )
    mismatches: list[TagChangeItem] = Field(description="What POST /tags/existing would change.")
    copies_without_torrent: list[CopyItem] = Field(
        description="Copies that were published and whose torrent is gone. They are kept: to "
        "be rid of one, delete its files by hand."
    )


def tag_existing_answer(tagged: Tagged) -> TagExistingAnswer:
    """What was changed, or would be."""
    return TagExistingAnswer(
        dry_run=tagged.dry_run,
        torrent_count=tagged.torrents,
        changed_count=len(tagged.changes),
        changes=_items(tagged.changes),
    )


def tag_summary_answer(summary: TagSummary) -> TagSummaryAnswer:
    """Where all torrents are, and how they are tagged."""
    return TagSummaryAnswer(
        tagging_enabled=summary.enabled,
        location_tags=LocationTagsItem.model_validate(summary.tags),
        places=PlacesAnswer.model_validate(
            {
                location.value: AmountItem.model_validate(amount)
                for location, amount in summary.by_location.items()
            }
        ),
        tags={
            str(showable(tag)): AmountItem.model_validate(amount)
            for tag, amount in summary.by_tag.items()
        },
        mismatches=_items(summary.mismatches),
        copies_without_torrent=[
            CopyItem(
                hash=copy.torrent_id,
                name=copy.name,
                category=copy.category,
                destination=copy.destination,
                bytes=copy.size_bytes,
                published_at=copy.published_at or 0.0,
            )
            for copy in summary.without_torrent
        ],
    )


def _items(changes: Iterable[TagChange]) -> list[TagChangeItem]:
    return [
        TagChangeItem(
            hash=change.torrent_id,
            name=change.name,
            place=change.location,
            add=sorted(change.add),
            remove=sorted(change.remove),
        )
        for change in changes
    ]
