"""``kill -9`` of the service while it repeats what qBittorrent has forgotten since it was done."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.rig.forgetting import remember
from tests.rig.kills import LIMIT_S, victim
from tests.rig.qbt import Chroot, Installed, Launcher, running

pytestmark = [pytest.mark.qbittorrent, pytest.mark.slow]


@pytest.mark.parametrize("version", ["4.5.2", "5.1.0"])
def test_killed_while_it_repeats_a_relocation_it_goes_on(tmp_path: Path, version: str) -> None:
    launcher: Launcher = Installed() if version == "4.5.2" else Chroot(shared=tmp_path)
    whens = ("recorded", "done")
    with running(tmp_path / "qbt", launcher=launcher) as qbt, ExitStack() as stack:
        victims = {
            when: stack.enter_context(victim(tmp_path, qbt, when, seed=n, stopped=when == "done"))
            for n, when in enumerate(whens)
        }
        for one in victims.values():
            one.service.env["RECONCILE_INTERVAL_S"] = "0.5"
            one.tier()
        forget = remember(qbt)
        for one in victims.values():
            one.relocate()
        forget()
        for when, one in victims.items():
            qbt.wait_for(one.back_on_ssd, "it is back on the SSD", LIMIT_S)
            one.die(f"repeating:{when}")
            one.go_on("repeating")
            one.survive(undone=False)
