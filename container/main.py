"""Start the service where the old tool was: ``python3 /qbit-manager/main.py --service``.

Any Python may run this file; the service then runs in the environment beside it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

PROGRAM = Path(__file__).resolve().parent / "venv/bin/qbm-trio"

# Becomes it: signals reach the service itself, and its exit status is ours.
os.execv(PROGRAM, [str(PROGRAM), *sys.argv[1:]])
