"""The rules of the checks: what each fact is worth, and that its sentence says what to do."""

from __future__ import annotations

import re
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qbm_trio.core import check_folders, check_qbittorrent, checks
from qbm_trio.core.check_folders import FolderFacts, Mount, TierFacts, mount_of
from qbm_trio.core.check_qbittorrent import Compared
from qbm_trio.core.checks import Finding, Group, Level, key_bits, needs_attention, report
from qbm_trio.core.client import Preferences
from qbm_trio.core.errors import QbittorrentLoginRefused, QbittorrentUnreachable
from qbm_trio.core.placement import Place
from qbm_trio.core.roots import Roots
from tests.rig.seen import SEEDING

SSD = TierFacts(
    setting="DOWNLOAD_PATH_SSD",
    path="/ssd",
    name="SSD",
    tried=True,
    owner="uid 1, gid 2, mode 0755",
    mount=Mount(point="/ssd", fs_type="ext4", source="/dev/sda1"),
    device=1,
    total_bytes=1000 * 10**9,
    free_bytes=500 * 10**9,
    marker="one",
)
HDD = replace(
    SSD,
    setting="FINAL_DEST_BASE_HDD",
    path="/hdd",
    name="HDD",
    mount=Mount(point="/hdd", fs_type="xfs", source="/dev/sdb1"),
    device=2,
    marker="two",
)
ROOTS = Roots(ssd=Path("/ssd"), hdd=Path("/hdd"), path_mappings=(("/downloads", "/ssd"),))
PREFERENCES = Preferences(
    save_path="/downloads/done",
    temp_path="",
    runs_program=True,
    program='/config/qbittorrent-notification.sh "%I" "%K"',
    marks_incomplete=False,
    removes_with_files=False,
)


def levels(findings: list[Finding]) -> dict[str, Level]:
    """What is not ok, by its code."""
    for finding in findings:
        assert finding.level is Level.OK or ";" in finding.message or finding.what, finding
        if finding.level in (Level.WARNING, Level.PROBLEM):
            assert finding.advice, finding
    return {f.code: f.level for f in findings if f.level is not Level.OK}


def tiers(ssd: TierFacts = SSD, hdd: TierFacts = HDD, **changes: Any) -> dict[str, Level]:
    values: dict[str, Any] = {
        "who": "uid 1000, gid 1000",
        "same_storage": None,
        "dry_run": False,
        "threshold_bytes": 100 * 10**9,
        "target_bytes": 110 * 10**9,
        "hdd_min_free_bytes": 10**9,
    }
    return levels(check_folders.check_tiers(ssd, hdd, **values | changes))


# -- keys


@pytest.mark.parametrize(
    "key",
    ["a" * 32, "0123456789abcdef", "abcabcabcabcabcabc", "passwordpassword", "abababababababababab",
     "aaaaaaaabbbbbbbbcccccccc", "abcdefghijklmnopqrstuvwxyz"],
)  # fmt: skip
def test_a_key_that_can_be_guessed_is_warned_of_and_not_shown(key: str) -> None:
    (finding,) = checks.check_key("HTTP_API_KEY", key)
    assert finding.level is Level.WARNING
    assert key not in finding.message
    assert "openssl" in finding.advice


def test_random_keys_are_never_warned_of() -> None:
    for make in (secrets.token_hex, secrets.token_urlsafe):
        assert min(key_bits(make(16)) for _ in range(500)) > checks.WEAK_BITS
    assert checks.check_key("HTTP_API_KEY", "correct horse battery")[0].level is Level.OK
    assert checks.check_key("HTTP_API_KEY", None) == []


def test_settings_that_have_no_effect_and_a_secret_used_twice() -> None:
    found = checks.check_settings(
        ["LOCK_DIR: this is the old name of STATE_DIR; rename it"], dry_run=True, secrets=["a", "a"]
    )
    assert levels(found) == {
        "without_effect": Level.WARNING,
        "shared_secret": Level.WARNING,
        "dry_run": Level.NOTE,
    }
    assert checks.check_settings([], dry_run=False, secrets=["a", "b"]) == []


# -- folders


def test_two_good_tiers_are_all_right() -> None:
    assert tiers() == {}


