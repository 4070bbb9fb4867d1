"""The service, but it ruins the copy once the SSD's files are deleted: run as a module.

What `scripts/chaos` is for must find that.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from qbm_trio.__main__ import main
from qbm_trio.core.relocation import Relocation
from qbm_trio.tasks.relocation_steps import Result, Steps
from tests.rig.trees import below

take = Steps.take


async def take_and_damage(self: Steps, row: Relocation) -> Result:
    """Take the step; what it deleted on the SSD loses its bytes on the HDD as well."""
    before = _files_below(Path(row.from_path))
    result = await take(self, row)
    if row.step == "deleting":
        for name in before - _files_below(Path(row.from_path)):
            copy = Path(row.to_path) / name
            if copy.is_file() and copy.stat().st_size:
                status = copy.stat()
                copy.write_bytes(bytes(status.st_size))
                os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    return result


def _files_below(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in below(folder) if path.is_file()}


if __name__ == "__main__":
    setattr(Steps, "take", take_and_damage)  # noqa: B010
    sys.exit(main(sys.argv[1:]))
