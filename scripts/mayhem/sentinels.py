"""Files beside the tiers that must stay as they are, and how that is seen."""

from __future__ import annotations

from pathlib import Path

from .known import sha256


def write_sentinels(folder: Path) -> None:
    """Files beside the tiers that nobody has any business with."""
    (folder / "below").mkdir(parents=True)
    (folder / "sentinel").write_bytes(b"nobody's\n")
    (folder / "below" / "another").write_bytes(b"nobody's either\n")
    (folder / "a link").symlink_to(folder / "sentinel")


def snapshot(folder: Path) -> dict[str, tuple[int, int, str | None]]:
    """All below a folder: mode, time of change, contents."""
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        status = path.lstat()
        contents = str(path.readlink()) if path.is_symlink() else None
        if path.is_file() and not path.is_symlink():
            contents = sha256(path)
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_mtime_ns, contents)
    return found
