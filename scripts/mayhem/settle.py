"""Wait until nothing is under way any more, in the service or in qBittorrent."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from tests.rig.mounts import is_mounted

from .site import Site

SETTLED_WITHIN_S = 240.0
QUIET_S = 3.0
LOOK_EVERY_S = 0.5
GIVEN_UP = frozenset({"missingFiles", "error"})


def settle(site: Site, limit_s: float = SETTLED_WITHIN_S) -> str:
    """Wait; give what is still under way at the deadline, empty if nothing is. Raises `Stopped`."""
    began_s = time.monotonic()
    deadline_s = began_s + limit_s
    quiet_since_s = None
    why = "nothing was seen"
    while time.monotonic() < deadline_s:
        now_s, before = time.monotonic(), why
        if site.service_answers():
            try:
                why = _under_way(site)
            except (OSError, RuntimeError) as error:
                why = f"no answer: {error}"
        else:
            why = "the service does not answer yet"
        if why != before:
            site.log(f"settles, after {now_s - began_s:.0f} s: {why or 'nothing is under way'}")
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
    waited_for = _waited_for(site, torrents.keys())
    for process in status["processes"]:
        if process["kind"] != "relocation" or process["hash"] in waited_for:
            return f"{process['kind']} of {process['name']}: {process['phase']} {process['error']}"
    if status["space"]["current_run"]:
        return "a run of space management"
    if queued := status["queue"]["size"]:
        return f"{queued} jobs are queued"
    for info in torrents.values():
        if info["state"] == "moving" or info["state"].startswith("checking"):
            return f"qBittorrent: {info['name']} {info['state']}"
    return ""


def _waited_for(site: Site, listed: Collection[str]) -> set[str]:
    """The ids of the torrents whose relocations end soon.

    Not those that share files with one that is removed, or forgotten by qBittorrent: a
    service cannot tell the one from the other at once, and may wait for long.
    """
    known = site.ledger.torrents()
    gone = {one.spec.family for one in known if one.removed or one.id not in listed}
    gone |= site.ledger.broken_families()
    return {one.id for one in known if one.spec.family not in gone}


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
