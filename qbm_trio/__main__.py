"""The command line: arguments, settings, log, and off into the service."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import __version__
from .core.errors import SettingsError

if TYPE_CHECKING:
    from .settings import Settings

USAGE = """\
usage: qbm-trio [--service | --check-config | --version]

  --service       run the service (the default)
  --check-config  check the settings, the folders and qBittorrent, say what is wrong and
                  how to mend it, and stop; changes nothing, also while the service runs
  --version       print the version

There are no other commands: everything else is done over HTTP, and settings are
environment variables (docs/configuration.md).

Exit status: 0 if it was told to stop, or nothing but warnings was found; 1 if it cannot run
(its last line says why); 2 for settings that cannot be used; 3 for problems that
--check-config has found; 64 for wrong arguments; 70 if a disk that hangs kept it from saving
its state as it stopped; 130 or 143 for a second signal, or one before it runs."""

BAD_SETTINGS = 2
PROBLEMS_FOUND = 3
BAD_USAGE = 64  # EX_USAGE: a supervisor can tell it from bad settings


def main(arguments: Sequence[str]) -> int:
    """Run one command and return the exit status, as `USAGE` has it."""
    match list(arguments):
        case ["--version"]:
            print(f"qbm-trio {__version__}")
            return 0
        case ["--help" | "-h"]:
            print(USAGE)
            return 0
        case [] | ["--service"]:
            return _with_settings(check_only=False)
        case ["--check-config"]:
            return _with_settings(check_only=True)
        case _:
            print(f"qbm-trio: cannot use: {' '.join(arguments)}\n\n{USAGE}", file=sys.stderr)
            return BAD_USAGE


def _with_settings(*, check_only: bool) -> int:
    # Imported late: --version and a wrong argument answer at once.
    from .settings import load

    try:
        settings, warnings = load(os.environ)
    except SettingsError as error:
        for kind, lines in (("problem", error.problems), ("warning", error.warnings)):
            if lines:
                head = f"{len(lines)} {kind}{'s'[: len(lines) > 1]} with the settings:"
                print("\n  ".join([f"qbm-trio: {head}", *lines]), file=sys.stderr)
        return BAD_SETTINGS
    if check_only:
        return _check(settings, warnings)

    # Also late, and for another reason: --check-config needs none of the web stack.
    from .logs import log, logging_to
    from .service import main as serve

    if warnings:
        with logging_to(settings):
            for warning in warnings:
                log.warning("%s", warning)
    return serve(settings)


def _check(settings: Settings, warnings: Sequence[str]) -> int:
    import trio

    from .core.checks import Level, report
    from .tasks.checks import check_all
    from .tasks.policies import client_of

    findings = trio.run(check_all, settings, client_of(settings), warnings)
    print("\n".join(report(findings)))
    return PROBLEMS_FOUND if any(f.level is Level.PROBLEM for f in findings) else 0


def cli() -> None:
    """Run as the ``qbm-trio`` program."""
    # Ctrl-C during the imports ends it at once, as SIGTERM does: nothing has begun yet,
    # and Python's traceback would say nothing. The service then handles both.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if os.getpid() == 1:
        # In a container: to process 1 the kernel gives no signal that is left at its default.
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda signum, _: os._exit(128 + signum))
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As standard error does: a name that the terminal cannot show is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    cli()