@pytest.mark.parametrize(
    ("ssd", "hdd", "expected"),
    [
        ({"refused": "Permission denied"}, {}, {"not_writable": Level.PROBLEM}),
        ({"silent": True}, {}, {"silent": Level.PROBLEM}),
        ({"mount": Mount(point="/", fs_type="ext4", source="x")}, {}, {"on_root": Level.NOTE}),
        ({}, {"mount": Mount(point="/", fs_type="ext4", source="x")}, {"on_root": Level.WARNING}),
        (
            {"mount": Mount(point="/", fs_type="overlay", source="x")}, {},
            {"on_root": Level.WARNING},
        ),
        (
            {}, {"mount": Mount(point="/pool", fs_type="fuse.mergerfs", source="x")},
            {"pool": Level.NOTE},
        ),
        ({}, {"device": 1}, {"one_file_system": Level.WARNING}),
        ({"marker": "two"}, {}, {"same_storage": Level.PROBLEM}),
        ({}, {"marker": None}, {"marker_to_come": Level.NOTE}),
        ({}, {"marker": None, "used_before": True}, {"marker_missing": Level.PROBLEM}),
        ({}, {"marker": None, "marker_expected": "two"}, {"marker_missing": Level.PROBLEM}),
        ({}, {"marker_problem": "it is damaged; mend it"}, {"marker_damaged": Level.PROBLEM}),
        ({}, {"marker_expected": "another"}, {"marker_differs": Level.PROBLEM}),
        ({}, {"others": ("/hdd/tv",)}, {"folders_elsewhere": Level.NOTE}),
        ({"total_bytes": 50 * 10**9}, {}, {"threshold_above_size": Level.WARNING}),
        ({"total_bytes": 105 * 10**9}, {}, {"target_above_size": Level.WARNING}),
        ({"free_bytes": 99 * 10**9}, {}, {"ssd_short": Level.NOTE}),
        ({}, {"free_bytes": 10**9}, {"hdd_full": Level.WARNING}),
    ],
)  # fmt: skip
def test_each_fault_of_a_tier_is_found_alone(
    ssd: dict[str, Any], hdd: dict[str, Any], expected: dict[str, Level]
) -> None:
    assert tiers(replace(SSD, **ssd), replace(HDD, **hdd)) == expected


def test_after_dry_runs_alone_there_are_no_markers_and_nobody_is_alarmed() -> None:
    fresh = {"ssd": replace(SSD, marker=None, used_before=True),
             "hdd": replace(HDD, marker=None, used_before=True)}  # fmt: skip
    assert tiers(**fresh, dry_run=True) == {"marker_to_come": Level.NOTE}
    assert tiers(**fresh) == {"marker_missing": Level.WARNING}
    assert tiers(SSD, fresh["hdd"], dry_run=True) == {"marker_missing": Level.PROBLEM}


def test_two_views_of_one_storage_are_one_problem() -> None:
    assert tiers(same_storage="/ssd and /hdd are two views") == {"same_storage": Level.PROBLEM}


def test_a_folder_that_cannot_be_written_says_whose_it_is_and_who_asks() -> None:
    refused = replace(HDD, refused="Permission denied")
    (finding,) = [
        f
        for f in check_folders.check_own(
            FolderFacts(setting="STATE_DIR", path="/state", refused=refused.refused, owner="uid 7"),
            FolderFacts(setting="LOG_FILE", path="/log"),
            who="uid 1000, gid 1000",
        )
        if f.level is not Level.OK
    ]
    assert finding.level is Level.PROBLEM
    assert all(word in finding.message for word in ("/state", "uid 1000", "uid 7", "PUID"))


@pytest.mark.parametrize(("fs_type", "count"), [("nfs4", 1), ("tmpfs", 1), ("ext4", 0)])
def test_the_state_belongs_on_a_local_disk(fs_type: str, count: int) -> None:
    state = FolderFacts(
        setting="STATE_DIR", path="/s", mount=Mount(point="/", fs_type=fs_type, source="x")
    )
    log = FolderFacts(setting="LOG_FILE", path="/l", refused="Read-only file system")
    found = levels(check_folders.check_own(state, log, who="uid 1"))
    assert ("state_place" in found) == bool(count)
    assert found["not_writable"] is Level.WARNING, "standard output has the same lines"


