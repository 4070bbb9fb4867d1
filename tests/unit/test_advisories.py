"""No locked version is known to be vulnerable, as far as ``docs/advisories.toml`` knows."""

from __future__ import annotations

import datetime
import tomllib
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

from tests.unit.test_dependencies import LOCKS, ROOT, pinned

KNOWN: dict[str, Any] = tomllib.loads((ROOT / "docs/advisories.toml").read_text(encoding="utf-8"))


def listed() -> set[str]:
    named = {known["package"] for known in KNOWN["advisories"]}
    return named.union(KNOWN["none_found"], KNOWN["none_known"])


def findings(versions: dict[str, str]) -> list[str]:
    return [
        f"{known['package']} {versions[known['package']]}: {known['id']}, {known['about']}"
        for known in KNOWN["advisories"]
        if known["package"] in versions
        and SpecifierSet(known["affected"]).contains(versions[known["package"]], prereleases=True)
    ]


@pytest.mark.parametrize("lock", LOCKS)
def test_no_locked_version_is_in_the_range_of_a_known_advisory(lock: str) -> None:
    assert findings(pinned(lock)) == []


@pytest.mark.parametrize("lock", LOCKS)
def test_no_package_comes_into_a_lock_unseen(lock: str) -> None:
    assert set(pinned(lock)) - listed() == set()


def test_nothing_is_listed_that_no_lock_has() -> None:
    locked = set().union(*(pinned(lock) for lock in LOCKS))
    assert listed() - locked == set()


@pytest.mark.parametrize(
    ("package", "version", "found"),
    [("werkzeug", "3.1.5", 1), ("werkzeug", "3.1.6", 0), ("h11", "0.14.0", 1), ("trio", "0", 0)],
)
def test_a_vulnerable_version_would_be_found(package: str, version: str, found: int) -> None:
    assert len(findings({package: version})) == found


def test_the_day_of_the_review_is_not_in_the_future() -> None:
    today = datetime.datetime.now(datetime.UTC).date()
    assert KNOWN["reviewed"] <= today + datetime.timedelta(days=1)
