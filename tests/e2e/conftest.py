"""What several end-to-end tests use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.rig.qbt import Qbt, running


@pytest.fixture(scope="module")
def qbt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Qbt]:
    """A real qBittorrent for a file of tests."""
    with running(tmp_path_factory.mktemp("qbt")) as running_one:
        yield running_one
