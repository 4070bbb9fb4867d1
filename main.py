"""Start the service where the old tool was: ``python3 /qbit-manager/main.py --service``.

For a container that has this checkout at /qbit-manager, and in which
``scripts/linuxserver/qbm-trio install`` has installed it. Any Python may run this file.
"""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path

home = Path(os.environ.get("QBM_HOME") or "/config/qbm-trio")
python = home / "venv/bin/python3"
if not python.exists():
    sys.exit(
        f"qbm-trio: it is not installed in {home}: run scripts/linuxserver/qbm-trio install, or set"
        " QBM_HOME to where it is"
    )
if os.geteuid() == 0:
    # "docker exec" is root: what the service then wrote, the one that s6 runs could not write.
    owner = pwd.getpwuid(home.stat().st_uid)
    os.initgroups(owner.pw_name, owner.pw_gid)
    os.setresgid(owner.pw_gid, owner.pw_gid, owner.pw_gid)
    os.setresuid(owner.pw_uid, owner.pw_uid, owner.pw_uid)
for name in [name for name in os.environ if name.startswith("FILE__")]:
    # As LinuxServer's init reads them: it did so for s6 only.
    file = os.environ.pop(name)
    if not os.environ.get(name.removeprefix("FILE__")):
        os.environ[f"{name.removeprefix('FILE__')}_FILE"] = file
# Becomes it: signals reach the service itself, and its exit status is ours.
os.execv(python, [str(python), "-P", "-m", "qbm_trio", *sys.argv[1:]])
