"""The service, but it notices sooner that a disk hangs: run as a module."""

from __future__ import annotations

import sys

from qbm_trio.__main__ import main
from qbm_trio.adapters import journal
from qbm_trio.tasks import tiers

PROBE_INTERVAL_S = 0.5
SILENT_S = 1.5

if __name__ == "__main__":
    tiers.PROBE_INTERVAL_S = PROBE_INTERVAL_S
    tiers.SILENT_S = SILENT_S
    setattr(journal, "HANGS_S", SILENT_S)  # noqa: B010
    sys.exit(main(sys.argv[1:]))
