"""A shelf of torrents on a service's SSD, and a judge of what became of them.

The judge knows the files by their own SHA-256 from before the service saw them.
"""

from __future__ import annotations

import hashlib
import random
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.rig.qbt import Qbt, has_settled, running
from tests.rig.service import Service
from tests.rig.torrents import Version, make_torrent, write_files
from tests.rig.trees import below

MARKER = ".qbm-tier"


@dataclass(frozen=True, kw_only=True)
class Shelved:
    """One complete torrent on the SSD."""

    id: str
    hashes: tuple[str, ...]  #: every hash that means it
    name: str
    category: str
    copies: Mapping[str, str]  #: path below the HDD to SHA-256: what must be there in the end


@dataclass
class Library:
    """Makes torrents below a service's SSD and adds them to a qBittorrent."""

    service: Service
    qbt: Qbt
    torrents: list[Shelved] = field(default_factory=list)
    _made: list[tuple[Shelved, bytes]] = field(default_factory=list)

    def make(
        self,
        name: str,
        sizes: Mapping[str, int] | int,
        *,
        version: Version = Version.V1,
        category: str = "",
        piece_length: int = 16 * 1024,
    ) -> Shelved:
        """Make one: a folder of files, or a single file of so many bytes. Not yet added."""
        ssd, seed = self.service.ssd, len(self.torrents)
        if isinstance(sizes, int):
            write_files(ssd, {name: sizes}, seed=seed)
            torrent = make_torrent(ssd, name, version=version, piece_length=piece_length)
        else:
            write_files(ssd / name, sizes, seed=seed)
            torrent = make_torrent(
                ssd, name, list(sizes), version=version, piece_length=piece_length
            )
        id = (torrent.infohash_v2 or torrent.infohash_v1 or "")[:40]
        shelved = Shelved(
            id=id,
            hashes=tuple(sorted({id, *filter(None, (torrent.infohash_v1, torrent.infohash_v2))})),
            name=name,
            category=category,
            copies={
                str(Path(category) / path.relative_to(ssd)): sha256(path) for path in torrent.paths
            },
        )
        self.torrents.append(shelved)
        self._made.append((shelved, torrent.data))
        return shelved

    def add(self) -> None:
        """Add what was made to qBittorrent, and wait until it shows it complete."""
        made, self._made = self._made, []
        for category in {shelved.category for shelved, _ in made}:
            answer = self.qbt.api.torrents_add(
                torrent_files={s.id: data for s, data in made if s.category == category},
                save_path=str(self.service.ssd),
                is_skip_checking=True,
                category=category,
            )
            assert answer == "Ok.", answer
        wanted = {shelved.id for shelved, _ in made}

        def complete() -> bool:
            rows = self.qbt.api.torrents_info()
            return wanted <= {str(row["hash"]) for row in rows if has_settled(row)}

        self.qbt.wait_for(complete, "the torrents are complete")
        if self.service.process is None:
            self.service.past_this_second()

    def one(self, name: str, sizes: Mapping[str, int] | int, **options: str) -> Shelved:
        """Make a version 1 torrent and add it."""
        shelved = self.make(name, sizes, **options)  # type: ignore[arg-type]  # category only
        self.add()
        return shelved

    def assert_tiered(self, *torrents: Shelved, foreign: Sequence[str] = ()) -> None:
        """The HDD holds exactly these torrents' files (all by default), each of them tagged.

        Args:
            torrents: which.
            foreign: other files that may lie on the HDD, below it.
        """
        expected: dict[str, str] = {}
        for shelved in torrents or self.torrents:
            expected |= shelved.copies
        found = snapshot(self.service.hdd)
        for path in foreign:
            assert path in found
        for path in [*expected, *foreign]:
            expected |= {str(above): "folder" for above in list(Path(path).parents)[:-1]}
        there = {k: v for k, v in found.items() if k not in (MARKER, *foreign)}
        assert there == expected
        rows = {str(row["hash"]): row for row in self.qbt.api.torrents_info()}
        for shelved in torrents or self.torrents:
            assert rows[shelved.id]["tags"] == "hdd, ssd", shelved
            assert rows[shelved.id]["progress"] == 1, shelved


def shelf(library: Library, rng: random.Random, count: int) -> None:
    """Make ``count`` torrents of many shapes, from one byte to two million."""
    versions = list(Version)
    categories = ("", "movies", "tv/hd")
    for n in range(count):
        sizes: Mapping[str, int] | int
        match n % 4:
            case 0:
                sizes = rng.randrange(600_000, 2_000_000)
            case 1:
                sizes = {f"disc {d}/file {f}.bin": rng.randrange(0, 3000)
                         for d in range(3) for f in range(15)}  # fmt: skip
            case 2:
                sizes = {"main.mkv": rng.randrange(300_000, 900_000), "sub/a.srt": 1, "empty": 0}
            case _:
                sizes = {f"{f}.flac": rng.randrange(16_384, 120_000) for f in range(12)}
        library.make(
            f"Torrent {n}", sizes, version=versions[n % 3], category=categories[n // 3 % 3]
        )
    library.add()


def snapshot(folder: Path) -> dict[str, str]:
    """Everything below ``folder``: the SHA-256 of files, ``folder``, or the link's target."""
    found = {}
    for path in sorted(below(folder)):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        else:
            found[name] = "folder" if path.is_dir() else sha256(path)
    return found


def sha256(path: Path) -> str:
    """The file's SHA-256, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def stage(root: Path, **env: str) -> Iterator[tuple[Service, Library]]:
    """A qBittorrent, a service that is not started yet, and an empty library."""
    with ExitStack() as stack:
        qbt = stack.enter_context(running(root / "qbt"))
        service = Service(root / "service", qbt.url, env)
        stack.callback(service.http.close)
        stack.callback(service.kill)
        yield service, Library(service, qbt)


@contextmanager
def frozen(qbt: Qbt) -> Iterator[None]:
    """qBittorrent hangs: its port accepts, nothing answers."""
    assert qbt.process is not None
    qbt.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        qbt.process.send_signal(signal.SIGCONT)
