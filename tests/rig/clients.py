"""What the tests of HTTP clients wait for, and how such clients leave."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from qbm_trio.web.connection import Limits
from tests.rig.site import (
    DEADLINE_S,
    Site,
    StandIn,
    Wire,
    v1,
)

LANES = pytest.mark.parametrize("fast_lane", [True, False], ids=["lane", "app"])
QUICK = Limits(idle_s=0.2, head_s=0.2, body_s=0.2, linger_s=0.5, grace_s=0.3)


async def until_job(site: Site, n: int) -> None:
    """Wait until the torrent ``n`` has a job."""
    with trio.fail_after(DEADLINE_S):
        while True:
            answer = await site.call("GET", "/jobs?limit=500")
            if v1(n) in {job["hash"] for job in answer.json()["jobs"]}:
                return
            await trio.sleep(0.01)


async def true(condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds."""
    with trio.fail_after(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  # what it asks for has no event
            await trio.sleep(0.001)


async def arrived(jobs: StandIn, count: int) -> None:
    """Wait until ``count`` notifications are being handled."""
    await true(lambda: len(jobs.arrived) >= count)


async def until_refused(site: Site) -> None:
    """Wait until nobody listens any more."""
    with trio.fail_after(DEADLINE_S):
        while True:
            try:
                await (await trio.open_tcp_stream("127.0.0.1", site.port)).aclose()
            except OSError:
                return


def reset(wire: Wire) -> None:
    """Leave with a reset instead of a proper end."""
    wire.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.stream.socket.close()


@asynccontextmanager
async def shut_down(site: Site, within_s: float) -> AsyncIterator[None]:
    """Ask for the end, run the block, and fail unless all is over in time."""
    began = trio.current_time()
    site.shutdown.set()
    yield
    with trio.fail_after(DEADLINE_S):
        await site.ended.wait()
    assert trio.current_time() - began < within_s
