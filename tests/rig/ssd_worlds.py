"""SSDs on paper: who lists which path, which names an inode has, and who may go.

What `qbm_trio.core.sharing` and `qbm_trio.core.space` decide about one is checked
here by doing it: delete the names, and count the inodes that have none left.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hypothesis import strategies as st

from qbm_trio.core.model import JobState, Torrent, TorrentId
from qbm_trio.core.sharing import SsdFile, groups
from qbm_trio.core.space import PIN_TAG, RELOCATING_TAG, Facts, SpacePlan, plan_space


def tid(n: int) -> TorrentId:
    return TorrentId(f"{n:040x}")


def torrent(
    n: int,
    *,
    state: str = "stalledUP",
    tags: Iterable[str] = (),
    progress: float = 1.0,
    amount_left_bytes: int = 0,
    completed_at: float | None = 0.0,
    name: str | None = None,
) -> Torrent:
    return Torrent(
        id=tid(n),
        name=f"torrent {n}" if name is None else name,
        state=state,
        category="films",
        tags=frozenset(tags),
        save_path="/ssd",
        content_path=f"/ssd/{n}",
        progress=progress,
        amount_left_bytes=amount_left_bytes,
        size_bytes=1,
        completed_at=completed_at,
        auto_management=False,
        download_path="",
        infohash_v1=tid(n),
        infohash_v2="",
    )


def ssd_file(
    n: int,
    path: str,
    inode: int,
    *,
    links: int = 1,
    disk_bytes: int = 10,
    wanted: bool = True,
) -> SsdFile:
    return SsdFile(
        torrent_id=tid(n),
        path=path,
        wanted=wanted,
        inode=(1, inode),
        links=links,
        disk_bytes=disk_bytes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    files: list[SsdFile]
    facts: dict[TorrentId, Facts] = field(default_factory=dict)

    def freed_by_deleting_files_of(self, gone: Iterable[TorrentId]) -> int:
        """Delete the torrents' names one by one; return the bytes of inodes without a name."""
        left = {file.inode: file.links for file in self.files}
        size = {file.inode: file.disk_bytes for file in self.files}
        doomed = set(gone)
        for path, inode in {(f.path, f.inode) for f in self.files if f.torrent_id in doomed}:
            assert path
            left[inode] -= 1
        return sum(size[inode] for inode, names in left.items() if names == 0)

    def sharers(self, torrent_id: TorrentId) -> set[TorrentId]:
        """The torrents that list a path or an inode of this one, itself among them."""
        mine = [f for f in self.files if f.torrent_id == torrent_id]
        keys = {f.path for f in mine} | {f.inode for f in mine}
        return {torrent_id} | {
            f.torrent_id for f in self.files if f.path in keys or f.inode in keys
        }

    def component(self, torrent_id: TorrentId) -> frozenset[TorrentId]:
        """Everybody that is tied to this torrent, however far."""
        reached = {torrent_id}
        while more := set().union(*map(self.sharers, reached)) - reached:
            reached |= more
        return frozenset(reached)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    count = draw(st.integers(0, 7))
    names: list[tuple[str, int]] = []  # of paths that torrents list, with their inode
    links: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for inode in range(draw(st.integers(0, 8))):
        inside = draw(st.integers(1, 3))
        outside = draw(st.sampled_from((0, 0, 0, 1)))
        names += [(f"/ssd/{inode}.{n}", inode) for n in range(inside)]
        links[inode] = inside + outside
        sizes[inode] = draw(st.integers(0, 20))
    files = []
    for n in range(count):
        listed = draw(st.lists(st.sampled_from(names), max_size=3, unique=True)) if names else []
        files += [
            ssd_file(
                n,
                path,
                inode,
                links=links[inode],
                disk_bytes=sizes[inode],
                wanted=draw(st.booleans()),
            )
            for path, inode in listed
        ]
    return World(files=files, facts={tid(n): draw(facts_of(n)) for n in range(count)})


@st.composite
def facts_of(draw: st.DrawFn, n: int) -> Facts:
    # Mostly fit to go, or most worlds would be stuck.
    completed_at = draw(st.one_of(st.none(), st.integers(1, 5).map(float)))
    odd = draw(st.integers(0, 9))
    return Facts(
        torrent=torrent(
            n,
            state=draw(st.sampled_from(STATES)) if odd == 0 else "uploading",
            tags={PIN_TAG} if odd == 1 else {RELOCATING_TAG} if odd == 2 else {"ssd"},
            progress=0.5 if odd == 3 else 1.0,
            amount_left_bytes=1 if odd == 4 else 0,
            completed_at=completed_at,
        ),
        tiered=draw(st.sampled_from((True, True, False))),
        last_job=draw(st.sampled_from(JobState)) if odd == 5 else JobState.DONE,
        alive_job=odd == 6,
        relocating=odd == 7,
    )


STATES = (
    "error",
    "missingFiles",
    "moving",
    "checkingUP",
    "checkingResumeData",
    "downloading",
    "stalledDL",
    "stoppedDL",
    "pausedDL",
    "unknown",
    "stoppedUP",
    "pausedUP",
    "forcedUP",
    "queuedUP",
)


def planned(world: World, *, missing: int, room: int = 100) -> SpacePlan:
    return plan_space(
        groups(world.facts, world.files),
        world.facts,
        free_bytes=1000,
        target_bytes=1000 + missing,
        pending_bytes=0,
        tier_room=room,
    )
