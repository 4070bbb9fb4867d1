"""Whether the service in this container lives: exit status 0 if so, else 1, and a line why.

Alive is who answers: a service that says ``degraded`` (a disk is missing, qBittorrent is away)
or ``draining`` lives, and a restart would mend nothing. Without HTTP, it is who has beaten
lately: the service sets the time of ``STATE_DIR/lock`` every ten seconds then.

Standard library only, and none of the service's settings are loaded: they look at the disks,
and one of those may hang.
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path

LIMIT_S = 5  #: for an answer; the health check as a whole gets ten
SILENT_S = 60  #: without a beat; six are missed then
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  #: who listens to all, listens here


def become_its_user() -> None:
    """See what the service sees: a root with few rights (``--cap-drop``) may see less."""
    service = Path("/proc/1").stat()
    if os.geteuid() == 0 != service.st_uid:
        os.setgroups([])
        os.setresgid(service.st_gid, service.st_gid, service.st_gid)
        os.setresuid(service.st_uid, service.st_uid, service.st_uid)


def setting(name: str, default: str) -> str:
    """As the service reads it: the variable, or the file that NAME_FILE names."""
    file = os.environ.get(f"{name}_FILE")
    value = Path(file).read_text(encoding="utf-8") if file else os.environ.get(name, "")
    return value.strip() or default


def answers(host: str, port: int) -> str:
    """Ask ``/health``. Raises `OSError` or `ValueError` when it is not the service that answers."""
    connection = HTTPConnection(ANYWHERE.get(host, host), port, timeout=LIMIT_S)
    try:
        connection.request("GET", "/health")
        document = json.loads(connection.getresponse().read(64 * 1024))
    except HTTPException as error:
        raise ValueError(f"no answer that is HTTP ({error!r})") from error
    finally:
        connection.close()
    if not isinstance(document, dict) or document.get("service") != "qbm-trio":
        raise ValueError("another program answers")
    return str(document.get("status"))


def beats(state_dir: Path) -> str:
    """Look at the last beat. Raises `OSError` or `ValueError` when there was none lately."""
    age_s = time.time() - (state_dir / "lock").stat().st_mtime
    if abs(age_s) > SILENT_S:
        raise ValueError(f"no sign of life for {age_s:.0f} s")
    return "alive, without HTTP"


def look() -> str:
    """Say how the service is, in a word or two. Raises `OSError` or `ValueError`."""
    become_its_user()
    if setting("HTTP_ENABLED", "true").lower() in ("false", "0", "no", "off", "n", "f"):
        base = setting("CONFIG_BASE", "/config")
        state = setting("STATE_DIR", setting("LOCK_DIR", f"{base}/qbit-manager-state"))
        return beats(Path(state))
    return answers(setting("HTTP_HOST", "127.0.0.1"), int(setting("HTTP_PORT", "8081")))


if __name__ == "__main__":
    try:
        print(look())
    except (OSError, ValueError) as error:
        sys.exit(f"not healthy: {error}")
