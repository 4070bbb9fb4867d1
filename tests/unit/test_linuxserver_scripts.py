"""``scripts/linuxserver``: what s6-rc and LinuxServer's init ask of such files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "scripts" / "linuxserver"
FORM = FOLDER / "s6-rc.d" / "svc-qbm-trio"
HOOKS = [
    FOLDER / "custom-cont-init.d" / "50-qbm-trio",
    FOLDER / "custom-services.d" / "qbm-trio",
    FORM / "run",
    FORM / "finish",
]


@pytest.mark.parametrize("hook", HOOKS, ids=lambda path: path.name)
def test_every_hook_can_be_run_and_calls_the_program(hook: Path) -> None:
    assert os.access(hook, os.X_OK)
    (call,) = [line for line in hook.read_text().splitlines() if line.startswith("exec ")]
    path = "/qbit-manager/scripts/linuxserver/qbm-trio"
    assert call.split()[:3] == ["exec", "bash", f'"${{QBM_SOURCE:-/qbit-manager}}{path[13:]}"']
    assert (FOLDER / "qbm-trio").is_file()


def test_the_folders_for_linuxserver_hold_nothing_else() -> None:
    """It runs every file of the one as root, and makes a service of every file of the other."""
    for name in ("custom-cont-init.d", "custom-services.d"):
        assert len(list((FOLDER / name).iterdir())) == 1


def test_the_definition_for_s6_rc_is_one() -> None:
    assert (FORM / "type").read_text() == "longrun\n"
    assert {path.name for path in (FORM / "dependencies.d").iterdir()} == {
        "init-services",  # the installation, among others
        "svc-qbittorrent",  # it is stopped after us: what we undo needs it
    }
    contents = FOLDER / "s6-rc.d" / "user" / "contents.d"
    assert {path.name for path in contents.iterdir()} == {FORM.name}
    # The service ends itself after SHUTDOWN_GRACE_S (2 there) and one second more.
    assert 3000 < int((FORM / "timeout-kill").read_text()) < 10_000


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("0 0", "stopped"),
        ("2 0", "the settings"),
        ("256 9", "killed by signal 9"),
        ("70 0", "status 70"),
    ],
)
def test_its_end_is_explained_in_the_log(status: str, said: str) -> None:
    command = ["bash", str(FOLDER / "qbm-trio"), "finish", *status.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said in done.stdout
