"""A torrent that qBittorrent does not know: removed by its user, or is that not sure yet?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from qbm_trio.core.model import TorrentId
from qbm_trio.core.relocation import Event, Step
from qbm_trio.core.relocation_polls import Poll
from qbm_trio.core.snapshot import met
from qbm_trio.core.space import RELOCATING_TAG
from qbm_trio.tasks import relocation_watch
from qbm_trio.tasks.relocation_watch import (
    GONE_AFTER_S,
    LOADED_AFTER_S,
    NOT_DUE_S,
    REMOVED_AFTER_S,
    STANDSTILL_S,
    TorrentGone,
    TorrentWatch,
)
from tests.fakes.qbittorrent import FakeQbittorrent
from tests.rig.records import RELOCATION
from tests.rig.shelves import held, shelf
from tests.rig.torrents import make_torrent


def add(fake: FakeQbittorrent, folder: Path, name: str, *tags: str) -> TorrentId:
    made = make_torrent(folder, name, ["a"], piece_length=16 * 1024)
    id_ = fake.add(made.data, save_path=str(folder))
    fake.change(id_, tags=frozenset(tags))
    return id_


async def gone_after_s(watch: TorrentWatch, id_: TorrentId) -> float:
    began_s = trio.current_time()
    with pytest.raises(TorrentGone):
        await watch.torrent(id_)
    return trio.current_time() - began_s


@pytest.fixture
def fake(tmp_path: Path) -> FakeQbittorrent:
    for name in ("T", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_bytes(name.encode())
    return FakeQbittorrent()


async def test_what_was_shown_before_is_soon_known_to_be_removed(
    tmp_path: Path, fake: FakeQbittorrent, autojump_clock: MockClock
) -> None:
    id_, watch = add(fake, tmp_path, "T"), TorrentWatch(fake, str)
    await watch.torrent(id_)
    fake.remove(id_)
    assert await gone_after_s(watch, id_) == REMOVED_AFTER_S


async def test_after_a_restart_it_is_removed_when_another_is_shown_that_stands_still_for_it(
    tmp_path: Path, fake: FakeQbittorrent, autojump_clock: MockClock
) -> None:
    id_, watch = add(fake, tmp_path, "T", RELOCATING_TAG), TorrentWatch(fake, str)
    add(fake, tmp_path, "other", RELOCATING_TAG)
    await watch.torrent(id_)
    fake.remove(id_)
    fake.sessions += 1
    assert LOADED_AFTER_S <= await gone_after_s(watch, id_) <= 2 * LOADED_AFTER_S <= 120
    assert fake.lists_asked == 1


@pytest.mark.parametrize("others", ["none", "of another user"])
async def test_it_is_long_waited_for_where_the_torrents_may_be_those_of_another_qbittorrent(
    tmp_path: Path, fake: FakeQbittorrent, autojump_clock: MockClock, others: str
) -> None:
    id_, watch = add(fake, tmp_path, "T", RELOCATING_TAG), TorrentWatch(fake, str)
    await watch.torrent(id_)
    fake.remove(id_)
    fake.sessions += 1
    if others != "none":
        add(fake, tmp_path, "other", "qbm-pin")
    assert await gone_after_s(watch, id_) == GONE_AFTER_S
    assert fake.lists_asked <= 5, "a list takes seconds on 4.5"


async def test_one_that_is_loaded_after_the_others_is_not_gone(
    tmp_path: Path, fake: FakeQbittorrent, autojump_clock: MockClock
) -> None:
    """Even when that is seen only in the list of all."""
    id_, watch = add(fake, tmp_path, "T", RELOCATING_TAG), TorrentWatch(fake, str)
    add(fake, tmp_path, "other", RELOCATING_TAG)
    fake.remove(id_)

    async def before(call: str) -> None:
        if call == "torrents":
            add(fake, tmp_path, "T", RELOCATING_TAG)

    fake.before = before
    assert (await watch.torrent(id_)).id == id_


async def test_when_one_of_a_group_is_removed_after_a_restart_the_others_soon_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relocation_watch, "LOADED_AFTER_S", 0.1)
    monkeypatch.setattr(relocation_watch, "GONE_LOOK_S", 0.02)
    async with shelf(tmp_path, monkeypatch) as it:
        removed, stays = await it.twins("T")
        await it.leave_free(0)
        with held(monkeypatch, Step.CHECKING) as hold:
            it.space.trigger()
            await hold.wait()
            assert it.state(stays)[0] == "stoppedDL"
            it.fake.remove(removed)
            it.fake.sessions += 1
            hold.go_on.set()
            rows = await it.all_ended()
        ends = {row.torrent_id: row.step for row in rows.values()}
        assert ends == {removed: Step.GONE, stays: Step.DONE}
        assert it.state(stays) == ("stalledUP", "hdd")


async def test_who_is_sure_that_a_torrent_is_gone_does_not_wait_for_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relocation_watch, "GONE_LOOK_S", 0.01)
    monkeypatch.setattr(relocation_watch, "GONE_AFTER_S", 0.1)
    waits = 0
    real = TorrentWatch.torrent

    async def torrent(self: TorrentWatch, id_: TorrentId) -> object:
        nonlocal waits
        try:
            return await real(self, id_)
        except TorrentGone:
            waits += 1
            raise

    monkeypatch.setattr(TorrentWatch, "torrent", torrent)
    async with shelf(tmp_path, monkeypatch) as it:
        (id_,) = await it.shelf_of(1)
        await it.leave_free(0)
        with held(monkeypatch, Step.CHECKING) as hold:
            it.space.trigger()
            await hold.wait()
            it.fake.remove(id_)
            hold.go_on.set()
            assert (await it.all_ended())["T0"].step is Step.GONE
        assert waits == 1


def poll(at_s: float, state: str, progress: float = 0.0) -> Poll:
    return Poll(
        at_s=at_s,
        torrent=replace(met(TorrentId("a" * 40), "T", "a" * 40), state=state, progress=progress),
    )


@pytest.mark.parametrize(
    ("shown", "at_s"),
    [
        ([("checkingUP", 0.0)], 60),
        ([("checkingDL", 0.0)], 60),
        ([("checkingUP", 0.0), ("checkingUP", 0.1)], 110),
        ([("stoppedUP", 1.0), ("checkingUP", 0.0)], 110),
        ([("checkingUP", 0.0), ("stoppedUP", 1.0), ("checkingUP", 0.0)], 160),
        ([("moving", 0.0)], None),
        ([("stoppedUP", 1.0)], None),
        pytest.param([("checkingResumeData", 0.0)], None, id="a start, of thousands of torrents"),
    ],
)
def test_a_check_stands_still_when_it_shows_no_progress_for_long(
    shown: list[tuple[str, float]], at_s: int | None
) -> None:
    """Each is shown for 50 s, the last one on and on."""
    standstill = relocation_watch._Standstill(60)
    found = [
        at
        for at in range(0, 300, 10)
        if standstill.lasts(poll(at, *shown[min(at // 50, len(shown) - 1)]))
    ]
    assert found[:1] == ([] if at_s is None else [at_s])
    assert len(found) <= 4, "it is told so again only after as long a time"


@pytest.mark.parametrize(
    ("other", "woken"),
    [
        pytest.param({"state": "checkingUP", "progress": 0.4}, False, id="waits its turn"),
        pytest.param({"state": "checkingUP", "progress": 0.0}, True, id="neither gets on"),
        pytest.param({"state": "stalledUP", "progress": 1.0}, True, id="alone"),
    ],
)
async def test_a_check_is_begun_anew_only_when_no_other_one_gets_on(
    tmp_path: Path,
    fake: FakeQbittorrent,
    autojump_clock: MockClock,
    other: dict[str, object],
    woken: bool,
) -> None:
    id_, watch = add(fake, tmp_path, "T"), TorrentWatch(fake, str)
    fake.change(id_, state="checkingUP", progress=0.0)
    fake.change(add(fake, tmp_path, "other"), **other)
    assert (await wakes_at_s(watch, id_) != []) == woken


async def test_a_check_that_has_just_begun_is_not_begun_anew(
    tmp_path: Path, fake: FakeQbittorrent, autojump_clock: MockClock
) -> None:
    """The one before it has just ended, and its own progress is not shown yet."""
    id_, watch = add(fake, tmp_path, "T"), TorrentWatch(fake, str)
    fake.change(id_, state="checkingUP", progress=0.0)

    async def begin(name: str) -> None:
        if name == "torrents":
            fake.change(id_, progress=0.01)

    fake.before = begin
    found = await wakes_at_s(watch, id_)
    assert found == pytest.approx([2 * STANDSTILL_S + NOT_DUE_S], abs=60), "not at the first look"


async def wakes_at_s(watch: TorrentWatch, id_: TorrentId) -> list[float]:
    """When a check was begun anew, in a little more than twice the time that it is given."""
    began_s, found = trio.current_time(), []

    async def wake() -> None:
        found.append(trio.current_time() - began_s)

    def judge(polls: Sequence[Poll], **_: object) -> Event | None:
        return Event.FAIL if polls[-1].at_s - began_s > 2.1 * STANDSTILL_S else None

    await watch.judged(replace(RELOCATION, torrent_id=id_), judge, "/", wake=wake)
    return found
