"""Without any notification: what finishes is found, what is removed ends, on real qBittorrents."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.rig.inside import put
from tests.rig.library import sha256
from tests.rig.qbt import Chroot, Installed, Qbt, running
from tests.rig.service import Service, serving

pytestmark = pytest.mark.qbittorrent

INTERVAL_S = 2.0
WORK_S = 10.0  #: a look and a copy, on a busy machine
WITHIN_S = 30.0
SIZES = {"a": 40_000, "sub/b": 50_000}


@pytest.fixture(scope="module", params=["4.5.2", "5.1.0"])
def qbt(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Qbt]:
    root = tmp_path_factory.mktemp("qbt")
    with running(root, launcher=Installed() if request.param == "4.5.2" else Chroot(root)) as qbt:
        yield qbt


@pytest.fixture
def root(qbt: Qbt, request: pytest.FixtureRequest) -> Path:
    """Below what both qBittorrents see under the same path."""
    return qbt.folder / str(request.node.name)


def copied(service: Service, name: str) -> bool:
    """Whether all of a torrent's files are on the HDD as they are on the SSD."""
    return all(
        (service.hdd / "tv" / name / file).exists()
        and sha256(service.hdd / "tv" / name / file) == sha256(service.ssd / "tv" / name / file)
        for file in SIZES
    )


def test_a_torrent_whose_hook_was_lost_is_found_within_one_interval_also_without_http(
    qbt: Qbt, root: Path
) -> None:
    env = {"HTTP_ENABLED": "false", "RECONCILE_INTERVAL_S": str(INTERVAL_S)}
    with serving(root, qbt.url, **env) as service:
        assert "HTTP_ENABLED" not in service.output()
        for name in ("First", "Second", "Third"):  # not all of them at its first look
            put(qbt, service.ssd / "tv", name, SIZES, category="tv")
            began_s = time.monotonic()
            service.wait_for(partial(copied, service, name), f"{name} is copied", WITHIN_S)
            assert time.monotonic() - began_s < INTERVAL_S + WORK_S
        assert service.output().count("never notified") == 3


def test_the_job_of_a_torrent_that_is_removed_ends_and_its_staging_goes(
    qbt: Qbt, root: Path
) -> None:
    env = {"RECONCILE_INTERVAL_S": str(INTERVAL_S), "COPY_RATE_LIMIT_MB_S": "0.5"}
    with serving(root, qbt.url, **env) as service:
        one = put(qbt, service.ssd / "tv", "Removed", {"a": 20_000_000}, category="tv")
        job_id = service.notify(one.id).json()["queue_id"]
        staging = service.hdd / ".qbm-staging"
        service.wait_for(
            lambda: any(path.is_file() for path in staging.glob(f"*/{job_id}/**/*")),
            "it is being copied",
        )
        qbt.api.torrents_delete(delete_files=False, torrent_hashes=one.id)
        job = service.wait_for_job(job_id, "cancelled", limit_s=WITHIN_S)
        assert job["error_code"] == "torrent_removed"
        assert "was removed from qBittorrent" in job["error"]
        service.wait_for(
            lambda: not list(staging.glob(f"*/{job_id}")), "its staging is gone", WITHIN_S
        )
        assert not (service.hdd / "tv").exists()
        assert (service.ssd / "tv/Removed/a").exists()
