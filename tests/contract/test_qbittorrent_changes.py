"""What has changed among all torrents is told alike by two real qBittorrents and the fake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import trio

from qbm_trio.core.model import TorrentId
from qbm_trio.core.snapshot import Changes, Snapshot, apply
from tests.contract.relocating import stop
from tests.contract.subjects import KINDS, REAL, Subject, subject_of

LIMIT_S = 20.0


@pytest.fixture(params=[*REAL, "fake", "old fake"])
def subject(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Subject]:
    with subject_of(request.param, tmp_path_factory.mktemp("qbittorrent")) as subject:
        yield subject


@dataclass
class Listener:
    """Asks what has changed, and keeps the snapshot of it."""

    subject: Subject
    snapshot: Snapshot

    async def ask(self, since: int | None = None) -> Changes:
        number = self.snapshot.number if since is None else since
        changes = await self.subject.client.changes(number)
        self.snapshot = apply(self.snapshot, changes, now_s=0.0).snapshot
        return changes

    async def until(self, condition: Callable[[Snapshot], object]) -> Changes:
        """The answer with which it is so: qBittorrent renews what it says now and then."""
        with trio.fail_after(LIMIT_S):
            while True:
                changes = await self.ask()
                if condition(self.snapshot):
                    return changes
                await trio.sleep(0.02)


@pytest.fixture
def listener(subject: Subject) -> Listener:
    return Listener(subject, Snapshot())


async def test_the_first_answer_is_whole_and_as_the_list_of_all(listener: Listener) -> None:
    subject = listener.subject
    for kind in KINDS:
        subject.add({"dir/a": 50_000, "dir/b": 70_000}, kind, category=kind)
    changes = await listener.ask()
    assert changes.whole
    assert list(listener.snapshot.torrents.values()) == sorted(
        await subject.client.torrents(), key=lambda t: list(listener.snapshot.torrents).index(t.id)
    )
    assert subject.client.requests == subject.client.lists_asked


async def test_later_answers_name_what_is_new_changed_and_removed_and_nothing_else(
    listener: Listener,
) -> None:
    subject = listener.subject
    first, _, _ = subject.add({"first": 9})
    second, _, _ = subject.add({"second": 9})
    await listener.ask()
    third, _, _ = subject.add({"third": 9})
    added = await listener.until(lambda s: third in s.torrents)
    assert not added.whole
    assert (set(added.torrents), added.removed) == ({third}, frozenset())

    await subject.client.add_tags([first], {"mine"})
    tagged = await listener.until(lambda s: s.torrents[first].tags == {"mine"})
    assert tagged.torrents == {first: {"tags": {"mine"}}}

    await stop(subject, second)
    await listener.until(lambda s: s.torrents[second].state in ("pausedUP", "stoppedUP"))

    _remove(subject, third)
    removed = await listener.until(lambda s: third not in s.torrents)
    assert not removed.whole
    assert removed.removed == {third}
    assert not removed.torrents

    nothing = await listener.ask()
    assert not nothing.whole
    assert not nothing.torrents
    assert not nothing.removed
    listed = {torrent.id: torrent for torrent in await subject.client.torrents()}
    assert listed == listener.snapshot.torrents


async def test_the_same_question_again_has_the_same_answer(listener: Listener) -> None:
    """The first answer may have been lost on its way."""
    subject = listener.subject
    id, _, _ = subject.add({"asked": 9})
    await listener.ask()
    since = listener.snapshot.number
    await subject.client.add_tags([id], {"mine"})
    await listener.until(lambda s: s.torrents[id].tags == {"mine"})
    again = await listener.ask(since=since)
    assert again.whole or again.torrents[id]["tags"] == {"mine"}


async def test_after_a_restart_everything_is_told_whatever_was_asked_for(
    listener: Listener,
) -> None:
    subject = listener.subject
    ids = {subject.add({f"kept {n}": 9})[0] for n in range(3)}
    gone, _, _ = subject.add({"gone": 9})
    for _ in range(3):
        await listener.ask()
    if subject.qbt is not None:
        _remove(subject, gone)
        subject.qbt.stop()
        subject.qbt.start()
    else:
        assert subject.fake is not None
        subject.fake.remove(gone)
        subject.fake.restart()
    changes = await listener.ask()
    assert changes.whole
    await listener.until(lambda s: set(s.torrents) == ids)  # 5.1 reads them one after another
    assert set(listener.snapshot.absent) == {gone}


async def test_each_hash_of_what_was_told_is_known_without_a_call(listener: Listener) -> None:
    subject = listener.subject
    ids = [subject.add({"dir/a": 50_000, "dir/b": 70_000}, kind)[0] for kind in KINDS]
    assert subject.client.known(ids[0]) is None
    await listener.ask()
    later, _, _ = subject.add({"later/a": 50_000, "later/b": 70_000}, "hybrid")
    await listener.until(lambda s: later in s.torrents)
    requests = subject.client.requests
    for id in [*ids, later]:
        torrent = listener.snapshot.torrents[id]
        assert [subject.client.known(hash) for hash in torrent.hashes] == [id] * len(torrent.hashes)
    assert subject.client.requests == requests


def _remove(subject: Subject, id: TorrentId) -> None:
    if subject.fake is not None:
        subject.fake.remove(id)
        return
    assert subject.qbt is not None
    subject.qbt.api.torrents_delete(delete_files=False, torrent_hashes=id)
