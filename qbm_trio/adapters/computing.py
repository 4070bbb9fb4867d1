"""Computations that grow with a torrent's files, kept off the event loop.

Reading the .torrent of 50,000 files takes a second: on the loop, notifications and
``/health`` would wait as long. In a thread the interpreter lets the loop in every 5 ms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")


async def compute(call: Callable[[], T], *, limiter: trio.CapacityLimiter) -> T:
    """Give what ``call`` returns, computed in a thread.

    Args:
        call: pure: it changes nothing that others see, and waits for nothing.
        limiter: for the thread. One token serves all: threads would only share one
            interpreter.

    Cancellation:
        Prompt. The thread ends by itself and keeps its token until then.

    Raises:
        What ``call`` raises.
    """
    return await trio.to_thread.run_sync(call, limiter=limiter, abandon_on_cancel=True)
