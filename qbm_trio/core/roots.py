"""The tiers' folders, and how qBittorrent's paths relate to them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .model import Torrent
from .placement import Place, below, map_path, unmap_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """Both tiers as the service sees them. All paths given are qBittorrent's."""

    ssd: Path
    hdd: Path
    path_mappings: tuple[tuple[str, str], ...]

    def mapped(self, path: str) -> str:
        """The path as the service sees it."""
        return map_path(path, self.path_mappings)

    def place_of(self, torrent: Torrent) -> Place:
        """Where a torrent's data is. ``content_path`` is the truth, ``save_path`` is not (4.5)."""
        content = torrent.content_path
        # Empty without metadata, and then a mapping of "/" would make it a path.
        if not content or not self.mapped(content).startswith("/"):
            return Place.UNKNOWN
        if self.on_ssd(content) is not None:
            return Place.SSD
        if self.on_hdd(content) is not None:
            return Place.HDD
        return Place.ELSEWHERE

    def on_ssd(self, path: str) -> PurePosixPath | None:
        """The path relative to the SSD's folder; None when it is not below it."""
        return below(self.mapped(path), str(self.ssd))

    def on_hdd(self, path: str) -> PurePosixPath | None:
        """The path relative to the HDD's folder; None when it is not below it."""
        return below(self.mapped(path), str(self.hdd))

    def is_below(self, path: str, place: str) -> bool:
        """Whether a path is at or below a place on a tier, by the service's paths.

        Of qBittorrent's own, one tier may be mounted below the other.
        """
        return below(self.mapped(path), self.mapped(place)) is not None

    def hdd_folder(self, destination: str) -> str | None:
        """A folder below the HDD's as qBittorrent sees it; None when no mapping leads there."""
        return unmap_path(str(PurePosixPath(self.hdd) / destination), self.path_mappings)
