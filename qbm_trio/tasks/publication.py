"""What a job is about to publish, and what the journal keeps of it. No I/O."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..adapters import journal_copies
from ..adapters.copying import CopyItem, CopyReport
from ..adapters.looking import Seen
from ..adapters.publishing import PublishItem
from ..core.model import JobId, Verification
from .planning import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A verified copy and all that is known of its files.

    With very many files its methods take long: call them by `computing.compute`.
    """

    plan: Plan
    seen: Sequence[Seen]  #: by index
    items: Sequence[CopyItem]  #: by index
    report: CopyReport
    in_the_way: Mapping[Path, os.stat_result]  #: to be set aside, as they were judged

    def record(
        self, *, job_id: JobId, verification: Verification, begun_at: float
    ) -> journal_copies.Copy:
        """The torrent's copy for the journal: begun, not yet published."""
        plan = self.plan
        return journal_copies.Copy(
            torrent_id=plan.torrent.id,
            job_id=job_id,
            destination=str(plan.destination),
            save_root=plan.save_root,
            category=plan.torrent.category,
            name=plan.torrent.name,
            verification=verification,
            size_bytes=sum(f.size_bytes for f in plan.files if f.wanted),
            begun_at=begun_at,
            published_at=None,
        )

    def entries(self) -> list[journal_copies.CopyFile]:
        """Its wanted files for the journal."""
        return [_entry(self, i) for i in self.items if i.wanted]

    def copied(self, hdd: Path) -> list[PublishItem]:
        """The files that were staged, with their destinations below ``hdd``."""
        return [
            PublishItem(
                staged=i.staged,
                destination=hdd / self.plan.files[i.index].on_hdd,
                source=i.source,
                written=self.report.files[i.index],
            )
            for i in self.items
            if i.staged is not None
        ]

    def adopted(self) -> dict[Path, os.stat_result]:
        """The files that were found in place, as they were before they were hashed."""
        return {
            i.published: there
            for i in self.items
            if i.published is not None and (there := self.seen[i.index].there) is not None
        }


def _entry(made: Publication, item: CopyItem) -> journal_copies.CopyFile:
    """What the journal keeps of one file: as it was written, or as it was found."""
    written, there = made.report.files.get(item.index), made.seen[item.index].there
    found = there if item.published is not None else None
    inode = written.inode if written else found.st_ino if found else None
    return journal_copies.CopyFile(
        index=item.index,
        path=str(made.plan.files[item.index].on_hdd),
        size_bytes=item.size_bytes,
        mtime_ns=written.mtime_ns if written else found.st_mtime_ns if found else None,
        ours=item.staged is not None,
        inode=None if inode is None else journal_copies.recorded_inode(inode),
    )
