"""The two tiers as the service sees them: mounted, told apart, and how full.

A known marker that is missing means that the disk is not mounted, and then
nothing is written there. Figures come from probes in the background, so a dead
disk blocks nobody who asks for them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio
from trio_util import periodic

from ..adapters import disk, disk_aliases, journal_facts
from ..adapters.journal import Journal
from ..core.errors import (
    FailingDisk,
    JobError,
    JournalUnwritable,
    MustWait,
    ReadOnlyDisk,
    SameStorage,
)
from ..core.model import JobId, Progress, WaitReason
from ..core.overview import TierFigures

log = logging.getLogger(__name__)

PROBE_INTERVAL_S = 15.0
SPACE_RETRY_S = 60.0
"""When a job that found no room looks again, if nothing wakes it before."""
SILENT_S = 10.0
"""A probe that takes longer is called a disk that does not answer."""


class Tier:
    """One tier. Its disk is asked under a limiter of its own: it may hang."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.root = root
        self.limiter = trio.CapacityLimiter(4)
        self._probe_limiter = trio.CapacityLimiter(1)
        self.marker: str | None = None
        self.space: disk.DiskSpace | None = None
        self.trouble: JobError | None = None
        self._asked_at: float | None = None
        self._failed_a_job = False  #: that is all that is known of the trouble

    @property
    def silent(self) -> bool:
        """Whether the disk has not answered for long: whoever asks it more hangs too."""
        return self._asked_at is not None and trio.current_time() - self._asked_at > SILENT_S

    @property
    def away(self) -> bool:
        """Whether jobs wait for the next good probe."""
        return self.silent or (self.trouble is not None and not self._failed_a_job)

    @property
    def problem(self) -> str | None:
        """What is wrong with it, without its path; None when nothing is."""
        if self.silent:
            return f"the {self.name}'s disk does not answer"
        if isinstance(self.trouble, SameStorage):
            return "both tiers show the same files"
        if isinstance(self.trouble, ReadOnlyDisk):
            return f"the {self.name}'s disk is read-only"
        if self.trouble is not None:
            return f"the {self.name} is not usable: its disk is missing, full or failing"
        return None

    @property
    def figures(self) -> TierFigures:
        """From the last probe that was answered."""
        space = self.space
        return TierFigures(
            path=str(self.root),
            total_bytes=space.total_bytes if space else None,
            free_bytes=space.free_bytes if space else None,
            problem=str(self.trouble) if self.trouble else self.problem,
        )

    async def check(self) -> None:
        """Prove that the tier's own disk is mounted, right now.

        Raises:
            MustWait: it is not.
        """
        if self.marker is None:
            raise MustWait(
                f"the {self.name} tier {self.root} has no marker yet; it is made as soon as "
                "the folder can be written",
                reason=WaitReason.TIER,
            )
        if self.silent:
            # Else every worker would soon hang, and nobody could see what is waited for.
            raise MustWait(
                f"the {self.name} tier {self.root} does not answer; look in the kernel log, "
                "and check the disk, or the network that it is on",
                reason=WaitReason.TIER,
            )
        try:
            await disk.check_marker(self.root, self.marker, limiter=self.limiter)
        except JobError as error:
            # Known at once, so that the next good probe tells those who wait.
            self.troubled_by(error)
            if isinstance(error, MustWait):
                raise
            # A disk that was pulled out answers EIO: no job fails for that.
            raise MustWait(str(error), reason=WaitReason.TIER) from error

    def require_mounted(self) -> None:
        """As `check`, for a thread that uses the disk, between two calls of the disk; blocks.

        Raises:
            MustWait: the tier's own disk is not mounted.
        """
        assert self.marker is not None  # whoever is to write has checked before
        disk.require_marker(self.root, self.marker)

    def troubled_by(self, error: JobError) -> None:
        """Remember what is wrong; say it once, not at each probe."""
        if self.trouble is None or str(self.trouble) != str(error):
            log.error("%s tier: %s", self.name, error)
        self.trouble = error
        self._failed_a_job = False

    def failed_a_job(self, error: FailingDisk) -> None:
        """Remember an I/O error that a job met, until the disk has taken a write.

        The job is not among those who wait for that: it comes back by itself, ever later,
        for the disk may take the probe's write and never the job's.
        """
        if self.trouble is None:
            self.troubled_by(error)
            self._failed_a_job = True

    async def probe(self, *, in_use: bool = False) -> None:
        """Ask the disk once and remember what it said.

        ``in_use``: somebody writes to it, or would; see `disk.check_writes`.
        """
        self._asked_at = trio.current_time()
        try:
            if self.marker is not None:
                await disk.check_marker(self.root, self.marker, limiter=self._probe_limiter)
            self.space = await disk.disk_space(self.root, limiter=self._probe_limiter)
            await disk.check_takes_writes(self.root, limiter=self._probe_limiter)
            if in_use and self.marker is not None:
                await disk.check_writes(self.root, limiter=self._probe_limiter)
        except JobError as error:
            self.troubled_by(error)
        else:
            # Only another comparison of both tiers can take `SameStorage` back, and only a
            # write an I/O error: one may have come since this probe began.
            unproven = SameStorage if in_use else (SameStorage, FailingDisk)
            if self.trouble is not None and not isinstance(self.trouble, unproven):
                log.info("%s tier: usable again", self.name)
                self.trouble = None
        self._asked_at = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reserved:
    device: int
    progress: Progress


