"""The disks of the tests themselves: each qBittorrent sees them as we do; nothing stays."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.rig import disks as disks_module
from tests.rig.disks import (
    LET_GO,
    Disk,
    loop_devices,
    pooled,
    real_qbittorrent,
    shared_place,
    two_disks,
)
from tests.rig.inside import give, make
from tests.rig.mounts import bound, mounts_below, run
from tests.rig.qbt import Qbt

pytestmark = [
    pytest.mark.qbittorrent,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with shared_place(tmp_path_factory.mktemp("place")) as folder:
        yield folder


@pytest.fixture(scope="module", params=["4.5.2", "5.1.0"])
def qbt(request: pytest.FixtureRequest, place: Path) -> Iterator[Qbt]:
    with real_qbittorrent(request.param, place) as started:
        assert started.api.app_version() == f"v{request.param}"
        yield started


@pytest.fixture
def disks(place: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Disk, Disk]]:
    with two_disks(place / request.node.name) as both:
        yield both


def seen_by(qbt: Qbt, path: Path) -> Path:
    """The same path, as its process sees it."""
    assert qbt.process is not None
    return Path(f"/proc/{qbt.process.pid}/root{path}")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_disk_made_after_its_start_comes_and_goes_for_qbittorrent_too(
    qbt: Qbt, disks: tuple[Disk, Disk]
) -> None:
    _, hdd = disks
    inside = seen_by(qbt, hdd.at)
    for unmount in (hdd.unmount, hdd.unmount_idle):
        (hdd.at / "file").touch()
        assert names(inside) == {"file"}
        assert inside.stat().st_dev == hdd.at.stat().st_dev
        unmount()
        assert names(inside) == names(hdd.at) == set()
        assert inside.stat().st_dev == hdd.at.stat().st_dev
        hdd.mount()
        assert names(inside) == {"file"}


def test_a_disk_goes_away_from_under_those_who_use_it(qbt: Qbt, disks: tuple[Disk, Disk]) -> None:
    _, hdd = disks
    (hdd.at / "file").write_text("here")
    with (seen_by(qbt, hdd.at) / "file").open() as used:
        with pytest.raises(RuntimeError, match="busy"):
            hdd.unmount_idle()
        hdd.unmount()
        assert names(seen_by(qbt, hdd.at)) == set()
        assert used.read() == "here"
        hdd.mount()  # while the old mount is still there for them
    assert names(seen_by(qbt, hdd.at)) == {"file"}


def test_a_disk_is_read_only_for_all(qbt: Qbt, disks: tuple[Disk, Disk]) -> None:
    _, hdd = disks
    for folder in (hdd.at, seen_by(qbt, hdd.at)):
        hdd.remount(read_only=True)
        with pytest.raises(OSError, match="Read-only"):
            (folder / "file").touch()
        hdd.remount(read_only=False)
        (folder / "file").touch()


def test_aliases_are_seen_by_qbittorrent_too(qbt: Qbt, disks: tuple[Disk, Disk]) -> None:
    ssd, hdd = disks
    (ssd.at / "file").touch()
    with bound(ssd.at, hdd.at / "bound"), pooled([hdd.at, ssd.at], hdd.at / "pool"):
        for alias in ("bound", "pool"):
            assert "file" in names(seen_by(qbt, hdd.at / alias))
    assert names(seen_by(qbt, hdd.at / "bound")) == names(seen_by(qbt, hdd.at / "pool")) == set()


def test_a_disk_that_was_there_before_its_start_can_be_taken_away(place: Path, qbt: Qbt) -> None:
    with two_disks(place / f"before {type(qbt.launcher).__name__}") as (_, hdd):
        qbt.stop()
        (hdd.at / "file").touch()
        qbt.start()
        assert names(seen_by(qbt, hdd.at)) == {"file"}
        hdd.unmount_idle()  # nobody holds it
        assert names(seen_by(qbt, hdd.at)) == set()


def test_what_the_disks_are_for_qbittorrent_moves_the_only_copy_into_an_empty_mount_point(
    qbt: Qbt, disks: tuple[Disk, Disk]
) -> None:
    """A known fact of both versions, and so a proof that it sees what we do."""
    ssd, hdd = disks
    made = make(ssd.at, "Moved", 40_000)
    make(hdd.at, "Moved", 40_000)
    put = give(qbt, made, ssd.at)
    hdd.unmount()
    qbt.api.torrents_set_location(str(hdd.at), torrent_hashes=put.id)
    qbt.wait_for(
        lambda: qbt.info(put.id)["content_path"] == str(hdd.at / "Moved"), "it has moved there"
    )
    assert names(ssd.at) == set()
    assert names(hdd.at) == {"Moved"}
    qbt.api.torrents_delete(delete_files=False, torrent_hashes=put.id)


def test_a_disk_can_be_filled_and_has_its_room_again(tmp_path: Path) -> None:
    with shared_place(tmp_path / "place") as place, two_disks(place) as (ssd, _):
        before_bytes = ssd.free_bytes
        assert before_bytes > 0.9 * ssd.size_bytes
        for leave_bytes in (0, 1_000_000):
            filler = ssd.fill(leave_bytes=leave_bytes)
            assert abs(ssd.free_bytes - leave_bytes) < 50_000
            with pytest.raises(OSError, match="No space left") as raised:
                (ssd.at / "more").write_bytes(bytes(leave_bytes + 100_000))
            assert raised.value.errno == errno.ENOSPC
            (ssd.at / "more").unlink()
            filler.unlink()
        assert before_bytes - ssd.free_bytes < 50_000


@pytest.mark.parametrize("version", ["4.5.2", "5.1.0"])
def test_nothing_stays_when_a_test_fails(tmp_path: Path, version: str) -> None:
    folder, device = tmp_path / "place", 0

    def test() -> None:
        nonlocal device
        with shared_place(folder), real_qbittorrent(version, folder) as qbt:
            device = folder.stat().st_dev
            ssd, hdd = Disk(folder / "a/ssd"), Disk(folder / "a/hdd")
            give(qbt, make(hdd.at, "Held", 40_000), hdd.at)
            for name in ("bound", "pool"):
                (ssd.at / name).mkdir()
            run("mount", "--bind", str(hdd.at), str(ssd.at / "bound"))
            run("mergerfs", str(hdd.at), str(ssd.at / "pool"))
            assert len(mounts_below(folder)) == 5
            assert len(loop_devices(device)) == 2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        test()
    assert mounts_below(folder) == []
    assert loop_devices(device) == []
    assert names(folder) == set()


def test_a_disk_that_somebody_still_uses_fails_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disks_module, "DETACHED_WITHIN_S", 0)
    with ExitStack() as users:

        def test() -> None:
            with shared_place(tmp_path / "place") as place:
                users.enter_context((Disk(place / "ssd").at / "file").open("w"))

        with pytest.raises(AssertionError, match="in use by somebody"):
            test()
    assert mounts_below(tmp_path / "place") == []


@pytest.mark.parametrize("first", [LET_GO, "true"])
def test_a_namespace_of_another_test_holds_no_disk_once_it_lets_go(
    first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["unshare", "--mount", "--propagation", "private", "--fork", "--kill-child"]
    with ExitStack() as others:

        def test() -> None:
            with shared_place(tmp_path / "place") as place:
                Disk(place / "ssd")
                script = f"{first}; echo; exec sleep infinity"
                other = others.enter_context(
                    subprocess.Popen([*command, "sh", "-c", script], stdout=subprocess.PIPE)
                )
                others.callback(other.kill)
                assert other.stdout is not None
                assert other.stdout.readline() == b"\n"

        if first == LET_GO:
            test()
        else:
            monkeypatch.setattr(disks_module, "DETACHED_WITHIN_S", 0)
            with pytest.raises(AssertionError, match=r"mounted in .*sleep infinity"):
                test()
