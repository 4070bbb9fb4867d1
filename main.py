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
for name in [name for name in os.environ if name.startswith("FILE__")]:
    # As LinuxServer's init reads them, which does so for s6 only. Before the next step: only root
    # may be able to.
    wanted, file = name.removeprefix("FILE__"), os.environ.pop(name)
    if os.environ.get(wanted):
        continue
    try:
        os.environ[wanted] = Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, ValueError):
        os.environ[f"{wanted}_FILE"] = file  # the service says what is wrong with it
if os.geteuid() == 0:
    # "docker exec" is root: what the service then wrote, the one that s6 runs could not write.
    abc = pwd.getpwnam("abc")
    os.initgroups("abc", abc.pw_gid)
    os.setresgid(abc.pw_gid, abc.pw_gid, abc.pw_gid)
    os.setresuid(abc.pw_uid, abc.pw_uid, abc.pw_uid)
# Becomes it: signals reach the service itself, and its exit status is ours.
os.execv(python, [str(python), "-P", "-m", "qbm_trio", *sys.argv[1:]])
