"""What a relocation proves again of files that another torrent has, too."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from qbm_trio.core.model import TorrentFile
from qbm_trio.core.placement import plan_files
from qbm_trio.core.roots import Roots
from qbm_trio.tasks.relocation_proofs import CopyChanged, Proofs
from tests.fakes.qbittorrent import FakeQbittorrent
from tests.rig.inside import make


async def test_a_shared_file_is_hashed_again_also_where_links_lead_to_the_ssd_and_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a shared piece lacks is read on the SSD, where only real paths are opened."""
    real, ssd, hdd = tmp_path / "nvme", tmp_path / "ssd", tmp_path / "hdd"
    made = make(real / "elsewhere", "T", {"a": 20_000, "b": 20_000})
    (real / "T").symlink_to("elsewhere/T")
    ssd.symlink_to(real)
    shutil.copytree(real / "T", hdd / "T")
    fake = FakeQbittorrent()
    id_ = fake.add(made.data, save_path=str(ssd))
    listed = tuple(
        TorrentFile(
            index=n, name=PurePosixPath(f"T/{name}"), size_bytes=20_000, priority=1, progress=1
        )
        for n, name in enumerate("ab")
    )
    planned = plan_files(listed, root_on_ssd=PurePosixPath("."), destination=PurePosixPath("."))
    tier = SimpleNamespace(limiter=trio.CapacityLimiter(1))
    proofs = Proofs(
        Roots(ssd=ssd, hdd=hdd, path_mappings=()),
        lists=cast(Any, None),
        client=fake,
        journal=cast(Any, None),
        tiers=cast(Any, SimpleNamespace(ssd=tier, hdd=tier)),
        nice=0,
    )

    async def as_listed(_: object) -> tuple[None, object]:
        return None, planned

    monkeypatch.setattr(proofs, "_planned", as_listed)
    row = cast(Any, SimpleNamespace(torrent_id=id_))
    shared = [str(hdd / "T/a")]
    await proofs.hash_again(row, shared)
    with (hdd / "T/a").open("r+b") as file:
        file.write(b"other")
    with pytest.raises(CopyChanged):
        await proofs.hash_again(row, shared)