class Tiers:
    """Both tiers, their markers, and the room that running jobs still need."""

    def __init__(
        self,
        *,
        ssd: Path,
        hdd: Path,
        journal: Journal,
        instance_id: str,
        hdd_min_free_bytes: int,
        read_only: bool,
    ) -> None:
        self.ssd = Tier("SSD", ssd)
        self.hdd = Tier("HDD", hdd)
        self.instance_id = instance_id
        self._journal = journal
        self._hdd_min_free_bytes = hdd_min_free_bytes
        self._read_only = read_only
        self._compared = False
        self._reserved: dict[JobId, _Reserved] = {}
        self.usable = trio.Event()  #: set, and replaced, when a tier is usable again

    @property
    def figures(self) -> tuple[TierFigures, TierFigures]:
        """Of the SSD and of the HDD."""
        return self.ssd.figures, self.hdd.figures

    @property
    def problems(self) -> list[str]:
        """What is wrong, for ``/health``: no paths."""
        return list(dict.fromkeys(p for t in (self.ssd, self.hdd) if (p := t.problem)))

    async def prepare(self) -> None:
        """Learn the markers; at the first start, make them. Troubles are kept, not raised."""
        for tier in (self.ssd, self.hdd):
            await self._prepare(tier)
        await self._compare()

    async def _prepare(self, tier: Tier) -> None:
        try:
            await self._learn_marker(tier)
        except (JobError, JournalUnwritable) as error:
            # What cannot be recorded now is tried again with the next probe.
            tier.troubled_by(
                error
                if isinstance(error, JobError)
                else MustWait(str(error), reason=WaitReason.TIER)
            )
        else:
            await tier.probe()

    async def _learn_marker(self, tier: Tier) -> None:
        name = f"tier.{tier.name.lower()}"
        known = await self._journal.do(partial(journal_facts.meta, name=name))
        if known is None and not self._read_only:
            known = await disk.create_marker(tier.root, limiter=tier.limiter)
            if tier is self.hdd and known == self.ssd.marker:
                # Not to be remembered: the right disk, once mounted, has another one.
                raise self._same_marker()
            await self._journal.do(partial(journal_facts.set_meta, name=name, value=known))
            log.info("%s tier: %s is marked as %s", tier.name, tier.root, known)
        tier.marker = known

    async def _compare(self) -> None:
        """Find out, once both can be asked, whether they are two places."""
        aliased = isinstance(self.hdd.trouble, SameStorage)
        if self._compared or self._read_only or self.ssd.trouble or self.hdd.marker is None:
            return
        if self.hdd.trouble and not aliased:
            return
        try:
            if self.ssd.marker == self.hdd.marker:
                raise self._same_marker()
            await self.check_not_aliased(self.ssd.root, self.hdd.root)
            if await self.on_one_file_system(self.ssd.root, self.hdd.root):
                log.warning(
                    "both tiers are on one file system: torrents are copied, but nothing is "
                    "relocated, for it would free nothing; check that the HDD is mounted at %s",
                    self.hdd.root,
                )
        except JobError as error:
            self.hdd.troubled_by(error)
        else:
            self._compared = True
            if aliased:
                self.hdd.trouble = None

    def _same_marker(self) -> SameStorage:
        return SameStorage(
            f"{self.ssd.root} and {self.hdd.root} carry the same marker: they are one "
            "place; give each tier a disk of its own (or, if one was cloned from the other, "
            f"remove {self.hdd.root / disk.MARKER_NAME})",
            reason=WaitReason.TIER,
        )

    async def check_not_aliased(self, on_ssd: Path, on_hdd: Path) -> None:
        """Prove that two folders, one on each tier, are not one place.

        Raises:
            SameStorage: they are.
            MustWait, DiskError: it cannot be found out now.
        """
        await disk_aliases.check_not_aliased(
            on_ssd,
            on_hdd,
            instance_id=self.instance_id,
            linkable=(self.ssd.root / disk.MARKER_NAME, self.hdd.root / disk.MARKER_NAME),
            limiter=self.hdd.limiter,
        )

    async def on_one_file_system(self, on_ssd: Path, on_hdd: Path) -> bool:
        """Whether two folders, one on each tier, are on one file system.

        Raises:
            MustWait: one is not there.
        """
        return await disk.same_file_system(on_ssd, on_hdd, limiter=self.hdd.limiter)

    async def require(self) -> None:
        """Prove that both tiers are mounted, right now.

        Raises:
            MustWait: one is not, or both are one place.
        """
        for tier in (self.ssd, self.hdd):
            if isinstance(tier.trouble, SameStorage):
                raise SameStorage(str(tier.trouble), reason=WaitReason.TIER)
            await tier.check()

    async def run(self) -> None:
        """Probe both tiers until cancelled.

        A tier that hangs holds up the other only until both have been compared: that
        needs both to answer.
        """
        async with trio.open_nursery() as nursery:
            for tier in (self.ssd, self.hdd):
                nursery.start_soon(self._watch, tier, name=f"probe {tier.name}")

    async def _watch(self, tier: Tier) -> None:
        async with aclosing(periodic(PROBE_INTERVAL_S)) as ticks:
            async for _ in ticks:
                away, began = tier.away, trio.current_time()
                if tier.marker is not None or self._read_only:
                    await tier.probe(in_use=self._in_use(tier))
                    away = away or trio.current_time() - began > SILENT_S
                elif tier is self.ssd:
                    await self.prepare()
                elif self.ssd.marker is not None:  # else `prepare` learns both, the SSD's first
                    await self._prepare(tier)
                await self._compare()
                if away and tier.trouble is None:
                    self.usable.set()
                    self.usable = trio.Event()

    def _in_use(self, tier: Tier) -> bool:
        """Whether somebody writes to the tier, or would if its disk did not fail."""
        busy = tier.limiter.borrowed_tokens > 0 or (tier is self.hdd and bool(self._reserved))
        return not self._read_only and (busy or isinstance(tier.trouble, FailingDisk))

    @contextmanager
    def room(
        self, job_id: JobId, *, device: int, free_bytes: int, progress: Progress
    ) -> Iterator[None]:
        """Hold room on the HDD for what ``progress`` still has to copy.

        Args:
            job_id: whose room it is.
            device: the file system, as ``st_dev``: folders below the base may be others.
            free_bytes: what it has free now.
            progress: of the job; what is copied no longer counts.

        Raises:
            MustWait: there is not enough, other jobs' needs included.
        """
        self.require_room(
            progress.bytes_total - progress.bytes_done, device=device, free_bytes=free_bytes
        )
        self._reserved[job_id] = _Reserved(device=device, progress=progress)
        try:
            yield
        finally:
            del self._reserved[job_id]

    def require_room(self, need: int, *, device: int, free_bytes: int) -> None:
        """Prove that ``need`` bytes have room now, without holding it.

        Nothing always has room: a job whose files are all there must end.

        Raises:
            MustWait: there is not enough, other jobs' needs included.
        """
        others = sum(
            max(0, r.progress.bytes_total - r.progress.bytes_done)
            for r in self._reserved.values()
            if r.device == device
        )
        left = free_bytes - others - self._hdd_min_free_bytes
        if need and need > left:
            raise MustWait(
                f"the HDD has no room: {need} bytes are needed, {max(0, left)} can be used "
                f"({free_bytes} free, {others} promised to running jobs, "
                f"{self._hdd_min_free_bytes} kept by HDD_MIN_FREE_GB); free some space there",
                reason=WaitReason.SPACE,
                delay_s=SPACE_RETRY_S,
            )
