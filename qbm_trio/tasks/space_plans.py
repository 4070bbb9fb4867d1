"""Plans of space management, from what the SSD and the queue have now. Changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from ..adapters import disk
from ..core.relocation import Relocation
from ..core.roots import Roots
from ..core.space import Choice, SpacePlan
from ..core.space_runs import spared_sums, spared_words
from ..logs import subject
from .space_run import Outside
from .space_survey import Need, Survey
from .tiers import Tiers

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpacePolicy:
    """The settings that space management obeys."""

    roots: Roots
    threshold_bytes: int
    target_bytes: int
    interval_s: float
    dry_run: bool  #: ``DRY_RUN``: plans are logged, nothing is done


class SpacePlans:
    """Makes plans, one at a time: they share what they have learned of files."""

    def __init__(self, policy: SpacePolicy, outside: Outside, *, tiers: Tiers) -> None:
        self._policy = policy
        self._outside = outside
        self._tiers = tiers
        self._one_at_a_time = trio.Lock()
        self._warned = False  #: of a threshold that cannot be

    async def space(self) -> disk.DiskSpace:
        """The SSD's figures, now; the HDD is there, too.

        Raises:
            MustWait, DiskError: a tier is away, or gives no figures.
        """
        if not self._policy.dry_run:  # which makes no marker either
            await self._tiers.require()
        space = await disk.disk_space(self._policy.roots.ssd, limiter=self._tiers.ssd.limiter)
        if space.total_bytes < self._policy.threshold_bytes and not self._warned:
            self._warned = True
            log.warning(
                "DISK_SPACE_THRESHOLD_GB is %d bytes, more than the whole SSD has (%d): it is "
                "always short, and every torrent with a copy will leave it",
                self._policy.threshold_bytes,
                space.total_bytes,
            )
        return space

    async def need(self, pending_bytes: int, *, on_the_way: bool) -> Need:
        """How much is to be freed: nothing, unless less than the threshold is free.

        Args:
            pending_bytes: what deletions to come will free.
            on_the_way: what began below the threshold has not reached the target yet.

        Raises:
            MustWait, DiskError: as `space` does.
        """
        free_bytes = (await self.space()).free_bytes
        policy = self._policy
        enough_bytes = policy.target_bytes if on_the_way else policy.threshold_bytes
        short = free_bytes + pending_bytes < enough_bytes
        queue = self._outside.jobs.queue
        return Need(
            free_bytes=free_bytes,
            target_bytes=policy.target_bytes if short else 0,
            pending_bytes=pending_bytes,
            tier_room=max(0, queue.capacity // 2 - len(queue)),
        )

    async def make(self, need: Need, *, by_hand: bool) -> tuple[Survey, SpacePlan]:
        """Look, and plan; see `Survey.plan`.

        Args:
            need: how much is wanted.
            by_hand: also plan what failed to be relocated a short while ago.
        """
        async with self._one_at_a_time:
            survey = Survey(
                self._policy.roots,
                lists=self._outside.lists,
                journal=self._outside.journal,
                tiers=self._tiers,
                now=self._outside.now(),
                forgive=by_hand,
            )
            return survey, await survey.plan(need)


def say_open(rows: Sequence[Relocation]) -> None:
    """In a dry run: what stands still."""
    for row in rows:
        log.warning(
            "DRY_RUN: the relocation of %r stands still (%s), and it may be stopped in "
            "qBittorrent; set DRY_RUN to false and restart, and it is brought to its end",
            row.name,
            row.step,
            extra=subject(torrent_id=row.torrent_id, name=row.name),
        )


def say_plan(plan: SpacePlan) -> None:
    """In a dry run: what would be done."""
    for torrent in plan.chosen:
        what = "relocate" if torrent.choice is Choice.RELOCATE else "first copy to the HDD"
        log.info("would %s %r: %s", what, torrent.name, torrent.sentence)
    log.info(
        "space management would free %d of %d bytes that are missing; spared: %s",
        plan.planned_bytes,
        plan.missing_bytes,
        spared_words(spared_sums(plan)),
    )
