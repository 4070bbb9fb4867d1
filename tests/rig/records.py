"""A copy and a relocation for the journal, for tests that mind only some of their fields."""

from __future__ import annotations

from typing import Final

from qbm_trio.adapters.journal_copies import Copy
from qbm_trio.core.model import JobId, TorrentId, Verification
from qbm_trio.core.relocation import Relocation, RunId

COPY: Final = Copy(
    torrent_id=TorrentId("c" * 40),
    job_id=JobId("1"),
    destination="tv",
    save_root="/ssd",
    category="tv",
    name="a copy",
    verification=Verification.PIECES,
    size_bytes=7,
    begun_at=1.5,
    published_at=None,
)
RELOCATION: Final = Relocation(
    run_id=RunId("run"),
    group="g",
    torrent_id=TorrentId("d" * 40),
    name="moving",
    from_path="/ssd",
    to_path="/hdd/tv",
    was_running=True,
    force_start=False,
    auto_management=False,
    download_path="",
    bytes=1,
)
