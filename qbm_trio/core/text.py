"""Text that people read, made of names that anybody may have chosen."""

from __future__ import annotations


def number(count: int, what: str) -> str:
    """So many of them: ``1 file``, ``2 files``."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def one_line(text: str) -> str:
    """Return ``text`` with line ends and other invisible characters escaped.

    A torrent's name or a path must not break a log line in two, nor move a cursor.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
