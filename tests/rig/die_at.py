"""The service, but it kills itself at one step of a relocation: run as a module.

``QBM_DIE_AT`` is ``STEP:recorded``, when the journal has the step and nothing of it is
done; ``STEP:done``, when all of it is done and the journal does not know; or
``deleting:half``, when one file is deleted and others are not.
"""

from __future__ import annotations

import os
import signal
import sys

from qbm_trio.__main__ import main
from qbm_trio.adapters import ssd_deletion
from qbm_trio.adapters.ssd_deletion import JudgedFile
from qbm_trio.core.relocation import Relocation
from qbm_trio.tasks import reconciler
from qbm_trio.tasks.relocation_steps import Result, Steps

STEP, WHEN = os.environ["QBM_DIE_AT"].split(":")
take = Steps.take
delete = ssd_deletion._Files.delete


def die() -> None:
    """Pull the plug."""
    os.kill(os.getpid(), signal.SIGKILL)


async def take_and_die(self: Steps, row: Relocation) -> Result:
    """Take the step, unless it is the one."""
    if row.step == STEP and WHEN == "recorded":
        die()
    result = await take(self, row)
    if row.step == STEP and WHEN == "done":
        die()
    return result


def delete_and_die(self: ssd_deletion._Files, item: JudgedFile) -> None:
    """Delete the first file, and no other."""
    delete(self, item)
    if self.deleted:
        die()


if __name__ == "__main__":
    # Not twenty times as long without a list as one takes on a busy machine.
    setattr(reconciler, "SHARE", 1)  # noqa: B010
    setattr(Steps, "take", take_and_die)  # noqa: B010
    if WHEN == "half":
        setattr(ssd_deletion._Files, "delete", delete_and_die)  # noqa: B010
    sys.exit(main(sys.argv[1:]))
