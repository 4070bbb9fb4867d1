"""The composition root: opens what is needed, owns every task, drains in order.

The nursery tree, from the outside in:

    infra              signals, the journal's writer
    └─ parts           HTTP, qBittorrent's prober, the reconciler, waits, housekeeping
       └─ work         the probes of both tiers, the checks
          ├─ space     runs of space management, one task for each group that is relocated
          └─ workers   one task for each running job

What is outer outlives what is inner: a job can always reach the journal, and
HTTP answers until the last job has ended.
"""

from __future__ import annotations

import gc
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf

import trio

from . import __version__
from .adapters import disk, journal_facts, recovery_point
from .adapters.journal import Journal
from .adapters.journal_restore import open_journal
from .adapters.recovery_point import SavedState
from .adapters.state_dir import held
from .core.client import QbittorrentClient
from .core.errors import JournalUnwritable, QbmError
from .core.model import WaitReason
from .core.text import number
from .logs import hide_secrets_in_tracebacks, logging_to
from .settings import Settings
from .tasks.checks import service_checks
from .tasks.dry_run import describe_jobs
from .tasks.housekeeping import keep_beating, keep_house, keep_recovery_points
from .tasks.jobs import Jobs
from .tasks.legacy import take_legacy
from .tasks.observer import Observer
from .tasks.policies import (
    client_of,
    reconciler_policy,
    secret,
    space_management,
    tagging_policy,
    tiering_policy,
)
from .tasks.prober import keep_contact
from .tasks.queue import JobQueue
from .tasks.reconciler import Reconciler
from .tasks.shutdown import Shutdown
from .tasks.tagging import Tagging
from .tasks.tiering import Tiering
from .tasks.tiers import Tiers
from .tasks.waits import Waits
from .tasks.workers import Workers
from .web.app import create_app
from .web.backend import Backend
from .web.serving import bind
from .web.serving import serve as serve_http

log = logging.getLogger(__name__)

STOP_S = 0.4
"""What running jobs and requests may take to stop, after the grace."""
SAVED_S = 0.55
"""What the last recovery point may take, after the grace: the journal and HTTP end after it."""
WHOLE_S = 1.0
"""The whole drain ends within the grace and this much more, whatever hangs."""


def main(settings: Settings) -> int:
    """Run the service until it is told to stop; return the exit status."""
    hide_secrets_in_tracebacks(settings)
    with logging_to(settings):
        try:
            with held(settings.state_dir):
                calm_the_collector()
                return trio.run(run, settings)
        except* QbmError as group:
            for error in _leaves(group):
                log.critical("%s", error)
        return 1


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def calm_the_collector() -> None:
    """Have garbage collected rarely, and look at what lives on even less often."""
    # Everything imported so far stays: looking through it at each collection
    # costs about a fifth of the request rate.
    gc.collect()
    gc.freeze()
    # A pass over the young ones stops the loop: 100,000 objects at most, some 30 ms.
    gc.set_threshold(10_000, 10, 500)


async def run(settings: Settings) -> int:
    """The whole life of the service. Raises `QbmError` if it cannot start."""
    disk.raise_open_files_limit()
    # Before anything is changed: a port in use is the commonest mistake.
    listener = bind(settings.http_host, settings.http_port) if settings.http_enabled else None
    journal_thread = trio.CapacityLimiter(1)
    journal = await trio.to_thread.run_sync(
        partial(open_journal, settings.state_dir, now=time.time()), limiter=journal_thread
    )
    stop = Shutdown(whole_s=settings.shutdown_grace_s + WHOLE_S)
    async with trio.open_nursery() as infra:
        await infra.start(stop.watch_signals)
        await infra.start(journal.run, journal_thread)
        infra.start_soon(stop.when_damaged, journal)
        try:
            async with trio.open_nursery() as parts:
                try:
                    service = await Service.assemble(settings, journal)
                    await service.start(parts, listener)
                    await stop.asked.wait()
                    await service.drain(stop)
                except BaseException:
                    # A part has failed and all are being stopped: a thread on a dead disk
                    # must not keep a process that answers nobody.
                    stop.guard(WHOLE_S)
                    raise
                parts.cancel_scope.cancel()
        finally:
            journal.close()
        infra.cancel_scope.cancel()
    return stop.status


