"""Whether the HDD's file system takes a torrent's names: asked before anything is copied.

Some take no name with a colon or a question mark (exFAT, NTFS, a share), and for some,
names that differ in case are one. It is tried with folders in staging, which are removed
at once; for a torrent with plain names none is made.
"""

from __future__ import annotations

import errno
import os
import shutil
import string
from collections.abc import Collection
from pathlib import Path, PurePath
from unicodedata import normalize

from ..core.errors import UnsafePath

_PLAIN = frozenset(string.ascii_letters + string.digits + " !#$%&'()+,-.;=@[]^_`{}~")
"""What every file system takes, but a space or a full stop at the end of a name."""
_AT_ONCE = 30  #: so many odd characters are tried in one name: 120 bytes at most
_REFUSED = {errno.EINVAL, errno.EILSEQ, errno.ENOENT}


def require_possible(staging: Path, names: Collection[PurePath]) -> None:
    """Prove that the file system takes these names, and tells them apart. Blocks.

    Args:
        staging: a folder of one's own on that file system.
        names: where files will be, all below one folder; no two are the same.

    Raises:
        UnsafePath: it does not.
        OSError: it refuses any name.
    """
    odd: dict[str, PurePath] = {}  # each odd character, with a name that has it
    odd_ends: dict[str, PurePath] = {}
    alike: dict[str, PurePath] = {}
    pairs = []
    for name in names:
        for part in name.parts:
            odd.update(dict.fromkeys(set(part) - _PLAIN, name))
            if part[-1] in " .":
                odd_ends[part[-1]] = name
        twin = alike.setdefault(normalize("NFC", str(name)).casefold(), name)
        if twin is not name:
            pairs.append((twin, name))
    if not (odd or odd_ends or pairs):
        return
    folder = staging / "names"
    folder.mkdir(mode=0o700, exist_ok=True)
    characters = list(odd)
    for first in range(0, len(characters), _AT_ONCE):
        some = characters[first : first + _AT_ONCE]
        if not _takes(folder, f"x{''.join(some)}x"):
            for character in some:
                if not _takes(folder, f"x{character}x"):
                    raise _refused(character, odd[character])
    for character, name in odd_ends.items():
        if not _takes(folder, f"x{character}"):
            raise _refused(character, name)
    for twin, name in pairs:
        parts = zip(twin.parts, name.parts, strict=True)
        if all(a == b or _are_one(folder, a, b) for a, b in parts):
            raise UnsafePath(
                f"{str(twin)!r} and {str(name)!r} are one file to the HDD's file system; "
                "rename one in qBittorrent, then retry the job"
            )
    shutil.rmtree(folder)


def _takes(folder: Path, name: str) -> bool:
    try:
        (folder / name).mkdir(exist_ok=True)
    except OSError as error:
        # A share says ENOENT of a bad name; so does a disk that is gone.
        if error.errno in _REFUSED and folder.is_dir():
            return False
        raise
    (folder / name).rmdir()
    return True


def _are_one(folder: Path, one: str, other: str) -> bool:
    (folder / one).mkdir(exist_ok=True)
    try:
        return os.path.lexists(folder / other)
    finally:
        (folder / one).rmdir()


def _refused(character: str, name: PurePath) -> UnsafePath:
    return UnsafePath(
        f"the HDD's file system does not take the {character!r} of {str(name)!r}; "
        "rename it in qBittorrent, then retry the job"
    )
