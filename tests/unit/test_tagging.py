"""Tagging against a qBittorrent whose troubles come at will."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from qbm_trio.adapters import journal_copies, journal_relocations
from qbm_trio.core.errors import Draining, QbittorrentAway, TaggingDisabled
from qbm_trio.core.model import TorrentId
from qbm_trio.core.relocation import Event, Step
from qbm_trio.core.tags import Location
from tests.fakes.qbittorrent import FakeQbittorrent, away
from tests.rig.inside import Inside, inside, make
from tests.rig.records import COPY, RELOCATION

GONE = TorrentId("d" * 40)


async def publish(service: Inside, id_: TorrentId, *, published: bool = True) -> None:
    copy = replace(COPY, torrent_id=id_, name=f"copy of {id_[:4]}")
    await service.journal.do(lambda db: journal_copies.begin(db, copy, []))
    if published:
        await service.journal.do(lambda db: journal_copies.published(db, id_, now=2.0))


def add(fake: FakeQbittorrent, folder: Path, name: str, *has: str) -> TorrentId:
    id_ = fake.add(make(folder, name, 100).data, save_path=str(folder))
    fake.change(id_, tags=frozenset(has))
    return id_


async def mixed(fake: FakeQbittorrent, service: Inside, tmp_path: Path) -> dict[str, TorrentId]:
    """A torrent for each change there is."""
    (tmp_path / "other").mkdir()
    ids = {
        "new": add(fake, service.ssd, "new", "mine"),
        "copied": add(fake, service.ssd, "copied", "SSD"),
        "begun": add(fake, service.ssd, "begun", "ssd", "hdd"),
        "moved": add(fake, service.hdd, "moved", "ssd", "qbm-pin"),
        "right": add(fake, service.hdd, "right", "hdd"),
        "outside": add(fake, tmp_path / "other", "outside", "ssd", "hdd"),
    }
    await publish(service, ids["copied"])
    await publish(service, ids["begun"], published=False)
    return ids


RIGHT = {
    "new": {"mine", "ssd"},
    "copied": {"SSD", "ssd", "hdd"},
    "begun": {"ssd"},
    "moved": {"qbm-pin", "hdd"},
    "right": {"hdd"},
    "outside": set[str](),
}


def calls(fake: FakeQbittorrent) -> list[str]:
    return [str(name) for name, *_ in fake.calls if name != "version"]


async def test_every_change_there_is_takes_five_calls_and_a_second_time_one(
    tmp_path: Path,
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        ids = await mixed(fake, service, tmp_path)
        tagged = await service.service.tagging.tag_existing(dry_run=False)
        assert {name: set(fake.tags(id_)) for name, id_ in ids.items()} == RIGHT
        assert (tagged.dry_run, tagged.torrents, len(tagged.changes)) == (False, 6, 5)
        assert calls(fake) == ["torrents", "add_tags", "add_tags", "remove_tags", "remove_tags"]
        del fake.calls[:]
        again = await service.service.tagging.tag_existing(dry_run=False)
        assert (again.torrents, again.changes) == (6, ())
        assert calls(fake) == ["torrents"]


@pytest.mark.parametrize(("asked", "env"), [(True, {}), (False, {"DRY_RUN": "true"})])
async def test_a_dry_run_lists_exactly_what_would_change_and_changes_nothing(
    tmp_path: Path, asked: bool, env: dict[str, str]
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake, **env) as service:
        ids = await mixed(fake, service, tmp_path)
        before = {id_: fake.tags(id_) for id_ in ids.values()}
        tagged = await service.service.tagging.tag_existing(dry_run=asked)
        assert tagged.dry_run
        assert calls(fake) == ["torrents"]
        assert {id_: fake.tags(id_) for id_ in ids.values()} == before
        after = {c.torrent_id: (before[c.torrent_id] | c.add) - c.remove for c in tagged.changes}
        assert {name: set(after.get(id_, before[id_])) for name, id_ in ids.items()} == RIGHT


async def test_the_summary_counts_places_and_tags_and_lists_what_does_not_fit(
    tmp_path: Path,
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        ids = await mixed(fake, service, tmp_path)
        await publish(service, GONE)
        await publish(service, TorrentId("e" * 40), published=False)
        summary = await service.service.tagging.summary()
        assert calls(fake) == ["torrents"]
        size = 100
        assert {
            place: (amount.torrents, amount.bytes) for place, amount in summary.by_location.items()
        } == {
            Location.SSD: (2, 2 * size),
            Location.HDD: (2, 2 * size),
            Location.BOTH: (1, size),
            Location.ELSEWHERE: (1, size),
        }
        assert {tag: amount.torrents for tag, amount in summary.by_tag.items()} == {
            "ssd": 3,
            "hdd": 3,
            "SSD": 1,
            "mine": 1,
            "qbm-pin": 1,
        }
        assert {c.torrent_id for c in summary.mismatches} == set(ids.values()) - {ids["right"]}
        assert [copy.torrent_id for copy in summary.without_torrent] == [GONE]
        await service.service.tagging.tag_existing(dry_run=False)
        after = await service.service.tagging.summary()
        assert after.mismatches == ()
        assert await service.journal.do(lambda db: journal_copies.find(db, GONE)) is not None


async def test_with_tagging_turned_off_nothing_is_asked_or_changed_but_the_summary_tells(
    tmp_path: Path,
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake, ENABLE_LOCATION_TAGGING="false") as service:
        id_ = add(fake, service.ssd, "T")
        for dry_run in (True, False):
            with pytest.raises(TaggingDisabled, match="ENABLE_LOCATION_TAGGING"):
                await service.service.tagging.tag_existing(dry_run=dry_run)
        assert calls(fake) == []
        summary = await service.service.tagging.summary()
        assert not summary.enabled
        assert [c.torrent_id for c in summary.mismatches] == [id_]


async def test_new_torrents_may_go_untagged_and_existing_ones_be_tagged_when_asked(
    tmp_path: Path,
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake, AUTO_TAG_NEW_TORRENTS="false") as service:
        id_ = add(fake, service.ssd, "T")
        await service.service.tagging.tag_existing(dry_run=False)
        assert fake.tags(id_) == {"ssd"}


async def test_the_tags_have_the_configured_names_and_paths_are_mapped(tmp_path: Path) -> None:
    fake = FakeQbittorrent()
    async with inside(
        tmp_path,
        client=fake,
        SSD_LOCATION_TAG="fast",
        HDD_LOCATION_TAG="large",
        PATH_MAPPINGS=f"/theirs={tmp_path}",
    ) as service:
        id_ = add(fake, service.ssd, "T", "ssd")
        fake.change(id_, content_path="/theirs/hdd/T")
        await service.service.tagging.tag_existing(dry_run=False)
        assert fake.tags(id_) == {"ssd", "large"}


async def test_a_qbittorrent_that_is_away_is_told(tmp_path: Path) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        fake.down = away()
        tagging = service.service.tagging
        for call in (tagging.summary, lambda: tagging.tag_existing(dry_run=False)):
            with pytest.raises(QbittorrentAway, match="is it running"):
                await call()


def at_call(name: str, number: int, do: Callable[[], None]) -> Callable[[str], Awaitable[None]]:
    seen = 0

    async def before(called: str) -> None:
        nonlocal seen
        seen += called == name
        if called == name and seen == number:
            do()
            await trio.lowlevel.checkpoint()

    return before


async def test_a_qbittorrent_that_goes_away_in_between_is_told_and_the_rest_is_done_next_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        ids = await mixed(fake, service, tmp_path)
        fake.before = at_call("add_tags", 2, lambda: fake.failures.append(away()))
        with pytest.raises(QbittorrentAway, match=r"^1 of 4 tag changes .* call again"):
            await service.service.tagging.tag_existing(dry_run=False)
        assert "only 1 of 4" in caplog.text
        assert fake.tags(ids["moved"]) == {"ssd", "qbm-pin"}
        await service.service.tagging.tag_existing(dry_run=False)
        assert {name: set(fake.tags(id_)) for name, id_ in ids.items()} == RIGHT


async def test_a_call_that_is_cut_off_says_so_in_the_log_and_can_be_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        ids = await mixed(fake, service, tmp_path)
        with trio.CancelScope() as scope:
            fake.before = at_call("remove_tags", 2, scope.cancel)
            await service.service.tagging.tag_existing(dry_run=False)
        assert scope.cancelled_caught
        assert "only 3 of 4" in caplog.text
        await service.service.tagging.tag_existing(dry_run=False)
        assert {name: set(fake.tags(id_)) for name, id_ in ids.items()} == RIGHT


async def test_two_at_once_change_everything_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        await mixed(fake, service, tmp_path)
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(lambda: service.service.tagging.tag_existing(dry_run=False))
        assert calls(fake).count("add_tags") == 2
        assert calls(fake).count("remove_tags") == 2
        assert caplog.text.count("are set right") == 1


async def test_a_service_that_stops_changes_no_tag(tmp_path: Path) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        add(fake, service.ssd, "T")
        service.service.jobs.draining = True
        with pytest.raises(Draining):
            await service.service.tagging.tag_existing(dry_run=False)
        assert calls(fake) == []
        service.service.jobs.draining = False


@pytest.mark.parametrize("within_the_list", ["nothing of it", "its end", "its beginning"])
async def test_a_torrent_that_is_being_relocated_keeps_the_tag_of_the_ssd(
    tmp_path: Path, within_the_list: str
) -> None:
    """Also when it is begun, or undone, while qBittorrent makes its list."""
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        id_ = add(fake, service.hdd, "T", "ssd", "hdd", "qbm-pin", "qbm-relocating")
        await publish(service, id_)
        row = replace(RELOCATION, torrent_id=id_)

        async def begin() -> None:
            await service.journal.do(lambda db: journal_relocations.begin(db, [row], now=1.0))

        async def end() -> None:
            (open_,) = await service.journal.do(journal_relocations.open_ones)
            await service.journal.do(
                lambda db: journal_relocations.step(
                    db, [open_.id], Event.GONE, expected=Step.PREPARING, now=2.0
                )
            )

        async def before(name: str) -> None:
            if name == "torrents" and within_the_list != "nothing of it":
                await (end if within_the_list == "its end" else begin)()

        if within_the_list != "its beginning":
            await begin()
        fake.before = before
        tagging = service.service.tagging
        assert (await tagging.tag_existing(dry_run=False)).changes == ()
        fake.before = None
        if within_the_list != "its end":
            await end()
        await tagging.tag_existing(dry_run=False)
        assert fake.tags(id_) == {"hdd", "qbm-pin", "qbm-relocating"}


async def test_a_copy_that_is_published_while_the_torrents_are_listed_keeps_its_tag(
    tmp_path: Path,
) -> None:
    fake = FakeQbittorrent()
    async with inside(tmp_path, client=fake) as service:
        id_ = add(fake, service.ssd, "T", "ssd", "hdd")

        async def before(name: str) -> None:
            if name == "torrents":
                await publish(service, id_)

        fake.before = before
        tagged = await service.service.tagging.tag_existing(dry_run=False)
        assert tagged.changes == ()
