"""What is configured reaches the part that obeys it."""

from __future__ import annotations

import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import requests

from qbm_trio.adapters.copying import CopyOptions
from qbm_trio.adapters.disk import MARKER_NAME
from qbm_trio.core.errors import QbittorrentUnreachable
from qbm_trio.core.model import Verification, WaitReason
from qbm_trio.core.roots import Roots
from qbm_trio.service import Service
from qbm_trio.settings import load
from qbm_trio.tasks import tiers
from qbm_trio.tasks.tiering import Policy
from tests.fakes.qbittorrent import FakeQbittorrent
from tests.fakes.web_server import Reply, Seen, serving
from tests.rig.inside import condition, inside
from tests.rig.journals import running
from tests.rig.qbt import free_port
from tests.rig.service import serving as service_running


@asynccontextmanager
async def wired(environ: dict[str, str], **env: str) -> AsyncIterator[Service]:
    """The parts for these settings, wired together and not started."""
    settings, _ = load(environ | env)
    settings.state_dir.mkdir()
    async with running(settings.state_dir) as journal:
        yield Service(settings, journal, "an-instance")


async def test_every_setting_of_the_work_reaches_its_part(environ: dict[str, str]) -> None:
    async with wired(
        environ,
        PATH_MAPPINGS="/theirs=/ours",
        MAX_CONCURRENT_COPY_OPERATIONS="2",
        COPY_OPERATION_NICE_LEVEL="7",
        COPY_RATE_LIMIT_MB_S="1.5",
        VERIFICATION="readback",
        SSD_LOCATION_TAG="fast",
        HDD_LOCATION_TAG="large",
        QUEUE_CAPACITY="12",
        MAX_CONCURRENT_PROCESSES="5",
        COPY_RETRY_ATTEMPTS="6",
        HDD_MIN_FREE_GB="4",
        DISK_SPACE_THRESHOLD_GB="8",
        DISK_SPACE_TARGET_GB="9",
        DRY_RUN="true",
    ) as service:
        overview = await service.observer.overview()
        ssd, hdd = Path(environ["DOWNLOAD_PATH_SSD"]), Path(environ["FINAL_DEST_BASE_HDD"])
        assert service.tiering._policy == Policy(
            roots=Roots(ssd=ssd, hdd=hdd, path_mappings=(("/theirs", "/ours"),)),
            copies_at_once=2,
            copy_options=CopyOptions(
                verification=Verification.READBACK, nice=7, rate_limit_bytes_per_s=1_500_000
            ),
            tags=("fast", "large"),
        )
        assert (overview.ssd.path, overview.hdd.path) == (str(ssd), str(hdd))
        assert overview.queue.capacity == 12
        assert overview.max_concurrent == 5
        assert service.workers._attempts_allowed == 6
        assert service.tiers._hdd_min_free_bytes == 4 * 10**9
        assert service.tiers.instance_id == "an-instance"
        assert service.tiers._read_only
        assert (overview.threshold_bytes, overview.target_bytes) == (8 * 10**9, 9 * 10**9)
        assert overview.dry_run


@pytest.mark.parametrize("switch", ["ENABLE_LOCATION_TAGGING", "AUTO_TAG_NEW_TORRENTS"])
async def test_either_switch_turns_tagging_off(environ: dict[str, str], switch: str) -> None:
    async with wired(environ, **{switch: "false"}) as service:
        assert service.tiering._policy.tags is None


async def test_the_login_goes_to_the_configured_qbittorrent(environ: dict[str, str]) -> None:
    def answer(seen: Seen) -> Reply:
        if seen.path.endswith("/auth/login"):
            return Reply(body=b"Ok.", headers={"set-cookie": "SID=1; path=/"})
        return (
            Reply(body=b"v5.1.0")
            if "SID=1" in seen.headers.get("cookie", "")
            else Reply(status=403)
        )

    login = {"QBIT_USERNAME": "someone", "QBIT_PASSWORD": "a password"}
    with serving(answer) as server:
        async with wired(
            environ, QBIT_HOST="127.0.0.1", QBIT_PORT=str(server.port), **login
        ) as service:
            await service.client.version()
            logins = [seen.form for seen in server.seen if seen.path.endswith("/auth/login")]
            assert logins == [{"username": "someone", "password": "a password"}]


async def test_the_api_key_goes_to_the_configured_qbittorrent(environ: dict[str, str]) -> None:
    with serving(lambda _: Reply(body=b"v5.2.0")) as server:
        async with wired(environ, QBIT_HOST=server.url, QBIT_API_KEY="qbt_a-key") as service:
            await service.client.version()
        assert {seen.headers.get("authorization") for seen in server.seen} == {"Bearer qbt_a-key"}


@pytest.mark.parametrize("wanted", [True, False])
async def test_qbittorrents_certificate_is_checked_unless_told_otherwise(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    checked: list[object] = []

    def send(*_: object, verify: object, **__: object) -> requests.Response:
        checked.append(verify)
        raise requests.ConnectionError

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    given = {} if wanted else {"QBIT_VERIFY_SSL": "false"}
    async with wired(environ, QBIT_HOST="https://nas:8443", **given) as service:
        with pytest.raises(QbittorrentUnreachable):
            await service.client.version()
    assert set(checked) == {wanted}


def test_the_process_takes_all_the_open_files_that_it_may_have(tmp_path: Path) -> None:
    _, hard = before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))  # the child inherits it
        with service_running(tmp_path, f"http://127.0.0.1:{free_port()}") as service:
            assert service.process is not None
            now = resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert now[0] == (65536 if hard == resource.RLIM_INFINITY else min(65536, hard))


@pytest.mark.parametrize("disk", ["there", "away at the start"])
async def test_the_staging_of_jobs_that_are_gone_is_removed_once_the_disk_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: str
) -> None:
    monkeypatch.setattr(tiers, "PROBE_INTERVAL_S", 0.05)
    async with inside(tmp_path, client=FakeQbittorrent()) as service:
        await condition(lambda: service.service.tiers.hdd.marker)
        staging = service.hdd / ".qbm-staging"
        own = staging / service.service.tiers.instance_id
        alive = await service.waits(await service.notify("ab" * 20))
    others = staging / "another-instance" / "its-job"
    for folder in (own / "gone-job", own / alive.id, others):
        folder.mkdir(parents=True)
        (folder / "partial").write_bytes(b"data")
    marker, kept = service.hdd / MARKER_NAME, tmp_path / "kept"
    if disk != "there":
        marker.rename(kept)
    async with inside(tmp_path, client=FakeQbittorrent()) as service:
        if disk != "there":
            job = await service.waits(await service.notify("cd" * 20))  # jobs run, so it began
            assert job.wait_reason is WaitReason.TIER
            assert (own / "gone-job" / "partial").exists()
            kept.rename(marker)
        await condition(lambda: not (own / "gone-job").exists())
    assert (own / alive.id / "partial").exists()
    assert (others / "partial").exists()
