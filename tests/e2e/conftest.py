"""What several end-to-end tests use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.qbt import Qbt, free_port, running
from tests.rig.service import Service


@pytest.fixture(scope="module")
def qbt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Qbt]:
    """A real qBittorrent for a file of tests."""
    with running(tmp_path_factory.mktemp("qbt")) as running_one:
        yield running_one


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service with no qBittorrent, not started."""
    service = Service(tmp_path / "service", f"http://127.0.0.1:{free_port()}")
    yield service
    service.kill()
    service.http.close()
