"""The service, but it kills itself while it takes over the old tool's files: run as a module.

``QBM_DIE_IN_IMPORT`` says when: before the commit, before the renames, in the renames or
after the renames.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import trio

from qbm_trio.__main__ import main
from qbm_trio.adapters import legacy_files
from qbm_trio.adapters.legacy_files import FoundFile
from qbm_trio.tasks import legacy

MOMENT = os.environ["QBM_DIE_IN_IMPORT"]
rename, rename_all = Path.rename, legacy_files.rename_all
renamed = 0


def die(*_: object, **__: object) -> NoReturn:
    """Pull the plug."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def rename_some(self: Path, target: Path) -> Path:
    """Rename, but not the fourth of the old tool's files."""
    global renamed
    renamed += target.suffix in (legacy_files.MIGRATED, legacy_files.INVALID)
    return die() if renamed == 4 else rename(self, target)


async def rename_all_and_die(
    files: Iterable[FoundFile], *, limiter: trio.CapacityLimiter
) -> NoReturn:
    """Rename them all, and no more."""
    await rename_all(files, limiter=limiter)
    die()


if __name__ == "__main__":
    match MOMENT:
        case "before the commit":
            setattr(legacy, "_note", die)  # noqa: B010
        case "before the renames":
            setattr(legacy_files, "rename_all", die)  # noqa: B010
        case "in the renames":
            setattr(Path, "rename", rename_some)  # noqa: B010
        case "after the renames":
            setattr(legacy_files, "rename_all", rename_all_and_die)  # noqa: B010
    sys.exit(main(sys.argv[1:]))
