"""A qBittorrent that answers late, wrongly or not at all, or that does not let us in.

Real qBittorrent behind a relay that spoils its answers and counts the calls; real service.
In each case jobs wait, none fails for it, there is no storm of calls, the service itself
answers, and all goes on by itself afterwards.
"""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import qbittorrentapi

from tests.fakes.web_server import Reply, Seen, serving
from tests.rig.library import Library
from tests.rig.qbt import PASSWORD, running
from tests.rig.service import Service
from tests.rig.wayward import Mood, Wayward, wayward

pytestmark = pytest.mark.qbittorrent

PLAN = "/space-management/trigger"
LOGIN = "/api/v2/auth/login"
MOST_TRIES_S = 2.0
"""While it is away it is tried at most twice a second here, where the longest pause is one
second: with the thirty of real life that is four times a minute."""
SPED_UP = {"qbm_trio.tasks.prober.LONGEST_S": 1.0}
FAST_S = 2.0  #: an answer of the service on a busy machine; those of the relay never come sooner


@contextmanager
def behind_relay(
    root: Path,
    *,
    login: bool = False,
    constants: Mapping[str, float] | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[tuple[Service, Library, Wayward]]:
    """A qBittorrent, a relay before it, and a service that is not started."""
    with ExitStack() as stack:
        qbt = stack.enter_context(running(root / "qbt", login=login))
        relay = stack.enter_context(wayward(qbt.web_port))
        service = Service(root / "service", relay.url, dict(env or {}), module="tests.rig.sped_up")
        service.env["QBM_CONSTANTS"] = json.dumps({**SPED_UP, **(constants or {})})
        stack.callback(service.http.close)
        stack.callback(service.kill)
        yield service, Library(service, qbt), relay


def many(library: Library, count: int) -> None:
    for n in range(count):
        library.make(f"{n}.bin", 1000 + n)
    library.add()


def notify_all(service: Service, library: Library) -> list[str]:
    return [str(service.notify(t.id).json()["queue_id"]) for t in library.torrents]


def all_done(service: Service, library: Library, ids: list[str], limit_s: float = 30) -> None:
    for job_id in ids:
        job = service.wait_for_job(job_id, "done", "failed", limit_s=limit_s)
        assert (job["outcome"], job["attempts"]) == ("tiered", 0), job
    library.assert_tiered()


def answers_meanwhile(service: Service, for_s: float) -> float:
    """Ask it this and that for so long; give how long the slowest answer took."""
    slowest_s, until = 0.0, time.monotonic() + for_s
    calls: list[Callable[[], Any]] = [
        lambda: service.http.get("/health"),
        lambda: service.http.get("/status"),
        lambda: service.notify("f" * 40),
    ]
    while time.monotonic() < until:
        for call in calls:
            began = time.monotonic()
            assert call().status_code in (200, 202)
            slowest_s = max(slowest_s, time.monotonic() - began)
    return slowest_s


def row(id: str, **fields: object) -> dict[str, object]:
    """What qBittorrent says of a torrent that is none of the service's business."""
    return {
        "hash": id, "infohash_v1": id, "infohash_v2": "", "name": f"name of {id}",
        "state": "stalledUP", "category": "", "tags": "", "save_path": "/elsewhere",
        "content_path": f"/elsewhere/name of {id}", "progress": 1, "amount_left": 0, "size": 9,
        "completion_on": 1_700_000_000, "added_on": 1_700_000_000, "auto_tmm": False,
        "download_path": "", "force_start": False, **fields,
    }  # fmt: skip


def told(service: Service) -> dict[str, Any]:
    """What it says of qBittorrent."""
    document: dict[str, Any] = service.http.get("/status").json()["qbittorrent"]
    return document


def states(service: Service, ids: list[str]) -> set[tuple[str, str | None, int]]:
    jobs = [service.job(job_id) for job_id in ids]
    return {(job["state"], job.get("wait_reason"), job["attempts"]) for job in jobs}


@pytest.mark.parametrize(
    "mood", [Mood.ERROR_500, Mood.UNAVAILABLE_503, Mood.PAGE, Mood.HALF, Mood.RESET]
)
def test_wrong_answers_cost_no_job_and_no_storm_of_calls(tmp_path: Path, mood: Mood) -> None:
    with behind_relay(tmp_path) as (service, library, relay):
        many(library, 30)
        service.start()
        service.wait_for(lambda: told(service)["reachable"], "it reaches qBittorrent")
        began = relay.be(mood)
        ids = notify_all(service, library)
        for job_id in ids:
            assert service.wait_for_job(job_id, "waiting")["wait_reason"] == "qbittorrent"
        answers_meanwhile(service, 3)
        took_s, calls = time.monotonic() - began, relay.since(began)
        # Two calls a try, for one whose connection breaks is sent once more; before the first
        # failure is known, each of three jobs at once may have made its own.
        assert 2 <= calls.total() <= 2 * (MOST_TRIES_S * took_s + 3 + 3), (took_s, calls)
        assert states(service, ids) == {("waiting", "qbittorrent", 0)}
        assert service.http.get("/health").json()["status"] == "degraded"
        assert not told(service)["reachable"]
        assert told(service)["problem"]
        began = relay.be(Mood.WELL)
        service.wait_for(lambda: told(service)["reachable"], "it is back", limit_s=5)
        assert service.http.get("/health").json()["status"] == "healthy"
        all_done(service, library, ids)
        assert relay.since(began).total() <= 6 * len(ids) + 10, relay.since(began)
        assert sum("ERROR" in line for line in service.output().splitlines()) == 1


@pytest.mark.parametrize(
    ("delay_s", "limit_s"), [(0.4, 5.0), (1.5, 0.5)], ids=["just in time", "too late"]
)
def test_late_answers_pile_nothing_up(tmp_path: Path, delay_s: float, limit_s: float) -> None:
    """Thirty seconds in real life, where the limit is thirty seconds, too."""
    limits = {"qbm_trio.adapters.qbittorrent_session.READ_LIMIT_S": limit_s}
    with behind_relay(tmp_path, constants=limits, env={"COPY_RATE_LIMIT_MB_S": "1"}) as stage:
        service, library, relay = stage
        library.make("in mid-copy.mkv", 3_000_000)
        many(library, 20)
        service.start()
        ids = [service.notify(library.torrents[0].id).json()["queue_id"]]
        service.wait_for(lambda: service.job(ids[0])["bytes_copied"], "it copies")
        assert service.process is not None
        tasks = Path(f"/proc/{service.process.pid}/task")
        threads = len(list(tasks.iterdir()))
        began = relay.be(delay_s=delay_s)
        ids += notify_all(service, library)[1:]
        slowest_s = answers_meanwhile(service, 5)
        took_s, calls = time.monotonic() - began, relay.since(began)
        assert slowest_s < FAST_S
        # One after another; what was given up is held by the relay until its time is over.
        assert relay.most_open <= (1 if delay_s < limit_s else 1 + delay_s / limit_s)
        assert calls.total() <= took_s / min(delay_s, limit_s) + 2, calls
        assert len(list(tasks.iterdir())) <= threads + 4
        assert {attempts for _, _, attempts in states(service, ids)} == {0}
        assert "failed" not in {state for state, _, _ in states(service, ids)}
        relay.be(Mood.WELL)
        all_done(service, library, ids)


def log_lines(service: Service, pattern: str) -> list[str]:
    return [line for line in service.output().splitlines() if re.search(pattern, line)]


@pytest.mark.parametrize("mended", ["the old one is set again", "restarted with the new one"])
def test_a_password_that_is_changed_while_it_runs(tmp_path: Path, mended: str) -> None:
    # Every twenty minutes in real life.
    hasty = {"qbm_trio.adapters.qbittorrent_login.TRIES_PER_HOUR": 3600 // 4}
    old_again = mended == "the old one is set again"
    login = {"QBIT_USERNAME": "admin", "QBIT_PASSWORD": PASSWORD}
    constants = hasty if old_again else {}
    with behind_relay(tmp_path, login=True, constants=constants, env=login) as stage:
        service, library, relay = stage
        qbt = library.qbt
        many(library, 10)
        service.start()
        first = service.notify(library.torrents[0].id).json()["queue_id"]
        service.wait_for_job(first, "done")

        preferences = {"web_ui_password": "another one", "web_ui_session_timeout": 1}
        qbt.api.app_set_preferences(preferences)  # sessions end when nothing is asked for long
        until = time.monotonic() + 2.5
        service.wait_for(lambda: time.monotonic() > until, "its session has ended")
        began = time.monotonic()
        ids = [first, *notify_all(service, library)[1:]]
        for job_id in ids[1:]:
            assert service.wait_for_job(job_id, "waiting")["wait_reason"] == "qbittorrent"
        assert answers_meanwhile(service, 5) < FAST_S
        took_s, calls = time.monotonic() - began, relay.since(began)
        assert calls[LOGIN] <= (took_s / 4 + 1 if old_again else 1), calls
        assert calls.total() - calls[LOGIN] <= MOST_TRIES_S * took_s + 6
        assert states(service, ids[1:]) == {("waiting", "qbittorrent", 0)}
        assert "check QBIT_USERNAME and QBIT_PASSWORD" in told(service)["problem"]
        assert "next try at" in told(service)["problem"]
        assert len(log_lines(service, "ERROR .*check QBIT_USERNAME and QBIT_PASSWORD")) == 1
        everything = service.output() + service.http.get("/status").text
        assert PASSWORD not in everything
        assert "another one" not in everything

        if old_again:
            user = qbittorrentapi.Client(host=qbt.url, username="admin", password="another one")
            user.app_set_preferences({"web_ui_password": PASSWORD})
        else:
            assert service.stop() == 0
            service.env["QBIT_PASSWORD"] = "another one"
            service.start()
            qbt.api.auth_log_out()
            qbt.api.auth_log_in("admin", "another one")
        service.wait_for(lambda: told(service)["reachable"], "it is let in", limit_s=10)
        all_done(service, library, ids)


def test_a_ban_is_not_made_worse_and_a_restart_of_qbittorrent_ends_it(tmp_path: Path) -> None:
    login = {"QBIT_USERNAME": "admin", "QBIT_PASSWORD": PASSWORD}
    with behind_relay(tmp_path, login=True, env=login) as (service, library, relay):
        qbt = library.qbt
        many(library, 10)
        other = qbittorrentapi.Client(host=qbt.url, username="admin", password="wrong")
        for _ in range(5):
            with pytest.raises(qbittorrentapi.LoginFailed):
                other.auth_log_in()
        with pytest.raises(qbittorrentapi.Forbidden403Error):
            other.auth_log_in()  # banned
        service.start()
        ids = notify_all(service, library)
        for job_id in ids:
            assert service.wait_for_job(job_id, "waiting")["wait_reason"] == "qbittorrent"
        answers_meanwhile(service, 3)
        assert relay.requests[LOGIN] == 1
        assert "has banned this address after failed logins" in told(service)["problem"]
        assert len(log_lines(service, "ERROR .*has banned this address")) == 1
        assert states(service, ids) == {("waiting", "qbittorrent", 0)}
        qbt.stop(signal.SIGTERM)
        service.wait_for(lambda: "is it running" in str(told(service)), "it notices")
        qbt.start()
        service.wait_for(lambda: told(service)["reachable"], "it is let in", limit_s=10)
        assert relay.requests[LOGIN] == 2
        all_done(service, library, ids)


def test_ten_thousand_torrents_cost_little_memory_and_hold_up_no_answer(tmp_path: Path) -> None:
    """What is listed is 12 MB; the server is scripted, for real ones take minutes to add."""
    more = {f"one of thirty more fields, {k}": k for k in range(30)}
    rows = [row(f"{n:040x}", **more) for n in range(10_000)]
    whole = {"rid": 1, "full_update": True, "torrents": {str(r["hash"]): r for r in rows}}
    known = {
        "version": b"v4.5.2",
        "webapiVersion": b"2.8.19",
        "info": json.dumps(rows).encode(),
        "maindata": json.dumps(whole).encode(),
    }

    def answer(seen: Seen) -> Reply:
        return Reply(body=known[urlsplit(seen.path).path.rpartition("/")[2]])

    with serving(answer) as server:
        service = Service(tmp_path / "service", server.url)
        try:
            service.start()
            service.wait_for(lambda: told(service)["reachable"], "it reaches qBittorrent")
            service.wait_for(lambda: "HDD tier" in service.output(), "it knows its tiers")
            took_s = []
            with ThreadPoolExecutor(1) as pool:
                plan = pool.submit(service.http.post, PLAN, json={"dry_run": True})
                while not plan.done():
                    began = time.monotonic()
                    assert httpx.get(f"{service.url}/health").status_code == 200
                    took_s.append(time.monotonic() - began)
            assert plan.result().status_code == 200, plan.result().text
            assert most_memory_kib(service) < 250_000  # of which some 70 MB are the service's own
            assert max(took_s) < FAST_S
            assert sum("info" in seen.path for seen in server.seen) <= 2
            assert sum("maindata" in seen.path for seen in server.seen) <= 2
        finally:
            service.kill()
            service.http.close()


def most_memory_kib(service: Service) -> int:
    """The most that it has had in memory so far."""
    assert service.process is not None
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])
