"""Mount the disks of a world and start its programs; end all of it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.rig.qbt import Installed, Launcher, Qbt
from scripts.rig.service import Service
from tests.rig.disks import MIB, shared_place, two_disks
from tests.rig.qbt import Chroot

from .known import Ledger
from .plan import World
from .site import TARGET_BYTES, THRESHOLD_BYTES, Site
from .specs import CATEGORY_FOLDERS
from .tally import Tally

SSD_BYTES = 160 * MIB
HDD_BYTES = 256 * MIB
COPY_LIMIT_MB_S = 6  #: slow enough for a kill to come in the middle of a copy


@contextmanager
def built(
    place: Path,
    version: str,
    world: World,
    *,
    module: str,
    tally: Tally,
    log: Callable[[str], None],
    stop: threading.Event,
) -> Iterator[Site]:
    """Mount the disks and start the programs; end and unmount all of it afterwards."""
    with (
        shared_place(place),
        two_disks(place, ssd_bytes=SSD_BYTES, hdd_bytes=HDD_BYTES) as (ssd, hdd),
    ):
        launcher: Launcher = Installed() if version == "4.5.2" else Chroot(shared=place)
        qbt = Qbt(place / "qbittorrent", launcher=launcher)
        qbt.folder.mkdir()
        service = Service(
            folder=place / "config",
            ssd=ssd.at,
            hdd=hdd.at,
            qbittorrent_port=qbt.web_port,
            module=module,
            settings={
                "DISK_SPACE_THRESHOLD_GB": f"{THRESHOLD_BYTES / 1e9}",
                "DISK_SPACE_TARGET_GB": f"{TARGET_BYTES / 1e9}",
                "DELETE_GRACE_S": f"{world.delete_grace_s}",
                "SPACE_CHECK_INTERVAL_S": "1",
                "RECONCILE_INTERVAL_S": "2",
                "SHUTDOWN_GRACE_S": "1",
                "MAX_CONCURRENT_COPY_OPERATIONS": "2",
                "COPY_RATE_LIMIT_MB_S": f"{COPY_LIMIT_MB_S}",
                **{k: v for k, v in os.environ.items() if k.startswith("COVERAGE")},
            },
        )
        site = Site(
            place=place, ssd=ssd, hdd=hdd, qbt=qbt, service=service, ledger=Ledger(),
            tally=tally, log=log, stop=stop,
        )  # fmt: skip
        try:
            qbt.start()
            site.web.set_preferences(
                refresh_interval=world.refresh_ms,
                incomplete_files_ext=world.unfinished_names,
                temp_path_enabled=world.incomplete_folder,
                temp_path=str(ssd.at / "incomplete"),
            )
            for name, folder in CATEGORY_FOLDERS.items():
                site.web.post(
                    "torrents/createCategory", category=name, savePath=str(ssd.at / folder)
                )
            site.start_service()
            yield site
        finally:
            site.signal_qbittorrent(signal.SIGCONT)
            service.kill()
            qbt.stop(signal.SIGKILL)
