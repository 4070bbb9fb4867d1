"""The HTTP layer on a real socket, and a client that works in raw bytes.

Every answer that passes through `Site.call` is checked against the OpenAPI
document, so each test is also a test of that document.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import trio

from qbm_trio.adapters.journal import Journal
from qbm_trio.adapters.recovery_point import SavedState
from qbm_trio.core.errors import NoSuchJob
from qbm_trio.core.model import Job, JobId, JobState, Notification, OnConflict, WaitReason
from qbm_trio.core.overview import (
    Health,
    JobCounts,
    Overview,
    QbittorrentContact,
    QueueFigures,
    TierFigures,
)
from qbm_trio.core.relocation import RunId
from qbm_trio.core.space import SpacePlan
from qbm_trio.core.space_runs import DryRun, Requested, SpaceOverview
from qbm_trio.core.tags import Amount, Location, LocationTags, TagChange
from qbm_trio.tasks.jobs import Accepted, Jobs
from qbm_trio.tasks.queue import JobQueue
from qbm_trio.tasks.tagging import Tagged, TagSummary
from qbm_trio.web.app import create_app
from qbm_trio.web.backend import Backend
from qbm_trio.web.backend import Jobs as JobsInterface
from qbm_trio.web.connection import Limits
from qbm_trio.web.openapi import document
from qbm_trio.web.serving import bind, serve

KEY = "0123456789abcdef-test-key"
NOTIFY = "/notify/torrent-finished"
DEADLINE_S = 20  #: for anything a test waits for
DOCUMENT = document("test")


def v1(n: int) -> str:
    """A v1 hash that differs for each ``n``."""
    return f"{n:040x}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One HTTP response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The error's stable word."""
        return str(self.json()["code"])


