"""What the documentation points at is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qbm_trio.core import errors
from qbm_trio.core.model import WaitReason
from qbm_trio.core.relocation import OPEN, Event
from qbm_trio.core.space import Spared
from qbm_trio.settings import NAMES, load

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def anchors(page: Path) -> set[str]:
    """What a link to a heading of the page may have behind its ``#``."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_of_the_project_and_to_a_heading_of_it(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        if link.startswith(("http://", "https://")):
            continue
        if not target.exists() or (heading and heading not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_rule_of_durability_names_a_test_that_exists() -> None:
    page = (ROOT / "docs" / "durability.md").read_text(encoding="utf-8")
    rules = re.findall(r"^\d+\. .*?(?=^\d+\. |^\*\*|^## )", page, re.MULTILINE | re.DOTALL)
    assert len(rules) == 40
    sources = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").rglob("test_*.py"))
    for rule in rules:
        named = re.findall(r"`(test_\w+)`", rule)
        assert named, rule
        for name in named:
            assert re.search(rf"def {name}\b", sources), name


def test_every_reason_for_sparing_a_torrent_is_explained() -> None:
    page = (ROOT / "docs" / "space-management.md").read_text(encoding="utf-8")
    table = page.partition("| spared as |")[2].partition("\n\n")[0]
    named = [
        word for row in table.splitlines() for word in re.findall(r"`(\w+)`", row[1:].split("|")[0])
    ]
    assert sorted(named) == sorted(Spared)


def test_every_step_and_event_of_a_relocation_is_explained() -> None:
    page = (ROOT / "docs" / "space-management.md").read_text(encoding="utf-8")
    explained = re.findall(r"^\| `(\w+)` \|", page.partition("<!-- end of")[2], re.MULTILINE)
    assert sorted(explained) == sorted([*Event, *OPEN])


def test_every_path_in_the_guide_for_contributors_exists() -> None:
    guide = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:settings|core|tasks|adapters|web|tests)/[\w/.*]*)`", guide)
    for path in paths:
        base = ROOT if path.startswith("tests/") else ROOT / "qbm_trio"
        assert list(base.glob(path.rstrip("/"))), path


def test_settings_of_the_old_tool_that_are_said_to_stay_are_settings() -> None:
    page = (ROOT / "docs" / "upgrading.md").read_text(encoding="utf-8")
    table = page.partition("| in `config.toml` | variable |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", table))
    assert {"HTTP_API_KEY", "DOWNLOAD_PATH_SSD", "COPY_OPERATION_NICE_LEVEL", "LOCK_DIR"} <= named
    assert named - {"LOCK_DIR"} <= set(NAMES)  # of which a test of its own knows that it is taken


def test_settings_of_the_old_tool_that_are_said_to_be_gone_are_warned_of(
    environ: dict[str, str],
) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith("| `SONARR_…`")]
    gone = [name.replace("…", "URL") for name in re.findall(r"`(\S+)`", row)]
    assert {"TAUTULLI_URL", "PLEX_PATH_MAPPINGS"} <= set(gone)
    _, warnings = load(environ | dict.fromkeys(gone, "x"))
    assert [line.partition(":")[0] for line in warnings] == sorted(gone)
    assert all("belonged to the old tool" in line for line in warnings)


def test_every_reason_to_wait_and_every_failure_of_a_job_is_a_symptom() -> None:
    def below(kind: type[errors.JobError]) -> set[str]:
        return {kind.code}.union(*map(below, kind.__subclasses__()))

    failures = below(errors.Retryable) | below(errors.Fatal) | {"internal_error"}
    failures -= {errors.Retryable.code, errors.Fatal.code}  # of what is always more exact
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| ")]
    said = {word for row in rows for word in re.findall(r"`(\w+)`", row)}
    assert failures | set(WaitReason) <= said
