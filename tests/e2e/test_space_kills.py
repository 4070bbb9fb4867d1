"""``kill -9`` of the service at every step of a relocation, before it and after it.

On each real qBittorrent all services live beside each other, each with tiers and a torrent
of its own: it takes a fifth of the time, and one qBittorrent moves and checks for many.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from qbm_trio.core.relocation import Step
from qbm_trio.core.space import RELOCATING_TAG
from tests.rig.inside import put
from tests.rig.library import sha256
from tests.rig.mounts import in_memory
from tests.rig.qbt import Chroot, Installed, Launcher, Qbt, running
from tests.rig.service import Service

pytestmark = [pytest.mark.qbittorrent, pytest.mark.slow]

AT_ONCE = 6
ADDING = threading.Lock()  #: which torrent is the new one, is told by what was there before
SIZES = {"a": 40_000, "sub/b": 50_000}
LIMIT_S = 120.0
RUNNING = {"stalledUP", "uploading", "queuedUP", "forcedUP"}
STOPPED = {"pausedUP", "stoppedUP"}
THERE = (
    Step.PREPARING, Step.STOPPING, Step.REPOINTING, Step.CHECKING, Step.RESTORING, Step.WAITING,
    Step.DELETING,
)  # fmt: skip
BACK = (Step.RETURNING, Step.RECHECKING, Step.UNDOING)
UNDONE = (Step.PREPARING, Step.STOPPING, Step.REPOINTING)  #: by the next start


@dataclass(frozen=True)
class Case:
    """Where the service is killed. Back is where a relocation goes whose copy is bad."""

    step: Step
    when: str  #: see `tests.rig.die_at`
    stopped: bool  #: by its user, before

    def __str__(self) -> str:
        return f"{self.step}-{self.when}{'-stopped' if self.stopped else ''}"


CASES = [Case(step, when, False) for step in (*THERE, *BACK) for when in ("recorded", "done")]
CASES += [Case(Step.STOPPING, "done", True), Case(Step.CHECKING, "recorded", True)]


@pytest.fixture(scope="module", params=["4.5.2", "5.1.0"])
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Case, BaseException | None]]:
    """What each case ended with: None, or why it is no success."""
    root = tmp_path_factory.mktemp("kills")
    launcher: Launcher = Installed() if request.param == "4.5.2" else Chroot(shared=root)
    found: dict[Case, BaseException | None] = {}
    with running(root / "qbt", launcher=launcher) as qbt:

        async def all_cases() -> None:
            limiter = trio.CapacityLimiter(AT_ONCE)
            async with trio.open_nursery() as nursery:
                for case in CASES:
                    nursery.start_soon(one, case, limiter)

        async def one(case: Case, limiter: trio.CapacityLimiter) -> None:
            call = partial(survives, root / str(case), qbt, case)
            try:
                await trio.to_thread.run_sync(call, limiter=limiter)
            except Exception as error:
                found[case] = error
            else:
                found[case] = None

        trio.run(all_cases)
        yield found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_kill_at_any_step_leaves_the_torrent_as_it_ran_and_whole(
    outcomes: dict[Case, BaseException | None], case: Case
) -> None:
    error = outcomes[case]
    if error is not None:
        raise error


def survives(root: Path, qbt: Qbt, case: Case) -> None:
    """Relocate, be killed, start again; all must be well then."""
    env = {"DELETE_GRACE_S": "0", "DISK_SPACE_THRESHOLD_GB": "0.0001"}
    with in_memory() as ssd:
        service = Service(root, qbt.url, env, ssd=ssd)
        try:
            _survives(service, qbt, case)
        finally:
            service.kill()
            service.http.close()


def _survives(service: Service, qbt: Qbt, case: Case) -> None:
    name = str(case)
    with ADDING:
        one = put(qbt, service.ssd / "tv", name, SIZES, seed=CASES.index(case))
    folder = service.ssd / "tv" / name
    content = {path: sha256(path) for path in folder.rglob("*") if path.is_file()}
    copies = {service.hdd / path.relative_to(service.ssd / "tv"): h for path, h in content.items()}
    if case.stopped:
        qbt.api.torrents_stop(torrent_hashes=one.id)
        qbt.wait_for(lambda: qbt.info(one.id)["state"] in STOPPED, "it is stopped", LIMIT_S)
    service.start()
    service.wait_for_job(service.notify(one.id).json()["queue_id"], "done", limit_s=LIMIT_S)
    service.stop()
    bad = case.step in BACK
    if bad:
        _spoil(next(path for path in copies if path.name == "b"))

    service.module = "tests.rig.die_at"
    # Of the disk that the tests are on; it makes every SSD short.
    service.env |= {"DISK_SPACE_THRESHOLD_GB": "1000000", "QBM_DIE_AT": f"{case.step}:{case.when}"}
    process = service.launch()
    qbt.wait_for(lambda: process.poll() is not None, "the service is killed", LIMIT_S)
    assert process.returncode == -signal.SIGKILL, service.output()
    service.process = None

    service.module = "qbm_trio"
    undone = bad or case.step in UNDONE
    if undone:  # else the run at the start would do it once more, and well
        service.env["DISK_SPACE_THRESHOLD_GB"] = "0.0001"
    service.start()
    place = service.ssd if undone else service.hdd
    states = STOPPED if case.stopped else RUNNING

    def settled() -> dict[str, Any] | None:
        said = qbt.info(one.id)
        there = Path(said["content_path"]).is_relative_to(place)
        right = said["state"] in states and said["progress"] == 1 and there
        return said if right and RELOCATING_TAG not in said["tags"] else None

    service.wait_for(settled, f"it is well again: {qbt.info(one.id)}", LIMIT_S)
    left = content if undone else {}
    service.wait_for(
        lambda: {path: sha256(path) for path in content if path.exists()} == left,
        "only what is to be is on the SSD",
        LIMIT_S,
    )
    if bad:  # made anew; the bad one is kept beside it
        service.wait_for(
            lambda: all(path.exists() and sha256(path) == h for path, h in copies.items()),
            "the copy is made anew",
            LIMIT_S,
        )
    assert {path: sha256(path) for path in copies} == copies


def _spoil(copy: Path) -> None:
    """Other bytes under the same size and time."""
    status, data = copy.stat(), bytearray(copy.read_bytes())
    data[7] ^= 0xFF
    copy.write_bytes(data)
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
