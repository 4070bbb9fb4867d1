"""``/tags`` on a real socket: what is sent, what is answered, what is refused."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from qbm_trio.adapters.journal_copies import Copy
from qbm_trio.core.errors import Draining, JournalUnwritable, QbittorrentAway, TaggingDisabled
from qbm_trio.core.model import JobId, TorrentId, Verification
from qbm_trio.core.tags import Amount, Location, LocationTags, TagChange
from qbm_trio.tasks.tagging import Tagged, TagSummary
from tests.rig.site import DEADLINE_S, StandIn, TaggingStandIn, backend, raw, site_on

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
ID = TorrentId("a" * 40)
CHANGE = TagChange(
    torrent_id=ID,
    name="Ein 🎬 \udcff",
    location=Location.HDD,
    add=frozenset({"hdd"}),
    remove=frozenset({"ssd"}),
)
ITEM = {"hash": ID, "name": "Ein 🎬 ?", "place": "hdd", "add": ["hdd"], "remove": ["ssd"]}


@pytest.mark.parametrize(
    ("body", "headers", "dry_run"),
    [
        (None, {}, False),
        (b"", {}, False),
        (b"{}", {}, False),
        (b'{"dry_run": false}', {}, False),
        (b'{"dry_run": true}', {}, True),
        (b'{"dry_run": true}', FORM, True),  # curl -d without a header
        (b"dry_run=true", FORM, True),
        (b"dry_run=false", FORM, False),
    ],
)
async def test_changes_are_made_unless_a_dry_run_is_asked_for(
    body: bytes | None, headers: dict[str, str], dry_run: bool
) -> None:
    tagging = TaggingStandIn(changes=(CHANGE,))
    async with site_on(backend(StandIn(), tagging=tagging)) as site:
        answer = await site.call("POST", "/tags/existing", body=body, headers=headers)
    assert answer.status == 200
    assert tagging.asked == [dry_run]
    assert answer.json() == {
        "success": True,
        "dry_run": dry_run,
        "torrent_count": 3,
        "changed_count": 1,
        "changes": [ITEM],
    }


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"dry_run": 1}', "dry_run: must be true or false."),
        (b'{"dry_run": "true"}', "dry_run: must be true or false."),
        (b'{"dry_run": null}', "dry_run: must be true or false."),
        (b'{"dryrun": true}', "dryrun: is not a field of this call."),
    ],
)
async def test_what_cannot_be_understood_changes_nothing(body: bytes, problem: str) -> None:
    tagging = TaggingStandIn()
    async with site_on(backend(StandIn(), tagging=tagging)) as site:
        answer = await site.call("POST", "/tags/existing", body=body)
        form = await site.call("POST", "/tags/existing", body=b"dry_run=perhaps", headers=FORM)
    assert (answer.status, answer.json()["error"]) == (422, problem)
    assert (form.status, form.json()["error"]) == (422, "dry_run: must be true or false.")
    assert tagging.asked == []


@pytest.mark.parametrize(("method", "path"), [("POST", "/tags/existing"), ("GET", "/tags/summary")])
@pytest.mark.parametrize(
    ("refusal", "status", "code", "retry_after"),
    [
        (QbittorrentAway("the torrents cannot be listed"), 503, "qbittorrent_away", "30"),
        (JournalUnwritable("the journal is closed"), 503, "journal_unwritable", "30"),
    ],
)
async def test_what_cannot_be_answered_now_gets_503_and_when_to_try_again(
    method: str, path: str, refusal: Exception, status: int, code: str, retry_after: str
) -> None:
    tagging = TaggingStandIn(refuse_with=refusal)
    async with site_on(backend(StandIn(), tagging=tagging)) as site:
        answer = await site.call(method, path)
    assert (answer.status, answer.code) == (status, code)
    assert answer.headers["retry-after"] == retry_after


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        (TaggingDisabled("ENABLE_LOCATION_TAGGING is false"), 409, "tagging_disabled"),
        (Draining("the service is stopping"), 503, "draining"),
    ],
)
async def test_what_must_not_be_changed_now_is_refused(
    refusal: Exception, status: int, code: str
) -> None:
    tagging = TaggingStandIn(refuse_with=refusal)
    async with site_on(backend(StandIn(), tagging=tagging)) as site:
        answer = await site.call("POST", "/tags/existing")
    assert (answer.status, answer.code) == (status, code)


async def test_a_client_that_goes_away_does_not_leave_the_changes_half_made() -> None:
    begun, go_on, ended = trio.Event(), trio.Event(), trio.Event()

    class Slow(TaggingStandIn):
        async def tag_existing(self, *, dry_run: bool) -> Tagged:
            begun.set()
            await go_on.wait()
            ended.set()
            return await TaggingStandIn.tag_existing(self, dry_run=dry_run)

    async with site_on(backend(StandIn(), tagging=Slow())) as site:
        with trio.fail_after(DEADLINE_S):
            async with site.wire() as wire:
                await wire.send(raw("POST", "/tags/existing"))
                await begun.wait()
                wire.stream.setsockopt(  # a reset, as of a client that is killed
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            await wait_all_tasks_blocked(0.01)
            go_on.set()
            await ended.wait()


async def test_the_summary_names_places_tags_mismatches_and_copies_without_a_torrent() -> None:
    copy = Copy(
        torrent_id=TorrentId("d" * 40),
        job_id=JobId("j"),
        destination="tv/\udcff",
        save_root="/ssd",
        category="tv",
        name="Gone",
        verification=Verification.PIECES,
        size_bytes=7,
        begun_at=1.0,
        published_at=1_700_000_000.0,
    )
    summary = TagSummary(
        enabled=False,
        tags=LocationTags(ssd="fast", hdd="large"),
        by_location={Location(n): Amount(torrents=1, bytes=2) for n in Location},
        by_tag={"fast": Amount(torrents=2, bytes=4), "mine 🎬": Amount(torrents=1, bytes=2)},
        mismatches=(CHANGE,),
        without_torrent=(copy,),
    )
    async with site_on(backend(StandIn(), tagging=TaggingStandIn(found=summary))) as site:
        answer = await site.call("GET", "/tags/summary")
        assert (await site.call("GET", "/tags/summary?verbose=1")).status == 422
    assert answer.status == 200
    assert answer.json() == {
        "success": True,
        "tagging_enabled": False,
        "location_tags": {"ssd": "fast", "hdd": "large"},
        "places": {place: {"torrents": 1, "bytes": 2} for place in Location},
        "tags": {"fast": {"torrents": 2, "bytes": 4}, "mine 🎬": {"torrents": 1, "bytes": 2}},
        "mismatches": [ITEM],
        "copies_without_torrent": [
            {
                "hash": "d" * 40,
                "name": "Gone",
                "category": "tv",
                "destination": "tv/?",
                "bytes": 7,
                "published_at": "2023-11-14T22:13:20.000Z",
            }
        ],
    }


@pytest.mark.parametrize(("method", "path"), [("POST", "/tags/existing"), ("GET", "/tags/summary")])
async def test_a_long_answer_is_written_off_the_event_loop(method: str, path: str) -> None:
    on_the_loop: list[bool] = []

    class Watched(tuple[TagChange, ...]):
        def __iter__(self) -> Iterator[TagChange]:
            on_the_loop.append(trio.lowlevel.in_trio_run())
            return super().__iter__()

    many = Watched([CHANGE] * 2000)
    tagging = TaggingStandIn(changes=many)
    tagging.found = replace(await tagging.summary(), mismatches=many)
    async with site_on(backend(StandIn(), tagging=tagging)) as site:
        answer = await site.call(method, path)
    assert on_the_loop
    assert not any(on_the_loop)
    document = answer.json()
    assert len(document.get("changes") or document["mismatches"]) == 2000
