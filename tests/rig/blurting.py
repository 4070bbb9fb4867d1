"""The service with a bug whose message holds a secret: run as a module."""

from __future__ import annotations

import os
import sys

from qbm_trio import service
from qbm_trio.__main__ import main


async def blurt(*_: object) -> None:
    """End the service, and tell its password."""
    password = os.environ["QBIT_PASSWORD"]
    raise ZeroDivisionError(f"Cookie: SID=abc123def; password {password!r}")


if __name__ == "__main__":
    setattr(service, "keep_contact", blurt)  # noqa: B010
    sys.exit(main(sys.argv[1:]))
