"""The command line: arguments, settings, log, and off into the service."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from . import __version__
from .core.errors import SettingsError

USAGE = """\
usage: qbm-trio [--service | --check-config | --version]

  --service       run the service (the default)
  --check-config  read the settings, say what is wrong with them, and stop
  --version       print the version

There are no other commands: everything else is done over HTTP, and settings are
environment variables (docs/configuration.md)."""

BAD_SETTINGS = 2
BAD_USAGE = 64  # EX_USAGE: a supervisor can tell it from bad settings


def main(arguments: Sequence[str]) -> int:
    """Run one command and return the exit status: 0, 2 for bad settings, 64 for bad usage."""
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
        count = len(error.problems)
        print(f"qbm-trio: {count} problem{'s'[: count > 1]} with the settings:", file=sys.stderr)
        for problem in error.problems:
            print(f"  {problem}", file=sys.stderr)
        return BAD_SETTINGS
    if check_only:
        for warning in warnings:
            print(f"warning: {warning}")
        print("The settings can be used.")
        return 0

    # Also late, and for another reason: --check-config needs none of the web stack.
    from .logs import log, logging_to
    from .service import main as serve

    if warnings:
        with logging_to(settings):
            for warning in warnings:
                log.warning("%s", warning)
    return serve(settings)


def cli() -> None:
    """Run as the ``qbm-trio`` program."""
    # Ctrl-C during the imports ends it at once, as SIGTERM does: nothing has begun yet,
    # and Python's traceback would say nothing. The service then handles both.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if os.getpid() == 1:
        # In a container: to process 1 the kernel gives no signal that is left at its default.
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda signum, _: os._exit(128 + signum))
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    cli()
