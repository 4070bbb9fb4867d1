"""qBittorrent, 4.5 to 5.x, through qbittorrent-api in threads.

One session, one thread at a time: qBittorrent answers on its main thread anyway,
and the library's client must not be shared. Each method here is one HTTP request
unless it says otherwise.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import PurePosixPath
from typing import TypeVar

import trio
from trio_util import AsyncValue

from ..core.client import Preferences
from ..core.errors import (
    QbittorrentError,
    QbittorrentLoginRefused,
    QbittorrentTooLate,
    QbittorrentUnreachable,
    TooEarlyToTell,
    TorrentUnknown,
)
from ..core.model import Torrent, TorrentFile, TorrentId
from ..core.overview import QbittorrentContact
from ..core.snapshot import Changes, keys_in
from .qbittorrent_rows import changes_of, file_of, preferences_of, rows_of, torrent_of
from .qbittorrent_session import Session

T = TypeVar("T")

_ID = re.compile(r"[0-9a-f]{40}")
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class Qbittorrent:
    """The `QbittorrentClient` that talks to a real qBittorrent."""

    def __init__(
        self,
        *,
        url: str,
        username: str = "",
        password: str = "",
        api_key: str = "",
        verify_ssl: bool = True,
        snapshot_interval_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Prepare; nothing is sent before the first call.

        Args:
            url: of its Web UI, as `Settings.qbit_url` gives it; without credentials.
            username: with ``password``; both unused when there is an ``api_key``.
            password: empty, and no ``api_key``: login is never called.
            api_key: of qBittorrent 5.2 or later.
            verify_ssl: False accepts a self-signed certificate.
            snapshot_interval_s: how often `find` may ask for the whole list.
            clock: monotonic seconds.
            now: epoch seconds.
        """
        self._session = Session(
            url=url,
            username=username,
            password=password,
            api_key=api_key,
            verify_ssl=verify_ssl,
            clock=clock,
            now=now,
        )
        self._limiter = trio.CapacityLimiter(1)
        self._clock = clock
        self._now = now
        self._contact = QbittorrentContact(reachable=False)
        #: whether the last call got a usable answer; None before the first
        self.reachable: AsyncValue[bool | None] = AsyncValue(None)
        self._index: dict[str, TorrentId] = {}
        self._lists_asked = 0
        self._newest_list = 0  #: the number of the newest one that was answered
        self._snapshot_interval_s = snapshot_interval_s
        self._next_snapshot_at = clock()

    @property
    def contact(self) -> QbittorrentContact:
        """What the calls so far have shown."""
        return self._contact

    @property
    def requests(self) -> int:
        """HTTP requests made, logins included."""
        return self._session.sent

    @property
    def sessions(self) -> int:
        """How many sessions qBittorrent has given; none to who comes with an API key."""
        return self._session.sessions

    @property
    def lists_asked(self) -> int:
        """How many lists of all torrents have been asked for, answered or not."""
        return self._lists_asked

    async def wait_asked(self) -> None:
        """Return once the first call is over."""
        await self.reachable.wait_value(lambda usable: usable is not None)

    async def wait_reachable(self) -> None:
        """Return once the last call made got a usable answer."""
        await self.reachable.wait_value(True)

    async def wait_unreachable(self) -> None:
        """Return once the last call made got no usable answer."""
        await self.reachable.wait_value(False)

    async def version(self) -> tuple[str, str]:
        """Ask for the versions of the application and of its Web API (two requests)."""
        app = await self._read(lambda api: api.version_of("version"))
        web_api = await self._read(lambda api: api.version_of("webapiVersion"))
        self._contact = replace(self._contact, version=app, web_api_version=web_api)
        return app, web_api

    async def torrents(self) -> tuple[Torrent, ...]:
        """List all torrents, and remember their hashes for `find`."""
        torrents = await self._list(
            lambda api: tuple(map(torrent_of, rows_of(api.torrents_info())))  # in its thread
        )
        self._index = {key: torrent.id for torrent in torrents for key in torrent.hashes}
        return torrents

    async def changes(self, since: int) -> Changes:
        """Tell what has changed among all torrents, and remember their hashes for `find`."""
        # Sent again after a broken connection it may be the second of its number, in a session
        # that has numbers of its own by then.
        numbers = iter((since, 0))
        changes = await self._list(lambda api: changes_of(api.sync_maindata(next(numbers))))
        if changes.whole:
            self._index = {}
        elif changes.removed:  # else it would grow for as long as the session lasts
            gone = changes.removed
            self._index = {key: id for key, id in self._index.items() if id not in gone}
        for id, fields in changes.torrents.items():
            self._index.update(dict.fromkeys(keys_in(id, fields), id))
        return changes

    async def _list(self, call: Callable[[Session], T]) -> T:
        began = self._clock()
        self._lists_asked += 1
        number = self._lists_asked
        # 4.5.2 builds the list on its main thread, in seconds for thousands of
        # torrents: asking must not take more than a twentieth of its time.
        try:
            listed = await self._read(call)
        except QbittorrentTooLate:
            ended = self._clock()
            self._next_snapshot_at = max(self._next_snapshot_at, ended + 20 * (ended - began))
            raise
        ended = self._clock()
        pause_s = max(self._snapshot_interval_s, 20 * (ended - began))
        self._next_snapshot_at = ended + pause_s
        self._newest_list = number
        return listed

    def known(self, hash: str) -> TorrentId | None:
        """Give the id of the torrent with this hash, from memory."""
        return self._index.get(hash)

    async def torrent(self, id: TorrentId) -> Torrent:
        """Describe one torrent.

        Raises:
            TorrentUnknown: qBittorrent does not have it.
        """
        _check(id)
        for torrent in await self._read(
            lambda api: tuple(map(torrent_of, rows_of(api.torrents_info(torrent_hashes=id))))
        ):
            if torrent.id == id:
                self._index.update(dict.fromkeys(torrent.hashes, id))
                return torrent
        raise TorrentUnknown(f"qBittorrent has no torrent {id}")

    async def find(self, hash: str, *, list_after: int = 0) -> TorrentId:
        """Give the id of the torrent with this id, v1 or v2 hash.

        From memory where possible (which hash is whose never changes, so a
        remembered torrent may at worst be gone), else by asking for the id, else
        from a new list of all, if that is not too soon.

        Raises:
            TorrentUnknown: none has it.
            TooEarlyToTell: a list that was asked for after the first ``list_after`` ones
                would tell, and there is none yet.
        """
        if not _HASH.fullmatch(hash):
            raise ValueError(f"not a hash of 40 or 64 lower-case hex digits: {hash!r}")
        if hash in self._index:
            return self._index[hash]
        try:
            # An id is the v1 hash, or the first 40 digits of the v2 hash when
            # there is one (hybrids too): only a hybrid's v1 hash needs the list.
            torrent = await self.torrent(TorrentId(hash[:40]))
            if hash in torrent.hashes:
                return torrent.id
        except TorrentUnknown:
            if len(hash) == 40:
                if self._clock() >= self._next_snapshot_at:
                    await self.torrents()
                    if hash in self._index:
                        return self._index[hash]
                if self._newest_list <= list_after:
                    raise TooEarlyToTell(
                        f"qBittorrent has no torrent with the id {hash}; whether it is the v1 "
                        "hash of one is known when all are listed again"
                    ) from None
        raise TorrentUnknown(f"qBittorrent has no torrent with the hash {hash}")

    async def files(self, id: TorrentId) -> tuple[TorrentFile, ...]:
        """List the files of a torrent, without padding, by index.

        Raises:
            TorrentUnknown: qBittorrent does not have it.
        """
        _check(id)
        return await self._read(
            lambda api: tuple(map(file_of, count(), rows_of(api.torrents_files(torrent_hash=id)))),
            about=id,
        )

    async def export(self, id: TorrentId) -> bytes:
        """Fetch the .torrent file; renames are not in it.

        Raises:
            TorrentUnknown: qBittorrent does not have it.
            QbittorrentError: it has no metadata yet, or is a version 2 torrent that 5.1 has
                not rechecked since its start.
        """
        _check(id)
        return await self._read(lambda api: api.export_torrent(id), about=id)

    async def add_tags(self, ids: Collection[TorrentId], tags: Collection[str]) -> None:
        """Add tags to all of these; unknown torrents go unnoticed."""
        hashes, joined = _listed(ids), _joined(tags)
        if hashes and joined:
            await self._write(lambda api: api.torrents_add_tags(joined, hashes), repeatable=True)

    async def remove_tags(self, ids: Collection[TorrentId], tags: Collection[str]) -> None:
        """Remove just these tags from all of these."""
        hashes, joined = _listed(ids), _joined(tags)
        if hashes and joined:  # sent empty, it would remove all tags
            await self._write(lambda api: api.torrents_remove_tags(joined, hashes), repeatable=True)

    async def stop(self, id: TorrentId) -> None:
        """Stop (pause) a torrent."""
        _check(id)
        await self._write(lambda api: api.stop_torrent(id), repeatable=True)

    async def start(self, id: TorrentId) -> None:
        """Start (resume) a torrent; ends a forced start."""
        _check(id)
        await self._write(lambda api: api.start_torrent(id), repeatable=True)

    async def set_force_start(self, id: TorrentId, forced: bool) -> None:
        """Start a torrent, forced or not."""
        _check(id)
        await self._write(lambda api: api.torrents_set_force_start(forced, id), repeatable=True)

    async def set_auto_management(self, id: TorrentId, on: bool) -> None:
        """Turn automatic management on or off."""
        _check(id)
        await self._write(lambda api: api.torrents_set_auto_management(on, id), repeatable=True)

    async def set_download_path(self, id: TorrentId, path: str) -> None:
        """Set the folder of the unfinished torrent; "" clears it.

        Raises:
            QbittorrentError: the folder cannot be made, or not be written to.
        """
        _check(id)
        if path:
            _check_path(path)
        await self._write(
            lambda api: api.torrents_set_download_path(path, id), about=id, repeatable=True
        )

    async def set_location(self, id: TorrentId, path: str) -> None:
        """Move a torrent's files to another save path, made when missing.

        Raises:
            QbittorrentError: the folder cannot be made.
        """
        _check(id)
        _check_path(path)
        await self._write(
            lambda api: api.torrents_set_location(path, id), about=id, repeatable=False
        )

    async def recheck(self, id: TorrentId) -> None:
        """Have all pieces read and judged again."""
        _check(id)
        await self._write(lambda api: api.torrents_recheck(id), repeatable=False)

    async def folder(self, path: str) -> frozenset[str] | None:
        """List the paths in a folder; None before 5.0."""
        _check_path(path)
        return await self._read(lambda api: api.folder_entries(path))

    async def preferences(self) -> Preferences:
        """Give qBittorrent's own settings."""
        return await self._read(lambda api: preferences_of(api.preferences_row()))

    async def refresh_interval_s(self) -> float:
        """Give how often qBittorrent renews what it says of a torrent."""
        return await self._read(lambda api: api.refresh_interval_ms() / 1000)

    async def _read(self, call: Callable[[Session], T], *, about: TorrentId | None = None) -> T:
        return await self._run(call, about=about, repeatable=True)

    async def _write(
        self, call: Callable[[Session], T], *, about: TorrentId | None = None, repeatable: bool
    ) -> T:
        return await self._run(call, about=about, repeatable=repeatable)

    async def _run(
        self, call: Callable[[Session], T], *, about: TorrentId | None, repeatable: bool
    ) -> T:
        # What may be repeated may be abandoned, too: a qBittorrent that hangs must not
        # hold up a drain. The thread keeps the limiter's token until its request is
        # over, so that no later call overtakes it.
        try:
            result = await trio.to_thread.run_sync(
                partial(self._session.perform, call, about=about, repeatable=repeatable),
                limiter=self._limiter,
                abandon_on_cancel=repeatable,
            )
        except (QbittorrentUnreachable, QbittorrentLoginRefused) as error:
            self._contact = replace(
                self._contact,
                reachable=False,
                problem=str(error),
                logins_tried=self._session.logins_tried,
            )
            self.reachable.value = False
            raise
        except QbittorrentError:
            self._answered()
            raise
        self._answered()
        return result

    def _answered(self) -> None:
        self._contact = replace(
            self._contact,
            reachable=True,
            last_contact_at=self._now(),
            problem=None,
            logins_tried=self._session.logins_tried,
            logged_in=self._session.logged_in,
            clock_ahead_s=self._session.clock_ahead_s,
        )
        self.reachable.value = True


def _check(id: TorrentId) -> None:
    # "all" is a wildcard, and so is an empty filter: nothing but an id goes out.
    if not _ID.fullmatch(id):
        raise ValueError(f"not a torrent id: {id!r}")


def _check_path(path: str) -> None:
    # A relative one would be made below qBittorrent's working directory, and the
    # files be looked for below its default save path.
    if not PurePosixPath(path).is_absolute():
        raise ValueError(f"not an absolute path: {path!r}")


def _listed(ids: Collection[TorrentId]) -> list[str]:
    for id in ids:
        _check(id)
    return list(ids)


def _joined(tags: Collection[str]) -> str:
    for tag in tags:
        if not tag.strip() or "," in tag:
            raise ValueError(f"not a tag: {tag!r}")
    return ",".join(tags)
