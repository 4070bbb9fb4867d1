"""Space management: the shapes of requests and answers, made from plans and runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import Field

from ..core.space import ChosenTorrent, Spared, SparedTorrent
from ..core.space_runs import DryRun, Requested, SparedSum, spared_sums
from .messages import sentence
from .schemas import Answer, Body, Text, Time


class TriggerBody(Body):
    """Whether to do anything."""

    dry_run: bool = Field(
        False,
        description="Only say what a run would do now. With DRY_RUN=true, every call is so.",
    )


class SpaceRequestedAnswer(Answer):
    """A run was asked for; it begins as soon as no other is under way."""

    success: Literal[True] = True
    run_id: str = Field(
        description="The run's id: /status has it as `space.current_run` while the run is "
        "under way, and in `space.last_run` after it ended."
    )
    status: Literal["requested"] = Field(
        "requested", description="It has not begun yet, but will unless the service stops."
    )
    joined: bool = Field(
        description="An earlier request's run had not begun yet: both get that one, and "
        "`run_id` is the same."
    )
    message: str = Field(description="The same for people.")


class SsdFigures(Answer):
    """The SSD when the plan was made."""

    free_bytes: int = Field(description="Free now, measured on the disk.")
    total_bytes: int = Field(description="Its size.")
    threshold_bytes: int = Field(description="DISK_SPACE_THRESHOLD_GB: with less free, runs act.")
    target_bytes: int = Field(description="DISK_SPACE_TARGET_GB: they free until this much is.")
    pending_bytes: int = Field(
        description="What relocations that wait for their deletion will free; counted as free."
    )


class PlannedTorrent(Answer):
    """A torrent on the SSD, and what a run would do with it."""

    hash: str = Field(description="The torrent's id in qBittorrent.")
    name: Text = Field(description="The torrent's name in qBittorrent.")
    decision: Literal["relocate", "tier_first", "spared"] = Field(
        description="relocate: seed from the HDD, then delete it on the SSD. tier_first: copy it "
        "to the HDD, so that a later run can relocate it. spared: leave it alone."
    )
    reason: Spared | None = Field(description="Why it is spared, as a stable word; else null.")
    sentence: Text = Field(description="Why, for people.")
    bytes: int = Field(
        description="What its files occupy on the SSD; files that torrents share count for each. "
        "Of one that the plan had no need to look at: its size in qBittorrent."
    )


class SparedItem(Answer):
    """How much one reason spares."""

    torrents: int = Field(description="How many have this reason.")
    bytes: int = Field(
        description="Data that stays on the SSD for it. What torrents share counts once, for "
        "one reason."
    )


SparedSums = dict[str, SparedItem]


class SpacePlanAnswer(Answer):
    """What a run would do now. Nothing was changed."""

    success: Literal[True] = True
    dry_run: Literal[True] = Field(True, description="By this request, or by DRY_RUN.")
    ssd: SsdFigures
    missing_bytes: int = Field(
        description="What the target needs beyond free and pending bytes; 0: nothing to do."
    )
    planned_bytes: int = Field(description="What the groups to relocate should free.")
    shortfall_bytes: int = Field(description="What would still be missing after that.")
    target_met: bool = Field(description="Whether nothing would be missing.")
    relocate: int = Field(
        description="Groups to relocate: torrents that share files go together, others are a "
        "group of one."
    )
    torrents: list[PlannedTorrent] = Field(
        description="Every torrent on the SSD: those to do something with first, then those "
        "spared; both begin with the torrents completed longest ago."
    )
    spared: SparedSums = Field(description="How much is spared, by reason.")


class FailedGroupItem(Answer):
    """A group that was planned and is not relocated."""

    name: Text = Field(description="Of its first torrent.")
    torrents: int = Field(description="How many it has.")
    error: Text = Field(description="What went wrong.")


class SpaceRunStatus(Answer):
    """A run that has ended."""

    id: str = Field(description="What /space-management/trigger calls run_id.")
    by_hand: bool = Field(description="It was triggered by hand.")
    begun_at: Time = Field(description="When it began.")
    ended_at: Time = Field(description="When it ended.")
    freed_bytes: int = Field(
        description="Measured on the disk; below zero when others wrote more meanwhile."
    )
    planned_bytes: int = Field(description="What its plan should have freed.")
    shortfall_bytes: int = Field(description="What was still missing to the target.")
    target_met: bool = Field(description="Whether the target was reached.")
    relocated: int = Field(description="Torrents relocated to the HDD.")
    tiered_first: int = Field(
        description="Torrents queued to be copied to the HDD, for a later run to relocate."
    )
    failed_groups: int = Field(description="Groups that were planned and are not relocated.")
    failures: list[FailedGroupItem] = Field(
        description="The first 20 of these groups; the log has all."
    )
    spared: SparedSums = Field(description="How much was spared, by reason.")
    problem: Text | None = Field(
        description="Why the run could not be made, or ended early; null when it was whole."
    )


def requested_answer(requested: Requested) -> SpaceRequestedAnswer:
    """A run was asked for."""
    joined = "A run asked for earlier has not begun yet; it serves this request too."
    return SpaceRequestedAnswer(
        run_id=requested.run_id,
        joined=requested.joined,
        message=joined if requested.joined else "A run is asked for; /status tells what it does.",
    )


def plan_answer(found: DryRun) -> SpacePlanAnswer:
    """What a run would do. With 10,000 torrents this takes a while: not for the event loop."""
    plan = found.plan
    return SpacePlanAnswer(
        ssd=SsdFigures(
            free_bytes=found.ssd_free_bytes,
            total_bytes=found.ssd_total_bytes,
            threshold_bytes=found.threshold_bytes,
            target_bytes=found.target_bytes,
            pending_bytes=found.pending_bytes,
        ),
        missing_bytes=plan.missing_bytes,
        planned_bytes=plan.planned_bytes,
        shortfall_bytes=plan.shortfall_bytes,
        target_met=plan.target_met,
        relocate=len(plan.relocate),
        torrents=[*_chosen(plan.chosen), *_spared(plan.spared)],
        spared=spared_items(spared_sums(plan)),
    )


def spared_items(sums: Mapping[str, SparedSum]) -> SparedSums:
    """The sums by reason."""
    return {reason: SparedItem.model_validate(total) for reason, total in sums.items()}


def _chosen(torrents: Iterable[ChosenTorrent]) -> Iterable[PlannedTorrent]:
    for torrent in torrents:
        yield PlannedTorrent(
            hash=torrent.torrent_id,
            name=torrent.name,
            decision=torrent.choice.value,
            reason=None,
            sentence=sentence(torrent.sentence),
            bytes=torrent.bytes,
        )


def _spared(torrents: Iterable[SparedTorrent]) -> Iterable[PlannedTorrent]:
    for torrent in torrents:
        yield PlannedTorrent(
            hash=torrent.torrent_id,
            name=torrent.name,
            decision="spared",
            reason=torrent.reason,
            sentence=sentence(torrent.sentence),
            bytes=torrent.bytes,
        )
