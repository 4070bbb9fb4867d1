"""The torrents of a qBittorrent in memory, and what moves and checks do to them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path, PurePosixPath

import libtorrent as lt

from qbm_trio.core.errors import QbittorrentError, TorrentUnknown
from qbm_trio.core.model import Torrent, TorrentFile, TorrentId
from qbm_trio.core.readiness import MISSING_FILES
from tests.fakes.qbittorrent_disk import (
    MARK,
    content_path,
    good_bytes,
    move,
    rename,
    take_whole,
)


class FakeTorrents:
    """Torrents that a test arranges.

    What moves and checks do, they do to the real files at the paths that are said, through
    ``disk``, which gives the test's path for one of its own. It is seen only ``lag``
    descriptions later, as the real ones show it a refresh interval later.
    """

    def __init__(self, *, old: bool = False) -> None:
        """Be like 5.1, or with ``old`` like 4.5."""
        self.old = old
        self.disk: Callable[[str], Path] = Path
        self.lag = 2
        self.mark_incomplete = False  #: its setting that appends ".!qB"
        self._truth: dict[TorrentId, Torrent] = {}  #: of torrents whose change is not seen yet
        self._unseen: dict[TorrentId, int] = {}  #: for how many more descriptions
        self._due: set[TorrentId] = set()  #: stopped, with a recheck to come
        self._marked: set[tuple[TorrentId, int]] = set()  #: files whose names end in ".!qB"
        self._quiet: set[TorrentId] = set()  #: stopped, which missing files hide
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
        self._quiet.discard(id)

    def tags(self, id: TorrentId) -> frozenset[str]:
        """The tags a torrent has now, without a call."""
        return self._torrents[id].tags

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

    def _stop(self, id: TorrentId) -> None:
        torrent = self._now(id)
        if torrent is None:
            return
        self.change(id, force_start=False)
        if torrent.state == MISSING_FILES:  # it goes on saying so
            self._quiet.add(id)
        else:
            self._become(id, state=self._stopped(torrent.progress == 1))

    def _find_missing(self, id: TorrentId) -> None:
        """Look for missing files where it believes them to be now; it does not check them."""
        wanted = [n for n, file in enumerate(self._files[id]) if file.wanted]
        paths = self._paths(id, self._folder(id))
        if all(paths[n].exists() for n in wanted):
            state = self._stopped(True) if id in self._quiet else "stalledUP"
            self._become(id, state=state, progress=1.0, amount_left_bytes=0)
            self._quiet.discard(id)

    def _start(self, id: TorrentId, *, forced: bool) -> None:
        torrent = self._now(id)
        if torrent is None:
            return
        self.change(id, force_start=forced)
        if torrent.state == MISSING_FILES:
            self._quiet.discard(id)
            self._find_missing(id)
            return
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
        stopped = id in self._quiet or torrent.state.startswith(("stopped", "paused"))
        self._quiet.discard(id)
        state = self._stopped(not left) if stopped else "stalledDL" if left else "stalledUP"
        if torrent.force_start and not stopped:
            state = "forcedDL" if left else "forcedUP"
        self._become(
            id, state=state, amount_left_bytes=left, progress=1 - left / size if size else 1.0
        )
        if left and torrent.download_path:
            self._move(id, torrent.download_path, replace_files=True)

    def _known(self, id: TorrentId) -> Torrent:
        if id not in self._torrents:
            raise TorrentUnknown(f"no torrent {id}")
        return self._torrents[id]
