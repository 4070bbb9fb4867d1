"""A qBittorrent that forgets what it did last: killed, it comes back as it had saved itself."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable

from tests.rig.qbt import Qbt


def remember(qbt: Qbt) -> Callable[[], None]:
    """Give what brings qBittorrent back to how it is now, as if it had saved nothing since."""
    saved = qbt.folder / "profile/qBittorrent/data/BT_backup"
    kept = qbt.folder / "BT_backup.kept"
    qbt.stop()  # in order, so that all is saved
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(saved, kept)
    qbt.start()

    def forget() -> None:
        qbt.stop(signal.SIGKILL)
        shutil.rmtree(saved)
        shutil.copytree(kept, saved)
        qbt.start()

    return forget