class Wire:
    """One TCP connection to the service, used byte by byte."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = bytearray()

    async def send(self, data: bytes) -> None:
        """Send exactly these bytes."""
        await self.stream.send_all(data)

    async def answer(self, *, to_head: bool = False) -> Answer:
        """The next answer, interim ones (100) included."""
        with trio.fail_after(DEADLINE_S):
            while b"\r\n\r\n" not in self._buffer:
                await self._more()
            head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
            status_line, *lines = head.decode("latin-1").split("\r\n")
            headers = {}
            for line in lines:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            length = 0 if to_head else int(headers.get("content-length", "0"))
            while len(rest) < length:
                del self._buffer[:]
                await self._more()
                rest += self._buffer
            self._buffer = bytearray(rest[length:])
        return Answer(status=int(status_line.split(" ")[1]), headers=headers, body=rest[:length])

    async def ends(self, within_s: float = DEADLINE_S) -> bool:
        """Whether the service closes the connection, all answers read, in time."""
        with trio.move_on_after(within_s):
            try:
                return not self._buffer and await self.stream.receive_some() == b""
            except trio.BrokenResourceError:
                return True
        return False

    async def _more(self) -> None:
        data = await self.stream.receive_some(65536)
        if not data:
            raise EOFError(bytes(self._buffer))
        self._buffer += data


def raw(
    method: str,
    target: str,
    *,
    body: bytes | None = None,
    key: str | None = KEY,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """A request's bytes."""
    fields = {"Host": "localhost"}
    if key is not None:
        fields["X-API-Key"] = key
    if body is not None:
        fields["Content-Length"] = str(len(body))
    fields.update(headers or {})
    lines = [f"{method} {target} HTTP/1.1", *(f"{n}: {v}" for n, v in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")


def notification(n: int, **fields: object) -> bytes:
    """A notification's JSON for the torrent ``n``."""
    return json.dumps({"hash": v1(n), **fields}).encode()


@dataclass(kw_only=True)
class Site:
    """A running HTTP layer."""

    url: str
    backend: Backend
    shutdown: trio.Event
    ended: trio.Event
    jobs: Jobs | None  #: the real ones, when they are behind it

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    @asynccontextmanager
    async def wire(self) -> AsyncIterator[Wire]:
        """A connection of one's own."""
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            yield Wire(stream)

    async def call(
        self,
        method: str,
        target: str,
        *,
        body: bytes | None = None,
        key: str | None = KEY,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request on a connection of its own; the answer must match the document."""
        async with self.wire() as wire:
            await wire.send(raw(method, target, body=body, key=key, headers=headers))
            answer = await wire.answer(to_head=method == "HEAD")
        if method != "HEAD":
            assert_documented(method, target.partition("?")[0], answer)
        return answer

    async def notify(self, body: bytes, **headers: str) -> Answer:
        """Send a notification."""
        return await self.call("POST", NOTIFY, body=body, headers=headers)


def assert_documented(method: str, path: str, answer: Answer) -> None:
    """Fail unless the OpenAPI document foresees this answer to this call."""
    media_type = answer.headers["content-type"].partition(";")[0]
    operation = _operation(method, path)
    headers: Mapping[str, Any] = {}
    if operation is None:
        # No such call: the document cannot list it, but the error's shape holds.
        schema: Any = {"$ref": "#/components/schemas/ErrorAnswer"}
        assert answer.status in (400, 401, 404, 405, 408, 413), answer
    else:
        responses = operation["responses"]
        assert str(answer.status) in responses, f"{method} {path}: {answer}"
        schema = responses[str(answer.status)]["content"][media_type]["schema"]
        if media_type != "application/json":
            assert schema == {"type": "string"}
            return
        headers = responses[str(answer.status)].get("headers", {})
    assert answer.headers["content-type"] == "application/json"
    jsonschema.Draft202012Validator(
        {**schema, "components": DOCUMENT["components"]},
        format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
    ).validate(answer.json())
    for name, header in headers.items():
        value: object = answer.headers[name.lower()]
        if header["schema"].get("type") == "integer":
            value = int(str(value))
        jsonschema.validate(value, header["schema"])
    if answer.status >= 400 and "error" in answer.json():
        assert_sentence(answer.json()["error"])


def assert_sentence(error: str) -> None:
    """Fail unless it begins with a capital letter, or a field's name, and ends with a stop."""
    assert re.match(r"[A-Z]|[^ ]{0,101}: ", error), error
    assert re.search(r"[^.]\.$", error), error


def _operation(method: str, path: str) -> Any:
    for template, operations in DOCUMENT["paths"].items():
        wanted, given = template.split("/"), path.split("/")
        if len(wanted) == len(given) and all(
            w == g or (w.startswith("{") and g) for w, g in zip(wanted, given, strict=True)
        ):
            return operations.get(method.lower())
    return None


@dataclass(kw_only=True)
class StandIn:
    """Jobs without a disk, for what the real ones cannot be made to do at will."""

    refuse_with: Exception | None = None
    hold: trio.Event | None = None  #: accept waits for it
    arrived: list[Notification] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)

    async def accept(self, n: Notification, /) -> Accepted:
        """Keep the notification in memory."""
        if self.refuse_with is not None:
            raise self.refuse_with
        self.arrived.append(n)
        if self.hold is not None:
            await self.hold.wait()
        await trio.lowlevel.checkpoint()
        known = self.jobs.get(n.hash)
        if known is not None:
            return Accepted(job=known, duplicate=True, position=1)
        job = Job(id=JobId(f"job-{n.hash[-8:]}"), seq=len(self.jobs) + 1, hash=n.hash)
        self.jobs[n.hash] = job
        return Accepted(job=job, duplicate=False, position=1)

    async def cancel(self, job_id: JobId, /) -> Job:
        """One job."""
        return await self.get(job_id)

    async def retry(self, job_id: JobId, /, *, on_conflict: OnConflict) -> Job:
        """One job."""
        return await self.get(job_id)

    async def clear(self) -> int:
        """Forget all."""
        await trio.lowlevel.checkpoint()
        count = len(self.jobs)
        self.jobs.clear()
        return count

    async def get(self, job_id: JobId, /) -> Job:
        """One job."""
        await trio.lowlevel.checkpoint()
        for job in self.jobs.values():
            if job.id == job_id:
                return job
        raise NoSuchJob(f"there is no job {job_id}")

    async def newest(
        self, *, state: JobState | None, limit: int, after: JobId | None
    ) -> Sequence[Job]:
        """All jobs, newest first."""
        await trio.lowlevel.checkpoint()
        found = [j for j in self.jobs.values() if state is None or j.state is state]
        return found[::-1][:limit]


@dataclass(kw_only=True)
class TaggingStandIn:
    """Tagging without a qBittorrent; keeps what was asked of it."""

    refuse_with: Exception | None = None
    asked: list[bool] = field(default_factory=list)  #: the ``dry_run`` of each call
    changes: tuple[TagChange, ...] = ()
    found: TagSummary | None = None

    async def tag_existing(self, *, dry_run: bool) -> Tagged:
        """Say that the changes were made."""
        await trio.lowlevel.checkpoint()
        self.asked.append(dry_run)
        if self.refuse_with is not None:
            raise self.refuse_with
        return Tagged(dry_run=dry_run, torrents=3, changes=self.changes)

    async def summary(self) -> TagSummary:
        """Give what was found, or nothing at all."""
        await trio.lowlevel.checkpoint()
        if self.refuse_with is not None:
            raise self.refuse_with
        return self.found or TagSummary(
            enabled=True,
            tags=LocationTags(ssd="ssd", hdd="hdd"),
            by_location=dict.fromkeys(Location, Amount()),
            by_tag={},
            mismatches=(),
            without_torrent=(),
        )


NOTHING_TO_DO = DryRun(
    plan=SpacePlan(
        relocate=(),
        tier_first=(),
        chosen=(),
        spared=(),
        spared_bytes={},
        missing_bytes=0,
        planned_bytes=0,
        shortfall_bytes=0,
    ),
    ssd_free_bytes=50,
    ssd_total_bytes=100,
    threshold_bytes=10,
    target_bytes=11,
    pending_bytes=0,
)


@dataclass(kw_only=True)
class SpaceStandIn:
    """Space management without disks; keeps what was asked of it."""

    only_plans: bool = False
    refuse_with: Exception | None = None
    asked: list[str] = field(default_factory=list)
    joined: bool = False
    found: DryRun = NOTHING_TO_DO

    def trigger(self) -> Requested:
        """Say that a run was asked for."""
        self.asked.append("run")
        if self.refuse_with is not None:
            raise self.refuse_with
        return Requested(run_id=RunId("run-1"), joined=self.joined)

    async def dry_run(self) -> DryRun:
        """Give what was found."""
        await trio.lowlevel.checkpoint()
        self.asked.append("dry run")
        if self.refuse_with is not None:
            raise self.refuse_with
        return self.found


def overview(**changes: Any) -> Overview:
    """An overview with plausible values."""
    values: dict[str, Any] = {
        "status": "healthy",
        "degraded_by": frozenset(),
        "version": "test",
        "dry_run": False,
        "started_at": 1_700_000_000.0,
        "now": 1_700_000_060.5,
        "uptime_s": 60.5,
        "last_activity_at": None,
        "qbittorrent": QbittorrentContact(reachable=False, problem="not running"),
        "max_concurrent": 3,
        "running": (),
        "queue": QueueFigures(size=0, capacity=10, waiting=0, oldest_s=None, items=()),
        "jobs": JobCounts(
            by_state=dict.fromkeys(JobState, 0), waiting=dict.fromkeys(WaitReason, 0)
        ),
        "ssd": TierFigures(path="/ssd", total_bytes=100, free_bytes=50),
        "hdd": TierFigures(path="/hdd", total_bytes=None, free_bytes=None, problem="no answer"),
        "threshold_bytes": 10,
        "target_bytes": 11,
        "hdd_min_free_bytes": 1,
        "space": SpaceOverview(),
        "statistics": {"torrents_processed": 3},
        "recent": (),
    }
    return Overview(**{**values, **changes})


def backend(jobs: JobsInterface, **changes: Any) -> Backend:
    """A backend around ``jobs``."""

    async def get_overview(*, in_haste: bool) -> Overview:
        await trio.lowlevel.checkpoint()
        return overview()

    async def save_state() -> SavedState:
        await trio.lowlevel.checkpoint()
        return SavedState(
            path="/state/recovery.json", counts={"jobs": 0, "copies": 0}, saved_at=1_700_000_000.0
        )

    values: dict[str, Any] = {
        "jobs": jobs,
        "tagging": TaggingStandIn(),
        "space": SpaceStandIn(),
        "overview": get_overview,
        "health": lambda: Health(status="healthy"),
        "count_request": lambda: None,
        "save_state": save_state,
        "api_key": KEY,
        "version": "test",
    }
    return Backend(**{**values, **changes})


@asynccontextmanager
async def site_on(
    served: Backend,
    *,
    jobs: Jobs | None = None,
    limits: Limits | None = None,
    fast_lane: bool = True,
) -> AsyncIterator[Site]:
    """Serve ``served`` on a free port until the block ends."""
    shutdown, ended = trio.Event(), trio.Event()
    app = create_app(served)

    async def run(task_status: trio.TaskStatus[str]) -> None:
        await serve(
            app,
            served,
            bind("127.0.0.1", 0),
            shutdown=shutdown,
            limits=limits,
            fast_lane=fast_lane,
            task_status=task_status,
        )
        ended.set()

    async with trio.open_nursery() as nursery:
        url = await nursery.start(run)
        yield Site(url=url, backend=served, shutdown=shutdown, ended=ended, jobs=jobs)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def site_with_journal(
    state_dir: Path,
    *,
    capacity: int = 1000,
    limits: Limits | None = None,
    fast_lane: bool = True,
) -> AsyncIterator[Site]:
    """Serve real `Jobs` on a real journal in ``state_dir``."""
    journal = await trio.to_thread.run_sync(Journal.open, state_dir)
    limiter = trio.CapacityLimiter(1)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(journal.run, limiter))
        jobs = Jobs(journal, JobQueue(capacity), clock=time.time)
        try:
            await jobs.recover()
            async with site_on(
                backend(jobs), jobs=jobs, limits=limits, fast_lane=fast_lane
            ) as site:
                yield site
        finally:
            journal.close()
