"""The demo's last part: the SSD fills, the oldest torrent leaves it, the others seed on."""

from __future__ import annotations

import os
import shutil
import time
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from scripts.rig.screen import Screen, landed_table, plan_table, seen_table
from scripts.rig.stage import DemoFailed, Stage
from scripts.rig.waiting import wait_for
from scripts.rig.witness import Witness, judge

TRIGGER = "/space-management/trigger"
PIN_TAG = "qbm-pin"
MB, GB, CHUNK_BYTES = 10**6, 10**9, 2**20

LOOK_EVERY_S = 0.15
ROOM_BYTES = 64 * MB
"""So much is free beyond the threshold before the SSD fills: others write to the disk too."""
MOST_BYTES = 256 * MB
"""With more than this the SSD is not filled: a new threshold is better."""
TARGET_BYTES = MB
"""So much lies the target above the threshold."""
DELETE_GRACE_S = 2
QBITTORRENTS_OWN_REFRESH_MS = 1500
TRIES = 5
SHOWS_WITHIN_S = 1.5  #: what is written; some file systems count it late
PLAN_WITHIN_S = 10.0


class Ballast:
    """A file that fills the SSD as another download would."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()

    @property
    def bytes(self) -> int:
        """Its size."""
        return self._path.stat().st_size

    def clear(self) -> None:
        """Make it empty."""
        os.truncate(self._path, 0)

    def leave_free(self, free_bytes: int) -> bool:
        """Grow or shrink so that about this much is free; whether that can be."""
        more_bytes = shutil.disk_usage(self._path.parent).free - free_bytes
        if self.bytes + more_bytes > MOST_BYTES:
            return False
        if more_bytes < 0:
            os.truncate(self._path, max(0, self.bytes + more_bytes))
        with self._path.open("ab") as file:
            # Random: a file system that compresses is filled as well.
            for at in range(0, more_bytes, CHUNK_BYTES):
                file.write(os.urandom(min(CHUNK_BYTES, more_bytes - at)))
        return True


def free_the_ssd(stage: Stage) -> None:
    """Have the service relocate the oldest torrent, and watch. Raises `DemoFailed`."""
    ids = [*stage.ids]
    # One stays in any case, whatever others write to this disk meanwhile.
    stage.downloader.api.torrents_add_tags(tags=PIN_TAG, torrent_hashes=ids[-1])
    name = stage.ids[ids[-1]].name
    stage.console.print(Text(f'"{name}" gets the tag {PIN_TAG}: it is to stay on the SSD.'))
    # Until now it looked at its torrents more often than it does by itself.
    stage.downloader.api.app_set_preferences({"refresh_interval": QBITTORRENTS_OWN_REFRESH_MS})
    witness = Witness(stage)
    ballast = Ballast(stage.ssd / "another download")
    for _ in range(TRIES):
        before_bytes, run = one_run(stage, witness, ballast)
        if counted(stage)["torrents_relocated"]:
            break
        stage.console.print("Others have freed or filled much on this disk meanwhile. Once more:")
    else:
        raise DemoFailed(
            f"in {TRIES} tries no run relocated a torrent; if others write much to this disk, "
            "set TMPDIR to a place on another"
        )
    witness.look()
    show_run(stage, run, before_bytes)
    show_seen(stage, witness)
    wrong = judge(witness.seen, ids[:-1])
    if wrong:
        raise DemoFailed("; ".join(wrong))


def one_run(stage: Stage, witness: Witness, ballast: Ballast) -> tuple[int, Any]:
    """Make the SSD short and trigger a run; what was free before, and the run's figures."""
    ballast.clear()
    threshold_bytes = restart_with_a_threshold(stage)
    before_bytes = shutil.disk_usage(stage.ssd).free
    # Finds room enough, unless others fill the disk: then the service does not wait for us.
    run = witness.until_ended(stage.service.post(TRIGGER, {})["run_id"], lambda _: None)
    if counted(stage)["torrents_relocated"]:
        stage.console.print("Others fill this disk: the service has begun by itself.")
        return before_bytes, run
    oldest = next(iter(stage.ids.values()))
    short_bytes = oldest.total_bytes // 4
    plan = filled(stage, ballast, threshold_bytes + TARGET_BYTES - short_bytes)
    if plan is None:
        return before_bytes, run
    before_bytes = plan["ssd"]["free_bytes"]
    stage.console.print(
        f"Another download fills the SSD with {ballast.bytes / MB:.0f} MB. "
        f"Free: {before_bytes / GB:.3f} GB."
    )
    show_command(stage, """-d '{"dry_run": true}'""", "(changes nothing; here as a table)")
    stage.console.print(plan_table(plan["torrents"]))
    show_command(stage, "-X POST")
    run_id = stage.service.post(TRIGGER, {})["run_id"]
    remark = f"(run {run_id}: its steps, and what qBittorrent says)"
    stage.console.print(Text(remark, style="italic"))
    with Screen(stage.console).showing(seen_table) as show:
        return before_bytes, witness.until_ended(run_id, show)


