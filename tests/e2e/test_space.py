"""Runs of space management on real qBittorrents and small real disks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.rig.inside import Put, put
from tests.rig.library import MARKER, sha256
from tests.rig.mounts import mounted
from tests.rig.qbt import Chroot, Installed, Launcher, Qbt, running
from tests.rig.service import Service
from tests.rig.trees import below

pytestmark = pytest.mark.qbittorrent

MB = 1_000_000
SIZES = {"a": 5 * MB, "sub/b": 2 * MB}
RUNNING = {"stalledUP", "uploading", "queuedUP", "forcedUP"}


@pytest.fixture(params=["4.5.2", "5.1.0"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Service, Qbt]]:
    """A service on an SSD of 40 MB that is short of space below 20 MB; not started yet."""
    with ExitStack() as stack:
        service = Service(
            tmp_path / "service",
            "",
            {
                "DISK_SPACE_THRESHOLD_GB": "0.001",
                "DISK_SPACE_TARGET_GB": "0.025",
                "DELETE_GRACE_S": "0",
                "SPACE_CHECK_INTERVAL_S": "86400",
            },
        )
        stack.enter_context(mounted(service.ssd, size="40m"))
        stack.enter_context(mounted(service.hdd, size="80m"))
        launcher: Launcher = Installed()
        if request.param == "5.1.0":
            launcher = Chroot(shared=request.getfixturevalue("tmp_path_factory").getbasetemp())
        qbt = stack.enter_context(running(tmp_path / "qbt", launcher=launcher))
        service.qbittorrent_url = qbt.url
        stack.callback(service.http.close)
        stack.callback(service.kill)
        yield service, qbt


def later_than(at: float) -> bool:
    return time.time() >= at


def shelf(service: Service, qbt: Qbt, count: int) -> list[Put]:
    """Torrents of 7 MB each, oldest first: none completed in the same second."""
    made: list[Put] = []
    for n in range(count):
        one = put(qbt, service.ssd / "tv", f"T{n}", SIZES, category="tv", seed=n)
        # 5.1 says -1 while it looks at what it was given.
        at = qbt.wait_for(partial(completed_at, qbt, one), "its completion is known")
        qbt.wait_for(partial(later_than, at + 1), "the next second")
        made.append(one)
    return made


def completed_at(qbt: Qbt, one: Put) -> float:
    return max(0.0, float(qbt.info(one.id)["completion_on"]))


def tier(service: Service, made: list[Put]) -> None:
    """Copy them to the HDD."""
    for job in [service.notify(one.id).json()["queue_id"] for one in made]:
        service.wait_for_job(job, "done")


def status(service: Service) -> dict[str, Any]:
    answer = service.http.get("/status")
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def ended(service: Service, run_id: str) -> dict[str, Any]:
    def there() -> dict[str, Any] | None:
        last: dict[str, Any] | None = status(service)["space"]["last_run"]
        return last if last is not None and last["id"] == run_id else None

    return service.wait_for(there, f"run {run_id} has ended", 120)


def run_now(service: Service) -> dict[str, Any]:
    """Trigger a run by hand; the figures when it has ended."""
    answer = service.http.post("/space-management/trigger")
    assert answer.status_code == 202, answer.text
    return ended(service, answer.json()["run_id"])


def seeds(qbt: Qbt, one: Put) -> bool:
    return qbt.info(one.id)["state"] in RUNNING


def place(qbt: Qbt, one: Put) -> Path:
    return Path(qbt.info(one.id)["content_path"])


def files(folder: Path) -> dict[Path, str]:
    return {
        path.relative_to(folder): sha256(path)
        for path in below(folder)
        if path.is_file() and path.name != MARKER
    }


def short_from_now_on(service: Service) -> None:
    """Start it again with a threshold that the SSD falls short of."""
    service.stop()
    service.env["DISK_SPACE_THRESHOLD_GB"] = "0.020"
    service.start()


def test_a_run_relocates_the_oldest_until_the_target_and_says_so(
    stage: tuple[Service, Qbt],
) -> None:
    service, qbt = stage
    made = shelf(service, qbt, 4)
    content = files(service.ssd)
    service.start()
    tier(service, made)
    short_from_now_on(service)
    figures = service.wait_for(lambda: status(service)["space"]["last_run"], "the run at start", 60)
    assert figures["by_hand"] is False
    assert (figures["relocated"], figures["failed_groups"], figures["problem"]) == (2, 0, None)
    assert figures["target_met"]
    assert figures["freed_bytes"] >= 14 * MB
    assert figures["spared"].keys() == {"target_met"}
    assert figures["spared"]["target_met"]["torrents"] == 2
    for n, one in enumerate(made):
        on = service.hdd if n < 2 else service.ssd
        assert place(qbt, one) == on / "tv" / f"T{n}"
        # What it says lags behind what it was told.
        qbt.wait_for(partial(seeds, qbt, one), "it seeds")
        assert qbt.info(one.id)["tags"] == ("hdd" if n < 2 else "hdd, ssd")
    assert files(service.hdd) == content
    assert files(service.ssd) == {p: h for p, h in content.items() if p.parts[1] in ("T2", "T3")}
    counted = status(service)["statistics"]
    assert counted["torrents_relocated"] == 2
    assert counted["bytes_freed"] == figures["freed_bytes"]
    assert counted["space_management_runs"] == 1
    again = run_now(service)
    assert (again["by_hand"], again["relocated"], again["target_met"]) == (True, 0, True)
    assert again["freed_bytes"] == 0
