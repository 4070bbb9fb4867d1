"""What hardlinked cross-seeds share is on the HDD once, and only if it is right."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from qbm_trio.adapters import copy_pieces, copy_stream, journal_copies
from qbm_trio.adapters.copying import copy_and_verify
from qbm_trio.adapters.hardlinks import find_originals, stage_hardlinks
from qbm_trio.adapters.journal_copies import CopyFile
from qbm_trio.adapters.looking import Seen
from qbm_trio.core.errors import DiskError
from qbm_trio.core.model import Job, JobState, Outcome, TorrentId, Verification, WaitReason
from qbm_trio.tasks import hardlinks as tasks_hardlinks
from qbm_trio.tasks.hardlinks import Turns
from tests.fakes.qbittorrent import FakeQbittorrent
from tests.rig.inside import Inside, inside, make
from tests.rig.mounts import mounted
from tests.rig.torrents import Version, make_torrent, write_files

FILES = {"a": 40_000, "b": 20_000}
BOTH = sum(FILES.values())
ROOT = Path(__file__).parents[2]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


class World:
    """A torrent, and cross-seeds of it whose files are hardlinks elsewhere on the SSD."""

    def __init__(self, fake: FakeQbittorrent, service: Inside) -> None:
        self.fake = fake
        self.service = service
        self.hdd = service.hdd

    def first(self, *, category: str = "tv", version: Version = Version.V1) -> TorrentId:
        made = make(self.service.ssd, "A", FILES, version=version)
        return self.fake.add(made.data, save_path=str(self.service.ssd), category=category)

    def cross_seed(
        self,
        name: str = "B",
        *,
        of: str = "A",
        category: str = "cross",
        more: Mapping[str, int] | None = None,
        version: Version = Version.V1,
    ) -> TorrentId:
        """Hardlink the files of ``of`` below another folder, and make a torrent of them."""
        folder = self.service.ssd / "links"
        names = list(FILES)
        (folder / name).mkdir(parents=True)
        for file in FILES:
            os.link(self.service.ssd / of / file, folder / name / file)
        if more:
            write_files(folder / name, more, seed=9)
            names += more
        # Pieces that begin elsewhere than the first torrent's, and cross all borders.
        made = make_torrent(folder, name, names, version=version, piece_length=32 * 1024)
        return self.fake.add(made.data, save_path=str(folder), category=category)

    async def tier(self, id_: TorrentId, *, copied: int) -> Job:
        """Do the whole job of a torrent, which must copy so many bytes and end well."""
        job = await self.service.tier(id_)
        assert (job.outcome, job.attempts) == (Outcome.TIERED, 0), job.error
        assert (job.bytes_copied, job.bytes_total) == (copied, copied)
        assert self.service.staging() == []
        return job

    async def files(self, id_: TorrentId) -> list[CopyFile]:
        """What the journal has of a torrent's copy."""
        return await self.service.journal.do(partial(journal_copies.files, torrent_id=id_))

    def inodes(self, *names: str) -> list[int]:
        """The inodes of the files ``a`` and ``b`` in these folders of the HDD."""
        return [(self.hdd / name / file).stat().st_ino for name in names for file in FILES]

    def shared(self, one: str, other: str) -> bool:
        """Whether two folders on the HDD hold the same files, not only equal ones."""
        return self.inodes(one) == self.inodes(other)

    def whole(self, folder: str, source: str) -> bool:
        """Whether a folder on the HDD holds what one on the SSD does."""
        return all(
            (self.hdd / folder / f).read_bytes() == (self.service.ssd / source / f).read_bytes()
            for f in FILES
        )


def status(path: Path) -> tuple[int, ...]:
    """All that must not change of a file that somebody else has."""
    s = path.stat()
    return s.st_ino, s.st_size, s.st_mtime_ns, s.st_mode, s.st_uid, s.st_gid, *path.read_bytes()


# -- the good way ------------------------------------------------------------------------


