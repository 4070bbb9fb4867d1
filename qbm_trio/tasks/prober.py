"""Keep contact with qBittorrent: notice that it is back, and wake who waits for it."""

from __future__ import annotations

import logging
import random

import trio

from ..core.client import QbittorrentClient
from ..core.errors import QbittorrentError
from ..core.model import WaitReason
from ..core.retry import backoff_s
from .waits import Waits

log = logging.getLogger(__name__)

IDLE_S = 90.0
"""So long nobody may have asked qBittorrent anything. The reconciler asks each minute."""
LONGEST_S = 30.0


async def keep_contact(client: QbittorrentClient, waits: Waits) -> None:
    """Ask for the version when nobody else asks anything; more often while it is away.

    Runs until cancelled. While qBittorrent is away this is the only task that calls it.
    """
    failures = 0
    reachable = None
    while True:
        try:
            app, web_api = await client.version()
        except QbittorrentError as error:
            if reachable is not False:
                log.error("qBittorrent: %s", error)
            reachable = False
        else:
            if not reachable:
                log.info("qBittorrent %s (Web API %s) answers", app, web_api)
            reachable = True
            waits.wake(WaitReason.QBITTORRENT)
            idle = False
            while not idle:
                requests, sessions = client.requests, client.sessions
                # Goes on early when another task's call has failed.
                with trio.move_on_after(IDLE_S) as calm:
                    await client.wait_unreachable()
                if not calm.cancelled_caught:
                    break
                failures = 0
                # A new session may be one of another version.
                idle = client.requests == requests or client.sessions != sessions
            if idle:
                continue
        # Counted over a minute without calm, so that one call that always fails
        # does not wake every job, and make every call, again and again.
        failures += 1
        await trio.sleep(backoff_s(failures, jitter=random.random(), longest_s=LONGEST_S))
