"""The commands in README and docs: every block of ``sh``, and what proves it.

A block is run by ``tests/e2e/test_docs_commands.py``, unless a comment right above it says
``tested by <file>``, whose test runs the same commands, or ``your host``: an example that
needs the reader's own machine (systemd, Docker, another user).
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])

_BLOCK: Final = re.compile(
    r"(?:^ *<!-- (?P<mark>your host|tested by [^>]*?) -->\n(?:\n)?)?"
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One block of commands."""

    page: str
    line: int
    text: str
    mark: str  #: empty when the test of the docs runs it

    @property
    def commands(self) -> list[str]:
        """Its lines without comments, continued ones joined."""
        joined = self.text.replace("\\\n", " ")
        return [
            line.partition("  #")[0].strip()
            for line in joined.splitlines()
            if line.strip() and not line.lstrip().startswith("#")
        ]


def blocks(page: Path) -> Iterator[Block]:
    """Find the blocks of ``sh`` on a page, in order."""
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        if found["language"] in {"sh", "bash", "shell", "console"}:
            yield Block(
                page=page.relative_to(ROOT).as_posix(),
                line=text.count("\n", 0, found.start("language")) + 1,
                text=textwrap.dedent(found["text"]),
                mark=found["mark"] or "",
            )
