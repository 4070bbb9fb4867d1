"""Both real qBittorrents, each with disks of its own, and what is tried on them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from tests.rig.disks import real_qbittorrent, shared_place
from tests.rig.qbt import Qbt
from tests.rig.relocations import SPED_UP, OnBoth, Scenario, world


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a module's disks are."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    with shared_place(tmp_path_factory.mktemp("place")) as folder:
        yield folder


@pytest.fixture(scope="module")
def qbts(place: Path) -> Iterator[dict[str, Qbt]]:
    """Both real versions."""
    with ExitStack() as stack:
        yield {
            version: stack.enter_context(real_qbittorrent(version, place))
            for version in ("4.5.2", "5.1.0")
        }


@pytest.fixture
def on_both(
    place: Path,
    qbts: dict[str, Qbt],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> OnBoth:
    """Plays a scenario on both versions, at the same time: each of them mostly waits."""
    for name, value in SPED_UP.items():
        monkeypatch.setattr(name, value)

    async def play(version: str, scenario: Scenario) -> None:
        try:
            async with world(place / f"{request.node.name} {version}", qbts[version]) as made:
                await scenario(made)
        except BaseException as error:
            error.add_note(f"with qBittorrent {version}")
            raise

    async def play_both(scenario: Scenario) -> None:
        async with trio.open_nursery() as nursery:
            for version in qbts:
                nursery.start_soon(play, version, scenario)

    return play_both
