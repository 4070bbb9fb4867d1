"""The service, but it takes every recheck on the HDD for passed: run as a module.

Of a copy that is spoilt it then deletes the original, which `scripts/chaos` must find.
"""

from __future__ import annotations

import sys

from qbm_trio.__main__ import main
from qbm_trio.core.relocation import Event, Relocation
from qbm_trio.tasks.relocation_watch import TorrentWatch

recheck = TorrentWatch.recheck


async def recheck_and_trust(self: TorrentWatch, row: Relocation, place: str) -> Event:
    """Have it rechecked, whatever comes of it."""
    await recheck(self, row, place)
    return Event.ADVANCE


async def trust(self: TorrentWatch, row: Relocation, place: str) -> Event:
    """Take it for complete."""
    return Event.ADVANCE


async def trust_at_last(self: TorrentWatch, row: Relocation, place: str) -> bool:
    """Take it for complete in the last look, too."""
    return True


if __name__ == "__main__":
    setattr(TorrentWatch, "recheck", recheck_and_trust)  # noqa: B010
    setattr(TorrentWatch, "seeds_at", trust)  # noqa: B010
    setattr(TorrentWatch, "is_as_left", trust_at_last)  # noqa: B010
    sys.exit(main(sys.argv[1:]))
