"""The example of a systemd unit is one that systemd takes, and says what the docs say."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from qbm_trio.__main__ import BAD_SETTINGS, BAD_USAGE
from qbm_trio.settings.model import Settings

UNIT = Path(__file__).resolve().parents[2] / "examples" / "qbm-trio.service"


def verified(text: str, folder: Path) -> str:
    """What ``systemd-analyze`` has to say of a unit. It needs its program and user to be there."""
    program = "/opt/qbm-trio/bin/qbm-trio"
    assert program in text
    unit = folder / "qbm-trio.service"
    unit.write_text(re.sub(r"(?m)^User=.*", "User=root", text.replace(program, "/bin/true")))
    result = subprocess.run(
        ["systemd-analyze", "verify", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return result.stdout + result.stderr if result.returncode == 0 else f"refused: {result.stderr}"


def test_systemd_understands_every_line(tmp_path: Path) -> None:
    text = UNIT.read_text()
    offered = re.sub(r"(?m)^#(?=\w+=)", "", text)  # also those for some
    assert offered.count("\nRequiresMountsFor=") == 1
    assert [verified(unit, tmp_path) for unit in (text, offered)] == ["", ""]


@pytest.mark.parametrize("wrong", ["UMaskk=0002", "Type=exac", "ReadWritePaths=downloads"])
def test_a_wrong_line_is_found(wrong: str, tmp_path: Path) -> None:
    assert verified(UNIT.read_text().replace("UMask=0002", wrong), tmp_path)


def test_it_is_not_started_again_when_only_its_user_can_mend_it() -> None:
    assert f"RestartPreventExitStatus={BAD_SETTINGS} {BAD_USAGE}\n" in UNIT.read_text()


def test_systemd_waits_longer_than_the_drain_takes() -> None:
    stop_s = int(re.findall(r"(?m)^TimeoutStopSec=(\d+)$", UNIT.read_text())[0])
    grace_s = Settings.model_fields["shutdown_grace_s"].default
    assert stop_s > 2 * (grace_s + 1)
