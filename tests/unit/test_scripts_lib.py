"""What the scripts do on a machine where something is missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LIB = Path(__file__).resolve().parents[2] / "scripts" / "lib.sh"
AS_A_USER = "id() { echo 1000; }; apt-get() { echo apt-get was run; };"


def bash(script: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f'. "{LIB}"; {script}', "scripts/test"],
        env={"PATH": "/usr/bin:/bin", **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_a_user_who_may_not_install_is_told_what_to_install() -> None:
    done = bash(f"{AS_A_USER} need no-such-program its-package; echo it went on")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "test: please install its-package first"
        " (Debian, Ubuntu: sudo apt-get install its-package)\n"
    )


def test_what_is_there_needs_no_installing() -> None:
    done = bash(f"{AS_A_USER} need bash its-package; echo it went on")
    assert (done.returncode, done.stdout, done.stderr) == (0, "it went on\n", "")


def test_the_python_that_was_asked_for_is_taken_if_it_can_be_used(tmp_path: Path) -> None:
    asked = tmp_path / "python3"
    asked.symlink_to(sys.executable)
    assert bash("find_python", PYTHON=str(asked)).stdout == f"{asked}\n"


def test_a_python_that_cannot_make_environments_is_passed_over(tmp_path: Path) -> None:
    bad, good = tmp_path / "python3", tmp_path / "python3.12"
    bad.write_text("#!/bin/sh\nexit 1\n")
    bad.chmod(0o755)
    good.symlink_to(sys.executable)
    path = f"{tmp_path}:/usr/bin:/bin"
    done = bash("find_python", PATH=path, PYTHON=str(bad))
    assert done.returncode == 0
    assert done.stdout != f"{bad}\n"
    none = bash("usable_python() { return 1; }; find_python", PATH=path)
    assert (none.returncode, none.stdout) == (1, "")


@pytest.mark.parametrize("name", ["audit", "demo", "lock", "test"])
def test_a_script_explains_itself_without_setting_anything_up(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkout" / "scripts"
    shutil.copytree(LIB.parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [folder / name, "--help"],
        env={"PATH": "/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"  scripts/{name}  " in done.stdout
    assert "shellcheck" not in done.stdout
    assert [path.name for path in folder.parent.iterdir()] == ["scripts"]
