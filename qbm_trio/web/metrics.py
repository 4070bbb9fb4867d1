"""``/status`` for Prometheus: each figure of the document as a metric.

A table says which. What is rendered is made from the document alone, so that both forms
show the same figures of the same moment; a test holds that none is in one form only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, get_args

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.exposition import generate_latest as as_text
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS_1_0_0
from prometheus_client.openmetrics.exposition import generate_latest as as_openmetrics

from .messages import Reply
from .metric_sources import (
    Source,
    at,
    by_word,
    each,
    is_said,
    longest_of_processes,
    number_of_processes,
    of_tiers,
    one_of,
    phases,
    sum_of_processes,
    texts,
)
from .status import CheckItem, ServiceStatus, StatusAnswer

TEXT_TYPE: Final = "text/plain"
OPENMETRICS_TYPE: Final = "application/openmetrics-text"


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric: its name, where its figures come from, and what they mean to a person."""

    name: str
    source: Source
    meaning: str

    @property
    def type(self) -> str:
        """What Prometheus calls it."""
        if self.name.endswith("_total"):
            return "counter"
        return "info" if self.name.endswith("_info") else "gauge"

    def family(self, document: StatusAnswer) -> Metric:
        """The metric with its figures."""
        labels, samples = self.source.labels, self.source.samples(document)
        if self.type == "counter":
            counter = CounterMetricFamily(self.name, self.meaning, labels=labels)
            for values, figure in samples:
                counter.add_metric(values, figure)
            return counter
        if self.type == "info":
            info = InfoMetricFamily(self.name.removesuffix("_info"), self.meaning)
            for values, _ in samples:
                info.add_metric((), dict(zip(labels, values, strict=True)))
            return info
        gauge = GaugeMetricFamily(self.name, self.meaning, labels=labels)
        for values, figure in samples:
            gauge.add_metric(values, figure)
        return gauge


