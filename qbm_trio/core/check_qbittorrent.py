"""The rules about qBittorrent: its version, its settings, its view of the files. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from .checks import Finding, Group, Level
from .client import Preferences
from .errors import QbittorrentError, QbittorrentLoginRefused
from .model import Torrent
from .placement import Place, map_path
from .roots import Roots

OLDEST_WEB_API: Final = (2, 8, 14)
"""Of 4.5.0, the first that gives .torrent files."""
NEWEST_WEB_API: Final = (2, 16)
"""Of 5.3, the newest that the facts we rely on were seen with."""

_OUR_SCRIPTS: Final = ("qbittorrent-notification.sh", "qbm_notify.py")
_OUR_PATH: Final = "/notify/torrent-finished"
_URL: Final = re.compile(r"https?://[^\s\"']+?:(\d+)" + re.escape(_OUR_PATH))


def check_version(app: str, web_api: str) -> list[Finding]:
    """Judge the versions, as qBittorrent gives them."""
    numbers = tuple(int(number) for number in re.findall(r"\d+", web_api)[:3])
    what = f"qBittorrent {app} (Web API {web_api})"
    if numbers < OLDEST_WEB_API:
        return [
            _about(
                Level.PROBLEM,
                "too_old",
                f"{what} is too old: it cannot give .torrent files",
                "update it to 4.5 or later",
            )
        ]
    if numbers[:2] > NEWEST_WEB_API:
        return [
            _about(
                Level.WARNING,
                "untested_version",
                f"{what} is newer than what this version was tried with "
                f"(Web API {'.'.join(map(str, NEWEST_WEB_API))})",
                "look for an update of qbm-trio; begin with DRY_RUN=true",
            )
        ]
    return [_about(Level.OK, "version", f"{what} answers")]


def check_away(error: QbittorrentError, *, logins_tried: int) -> Finding:
    """Say that it cannot be asked, and what that leaves open."""
    refused = isinstance(error, QbittorrentLoginRefused)
    tried = "one login was tried, and no more are" if logins_tried else "no login was tried"
    return _about(
        Level.PROBLEM,
        "login_refused" if refused else "unreachable",
        str(error),
        f"{tried}; its version, its settings and its view of the files are not checked",
    )


def check_refusal(error: QbittorrentError) -> Finding:
    """Say that it refused a call that a check made."""
    return _about(Level.WARNING, "call_refused", f"a check was cut short: {error}")


def check_login(*, logged_in: bool, password: bool, api_key: bool) -> Finding:
    """Say how the service got in: an answer has come."""
    if api_key:
        how = "QBIT_API_KEY is accepted"
    elif logged_in:
        how = "the login is accepted"
    elif password:
        how = "it asks no login of this address; none was tried, so QBIT_PASSWORD is not proven"
    else:
        how = "it asks no login of this address, and none was tried"
    return _about(Level.OK, "login", how)


def check_preferences(
    preferences: Preferences, roots: Roots, *, http_port: int | None
) -> list[Finding]:
    """Judge qBittorrent's own settings.

    Args:
        preferences: as it gives them.
        roots: the tiers and the mappings.
        http_port: that the service listens on; None without HTTP.
    """
    found = [] if http_port is None else [_hook(preferences, http_port)]
    found.append(_save_path(preferences.save_path, roots))
    if preferences.temp_path:
        on_hdd = roots.on_hdd(preferences.temp_path) is not None
        found.append(
            _about(
                Level.NOTE if on_hdd else Level.OK,
                "incomplete_folder",
                f"what is incomplete is kept in {preferences.temp_path}"
                + (", on the HDD: downloads run at its speed" if on_hdd else ""),
                "choose a folder on the SSD, not among the finished torrents" if on_hdd else "",
            )
        )
    if preferences.removes_with_files:
        found.append(
            _about(
                Level.WARNING,
                "removes_files",
                "it removes torrents and their files when they reach its share limit: that deletes "
                "the copy on the HDD too, once a torrent seeds from there",
                "choose another action at Settings, BitTorrent, if that is not wanted",
            )
        )
    if preferences.marks_incomplete:
        found.append(
            _about(Level.OK, "incomplete_names", "it marks incomplete files by .!qB, as it may")
        )
    return found


def _save_path(path: str, roots: Roots) -> Finding:
    what = f"its default save path {path}{_as_we_see(path, roots)} is"
    if roots.on_ssd(path) is not None:
        return _about(Level.OK, "save_path", f"{what} on the SSD")
    on_hdd = roots.on_hdd(path) is not None
    return _about(
        Level.WARNING if on_hdd else Level.NOTE,
        "save_path",
        f"{what} on the HDD already" if on_hdd else f"{what} not below {roots.ssd}",
        "what lands there is not copied; set it, or the categories' save paths, to a folder on "
        "the SSD, or correct PATH_MAPPINGS",
    )


def _hook(preferences: Preferences, http_port: int) -> Finding:
    """Judge the program it runs for a finished torrent. It may hold a key: never shown."""
    program = preferences.program if preferences.runs_program else ""
    seconds = "finished torrents are found all the same, within RECONCILE_INTERVAL_S"
    how = "see docs/connect.md for what to enter at Settings, Downloads, Run external program"
    if not program.strip():
        what = f"it runs no program when a torrent finishes: {seconds}"
        return _about(Level.NOTE, "no_hook", what, f"to have them at once, {how}")
    url = _URL.search(program)
    if not any(name in program for name in (*_OUR_SCRIPTS, _OUR_PATH)):
        what = f"the program it runs when a torrent finishes does not call this service: {seconds}"
        return _about(Level.NOTE, "other_hook", what, f"to have them at once, {how}")
    if _OUR_PATH in program and "$" in program and "sh -c" not in program:
        what = "the program it runs when a torrent finishes names a variable ($…)"
        why = "qBittorrent expands none: it is sent as it stands"
        return _about(Level.WARNING, "hook_variable", f"{what}: {why}", how)
    if url is not None and int(url[1]) != http_port != 0:
        what = f"its hook calls port {url[1]}, and the service listens on {http_port}"
        advice = "correct one of them, unless a container publishes the one as the other"
        return _about(Level.WARNING, "hook_port", what, advice)
    if "%K" not in program:
        what = "its hook does not send %K: of torrents of version 2 alone it has no hash"
        return _about(Level.NOTE, "hook_without_id", what, 'add "%K" to it')
    return _about(Level.OK, "hook", "it calls this service when a torrent finishes")


# -- paths -------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What both see of one torrent's files."""

    name: str
    their_path: str  #: of a file that differs; of any, when none does
    our_path: str
    problem: str | None  #: how it differs; None when all are as qBittorrent lists them


