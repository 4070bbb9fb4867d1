"""Wait until nothing is under way any more, in the service or in qBittorrent."""

from __future__ import annotations

import time
from typing import Any

from tests.rig.mounts import is_mounted

from .known import Known
from .site import Site

SETTLED_WITHIN_S = 240.0
QUIET_S = 3.0
LOOK_EVERY_S = 0.5
GIVEN_UP = frozenset({"missingFiles", "error"})


def settle(site: Site, limit_s: float = SETTLED_WITHIN_S) -> str:
    """Wait; give what is still under way at the deadline, empty if nothing is. Raises `Stopped`."""
    deadline_s = time.monotonic() + limit_s
    quiet_since_s = None
    why = "nothing was seen"
    while time.monotonic() < deadline_s:
        now_s = time.monotonic()
        if site.service_answers():
            try:
                why = _under_way(site)
            except (OSError, RuntimeError) as error:
                why = f"no answer: {error}"
        else:
            why = "the service does not answer yet"
        if why:
            quiet_since_s = None
        else:
            quiet_since_s = quiet_since_s or now_s
            if now_s - quiet_since_s >= QUIET_S:
                return ""
        site.pause(LOOK_EVERY_S)
    return why


def _under_way(site: Site) -> str:
    status = site.service.get("/status")
    torrents = site.web.torrents()
    if _start_with_its_disk(site, torrents):
        return "qBittorrent was started again"
    broken = _broken_families(site, torrents)
    for process in status["processes"]:
        if process["kind"] != "relocation" or process["hash"] not in broken:
            return f"{process['kind']} {process['name']}: {process['phase']} {process['error']}"
    if status["space"]["current_run"]:
        return "a run of space management"
    if status["queue"]["size"] > status["queue"]["waiting_retry"]:
        return f"{status['queue']['size']} jobs"
    for info in torrents.values():
        if info["state"] == "moving" or info["state"].startswith("checking"):
            return f"qBittorrent: {info['name']} {info['state']}"
    return ""


def _broken_families(site: Site, torrents: dict[str, Any]) -> set[str]:
    """Torrents whose relocation may wait for long: of their family one is removed or forgotten."""
    families: dict[int, list[Known]] = {}
    for known in site.ledger.torrents():
        families.setdefault(known.spec.family, []).append(known)
    listed = {id for family in families.values() for id in (known.id for known in family)}
    broken = {
        known.id
        for family in families.values()
        if any(one.removed or one.id not in torrents for one in family)
        for known in family
    }
    status = site.service.get("/status")
    unknown = {process["hash"] for process in status["processes"]} - listed
    return broken | unknown


def _start_with_its_disk(site: Site, torrents: dict[str, Any]) -> bool:
    """Start a qBittorrent again that gave up torrents since its HDD was away when it began.

    Its user does so, once the disk is there. (A recheck of such a torrent, while it runs, never
    ends on 4.5.) Whether it had to be.
    """
    if not site.began_without_hdd or not is_mounted(site.hdd.at):
        return False
    site.began_without_hdd = False
    infos = ((known, torrents.get(known.id)) for known in site.ledger.torrents())
    given_up = [
        known
        for known, info in infos
        if info is not None
        and info["state"] in GIVEN_UP
        and known.tier_of(info["content_path"]) == "HDD"
    ]
    if given_up:
        site.log(f"its user starts qBittorrent again for {len(given_up)} torrents")
        site.tally.count("qBittorrent started again for its HDD")
        site.qbt.stop()
        site.start_qbittorrent()
    return bool(given_up)
