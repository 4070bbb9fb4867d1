"""What every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings

from tests.rig.mounts import mounted

# A busy machine is no failure.
hypothesis_settings.register_profile("qbm", deadline=None)
hypothesis_settings.load_profile("qbm")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The least that the settings ask for, with two tiers and a place for the state."""
    for name in ("ssd", "hdd", "config"):
        (tmp_path / name).mkdir()
    return {
        "HTTP_API_KEY": "0123456789abcdef" * 2,
        "HTTP_PORT": "0",
        "DOWNLOAD_PATH_SSD": str(tmp_path / "ssd"),
        "FINAL_DEST_BASE_HDD": str(tmp_path / "hdd"),
        "CONFIG_BASE": str(tmp_path / "config"),
    }


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    with mounted(tmp_path / "disk", size="512k") as disk:
        yield disk


def pytest_sessionfinish(session: pytest.Session) -> None:
    """CI is root and has everything installed: a test that it skips is a test that is lost."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not os.environ.get("CI"):
        return
    skipped = reporter.stats.get("skipped", [])
    if skipped and session.exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"{len(skipped)} tests were skipped, which CI must not", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
