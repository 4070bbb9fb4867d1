"""Keep contact with qBittorrent: notice that it is back, and wake who waits for it."""

from __future__ import annotations

import logging
import random

import trio

from ..core.client import QbittorrentClient
from ..core.errors import QbittorrentError
from ..core.model import WaitReason
from .waits import Waits

log = logging.getLogger(__name__)

IDLE_S = 60.0
LONGEST_S = 30.0


async def keep_contact(client: QbittorrentClient, waits: Waits) -> None:
    """Ask for the version: each minute while all is well, more often while it is not.

    Runs until cancelled. While qBittorrent is away this is the only task that calls it.
    """
    failures = 0
    was_reachable = False
    while True:
        try:
            app, web_api = await client.version()
        except QbittorrentError as error:
            if failures == 0:
                log.error("qBittorrent: %s", error)
            failures += 1
            was_reachable = False
            await trio.sleep(min(LONGEST_S, 2.0 ** min(failures - 1, 10)) * random.uniform(0.5, 1))
        else:
            if not was_reachable:
                log.info("qBittorrent %s (Web API %s) answers", app, web_api)
            failures, was_reachable = 0, True
            waits.wake(WaitReason.QBITTORRENT)
            await _until_lost(client)


async def _until_lost(client: QbittorrentClient) -> None:
    """Return after `IDLE_S`, or soon after another task's call has failed."""
    with trio.move_on_after(IDLE_S):
        while client.contact.reachable:
            await trio.sleep(1.0)
