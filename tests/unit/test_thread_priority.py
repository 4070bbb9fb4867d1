"""Threads for long disk work step back for other programs, on the CPU and at the disk."""

from __future__ import annotations

import ctypes
import os
import platform
import threading

import pytest
import trio

from qbm_trio.adapters.copy_threads import Stop, run_supervised

IOPRIO_GET = 252 if platform.machine() == "x86_64" else 31
BEST_EFFORT, IDLE = 2, 3  #: the scheduling classes of ioprio_set(2)

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="its number is not known here"
)


def io_priority(_: Stop | None = None) -> tuple[int, int]:
    """Class and level of the calling thread; (0, 0) where none was set."""
    value = ctypes.CDLL(None).syscall(IOPRIO_GET, 1, threading.get_native_id())
    assert value >= 0
    return value >> 13, value & 0x1FFF


@pytest.mark.parametrize(
    ("nice", "expected"), [(10, (BEST_EFFORT, 6)), (15, (BEST_EFFORT, 7)), (19, (IDLE, 0))]
)
async def test_the_disk_serves_a_nice_thread_later(nice: int, expected: tuple[int, int]) -> None:
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert before <= 10, "the tests themselves run at a lowered priority"
    own = io_priority()
    limiter = trio.CapacityLimiter(1)
    assert await run_supervised(io_priority, nice=nice, limiter=limiter) == expected
    assert await run_supervised(io_priority, nice=0, limiter=limiter) == own
    assert await trio.to_thread.run_sync(io_priority, limiter=limiter) == own
    assert io_priority() == own
