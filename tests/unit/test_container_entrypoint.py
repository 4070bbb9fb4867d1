"""The container's entry point, outside a container: whom it becomes, and what it gives away.

Inside one: ``tests/e2e/test_container.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from container import entrypoint

SCRIPT = Path(__file__).resolve().parents[2] / "container/entrypoint.py"
UID, GID, GROUP = 4001, 4002, 4003

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


def start(
    *arguments: str,
    groups: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    **more: str,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **(env or {}), **more},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        extra_groups=groups,
        cwd="/",
    )


def owner(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid


# -- whom it becomes ----------------------------------------------------------

WHO = "id -u; id -g; id -G; umask; grep -E '^Cap(Prm|Eff)' /proc/self/status"


@as_root
def test_root_becomes_the_user_that_was_asked_for_and_can_never_be_root_again(
    tmp_path: Path,
) -> None:
    done = start(
        *("sh", "-c", WHO),
        groups=[0, GROUP],  # as `--group-add` gives one
        CONFIG_BASE=str(tmp_path),
        PUID=str(UID),
        PGID=str(GID),
        UMASK="027",
    )
    none = "0000000000000000"
    assert (done.stdout.split("\n"), done.stderr) == (
        [str(UID), str(GID), f"{GID} {GROUP}", "0027", f"CapPrm:\t{none}", f"CapEff:\t{none}", ""],
        "",
    )


@as_root
def test_unless_told_otherwise_it_is_no_root_and_files_can_be_read_by_others(
    tmp_path: Path,
) -> None:
    done = start("sh", "-c", WHO, CONFIG_BASE=str(tmp_path), PUID="", UMASK=" ")
    assert done.stdout.split("\n")[:4] == ["1000", "1000", "1000", "0022"]


@as_root
def test_root_is_kept_by_whoever_asks_for_it(tmp_path: Path) -> None:
    done = start("id", "-u", CONFIG_BASE=str(tmp_path), PUID="0", PGID="0")
    assert done.stdout == "0\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PUID", "abc"), ("PUID", "-1"), ("PUID", "4294967295"), ("PGID", "1e3"),
        ("PGID", "\u0663"), ("UMASK", "0o22"), ("UMASK", "99"), ("UMASK", "1777"),
    ],
)  # fmt: skip
def test_a_value_that_is_no_number_is_named_and_nothing_is_started(
    tmp_path: Path, name: str, value: str
) -> None:
    done = start("echo", "it started", env={name: value}, CONFIG_BASE=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"qbm-trio: {name}: not ")
    assert line.endswith("; correct or remove it")


def test_a_command_that_is_not_there_is_said(tmp_path: Path) -> None:
    done = start("no-such-program", CONFIG_BASE=str(tmp_path))
    assert done.returncode == 127
    assert done.stderr.endswith("no-such-program cannot be run: No such file or directory\n")


@as_root
def test_a_root_that_may_become_nobody_is_told_what_to_allow(tmp_path: Path) -> None:
    dropping = ["setpriv", "--bounding-set=-setuid,-setgid", sys.executable, str(SCRIPT), "true"]
    done = subprocess.run(
        dropping,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "CONFIG_BASE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 2
    assert "cannot become user 1000, group 1000" in done.stderr
    assert "--user" in done.stderr


# -- what it gives away -------------------------------------------------------


@as_root
def test_what_the_service_writes_to_is_its_own_also_after_a_change_of_puid(tmp_path: Path) -> None:
    base, elsewhere = tmp_path / "config", tmp_path / "elsewhere"
    state, log = base / "qbit-manager-state", base / "log"
    for folder in (base, state, state / "queue", log, elsewhere, base / "another"):
        folder.mkdir()
    files = [state / "journal.sqlite3", state / "queue/a.queue", log / "qbit-manager.log"]
    others = [elsewhere / "secret", base / "qBittorrent.conf", base / "another/file"]
    for file in [*files, *others]:
        file.touch()
    os.chown(files[0], 911, 911)  # of an earlier PUID
    (state / "link").symlink_to(elsewhere / "secret")
    (state / "way out").symlink_to(elsewhere)
    entrypoint.hand_over(base, UID, GID)
    for path in (base, state, state / "queue", log, *files, state / "link", state / "way out"):
        assert owner(path) == (UID, GID), path
    for path in (elsewhere, base / "another", *others):
        assert owner(path) == (0, 0), path


@as_root
def test_a_folder_that_another_container_has_too_stays_its_own(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.mkdir()
    os.chown(tmp_path, 911, 911)
    entrypoint.hand_over(tmp_path, UID, GID)
    assert owner(tmp_path) == (911, 911)
    assert owner(log) == (UID, GID)


@as_root
def test_a_link_in_place_of_our_folder_is_not_followed(tmp_path: Path) -> None:
    base, elsewhere = tmp_path / "config", tmp_path / "elsewhere"
    for folder in (base, elsewhere):
        folder.mkdir()
    (elsewhere / "file").touch()
    (base / "log").symlink_to(elsewhere)
    entrypoint.hand_over(base, UID, GID)
    assert owner(elsewhere) == owner(elsewhere / "file") == (0, 0)


def test_without_such_a_folder_nothing_is_given_and_nothing_fails(tmp_path: Path) -> None:
    entrypoint.hand_over(tmp_path / "missing", UID, GID)
    assert list(tmp_path.iterdir()) == []
