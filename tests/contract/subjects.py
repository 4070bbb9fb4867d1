"""Clients that must answer alike: the adapter on two real qBittorrents, and the fake."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import libtorrent as lt
import pytest

from qbm_trio.adapters.qbittorrent import Qbittorrent
from qbm_trio.core.client import QbittorrentClient
from qbm_trio.core.model import TorrentId
from qbm_trio.core.readiness import MISSING_FILES
from tests.fakes.qbittorrent import FakeQbittorrent
from tests.rig.qbt import Chroot, Installed, Qbt, running

KINDS = {"v1": lt.create_torrent.v1_only, "v2": lt.create_torrent.v2_only, "hybrid": 0}
UNKNOWN = TorrentId("0123456789" * 4)
PAD = 0x4000  # piece size here: most files end inside a piece


@dataclass
class Subject:
    """A client, and a way to give its qBittorrent a torrent."""

    folder: Path
    qbt: Qbt | None = None
    fake: FakeQbittorrent | None = None
    count: int = 0
    client: QbittorrentClient = field(init=False)

    def __post_init__(self) -> None:
        if self.qbt is not None:
            self.client = Qbittorrent(url=self.qbt.url)
        else:
            assert self.fake is not None
            self.client = self.fake

    def add(
        self,
        files: dict[str, int],
        kind: str = "v1",
        *,
        category: str = "",
        complete: bool = True,
        subfolder: bool = True,
        auto_management: bool = False,
    ) -> tuple[TorrentId, Path, bytes]:
        """Make files of these sizes and a torrent of them; give id, save path, metainfo."""
        self.count += 1
        save_path = self.folder / f"save {self.count}"
        for name, size in files.items():
            path = save_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(size))
        metainfo = describe(save_path, files, kind)
        if not subfolder:
            for name in files:
                (save_path / name).rename(save_path / PurePosixPath(name).name)
        id = self.give(
            metainfo,
            save_path,
            category=category,
            complete=complete,
            subfolder=subfolder,
            auto_management=auto_management,
        )
        return id, save_path, metainfo

    def give(
        self,
        metainfo: bytes,
        save_path: Path,
        *,
        category: str = "",
        complete: bool = True,
        subfolder: bool = True,
        auto_management: bool = False,
    ) -> TorrentId:
        """Add a torrent whose files are there, unless it is not ``complete``."""
        if self.fake is not None:
            id = self.fake.add(
                metainfo,
                save_path=str(save_path),
                category=category,
                complete=complete,
                subfolder=subfolder,
            )
            self.fake.change(id, auto_management=auto_management)
        else:
            assert self.qbt is not None
            options: dict[str, Any] = {"content_layout": None if subfolder else "NoSubfolder"}
            if category:
                self.qbt.api.torrents_create_category(category, save_path=str(save_path))
                options["category"] = category
            if auto_management:
                options["use_auto_torrent_management"] = True
            if not complete:
                options["is_stopped"] = True
            id = TorrentId(
                self.qbt.add(metainfo, save_path=save_path, complete=complete, **options)
            )
            self.qbt.wait_for(
                lambda: self.qbt and not self.qbt.info(id)["state"].startswith("checking"),
                "it is not checked any more",
            )
        return id

    def lose(self, places: Mapping[TorrentId, Path]) -> dict[TorrentId, Path]:
        """Have it start again when these torrents' files are elsewhere; give where."""
        elsewhere = {id: path.with_name(f"{path.name} elsewhere") for id, path in places.items()}
        if self.qbt is not None:
            self.qbt.stop(signal.SIGKILL)  # what was added is saved
        for id, path in places.items():
            path.rename(elsewhere[id])
        if self.fake is not None:
            for id in places:
                self.fake.change(id, state=MISSING_FILES, progress=0.0)
            self.fake.restart()
            return elsewhere
        qbt = self.qbt
        assert qbt is not None
        qbt.start()
        qbt.wait_for(
            lambda: all(qbt.info(id)["state"] == MISSING_FILES for id in places), "it misses them"
        )
        return elsewhere

    def rename(self, id: TorrentId, index: int, old: str, new: str) -> None:
        """Rename a file within the torrent."""
        if self.fake is not None:
            self.fake.change_file(id, index, name=PurePosixPath(new))
            return
        qbt = self.qbt
        assert qbt is not None
        qbt.api.torrents_rename_file(id, old_path=old, new_path=new)
        qbt.wait_for(
            lambda: any(row["name"] == new for row in qbt.api.torrents_files(id)), "it is renamed"
        )

    def unwant(self, id: TorrentId, index: int) -> None:
        """Say that a file is not to be downloaded."""
        if self.fake is not None:
            self.fake.change_file(id, index, priority=0)
        else:
            assert self.qbt is not None
            self.qbt.api.torrents_file_priority(id, file_ids=index, priority=0)


def describe(
    save_path: Path, files: Iterable[str], kind: str = "v1", piece_bytes: int = PAD
) -> bytes:
    """Make the metainfo of these files, which have one folder."""
    (root,) = {PurePosixPath(name).parts[0] for name in files}
    maker = lt.create_torrent(lt.list_files(str(save_path / root)), piece_bytes, KINDS[kind])
    lt.set_piece_hashes(maker, str(save_path))
    metainfo: bytes = lt.bencode(maker.generate())
    return metainfo


REAL = [pytest.param(name, marks=pytest.mark.qbittorrent) for name in ("installed", "chroot")]


@contextmanager
def subject_of(kind: str, folder: Path) -> Iterator[Subject]:
    """Give the subject: "installed", "chroot", "fake" or "old fake"."""
    if kind.endswith("fake"):
        yield Subject(folder, fake=FakeQbittorrent(old=kind == "old fake"))
        return
    launcher = Installed() if kind == "installed" else Chroot(shared=folder)
    with running(folder, launcher=launcher) as qbt:
        yield Subject(folder, qbt=qbt)