def check_probe(name: str, root: str, theirs: str | None, *, seen: bool) -> Finding:
    """Judge whether qBittorrent saw what the service put into a tier.

    Args:
        name: the tier's.
        root: the tier's folder.
        theirs: the same for qBittorrent; None when no mapping leads there.
        seen: whether it listed it.
    """
    if theirs is None:
        return _no_way_back(name, root)
    if seen:
        same = theirs == root
        what = f"qBittorrent sees the {name} at " + (root if same else f"{theirs}, as mapped")
        return _path(Level.OK, "same_files", f"{what}: proven by a probe")
    return _path(
        Level.PROBLEM,
        "paths_differ",
        f"qBittorrent does not see in {theirs} what the service puts into {root}, the {name}",
        "mount the same folder in both, and set PATH_MAPPINGS (qBittorrent's path = the service's "
        "path) if its name differs; qBittorrent's user must be allowed to read it",
    )


def check_compared(
    name: str, root: str, theirs: str | None, compared: Sequence[Compared]
) -> Finding:
    """Judge what both see of some torrents' files on a tier."""
    if theirs is None:
        return _no_way_back(name, root)
    good = [c for c in compared if c.problem is None]
    if good:
        what = f"the files of {good[0].name!r} on the {name} are where qBittorrent lists them"
        return _path(Level.OK, "same_files", f"{what}, with their sizes")
    if compared:
        bad = compared[0]
        return _path(
            Level.PROBLEM,
            "paths_differ",
            f"qBittorrent lists {bad.their_path} of {bad.name!r}, which is {bad.our_path} for the "
            f"service: {bad.problem}",
            "mount the same folder in both, and set PATH_MAPPINGS (qBittorrent's path = the "
            "service's path) if its name differs; or recheck the torrent",
        )
    return _path(
        Level.NOTE,
        "not_proven",
        f"that qBittorrent sees the {name} at {theirs} is not proven: it has no finished torrent "
        "there, and qBittorrent before 5.0 (or DRY_RUN) allows no other way",
        "it is proven for each torrent before its first copy",
    )


def check_places(
    torrents: Sequence[Torrent], places: Mapping[Place, int], roots: Roots
) -> list[Finding]:
    """Judge where all torrents are."""
    elsewhere = places.get(Place.ELSEWHERE, 0)
    on_tiers = places.get(Place.SSD, 0) + places.get(Place.HDD, 0)
    what = (
        f"torrents on the SSD: {places.get(Place.SSD, 0)}, on the HDD: "
        f"{places.get(Place.HDD, 0)}, elsewhere: {elsewhere}"
    )
    if not elsewhere or on_tiers:
        return [_path(Level.OK, "places", what)]
    example = next(t for t in torrents if _is_elsewhere(t, roots)).content_path
    return [
        _path(
            Level.WARNING,
            "all_elsewhere",
            f"{what}, for example at {example}{_as_we_see(example, roots)}; the tiers are "
            f"{roots.ssd} and {roots.hdd}",
            "set PATH_MAPPINGS (qBittorrent's path = the service's path)",
        )
    ]


def _is_elsewhere(torrent: Torrent, roots: Roots) -> bool:
    path = torrent.content_path
    absolute = bool(path) and roots.mapped(path).startswith("/")
    return absolute and roots.on_ssd(path) is None and roots.on_hdd(path) is None


def _as_we_see(path: str, roots: Roots) -> str:
    ours = map_path(path, roots.path_mappings)
    return "" if ours == path else f" ({ours} for the service)"


def _no_way_back(name: str, root: str) -> Finding:
    return _path(
        Level.PROBLEM,
        "no_mapping",
        f"no path of qBittorrent's is mapped to {root}, the {name}: another mapping covers it",
        "correct PATH_MAPPINGS (qBittorrent's path = the service's path)",
    )


def _about(level: Level, code: str, what: str, advice: str = "") -> Finding:
    return Finding(level=level, code=code, group=Group.QBITTORRENT, what=what, advice=advice)


def _path(level: Level, code: str, what: str, advice: str = "") -> Finding:
    return Finding(level=level, code=code, group=Group.PATHS, what=what, advice=advice)
