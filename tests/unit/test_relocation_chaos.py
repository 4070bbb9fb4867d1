"""Kills, restarts and refusals at any call of a relocation: whatever comes, no data is lost.

Each seed is another story of one to four events, told when it ends badly.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio

from qbm_trio.core.errors import QbittorrentError
from qbm_trio.core.lifecycle import ACTIVE
from qbm_trio.core.model import Torrent, TorrentId
from qbm_trio.core.relocation import OPEN, Relocation
from qbm_trio.core.space import RELOCATING_TAG
from tests.fakes.qbittorrent import away
from tests.rig.shelves import Shelf, Watched, corrupt_copy, shelf
from tests.rig.trees import below

EVENTS = ("kill", "drain", "away", "refuse", "slip", "restart")
LIVES = 6  #: more starts of the service than there are events
LIMIT_S = 30


@dataclass(kw_only=True)
class Story:
    """What happens, and at which calls."""

    fake: Watched
    chance: random.Random
    before: dict[TorrentId, Torrent] = field(default_factory=dict)  #: the torrents, as they were
    told: list[str] = field(default_factory=list)
    open_ids: Callable[[], set[TorrentId]] = set  #: who is being relocated
    ended: str | None = None  #: how this life of the service ended
    _calls: int = 0
    _unanswered: int = 0

    def __post_init__(self) -> None:
        count = self.chance.randrange(1, 5)
        events = [(self.chance.randrange(120), self.chance.choice(EVENTS)) for _ in range(count)]
        self._events = sorted(events)

    async def watch(self, name: str, *arguments: object) -> None:
        """What comes of this call."""
        if self._unanswered:
            self._unanswered -= 1
            raise away()
        steady = name in ("version", "changes")
        self._calls += not steady
        if steady or not self._events or self._calls < self._events[0][0]:
            return
        _, event = self._events.pop(0)
        self.told.append(f"{event} at call {self._calls}: {name} {arguments[:1]}")
        if event in ("kill", "drain"):
            self.ended = event
            if event == "kill":
                await trio.sleep_forever()
        if event == "refuse":
            raise QbittorrentError("qBittorrent refused a call: 409")
        if event in ("slip", "restart"):
            self._slip(arguments)
        if event in ("away", "restart"):
            self._unanswered = self.chance.randrange(8)
            raise away()

    def _slip(self, arguments: tuple[object, ...]) -> None:
        """Killed before it had saved the move, it has the torrent of this call as it was."""
        fake = self.fake
        for id_ in self.open_ids() & set(arguments):
            fake._now(id_)
            was = self.before[id_]
            files = [Path(was.save_path) / file.name for file in fake._files[id_]]
            whole = all(path.exists() for path in files)
            fake._due.discard(id_)
            fake._marked = {(other, n) for other, n in fake._marked if other != id_}
            fake._torrents[id_] = replace(
                was,
                tags=fake.tags(id_),
                state=was.state if whole else "missingFiles",
                progress=1.0 if whole else 0.0,
            )
            self.told.append(f"{was.name!r} is back on the SSD, {'' if whole else 'not '}whole")


async def furnish(it: Shelf, story: Story, folder: Path) -> None:
    """Two torrents, perhaps two more that share files; perhaps one copy is bad."""
    chance, fake = story.chance, story.fake
    stopped = "pausedUP" if fake.old else "stoppedUP"
    for name in ("T0", "T1"):
        automatic = chance.random() < 0.3
        incomplete = "" if automatic or chance.random() < 0.5 else str(folder / "incomplete")
        state = chance.choice(("stalledUP", "stalledUP", stopped))
        await it.tiered(name, state=state, auto_management=automatic, download_path=incomplete)
    if chance.random() < 0.5:
        await it.twins("G")
    if chance.random() < 0.25:
        corrupt_copy(it.inside, chance.choice(("T0", "T1")))
        story.told.append("a copy is bad")
    story.before = dict(fake._torrents)


async def calm(it: Shelf, story: Story) -> None:
    """Wait until nothing is under way any more, or the service is to end."""
    space = it.space
    with trio.fail_after(LIMIT_S):
        while story.ended is None:
            jobs = await it.inside.service.jobs.newest(state=None, limit=99, after=None)
            idle = (space._asked, space._current, space._groups) == (None, None, set())
            rows = (await it.rows()).values()
            open_ones = [row for row in rows if row.step in OPEN]
            if idle and not open_ones and not any(job.state in ACTIVE for job in jobs):
                return
            it.inside.wake_all()
            await trio.sleep(0.01)


def check(
    story: Story, rows: Mapping[str, Relocation], folder: Path, good: Mapping[Path, bytes]
) -> None:
    """Each torrent points at whole data, and all else is as before."""
    fake = story.fake
    for id_, was in story.before.items():
        fake._now(id_)
        now = fake._torrents[id_]
        tale = "\n".join([*story.told, f"{now}", f"{rows.get(was.name)}"])
        for file in fake._files[id_]:
            path = Path(now.save_path) / file.name
            assert path.exists(), tale
            assert path.read_bytes() == good[Path("tv") / file.name], tale
        assert now.state == was.state, tale
        assert now.download_path == was.download_path, tale
        on_hdd = Path(now.content_path).is_relative_to(folder / "hdd")
        assert now.auto_management is (was.auto_management and not on_hdd), tale
        assert RELOCATING_TAG not in now.tags, tale
    assert not list(below(folder, "*.!qB")), story.told


@pytest.mark.parametrize("seed", range(24))
async def test_whatever_comes_each_torrent_is_as_before_and_its_data_whole_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    fake = Watched(old=chance.random() < 0.5)
    fake.mark_incomplete = chance.random() < 0.4
    story = Story(fake=fake, chance=chance)
    async with shelf(tmp_path, monkeypatch, fake=fake) as it:
        await furnish(it, story, tmp_path)
        good = {
            path.relative_to(it.inside.ssd): path.read_bytes()
            for path in below(it.inside.ssd / "tv", "[ab]")
        }
    rows: dict[str, Relocation] = {}
    for life in range(LIVES):
        story.ended = None
        async with shelf(tmp_path, monkeypatch, fake=fake, RECONCILE_INTERVAL_S="0.05") as it:
            groups = it.space._groups
            story.open_ids = lambda groups=groups: {  # type: ignore[misc]
                row.torrent_id for watch in groups for row in watch.rows if row.step in OPEN
            }
            if life == 0:
                await it.leave_free(0)
                fake.watch = story.watch
                it.space.trigger()
            await calm(it, story)
            rows = await it.rows()
            if story.ended == "drain":
                await it.drain()
        if story.ended is None:
            break
    check(story, rows, tmp_path, good)
