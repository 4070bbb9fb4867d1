"""What must be true before a step of a relocation that cannot be taken back.

Asked anew each time: a plan is old as soon as it is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from ..adapters import journal_copies
from ..adapters.journal import Journal
from ..adapters.ssd_deletion import JudgedFile, judge_files
from ..core.client import QbittorrentClient
from ..core.errors import JobError
from ..core.model import Torrent
from ..core.placement import PlannedFile, below, map_path, plan_files, save_root
from ..core.readiness import SEEDING
from ..core.relocation import Relocation
from .tiers import Tiers


class NotAsPlanned(JobError):
    """The torrent is not, or not any more, as it must be to go on."""

    code = "not_as_planned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """The tiers' folders as the service sees them, and how qBittorrent's paths map to them."""

    ssd: Path
    hdd: Path
    path_mappings: tuple[tuple[str, str], ...]

    def mapped(self, path: str) -> str:
        """QBittorrent's path as the service sees it."""
        return map_path(path, self.path_mappings)


def require_at_hdd(row: Relocation, torrent: Torrent) -> None:
    """Raise `NotAsPlanned` unless qBittorrent has the torrent complete on the HDD."""
    at_hdd = PurePosixPath(torrent.content_path).is_relative_to(row.to_path)
    if torrent.state not in SEEDING or not at_hdd:
        raise NotAsPlanned(
            f"it is {torrent.state} at {torrent.content_path}, not complete at {row.to_path}"
        )


class Proofs:
    """Proves what relocations depend on. Changes nothing."""

    def __init__(
        self, roots: Roots, *, client: QbittorrentClient, journal: Journal, tiers: Tiers
    ) -> None:
        self._roots = roots
        self._client = client
        self._journal = journal
        self._tiers = tiers

    async def _planned(self, row: Relocation) -> tuple[PlannedFile, ...]:
        """The torrent's files as they are listed now, at both places."""
        files = await self._client.files(row.torrent_id)
        root = below(self._roots.mapped(row.from_path), str(self._roots.ssd))
        destination = below(self._roots.mapped(row.to_path), str(self._roots.hdd))
        if root is None or destination is None:
            raise NotAsPlanned(f"{row.from_path} or {row.to_path} is not on its tier any more")
        return plan_files(files, root_on_ssd=root, destination=destination)

    async def whole_copy(self, row: Relocation) -> tuple[JudgedFile, ...]:
        """Prove that each file on the SSD, wanted or not, has its recorded copy on the HDD.

        Raises:
            NotAsPlanned: one has not, or its copy was changed.
            MustWait: a tier is not mounted.
        """
        await self._tiers.require()
        planned = await self._planned(row)
        record = {
            file.path: file
            for file in await self._journal.do(
                partial(journal_copies.files, torrent_id=row.torrent_id)
            )
        }
        judged = await judge_files(
            [(self._roots.ssd / f.on_ssd, self._roots.hdd / f.on_hdd) for f in planned],
            limiter=self._tiers.hdd.limiter,
        )
        for file, both in zip(planned, judged, strict=True):
            known = record.get(str(file.on_hdd))
            if file.wanted and both.copy is None:
                raise NotAsPlanned(f"{both.copy_path} is missing")
            if both.copy is not None and (
                known is None
                or (known.size_bytes, known.mtime_ns) != (both.copy.size_bytes, both.copy.mtime_ns)
            ):
                raise NotAsPlanned(f"{both.copy_path} is not the copy that was verified")
            if both.file is not None and both.copy is None:
                raise NotAsPlanned(
                    f"{both.path} is not wanted in qBittorrent, but is on the SSD and has no "
                    "copy: qBittorrent would move it"
                )
        return judged

    async def require_unclaimed(self, group: Sequence[Relocation]) -> None:
        """Prove that no torrent outside the group lists a file that is about to be deleted.

        One call, and one more for each torrent whose folders overlap.

        Raises:
            NotAsPlanned: one does.
        """
        ours = {
            str(self._roots.ssd / file.on_ssd) for row in group for file in await self._planned(row)
        }
        members = {row.torrent_id for row in group}
        folders = {str(Path(path).parent) for path in ours}
        for torrent in await self._client.torrents():
            if torrent.id in members or not self._overlaps(torrent, folders):
                continue
            files = await self._client.files(torrent.id)
            root = self._roots.mapped(save_root(torrent, files))
            for file in files:
                if str(PurePosixPath(root) / file.name) in ours:
                    raise NotAsPlanned(f"{torrent.name!r} has {file.name} too")

    def _overlaps(self, torrent: Torrent, folders: set[str]) -> bool:
        for path in (torrent.save_path, torrent.content_path):
            mapped = PurePosixPath(self._roots.mapped(path))
            if (
                any(
                    mapped.is_relative_to(folder) or PurePosixPath(folder).is_relative_to(mapped)
                    for folder in folders
                )
                or str(mapped.parent) in folders
            ):
                return True
        return False
