"""A qBittorrent in memory. ``tests/contract`` proves that it answers like real ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from pathlib import Path, PurePosixPath

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
from tests.fakes.qbittorrent_disk import (
    MARK,
    content_path,
    good_bytes,
    listing,
    move,
    rename,
    take_whole,
)


class FakeQbittorrent:
    """A `QbittorrentClient` whose torrents, troubles and delays a test sets.

    Set ``down`` to an error and every call raises it; put errors into
    ``failures`` and each is raised once. ``before`` is awaited ahead of every
    call with its name: a place to wait, to look, or to raise. ``calls`` lists
    what was called, with its arguments. ``may_list`` says whether `find` may ask
    for the list of all now: the real one may do so only now and then.

    The calls that relocate work on the real files at the paths that it says, through
    ``disk``, which gives the test's path for one of its own. What they did is seen only
    ``lag`` descriptions later, as the real ones show it a refresh interval later.
    """

    def __init__(self, *, old: bool = False) -> None:
        """Be like 5.1, or with ``old`` like 4.5."""
        self.old = old
        self.disk: Callable[[str], Path] = Path
        self.lag = 2
        self.mark_incomplete = False  #: its setting that appends ".!qB"
        self.refresh_s = 0.1
        self._truth: dict[TorrentId, Torrent] = {}  #: of torrents whose change is not seen yet
        self._unseen: dict[TorrentId, int] = {}  #: for how many more descriptions
        self._due: set[TorrentId] = set()  #: stopped, with a recheck to come
        self._marked: set[tuple[TorrentId, int]] = set()  #: files whose names end in ".!qB"
        self.calls: list[tuple[object, ...]] = []
        self.down: QbittorrentError | None = None
        self.failures: list[QbittorrentError] = []
        self.before: Callable[[str], Awaitable[None]] | None = None
        self.may_list = True
        self.lists_asked = 0
        self.sessions = 1
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
            content_path=str(content_path(PurePosixPath(save_path), paths)),
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
        if id in self._truth:
            self._truth[id] = replace(self._truth[id], **fields)  # type: ignore[arg-type]

    def change_file(self, id: TorrentId, index: int, **fields: object) -> None:
        """Change what it says of one file: fields of `TorrentFile`."""
        self._files[id] = tuple(
            replace(file, **fields) if file.index == index else file  # type: ignore[arg-type]
            for file in self._files[id]
        )

    def remove(self, id: TorrentId) -> None:
        """Forget a torrent, as when its user deletes it."""
        del self._torrents[id], self._files[id], self._metainfo[id]
        self._truth.pop(id, None)
        self._unseen.pop(id, None)
        self._due.discard(id)

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
        api = "2.8.19" if self.old else "2.11.4"
        self._contact = replace(self._contact, version="v0.0.0", web_api_version=api)
        return "v0.0.0", api

    async def torrents(self) -> tuple[Torrent, ...]:
        self.lists_asked += 1
        await self._call("torrents")
        return tuple(map(self._shown, list(self._torrents)))

    async def torrent(self, id: TorrentId) -> Torrent:
        await self._call("torrent", id)
        return self._shown(self._known(id).id)

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

    async def stop(self, id: TorrentId) -> None:
        await self._call("stop", id)
        if torrent := self._now(id):
            self._become(id, state=self._stopped(torrent.progress == 1))
            self.change(id, force_start=False)

    async def start(self, id: TorrentId) -> None:
        await self._call("start", id)
        self._start(id, forced=False)

    async def set_force_start(self, id: TorrentId, forced: bool) -> None:
        await self._call("set_force_start", id, forced)
        self._start(id, forced=forced)

    async def set_auto_management(self, id: TorrentId, on: bool) -> None:
        await self._call("set_auto_management", id, on)
        if self._now(id):
            self.change(id, auto_management=on)

    async def set_download_path(self, id: TorrentId, path: str) -> None:
        await self._call("set_download_path", id, path)
        self._make(path)
        torrent = self._now(id)
        if torrent and not torrent.auto_management:
            self.change(id, download_path=path)
            if torrent.progress < 1:
                self._move(id, path or torrent.save_path, replace_files=True)

    async def set_location(self, id: TorrentId, path: str) -> None:
        await self._call("set_location", id, path)
        self._make(path)
        torrent = self._now(id)
        if torrent is None:
            return
        self.change(id, auto_management=False)
        if path == torrent.save_path:
            return
        if torrent.progress < 1 and torrent.download_path:
            self.change(id, save_path=path)
            return
        try:
            if self._takes_file_for_folder(id, path):
                raise NotADirectoryError(path)
            kept = self._move(id, path)
        except OSError:  # no error state; only the log would tell
            if self.old:
                self.change(id, save_path=path)
            return
        self._become(id, save_path=path)
        if kept:
            self._due.add(id)
            if torrent.state == self._stopped(torrent.progress == 1):
                left = torrent.size_bytes
                self._become(id, state=self._stopped(False), progress=0.0, amount_left_bytes=left)
            else:
                self._check(id)
        # Seen at once: the new place, with the old state on 5.1, and as moving on 4.5.
        self.change(id, save_path=path, content_path=self._truth[id].content_path)
        if self.old:
            self._torrents[id] = replace(self._torrents[id], state="moving")

    async def recheck(self, id: TorrentId) -> None:
        await self._call("recheck", id)
        if self._now(id):
            self._check(id)

    async def folder(self, path: str) -> frozenset[str] | None:
        await self._call("folder", path)
        if self.old:
            return None
        return frozenset(str(PurePosixPath(path) / name) for name in listing(self.disk(path)))

    async def refresh_interval_s(self) -> float:
        await self._call("refresh_interval_s")
        return self.refresh_s

    # -- what moves and checks do ----------------------------------------------

    def _now(self, id: TorrentId) -> Torrent | None:
        """See a torrent as it is, not as it is described; None when there is none."""
        if id in self._truth:
            self._torrents[id] = self._truth.pop(id)
            self._unseen.pop(id, None)
        return self._torrents.get(id)

    def _become(self, id: TorrentId, **fields: object) -> None:
        """Change a torrent, which is seen only later."""
        now = self._truth.get(id, self._torrents[id])
        self._truth[id] = replace(now, **fields)  # type: ignore[arg-type]
        self._unseen[id] = self.lag

    def _shown(self, id: TorrentId) -> Torrent:
        if id in self._truth:
            self._unseen[id] -= 1
            if self._unseen[id] < 0:
                self._now(id)
        return self._torrents[id]

    def _stopped(self, up: bool) -> str:
        return ("paused" if self.old else "stopped") + ("UP" if up else "DL")

    def _start(self, id: TorrentId, *, forced: bool) -> None:
        torrent = self._now(id)
        if torrent is None:
            return
        self.change(id, force_start=forced)
        self._become(id, state="stalledUP" if torrent.progress == 1 else "stalledDL")
        if id in self._due:
            self._check(id)
        if forced:
            up = self._truth[id].progress == 1
            self._become(id, state="forcedUP" if up else "forcedDL")

    def _make(self, path: str) -> None:
        try:
            if path:
                self.disk(path).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise QbittorrentError(f"qBittorrent refused a call: 409 {error}") from error

    def _paths(self, id: TorrentId, folder: str) -> list[Path]:
        marks = {n: MARK for other, n in self._marked if other == id}
        names = [f"{file.name}{marks.get(file.index, '')}" for file in self._files[id]]
        return [self.disk(folder) / name for name in names]

    def _mark(self, id: TorrentId, folder: str, incomplete: Collection[int]) -> None:
        """Give each file the name that it is to have."""
        before = self._paths(id, folder)
        self._marked -= {(id, n) for n in range(len(before))}
        self._marked |= {(id, n) for n in incomplete}
        rename(list(zip(before, self._paths(id, folder), strict=True)))

    def _take_whole(self, id: TorrentId, folder: str) -> None:
        paths = self._paths(id, folder)
        take_whole([paths[n] for n, file in enumerate(self._files[id]) if file.wanted])

    def _folder(self, id: TorrentId) -> str:
        """Where its files are: its save path, or its download path."""
        torrent = self._truth.get(id, self._torrents[id])
        names = [file.name for file in self._files[id]]
        at_home = str(content_path(PurePosixPath(torrent.save_path), names))
        return torrent.save_path if torrent.content_path == at_home else torrent.download_path

    def _takes_file_for_folder(self, id: TorrentId, path: str) -> bool:
        """Whether it looks for its padding below its only file, which is there."""
        info = lt.torrent_info(self._metainfo[id])
        by_v2 = not info.info_hashes().has_v1()
        partial = self._files[id][0].size_bytes % info.piece_length()
        names = [file.name for file in self._files[id]]
        single = len(names) == 1 and len(names[0].parts) == 1
        return bool(by_v2 and single and partial and (self.disk(path) / names[0]).exists())

    def _move(self, id: TorrentId, path: str, *, replace_files: bool = False) -> bool:
        """Move the files, wanted or not; tell whether a recheck is due."""
        sources = self._paths(id, self._folder(id))
        if not replace_files:
            self._take_whole(id, path)
        kept = move(list(zip(sources, self._paths(id, path), strict=True)), replace=replace_files)
        names = [file.name for file in self._files[id]]
        self._become(id, content_path=str(content_path(PurePosixPath(path), names)))
        return kept

    def _check(self, id: TorrentId) -> None:
        """Judge the files on disk; the result is seen later."""
        self._due.discard(id)
        torrent = self._truth.get(id, self._torrents[id])
        self._take_whole(id, self._folder(id))
        good = good_bytes(self._metainfo[id], self._paths(id, self._folder(id)))
        incomplete = {file.index for file in self._files[id] if good[file.index] < file.size_bytes}
        self._mark(id, self._folder(id), incomplete if self.mark_incomplete else ())
        wanted = [n for n, file in enumerate(self._files[id]) if file.wanted]
        for n, file in enumerate(self._files[id]):
            self.change_file(id, n, progress=good[n] / file.size_bytes if file.size_bytes else 1.0)
        size = sum(self._files[id][n].size_bytes for n in wanted)
        left = size - sum(good[n] for n in wanted)
        stopped = torrent.state.startswith(("stopped", "paused"))
        state = self._stopped(not left) if stopped else "stalledDL" if left else "stalledUP"
        if torrent.force_start and not stopped:
            state = "forcedDL" if left else "forcedUP"
        self._become(
            id, state=state, amount_left_bytes=left, progress=1 - left / size if size else 1.0
        )
        if left and torrent.download_path:
            self._move(id, torrent.download_path, replace_files=True)

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
