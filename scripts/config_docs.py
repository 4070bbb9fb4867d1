"""Write the table in docs/configuration.md from the code.

python scripts/config_docs.py           write it
python scripts/config_docs.py --check   exit 1 when it is stale
"""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic.fields import FieldInfo

from qbm_trio.settings import Settings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
BEGIN = "<!-- table: written by scripts/config_docs.py, do not edit -->\n"
END = "<!-- end of table -->\n"


def default_of(field: FieldInfo) -> str:
    """Show the default the way a user would write it."""
    extra = field.json_schema_extra
    text = extra.get("default_text") if isinstance(extra, dict) else None
    if text is not None:
        return str(text)
    value = field.default
    if value is None or value == ():
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def table() -> str:
    """Return one row for each setting, in the order of the code."""
    rows = ["| name | default | meaning | must be |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        extra = field.json_schema_extra
        expected = extra["expected"] if isinstance(extra, dict) else ""
        rows.append(
            f"| `{name.upper()}` | {default_of(field)} | {field.description} | {expected} |"
        )
    return "\n".join(rows) + "\n"


def page_with_table(page: str) -> str:
    """Return the page with the table of now."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE}: the two marker lines around the table are gone")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main() -> int:
    """Write or check; return the exit status."""
    now = PAGE.read_text(encoding="utf-8")
    want = page_with_table(now)
    if now == want:
        return 0
    if sys.argv[1:] == ["--check"]:
        print(f"{PAGE.name} is stale: run python scripts/config_docs.py", file=sys.stderr)
        return 1
    PAGE.write_text(want, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
