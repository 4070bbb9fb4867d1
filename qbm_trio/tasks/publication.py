"""What a job is about to publish, and what the journal keeps of it. No I/O."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..adapters import journal_copies
from ..adapters.copying import CopyItem, CopyReport, Written
from ..adapters.hardlinks import Hardlink
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
    linked: Mapping[int, Hardlink]  #: by index; staged, but shared with another torrent
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
        written = self._written()
        return [_entry(self, i, written.get(i.index)) for i in self.items if i.wanted]

    def staged(self, hdd: Path) -> list[PublishItem]:
        """The files that were copied or hardlinked, with their destinations below ``hdd``."""
        written = self._written()
        found = []
        for i in self.items:
            link = self.linked.get(i.index)
            staged = i.staged if link is None else link.staged
            if staged is not None:
                found.append(
                    PublishItem(
                        staged=staged,
                        destination=hdd / self.plan.files[i.index].on_hdd,
                        source=i.source,
                        written=written[i.index],
                        shared=link is not None,
                    )
                )
        return found

    def _written(self) -> dict[int, Written]:
        """What is put in place now, by index."""
        return {**self.report.files, **{i: link.known for i, link in self.linked.items()}}

    def adopted(self) -> dict[Path, os.stat_result]:
        """The files that were found in place, as they were before they were hashed."""
        return {
            i.published: there
            for i in self.items
            if i.published is not None
            and i.index not in self.linked
            and (there := self.seen[i.index].there) is not None
        }


def _entry(made: Publication, item: CopyItem, written: Written | None) -> journal_copies.CopyFile:
    """What the journal keeps of one file: as it was written, or as it was found."""
    seen = made.seen[item.index]
    found = seen.there if item.published is not None else None
    source = seen.source_inode
    inode = written.inode if written else found.st_ino if found else None
    return journal_copies.CopyFile(
        index=item.index,
        path=str(made.plan.files[item.index].on_hdd),
        size_bytes=item.size_bytes,
        mtime_ns=written.mtime_ns if written else found.st_mtime_ns if found else None,
        ours=written is not None,
        inode=None if inode is None else journal_copies.recorded_inode(inode),
        source_inode=None if source is None else journal_copies.recorded_inode(source[1]),
    )