_RUN: Final = "space.last_run"
FIGURES: Final = (
    # -- the service
    Figure(
        "qbm_build_info",
        texts(version="service.version"),
        "The version of qbm-trio that is running.",
    ),
    Figure(
        "qbm_status",
        one_of(
            "service.status", "status", get_args(ServiceStatus.model_fields["status"].annotation)
        ),
        "1 for the state the service is in: healthy, degraded (see qbm_degraded) or draining "
        "(it is being stopped).",
    ),
    Figure(
        "qbm_degraded",
        each("service.degraded_by", "by"),
        "1 for each thing that keeps the service from doing all of its work now: the journal "
        "cannot be written, it was restored at this start, qBittorrent is away, a tier is not "
        "usable.",
    ),
    Figure(
        "qbm_checks",
        by_word("checks", "level", get_args(CheckItem.model_fields["level"].annotation)),
        "Warnings and problems of the set-up that the last check found; /status says which.",
    ),
    Figure(
        "qbm_dry_run",
        at("service.dry_run"),
        "1 while DRY_RUN is set: jobs stay queued, and nothing is copied, moved or deleted.",
    ),
    Figure(
        "qbm_start_timestamp_seconds",
        at("service.started_at"),
        "When the service started, in epoch seconds.",
    ),
    Figure("qbm_uptime_seconds", at("service.uptime_seconds"), "How long it has been running."),
    Figure(
        "qbm_last_activity_timestamp_seconds",
        at("service.last_activity"),
        "When a job last changed, in epoch seconds; nothing before the first.",
    ),
    # -- qBittorrent
    Figure(
        "qbm_qbittorrent_reachable",
        at("qbittorrent.reachable"),
        "1 when qBittorrent answered the last call and took the login.",
    ),
    Figure(
        "qbm_qbittorrent_info",
        texts(version="qbittorrent.version", web_api_version="qbittorrent.web_api_version"),
        "The versions of qBittorrent and of its Web API, once they are known.",
    ),
    Figure(
        "qbm_qbittorrent_last_contact_timestamp_seconds",
        at("qbittorrent.last_contact"),
        "When qBittorrent last gave a usable answer, in epoch seconds.",
    ),
    # -- jobs
    Figure(
        "qbm_jobs",
        each("jobs.by_state", "state"),
        "Jobs in the journal, by state. Those that ended are kept for JOB_RETENTION_DAYS.",
    ),
    Figure(
        "qbm_jobs_waiting",
        each("jobs.waiting_by_reason", "reason"),
        "Jobs that wait, by what they wait for: a retry, room on the HDD, qBittorrent, a torrent "
        "that is not ready or not known, a tier.",
    ),
    Figure(
        "qbm_processing_running_processes",
        at("processing.running_processes"),
        "Jobs that workers have now.",
    ),
    Figure(
        "qbm_processing_max_concurrent",
        at("processing.max_concurrent"),
        "How many jobs may run at once: MAX_CONCURRENT_PROCESSES.",
    ),
    Figure(
        "qbm_processing_capacity_available",
        at("processing.capacity_available"),
        "How many more jobs could run now.",
    ),
    Figure("qbm_queue_size", at("queue.size"), "Jobs in line for a worker."),
    Figure(
        "qbm_queue_capacity",
        at("queue.capacity"),
        "With so many in line, further notifications are told to come back: QUEUE_CAPACITY.",
    ),
    Figure(
        "qbm_queue_waiting_retry",
        at("queue.waiting_retry"),
        "Jobs that wait for a time or a condition; they hold no place in the queue.",
    ),
    Figure(
        "qbm_queue_oldest_seconds",
        at("queue.oldest_seconds"),
        "How long ago the oldest job in line was accepted; nothing while the queue is empty.",
    ),
    # -- what is going on
    Figure(
        "qbm_processes",
        phases(),
        "Running jobs (kind tiering) by phase, and open relocations (kind relocation) by step.",
    ),
    Figure(
        "qbm_processes_done_bytes",
        sum_of_processes("bytes_done"),
        "What the running jobs have copied so far.",
    ),
    Figure(
        "qbm_processes_size_bytes",
        sum_of_processes("bytes_total"),
        "What the running jobs have to copy; of relocations, what their files occupy on the SSD.",
    ),
    Figure(
        "qbm_processes_bytes_per_second",
        sum_of_processes("bytes_per_second"),
        "How fast the running jobs copy, together.",
    ),
    Figure(
        "qbm_processes_eta_seconds",
        longest_of_processes("eta_seconds"),
        "Until the last of the running copies is done; nothing while that is not known.",
    ),
    Figure(
        "qbm_processes_with_error",
        number_of_processes("error"),
        "Open relocations of which something went wrong, so that they go back to the SSD or "
        "need a person.",
    ),
    # -- space
    Figure(
        "qbm_tier_size_bytes",
        of_tiers("total_bytes", "ssd", "hdd"),
        "How large the tier's disk is; nothing while it does not answer.",
    ),
    Figure(
        "qbm_tier_free_bytes",
        of_tiers("free_bytes", "ssd", "hdd"),
        "How much is free on the tier's disk; nothing while it does not answer.",
    ),
    Figure(
        "qbm_tier_threshold_bytes",
        of_tiers("threshold_bytes", "ssd"),
        "With less than this free on the SSD, torrents leave it: DISK_SPACE_THRESHOLD_GB.",
    ),
    Figure(
        "qbm_tier_target_bytes",
        of_tiers("target_bytes", "ssd"),
        "Then they leave it until this much is free: DISK_SPACE_TARGET_GB.",
    ),
    Figure(
        "qbm_tier_min_free_bytes",
        of_tiers("min_free_bytes", "hdd"),
        "What copies always leave free on the HDD: HDD_MIN_FREE_GB.",
    ),
    Figure(
        "qbm_space_run_active",
        is_said("space.current_run"),
        "1 while a run of space management is under way.",
    ),
    Figure(
        "qbm_space_paused",
        is_said("space.paused"),
        "1 while runs do not begin by themselves, until a person triggers one; /status says why.",
    ),
    Figure(
        "qbm_space_last_run_begin_timestamp_seconds",
        at(f"{_RUN}.begun_at"),
        "When the last run of space management that ended had begun, in epoch seconds; nothing "
        "before the first, here and in all metrics of it.",
    ),
    Figure(
        "qbm_space_last_run_end_timestamp_seconds",
        at(f"{_RUN}.ended_at"),
        "When it ended, in epoch seconds.",
    ),
    Figure(
        "qbm_space_last_run_by_hand",
        at(f"{_RUN}.by_hand"),
        "1 if a person had triggered it.",
    ),
    Figure(
        "qbm_space_last_run_freed_bytes",
        at(f"{_RUN}.freed_bytes"),
        "What it freed on the SSD, as the disk shows it; below zero when others wrote more "
        "meanwhile.",
    ),
    Figure(
        "qbm_space_last_run_planned_bytes",
        at(f"{_RUN}.planned_bytes"),
        "What it should have freed.",
    ),
    Figure(
        "qbm_space_last_run_shortfall_bytes",
        at(f"{_RUN}.shortfall_bytes"),
        "What was still missing to the target after it.",
    ),
    Figure(
        "qbm_space_last_run_target_met",
        at(f"{_RUN}.target_met"),
        "1 if DISK_SPACE_TARGET_GB was free after it.",
    ),
    Figure(
        "qbm_space_last_run_relocated_torrents",
        at(f"{_RUN}.relocated"),
        "Torrents that it made to seed from the HDD.",
    ),
    Figure(
        "qbm_space_last_run_tiered_first_torrents",
        at(f"{_RUN}.tiered_first"),
        "Torrents that it queued to be copied to the HDD, for a later run to relocate.",
    ),
    Figure(
        "qbm_space_last_run_failed_groups",
        at(f"{_RUN}.failed_groups"),
        "Groups of torrents that it should have relocated and did not; the log says why.",
    ),
    Figure(
        "qbm_space_last_run_problem",
        is_said(f"{_RUN}.problem", only_with=_RUN),
        "1 if it could not be made, or ended early; /status says why.",
    ),
    Figure(
        "qbm_space_last_run_spared_torrents",
        each(f"{_RUN}.spared", "reason", then="torrents"),
        "Torrents that it left on the SSD, by reason.",
    ),
    Figure(
        "qbm_space_last_run_spared_bytes",
        each(f"{_RUN}.spared", "reason", then="bytes"),
        "Data that stayed on the SSD for that reason.",
    ),
    # -- since the journal began
    Figure(
        "qbm_torrents_processed_total",
        at("statistics.torrents_processed"),
        "Torrents whose job ended well.",
    ),
    Figure(
        "qbm_torrents_failed_total",
        at("statistics.torrents_failed"),
        "Jobs that failed for good; each can be retried by hand.",
    ),
    Figure("qbm_copied_bytes_total", at("statistics.bytes_copied"), "Bytes copied to the HDD."),
    Figure(
        "qbm_verified_bytes_total",
        at("statistics.bytes_verified"),
        "Bytes proved against the torrents' own piece hashes.",
    ),
    Figure(
        "qbm_torrents_relocated_total",
        at("statistics.torrents_relocated"),
        "Torrents that seed from the HDD now and were deleted from the SSD.",
    ),
    Figure(
        "qbm_freed_bytes_total",
        at("statistics.bytes_freed"),
        "What deleting them freed on the SSD.",
    ),
    Figure(
        "qbm_space_management_runs_total",
        at("statistics.space_management_runs"),
        "Runs of space management.",
    ),
    Figure(
        "qbm_api_requests_total",
        at("statistics.api_requests"),
        "HTTP requests to this service, scrapes among them.",
    ),
    Figure(
        "qbm_jobs_recovered_total",
        at("statistics.jobs_recovered"),
        "Jobs that a stop had interrupted and that went on after the next start.",
    ),
)


@dataclass(frozen=True, slots=True)
class _Collected:
    """Metrics as `prometheus_client` takes them: it asks a collector."""

    metrics: tuple[Metric, ...]

    def collect(self) -> Iterable[Metric]:
        return self.metrics


def families(document: StatusAnswer) -> tuple[Metric, ...]:
    """Every figure of the document as a metric. Pure."""
    return tuple(figure.family(document) for figure in FIGURES)


def metrics_reply(document: StatusAnswer, media_type: str) -> Reply:
    """The document as `TEXT_TYPE` or `OPENMETRICS_TYPE`."""
    # The client's encoder by `Accept` is not used: it takes versions from the header that
    # it then fails to read, and knows no weights.
    collected = _Collected(families(document))
    if media_type == OPENMETRICS_TYPE:
        body: bytes = as_openmetrics(collected)  # type: ignore[no-untyped-call]
        return Reply(status=200, body=body, media_type=OPENMETRICS_1_0_0)
    return Reply(status=200, body=as_text(collected), media_type=CONTENT_TYPE_PLAIN_0_0_4)
