"""The shapes of requests and answers. The OpenAPI document is generated from these."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
)

from ..core.hashes import normalise_hash
from ..core.model import JobState, OnConflict, Outcome, Phase, WaitReason
from .bodies import integral


def rfc3339(at: float) -> str:
    """Epoch seconds as ``2026-01-31T12:00:00.000Z``."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


Time = Annotated[
    float,
    PlainSerializer(rfc3339, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""Epoch seconds inside, RFC 3339 UTC outside."""


def showable(value: object) -> object:
    """Text that UTF-8 can carry: file names may hold bytes that are not Unicode."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "replace").decode()
    return value


Text = Annotated[str, BeforeValidator(showable)]

Name = Annotated[
    Text | None,
    BeforeValidator(lambda value: value or None),
    Field(
        description="The torrent's name in qBittorrent; before it was found there, the name "
        "in the notification's `params`; null while there is neither."
    ),
]


class Body(BaseModel):
    """What a client sends."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Answer(BaseModel):
    """What a client gets. Built from our own values, so nothing is coerced."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, from_attributes=True, json_schema_mode_override="serialization"
    )


PARAMS: dict[str, dict[str, Any]] = {
    "hash": {"type": "string", "description": "If it differs from the outer one, that decides."},
    "name": {"type": "string", "description": "Shown until the torrent is found."},
    "category": {"type": "string", "description": "Shown; qBittorrent's own decides."},
    "content_path": {"type": "string", "description": "Kept; qBittorrent's own decides."},
    "num_files": {"type": "integer", "minimum": 0, "description": "Kept."},
    "size": {"type": "integer", "minimum": 0, "description": "Bytes."},
    "tags": {"type": "string", "description": "Separated by commas."},
}
"""What may be in a notification's ``params``, as the document describes it."""


# -- requests ---------------------------------------------------------------


class NoBody(Body):
    """Nothing, or an empty object."""


class NotificationBody(Body):
    """A torrent finished. In a form, the params stand beside `hash` and `priority`."""

    hash: Annotated[
        str,
        StringConstraints(max_length=200),
        AfterValidator(normalise_hash),
        WithJsonSchema(
            {
                "type": "string",
                "pattern": r"^\s*([0-9A-Fa-f]{40}|[0-9A-Fa-f]{64}|[A-Za-z2-7]{32})\s*$",
            }
        ),
    ] = Field(
        description="40 hex digits (v1 or torrent id), 64 (v2), or 32 of base32; any case.",
        examples=["dd8255ecdc7ca55fb0bbf81323d87062db1f6d1c"],
    )
    params: Annotated[Any, WithJsonSchema({"type": ["object", "null"], "properties": PARAMS})] = (
        Field(
            None,
            description="Hints, all of them optional and none of them trusted. What does not fit "
            "this description is dropped with a warning in the log; the notification is accepted.",
            examples=[
                {
                    "name": "Big Buck Bunny",
                    "category": "movies",
                    "content_path": "/downloads/ssd/Big Buck Bunny",
                    "num_files": 3,
                    "size": 276445467,
                    "tags": "open,short",
                }
            ],
        )
    )
    priority: Annotated[int, BeforeValidator(integral)] = Field(
        0, ge=-(2**31), le=2**31 - 1, description="Higher first, then oldest first."
    )


class RetryBody(Body):
    """How to run a job again."""

    on_conflict: Literal["fail", "set_aside"] = Field(
        "fail",
        description="set_aside lets the job move a differing file at its destination out "
        "of the way, under a name that says so.",
    )


class NoQuery(Body):
    """No query parameters but the key."""


class JobsQuery(Body):
    """Which jobs to list."""

    state: JobState | None = Field(None, description="Only jobs in this state.")
    limit: int = Field(50, ge=1, le=500, description="At most so many.")
    after: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = Field(
        None, description="Only jobs older than the one with this id: the last of a page."
    )


# -- answers ----------------------------------------------------------------


class ErrorDetail(Answer):
    """One thing wrong with a request."""

    field: str
    problem: str


class ErrorAnswer(Answer):
    """Every answer of 400 and above."""

    success: Literal[False]
    error: str = Field(description="A sentence for people.")
    code: str = Field(description="A stable word for programs.")
    details: list[ErrorDetail]


class HealthAnswer(Answer):
    """Whether the service can do its work."""

    status: Literal["healthy", "degraded", "draining"]
    service: Literal["qbm-trio"] = "qbm-trio"
    version: str
    problems: list[str] | None = Field(None, description="What is wrong; absent when healthy.")


class NotifyAnswer(Answer):
    """The notification's job. It is on disk."""

    success: Literal[True] = True
    queue_id: str = Field(description="The job's id, for /jobs/{id}.")
    hash: str
    status: JobState
    position: int = Field(description="Place in the queue, 1 is next; 0 when not queued.")
    message: str
    duplicate: Literal[True] | None = Field(
        None, description="Present when the torrent's job was there already."
    )


class ClearAnswer(Answer):
    """How many jobs were cleared."""

    success: Literal[True] = True
    cleared_count: int


class SaveAnswer(Answer):
    """A recovery point was written."""

    success: Literal[True] = True
    path: Text
    counts: dict[str, int]
    saved_at: Time


class JobItem(Answer):
    """One job of the journal."""

    id: str = Field(description="What /notify/torrent-finished calls queue_id.")
    hash: str = Field(description="As notified.")
    torrent_id: str | None
    name: Name
    category: Text
    priority: int
    state: JobState
    phase: Phase | None
    wait_reason: WaitReason | None
    next_at: Time | None = Field(description="When a waiting job is looked at again.")
    attempts: int = Field(description="How many tries failed; a retry by hand begins at 0.")
    error_code: str | None
    error: Text | None
    outcome: Outcome | None
    merged_into: str | None
    on_conflict: OnConflict
    destination: Text | None = Field(description="On the HDD, relative to its base.")
    bytes_total: int | None
    bytes_copied: int = Field(
        description="Known once the copy is verified (until then see /status); less than "
        "bytes_total if files were there already."
    )
    accepted_at: Time
    started_at: Time | None
    finished_at: Time | None
    updated_at: Time


class JobAnswer(JobItem):
    """One job of the journal."""

    success: Literal[True] = True


class JobsAnswer(Answer):
    """A page of jobs, newest first."""

    success: Literal[True] = True
    jobs: list[JobItem]
    next_after: str | None = Field(description="Give this as `after` for the next page.")
