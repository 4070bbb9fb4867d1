"""The facts that the checks go by, on real file systems, and the checks of a running service."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from qbm_trio.adapters import check_probes
from qbm_trio.adapters.check_probes import (
    COMMAND,
    PROBE_PREFIX,
    SEEN,
    log_facts,
    probe_in,
    state_facts,
)
from qbm_trio.core.check_folders import TierFacts
from qbm_trio.core.checks import Finding, Group, Level
from qbm_trio.settings import load
from qbm_trio.tasks import checks
from tests.fakes.qbittorrent import FakeQbittorrent, away
from tests.rig.inside import Inside, condition, inside
from tests.rig.mounts import bound, mounted

ONE, OTHER = "0b4a0b8e-2d53-4a7e-9b6c-0f6f6a1f1c11", "5c0d8f0a-3d0c-4f51-8f9f-7a8b4f1f2c22"


def facts(root: Path, *, owner: str | None = "o") -> TierFacts:
    return check_probes.tier_facts(
        "DOWNLOAD_PATH_SSD", "SSD", root, owner=owner, used_before=False, expected=None
    )


def test_a_probe_can_be_read_by_others_and_is_gone_afterwards(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with probe_in(tmp_path, "o") as probe:
            assert probe.folder.stat().st_mode & 0o777 == 0o755
            assert [path.name for path in probe.folder.iterdir()] == [SEEN]
            assert abs(probe.clock_ahead_s) < 5
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_check_left_is_removed_and_that_of_a_running_one_is_not(
    tmp_path: Path,
) -> None:
    """Of a service, whose name nobody else has, at once; of a command after an hour."""
    old, own, other, command = (
        tmp_path / f"{PROBE_PREFIX}{name}-1-1" for name in ("old", "own", "other", COMMAND)
    )
    foreign = tmp_path / "x"
    for folder in (old, own, other, command, foreign):
        (folder / SEEN).mkdir(parents=True)
    os.utime(old, (1, 1))
    os.utime(foreign, (1, 1))
    with probe_in(tmp_path, "own") as live:
        with probe_in(tmp_path, "own"):
            assert live.folder.exists()
        with probe_in(tmp_path, COMMAND):
            pass
    assert sorted(tmp_path.iterdir()) == [command, other, foreign]


def test_a_folder_tells_its_mount_its_owner_and_its_room(small_disk: Path) -> None:
    found = facts(small_disk)
    assert (found.refused, found.tried, found.marker) == (None, True, None)
    assert found.mount is not None
    assert (found.mount.point, found.mount.fs_type) == (str(small_disk), "tmpfs")
    assert found.owner.startswith(f"uid {os.geteuid()}, gid ")
    assert found.total_bytes == 512 * 1024
    assert found.device == small_disk.stat().st_dev
    assert facts(small_disk, owner=None).tried is False


def test_a_full_disk_is_no_matter_of_rights(tmp_path: Path) -> None:
    with mounted(tmp_path / "full", options="nr_inodes=1") as full:
        found = facts(full)
    assert (found.refused, found.tried) == (None, False)


def test_a_disk_mounted_read_only_is_refused(tmp_path: Path) -> None:
    with mounted(tmp_path / "ro", options="ro") as disk:
        assert facts(disk).refused == "it is mounted read-only"
        assert log_facts(disk / "log" / "qbm.log").refused == "it is mounted read-only"
        assert state_facts(disk / "state").refused == "it is mounted read-only"


def test_folders_on_other_file_systems_are_found_two_levels_deep(tmp_path: Path) -> None:
    (tmp_path / "tv" / "old" / "older").mkdir(parents=True)
    with mounted(tmp_path / "films") as one, mounted(tmp_path / "tv" / "new") as two:
        assert facts(tmp_path).others == (str(one), str(two))
    assert facts(tmp_path).others == ()


@pytest.mark.parametrize(
    ("there", "expected", "needs_marker", "may"),
    [
        (None, None, False, True),  # before the first start
        (None, None, True, False),  # it was marked once: its disk is away
        (None, ONE, False, False),
        (ONE, ONE, True, True),
        (ONE, None, True, True),
        (OTHER, ONE, True, False),  # another disk
        ("?", None, False, False),
    ],
)
def test_nothing_is_put_where_the_tiers_own_disk_is_not(
    there: str | None, expected: str | None, needs_marker: bool, may: bool, tmp_path: Path
) -> None:
    if there is not None:
        (tmp_path / ".qbm-tier").write_text(there)
    assert check_probes.own_disk(tmp_path, expected, needs_marker=needs_marker) is may
    found = check_probes.tier_facts(
        "FINAL_DEST_BASE_HDD",
        "HDD",
        tmp_path,
        owner="o",
        used_before=False,
        expected=expected,
        needs_marker=needs_marker,
    )
    assert (found.tried, found.refused) == (may, None)


def test_two_names_of_one_folder_are_one_place(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    (one / "sub").mkdir(parents=True)
    two.mkdir()
    assert check_probes.same_storage(one, two, "o") is None
    with bound(one, two):
        assert "two views" in str(check_probes.same_storage(one, two, "o"))
    assert sorted(tmp_path.rglob("*")) == [one, one / "sub", two]


def test_files_are_compared_by_what_qbittorrent_lists(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"12345")
    assert check_probes.compare("t", [("/their/a", file, 5)]).problem is None
    assert "5 bytes" in str(check_probes.compare("t", [("/their/a", file, 6)]).problem)
    assert "regular" in str(check_probes.compare("t", [("/their", tmp_path, 5)]).problem)
    missing = check_probes.compare("t", [("/a", file, 5), ("/b", tmp_path / "b", 5)])
    assert (missing.their_path, missing.problem) == ("/b", "No such file or directory")


def test_the_log_file_is_opened_and_never_made(tmp_path: Path) -> None:
    file = tmp_path / "log" / "qbm.log"
    assert log_facts(file).refused is None
    assert not file.parent.exists()
    file.mkdir(parents=True)
    assert log_facts(file).refused == "Is a directory"


async def test_a_disk_that_hangs_is_said_and_holds_up_nothing_else(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    real = check_probes.tier_facts

    def hang(setting: str, name: str, root: Path, **options: object) -> TierFacts:
        if name == "HDD":
            release.wait(60)
        return real(setting, name, root, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(check_probes, "tier_facts", hang)
    monkeypatch.setattr(checks, "LIMIT_S", 0.2)
    fake = FakeQbittorrent()
    with trio.fail_after(20):
        found = await checks.check_all(load(environ)[0], fake, [])
    release.set()
    silent = [f for f in found if f.code == "silent"]
    assert [f.level for f in silent] == [Level.PROBLEM]
    assert environ["FINAL_DEST_BASE_HDD"] in silent[0].message
    assert {"version", "places"} <= {f.code for f in found}


# -- in the service


def codes(it: Inside) -> set[str]:
    return {finding.code for finding in it.service.checks.shown}


async def test_a_service_checks_when_qbittorrent_is_there_and_again_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(checks, "AGAIN_S", 0.0)
    fake = FakeQbittorrent()
    fake.down = away()
    fake.preferred = replace(fake.preferred, removes_with_files=True)
    async with inside(tmp_path, client=fake, RECONCILE_INTERVAL_S="0.1") as it:
        await condition(lambda: "on_root" in codes(it) or "one_file_system" in codes(it))
        assert "removes_files" not in codes(it)
        assert "unreachable" not in codes(it), "/status says it, as it is now"
        fake.down = None
        with trio.fail_after(40):
            await condition(lambda: "removes_files" in codes(it))
        said = [r.getMessage() for r in caplog.records if "share limit" in r.getMessage()]
        assert len(said) == 1

        # Away and back: perhaps another one, with other settings.
        fake.preferred = replace(fake.preferred, removes_with_files=False)
        fake.down = away()
        await condition(lambda: not fake.contact.reachable)
        fake.down = None
        with trio.fail_after(40):
            await condition(lambda: "removes_files" not in codes(it))
    told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("check: ")]
    assert len(told) == len(set(told)), "each once"
    assert any("share limit" in line for line in told)


async def test_a_problem_is_looked_at_again_until_it_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(checks, "AGAIN_S", 0.0)
    monkeypatch.setattr(checks, "RENEW_S", 0.05)
    monkeypatch.setattr("qbm_trio.core.check_qbittorrent.OLDEST_WEB_API", (2, 99))
    fake = FakeQbittorrent()
    fake.preferred = replace(fake.preferred, removes_with_files=True)
    async with inside(tmp_path, client=fake, RECONCILE_INTERVAL_S="0.1") as it:
        await condition(lambda: "too_old" in codes(it))
        shown = it.service.checks.shown
        with trio.fail_after(40):
            await condition(lambda: it.service.checks.shown is not shown)
        assert {"too_old", "removes_files"} <= codes(it), "no gap in between"
        monkeypatch.undo()
        monkeypatch.setattr(checks, "AGAIN_S", 0.0)
        monkeypatch.setattr(checks, "RENEW_S", 0.05)
        with trio.fail_after(40):
            await condition(lambda: "too_old" not in codes(it))
        # With nothing but warnings no disk is woken for another look.
        shown, looks = it.service.checks.shown, fake.requests
        await condition(lambda: fake.requests >= looks + 10)  # the reconciler goes on
        assert it.service.checks.shown is shown
        assert "removes_files" in codes(it)
    told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("check")]
    assert len(told) == len(set(told)), "each once"
    assert sum(line.startswith("checked: ") for line in told) == 2


async def test_a_check_that_ends_while_the_service_stops_says_nothing(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The last line of the log names the recovery point."""
    fake = FakeQbittorrent()
    fake.reachable.value = True
    it = checks.Checks(load(environ)[0], fake, torrents=fake.torrents)

    async def remote() -> list[Finding]:
        nursery.cancel_scope.cancel()  # and the last wait was shielded: it ends well
        return [Finding(level=Level.WARNING, code="late", group=Group.FOLDERS, what="too late")]

    monkeypatch.setattr(it, "remote", remote)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(checks.ServiceChecks(it, fake).run)
    assert nursery.cancel_scope.cancelled_caught
    assert "too late" not in caplog.text


async def test_a_bug_in_the_checks_ends_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def bug(*_: object, **__: object) -> TierFacts:
        raise ZeroDivisionError

    monkeypatch.setattr(check_probes, "tier_facts", bug)
    async with inside(tmp_path, client=FakeQbittorrent()) as it:
        await condition(lambda: "a bug ends the checks" in caplog.text)
        assert it.service.observer.health().status == "healthy"
