"""``examples/qbm_notify.py``, but it kills itself after so many steps: run as a module.

A step is a call that changes something outside of the process: on the disk, or a request
to the service. ``QBM_DIE_AFTER`` says how many are taken; each is written to the file
``QBM_STEPS`` before. A write is two steps, and only half of it is done after the first.
``QBM_CONSTANTS`` is JSON: other values of the script's constants.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from examples import qbm_notify

STEPS = ("mkdir", "open", "write", "fsync", "rename", "unlink")  #: of the module os
DIE_AFTER = int(os.environ.get("QBM_DIE_AFTER", "1000000"))


class Steps:
    """Counts what is done, and ends the process after the last."""

    def __init__(self) -> None:
        self.taken = 0
        self.file = os.open(os.environ.get("QBM_STEPS", os.devnull), os.O_WRONLY | os.O_CREAT)

    def counted(self, name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        """The same, counted."""

        def take(*arguments: Any, **options: Any) -> Any:
            os.write(self.file, f"{name}\n".encode())
            try:
                return step(*arguments, **options)
            finally:
                self.taken += 1
                if self.taken >= DIE_AFTER:
                    os.kill(os.getpid(), signal.SIGKILL)

        return take


class Counted:
    """A module whose functions that change something are counted."""

    def __init__(self, module: Any, steps: Steps) -> None:
        self._module, self._steps = module, steps

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if name == "write":
            found = half_at_first
        return self._steps.counted(name, found) if name in STEPS else found


halved: set[int] = set()


def half_at_first(fd: int, data: bytes) -> int:
    """Write half of it, as the kernel may, and then the rest."""
    if fd <= 2 or fd in halved:
        halved.discard(fd)
        return os.write(fd, data)
    halved.add(fd)
    return os.write(fd, data[: len(data) // 2])


if __name__ == "__main__":
    counting = Steps()
    for name, value in json.loads(os.environ.get("QBM_CONSTANTS", "{}")).items():
        if not hasattr(qbm_notify, name):
            raise AttributeError(name)
        setattr(qbm_notify, name, value)
    setattr(qbm_notify, "os", Counted(os, counting))  # noqa: B010
    qbm_notify.Service.post = counting.counted("post", qbm_notify.Service.post)  # type: ignore[method-assign]
    sys.exit(qbm_notify.main(sys.argv[1:]))
