"""Start the service from a ``.env`` file; write the file when there is none.

Called by ``scripts/run``. The file is parsed, never evaluated: a ``$`` or a back-tick
in a password is just that character.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

from dotenv import dotenv_values

FOLDERS = ("DOWNLOAD_PATH_SSD", "FINAL_DEST_BASE_HDD")
ASK_ONLY = (["--version"], ["--help"], ["-h"])
BAD_SETTINGS = 2  # as the service ends with them

TEMPLATE = """\
# Settings of qbm-trio. docs/configuration.md lists all of them.
# After a change: scripts/run --check-config

# What clients send in the X-API-Key header. Made at random for you; keep it secret.
HTTP_API_KEY={key}

# Where finished downloads lie (fast), and where their copies go (large).
DOWNLOAD_PATH_SSD=/downloads/ssd
FINAL_DEST_BASE_HDD=/downloads/hdd

# Plans are logged, and nothing is copied, tagged, moved or deleted. Set it to false when
# you have seen what it would do.
DRY_RUN=true

# With less than this free on the SSD, the oldest torrents that have a copy leave it, until
# a tenth more is free. The tag qbm-pin keeps a torrent there.
DISK_SPACE_THRESHOLD_GB=100

# qBittorrent's Web UI. Leave the password away where local clients need none.
QBIT_HOST=localhost
QBIT_PORT=8080
QBIT_USERNAME=admin
#QBIT_PASSWORD='...'

# Needed when qBittorrent names its folders otherwise (containers): its path=our path,...
#PATH_MAPPINGS=/downloads=/data/downloads

# The journal and the log are kept below this folder.
CONFIG_BASE='{state}'
"""


def write_template(path: Path) -> None:
    """Write a first ``.env`` with a random key, readable by its owner only."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    state = Path(base) / "qbm-trio"
    text = TEMPLATE.format(key=secrets.token_urlsafe(32), state=state)
    # O_EXCL: never over a file that somebody else is just writing.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    say(f"wrote {path} with a new random HTTP_API_KEY (only you can read it).")


def say(line: str) -> None:
    """Tell the user, in the name of the script that was called."""
    print(f"scripts/run: {line}", file=sys.stderr, flush=True)


def main(env_file: Path, arguments: list[str]) -> None:
    """Become the service, with the file's values below the environment's own."""
    if not env_file.exists() and arguments not in ASK_ONLY:
        write_template(env_file)
        # The template's folders are a guess: only a person, or the environment, says where
        # finished downloads are.
        if not all(os.environ.get(name) for name in FOLDERS):
            say("now edit it: DOWNLOAD_PATH_SSD and FINAL_DEST_BASE_HDD (your folders),")
            say("QBIT_HOST, QBIT_PORT, QBIT_USERNAME, QBIT_PASSWORD (your qBittorrent);")
            say("then run it again.")
            sys.exit(BAD_SETTINGS)
    given = {
        name: value
        for name, value in dotenv_values(env_file, interpolate=False).items()
        if value is not None
    }
    environ = {**given, **os.environ}
    # A secret in the environment may come as NAME or as NAME_FILE; either one replaces
    # both of the file's.
    for name in given:
        other = name.removesuffix("_FILE") if name.endswith("_FILE") else f"{name}_FILE"
        if other in os.environ and name not in os.environ:
            del environ[name]
    command = [sys.executable, "-m", "qbm_trio", *(arguments or ["--service"])]
    os.execve(sys.executable, command, environ)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
