"""Every call of the API: one table, used by the app, the lane and the OpenAPI document."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from pydantic import BaseModel

from ..adapters.computing import compute
from ..core.errors import Refused
from ..core.model import JobId, Notification, OnConflict
from .backend import Backend
from .bodies import Fields, as_model, read_fields, read_query
from .messages import JSON_TYPE, ApiError, Call, Reply, internal, refused
from .metrics import OPENMETRICS_TYPE, TEXT_TYPE, metrics_reply
from .negotiation import preferred
from .notification import read_notification
from .schemas import (
    ClearAnswer,
    HealthAnswer,
    JobAnswer,
    JobItem,
    JobsAnswer,
    JobsQuery,
    NoBody,
    NoQuery,
    NotificationBody,
    NotifyAnswer,
    RetryBody,
    SaveAnswer,
)
from .space import (
    SpacePlanAnswer,
    SpaceRequestedAnswer,
    TriggerBody,
    plan_answer,
    requested_answer,
)
from .status import StatusAnswer, status_answer
from .tags import (
    TagExistingAnswer,
    TagExistingBody,
    TagSummaryAnswer,
    tag_existing_answer,
    tag_summary_answer,
)

log = logging.getLogger(__name__)

NOTIFY_PATH = "/notify/torrent-finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """A call with its query and body validated by its route's models."""

    call: Call
    query: Any
    body: Any


