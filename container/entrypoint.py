"""Become the right user, then the service, which so is process 1 and gets the signals.

Started as root: PUID and PGID (1000 unless set) say whom to become; CONFIG_BASE and what the
service keeps in it are given to them. Started as another user (``--user``): stays that one.
UMASK (022 unless set) holds in both cases.

Arguments go to the service. If the first has no dash, they are a command to run instead.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

BAD_SETTINGS = 2  # as the service ends with them
NOT_FOUND = 127  # as a shell ends
HIGHEST_ID = 2**32 - 2  # the one above means "leave it" to the kernel
OURS = ("qbit-manager-state", "log")
"""What the service makes in CONFIG_BASE unless STATE_DIR and LOG_FILE say otherwise."""


def main(arguments: list[str]) -> NoReturn:
    """Become the user, then the service or the command."""
    os.umask(number("UMASK", 0o022, 0o777, base=8))
    uid, gid = (number(name, 1000, HIGHEST_ID) for name in ("PUID", "PGID"))
    if os.geteuid() == 0:
        hand_over(Path(os.environ.get("CONFIG_BASE") or "/config"), uid, gid)
        become(uid, gid)
    elif os.environ.get("PUID") and uid != os.geteuid():
        say(f"PUID={uid} has no effect: the container was started as user {os.geteuid()}")
    if not arguments or arguments[0].startswith("-"):
        main_file = Path(__file__).with_name("main.py")
        arguments = [sys.executable, str(main_file), *(arguments or ["--service"])]
    try:
        os.execvp(arguments[0], arguments)
    except OSError as error:
        say(f"{arguments[0]} cannot be run: {error.strerror}")
        sys.exit(NOT_FOUND)


def number(name: str, default: int, highest: int, *, base: int = 10) -> int:
    """The value of a variable; an empty one counts as absent, as in the service."""
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    with suppress(ValueError):
        if text.isascii() and text.isdigit() and (value := int(text, base)) <= highest:
            return value
    kind = "an octal number like 022" if base == 8 else "the number of a user or a group"
    say(f"{name}: not {kind}; correct or remove it")
    sys.exit(BAD_SETTINGS)


def hand_over(base: Path, uid: int, gid: int) -> None:
    """Give the service what it writes to, also after PUID was changed.

    A CONFIG_BASE that somebody else has, another container for example, stays theirs; other
    files in it are left alone, and the tiers are never touched.
    """
    # What cannot be given (a share, a read-only folder) the service names, if it needs it.
    with suppress(OSError):
        if base.stat().st_uid == 0:
            os.chown(base, uid, gid)
    for name in OURS:
        with suppress(OSError):
            for _, folders, files, folder in os.fwalk(base / name):  # follows no symbolic links
                for there in (".", *folders, *files):
                    give(there, uid, gid, folder)


def give(name: str, uid: int, gid: int, folder: int) -> None:
    """Give one file or folder, or a link itself, below an open folder."""
    with suppress(OSError):
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if (found.st_uid, found.st_gid) != (uid, gid):
            os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False)


def become(uid: int, gid: int) -> None:
    """Stop being root, for good. Groups that ``--group-add`` gave are kept."""
    try:
        os.setgroups([group for group in os.getgroups() if group != 0])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        say(
            f"cannot become user {uid}, group {gid}: {error.strerror}; allow SETUID and SETGID"
            " (--cap-add), or start the container as that user (--user)"
        )
        sys.exit(BAD_SETTINGS)


def say(line: str) -> None:
    """Tell the user, before there is a log."""
    print(f"qbm-trio: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