def test_the_mount_of_a_path_is_the_deepest_and_the_last_one() -> None:
    mounts = "\n".join(
        [
            "1 0 8:1 / / rw - ext4 /dev/root rw",
            "2 1 8:2 / /mnt/big\\040disk rw,noatime shared:1 - xfs /dev/sdb1 rw",
            "3 1 8:3 / /mnt rw - ext4 /dev/sdc1 rw",
            "4 1 8:4 / /mnt rw - btrfs /dev/sdd1 rw",
            "nonsense",
        ]
    )
    assert mount_of(mounts, "/mnt/big disk/x") == Mount(
        point="/mnt/big disk", fs_type="xfs", source="/dev/sdb1"
    )
    assert mount_of(mounts, "/mnt/bigger") == Mount(
        point="/mnt", fs_type="btrfs", source="/dev/sdd1"
    )
    assert mount_of(mounts, "/mntx") == Mount(point="/", fs_type="ext4", source="/dev/root")
    assert mount_of("", "/mnt") is None


# -- the clock


@pytest.mark.parametrize(
    ("now", "ahead_s", "expected"),
    [
        (1.8e9, 59.0, {}),
        (1.8e9, None, {}),
        (1.8e9, 61.0, {"clock_differs": Level.WARNING}),
        (1.8e9, -3600.0, {"clock_differs": Level.WARNING}),
        (1000.0, -1.8e9, {"clock_not_set": Level.PROBLEM}),
    ],
)
def test_the_clock(now: float, ahead_s: float | None, expected: dict[str, Level]) -> None:
    assert levels(checks.check_clock(now, others=[("qBittorrent", ahead_s)])) == expected


# -- qBittorrent


@pytest.mark.parametrize(
    ("web_api", "expected"),
    [
        ("2.8.13", {"too_old": Level.PROBLEM}),
        ("2.8.14", {}),
        ("2.8.19", {}),
        ("2.11.4", {}),
        ("2.16.9", {}),
        ("2.17", {"untested_version": Level.WARNING}),
        ("3.0.0", {"untested_version": Level.WARNING}),
    ],
)
def test_versions(web_api: str, expected: dict[str, Level]) -> None:
    assert levels(check_qbittorrent.check_version("v5", web_api)) == expected


def test_what_became_of_the_login_is_said() -> None:
    def said(*, logged_in: bool = False, password: bool = False, api_key: bool = False) -> str:
        return check_qbittorrent.check_login(
            logged_in=logged_in, password=password, api_key=api_key
        ).what

    assert "accepted" in said(logged_in=True, password=True)
    assert "accepted" in said(api_key=True)
    assert "not proven" in said(password=True)
    assert "none was tried" in said()
    away = check_qbittorrent.check_away(QbittorrentUnreachable("not there"), logins_tried=0)
    assert "no login was tried" in away.message
    refused = check_qbittorrent.check_away(QbittorrentLoginRefused("no"), logins_tried=1)
    assert (refused.code, away.code) == ("login_refused", "unreachable")
    assert "one login was tried" in refused.message


CURL = "curl -H @/config/key.txt -d hash=%K http://localhost:{port}/notify/torrent-finished"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"program": CURL.format(port=8081)}, {}),
        ({"runs_program": False}, {"no_hook": Level.NOTE}),
        ({"program": " "}, {"no_hook": Level.NOTE}),
        ({"program": "/usr/bin/unpack %F"}, {"other_hook": Level.NOTE}),
        ({"program": CURL.format(port=9000)}, {"hook_port": Level.WARNING}),
        (
            {"program": CURL.format(port=8081).replace("@/config/key.txt", "'X-API-Key: $KEY'")},
            {"hook_variable": Level.WARNING},
        ),
        ({"program": "/x/qbittorrent-notification.sh %I"}, {"hook_without_id": Level.NOTE}),
        ({"save_path": "/elsewhere"}, {"save_path": Level.NOTE}),
        ({"save_path": "/hdd/x"}, {"save_path": Level.WARNING}),
        ({"temp_path": "/downloads/temp", "marks_incomplete": True}, {}),
        ({"temp_path": "/hdd/temp"}, {"incomplete_folder": Level.NOTE}),
        ({"removes_with_files": True}, {"removes_files": Level.WARNING}),
    ],
)  # fmt: skip
def test_its_own_settings(changes: dict[str, Any], expected: dict[str, Level]) -> None:
    preferences = replace(PREFERENCES, **changes)
    found = check_qbittorrent.check_preferences(preferences, ROOTS, http_port=8081)
    assert levels(found) == expected
    if preferences.program.strip():
        shown = " ".join(f.message for f in found)
        assert preferences.program not in shown, "it may hold a key"


