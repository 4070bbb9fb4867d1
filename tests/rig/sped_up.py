"""The service with other constants: run as a module.

``QBM_CONSTANTS`` is JSON: a value for each ``package.module.NAME``. Waits that are right for
its users would only make a test slow.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module

from qbm_trio.__main__ import main

if __name__ == "__main__":
    for name, value in json.loads(os.environ["QBM_CONSTANTS"]).items():
        module, _, constant = name.rpartition(".")
        owner = import_module(module)
        if not hasattr(owner, constant):
            raise AttributeError(name)
        setattr(owner, constant, value)
    sys.exit(main(sys.argv[1:]))