class Service:
    """The parts, wired together."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        instance_id: str,
        client: QbittorrentClient | None = None,
        *,
        first_run_at: float = inf,
    ) -> None:
        """``client`` takes the place of that of the settings; ``first_run_at`` is epoch seconds."""
        self._settings = settings
        self._journal = journal
        self._files = trio.CapacityLimiter(1)
        self._workers_ended = trio.Event()
        self._space_ended = trio.Event()
        self._http_stop = trio.Event()
        self._http_scope = trio.CancelScope()
        self._http_ended = trio.Event()
        self.jobs = Jobs(journal, JobQueue(settings.queue_capacity))
        self.waits = Waits(self.jobs)
        self.client: QbittorrentClient = client or client_of(settings)
        self.tiers = Tiers(
            ssd=settings.download_path_ssd,
            hdd=settings.final_dest_base_hdd,
            journal=journal,
            instance_id=instance_id,
            hdd_min_free_bytes=settings.hdd_min_free_bytes,
            read_only=settings.dry_run,
        )
        self.tiering = Tiering(
            tiering_policy(settings),
            client=self.client,
            jobs=self.jobs,
            journal=journal,
            tiers=self.tiers,
        )
        self.tagging = Tagging(
            tagging_policy(settings), client=self.client, jobs=self.jobs, journal=journal
        )
        self.workers = Workers(
            self.jobs,
            self.waits,
            self.client,
            self.tiering.work,
            self.tiering.discard,
            self.tiering.staged,
            concurrency=settings.max_concurrent_processes,
            attempts_allowed=settings.copy_retry_attempts,
        )
        self.space = space_management(
            settings, client=self.client, jobs=self.jobs, journal=journal, tiers=self.tiers
        )
        self.reconciler = Reconciler(
            reconciler_policy(settings),
            client=self.client,
            jobs=self.jobs,
            journal=journal,
            begin_again=self.space.begin_again,
            lost_row=self.space.lost_row,
            relocations_known=self.space.relocations_known,
            first_run_at=first_run_at,
        )
        self.checks = service_checks(
            settings, self.client, torrents=self.reconciler.listed, tiers=self.tiers
        )
        self.observer = Observer(
            jobs=self.jobs,
            workers=self.workers,
            client=self.client,
            tiers=self.tiers,
            journal=journal,
            threshold_bytes=settings.threshold_bytes,
            target_bytes=settings.target_bytes,
            hdd_min_free_bytes=settings.hdd_min_free_bytes,
            dry_run=settings.dry_run,
            space=self.space.overview,
            checks=lambda: self.checks.shown,
        )

    @classmethod
    async def assemble(
        cls, settings: Settings, journal: Journal, client: QbittorrentClient | None = None
    ) -> Service:
        """Wire the parts; line up what the journal holds. Start is recovery.

        Raises:
            JournalUnwritable: the start cannot be recorded.
        """
        try:
            instance = partial(journal_facts.instance, now=time.time())
            instance_id, first_run_at = await journal.do(instance)
            service = cls(settings, journal, instance_id, client, first_run_at=first_run_at)
            await take_legacy(journal, service.save_state, dry_run=settings.dry_run)
            alive = await service.jobs.recover()
        except JournalUnwritable as error:
            if journal.problem is None:  # it is the recovery point that cannot be written
                raise JournalUnwritable(f"cannot start: {error}") from error
            raise JournalUnwritable(
                f"cannot start: the journal in STATE_DIR {settings.state_dir} cannot be written "
                f"({journal.problem}); every accepted job is safe in it; free space on that "
                "disk or mend it, then start again: all of them go on"
            ) from error
        service.waits.recover()
        what = "qbm-trio %s, instance %s: %s to do from %s"
        log.info(what, __version__, instance_id, number(alive, "job"), journal.path)
        return service

    async def start(self, parts: trio.Nursery, listener: socket.socket | None) -> None:
        """Start every task in ``parts``. HTTP first: it answers whatever hangs."""
        url = None
        if listener is not None:
            url = await parts.start(self._serve_http, listener)
        else:
            parts.start_soon(_telling, partial(keep_beating, self._settings.state_dir))
        house = partial(keep_house, self.observer, self._journal, self._settings.job_retention_s)
        for part in (
            partial(keep_contact, self.client, self.waits),
            self.reconciler.run,
            self.waits.run,
            house,
            partial(keep_recovery_points, self._journal, self.save_state),
            self._work,
        ):
            parts.start_soon(_telling, part)
        if self._settings.dry_run:
            log.warning(
                "DRY_RUN: plans are logged, jobs stay queued, nothing is written or deleted"
            )
        log.info("ready%s", f" {url}" if url else ", without HTTP")

    async def _serve_http(
        self, listener: socket.socket, *, task_status: trio.TaskStatus[str]
    ) -> None:
        backend = Backend(
            jobs=self.jobs,
            tagging=self.tagging,
            space=self.space,
            overview=self.observer.overview,
            health=self.observer.health,
            save_state=self.save_state,
            count_request=self.observer.count_request,
            api_key=secret(self._settings.http_api_key),
            version=__version__,
        )
        try:
            with self._http_scope:
                await serve_http(
                    create_app(backend),
                    backend,
                    listener,
                    shutdown=self._http_stop,
                    task_status=task_status,
                )
        finally:
            self._http_ended.set()

    async def _work(self) -> None:
        """Look after the tiers, and do the jobs: none before the markers are known."""
        async with trio.open_nursery() as nursery:
            await self.tiers.prepare()
            nursery.start_soon(self.tiers.run)
            nursery.start_soon(_telling, self.checks.run)
            nursery.start_soon(self._wake_for_tiers)
            nursery.start_soon(self._free_space)
            if self._settings.dry_run:
                nursery.start_soon(describe_jobs, self.jobs, self.tiering, self.client)
                return
            await nursery.start(self.workers.sweep, lambda: self.tiers.usable)
            nursery.start_soon(self.waits.wake_for_space, lambda: self.workers.job_ended)
            try:
                await self.workers.run()
            finally:
                self._workers_ended.set()

    async def _free_space(self) -> None:
        try:
            await self.space.run(lambda: self.workers.job_ended)
        finally:
            self._space_ended.set()

    async def _wake_for_tiers(self) -> None:
        while True:
            await self.tiers.usable.wait()
            self.waits.wake(WaitReason.TIER)

    async def save_state(self) -> SavedState:
        """Write a recovery point.

        Raises:
            JournalUnwritable: it could not be written.
        """
        return await recovery_point.save(self._journal, now=time.time(), limiter=self._files)

    async def drain(self, stop: Shutdown) -> None:
        """Stop in order: no new work, jobs, recovery point, journal, HTTP."""
        log.info("%s: draining", stop.why)
        began = trio.current_time()
        self.jobs.draining = True
        self.workers.drain_within(self._settings.shutdown_grace_s)
        self.reconciler.stop()
        self.space.stop()
        with trio.move_on_after(self._settings.shutdown_grace_s + STOP_S):
            if not self._settings.dry_run:
                await self._space_ended.wait()
                await self._undo_early()
                await self._workers_ended.wait()
        # A convenience, for the journal has it all: with millions of files on a slow
        # disk it must not cost the clean end.
        path = "none"
        with trio.CancelScope(deadline=began + self._settings.shutdown_grace_s + SAVED_S) as scope:
            path = await self._save_last()
        if scope.cancelled_caught:
            log.warning("no time for a recovery point; the journal has everything")
        self._journal.close()
        await self._journal.closed.wait()
        stop.saved = True
        if self._settings.http_enabled:
            await self._end_http()
        # Last, after the access log's lines of the requests that were cut off.
        log.info("stopped: the journal is closed, recovery point %s", path)

    async def _undo_early(self) -> None:
        try:
            await self.space.undo_early()
        except JournalUnwritable as error:
            log.error("relocations stay as they are until the next start: %s", error)

    async def _end_http(self) -> None:
        self._http_stop.set()
        with trio.move_on_after(STOP_S):
            await self._http_ended.wait()
        self._http_scope.cancel()
        await self._http_ended.wait()

    async def _save_last(self) -> str:
        if self._journal.damaged.is_set():
            return "none"  # half of what it holds must not pass for all
        try:
            await self.observer.save_counters()
            return (await self.save_state()).path
        except JournalUnwritable as error:
            log.error("%s", error)
            return "none"


async def _telling(part: Callable[[], Awaitable[None]]) -> None:
    """Run a part; log a bug that ends it at once, for the process may not end by itself."""
    try:
        await part()
    except Exception as error:
        found = _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
        if not all(isinstance(leaf, QbmError) for leaf in found):
            log.critical("a bug ends the service", exc_info=True)
        raise
