"""What the OpenAPI document says beside the shapes: of calls, of fields, and by example.

A field that means the same wherever it stands is described here once; what is said where the
field is defined (`schemas.py` and its like) wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..core.overview import Condition

_TORRENT = "dd8255ecdc7ca55fb0bbf81323d87062db1f6d1c"
_TIME = "2026-11-28T10:00:00.000Z"

#: By method and path.
CALLS: Final[Mapping[str, str]] = {
    "GET /health": "For health checks: needs no key, never waits for qBittorrent or a disk, and "
    "takes any query. `degraded` is a 200 all the same: the service accepts notifications. The "
    "body says what is wrong, without paths.",
    "POST /notify/torrent-finished": "202 once the torrent's job is on disk, from where nothing "
    "but its end takes it. The same torrent again while its job is queued, waiting or running: "
    "200, the same `queue_id`, and the higher of both priorities. So a client may repeat a "
    "notification as often as it likes, and should, until it gets one of the two. With a 503, "
    "after the seconds in `Retry-After`.",
    "GET /status": "What the service knows now; it asks nobody for it, so a dead disk or "
    "qBittorrent does not delay the answer.",
    "GET /metrics": "For Prometheus; the names are in the page on monitoring.",
    "POST /queue/clear": "Waiting jobs and their partial data are cleared too. They stay cleared "
    "after a restart, and may be queued again one by one.",
    "GET /jobs": "For the next page give `next_after` as `after`, until it is null.",
    "GET /jobs/{job_id}": "Ended jobs are kept for JOB_RETENTION_DAYS.",
    "DELETE /jobs/{job_id}": "The job stays in the journal as `cancelled`. The partial data of "
    "its copy is removed, and nothing else. 409 once its verified files are being put in place "
    "or tagged: it ends in a moment.",
    "POST /jobs/{job_id}/retry": "Its attempts begin at 0 again. 409 while it is in another state, "
    "or while the torrent has another live job.",
    "POST /tags/existing": "Other tags are never touched. A client that goes away does not stop "
    "it; after an interruption, calling again does the rest. 409 with "
    "ENABLE_LOCATION_TAGGING=false.",
    "GET /tags/summary": "Asks qBittorrent for its torrents, and changes nothing.",
    "POST /space-management/trigger": "Asked again before the run begins, the same run. It ends "
    "a pause of the automatic runs. The plan of a dry run has every torrent on the SSD, chosen or "
    "spared, and why.",
    "POST /state/save": "A JSON file beside the journal that alone can restore the queue. It is "
    "written at each regular stop too.",
    "GET /openapi.json": "OpenAPI 3.1.",
}

#: What a status means, where the phrase of HTTP says less.
ANSWERS: Final[Mapping[str, str]] = {
    "GET /health 200": "The service accepts notifications.",
    "GET /health 503": "It is draining: it stops in a moment.",
    "POST /notify/torrent-finished 200": "The torrent has a job already.",
    "POST /notify/torrent-finished 202": "The torrent has a new job, and it is on disk.",
    "DELETE /jobs/{job_id} 200": "The job is cancelled.",
    "POST /jobs/{job_id}/retry 202": "The job is queued again.",
    "POST /tags/existing 200": "The tags are changed; after a dry run, none is.",
    "POST /space-management/trigger 200": "The plan of a dry run.",
    "POST /space-management/trigger 202": "A run was asked for.",
    "POST /state/save 200": "The recovery point is on disk.",
}

#: How the example of an answer differs from that of its shape; ``...`` for what is left out.
EXAMPLES: Final[Mapping[str, Mapping[str, object]]] = {
    "GET /health 503": {"status": "draining", "problems": ...},
    "POST /notify/torrent-finished 200": {
        "message": "The torrent's job is already there; nothing was added.",
        "duplicate": True,
    },
    "POST /notify/torrent-finished 202": {"duplicate": ...},
    "DELETE /jobs/{job_id} 200": {"state": "cancelled", "outcome": None, "bytes_copied": 0},
    "POST /jobs/{job_id}/retry 202": {
        "state": "queued",
        "outcome": None,
        "bytes_copied": 0,
        "finished_at": None,
    },
}

#: By model and field, or by field alone: what it means, if nothing is said at the field, and an
#: example.
FIELDS: Final[Mapping[str, tuple[str, object]]] = {
    "CheckItem.code": ("", "removes_files"),
    "CheckItem.message": (
        "",
        "it removes torrents and their files when they reach its share limit: that deletes the "
        "copy on the HDD too, once a torrent seeds from there; choose another action at Settings, "
        "BitTorrent, if that is not wanted",
    ),
    "ErrorAnswer.success": ("Always false.", False),
    "ErrorAnswer.error": ("", "hash: is required."),
    "ErrorAnswer.code": ("", "invalid"),
    "ErrorAnswer.details": ("Each thing that is wrong with a field; empty for other errors.", None),
    "ErrorDetail.field": ("Its name, with dots for what is inside another.", "hash"),
    "ErrorDetail.problem": ("What is wrong with it.", "is required"),
    "FailedGroupItem.error": ("", "the recheck found missing pieces"),
    "HealthAnswer.problems": ("", ["qBittorrent does not answer"]),
    "HddStatus.free_bytes": ("Free bytes; null where it could not be asked.", 3200000000000),
    "HddStatus.min_free_bytes": ("", 1000000000),
    "HddStatus.path": ("As the settings have it.", "/downloads/hdd"),
    "HddStatus.total_bytes": ("Its size; null where it could not be asked.", 8000000000000),
    "HealthAnswer.service": ("Always the same: what answers here is this service.", None),
    "HealthAnswer.status": ("`degraded`: see `problems`. `draining`: it is stopping.", "degraded"),
    "JobsAnswer.jobs": ("Newest first.", None),
    "JobItem.state": ("Where it is in its life.", "done"),
    "JobsStatus.by_state": ("", {"done": 340, "waiting": 1}),
    "JobsStatus.waiting_by_reason": ("", {"space": 1}),
    "JobItem.error": ("For people: what went wrong last.", None),
    "JobItem.error_code": ("The same as a stable word.", None),
    "JobItem.next_at": ("", None),
    "JobItem.phase": ("What a running job does; null for others.", None),
    "JobItem.wait_reason": ("What a waiting job waits for; null for others.", None),
    "JobItem.merged_into": ("The job that does the work, for one that is `merged`.", None),
    "LocationTagsItem.ssd": ("SSD_LOCATION_TAG.", "ssd"),
    "LocationTagsItem.hdd": ("HDD_LOCATION_TAG.", "hdd"),
    "NotifyAnswer.status": ("The state of its job.", "queued"),
    "NotifyAnswer.message": ("The same for people.", "The torrent is queued; its job is on disk."),
    "NotifyAnswer.duplicate": ("", None),
    "ProcessStatus.error": ("", None),
    "ProcessStatus.phase": ("", "copying"),
    "QbittorrentStatus.version": ("As it calls itself.", "v5.1.0"),
    "RetryBody.on_conflict": ("", "set_aside"),
    "SaveAnswer.path": (
        "Where it was written.",
        "/config/qbit-manager-state/recovery-20261128T100000.000000Z.json",
    ),
    "ServiceStatus.degraded_by": ("", {c.value: False for c in Condition}),
    "ServiceStatus.status": ("As in /health.", "healthy"),
    "SpacePlanAnswer.dry_run": ("", True),
    "SpacePlanAnswer.relocate": ("", 1),
    "SpaceRequestedAnswer.status": ("", "requested"),
    "SpacePlanAnswer.ssd": ("The SSD when the plan was made.", None),
    "SpaceRunStatus.relocated": ("", 2),
    "accepted_at": ("When its notification was accepted.", _TIME),
    "add": ("Tags it should get.", ["hdd"]),
    "api_requests": ("Requests that came over HTTP.", 4711),
    "attempts": ("", 0),
    "begun_at": ("", _TIME),
    "bytes": ("Bytes.", 276445467),
    "bytes_copied": ("Bytes written to the HDD.", 276445467),
    "bytes_done": ("", 138222733),
    "bytes_freed": ("Bytes deleted on the SSD.", 276445467),
    "bytes_per_second": ("", 98566144.0),
    "bytes_total": ("Bytes of its wanted files; null before they are known.", 276445467),
    "bytes_verified": ("Bytes that matched the torrent's hashes.", 276445467),
    "capacity": ("QUEUE_CAPACITY.", 1000),
    "capacity_available": ("", 2),
    "category": ("In qBittorrent; before it was found there, in the notification.", "movies"),
    "changed_count": ("", 1),
    "changes": ("One for each torrent whose location tags are not right.", None),
    "cleared_count": ("Jobs that were cleared.", 3),
    "counts": ("What it holds, by kind.", {"jobs": 12, "copies": 340}),
    "decision": ("", "relocate"),
    "CopyItem.destination": ("", "movies"),
    "destination": ("", "movies/Big Buck Bunny"),
    "dry_run": ("", False),
    "ended_at": ("", _TIME),
    "eta_seconds": ("", 1.4),
    "finished_at": ("When it ended; null before.", _TIME),
    "free_bytes": ("Free bytes; null where it could not be asked.", 120000000000),
    "freed_bytes": ("", 276445467),
    "hash": ("The torrent's hash in lower case.", _TORRENT),
    "id": ("", "70257d3355f9f755"),
    "items": ("In their order.", []),
    "jobs_recovered": ("Jobs that were found unfinished at a start.", 1),
    "joined": ("", False),
    "kind": ("", "tiering"),
    "last_activity": ("When a job last changed; null before the first.", _TIME),
    "last_contact": ("When it last answered; null before it did.", _TIME),
    "location_tags": ("What the settings call them.", None),
    "max_concurrent": ("", 3),
    "message": ("", "A run is asked for; /status tells what it does."),
    "name": ("The torrent's name in qBittorrent.", "Big Buck Bunny"),
    "next_after": ("", None),
    "oldest_seconds": (
        "How long ago the oldest in the queue was accepted; null if it is empty.",
        None,
    ),
    "on_conflict": ("What it may do with another file at its destination.", "fail"),
    "outcome": ("How a `done` job ended; null for others.", "tiered"),
    "path": ("As the settings have it.", "/downloads/ssd"),
    "paused": ("", None),
    "place": ("Where its data is.", "both"),
    "places": ("By where their data is.", None),
    "position": ("", 1),
    "priority": ("Higher first, then oldest first.", 0),
    "problem": ("What is wrong, and what to do; null when nothing is.", None),
    "StatusAnswer.jobs": ("All jobs that the journal has.", None),
    "StatusAnswer.processing": ("Jobs at once.", None),
    "published_at": ("When it was put in place.", _TIME),
    "StatusAnswer.qbittorrent": ("What is known of it.", None),
    "StatusAnswer.queue": ("What waits for its turn.", None),
    "queue_id": ("", "70257d3355f9f755"),
    "reachable": ("Whether the last call was answered.", True),
    "reason": ("", None),
    "recent": ("The 20 jobs that ended last, the last one first.", None),
    "remove": ("Tags it should lose.", []),
    "run_id": ("", "073231620f01cf0c"),
    "running_processes": ("", 1),
    "saved_at": ("When.", _TIME),
    "sentence": (
        "",
        "The SSD is short of space, and it is among the oldest with a verified copy.",
    ),
    "StatusAnswer.service": ("The service itself.", None),
    "size": ("Jobs in the queue.", 0),
    "StatusAnswer.space": ("Both tiers.", None),
    "space_management_runs": ("Runs that ended.", 5),
    "spared": ("", {"pinned": {"torrents": 1, "bytes": 40000}}),
    "started_at": ("When it was last taken up; null before the first time.", _TIME),
    "ServiceStatus.started_at": ("When the service started.", _TIME),
    "StatusAnswer.statistics": ("Counters.", None),
    "TagExistingBody.dry_run": ("", True),
    "TriggerBody.dry_run": ("", True),
    "success": ("Always true.", True),
    "tagging_enabled": ("", True),
    "tags": ("", {"ssd": {"torrents": 2, "bytes": 552890934}}),
    "target_met": ("", True),
    "threshold_bytes": ("", 100000000000),
    "target_bytes": ("", 110000000000),
    "torrent_count": ("", 240),
    "torrent_id": ("Its id in qBittorrent; null before it was found there.", _TORRENT),
    "torrents": ("How many torrents.", 2),
    "SpacePlanAnswer.torrents": ("", None),
    "torrents_failed": ("Jobs that failed.", 0),
    "torrents_processed": ("Jobs that ended well.", 340),
    "torrents_relocated": ("Torrents that seed from the HDD since.", 200),
    "total_bytes": ("Its size; null where it could not be asked.", 500000000000),
    "updated_at": ("When it last changed.", _TIME),
    "uptime_seconds": ("Since the service started.", 86400.0),
    "version": ("Of the service.", "0.1.0"),
    "web_api_version": ("Of its Web API.", "2.11.4"),
}

#: What the docstring says to developers, said to clients.
SCHEMAS: Final[Mapping[str, str]] = {
    "JobState": "Where a job is in its life. `waiting` ones are taken up again by themselves; "
    "`merged` is a job whose torrent has another that does the work.",
    "Outcome": "How a `done` job ended.",
    "WaitReason": "Why a job is `waiting`. Only `retry` counts as a failed attempt.",
    "JobAnswer": "The job.",
}
