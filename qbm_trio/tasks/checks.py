"""Check that what was set up fits together, for ``--check-config`` and while the service runs.

Nothing is changed: what is put on a tier to see whether qBittorrent sees it is removed, and
with ``DRY_RUN`` nothing is put there. What is wrong with a disk or with qBittorrent at any
later moment is not found here, but by those who use them.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from math import inf
from pathlib import Path
from typing import Final, TypeVar

import trio

from ..adapters import check_probes
from ..adapters.check_probes import COMMAND, SEEN, Probe
from ..core import check_folders, check_qbittorrent, checks
from ..core.check_folders import FolderFacts, TierFacts
from ..core.check_qbittorrent import Compared
from ..core.checks import Finding, Level
from ..core.client import QbittorrentClient
from ..core.errors import (
    QbittorrentError,
    QbittorrentLoginRefused,
    QbittorrentUnreachable,
    UnsafePath,
)
from ..core.model import Torrent
from ..core.placement import Place, map_path, save_root, unmap_path
from ..core.space import RELOCATING_TAG
from ..settings import Settings
from .policies import roots_of
from .tiers import Tiers

log = logging.getLogger(__name__)

T = TypeVar("T")

LIMIT_S: Final = 15.0
"""So long a disk may take to answer."""
REMOVE_S: Final = 0.3
AGAIN_S: Final = 60.0
"""Between two checks by the service, however often qBittorrent comes and goes."""
RENEW_S: Final = 900.0
"""After which a problem is looked at again: its user may have mended it. For a warning no disk
that sleeps is woken."""
MOST_SHOWN: Final = 50

_TORRENTS_TRIED: Final = 3
_FILES_TRIED: Final = 20
_LOGGED_BY_OTHERS: Final = frozenset(
    {"one_file_system", "threshold_above_size", "dry_run", "marker_to_come"}
)
_LEVELS: Final = {
    Level.NOTE: logging.INFO,
    Level.WARNING: logging.WARNING,
    Level.PROBLEM: logging.ERROR,
}


class Checks:
    """Gathers the facts and has them judged."""

    def __init__(
        self,
        settings: Settings,
        client: QbittorrentClient,
        *,
        torrents: Callable[[], Awaitable[Sequence[Torrent]]],
        owner: str = COMMAND,
        warnings: Iterable[str] = (),
        markers: Callable[[], tuple[str | None, str | None]] | None = None,
    ) -> None:
        """Prepare.

        Args:
            settings: what is to be checked.
            client: qBittorrent.
            torrents: lists all of them.
            owner: names what is put on a tier.
            warnings: of reading the settings.
            markers: those of the SSD and of the HDD, as the journal has them; without it, it
                is only known whether there is a journal.
        """
        self._settings = settings
        self._client = client
        self._torrents = torrents
        self._owner = None if settings.dry_run else owner  #: None: nothing is put on a tier
        self._warnings = tuple(warnings)
        self._markers = markers
        self._roots = roots_of(settings)
        self._limiter = trio.CapacityLimiter(8)  # a thread that hangs keeps its place
        self._disk_clocks: dict[str, float | None] = {}

    async def local(self) -> list[Finding]:
        """Check the settings and the folders; no call to qBittorrent."""
        s = self._settings
        key = s.http_api_key if s.http_enabled else None
        found = checks.check_key("HTTP_API_KEY", key.get_secret_value() if key else None)
        found += checks.check_settings(self._warnings, dry_run=s.dry_run, secrets=s.secrets())
        who = check_probes.who()
        ssd, hdd = await self._tiers()
        self._disk_clocks = {f"the {t.name}'s disk": t.clock_ahead_s for t in (ssd, hdd)}
        found += check_folders.check_tiers(
            ssd,
            hdd,
            who=who,
            same_storage=await self._same_storage(ssd, hdd),
            dry_run=s.dry_run,
            threshold_bytes=s.threshold_bytes,
            target_bytes=s.target_bytes,
            hdd_min_free_bytes=s.hdd_min_free_bytes,
        )
        state = await self._asked(
            partial(check_probes.state_facts, s.state_dir),
            FolderFacts(setting="STATE_DIR", path=str(s.state_dir), silent=True),
        )
        log_file = await self._asked(
            partial(check_probes.log_facts, s.log_file),
            FolderFacts(setting="LOG_FILE", path=str(s.log_file), silent=True),
        )
        return found + check_folders.check_own(state, log_file, who=who)

    async def remote(self) -> list[Finding]:
        """Check qBittorrent, and that it sees the same files.

        Raises:
            QbittorrentUnreachable, QbittorrentLoginRefused: it cannot be asked.
        """
        s, found = self._settings, []
        torrents = await self._torrents()
        found += check_qbittorrent.check_version(*await self._client.version())
        found.append(
            check_qbittorrent.check_login(
                logged_in=self._client.contact.logged_in,
                password=s.qbit_password is not None,
                api_key=s.qbit_api_key is not None,
            )
        )
        try:
            found += check_qbittorrent.check_preferences(
                await self._client.preferences(),
                self._roots,
                http_port=s.http_port if s.http_enabled else None,
            )
            found += check_qbittorrent.check_places(torrents, self._places(torrents), self._roots)
            for name, root, place in (
                ("SSD", s.download_path_ssd, Place.SSD),
                ("HDD", s.final_dest_base_hdd, Place.HDD),
            ):
                found.append(await self._seen_alike(name, root, place, torrents))
        except (QbittorrentUnreachable, QbittorrentLoginRefused):
            raise
        except QbittorrentError as error:
            found.append(check_qbittorrent.check_refusal(error))
        return found

    def clock(self) -> list[Finding]:
        """Judge the clock by those that answered so far."""
        others = self._disk_clocks | {"qBittorrent": self._client.contact.clock_ahead_s}
        return checks.check_clock(time.time(), others=others.items())

    # -- folders

    async def _known(self) -> tuple[tuple[str | None, str | None], bool, bool]:
        """The markers; whether a service has run; whether a tier must have its marker by now."""
        if self._markers:
            # One that is missing there is said by the service itself.
            return self._markers(), False, True
        used = await self._asked((self._settings.state_dir / "journal.sqlite3").exists, False)
        return (None, None), used, used

    async def _tiers(self) -> tuple[TierFacts, TierFacts]:
        s = self._settings
        known, used, needs_marker = await self._known()
        found: list[TierFacts] = []

        async def ask(setting: str, name: str, root: Path, expected: str | None) -> None:
            call = partial(
                check_probes.tier_facts,
                setting,
                name,
                root,
                owner=self._owner,
                used_before=used,
                expected=expected,
                needs_marker=needs_marker,
            )
            silent = TierFacts(setting=setting, path=str(root), name=name, silent=True)
            found.append(await self._asked(call, silent))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "DOWNLOAD_PATH_SSD", "SSD", s.download_path_ssd, known[0])
            nursery.start_soon(ask, "FINAL_DEST_BASE_HDD", "HDD", s.final_dest_base_hdd, known[1])
        hdd, ssd = sorted(found, key=lambda tier: tier.name)
        return ssd, hdd

    async def _same_storage(self, ssd: TierFacts, hdd: TierFacts) -> str | None:
        if self._owner is None or not all(t.tried for t in (ssd, hdd)):
            return None
        roots = self._settings.download_path_ssd, self._settings.final_dest_base_hdd
        return await self._asked(partial(check_probes.same_storage, *roots, self._owner), None)

    async def _asked(self, call: Callable[[], T], otherwise: T) -> T:
        """Call in a thread; ``otherwise`` if it hangs. What it has made then is removed later."""
        with trio.move_on_after(LIMIT_S):
            return await trio.to_thread.run_sync(
                call, limiter=self._limiter, abandon_on_cancel=True
            )
        return otherwise

    # -- paths

    def _places(self, torrents: Sequence[Torrent]) -> Counter[Place]:
        return Counter(map(self._roots.place_of, torrents))

    async def _seen_alike(
        self, name: str, root: Path, place: Place, torrents: Sequence[Torrent]
    ) -> Finding:
        theirs = unmap_path(str(root), self._settings.path_mappings)
        if theirs is not None and self._owner is not None:
            async with self._probe(root, self._owner) as probe:
                if probe is not None:
                    at = f"{theirs.rstrip('/')}/{probe.folder.name}"
                    listed = await self._client.folder(at)
                    if listed is not None:
                        return check_qbittorrent.check_probe(
                            name, str(root), theirs, seen=f"{at}/{SEEN}" in listed
                        )
        there = [t for t in torrents if self._roots.place_of(t) is place and _settled(t)]
        there.sort(key=lambda t: t.completed_at or 0.0, reverse=True)
        compared = await self._compare(there[:_TORRENTS_TRIED])
        return check_qbittorrent.check_compared(name, str(root), theirs, compared)

    @asynccontextmanager
    async def _probe(self, root: Path, owner: str) -> AsyncIterator[Probe | None]:
        """A probe in a tier; None where none can be made: that is found elsewhere."""
        (ssd, hdd), _, needs_marker = await self._known()
        expected = ssd if root == self._settings.download_path_ssd else hdd

        def make() -> Probe | None:
            with suppress(OSError):
                if check_probes.own_disk(root, expected, needs_marker=needs_marker):
                    return check_probes.make_probe(root, owner)
            return None

        probe = await self._asked(make, None)
        try:
            yield probe
        finally:
            if probe is not None:
                # Bounded: a drain must not wait for it.
                with trio.CancelScope(shield=True, deadline=trio.current_time() + REMOVE_S):
                    await self._asked(partial(check_probes.remove_probe, probe.folder), None)

    async def _compare(self, torrents: Sequence[Torrent]) -> list[Compared]:
        """Compare torrents until one is as qBittorrent says."""
        compared: list[Compared] = []
        for torrent in torrents:
            try:
                files = await self._client.files(torrent.id)
                folder = save_root(torrent, files)
            except (QbittorrentUnreachable, QbittorrentLoginRefused):
                raise
            except (QbittorrentError, UnsafePath):  # removed meanwhile, or a job's own trouble
                continue
            pairs = [
                (path, Path(map_path(path, self._settings.path_mappings)), f.size_bytes)
                for f in files[:_FILES_TRIED]
                if f.wanted
                for path in [f"{folder.rstrip('/')}/{f.name}"]
            ]
            if pairs:
                call = partial(check_probes.compare, torrent.name, pairs)
                one = await self._asked(call, None)
                if one is not None:
                    compared.append(one)
                    if one.problem is None:
                        break
        return compared


class ServiceChecks:
    """The checks while the service runs.

    At its start, when qBittorrent is back, and now and then as long as there is a problem.
    """

    def __init__(self, checks: Checks, client: QbittorrentClient) -> None:
        self._checks = checks
        self._client = client
        self._said: set[str] = set()
        self._summary: str | None = None  #: as it was logged last
        self._shown: tuple[Finding, ...] = ()

    @property
    def shown(self) -> tuple[Finding, ...]:
        """The warnings and problems of the last check, for ``/status``."""
        return self._shown

    async def run(self) -> None:
        """Check until cancelled. What is found is logged once; a bug in it ends the checks only."""
        remote: list[Finding] = []
        try:
            while True:
                began_s = trio.current_time()
                local = await self._checks.local()
                if not self._client.contact.reachable:
                    remote = []
                # At once, with what was found in qBittorrent last: its list may never come.
                await self._tell(local + remote + self._checks.clock())
                await self._client.wait_reachable()
                try:
                    remote = await self._checks.remote()
                except QbittorrentError:
                    log.debug("qBittorrent went away during the checks")
                else:
                    await self._tell(found := local + remote + self._checks.clock())
                    summary = checks.summary(found)
                    if summary != self._summary:
                        log.info("checked: %s; --check-config shows all", summary)
                    self._summary = summary
                    wrong = any(finding.level is Level.PROBLEM for finding in self._shown)
                    with trio.move_on_after(RENEW_S if wrong else inf):
                        # When it is back it may be another one, with other folders.
                        await self._client.wait_unreachable()
                await trio.sleep_until(began_s + AGAIN_S)
        except Exception:
            log.exception("a bug ends the checks; nothing else depends on them")

    async def _tell(self, findings: Sequence[Finding]) -> None:
        # A check may end well although the service stops; nothing is said after its last line.
        await trio.lowlevel.checkpoint()
        self._shown = tuple(checks.needs_attention(findings)[:MOST_SHOWN])
        for finding in findings:
            message = finding.message
            if finding.level is Level.OK or message in self._said:
                continue
            self._said.add(message)
            if finding.code not in _LOGGED_BY_OTHERS:
                log.log(_LEVELS[finding.level], "check: %s", message)


def service_checks(
    settings: Settings,
    client: QbittorrentClient,
    *,
    torrents: Callable[[], Awaitable[Sequence[Torrent]]],
    tiers: Tiers,
) -> ServiceChecks:
    """The checks of a service; ``torrents`` lists all without asking qBittorrent."""
    it = Checks(
        settings,
        client,
        torrents=torrents,
        owner=tiers.instance_id,
        markers=lambda: (tiers.ssd.marker, tiers.hdd.marker),
    )
    return ServiceChecks(it, client)


async def check_all(
    settings: Settings, client: QbittorrentClient, warnings: Iterable[str]
) -> list[Finding]:
    """Check everything once, as ``--check-config`` does."""
    it = Checks(settings, client, torrents=client.torrents, warnings=warnings)
    found = await it.local()
    try:
        found += await it.remote()
    except (QbittorrentUnreachable, QbittorrentLoginRefused) as error:
        found.append(check_qbittorrent.check_away(error, logins_tried=client.contact.logins_tried))
    return found + it.clock()


def _settled(torrent: Torrent) -> bool:
    quiet = not torrent.state.startswith(("checking", "moving"))
    return quiet and torrent.progress == 1 and RELOCATING_TAG not in torrent.tags