@pytest.mark.parametrize("verification", Verification)
@pytest.mark.parametrize("version", Version)
async def test_a_hardlinked_cross_seed_is_stored_once_under_two_names(
    tmp_path: Path, verification: Verification, version: Version
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake, VERIFICATION=verification.value) as service:
        world = World(fake, service)
        first, second = world.first(version=version), world.cross_seed(version=version)
        await world.tier(first, copied=BOTH)
        for file in FILES:  # set by hand: they are the first torrent's, and stay
            if os.geteuid() == 0:
                os.chown(world.hdd / "tv/A" / file, 1234, 1234)
            (world.hdd / "tv/A" / file).chmod(0o640)
        before = [status(world.hdd / "tv/A" / f) for f in FILES]
        recorded = await world.files(first)

        await world.tier(second, copied=0)

        assert world.shared("tv/A", "cross/B")
        assert [(world.hdd / "cross/B" / f).stat().st_nlink for f in FILES] == [2, 2]
        assert [status(world.hdd / "tv/A" / f) for f in FILES] == before
        assert await world.files(first) == recorded
        assert [(f.path, f.ours, f.inode) for f in await world.files(second)] == [
            ("cross/B/a", True, recorded[0].inode),
            ("cross/B/b", True, recorded[1].inode),
        ]
        assert fake.tags(second) == {"ssd", "hdd"}


