"""What the journal knows of published files, asked in steps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from ..adapters import journal_copies
from ..adapters.journal import Journal
from ..adapters.journal_copies import CopyFile
from ..core.model import TorrentId

PAGE: Final = 2000
"""So many files the journal is asked for at once: nothing is accepted for these milliseconds."""


async def published_files(
    journal: Journal, paths: Sequence[str]
) -> dict[str, list[tuple[TorrentId, CopyFile]]]:
    """As `journal_copies.published_files`, of any number of paths.

    Raises:
        JournalUnwritable: the journal cannot be asked.
    """
    found: dict[str, list[tuple[TorrentId, CopyFile]]] = {}
    for first in range(0, len(paths), PAGE):
        some = paths[first : first + PAGE]
        found |= await journal.do(partial(journal_copies.published_files, paths=some))
    return found
