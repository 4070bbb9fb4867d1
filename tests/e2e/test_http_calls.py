"""Every call on a real socket, with a real journal."""

from __future__ import annotations

from pathlib import Path

import pytest

from qbm_trio.core.errors import Draining, JournalUnwritable, QueueFull
from qbm_trio.core.overview import Health, Overview
from tests.rig.clients import LANES
from tests.rig.site import (
    NOTIFY,
    StandIn,
    backend,
    notification,
    raw,
    site_on,
    site_with_journal,
    v1,
)

FORM = "application/x-www-form-urlencoded"


# -- notifications ----------------------------------------------------------


@LANES
async def test_a_notification_gets_202_and_its_job_is_in_the_journal(
    tmp_path: Path, fast_lane: bool
) -> None:
    async with site_with_journal(tmp_path, fast_lane=fast_lane) as site:
        answer = await site.notify(notification(1, priority=3, params={"name": "A"}))
        assert answer.status == 202
        told = answer.json()
        assert set(told) == {"success", "queue_id", "hash", "status", "position", "message"}
        assert (told["success"], told["hash"], told["status"]) == (True, v1(1), "queued")
        assert told["position"] == 1
    async with site_with_journal(tmp_path) as site:  # a new life of the service
        job = (await site.call("GET", f"/jobs/{told['queue_id']}")).json()
        assert (job["id"], job["hash"], job["priority"]) == (told["queue_id"], v1(1), 3)


@LANES
async def test_the_same_torrent_again_gets_200_with_the_same_id_and_the_higher_priority(
    tmp_path: Path, fast_lane: bool
) -> None:
    async with site_with_journal(tmp_path, fast_lane=fast_lane) as site:
        first = (await site.notify(notification(1, priority=3))).json()
        again = await site.notify(notification(1, priority=7))
        lower = await site.notify(notification(1, priority=1))
        assert [again.status, lower.status] == [200, 200]
        for answer in (again, lower):
            assert answer.json()["duplicate"] is True
            assert answer.json()["queue_id"] == first["queue_id"]
            assert answer.json()["hash"] == v1(1)
        job = (await site.call("GET", f"/jobs/{first['queue_id']}")).json()
        assert job["priority"] == 7


@LANES
async def test_a_form_as_curl_sends_it_is_taken(tmp_path: Path, fast_lane: bool) -> None:
    async with site_with_journal(tmp_path, fast_lane=fast_lane) as site:
        body = f"hash={v1(1)}&name=%22%27%5C%24%28x%29%0A%F0%9F%8E%AC&size=5&priority=2".encode()
        told = await site.notify(body, **{"Content-Type": FORM})
        assert told.status == 202
        job = (await site.call("GET", f"/jobs/{told.json()['queue_id']}")).json()
        assert job["name"] == "\"'\\$(x)\n🎬"
        assert job["priority"] == 2


@LANES
@pytest.mark.parametrize(
    ("refusal", "code", "retry_after"),
    [
        (QueueFull("full"), "queue_full", "5"),
        (Draining("stopping"), "draining", "10"),
        (JournalUnwritable("disk"), "journal_unwritable", "30"),
    ],
)
async def test_what_cannot_be_accepted_now_gets_503_and_when_to_try_again(
    refusal: Exception, code: str, retry_after: str, fast_lane: bool
) -> None:
    served = backend(StandIn(refuse_with=refusal))
    async with site_on(served, fast_lane=fast_lane) as site, site.wire() as wire:
        await wire.send(raw("POST", NOTIFY, body=notification(1)))
        answer = await wire.answer()
        assert (answer.status, answer.code) == (503, code)
        assert answer.headers["retry-after"] == retry_after
        if code == "draining":
            assert answer.headers["connection"] == "close"
            assert await wire.ends()
        else:  # the connection can be used again
            await wire.send(raw("GET", "/health"))
            assert (await wire.answer()).status == 200


async def test_a_full_queue_is_told_by_the_real_jobs_too(tmp_path: Path) -> None:
    async with site_with_journal(tmp_path, capacity=2) as site:
        answers = [await site.notify(notification(n)) for n in range(4)]
        assert [a.status for a in answers] == [202, 202, 503, 503]
        assert answers[2].code == "queue_full"
        again = await site.notify(notification(1))
        assert again.status == 200  # known ones are answered, full or not