def restart_with_a_threshold(stage: Stage) -> int:
    """Start the service again so that the SSD is short soon; the threshold in bytes."""
    service, console = stage.service, stage.console
    known = service.get("/jobs")["jobs"]
    end(stage)
    threshold_bytes = shutil.disk_usage(stage.ssd).free - ROOM_BYTES
    target_bytes = threshold_bytes + TARGET_BYTES
    service.settings = {
        **service.settings,
        "DISK_SPACE_THRESHOLD_GB": f"{threshold_bytes / GB:.9f}",
        "DISK_SPACE_TARGET_GB": f"{target_bytes / GB:.9f}",
        "DELETE_GRACE_S": f"{DELETE_GRACE_S}",
    }
    service.start()
    if service.get("/jobs")["jobs"] != known:
        raise DemoFailed("after the restart /jobs tells something else than before")
    console.print(f"Started again: it still knows its {len(known)} jobs.")
    console.print(
        f"For this demo the SSD counts as short below {threshold_bytes / GB:.3f} GB, just under "
        f"what is\nfree now (DISK_SPACE_THRESHOLD_GB; by default 100)."
    )
    wait_for(lambda: service.get("/status")["qbittorrent"]["reachable"], "it finds qBittorrent")
    return threshold_bytes


def end(stage: Stage) -> None:
    """End the service as a system does. Raises `DemoFailed`."""
    status = stage.service.stop()
    if status != 0:
        raise DemoFailed(f"after SIGTERM the service ended with status {status}, not 0")
    stage.console.print("SIGTERM: the service drained and ended with exit status 0.")


def filled(stage: Stage, ballast: Ballast, free_bytes: int) -> Any:
    """Fill the SSD until the plan is to relocate one torrent; the plan, None if it cannot be."""
    deadline_s = time.monotonic() + PLAN_WITHIN_S
    while time.monotonic() < deadline_s and ballast.leave_free(free_bytes):
        look_until_s = time.monotonic() + SHOWS_WITHIN_S
        while time.monotonic() < look_until_s:
            plan = stage.service.post(TRIGGER, {"dry_run": True})
            if plan["relocate"] == 1 or (plan["relocate"] and ballast.bytes == 0):
                return plan
            if plan["relocate"]:
                break  # too many: it is too full
            time.sleep(LOOK_EVERY_S)
    return None


def counted(stage: Stage) -> Any:
    """What the service has counted since its journal began."""
    return stage.service.get("/status")["statistics"]


def show_command(stage: Stage, options: str, remark: str = "") -> None:
    """Print the call that is made."""
    url = f"{stage.service.url}{TRIGGER}"
    stage.console.print(
        Text(f"\n$ curl -H 'X-API-Key: …' {options} {url}", style="bold"), soft_wrap=True
    )
    if remark:
        stage.console.print(Text(remark, style="italic"))


def show_run(stage: Stage, run: Any, before_bytes: int) -> None:
    """Print what the run measured."""
    freed_bytes = counted(stage)["bytes_freed"]
    ssd = stage.service.post(TRIGGER, {"dry_run": True})["ssd"]
    others_bytes = ssd["free_bytes"] - before_bytes - freed_bytes
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value_bytes, about in (
        ("free before", before_bytes, ""),
        ("freed", freed_bytes, "as the run measured it on the disk"),
        (
            "free after",
            ssd["free_bytes"],
            "others use this disk too" if abs(others_bytes) > MB else "",
        ),
        ("target", ssd["target_bytes"], "met" if run["target_met"] else "missed"),
    ):
        table.add_row(name, Text(f"{value_bytes / GB:.3f} GB", justify="right"), Text(about))
    stage.console.print()
    stage.console.print(table)
    stage.console.print()


def show_seen(stage: Stage, witness: Witness) -> None:
    """Print the steps of those that went, and how steadily all seeded."""
    for looks in witness.seen.values():
        name, end_s = looks[-1].name, looks[-1].at_s
        begun = [next(group) for _, group in groupby(looks, key=lambda one: one.step)]
        ends_s = [*(one.at_s for one in begun[1:]), end_s]
        steps = [
            f"{one.step} {until_s - one.at_s:.1f} s"
            for one, until_s in zip(begun, ends_s, strict=True)
            if one.step not in ("", "done")
        ]
        if steps:
            stage.console.print(Text(f"{name}: {', '.join(steps)}"))
        idle = [n for n, one in enumerate(looks) if not one.seeds]
        if idle:
            back_s = looks[idle[-1] + 1].at_s if idle[-1] + 1 < len(looks) else end_s
            seconds = back_s - looks[idle[0]].at_s
            what = f"did not seed for {seconds:.1f} s, until qBittorrent had checked its copy"
        else:
            what = f"seeded from the {looks[-1].tier} each of the {len(looks)} times we looked"
        stage.console.print(Text(f"{name}: {what}"))


def show_tiers(stage: Stage) -> None:
    """Print what is on both tiers now. Raises `DemoFailed` if it is not as it should."""
    landed = stage.landed()
    files = [file for ours in landed.values() for file in ours]
    stage.console.print(landed_table(files, last="seeds from"))
    wrong = [f"{file.folder}/{file.name} is not as it should be" for file in files if file.wrong]
    for ours in landed.values():
        tags = {tag.strip() for tag in ours[0].tags.split(",")} - {PIN_TAG}
        if tags != ({"hdd"} if ours[0].tier == "HDD" else {"ssd", "hdd"}):
            wrong.append(f"{ours[0].folder} has the tags {ours[0].tags}")
    if wrong:
        raise DemoFailed("; ".join(wrong))
    on_ssd = [file for file in files if file.tier == "SSD"]
    stage.console.print(
        f"{len(files)} files are on the HDD, {len(on_ssd)} of them on the SSD too: "
        "every byte as it was seeded."
    )
