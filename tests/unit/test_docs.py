"""What the documentation points at is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qbm_trio.core.relocation import OPEN, Event
from qbm_trio.core.space import Spared
from qbm_trio.settings import NAMES

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_of_the_project(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    broken = [
        link
        for link in links
        if not link.startswith(("http://", "https://")) and not (page.parent / link).exists()
    ]
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
    stays = page.partition("## What stays as it is\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", stays))
    assert {"HTTP_API_KEY", "DOWNLOAD_PATH_SSD", "LOCK_DIR"} <= named
    assert named - {"LOCK_DIR"} <= set(NAMES)  # of which a test of its own knows that it is taken
