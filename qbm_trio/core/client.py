"""What the service asks of qBittorrent.

A Protocol, because unit tests must fake qBittorrent.
`adapters/qbittorrent.py` is the real one; ``tests/contract`` proves that the
fake and two real versions answer alike.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from .model import Torrent, TorrentFile, TorrentId
from .overview import QbittorrentContact
from .snapshot import Changes


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """qBittorrent's own settings, as far as they matter here. Paths are its own."""

    save_path: str  #: where torrents land unless told otherwise
    temp_path: str  #: where incomplete ones are kept; "" when nowhere else
    runs_program: bool  #: when a torrent has finished
    program: str  #: may hold a key: never to be shown
    marks_incomplete: bool  #: the names of incomplete files, by ``.!qB``
    removes_with_files: bool  #: a torrent that reaches the share limit


class QbittorrentClient(Protocol):
    """Calls to one qBittorrent.

    Every call raises `QbittorrentUnreachable` when there is no usable answer,
    `QbittorrentLoginRefused` when the answer is "log in" and we cannot, and
    `QbittorrentError` for any other refusal.

    Cancellation:
        Calls end at once; the request that is out ends before the next one begins.
        Only `set_location` and `recheck` end when qBittorrent has answered or the time
        limit of the request is over, so that neither happens unnoticed later.
    """

    @property
    def contact(self) -> QbittorrentContact:
        """What the calls so far have shown."""
        ...

    @property
    def requests(self) -> int:
        """HTTP requests made, logins included."""
        ...

    @property
    def sessions(self) -> int:
        """How many sessions qBittorrent has given: one more when it was restarted."""
        ...

    async def wait_asked(self) -> None:
        """Return once it has answered a call, or failed to."""
        ...

    async def wait_reachable(self) -> None:
        """Return once a call has succeeded after the last one that did not.

        Makes no call of its own: another task must be trying.
        """
        ...

    async def wait_unreachable(self) -> None:
        """Return once a call has failed after the last one that did not."""
        ...

    async def version(self) -> tuple[str, str]:
        """Ask for the versions of the application and of its Web API (two requests)."""
        ...

    async def torrents(self) -> tuple[Torrent, ...]:
        """List all torrents. Seconds for thousands of them on 4.5: never once a job."""
        ...

    async def changes(self, since: int) -> Changes:
        """Tell what has changed among all torrents (one request).

        Each session of qBittorrent's has one such conversation: one task alone may ask.
        Seconds for thousands of torrents on 4.5, little changed or not.

        Args:
            since: the number of the last answer; 0 for everything, as after a call that failed.
        """
        ...

    def known(self, hash: str) -> TorrentId | None:
        """Give the id of the torrent with this hash, from memory; None when it is not there.

        The torrent may be gone since.
        """
        ...

    async def torrent(self, id: TorrentId) -> Torrent:
        """Describe one torrent (one request).

        Raises:
            TorrentUnknown: qBittorrent does not have it.
        """
        ...

    @property
    def lists_asked(self) -> int:
        """How many lists of all torrents have been asked for, answered or not."""
        ...

    async def find(self, hash: str, *, list_after: int = 0) -> TorrentId:
        """Give the id of the torrent with this hash.

        Args:
            hash: 40 or 64 lower-case hex digits: a torrent id, the v1 hash of a
                hybrid torrent, or a v2 hash.
            list_after: an earlier value of `lists_asked`. Only a list of all that was
                asked for since proves that no torrent has the hash.

        Most answers come from memory. `torrent` with the hash itself is cheaper
        where the hash is an id already.

        Raises:
            TorrentUnknown: no torrent has it.
            TooEarlyToTell: there is no such list, and it is too early to ask for one.
        """
        ...

    async def files(self, id: TorrentId) -> tuple[TorrentFile, ...]:
        """List the files of a torrent, without padding, by index (one request).

        Raises:
            TorrentUnknown: qBittorrent does not have it.
        """
        ...

    async def export(self, id: TorrentId) -> bytes:
        """Fetch the .torrent file (one request). Renames are not in it.

        Raises:
            TorrentUnknown: qBittorrent does not have it.
            QbittorrentError: it has no metadata yet, or is a version 2 torrent that 5.1 has
                not rechecked since its start.
        """
        ...

    async def add_tags(self, ids: Collection[TorrentId], tags: Collection[str]) -> None:
        """Add tags, made when missing, to all of these (one request; none without ids or tags).

        Unknown torrents go unnoticed: qBittorrent does not say.
        """
        ...

    async def remove_tags(self, ids: Collection[TorrentId], tags: Collection[str]) -> None:
        """Remove just these tags from all of these (one request; none without ids or tags)."""
        ...

    # Each of the following is one request. An unknown torrent goes unnoticed, and what a
    # call did shows some refresh intervals later: ask `torrent` until it does.

    async def stop(self, id: TorrentId) -> None:
        """Stop a torrent ("pause" before 5.0). This ends a forced start too."""
        ...

    async def start(self, id: TorrentId) -> None:
        """Start a torrent ("resume" before 5.0), not forced. Begins a recheck that is due."""
        ...

    async def set_force_start(self, id: TorrentId, forced: bool) -> None:
        """Start a torrent, forced or not: it is started in either case."""
        ...

    async def set_auto_management(self, id: TorrentId, on: bool) -> None:
        """Turn automatic management on or off.

        On moves the files to the category's folder, without a recheck and over
        whatever is there.
        """
        ...

    async def set_download_path(self, id: TorrentId, path: str) -> None:
        """Set the folder for the files of an unfinished torrent; "" clears it.

        Ignored while automatic management is on. Moves the files of an unfinished one.

        Raises:
            QbittorrentError: the folder cannot be made, or not be written to.
        """
        ...

    async def set_location(self, id: TorrentId, path: str) -> None:
        """Give a torrent another save path, as qBittorrent sees it; made when missing.

        Turns automatic management off. Files that are absent there are moved; those that
        exist, whatever is in them, are taken for the torrent's, the old ones stay, and a
        recheck is due: at once if it runs, with `recheck` or `start` if it is stopped.
        The path it has already: nothing happens. A move that fails goes unnoticed.

        Never sent twice: after `QbittorrentUnreachable` it may have been done or not.

        Raises:
            QbittorrentError: the folder cannot be made.
        """
        ...

    async def recheck(self, id: TorrentId) -> None:
        """Have all pieces read and judged again; a stopped torrent stays stopped.

        Never sent twice: after `QbittorrentUnreachable` it may have begun or not.
        """
        ...

    async def folder(self, path: str) -> frozenset[str] | None:
        """List the paths in a folder, as qBittorrent sees it; empty when it does not exist.

        None before 5.0, which cannot tell (two requests then, else one).
        """
        ...

    async def preferences(self) -> Preferences:
        """Give qBittorrent's own settings (one request)."""
        ...

    async def refresh_interval_s(self) -> float:
        """Give how often qBittorrent renews what it says of a torrent."""
        ...