async def test_a_cross_seed_on_the_same_paths_with_another_category_is_stored_once(
    tmp_path: Path,
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        world = World(fake, service)
        first = world.first()
        made = make_torrent(service.ssd, "A", list(FILES), piece_length=32 * 1024)
        second = fake.add(made.data, save_path=str(service.ssd), category="cross")
        await world.tier(first, copied=BOTH)
        await world.tier(second, copied=0)
        assert world.shared("tv/A", "cross/A")


async def test_a_third_cross_seed_finds_a_copy_also_when_the_first_name_is_gone(
    tmp_path: Path,
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        world = World(fake, service)
        await world.tier(world.first(), copied=BOTH)
        await world.tier(world.cross_seed(), copied=0)
        (world.hdd / "tv/A/a").unlink()
        await world.tier(world.cross_seed("C"), copied=0)
        assert world.shared("cross/B", "cross/C")


async def test_what_a_torrent_adopted_is_shared_too(tmp_path: Path) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        world = World(fake, service)
        first = world.first()
        (world.hdd / "tv/A").mkdir(parents=True)
        for file in FILES:
            (world.hdd / "tv/A" / file).write_bytes((service.ssd / "A" / file).read_bytes())
        await world.tier(first, copied=0)
        await world.tier(world.cross_seed(), copied=0)
        assert world.shared("tv/A", "cross/B")
        assert [f.ours for f in await world.files(first)] == [False, False]


async def test_only_what_is_not_shared_is_copied_and_never_into_what_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also not when a piece that both are in was read wrong, and is written again."""
    fake = FakeQbittorrent()
    real_read, real_open = copy_stream.OpenInput.read_into, os.open
    spoiled: list[Path] = []
    written: set[int] = set()

    def read_into(self: copy_stream.OpenInput, view: memoryview, offset_bytes: int) -> None:
        real_read(self, view, offset_bytes)
        if self.path.name == "nfo" and not spoiled:
            spoiled.append(self.path)
            view[0] ^= 1

    def open_(path: Any, flags: int, *arguments: Any, **more: Any) -> int:
        fd = real_open(path, flags, *arguments, **more)
        if flags & os.O_ACCMODE != os.O_RDONLY:
            written.add(os.fstat(fd).st_ino)
        return fd

    async with inside(tmp_path, client=fake) as service:
        world = World(fake, service)
        first, second = world.first(), world.cross_seed(more={"nfo": 30_000})
        await world.tier(first, copied=BOTH)
        monkeypatch.setattr(copy_stream.OpenInput, "read_into", read_into)
        monkeypatch.setattr(os, "open", open_)
        await world.tier(second, copied=30_000)
        monkeypatch.undo()
        assert spoiled
        assert world.shared("tv/A", "cross/B")
        nfo = world.hdd / "cross/B/nfo"
        assert nfo.read_bytes() == (service.ssd / "links/B/nfo").read_bytes()
        assert nfo.stat().st_ino in written
        assert written.isdisjoint(world.inodes("tv/A"))


async def test_beside_an_unwanted_file_the_shared_one_is_compared_with_its_source(
    tmp_path: Path,
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        world = World(fake, service)
        first, second = world.first(), world.cross_seed(more={"nfo": 30_000})
        fake.change_file(second, 2, priority=0)
        (service.ssd / "links/B/nfo").unlink()
        await world.tier(first, copied=BOTH)
        await world.tier(second, copied=0)
        assert world.shared("tv/A", "cross/B")


async def test_a_hardlink_needs_no_room_and_what_must_be_copied_beside_it_does(
    tmp_path: Path,
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        world = World(fake, service)
        await world.tier(world.first(), copied=BOTH)
    async with inside(tmp_path, client=fake, HDD_MIN_FREE_GB="1000000") as service:
        world = World(fake, service)
        await world.tier(world.cross_seed(), copied=0)
        more = world.cross_seed("C", more={"nfo": 30_000})
        job = await service.waits(await service.notify(more))
        assert job.wait_reason is WaitReason.SPACE
        assert "30000 bytes are needed" in (job.error or "")


async def test_many_files_are_asked_for_in_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks_hardlinks, "PAGE", 1)
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        world = World(fake, service)
        await world.tier(world.first(), copied=BOTH)
        await world.tier(world.cross_seed(), copied=0)


async def test_a_dry_run_says_what_would_be_hardlinked(tmp_path: Path) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        world = World(fake, service)
        await world.tier(world.first(), copied=BOTH)
        second = world.cross_seed(more={"nfo": 30_000})
        job = await service.service.jobs.get(await service.notify(second))
        said = await service.service.tiering.describe(job)
        assert "would copy 30000 bytes in 1 file" in said
        assert "hardlink 2 files of another torrent there" in said


async def test_readback_reads_what_is_shared_past_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[str] = []
    real = copy_pieces.drop

    def drop(source: copy_stream.Input, **more: Any) -> None:
        dropped.append(source.path.name)
        real(source, **more)

    monkeypatch.setattr("qbm_trio.adapters.copy_compare.drop", drop)
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake, VERIFICATION="readback") as service:
        world = World(fake, service)
        await world.tier(world.first(), copied=BOTH)
        assert dropped == []
        await world.tier(world.cross_seed(), copied=0)
        assert dropped == ["0", "1"]  # as they are staged


# -- whatever is not as it should be is copied -------------------------------------------


def rot(path: Path) -> None:
    """Change a byte so that nothing but reading tells."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


async def test_of_a_corrupt_copy_the_cross_seed_gets_a_good_one_of_its_own(tmp_path: Path) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        world = World(fake, service)
        first, second, third = world.first(), world.cross_seed(), world.cross_seed("C")
        await world.tier(first, copied=BOTH)
        rot(world.hdd / "tv/A/a")
        before = status(world.hdd / "tv/A/a")
        await world.tier(second, copied=FILES["a"])
        assert world.whole("cross/B", "links/B")
        assert status(world.hdd / "tv/A/a") == before
        assert world.inodes("cross/B")[1] == world.inodes("tv/A")[1]
        # The next one shares the good one: it was proved last.
        await world.tier(third, copied=0)
        assert world.shared("cross/B", "cross/C")


def replaced_by_an_equal_one(path: Path) -> None:
    before, data = path.stat(), path.read_bytes()
    path.with_name("new").write_bytes(data)
    os.utime(path.with_name("new"), ns=(before.st_atime_ns, before.st_mtime_ns))
    path.with_name("new").replace(path)


def replaced_by_a_symbolic_link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def in_a_folder_that_leads_away(path: Path) -> None:
    away = path.parents[3] / "away"
    path.parent.rename(away)
    path.parent.symlink_to(away)


CHANGES: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "another time": lambda path: os.utime(path, ns=(1, 1)),
    "another size": lambda path: os.truncate(path, 7),
    "another file": replaced_by_an_equal_one,
    "a symbolic link": replaced_by_a_symbolic_link,
    "outside the tier": in_a_folder_that_leads_away,
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_copy_that_is_not_as_recorded_is_not_even_read(
    tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        world = World(fake, service)
        await world.tier(world.first(), copied=BOTH)
        for file in FILES if change != "outside the tier" else ["a"]:
            CHANGES[change](world.hdd / "tv/A" / file)
        second = world.cross_seed()
        linked: list[object] = []
        monkeypatch.setattr(os, "link", lambda *_, **__: linked.append(_))
        await world.tier(second, copied=BOTH)
        assert linked == []
        assert world.whole("cross/B", "links/B")


@pytest.mark.parametrize("number", ["EXDEV", "EPERM", "EMLINK", "EOPNOTSUPP", "EIO"])
async def test_where_no_hardlink_can_be_made_it_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        world = World(fake, service)
        first, second = world.first(), world.cross_seed()
        await world.tier(first, copied=BOTH)

        def refuse(*_: object, **__: object) -> None:
            raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))

        monkeypatch.setattr(os, "link", refuse)
        await world.tier(second, copied=BOTH)
        assert world.whole("cross/B", "links/B")


async def test_a_pool_that_makes_a_symbolic_link_instead_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As mergerfs does with ``link-exdev``."""

    def link(source: str, target: str, *, dst_dir_fd: int, **_: object) -> None:
        os.symlink(world.hdd / "tv/A" / source, target, dir_fd=dst_dir_fd)

    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        world = World(fake, service)
        first, second = world.first(), world.cross_seed()
        await world.tier(first, copied=BOTH)
        monkeypatch.setattr(os, "link", link)
        await world.tier(second, copied=BOTH)
        assert not (world.hdd / "cross/B/a").is_symlink()
        assert world.whole("cross/B", "links/B")


@needs_root
async def test_on_another_file_system_it_is_copied_and_shared_there(tmp_path: Path) -> None:
    fake = FakeQbittorrent()
    with mounted(tmp_path / "hdd/tv"), mounted(tmp_path / "hdd/cross"):
        async with inside(tmp_path, client=fake) as service:
            world = World(fake, service)
            await world.tier(world.first(), copied=BOTH)
            await world.tier(world.cross_seed(), copied=BOTH)
            assert world.whole("cross/B", "links/B")
            # What was published last is on the other file system; what came first is on this.
            await world.tier(world.cross_seed("C", category="tv"), copied=0)
            assert world.shared("tv/A", "tv/C")


async def test_a_file_that_takes_the_place_of_a_copy_just_before_the_hardlink_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        world = World(fake, service)
        first, second = world.first(), world.cross_seed()
        await world.tier(first, copied=BOTH)
        real = stage_hardlinks

        async def stage(*arguments: Any, **more: Any) -> Any:
            replaced_by_an_equal_one(world.hdd / "tv/A/a")
            return await real(*arguments, **more)

        monkeypatch.setattr(tasks_hardlinks, "stage_hardlinks", stage)
        await world.tier(second, copied=FILES["a"])
        assert (world.hdd / "tv/A/a").stat().st_nlink == 1


async def test_the_number_of_an_inode_that_was_used_again_for_another_size_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        world = World(fake, service)
        await world.tier(world.first(), copied=BOTH)
        for file, size in FILES.items():
            (service.ssd / "A" / file).write_bytes(os.urandom(size - 1))
        second = world.cross_seed()
        linked: list[object] = []
        monkeypatch.setattr(os, "link", lambda *_, **__: linked.append(_))
        await world.tier(second, copied=BOTH - 2)
        assert linked == []


async def test_the_number_of_an_inode_that_was_used_again_costs_only_a_read(
    tmp_path: Path,
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        world = World(fake, service)
        await world.tier(world.first(), copied=BOTH)
        before = [status(world.hdd / "tv/A" / f) for f in FILES]
        for file, size in FILES.items():
            (service.ssd / "A" / file).write_bytes(os.urandom(size))
        await world.tier(world.cross_seed(), copied=BOTH)
        assert world.whole("cross/B", "links/B")
        assert [status(world.hdd / "tv/A" / f) for f in FILES] == before


async def test_a_copy_that_cannot_be_read_is_made_again_from_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        world = World(fake, service)
        first, second = world.first(), world.cross_seed()
        await world.tier(first, copied=BOTH)

        async def identical(*_: object, **__: object) -> frozenset[int]:
            raise DiskError("a bad sector")

        monkeypatch.setattr(tasks_hardlinks, "identical", identical)
        await world.tier(second, copied=BOTH)
        assert world.whole("cross/B", "links/B")


async def test_copies_of_an_older_version_have_no_source_and_nothing_changes(
    tmp_path: Path,
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        world = World(fake, service)
        await world.tier(world.first(), copied=BOTH)
        await service.journal.do(
            lambda db: db.execute("UPDATE copy_files SET source_inode = NULL").rowcount
        )
        await world.tier(world.cross_seed(), copied=BOTH)


async def test_what_is_shared_and_written_to_before_it_is_published_is_judged_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        world = World(fake, service)
        first, second = world.first(), world.cross_seed()
        await world.tier(first, copied=BOTH)

        async def written_to(*arguments: Any, **more: Any) -> Any:
            monkeypatch.undo()
            (world.hdd / "tv/A/b").write_bytes(bytes(FILES["b"]))
            return await copy_and_verify(*arguments, **more)

        monkeypatch.setattr("qbm_trio.tasks.tiering.copy_and_verify", written_to)
        job = await service.waits(await service.notify(second))
        assert job.wait_reason is WaitReason.RETRY
        assert "was changed while the job worked" in (job.error or "")
        assert service.staging() == []
        await service.until(job.id, lambda _: job.id in service.service.waits._deadlines)
        service.wake_all()
        job = await service.ended(job.id)
        assert (job.outcome, job.bytes_copied) == (Outcome.TIERED, FILES["b"])
        assert world.whole("cross/B", "links/B")
        assert [f.ours for f in await world.files(second)] == [True, True]


# -- whose file it is --------------------------------------------------------------------


async def test_a_differing_file_at_the_destination_is_a_conflict_as_ever(tmp_path: Path) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        world = World(fake, service)
        await world.tier(world.first(), copied=BOTH)
        (world.hdd / "cross/B").mkdir(parents=True)
        (world.hdd / "cross/B/b").write_bytes(b"foreign")
        before = service.contents()
        job = await service.tier(world.cross_seed())
        assert (job.state, job.error_code) == (JobState.FAILED, "destination_conflict")
        assert service.contents() == before
        assert service.staging() == []


async def test_when_what_two_share_goes_bad_each_sets_its_own_name_aside_and_one_copy_is_made(
    tmp_path: Path,
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        world = World(fake, service)
        first, second = world.first(), world.cross_seed()
        await world.tier(first, copied=BOTH)
        await world.tier(second, copied=0)
        rot(world.hdd / "tv/A/a")
        bad = status(world.hdd / "tv/A/a")

        await world.tier(first, copied=FILES["a"])

        assert world.whole("tv/A", "A")
        assert status(world.hdd / "cross/B/a") == bad, "the other name is nobody else's to move"
        (aside,) = (world.hdd / "tv/A").glob("a.qbm-conflict-*")
        assert status(aside) == bad

        await world.tier(second, copied=0)

        assert world.shared("tv/A", "cross/B")
        (aside,) = (world.hdd / "cross/B").glob("a.qbm-conflict-*")
        assert status(aside) == bad


async def test_what_stands_at_the_files_own_places_is_nothing_to_link_to(tmp_path: Path) -> None:
    """It was compared already, or it is the source itself."""
    ssd, hdd = tmp_path / "ssd", tmp_path / "hdd"
    for folder in (ssd, hdd):
        folder.mkdir()
    for name in ("there", "other"):
        (hdd / name).write_bytes(b"1")
    os.link(hdd / "there", hdd / "same")
    (ssd / "source").write_bytes(b"1")
    os.link(ssd / "source", hdd / "source")

    def inode(path: Path) -> tuple[int, int]:
        return path.stat().st_dev, path.stat().st_ino

    def record(name: str) -> CopyFile:
        s = (hdd / name).stat()
        return CopyFile(
            index=0,
            path=name,
            size_bytes=1,
            mtime_ns=s.st_mtime_ns,
            ours=True,
            inode=journal_copies.recorded_inode(s.st_ino),
        )

    seen = Seen(
        source=ssd / "source",
        destination=hdd / "there",
        there=(hdd / "there").stat(),
        same_file=False,
        source_inode=inode(ssd / "source"),
        source_mtime_ns=0,
    )
    records = [record(name) for name in ("there", "same", "source", "other")]
    found = await find_originals(hdd, [seen], {0: records}, limiter=trio.CapacityLimiter(1))
    assert [original.path for original in found[0]] == [hdd / "other"]


# -- at the same time --------------------------------------------------------------------


async def test_cross_seeds_notified_together_are_stored_once(tmp_path: Path) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake, MAX_CONCURRENT_COPY_OPERATIONS="3") as service:
        world = World(fake, service)
        torrents = [world.first(), *(world.cross_seed(name) for name in "BCDE")]
        ids = [await service.notify(id_) for id_ in torrents]
        jobs = [await service.ended(job_id) for job_id in ids]
        assert [(j.outcome, j.attempts) for j in jobs] == [(Outcome.TIERED, 0)] * 5
        assert sorted(j.bytes_copied for j in jobs) == [0, 0, 0, 0, BOTH]
        assert len(set(world.inodes("tv/A", *(f"cross/{name}" for name in "BCDE")))) == 2


async def test_what_another_job_put_in_place_while_this_one_waited_is_adopted(
    tmp_path: Path,
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        world = World(fake, service)
        first = world.first()
        made = make_torrent(service.ssd, "A", list(FILES), piece_length=32 * 1024)
        second = fake.add(made.data, save_path=str(service.ssd), category="tv")
        ids = [await service.notify(id_) for id_ in (first, second)]
        jobs = [await service.ended(job_id) for job_id in ids]
        assert [(j.outcome, j.attempts) for j in jobs] == [(Outcome.TIERED, 0)] * 2
        assert sorted(j.bytes_copied for j in jobs) == [0, BOTH]
        for job, id_ in zip(jobs, (first, second), strict=True):
            assert [f.ours for f in await world.files(id_)] == [job.bytes_copied > 0] * 2


async def test_turns_are_for_those_who_share_a_file_and_end_with_whoever_has_it() -> None:
    turns = Turns()
    log: list[str] = []

    async def job(name: str, inodes: set[tuple[int, int]], go: trio.Event) -> None:
        async with turns.of(inodes) as waited:
            log.append(f"{name} {'waited' if waited else 'at once'}")
            await go.wait()

    one, two, never = trio.Event(), trio.Event(), trio.Event()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(job, "first", {(1, 1), (1, 2)}, one)
            await wait_all_tasks_blocked()
            nursery.start_soon(job, "shares one", {(1, 2), (1, 3)}, two)
            nursery.start_soon(job, "other device", {(2, 2)}, two)
            await wait_all_tasks_blocked()
            with trio.move_on_after(0):
                await job("given up", {(1, 1)}, never)
            # What waits holds nothing.
            nursery.start_soon(job, "shares with what waits", {(1, 3)}, two)
            await wait_all_tasks_blocked()
            assert log == [
                "first at once",
                "other device at once",
                "shares with what waits at once",
            ]
            one.set()
            two.set()
    assert log[3:] == ["shares one waited"]
    assert turns._taken == set()
