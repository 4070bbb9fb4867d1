"""The checker's eyes: reads all files, asks qBittorrent and ``/jobs``, opens the journal."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from .judge import CLOSED, Copies, Look
from .known import sha256, whole
from .sentinels import snapshot
from .site import OURS, STAGING, Site

PAGE = 500


def jobs_told(site: Site) -> dict[str, dict[str, Any]]:
    """All jobs, as ``/jobs`` tells them."""
    found: dict[str, dict[str, Any]] = {}
    after = ""
    while True:
        answer = site.service.get(f"/jobs?limit={PAGE}" + (f"&after={after}" if after else ""))
        found.update({job["id"]: job for job in answer["jobs"]})
        after = answer["next_after"]
        if not after:
            return found


def look(site: Site, told: Mapping[str, Mapping[str, Any]]) -> Look:
    """See everything. The service must be stopped, and was asked for its jobs before."""
    jobs, relocations, ended = _journal(site.service.state)
    after = snapshot(site.outside)
    torrents = site.ledger.torrents()
    names = site.sentinels.keys() | after.keys()
    relocating = {id for id, row in relocations.items() if row["step"] not in CLOSED}
    return Look(
        torrents=site.web.torrents(),
        copies={
            known.spec.number: Copies(
                on_ssd=frozenset(
                    whole(known, known.on_ssd, in_mid_relocation=known.id in relocating)
                ),
                on_hdd=frozenset(whole(known, known.on_hdd)),
            )
            for known in torrents
        },
        hashed=2 * sum(len(known.files) for known in torrents),
        jobs_told=told,
        jobs_kept=jobs,
        relocations=relocations,
        ended=ended,
        foreign={path: sha256(path) for path in site.ledger.foreign()},
        outside_changed=sorted(n for n in names if site.sentinels.get(n) != after.get(n)),
        strangers=sorted(path.name for path in site.place.iterdir() if path.name not in OURS),
        staged=staged(site.hdd.at),
    )


def staged(hdd: Path) -> dict[Path, str]:
    """The folders that jobs have staged something in, and whose they are."""
    return {path: path.name for path in hdd.glob(f"**/{STAGING}/*/*")}


def _journal(state: Path) -> tuple[dict[str, Any], dict[str, Any], Counter[str]]:
    """Jobs by id, the last relocation of each torrent, how many ended how: from a copy."""
    with tempfile.TemporaryDirectory() as folder:
        for file in state.glob("journal.sqlite3*"):
            shutil.copy(file, folder)
        with closing(sqlite3.connect(Path(folder) / "journal.sqlite3")) as connection:
            connection.row_factory = sqlite3.Row
            rows = connection.execute(
                "SELECT id, torrent_id, state, outcome, merged_into, error_code, error, "
                "finished_at FROM jobs"
            )
            jobs = {row["id"]: dict(row) for row in rows}
            relocations = connection.execute(
                "SELECT torrent_id, step, error, updated_at FROM relocations ORDER BY id"
            ).fetchall()
            ended = Counter(row["step"] for row in relocations)
            return jobs, {row["torrent_id"]: dict(row) for row in relocations}, ended
