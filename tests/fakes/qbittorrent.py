"""A qBittorrent in memory. ``tests/contract`` proves that it answers like real ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from pathlib import PurePosixPath

import libtorrent as lt
import trio
from trio_util import AsyncBool

from qbm_trio.core.errors import (
    QbittorrentError,
    QbittorrentUnreachable,
    TooEarlyToTell,
    TorrentUnknown,
)
from qbm_trio.core.model import Torrent, TorrentFile, TorrentId
from qbm_trio.core.overview import QbittorrentContact


class FakeQbittorrent:
    """A `QbittorrentClient` whose torrents, troubles and delays a test sets.

    Set ``down`` to an error and every call raises it; put errors into
    ``failures`` and each is raised once. ``before`` is awaited ahead of every
    call with its name: a place to wait, to look, or to raise. ``calls`` lists
    what was called, with its arguments. ``may_list`` says whether `find` may ask
    for the list of all now: the real one may do so only now and then.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.down: QbittorrentError | None = None
        self.failures: list[QbittorrentError] = []
        self.before: Callable[[str], Awaitable[None]] | None = None
        self.may_list = True
        self.lists_asked = 0
        self.reachable = AsyncBool(False)
        self._contact = QbittorrentContact(reachable=False)
        self._torrents: dict[TorrentId, Torrent] = {}
        self._files: dict[TorrentId, tuple[TorrentFile, ...]] = {}
        self._metainfo: dict[TorrentId, bytes] = {}

    # -- what a test arranges ------------------------------------------------

    def add(
        self,
        metainfo: bytes,
        *,
        save_path: str,
        category: str = "",
        complete: bool = True,
        subfolder: bool = True,
    ) -> TorrentId:
        """Add a torrent from the bytes of its .torrent file."""
        info = lt.torrent_info(metainfo)
        hashes = info.info_hashes()
        v1 = str(hashes.v1) if hashes.has_v1() else ""
        v2 = str(hashes.v2) if hashes.has_v2() else ""
        id = TorrentId(v2[:40] or v1)
        layout = info.layout()
        real = [
            n
            for n in range(layout.num_files())
            if not layout.file_flags(n) & lt.file_storage.flag_pad_file
        ]
        paths = [PurePosixPath(layout.file_path(n)) for n in real]
        if not subfolder:
            paths = [
                path.relative_to(path.parts[0]) if path.parent.name else path for path in paths
            ]
        self._files[id] = tuple(
            TorrentFile(
                index=index,
                name=path,
                size_bytes=layout.file_size(n),
                priority=1,
                progress=1.0 if complete else 0.0,
            )
            for index, (n, path) in enumerate(zip(real, paths, strict=True))
        )
        self._torrents[id] = Torrent(
            id=id,
            name=layout.name(),
            state="stalledUP" if complete else "stalledDL",
            category=category,
            tags=frozenset(),
            save_path=save_path,
            content_path=str(_content_path(PurePosixPath(save_path), paths)),
            progress=1.0 if complete else 0.0,
            amount_left_bytes=0 if complete else layout.total_size(),
            size_bytes=layout.total_size(),
            completed_at=None,
            auto_management=False,
            download_path="",
            infohash_v1=v1,
            infohash_v2=v2,
        )
        self._metainfo[id] = metainfo
        return id

    def change(self, id: TorrentId, **fields: object) -> None:
        """Change what it says of a torrent: fields of `Torrent`."""
        self._torrents[id] = replace(self._torrents[id], **fields)  # type: ignore[arg-type]

    def change_file(self, id: TorrentId, index: int, **fields: object) -> None:
        """Change what it says of one file: fields of `TorrentFile`."""
        self._files[id] = tuple(
            replace(file, **fields) if file.index == index else file  # type: ignore[arg-type]
            for file in self._files[id]
        )

    def remove(self, id: TorrentId) -> None:
        """Forget a torrent, as when its user deletes it."""
        del self._torrents[id], self._files[id], self._metainfo[id]

    def tags(self, id: TorrentId) -> frozenset[str]:
        """The tags a torrent has now, without a call."""
        return self._torrents[id].tags

    # -- QbittorrentClient -----------------------------------------------------

    @property
    def contact(self) -> QbittorrentContact:
        return self._contact

    @property
    def requests(self) -> int:
        return len(self.calls)

    async def wait_reachable(self) -> None:
        await self.reachable.wait_value(True)

    async def wait_unreachable(self) -> None:
        await self.reachable.wait_value(False)

    async def version(self) -> tuple[str, str]:
        await self._call("version")
        self._contact = replace(self._contact, version="v0.0.0", web_api_version="2.11.4")
        return "v0.0.0", "2.11.4"

    async def torrents(self) -> tuple[Torrent, ...]:
        self.lists_asked += 1
        await self._call("torrents")
        return tuple(self._torrents.values())

    async def torrent(self, id: TorrentId) -> Torrent:
        await self._call("torrent", id)
        return self._known(id)

    async def find(self, hash: str, *, list_after: int = 0) -> TorrentId:
        await self._call("find", hash)
        for torrent in self._torrents.values():
            by_id = hash in (torrent.id, torrent.infohash_v2)
            if by_id or (self.may_list and hash == torrent.infohash_v1):
                return torrent.id
        self.lists_asked += self.may_list
        if len(hash) == 40 and self.lists_asked <= list_after:
            raise TooEarlyToTell(f"whether {hash} is a v1 hash is not known yet")
        raise TorrentUnknown(f"no torrent has the hash {hash}")

    async def files(self, id: TorrentId) -> tuple[TorrentFile, ...]:
        await self._call("files", id)
        return self._files[self._known(id).id]

    async def export(self, id: TorrentId) -> bytes:
        await self._call("export", id)
        return self._metainfo[self._known(id).id]

    async def add_tags(self, ids: Collection[TorrentId], tags: Collection[str]) -> None:
        if ids and tags:
            await self._call("add_tags", tuple(ids), *tags)
            for id in self._torrents.keys() & set(ids):
                self.change(id, tags=self._torrents[id].tags | set(tags))

    async def remove_tags(self, ids: Collection[TorrentId], tags: Collection[str]) -> None:
        if ids and tags:
            await self._call("remove_tags", tuple(ids), *tags)
            for id in self._torrents.keys() & set(ids):
                self.change(id, tags=self._torrents[id].tags - set(tags))

    async def _call(self, name: str, *arguments: object) -> None:
        self.calls.append((name, *arguments))
        await trio.lowlevel.checkpoint()
        if self.before is not None:
            await self.before(name)
        error = self.failures.pop(0) if self.failures else self.down
        usable = error is None or isinstance(error, TorrentUnknown)
        problem = None if usable else str(error)
        self._contact = replace(self._contact, reachable=usable, problem=problem)
        self.reachable.value = usable
        if error is not None:
            raise error

    def _known(self, id: TorrentId) -> Torrent:
        if id not in self._torrents:
            raise TorrentUnknown(f"no torrent {id}")
        return self._torrents[id]


def away() -> QbittorrentUnreachable:
    """Give the error of a qBittorrent that does not run."""
    return QbittorrentUnreachable("no connection to qBittorrent; is it running?")


def _content_path(save_path: PurePosixPath, paths: list[PurePosixPath]) -> PurePosixPath:
    if len(paths) == 1:
        return save_path / paths[0]
    roots = {path.parts[0] for path in paths}
    if len(roots) == 1 and all(len(path.parts) > 1 for path in paths):
        return save_path / roots.pop()
    return save_path