def test_who_has_no_hook_is_sent_to_the_page_that_has_all_of_them() -> None:
    preferences = replace(PREFERENCES, runs_program=False)
    found = check_qbittorrent.check_preferences(preferences, ROOTS, http_port=8081)
    (finding,) = (f for f in found if f.code == "no_hook")
    (page,) = re.findall(r"see (\S+\.md) ", finding.message)
    text = (Path(__file__).resolve().parents[2] / page).read_text(encoding="utf-8")
    assert all(hook in text for hook in ('notification.sh "%I"', 'notify.py "%I"', "hash=%K"))


def test_without_http_no_hook_is_missed() -> None:
    preferences = replace(PREFERENCES, runs_program=False)
    assert levels(check_qbittorrent.check_preferences(preferences, ROOTS, http_port=None)) == {}


# -- paths


def test_a_probe_that_is_seen_proves_the_paths_and_one_that_is_not_is_a_problem() -> None:
    seen = check_qbittorrent.check_probe("SSD", "/ssd", "/downloads", seen=True)
    assert (seen.level, seen.code) == (Level.OK, "same_files")
    unseen = check_qbittorrent.check_probe("SSD", "/ssd", "/downloads", seen=False)
    assert (unseen.level, unseen.code) == (Level.PROBLEM, "paths_differ")
    assert all(word in unseen.message for word in ("/ssd", "/downloads", "PATH_MAPPINGS"))
    none = check_qbittorrent.check_probe("SSD", "/ssd", None, seen=False)
    assert (none.level, none.code) == (Level.PROBLEM, "no_mapping")


def test_one_torrent_that_is_as_listed_is_enough() -> None:
    good = Compared(name="good", their_path="/downloads/g", our_path="/ssd/g", problem=None)
    bad = replace(good, name="bad", problem="No such file or directory")

    def judged(*compared: Compared) -> Finding:
        return check_qbittorrent.check_compared("SSD", "/ssd", "/downloads", compared)

    assert judged(bad, good).level is Level.OK
    assert (judged(bad).code, judged(bad).level) == ("paths_differ", Level.PROBLEM)
    assert "No such file" in judged(bad).message
    assert (judged().code, judged().level) == ("not_proven", Level.NOTE)


def test_torrents_that_are_all_elsewhere_are_a_sign_of_a_missing_mapping() -> None:
    torrents = [replace(SEEDING, content_path="/data/x")]
    found = check_qbittorrent.check_places(torrents, {Place.ELSEWHERE: 1}, ROOTS)
    assert levels(found) == {"all_elsewhere": Level.WARNING}
    assert "/data/x" in found[0].message
    some = check_qbittorrent.check_places(torrents, {Place.ELSEWHERE: 1, Place.SSD: 1}, ROOTS)
    assert levels(some) == {}


# -- what people read


def test_the_report_is_grouped_and_ends_with_a_verdict() -> None:
    findings = [
        Finding(level=Level.OK, code="a", group=Group.CLOCK, what="the clock\nagrees"),
        Finding(level=Level.WARNING, code="b", group=Group.FOLDERS, what="x", advice="mend x"),
        Finding(level=Level.WARNING, code="c", group=Group.FOLDERS, what="y", advice="mend y"),
    ]
    assert report(findings) == [
        "folders:",
        "  warning  x",
        "           -> mend x",
        "  warning  y",
        "           -> mend y",
        "",
        "clock:",
        "  ok       the clock\\nagrees",
        "",
        "The settings can be used: 2 warnings.",
    ]
    problem = replace(findings[1], level=Level.PROBLEM)
    assert report([problem])[-1] == "This will not work as it is: 1 problem."
    assert report(findings[:1])[-1] == "The settings can be used: nothing is wrong."
    assert needs_attention([*findings, problem]) == [problem, *findings[1:]]
