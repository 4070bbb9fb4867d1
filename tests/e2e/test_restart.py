"""``kill -9`` of the service at any moment: no accepted notification is lost.

Real qBittorrent, real service. What the HDD must hold is known from before.
"""

from __future__ import annotations

import logging
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue

import httpx
import pytest

from tests.rig.library import MARKER, Library, Shelved, frozen, shelf, snapshot, stage
from tests.rig.service import KEY, Service

log = logging.getLogger(__name__)

pytestmark = [pytest.mark.qbittorrent, pytest.mark.slow]

KILLS = 52
TORRENTS = 40
CLIENTS = 4
SEED = 20260731


class Clients:
    """Notify as the hook script does: again until there is an answer."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._todo: Queue[str] = Queue()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]
        self.acknowledged: dict[str, str] = {}  #: hash to queue_id
        self.cut_off = 0  #: requests that a kill left without an answer
        self.problems: list[str] = []

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def send(self, hash_: str) -> None:
        """Line one notification up."""
        self._todo.put(hash_)

    def all_acknowledged(self, hashes: set[str]) -> bool:
        """Whether each of these got its 2xx."""
        assert not self.problems, self.problems
        return hashes <= set(self.acknowledged)

    def _run(self) -> None:
        with httpx.Client(headers={"X-API-Key": KEY}, timeout=10) as http:
            while not self._ended.is_set():
                with suppress(Empty):
                    self._notify(http, self._todo.get(timeout=0.05))

    def _notify(self, http: httpx.Client, hash_: str) -> None:
        try:
            answer = http.post(f"{self._service.url}/notify/torrent-finished", json={"hash": hash_})
        except httpx.TransportError as error:
            self.cut_off += not isinstance(error, httpx.ConnectError)
            self._todo.put(hash_)
            self._ended.wait(0.02)  # as a client would, and not to keep a core busy
            return
        if answer.status_code in (200, 202):
            self.acknowledged[hash_] = answer.json()["queue_id"]
        else:
            self.problems.append(f"{answer.status_code} {answer.text}")


def kill_after(service: Service, seconds: float) -> None:
    """Kill it so much later. The wait is the point: it must live until then."""
    assert service.process is not None
    with pytest.raises(subprocess.TimeoutExpired):
        service.process.wait(seconds)
    service.kill()


def follow(service: Service, job_id: str) -> dict[str, object]:
    """The job, or the one it was merged into."""
    job = service.job(job_id)
    assert "state" in job, f"{job_id} was acknowledged and is lost: {job}"
    while job["state"] == "merged":
        job = service.job(job["merged_into"])
    return job


def alive(service: Service) -> list[dict[str, object]]:
    """Jobs that have work to do."""
    found: list[dict[str, object]] = []
    for state in ("queued", "waiting", "running"):
        found += service.http.get("/jobs", params={"state": state, "limit": 500}).json()["jobs"]
    return found


def test_no_acknowledged_torrent_is_lost_by_fifty_kills_at_random_moments(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    limits = {"COPY_RATE_LIMIT_MB_S": "6", "MAX_CONCURRENT_COPY_OPERATIONS": "2"}
    with stage(tmp_path, **limits) as (service, library):
        shelf(library, rng, TORRENTS)
        foreign = "movies/someone else's.txt"
        (service.hdd / foreign).parent.mkdir()
        (service.hdd / foreign).write_text("mine")
        before = snapshot(service.ssd)
        around = set(snapshot(tmp_path / "service"))
        hashes = [hash_ for shelved in library.torrents for hash_ in shelved.hashes]
        rng.shuffle(hashes)
        phases: Counter[str] = Counter()
        with Clients(service) as clients:
            for n in range(KILLS):
                service.launch()
                for hash_ in hashes[n * len(hashes) // KILLS : (n + 1) * len(hashes) // KILLS]:
                    clients.send(hash_)
                if rng.random() < 0.2:
                    kill_after(service, rng.uniform(0.2, 0.9))  # about while it starts
                else:
                    service.wait_ready()
                    kill_after(service, rng.uniform(0.0, 0.4))
                if (service.state / "journal.sqlite3").exists():
                    phases.update(phases_on_disk(service))
            service.start()
            service.wait_for(
                lambda: clients.all_acknowledged(set(hashes)), "every hash is acknowledged"
            )
        service.wait_for(lambda: not alive(service), "all jobs end", 60)

        for hash_, job_id in clients.acknowledged.items():
            job = follow(service, job_id)
            assert (job["state"], job["outcome"]) == ("done", "tiered"), (hash_, job)
        library.assert_tiered(foreign=[foreign])
        assert (service.hdd / foreign).read_text() == "mine"
        after = snapshot(service.ssd)
        after.pop(MARKER)
        assert after == before
        new = set(snapshot(tmp_path / "service")) - around
        assert {p.split("/")[0] for p in new} <= {"hdd", "ssd", "state", "service.log", "qbm.log"}
        assert "Traceback" not in service.output()
    figures = f"{KILLS} kills, {clients.cut_off} requests cut off, phases {dict(phases)}"
    log.info("%s", figures)
    # Which kill lands where is chance, that none of so many does would not be.
    assert phases["copying"] > 0
    assert clients.cut_off > 0


def phases_on_disk(service: Service) -> list[str]:
    """The phases that running jobs were in when it died; ``none`` without any."""
    rows = service.on_disk("SELECT phase FROM jobs WHERE state = 'running'")
    return [str(phase) for (phase,) in rows] or ["none"]


def phase_is(service: Service, phase: str) -> Callable[[], bool]:
    def asked() -> bool:
        return phase in [p["phase"] for p in service.http.get("/status").json()["processes"]]

    return asked


def until(condition: Callable[[], object], limit_s: float = 20) -> None:
    """Look all the time: the moment may be short."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline


def finish(service: Service, library: Library, job_id: str, *torrents: Shelved) -> None:
    """The next start finishes the job, ahead of everything."""
    service.env.pop("COPY_RATE_LIMIT_MB_S", None)
    service.start()
    job = service.wait_for_job(job_id, "done", "failed")
    assert (job["state"], job["outcome"]) == ("done", "tiered")
    assert service.http.get("/status").json()["statistics"]["jobs_recovered"] == 1
    library.assert_tiered(*torrents)
    assert "Traceback" not in service.output()


def test_a_kill_while_the_torrent_is_looked_up_costs_nothing(tmp_path: Path) -> None:
    with stage(tmp_path) as (service, library):
        torrent = library.one("Show", {"a": 100_000, "b": 5})
        service.start()
        service.wait_for(lambda: service.http.get("/health").json()["status"] == "healthy", "well")
        with frozen(library.qbt):
            job_id = service.notify(torrent.id).json()["queue_id"]
            service.wait_for(phase_is(service, "resolving"), "it is being looked up")
            service.kill()
        assert phases_on_disk(service) == ["resolving"]
        finish(service, library, job_id)


def test_a_kill_in_mid_copy_costs_nothing(tmp_path: Path) -> None:
    with stage(tmp_path, COPY_RATE_LIMIT_MB_S="2") as (service, library):
        torrent = library.one("Film.mkv", 8_000_000)
        service.start()
        job_id = service.notify(torrent.id).json()["queue_id"]

        def half_way() -> bool:
            processes = service.http.get("/status").json()["processes"]
            return any(p["bytes_done"] > 2_000_000 for p in processes)

        service.wait_for(half_way, "it is half-way")
        service.kill()
        assert phases_on_disk(service) == ["copying"]
        assert not (service.hdd / "Film.mkv").exists()
        finish(service, library, job_id)


def test_a_kill_while_files_are_put_in_place_costs_nothing(tmp_path: Path) -> None:
    with stage(tmp_path) as (service, library):
        names = [f"{n:04}" for n in range(800)]
        for attempt in range(5):
            torrent = library.one(f"Photos {attempt}", dict.fromkeys(names, 16_384))
            service.start()
            job_id = service.notify(torrent.id).json()["queue_id"]
            until((service.hdd / torrent.name / names[0]).exists)
            service.kill()
            there = len(list((service.hdd / torrent.name).iterdir()))
            if there < len(names):
                break
        else:
            pytest.fail("no kill came before all files were in place")
        assert phases_on_disk(service) == ["publishing"]
        finish(service, library, job_id)


def test_a_kill_before_the_tags_are_set_costs_nothing(tmp_path: Path) -> None:
    with stage(tmp_path) as (service, library):
        names = [f"{n:04}" for n in range(500)]
        torrent = library.one("Photos", dict.fromkeys(names, 16_384))
        service.start()
        job_id = service.notify(torrent.id).json()["queue_id"]
        until((service.hdd / torrent.name / names[0]).exists)
        with frozen(library.qbt):
            service.wait_for(phase_is(service, "tagging"), "it waits for the tags")
            service.kill()
        assert phases_on_disk(service) == ["tagging"]
        finish(service, library, job_id)
