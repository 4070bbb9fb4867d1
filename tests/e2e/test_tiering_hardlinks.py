"""Cross-seeds that are hardlinked elsewhere on the SSD are stored once on the HDD."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from qbm_trio.adapters import journal_copies
from qbm_trio.core.model import Job, JobState, Outcome, TorrentId
from tests.rig.inside import Inside, Put, give, inside, put, tags
from tests.rig.mounts import mounted, run, unmount
from tests.rig.qbt import Qbt
from tests.rig.torrents import make_torrent
from tests.rig.trees import below

pytestmark = pytest.mark.qbittorrent

ROOT = Path(__file__).parents[2]
FILES = {"a": 40_000, "sub/b": 30_000, "sub/c": 20_000}
SIZE = sum(FILES.values())


def both(qbt: Qbt, service: Inside, name: str) -> tuple[Put, Put]:
    """A torrent, and one of another tracker whose files are hardlinks in another folder."""
    first = put(qbt, service.ssd, name, FILES, category="tv")
    folder = service.ssd / "cross seeds"
    for file in FILES:
        (folder / name / file).parent.mkdir(parents=True, exist_ok=True)
        os.link(service.ssd / name / file, folder / name / file)
    made = make_torrent(folder, name, list(FILES), piece_length=32 * 1024)
    return first, give(qbt, made, folder, category="cross")


def inodes(folder: Path) -> list[int]:
    return [(folder / file).stat().st_ino for file in FILES]


def whole(folder: Path, source: Path) -> bool:
    return all((folder / f).read_bytes() == (source / f).read_bytes() for f in FILES)


def checked_whole(qbt: Qbt, id_: str) -> bool:
    """Whether qBittorrent, which was not told that it need not check, has all of it."""
    return qbt.info(id_)["state"] in ("uploading", "stalledUP")


def assert_tiered(job: Job, *, copied: int) -> None:
    assert job.outcome is Outcome.TIERED, job.error
    assert job.bytes_copied == copied


async def test_the_hdd_holds_one_copy_under_two_names_and_qbittorrent_finds_both_whole(
    qbt: Qbt, tmp_path: Path
) -> None:
    async with inside(tmp_path, qbt.url) as service:
        first, second = both(qbt, service, "Once")
        assert_tiered(await service.tier(first.id), copied=SIZE)
        assert_tiered(await service.tier(second.id), copied=0)

        assert inodes(service.hdd / "tv/Once") == inodes(service.hdd / "cross/Once")
        assert service.staging() == []
        assert tags(qbt, first.id) == tags(qbt, second.id) == {"ssd", "hdd"}

        for torrent, folder in ((first, "tv"), (second, "cross")):
            qbt.api.torrents_delete(delete_files=False, torrent_hashes=torrent.id)
            qbt.wait_for(lambda: not {first.id, second.id} <= qbt.ids(), "it is removed")
            id_ = qbt.add(torrent.made.data, save_path=service.hdd / folder)
            qbt.wait_for(partial(checked_whole, qbt, id_), "it was checked, and is whole")
            assert qbt.info(id_)["content_path"] == str(service.hdd / folder / "Once")


async def test_of_a_corrupt_copy_the_cross_seed_gets_a_good_one_of_its_own(
    qbt: Qbt, tmp_path: Path
) -> None:
    async with inside(tmp_path, qbt.url) as service:
        first, second = both(qbt, service, "Corrupt")
        assert_tiered(await service.tier(first.id), copied=SIZE)
        bad = service.hdd / "tv/Corrupt/a"
        before = bad.stat()
        with bad.open("r+b") as file:
            file.seek(20_000)
            file.write(b"rotten")
        os.utime(bad, ns=(before.st_atime_ns, before.st_mtime_ns))

        assert_tiered(await service.tier(second.id), copied=FILES["a"])

        assert whole(service.hdd / "cross/Corrupt", service.ssd / "Corrupt")
        assert bad.read_bytes()[20_000:20_006] == b"rotten"
        # And the first one, compared again, shares the good one.
        assert_tiered(await service.tier(first.id), copied=0)
        assert inodes(service.hdd / "tv/Corrupt") == inodes(service.hdd / "cross/Corrupt")
        (aside,) = below(service.hdd, "*.qbm-conflict-*")
        assert aside.read_bytes()[20_000:20_006] == b"rotten"


async def test_a_differing_file_at_the_destination_still_is_a_conflict(
    qbt: Qbt, tmp_path: Path
) -> None:
    async with inside(tmp_path, qbt.url) as service:
        first, second = both(qbt, service, "Taken")
        assert_tiered(await service.tier(first.id), copied=SIZE)
        (service.hdd / "cross/Taken/sub").mkdir(parents=True)
        (service.hdd / "cross/Taken/sub/b").write_bytes(b"somebody's")
        before = service.contents()

        job = await service.tier(second.id)

        assert (job.state, job.error_code) == (JobState.FAILED, "destination_conflict")
        assert service.contents() == before
        assert service.staging() == []


async def test_one_that_is_renamed_after_its_copy_was_made_is_not_copied_again(
    qbt: Qbt, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with inside(tmp_path, qbt.url) as service:
        torrent = put(qbt, service.ssd, "Old", FILES, category="tv")
        assert_tiered(await service.tier(torrent.id), copied=SIZE)
        qbt.api.torrents_rename_folder(torrent.id, old_path="Old", new_path="New")
        qbt.wait_for(lambda: all((service.ssd / "New" / f).exists() for f in FILES), "renamed")

        assert_tiered(await service.tier(torrent.id), copied=0)

        assert inodes(service.hdd / "tv/Old") == inodes(service.hdd / "tv/New")
        assert whole(service.hdd / "tv/New", service.ssd / "New")
        (said,) = [line for line in caplog.messages if "renamed since" in line]
        assert f"3 files such as {service.hdd / 'tv/Old/a'}" in said
        assert_tiered(await service.tier(torrent.id), copied=0)
        assert caplog.messages.count(said) == 1, "now these are its names"


async def test_both_notified_at_once_are_stored_once(qbt: Qbt, tmp_path: Path) -> None:
    async with inside(tmp_path, qbt.url, MAX_CONCURRENT_COPY_OPERATIONS="2") as service:
        ids = [await service.notify(torrent.id) for torrent in both(qbt, service, "At once")]
        jobs = [await service.ended(job_id) for job_id in ids]
        assert [j.outcome for j in jobs] == [Outcome.TIERED] * 2, jobs
        assert sorted(j.bytes_copied for j in jobs) == [0, SIZE]
        assert inodes(service.hdd / "tv/At once") == inodes(service.hdd / "cross/At once")


@pytest.mark.parametrize(
    ("options", "copied"),
    [
        ("use_ino,category.create=mfs", 0),
        ("use_ino,category.create=epmfs", SIZE),
        ("use_ino,inodecalc=path-hash,category.create=mfs", SIZE),
        ("category.create=mfs", SIZE),
    ],
    ids=["one inode", "existing paths", "an inode for each path", "inodes of its own"],
)
async def test_on_a_pool_it_is_stored_once_where_the_pool_shows_one_inode_and_else_copied(
    qbt: Qbt, tmp_path: Path, options: str, copied: int
) -> None:
    for name in ("one", "two", "hdd"):
        (tmp_path / name).mkdir()
    with mounted(tmp_path / "one"), mounted(tmp_path / "two", size="8m"):
        (tmp_path / "one/tv").mkdir()
        branches = f"{tmp_path / 'one'}:{tmp_path / 'two'}"
        run("mergerfs", "-o", f"{options},minfreespace=0", branches, str(tmp_path / "hdd"))
        try:
            async with inside(tmp_path, qbt.url) as service:
                first, second = both(qbt, service, f"Pooled {options}")
                assert_tiered(await service.tier(first.id), copied=SIZE)
                job = await service.tier(second.id)
                assert_tiered(job, copied=copied)
                assert job.attempts == 0
                for folder in ("tv", "cross"):
                    source = service.ssd / f"Pooled {options}"
                    assert whole(service.hdd / folder / source.name, source)
                assert service.staging() == []
        finally:
            unmount(tmp_path / "hdd")


# -- kill -9 at each step ------------------------------------------------------------------

KILL_ITSELF = """
import inspect, os, signal, sys, trio
from pathlib import Path
from qbm_trio.adapters import disk_calls, hardlinks, publishing
from qbm_trio.tasks import hardlinks as task, tiering
from tests.rig.inside import inside

