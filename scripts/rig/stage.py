"""What all parts of the demo work with: the torrents, who has them, and where their files are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path

from rich.console import Console

from scripts.rig.making import Sample
from scripts.rig.qbt import Qbt
from scripts.rig.screen import Landed
from scripts.rig.service import Service


class DemoFailed(Exception):
    """The demo cannot go on, or did not end as it should; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The demo's programs and folders, once all run."""

    console: Console
    downloader: Qbt
    service: Service
    ids: Mapping[str, Sample]  #: by info-hash
    seeds: Path
    ssd: Path
    hdd: Path

    def tier_of(self, content_path: str) -> str:
        """Name the tier that a path of qBittorrent's is on."""
        tiers = {"SSD": self.ssd, "HDD": self.hdd}
        on = (name for name, root in tiers.items() if Path(content_path).is_relative_to(root))
        return next(on, content_path)

    def landed(self) -> dict[str, list[Landed]]:
        """Read all files of all torrents, in every place; by info-hash."""
        found = {}
        for id, sample in self.ids.items():
            info = self.downloader.info(id)
            found[id] = [
                Landed(
                    folder=str((Path(sample.category) / name).parent),
                    name=Path(name).name,
                    sha256_seeded=sha256(self.seeds / name),
                    sha256_ssd=sha256(self.ssd / sample.category / name),
                    sha256_hdd=sha256(self.hdd / sample.category / name),
                    tags=str(info["tags"]),
                    tier=self.tier_of(info["content_path"]),
                )
                for name in sample.sizes
            ]
        return found


def sha256(path: Path) -> str | None:
    """The file's SHA-256 in hex; None when there is no file."""
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
