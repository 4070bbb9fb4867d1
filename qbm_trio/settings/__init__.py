"""Settings from the environment: read once, checked whole, then constant.

`load` reads and checks; `Settings` is what the rest of the service gets.
"""

from __future__ import annotations

from .loading import load
from .model import NAMES, Settings

__all__ = ["NAMES", "Settings", "load"]
