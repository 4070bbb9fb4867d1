"""The service ends, whatever hangs: after a bug, and with more to save than there is time for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from qbm_trio import service as service_module
from qbm_trio.adapters import recovery_point
from qbm_trio.adapters.journal import Journal
from qbm_trio.service import Service
from qbm_trio.settings.loading import load
from qbm_trio.tasks.shutdown import Shutdown

ROOT = Path(__file__).parents[2]

A_BUG_WHILE_A_DISK_HANGS = """
import os, time, trio
from qbm_trio import service
from qbm_trio.settings.loading import load

hangs = trio.Event()

async def hang(*_):
    hangs.set()
    await trio.to_thread.run_sync(time.sleep, 60, limiter=trio.CapacityLimiter(1))

async def trip(*_):
    await hangs.wait()
    raise ZeroDivisionError("a bug")

service.keep_contact, service.keep_house = hang, trip
service.main(load(dict(os.environ))[0])
"""


def an_environment(folder: Path) -> dict[str, str]:
    for name in ("ssd", "hdd"):
        (folder / name).mkdir()
    return {
        "CONFIG_BASE": str(folder),
        "DOWNLOAD_PATH_SSD": str(folder / "ssd"),
        "FINAL_DEST_BASE_HDD": str(folder / "hdd"),
        "HTTP_ENABLED": "false",
        "QBIT_HOST": "http://127.0.0.1:9",
        "SHUTDOWN_GRACE_S": "1",
    }


def test_after_a_bug_a_hung_thread_does_not_keep_the_process(tmp_path: Path) -> None:
    began = time.monotonic()
    child = subprocess.run(
        [sys.executable, "-c", A_BUG_WHILE_A_DISK_HANGS],
        env=os.environ | an_environment(tmp_path),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert child.returncode == 70, child.stderr
    assert "ZeroDivisionError: a bug" in child.stdout, "it says why"
    assert time.monotonic() - began < 10


async def test_a_recovery_point_that_takes_too_long_does_not_cost_the_clean_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = load(an_environment(tmp_path))[0]
    monkeypatch.setattr(service_module, "SAVED_S", -0.9)  # of the grace of 1 s, 0.1 are left
    endless = recovery_point._Page(texts=["{}"], files=0, last="x")
    monkeypatch.setattr(recovery_point, "_copies", lambda *_, **__: endless)
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    journal = Journal.open(settings.state_dir)
    stop = Shutdown(whole_s=60)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(journal.run, trio.CapacityLimiter(1))
            service = await Service.assemble(settings, journal)
            service._workers_ended.set()
            stop.signum = 15
            await service.drain(stop)
    assert stop.saved
    assert "no time for a recovery point" in caplog.text
    assert not list(settings.state_dir.glob(".*"))
