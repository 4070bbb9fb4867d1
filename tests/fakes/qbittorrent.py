"""A qBittorrent in memory. ``tests/contract`` proves that it answers like real ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import fields, replace
from pathlib import PurePosixPath

import trio
from trio_util import AsyncValue

from qbm_trio.core.client import Preferences
from qbm_trio.core.errors import (
    QbittorrentError,
    QbittorrentTooLate,
    QbittorrentUnreachable,
    TooEarlyToTell,
    TorrentUnknown,
)
from qbm_trio.core.model import Torrent, TorrentFile, TorrentId
from qbm_trio.core.overview import QbittorrentContact
from qbm_trio.core.readiness import MISSING_FILES
from qbm_trio.core.snapshot import Changes
from tests.fakes.qbittorrent_disk import listing
from tests.fakes.qbittorrent_torrents import FakeTorrents


class FakeQbittorrent(FakeTorrents):
    """A `QbittorrentClient` whose torrents, troubles and delays a test sets.

    Set ``down`` to an error and every call raises it; put errors into
    ``failures`` and each is raised once. ``before`` is awaited ahead of every
    call with its name: a place to wait, to look, or to raise. ``calls`` lists
    what was called, with its arguments. ``may_list`` says whether `find` may ask
    for the list of all now: the real one may do so only now and then.
    """

    def __init__(self, *, old: bool = False) -> None:
        """Be like 5.1, or with ``old`` like 4.5."""
        super().__init__(old=old)
        self.refresh_s = 0.1
        self.preferred = Preferences(
            save_path="/downloads",
            temp_path="",
            runs_program=False,
            program="",
            marks_incomplete=False,
            removes_with_files=False,
        )
        self.calls: list[tuple[object, ...]] = []
        self.down: QbittorrentError | None = None
        self.failures: list[QbittorrentError] = []
        self.before: Callable[[str], Awaitable[None]] | None = None
        self.may_list = True
        self.lists_asked = 0
        self.sessions = 1
        self.reachable: AsyncValue[bool | None] = AsyncValue(None)
        self._contact = QbittorrentContact(reachable=False)
        self._told: dict[TorrentId, Torrent] = {}  #: by the last answer of `changes`
        self._number = 0  #: of that answer

    def restart(self) -> None:
        """Begin a new session: nothing is known of what was told in the last one."""
        self.sessions += 1
        self._number = 0

    # -- QbittorrentClient -----------------------------------------------------

    @property
    def contact(self) -> QbittorrentContact:
        return self._contact

    @property
    def requests(self) -> int:
        return len(self.calls)

    async def wait_asked(self) -> None:
        await self.reachable.wait_value(lambda usable: usable is not None)

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

    async def changes(self, since: int) -> Changes:
        self.lists_asked += 1
        await self._call("changes", since)
        told, now = self._told, {id: self._shown(id) for id in self._torrents}
        whole = since == 0 or since != self._number
        self._number += 1
        self._told = now
        return Changes(
            number=self._number,
            whole=whole,
            torrents={
                id: _fields(torrent, None if whole else told.get(id))
                for id, torrent in now.items()
                if whole or torrent != told.get(id)
            },
            removed=frozenset() if whole else frozenset(told.keys() - now.keys()),
        )

    def known(self, hash: str) -> TorrentId | None:
        return next((id for id, told in self._told.items() if hash in told.hashes), None)

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
        self._stop(id)

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
        if torrent.state == MISSING_FILES:
            self._find_missing(id)
        elif kept:
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

    async def preferences(self) -> Preferences:
        await self._call("preferences")
        return self.preferred

    async def refresh_interval_s(self) -> float:
        await self._call("refresh_interval_s")
        return self.refresh_s

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


def _fields(torrent: Torrent, before: Torrent | None) -> Mapping[str, object]:
    """All of a torrent's fields, or those that differ from before."""
    return {
        field.name: getattr(torrent, field.name)
        for field in fields(torrent)
        if field.name != "id"
        and (before is None or getattr(torrent, field.name) != getattr(before, field.name))
    }


def too_late() -> QbittorrentTooLate:
    """Give the error of a qBittorrent that is too busy to answer."""
    return QbittorrentTooLate("qBittorrent did not answer in time")


def away() -> QbittorrentUnreachable:
    """Give the error of a qBittorrent that does not run."""
    return QbittorrentUnreachable("no connection to qBittorrent; is it running?")
