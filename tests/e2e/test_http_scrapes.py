"""What scrapes ask of the rest of the service while a copy goes on: nothing.

The real service with its HTTP layer, in the test's own loop, and 10,000 jobs in its journal.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from qbm_trio.adapters.copy_threads import Stop, WriteRate
from qbm_trio.core.model import JobState, Phase
from tests.fakes.qbittorrent import FakeQbittorrent
from tests.rig.inside import LIMIT_S, Inside, condition, inside, make
from tests.rig.journals import fill
from tests.rig.site import KEY, Wire, raw

JOBS = {JobState.DONE: 8_500, JobState.FAILED: 500, JobState.WAITING: 1_000}
COPIED_BYTES = 3_000_000
SCRAPES = [
    raw("GET", "/metrics", key=KEY),
    raw("GET", "/status", key=KEY, headers={"Accept": "application/openmetrics-text"}),
    raw("GET", "/status", key=KEY),
]
CLIENTS = 5
LOOK = "FROM counters"  #: in a statement that is made for an overview alone

#: What asks a disk and raises no audit event.
QUIET_CALLS = ("stat", "lstat", "fstat", "statvfs", "fstatvfs", "access", "pread", "fsync", "sync")


class Held:
    """A copy that stands where it would write, until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self._go = threading.Event(), threading.Event()
        monkeypatch.setattr(WriteRate, "wait", self._wait)

    def let_go(self) -> None:
        self._go.set()

    def _wait(self, _bytes: int, stop: Stop) -> None:
        self.reached.set()
        while not self._go.wait(0.05):
            stop.check()


class Asked:
    """All that this process asks of the journal, disks, other programs and threads, by name."""

    def __init__(self, service: Inside, fake: FakeQbittorrent, patch: pytest.MonkeyPatch) -> None:
        self._service = service
        self._fake = fake
        self._patch = patch
        self._seen: list[str] | None = None
        sys.addaudithook(self._audited)  # for good: it cannot be taken away

    @contextmanager
    def of(self) -> Iterator[list[str]]:
        """What is asked during the block."""
        calls = len(self._fake.calls)
        seen: list[str] = []
        self._seen = seen
        connection = self._service.journal._connection
        connection.set_trace_callback(lambda statement: seen.append(f"journal: {statement}"))
        with self._patch.context() as patch:
            patch.setattr(
                trio.to_thread, "run_sync", self._noting("thread", trio.to_thread.run_sync)
            )
            for name in QUIET_CALLS:
                patch.setattr(os, name, self._noting(f"os.{name}", getattr(os, name)))
            try:
                yield seen
            finally:
                self._seen = None
                connection.set_trace_callback(None)
                seen += [f"qBittorrent: {call}" for call in self._fake.calls[calls:]]

    def _noting(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*args: Any, **more: Any) -> Any:
            self._note(f"{name} {args}")
            return call(*args, **more)

        return noting

    def _audited(self, event: str, args: tuple[Any, ...]) -> None:
        if event.startswith(
            ("open", "os.", "shutil.", "sqlite3.", "socket.", "_thread.start", "subprocess.")
        ):
            self._note(f"{event} {args}")

    def _note(self, what: str) -> None:
        if self._seen is not None:
            self._seen.append(what)


async def scrape(wire: Wire, request: bytes) -> None:
    """One scrape, which shows all jobs."""
    await wire.send(request)
    answer = await wire.answer()
    assert answer.status == 200
    if answer.headers["content-type"] == "application/json":
        assert answer.json()["jobs"]["by_state"]["failed"] == JOBS[JobState.FAILED]
    else:
        assert b'\nqbm_jobs{state="failed"} 500.0\n' in answer.body


@asynccontextmanager
async def clients_of(service: Inside) -> AsyncIterator[list[Wire]]:
    """Connections that are there."""
    async with AsyncExitStack() as stack:
        yield [
            Wire(
                await stack.enter_async_context(
                    await trio.open_tcp_stream("127.0.0.1", service.port)
                )
            )
            for _ in range(CLIENTS)
        ]


async def scrape_at_once(clients: list[Wire], goes_on: Callable[[int], bool]) -> None:
    """Have all clients scrape, each in all forms, while ``goes_on`` is true of how often it did."""

    async def often(client: Wire) -> None:
        count = 0
        while goes_on(count):
            await scrape(client, SCRAPES[count % len(SCRAPES)])
            count += 1

    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(often, client)


async def asked_by_scrapes(asked: Asked, clients: list[Wire]) -> list[str]:
    """What is asked while the clients make 150 scrapes."""
    with asked.of() as seen, trio.fail_after(LIMIT_S):
        await scrape_at_once(clients, lambda count: count < 30)
    return seen


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing happens by itself: no probe, no saving of counters."""
    monkeypatch.setattr("qbm_trio.tasks.tiers.PROBE_INTERVAL_S", 3600)
    monkeypatch.setattr("qbm_trio.tasks.housekeeping.INTERVAL_S", 3600)


async def test_scrapes_with_10_000_jobs_ask_nothing_while_a_copy_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, still: None
) -> None:
    (tmp_path / "state").mkdir()
    fill(tmp_path / "state", JOBS, now=time.time())
    fake, held = FakeQbittorrent(), Held(monkeypatch)
    async with inside(tmp_path, client=fake, HTTP_ENABLED="true", HTTP_API_KEY=KEY) as service:
        id_ = fake.add(make(service.ssd, "T", COPIED_BYTES).data, save_path=str(service.ssd))
        job_id = await service.notify(id_)
        await condition(held.reached.is_set)
        asked = Asked(service, fake, monkeypatch)
        async with clients_of(service) as clients:
            until = trio.current_time() + LIMIT_S
            # The service's start may not be over yet; what scrapes ask they ask each time.
            while (seen := await asked_by_scrapes(asked, clients)) and trio.current_time() < until:
                pass
            assert seen == []
            assert (await service.service.jobs.get(job_id)).phase is Phase.COPYING

            changes = service.journal.changes
            with asked.of() as control:
                await service.service.observer.save_counters()
                await fake.torrents()
                await service.service.tiers.ssd.probe()
            for what in ("journal: COMMIT", "qBittorrent: ", "thread ", "os.statvfs ", "open "):
                assert any(each.startswith(what) for each in control), f"{what}would not be seen"

            held.let_go()
            with asked.of() as meanwhile, trio.fail_after(LIMIT_S):
                await scrape_at_once(
                    clients, lambda _: service.service.jobs.live.get(job_id) is not None
                )
            looks = sum(LOOK in each for each in meanwhile)
            assert 0 < looks <= service.journal.changes - changes, "one for a change, for all"
        job = await service.ended(job_id)
        overview = await service.service.observer.overview()
        contents = service.contents()
    assert job.state is JobState.DONE
    assert overview.statistics["bytes_verified"] == COPIED_BYTES
    assert contents == {"T": (service.ssd / "T").read_bytes()}