Handler = Callable[[Backend, Inputs], Awaitable[Reply]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method on one path."""

    method: str
    path: str  #: with ``{name}`` for a variable segment
    summary: str
    handle: Handler
    answers: Mapping[int, type[BaseModel]]  #: beside errors
    errors: tuple[int, ...] = ()  #: beside those that every call has
    open_to_all: bool = False  #: needs no key
    query: type[BaseModel] = NoQuery
    body: type[BaseModel] = NoBody
    read_body: Callable[[Fields], Any] | None = None  #: instead of validating by ``body``
    path_docs: Mapping[str, str] = field(default_factory=dict)
    media_types: tuple[str, ...] = (
        JSON_TYPE,
    )  #: of a 200: the client may choose, or gets the first


async def answer(route: Route, backend: Backend, call: Call) -> Reply:
    """Serve ``call``. Every failure becomes a reply; only cancellation gets out."""
    try:
        # A monitor may add anything to a health check's URL; elsewhere a name that is
        # not known is a mistake worth telling.
        query = None if route.open_to_all else read_query(route.query, call.query)
        fields = read_fields(call)
        body = route.read_body(fields) if route.read_body else as_model(route.body, fields)
        return await route.handle(backend, Inputs(call=call, query=query, body=body))
    except ApiError as error:
        return error.reply()
    except Refused as error:
        return refused(error).reply()
    except Exception:
        log.exception("a bug in %s %s", route.method, route.path)
        return internal().reply()


def _render(status: int, document: BaseModel, *, leave_out_none: bool = False) -> Reply:
    text = document.model_dump_json(exclude_none=leave_out_none)
    return Reply(status=status, body=text.encode())


async def _render_long(backend: Backend, document: Callable[[], BaseModel]) -> Reply:
    """Make and render what may hold thousands of torrents: some 0.1 s for 10,000 of them.

    On the event loop it would hold up everybody.
    """
    return await compute(lambda: _render(200, document()), limiter=backend.computing)


# -- handlers ---------------------------------------------------------------


async def _health(backend: Backend, _: Inputs) -> Reply:
    health = backend.health()
    return _render(
        503 if health.status == "draining" else 200,
        HealthAnswer.model_validate(
            {
                "status": health.status,
                "version": backend.version,
                "problems": list(health.problems) or None,
            }
        ),
        leave_out_none=True,
    )


async def _notify(backend: Backend, inputs: Inputs) -> Reply:
    notification: Notification = inputs.body
    accepted = await backend.jobs.accept(notification)
    job = accepted.job
    known = "The torrent's job is already there; nothing was added."
    document = NotifyAnswer(
        queue_id=job.id,
        hash=notification.hash,
        status=job.state,
        position=accepted.position,
        message=known if accepted.duplicate else "The torrent is queued; its job is on disk.",
        duplicate=True if accepted.duplicate else None,
    )
    return _render(200 if accepted.duplicate else 202, document, leave_out_none=True)


async def _status(backend: Backend, inputs: Inputs) -> Reply:
    return await _status_as(_STATUS_TYPES, backend, inputs)


async def _metrics(backend: Backend, inputs: Inputs) -> Reply:
    return await _status_as(_METRICS_TYPES, backend, inputs)


async def _status_as(offers: tuple[str, ...], backend: Backend, inputs: Inputs) -> Reply:
    media_type = preferred(inputs.call.headers.get("accept", ""), offers)
    # People look at what they have just done; a scrape comes again.
    in_haste = media_type != JSON_TYPE
    document = status_answer(await backend.overview(in_haste=in_haste))
    reply = metrics_reply(document, media_type) if in_haste else _render(200, document)
    return replace(reply, headers=(("vary", "accept"),))


async def _clear(backend: Backend, _: Inputs) -> Reply:
    return _render(200, ClearAnswer(cleared_count=await backend.jobs.clear()))


async def _list(backend: Backend, inputs: Inputs) -> Reply:
    query: JobsQuery = inputs.query
    jobs = await backend.jobs.newest(
        state=query.state,
        limit=query.limit,
        after=JobId(query.after) if query.after is not None else None,
    )
    more = len(jobs) == query.limit

    def listed() -> JobsAnswer:
        items = [JobItem.model_validate(job) for job in jobs]
        return JobsAnswer(jobs=items, next_after=items[-1].id if more else None)

    return await _render_long(backend, listed)


async def _get(backend: Backend, inputs: Inputs) -> Reply:
    job = await backend.jobs.get(_job_id(inputs))
    return _render(200, JobAnswer.model_validate(job))


async def _cancel(backend: Backend, inputs: Inputs) -> Reply:
    job = await backend.jobs.cancel(_job_id(inputs))
    return _render(200, JobAnswer.model_validate(job))


async def _retry(backend: Backend, inputs: Inputs) -> Reply:
    body: RetryBody = inputs.body
    job = await backend.jobs.retry(_job_id(inputs), on_conflict=OnConflict(body.on_conflict))
    return _render(202, JobAnswer.model_validate(job))


async def _save(backend: Backend, _: Inputs) -> Reply:
    saved = await backend.save_state()
    return _render(
        200,
        SaveAnswer(path=saved.path, counts=dict(saved.counts), saved_at=saved.saved_at),
    )


async def _tag_existing(backend: Backend, inputs: Inputs) -> Reply:
    body: TagExistingBody = inputs.body
    tagged = await backend.tagging.tag_existing(dry_run=body.dry_run)
    return await _render_long(backend, lambda: tag_existing_answer(tagged))


async def _tag_summary(backend: Backend, _: Inputs) -> Reply:
    summary = await backend.tagging.summary()
    return await _render_long(backend, lambda: tag_summary_answer(summary))


async def _trigger(backend: Backend, inputs: Inputs) -> Reply:
    body: TriggerBody = inputs.body
    if not (body.dry_run or backend.space.only_plans):
        return _render(202, requested_answer(backend.space.trigger()))
    found = await backend.space.dry_run()
    return await _render_long(backend, lambda: plan_answer(found))


def _job_id(inputs: Inputs) -> JobId:
    return JobId(inputs.call.path_args["job_id"])


async def _openapi(backend: Backend, _: Inputs) -> Reply:
    from .openapi import document_json  # the document describes this very table

    # Made for the first who asks, in a sixth of a second: the event loop must go on.
    body = await compute(partial(document_json, backend.version), limiter=backend.computing)
    return Reply(status=200, body=body)


_METRICS_TYPES = (TEXT_TYPE, OPENMETRICS_TYPE)
_STATUS_TYPES = (JSON_TYPE, *_METRICS_TYPES)
_JOB_ID = {"job_id": "The job's id; /notify/torrent-finished calls it queue_id."}

ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/health",
        summary="Whether the service can do its work; needs no key",
        handle=_health,
        answers={200: HealthAnswer, 503: HealthAnswer},
        open_to_all=True,
    ),
    Route(
        method="POST",
        path=NOTIFY_PATH,
        summary="Tell that a torrent finished; answered once its job is on disk",
        handle=_notify,
        answers={200: NotifyAnswer, 202: NotifyAnswer},
        errors=(503,),
        body=NotificationBody,
        read_body=read_notification,
    ),
    Route(
        method="GET",
        path="/status",
        summary="Everything at a glance; its figures as metrics for an Accept that prefers those",
        handle=_status,
        answers={200: StatusAnswer},
        errors=(503,),
        media_types=_STATUS_TYPES,
    ),
    Route(
        method="GET",
        path="/metrics",
        summary="The figures of /status as metrics, whatever Accept says; as OpenMetrics if it "
        "prefers that",
        handle=_metrics,
        answers={},
        errors=(503,),
        media_types=_METRICS_TYPES,
    ),
    Route(
        method="POST",
        path="/queue/clear",
        summary="Clear every job that is not running",
        handle=_clear,
        answers={200: ClearAnswer},
        errors=(503,),
    ),
    Route(
        method="GET",
        path="/jobs",
        summary="The journal's jobs, newest first",
        handle=_list,
        answers={200: JobsAnswer},
        errors=(404, 503),
        query=JobsQuery,
    ),
    Route(
        method="GET",
        path="/jobs/{job_id}",
        summary="One job",
        handle=_get,
        answers={200: JobAnswer},
        errors=(503,),
        path_docs=_JOB_ID,
    ),
    Route(
        method="DELETE",
        path="/jobs/{job_id}",
        summary="Cancel a job until its files are being put in place; a running copy stops "
        "and its partial data is removed",
        handle=_cancel,
        answers={200: JobAnswer},
        errors=(409, 503),
        path_docs=_JOB_ID,
    ),
    Route(
        method="POST",
        path="/jobs/{job_id}/retry",
        summary="Queue a failed, cancelled or cleared job again",
        handle=_retry,
        answers={202: JobAnswer},
        errors=(409, 503),
        body=RetryBody,
        path_docs=_JOB_ID,
    ),
    Route(
        method="POST",
        path="/tags/existing",
        summary="Give every torrent the location tags that fit where its data is",
        handle=_tag_existing,
        answers={200: TagExistingAnswer},
        errors=(409, 503),
        body=TagExistingBody,
    ),
    Route(
        method="GET",
        path="/tags/summary",
        summary="Torrents and bytes per place and tag, and what does not fit",
        handle=_tag_summary,
        answers={200: TagSummaryAnswer},
        errors=(503,),
    ),
    Route(
        method="POST",
        path="/space-management/trigger",
        summary="Free space on the SSD now: 202, and the run follows; or, for a dry run (the only "
        "kind with DRY_RUN=true), 200 and the plan",
        handle=_trigger,
        answers={200: SpacePlanAnswer, 202: SpaceRequestedAnswer},
        errors=(503,),
        body=TriggerBody,
    ),
    Route(
        method="POST",
        path="/state/save",
        summary="Write a recovery point",
        handle=_save,
        answers={200: SaveAnswer},
        errors=(503,),
    ),
    Route(
        method="GET",
        path="/openapi.json",
        summary="This document",
        handle=_openapi,
        answers={},
    ),
)

NOTIFY = next(route for route in ROUTES if route.path == NOTIFY_PATH)