@LANES
async def test_a_bug_of_ours_gets_500_in_the_same_shape_and_a_traceback_in_the_log(
    fast_lane: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with site_on(
        backend(StandIn(refuse_with=ZeroDivisionError("boom"))), fast_lane=fast_lane
    ) as site:
        async with site.wire() as wire:
            await wire.send(raw("POST", NOTIFY, body=notification(1)))
            answer = await wire.answer()
        assert (answer.status, answer.code) == (500, "internal_error")
        assert "boom" not in answer.body.decode()
        assert any(r.exc_info for r in caplog.records)


# -- the rest ---------------------------------------------------------------


async def test_health_needs_no_key_and_says_what_is_wrong_without_waiting() -> None:
    state = Health(status="healthy")
    served = backend(StandIn(), health=lambda: state)
    async with site_on(served) as site:
        answer = await site.call("GET", "/health", key=None)
        assert answer.status == 200
        assert answer.json() == {"status": "healthy", "service": "qbm-trio", "version": "test"}
        state = Health(status="degraded", problems=("qBittorrent cannot be reached",))
        answer = await site.call("GET", "/health", key=None)
        assert answer.status == 200
        assert answer.json()["problems"] == ["qBittorrent cannot be reached"]
        state = Health(status="draining")
        answer = await site.call("GET", "/health", key=None)
        assert (answer.status, answer.json()["status"]) == (503, "draining")
        assert (await site.call("HEAD", "/health", key=None)).status == 503


async def test_status_and_the_openapi_document_are_served(tmp_path: Path) -> None:
    async with site_with_journal(tmp_path) as site:
        status = await site.call("GET", "/status")
        assert status.status == 200
        assert status.json()["service"]["started_at"].endswith("Z")
        document = await site.call("GET", "/openapi.json")
        assert document.json()["openapi"].startswith("3.1")


async def test_jobs_are_listed_newest_first_page_by_page_and_by_state(tmp_path: Path) -> None:
    async with site_with_journal(tmp_path) as site:
        ids = [(await site.notify(notification(n))).json()["queue_id"] for n in range(5)]
        assert (await site.call("DELETE", f"/jobs/{ids[1]}")).json()["state"] == "cancelled"

        seen = []
        after = ""
        while True:
            page = (await site.call("GET", f"/jobs?limit=2{after}")).json()
            seen += [job["id"] for job in page["jobs"]]
            if page["next_after"] is None:
                break
            after = f"&after={page['next_after']}"
        assert seen == ids[::-1]

        listed = (await site.call("GET", "/jobs?state=cancelled")).json()["jobs"]
        assert [job["id"] for job in listed] == [ids[1]]
        assert (await site.call("GET", "/jobs?after=unheard-of")).status == 404


async def test_a_job_is_cancelled_and_retried(tmp_path: Path) -> None:
    async with site_with_journal(tmp_path) as site:
        job_id = (await site.notify(notification(1))).json()["queue_id"]
        wrong = await site.call("POST", f"/jobs/{job_id}/retry")
        assert (wrong.status, wrong.code) == (409, "wrong_state")
        assert (await site.call("DELETE", f"/jobs/{job_id}")).json()["state"] == "cancelled"
        again = await site.call(
            "POST", f"/jobs/{job_id}/retry", body=b'{"on_conflict": "set_aside"}'
        )
        assert (again.status, again.json()["state"]) == (202, "queued")
        assert again.json()["on_conflict"] == "set_aside"


@pytest.mark.parametrize("body", [None, b"", b"{}", b" {} "])
async def test_an_empty_body_means_the_defaults(tmp_path: Path, body: bytes | None) -> None:
    async with site_with_journal(tmp_path) as site:
        job_id = (await site.notify(notification(1))).json()["queue_id"]
        await site.call("DELETE", f"/jobs/{job_id}")
        again = await site.call("POST", f"/jobs/{job_id}/retry", body=body)
        assert (again.status, again.json()["on_conflict"]) == (202, "fail")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/jobs/nope"), ("DELETE", "/jobs/%00"), ("POST", "/jobs/x/retry")]
)
async def test_an_unknown_job_gets_404(tmp_path: Path, method: str, path: str) -> None:
    async with site_with_journal(tmp_path) as site:
        answer = await site.call(method, path)
        assert (answer.status, answer.code) == (404, "no_such_job")


async def test_the_queue_is_cleared(tmp_path: Path) -> None:
    async with site_with_journal(tmp_path) as site:
        for n in range(3):
            await site.notify(notification(n))
        assert (await site.call("POST", "/queue/clear")).json() == {
            "success": True,
            "cleared_count": 3,
        }
        assert (await site.call("POST", "/queue/clear")).json()["cleared_count"] == 0


async def test_a_recovery_point_is_reported() -> None:
    async with site_on(backend(StandIn())) as site:
        assert (await site.call("POST", "/state/save")).json() == {
            "success": True,
            "path": "/state/recovery.json",
            "counts": {"jobs": 0, "copies": 0},
            "saved_at": "2023-11-14T22:13:20.000Z",
        }


async def test_a_status_without_a_journal_gets_503_and_when_to_try_again() -> None:
    async def closed(*, in_haste: bool) -> Overview:
        raise JournalUnwritable("the journal is closed; ask again later")

    async with site_on(backend(StandIn(), overview=closed)) as site:
        answer = await site.call("GET", "/status")  # checked against the document
        assert (answer.status, answer.code) == (503, "journal_unwritable")
        assert answer.headers["retry-after"] == "30"


async def test_a_status_that_cannot_be_gathered_is_a_500_and_the_service_goes_on() -> None:
    async def broken(*, in_haste: bool) -> Overview:
        raise RuntimeError("no overview")

    async with site_on(backend(StandIn(), overview=broken)) as site, site.wire() as wire:
        await wire.send(raw("GET", "/status"))
        answer = await wire.answer()
        assert (answer.status, answer.code) == (500, "internal_error")
        await wire.send(raw("GET", "/health"))
        assert (await wire.answer()).status == 200


@LANES
async def test_every_request_is_counted_once_whatever_its_answer(fast_lane: bool) -> None:
    counted: list[int] = []
    served = backend(StandIn(), count_request=lambda: counted.append(1))
    async with site_on(served, fast_lane=fast_lane) as site:
        await site.call("POST", NOTIFY, body=notification(1))
        await site.call("GET", "/health", key=None)
        await site.call("GET", "/nope")
        await site.call("POST", NOTIFY, body=notification(1), key=None)
    assert len(counted) == 4
