"""``/status``: the names and the times that clients rely on."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from qbm_trio.core.checks import Finding, Group, Level
from qbm_trio.core.model import Job, JobId, JobState, Phase, TorrentId
from qbm_trio.core.overview import QbittorrentContact, QueueFigures, RunningJob
from qbm_trio.core.relocation import OPEN, RunId, Step
from qbm_trio.core.space_runs import (
    FailedGroup,
    OpenRelocation,
    RunFigures,
    SpaceOverview,
    SpaceRun,
    SparedSum,
)
from qbm_trio.web.schemas import rfc3339
from qbm_trio.web.status import status_answer
from tests.rig.site import Answer, assert_documented, overview

JOB = Job(id=JobId("1"), seq=1, hash="a" * 40, name="Ein 🎬", accepted_at=1_700_000_000.25)
RUNNING = RunningJob(
    id=JobId("2"),
    hash="b" * 40,
    name="n",
    phase=Phase.COPYING,
    started_at=1_700_000_001.0,
    bytes_done=5,
    bytes_total=10,
    bytes_per_second=2.54321,
    eta_s=1.98,
)
RELOCATION = OpenRelocation(
    id="17",
    torrent_id=TorrentId("c" * 40),
    name="Ein 🎬 \udcff",
    step=Step.CHECKING,
    begun_at=1_700_000_002.0,
    bytes=2**50,
    error=None,
)
LAST_RUN = SpaceRun(
    id=RunId("run-1"),
    by_hand=True,
    begun_at=1_700_000_000.0,
    ended_at=1_700_000_060.5,
    figures=RunFigures(
        freed_bytes=-5,
        planned_bytes=2**45,
        shortfall_bytes=7,
        target_met=False,
        relocated=3,
        tiered_first=4,
        failed_groups=21,
        failures=(FailedGroup(name="F \udcff", torrents=2, error="no copy at '\udcff'"),),
        spared={"pinned": SparedSum(torrents=2, bytes=2**50)},
        problem="the service was told to stop",
    ),
)


def shown(**changes: Any) -> Any:
    """The document, as the OpenAPI document has it."""
    body = status_answer(overview(**changes)).model_dump_json().encode()
    answer = Answer(status=200, headers={"content-type": "application/json"}, body=body)
    assert_documented("GET", "/status", answer)
    return json.loads(body)


def test_the_document_has_exactly_the_names_of_the_spec() -> None:
    status = shown(
        running=(RUNNING,),
        queue=QueueFigures(size=1, capacity=9, waiting=2, oldest_s=3.0, items=(JOB,)),
        recent=(JOB,),
    )
    names = {part: set(value) for part, value in status.items() if isinstance(value, dict)}
    assert names == {
        "service": {
            "status",
            "degraded_by",
            "version",
            "dry_run",
            "started_at",
            "uptime_seconds",
            "last_activity",
        },
        "qbittorrent": {"reachable", "version", "web_api_version", "last_contact", "problem"},
        "processing": {"running_processes", "max_concurrent", "capacity_available"},
        "queue": {"size", "capacity", "waiting_retry", "oldest_seconds", "items"},
        "jobs": {"by_state", "waiting_by_reason"},
        "space": {"ssd", "hdd", "last_run", "current_run", "paused"},
        "statistics": {
            "torrents_processed",
            "torrents_failed",
            "bytes_copied",
            "bytes_verified",
            "torrents_relocated",
            "bytes_freed",
            "space_management_runs",
            "api_requests",
            "jobs_recovered",
        },
    }
    assert set(status) - set(names) == {"processes", "recent", "checks"}
    assert set(status["processes"][0]) == {
        "id",
        "hash",
        "name",
        "kind",
        "phase",
        "started_at",
        "bytes_done",
        "bytes_total",
        "bytes_per_second",
        "eta_seconds",
        "error",
    }
    assert set(status["space"]["ssd"]) == {
        "path",
        "total_bytes",
        "free_bytes",
        "problem",
        "threshold_bytes",
        "target_bytes",
    }


def test_figures_are_carried_over() -> None:
    counters = {"torrents_processed": 3, "of_a_later_version": 1}
    queue = QueueFigures(size=1, capacity=9, waiting=2, oldest_s=3.00042, items=(JOB,))
    status = shown(running=(RUNNING,), max_concurrent=3, statistics=counters, queue=queue)
    assert status["processing"] == {
        "running_processes": 1,
        "max_concurrent": 3,
        "capacity_available": 2,
    }
    assert status["queue"]["oldest_seconds"] == 3.0  # no digits that mean nothing
    assert status["processes"][0]["bytes_per_second"] == 2.5
    assert status["processes"][0]["eta_seconds"] == 2.0
    assert status["statistics"]["torrents_processed"] == 3
    assert status["statistics"]["torrents_failed"] == 0
    assert status["space"]["hdd"]["free_bytes"] is None


def test_before_the_first_run_nothing_is_told_of_space_management() -> None:
    space = shown()["space"]
    assert (space["last_run"], space["current_run"], space["paused"]) == (None, None, None)


def test_the_last_run_is_told_with_all_its_figures() -> None:
    paused = "The last run freed less than half of what it planned; trigger one by hand."
    space = SpaceOverview(last_run=LAST_RUN, current_run=RunId("run-2"), paused=paused)
    status = shown(space=space)["space"]
    assert (status["current_run"], status["paused"]) == ("run-2", paused)
    assert status["last_run"] == {
        "id": "run-1",
        "by_hand": True,
        "begun_at": "2023-11-14T22:13:20.000Z",
        "ended_at": "2023-11-14T22:14:20.500Z",
        "freed_bytes": -5,
        "planned_bytes": 2**45,
        "shortfall_bytes": 7,
        "target_met": False,
        "relocated": 3,
        "tiered_first": 4,
        "failed_groups": 21,
        "failures": [{"name": "F ?", "torrents": 2, "error": "no copy at '?'"}],
        "spared": {"pinned": {"torrents": 2, "bytes": 2**50}},
        "problem": "the service was told to stop",
    }


def test_open_relocations_are_among_the_processes_and_take_no_job_s_place() -> None:
    status = shown(running=(RUNNING,), space=SpaceOverview(relocations=(RELOCATION,)))
    job, relocation = status["processes"]
    assert (job["id"], job["kind"], job["error"]) == ("2", "tiering", None)
    assert relocation == {
        "id": "17",
        "hash": "c" * 40,
        "name": "Ein 🎬 ?",
        "kind": "relocation",
        "phase": "checking",
        "started_at": "2023-11-14T22:13:22.000Z",
        "bytes_done": 0,
        "bytes_total": 2**50,
        "bytes_per_second": 0.0,
        "eta_seconds": None,
        "error": None,
    }
    assert status["processing"] == {
        "running_processes": 1,
        "max_concurrent": 3,
        "capacity_available": 2,
    }


@pytest.mark.parametrize("step", sorted(OPEN))
def test_a_relocation_may_be_at_any_step_and_says_what_went_wrong(step: Step) -> None:
    relocation = replace(RELOCATION, step=step, error="the recheck found \udcff")
    (process,) = shown(space=SpaceOverview(relocations=(relocation,)))["processes"]
    assert (process["phase"], process["error"]) == (step, "the recheck found ?")


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_dry_run_is_told(dry_run: bool) -> None:
    assert shown(dry_run=dry_run)["service"]["dry_run"] is dry_run


def test_more_running_than_allowed_is_no_negative_room() -> None:
    assert shown(running=(RUNNING,), max_concurrent=0)["processing"]["capacity_available"] == 0


@pytest.mark.parametrize("at", [0.0, 1_700_000_000.0, 1_700_000_000.9999, 4e9])
def test_times_are_rfc_3339_in_utc_with_a_z(at: float) -> None:
    text = rfc3339(at)
    assert text.endswith("Z")
    assert len(text) == len("2026-01-31T12:00:00.000Z")
    assert abs(datetime.fromisoformat(text).timestamp() - at) < 0.001


def test_times_in_the_document_are_written_so_too() -> None:
    status = shown(
        recent=(JOB,),
        last_activity_at=1_700_000_000.5,
        qbittorrent=QbittorrentContact(reachable=True, last_contact_at=0.0),
    )
    assert status["service"]["last_activity"] == "2023-11-14T22:13:20.500Z"
    assert status["qbittorrent"]["last_contact"] == "1970-01-01T00:00:00.000Z"
    assert status["recent"][0]["accepted_at"] == "2023-11-14T22:13:20.250Z"
    assert status["recent"][0]["started_at"] is None


def test_a_name_that_is_not_unicode_does_not_break_the_document() -> None:
    job = Job(id=JobId("1"), seq=1, hash="a" * 40, name="b\udcff", state=JobState.FAILED)
    assert shown(recent=(job,))["recent"][0]["name"] == "b?"


def test_a_job_whose_torrent_is_not_known_yet_has_the_name_of_its_params_or_none() -> None:
    jobs = tuple(Job(id=JobId(n), seq=1, hash="a" * 40, name=n) for n in ("From params", ""))
    figures = QueueFigures(size=2, capacity=9, waiting=0, oldest_s=None, items=jobs)
    running = replace(RUNNING, name="")
    status = shown(queue=figures, running=(running,))
    assert [item["name"] for item in status["queue"]["items"]] == ["From params", None]
    assert status["processes"][0]["name"] is None


def test_what_needs_attention_is_shown_in_one_line_each() -> None:
    finding = Finding(
        level=Level.PROBLEM,
        code="paths_differ",
        group=Group.PATHS,
        what="qBittorrent lists /a\nb",
        advice="set PATH_MAPPINGS",
    )
    assert shown(checks=(finding,))["checks"] == [
        {
            "level": "problem",
            "code": "paths_differ",
            "message": "qBittorrent lists /a\\nb; set PATH_MAPPINGS",
        }
    ]
    assert shown()["checks"] == []