root, url, hash_, point = sys.argv[1:]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def after(module, name, then=die):
    real = getattr(module, name)
    async def waits(*arguments, **more):
        result = await real(*arguments, **more)
        then()
        return result
    def calls(*arguments, **more):
        result = real(*arguments, **more)
        then()
        return result
    setattr(module, name, waits if inspect.iscoroutinefunction(real) else calls)

def no_rename(*_):
    raise OSError(22, "no such rename here")

def by_link_and_unlink():
    disk_calls.rename_noreplace = no_rename
    os.unlink = die

points = {
    "one of them linked in staging": lambda: after(os, "link"),
    "linked in staging": lambda: after(task, "stage_hardlinks"),
    "proved": lambda: after(task, "identical"),
    "begun in the journal": lambda: setattr(tiering, "publish", die),
    "one of them in place": lambda: after(disk_calls, "move_noreplace"),
    "in place and still in staging": lambda: after(
        publishing, "make_folders", by_link_and_unlink
    ),
    "in place, not in the journal": lambda: after(tiering, "publish"),
    "in the journal, not tagged": lambda: setattr(tiering.Tiering, "_tag", die),
}

async def main():
    points[point]()
    async with inside(Path(root), url) as service:
        await service.tier(hash_)

trio.run(main)
"""


@pytest.mark.parametrize(
    "point",
    [
        "one of them linked in staging",
        "linked in staging",
        "proved",
        "begun in the journal",
        "one of them in place",
        "in place and still in staging",
        "in place, not in the journal",
        "in the journal, not tagged",
    ],
)
async def test_a_kill_at_any_step_costs_nothing_and_the_hardlink_is_known_as_ours(
    qbt: Qbt, tmp_path: Path, point: str
) -> None:
    async with inside(tmp_path, qbt.url) as service:
        first, second = both(qbt, service, f"Killed {point}")
        assert_tiered(await service.tier(first.id), copied=SIZE)
        files = partial(journal_copies.files, torrent_id=TorrentId(first.id))
        recorded = await service.journal.do(files)
        tv, cross = (service.hdd / c / f"Killed {point}" for c in ("tv", "cross"))
        before = inodes(tv)

    program = [sys.executable, "-c", KILL_ITSELF, str(tmp_path), qbt.url, second.id, point]
    with trio.fail_after(30):
        ended = await trio.run_process(program, cwd=ROOT, check=False, stderr=subprocess.STDOUT)
    assert ended.returncode == -signal.SIGKILL
    links = [(tv / file).stat().st_nlink for file in FILES]
    assert max(links) > 1, "it died after the first link"
    assert (max(links) == 3) is (point == "in place and still in staging")

    async with inside(tmp_path, qbt.url) as service:
        job_id = await service.notify(second.id)
        assert_tiered(await service.ended(job_id), copied=0)

        assert inodes(tv) == inodes(cross) == before
        assert [(tv / file).stat().st_nlink for file in FILES] == [2, 2, 2]
        assert await service.journal.do(files) == recorded
        entries = await service.journal.do(
            partial(journal_copies.files, torrent_id=TorrentId(second.id))
        )
        assert [f.ours for f in entries] == [True] * 3
        assert service.staging() == []
        assert list(below(service.hdd, "*.qbm-conflict-*")) == []
        assert tags(qbt, second.id) == {"ssd", "hdd"}
