"""Everything that is installed is pinned, hashed and explained."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = {
    "requirements.txt": None,
    "requirements-demo.txt": "demo",
    "requirements-dev.txt": "dev",
    "requirements-bench.txt": "bench",
    "requirements-audit.txt": "audit",
}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted(extra: str | None) -> set[str]:
    """The packages that pyproject.toml names itself: the service's, and those of an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] + project["optional-dependencies"].get(extra, [])
    return {normal(re.split(r"[^\w.-]", line)[0]) for line in lines}


def pinned(lock: str) -> dict[str, str]:
    """The versions in a lock file; every line of it is understood, or the test fails."""
    found = {}
    text = (ROOT / lock).read_text(encoding="utf-8")
    entries = re.sub(r"(?m)^ *(#.*)?\n", "", text).replace("\\\n", "")
    for entry in entries.splitlines():
        match = re.fullmatch(
            r"(?P<name>[\w.-]+)==(?P<version>[\w.!+]+)(?: ;.*?)?(?: +--hash=sha256:[0-9a-f]{64})+",
            entry.rstrip(),
        )
        assert match, f"{lock}: not a pin with hashes: {entry[:80]}"
        found[normal(match["name"])] = match["version"]
    return found


def test_every_lock_is_known_here() -> None:
    assert {path.name for path in ROOT.glob("requirements*.txt")} == set(LOCKS)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_what_the_project_asks_for_by_version_and_hash(lock: str) -> None:
    assert wanted(LOCKS[lock]) <= set(pinned(lock))


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_host_and_no_place(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert not re.search(r"://|@|file:/|--(?!hash=)", text)


def test_the_locks_agree_so_that_one_environment_holds_them_all() -> None:
    together: dict[str, str] = {}
    for lock in LOCKS:
        for name, version in pinned(lock).items():
            assert together.setdefault(name, version) == version, f"{lock}: {name}"


def test_the_wheel_in_the_image_is_built_with_what_is_pinned_too() -> None:
    lock = "container/requirements-build.txt"
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]
    assert set(pinned(lock)) == {
        normal(re.split(r"[^\w.-]", line)[0]) for line in build["requires"]
    }
    assert pinned(lock).items() <= pinned("requirements-dev.txt").items()
    assert not re.search(r"://|@|file:/|--(?!hash=)", (ROOT / lock).read_text(encoding="utf-8"))


def test_the_page_of_dependencies_explains_every_package_that_the_project_names() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \|", page, re.MULTILINE)
    explained = {normal(name.strip()) for row in rows for name in row.split(",")}
    explained |= {normal(name) for name in re.findall(r"^(\w+) draws ", page, re.MULTILINE)}
    named = set().union(*map(wanted, LOCKS.values()))
    assert named - explained == set()
