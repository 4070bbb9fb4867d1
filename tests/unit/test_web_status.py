"""``/status``: the names and the times that clients rely on."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from qbm_trio.core.model import Job, JobId, JobState, Phase
from qbm_trio.core.overview import QbittorrentContact, QueueFigures, RunningJob
from qbm_trio.web.schemas import rfc3339
from qbm_trio.web.status import status_answer
from tests.rig.site import overview

JOB = Job(id=JobId("1"), seq=1, hash="a" * 40, name="Ein 🎬", accepted_at=1_700_000_000.25)
RUNNING = RunningJob(
    id=JobId("2"),
    hash="b" * 40,
    name="n",
    kind="tiering",
    phase=Phase.COPYING,
    started_at=1_700_000_001.0,
    bytes_done=5,
    bytes_total=10,
    bytes_per_second=2.54321,
    eta_s=1.98,
)


def shown(**changes: Any) -> Any:
    return json.loads(status_answer(overview(**changes)).model_dump_json())


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
            "version",
            "dry_run",
            "started_at",
            "uptime_seconds",
            "last_activity",
        },
        "qbittorrent": {"reachable", "version", "web_api_version", "last_contact", "problem"},
        "processing": {"running_processes", "max_concurrent", "capacity_available"},
        "queue": {"size", "capacity", "waiting_retry", "oldest_seconds", "items"},
        "space": {"ssd", "hdd", "last_run"},
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
    assert set(status) - set(names) == {"processes", "recent"}
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
    status = shown(running=(RUNNING,), max_concurrent=3, statistics=counters)
    assert status["processing"] == {
        "running_processes": 1,
        "max_concurrent": 3,
        "capacity_available": 2,
    }
    assert status["processes"][0]["bytes_per_second"] == 2.5
    assert status["processes"][0]["eta_seconds"] == 2.0
    assert status["statistics"]["torrents_processed"] == 3
    assert status["statistics"]["torrents_failed"] == 0
    assert status["space"]["hdd"]["free_bytes"] is None


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
