"""``/space-management/trigger`` on a real socket: what is sent, answered and refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import trio

from qbm_trio.core.errors import Draining, JournalUnwritable, QbittorrentAway, TierAway
from qbm_trio.core.model import TorrentId
from qbm_trio.core.sharing import Group
from qbm_trio.core.space import Choice, ChosenTorrent, Relocate, Spared, SparedTorrent
from tests.rig.site import NOTHING_TO_DO, SpaceStandIn, StandIn, backend, site_on

TRIGGER = "/space-management/trigger"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
A, B, C, D, E = (TorrentId(letter * 40) for letter in "abcde")


def chosen(torrent_id: TorrentId, choice: Choice) -> ChosenTorrent:
    return ChosenTorrent(
        torrent_id=torrent_id, name="Ein 🎬 \udcff", bytes=7, choice=choice, sentence="it is old"
    )


def spared(torrent_id: TorrentId, reason: Spared) -> SparedTorrent:
    return SparedTorrent(
        torrent_id=torrent_id, name="Y", bytes=2**50, reason=reason, sentence="see '\udcff'"
    )


GROUP = Group(torrent_ids=(A, B), files=(), frees_bytes=9, held_bytes=0)
FOUND = replace(
    NOTHING_TO_DO,
    plan=replace(
        NOTHING_TO_DO.plan,
        relocate=(Relocate(group=GROUP, bytes=9),),
        tier_first=(C,),
        chosen=(
            chosen(B, Choice.RELOCATE),
            chosen(C, Choice.TIER_FIRST),
            chosen(A, Choice.RELOCATE),
        ),
        spared=(spared(E, Spared.PINNED), spared(D, Spared.PINNED)),
        spared_bytes={Spared.PINNED: 2**50},
        missing_bytes=30,
        planned_bytes=9,
        shortfall_bytes=21,
    ),
    ssd_free_bytes=1,
    ssd_total_bytes=2**45,
    threshold_bytes=20,
    target_bytes=40,
    pending_bytes=9,
)


def item(torrent_id: str, decision: str) -> dict[str, object]:
    return {
        "hash": torrent_id,
        "name": "Ein 🎬 ?",
        "decision": decision,
        "reason": None,
        "sentence": "It is old.",
        "bytes": 7,
    }


def spared_item(torrent_id: str) -> dict[str, object]:
    return {
        "hash": torrent_id,
        "name": "Y",
        "decision": "spared",
        "reason": "pinned",
        "sentence": "See '?'.",
        "bytes": 2**50,
    }


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (None, {}),
        (b"", {}),
        (b"{}", {}),
        (b'{"dry_run": false}', {}),
        (b'{"dry_run": false}', FORM),  # curl -d without a header
        (b"dry_run=false", FORM),
    ],
)
async def test_a_run_is_asked_for_and_named(
    body: bytes | None, headers: dict[str, str], joined: bool
) -> None:
    space = SpaceStandIn(joined=joined)
    async with site_on(backend(StandIn(), space=space)) as site:
        answer = await site.call("POST", TRIGGER, body=body, headers=headers)
    assert answer.status == 202
    assert space.asked == ["run"]
    document = answer.json()
    assert ("earlier" in document.pop("message")) == joined
    assert document == {
        "success": True,
        "run_id": "run-1",
        "status": "requested",
        "joined": joined,
    }


@pytest.mark.parametrize(
    ("body", "headers", "only_plans"),
    [
        (b'{"dry_run": true}', {}, False),
        (b'{"dry_run": true}', FORM, False),
        (b"dry_run=true", FORM, False),
        (b'{"dry_run": true}', {}, True),
        (None, {}, True),
        (b'{"dry_run": false}', {}, True),  # DRY_RUN allows no run
    ],
)
async def test_a_dry_run_answers_with_the_plan_and_begins_no_run(
    body: bytes | None, headers: dict[str, str], only_plans: bool
) -> None:
    space = SpaceStandIn(found=FOUND, only_plans=only_plans)
    async with site_on(backend(StandIn(), space=space)) as site:
        answer = await site.call("POST", TRIGGER, body=body, headers=headers)
    assert answer.status == 200
    assert space.asked == ["dry run"]
    assert answer.json() == {
        "success": True,
        "dry_run": True,
        "ssd": {
            "free_bytes": 1,
            "total_bytes": 2**45,
            "threshold_bytes": 20,
            "target_bytes": 40,
            "pending_bytes": 9,
        },
        "missing_bytes": 30,
        "planned_bytes": 9,
        "shortfall_bytes": 21,
        "target_met": False,
        "relocate": 1,
        "torrents": [
            item(B, "relocate"),
            item(C, "tier_first"),
            item(A, "relocate"),
            spared_item(E),
            spared_item(D),
        ],
        "spared": {"pinned": {"torrents": 2, "bytes": 2**50}},
    }


async def test_with_nothing_on_the_ssd_the_plan_is_empty_and_the_target_met() -> None:
    async with site_on(backend(StandIn())) as site:
        document = (await site.call("POST", TRIGGER, body=b'{"dry_run": true}')).json()
    assert (document["torrents"], document["spared"], document["relocate"]) == ([], {}, 0)
    assert document["target_met"] is True


@pytest.mark.parametrize(
    ("body", "headers", "status", "problem"),
    [
        (b'{"dry_run": 1}', {}, 422, "dry_run: must be true or false."),
        (b'{"dry_run": "true"}', {}, 422, "dry_run: must be true or false."),
        (b'{"dry_run": null}', {}, 422, "dry_run: must be true or false."),
        (b'{"dry_run": [true]}', {}, 422, "dry_run: must be true or false."),
        (b'{"dryrun": true}', {}, 422, "dryrun: is not a field of this call."),
        (b'{"dry_run": true, "force": 1}', {}, 422, "force: is not a field of this call."),
        (b'{"dry_run": true, "dry_run": true}', {}, 422, "dry_run: is given more than once."),
        (b"dry_run=perhaps", FORM, 422, "dry_run: must be true or false."),
        (b"dry_run=", FORM, 422, "dry_run: must be true or false."),
        (b"dryrun=true", FORM, 422, "dryrun: is not a field of this call."),
        (b"dry_run=true&dry_run=false", FORM, 422, "dry_run: is given more than once."),
        (
            b"[true]",
            {"Content-Type": "application/json"},
            422,
            "The body must be a JSON object.",
        ),
        (b'{"dry_run": tru}', {}, 400, "The body is not valid JSON (character 12)."),
        (b"\xff", FORM, 400, "The body is not UTF-8: bad byte at offset 0."),
        (
            b"dry_run: true",
            {"Content-Type": "application/yaml"},
            415,
            "Send a JSON object (application/json) or a form (application/x-www-form-urlencoded).",
        ),
    ],
)
@pytest.mark.parametrize("only_plans", [False, True])
async def test_what_cannot_be_understood_asks_for_nothing(
    body: bytes, headers: dict[str, str], status: int, problem: str, only_plans: bool
) -> None:
    space = SpaceStandIn(only_plans=only_plans)
    async with site_on(backend(StandIn(), space=space)) as site:
        answer = await site.call("POST", TRIGGER, body=body, headers=headers)
    assert (answer.status, answer.json()["error"]) == (status, problem)
    assert space.asked == []


async def test_a_dry_run_asked_for_in_the_url_is_refused_rather_than_run_for_real() -> None:
    space = SpaceStandIn()
    async with site_on(backend(StandIn(), space=space)) as site:
        answer = await site.call("POST", f"{TRIGGER}?dry_run=true")
        assert answer.status == 422
        assert (await site.call("GET", TRIGGER)).status == 405
    assert space.asked == []


@pytest.mark.parametrize(
    ("refusal", "code", "retry_after"),
    [
        (QbittorrentAway("the torrents cannot be listed"), "qbittorrent_away", "30"),
        (TierAway("the HDD is not mounted"), "tier_away", "30"),
        (JournalUnwritable("the journal is closed"), "journal_unwritable", "30"),
        (Draining("the service is stopping"), "draining", "10"),
    ],
)
@pytest.mark.parametrize("body", [b"{}", b'{"dry_run": true}'])
async def test_what_cannot_be_done_now_gets_503_and_when_to_try_again(
    refusal: Exception, code: str, retry_after: str, body: bytes
) -> None:
    space = SpaceStandIn(refuse_with=refusal)
    async with site_on(backend(StandIn(), space=space)) as site:
        answer = await site.call("POST", TRIGGER, body=body)
    assert (answer.status, answer.code) == (503, code)
    assert answer.headers["retry-after"] == retry_after
    assert answer.headers.get("connection") == ("close" if code == "draining" else None)


async def test_a_long_plan_is_written_off_the_event_loop() -> None:
    on_the_loop: list[bool] = []

    class Watched(tuple[SparedTorrent, ...]):
        def __iter__(self) -> Iterator[SparedTorrent]:
            on_the_loop.append(trio.lowlevel.in_trio_run())
            return super().__iter__()

    many = Watched(spared(TorrentId(f"{n:040x}"), Spared.TARGET_MET) for n in range(10_000))
    found = replace(FOUND, plan=replace(FOUND.plan, spared=many))
    async with site_on(backend(StandIn(), space=SpaceStandIn(found=found))) as site:
        answer = await site.call("POST", TRIGGER, body=b'{"dry_run": true}')
    assert on_the_loop
    assert not any(on_the_loop)
    assert [t["hash"] for t in answer.json()["torrents"][3:]] == [t.torrent_id for t in many]
