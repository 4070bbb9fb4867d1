"""A torrent whose files are not where they were: two real qBittorrents, and the fake, do alike."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from qbm_trio.core.model import TorrentId
from qbm_trio.core.readiness import MISSING_FILES
from tests.contract.relocating import always, stopped, until
from tests.contract.subjects import REAL, Subject, subject_of

SIZES = {"dir/a": 300_000, "dir/sub/b": 70_000}
LOOKS = "checkingResumeData"  #: for a moment, when it is started or moved


@pytest.fixture(scope="module", params=[*REAL, "fake", "old fake"])
def subject(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Subject]:
    with subject_of(request.param, tmp_path_factory.mktemp("qbittorrent")) as subject:
        yield subject


@pytest.fixture(scope="module")
def missing(subject: Subject) -> Iterator[list[tuple[TorrentId, Path]]]:
    """Three torrents, and where their files really are. Each test takes one away."""
    places = {id: ssd for id, ssd, _ in (subject.add(SIZES) for _ in range(3))}
    yield list(subject.lose(places).items())
    if subject.qbt is not None:
        subject.qbt.stop(signal.SIGKILL)  # told to end, 4.5.2 sometimes takes twenty seconds


@pytest.mark.parametrize("stops", [True, False], ids=["stopped", "started"])
async def test_it_says_so_until_it_is_told_where_they_are(
    subject: Subject, missing: list[tuple[TorrentId, Path]], stops: bool
) -> None:
    """Stopped, it takes them for whole then, or (5.1, sometimes) waits for a check."""
    client, (id, hdd) = subject.client, missing.pop()
    await (client.stop if stops else client.start)(id)
    await always(subject, id, lambda torrent: torrent.state in (MISSING_FILES, LOOKS))
    await client.set_location(id, str(hdd))
    up, down = await stopped(subject, True), await stopped(subject, False)
    states = {up: 1, down: 0} if stops else {"stalledUP": 1}
    torrent = await until(subject, id, lambda torrent: torrent.state in states)
    assert torrent.progress == states[torrent.state]
    assert torrent.content_path == str(hdd / "dir")


async def test_after_a_check_it_is_stopped_and_has_nothing(
    subject: Subject, missing: list[tuple[TorrentId, Path]]
) -> None:
    """It is no longer called missing: started, it would download all of it."""
    id, _ = missing.pop()
    await subject.client.stop(id)
    await subject.client.recheck(id)
    state = await stopped(subject, False)
    torrent = await until(subject, id, lambda torrent: torrent.state == state)
    assert (torrent.progress, torrent.amount_left_bytes) == (0, sum(SIZES.values()))
