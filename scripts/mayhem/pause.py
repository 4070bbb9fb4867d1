"""A pause: all is mended, all settles, and the independent checker looks at all of it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .faults import Faults
from .judge import CONFLICT, Finding, Look, Weight, judge
from .known import Accepted, Known
from .look import jobs_told, look
from .settle import settle
from .site import STAGING, Site
from .tally import Uniques
from .user import User

ANSWERS_WITHIN_S = 90.0
STILL_SHORT_S = 8.0
AGAIN_WITHIN_S = 90.0
TICK_S = 0.05


class Pauses:
    """The checker of one world, and what it found."""

    def __init__(self, site: Site, tell: Callable[[Finding], None]) -> None:
        self._site = site
        self._tell = tell
        self._uniques = Uniques()
        self._waiting: set[str] = set()  #: ids of torrents whose jobs were alive
        self.findings: list[Finding] = []

    @property
    def lost(self) -> bool:
        """Whether data was."""
        return any(finding.weight is Weight.LOSS for finding in self.findings)

    def hold(self, faults: Faults, cleared: Sequence[int]) -> None:
        """Mend, settle, judge; then what its user has had long enough goes (by number)."""
        site = self._site
        faults.mend_all()
        # The SSD is still short: what was begun under faults may go to its end, deletions included.
        until_s = time.monotonic() + STILL_SHORT_S
        while time.monotonic() < until_s:
            site.service_answers()
            site.pause(TICK_S)
        site.release_ssd()
        under_way = settle(site)
        found = self._judged()
        if found or under_way:
            # Once more, a while later: only what stays counts.
            for finding in found:
                site.log(f"at first: {finding}")
            under_way = settle(site, AGAIN_WITHIN_S)
            found = self._judged()
        if under_way:
            site.alarm("never settles", under_way)
        found += site.alarms()
        for finding in found:
            site.log(str(finding))
            site.tally.count(finding.what)
            self._tell(finding)
        self.findings += found
        self._forget(found)
        user = User(site)
        user.clear(cleared)
        if self._waiting:
            user.recheck(self._waiting)

    def _judged(self) -> list[Finding]:
        """Stop the service, look, judge, and start it again."""
        site, ledger = self._site, self._site.ledger
        told = jobs_told(site)
        statistics = site.service.get("/status")["statistics"]
        status = site.stop_service()
        if status != 0:
            site.alarm("SIGTERM did not end with 0", f"at a pause: status {status}")
        seen = look(site, told)
        for known in ledger.torrents():
            ledger.healed({known.on_hdd / name for name in seen.copies[known.spec.number].on_hdd})
        found = judge(
            seen,
            ledger.torrents(),
            ledger.accepted(),
            ledger.foreign(),
            frozenset(ledger.spoilt()),
            ledger.mended(),
        )
        self._figures(statistics, seen)
        site.start_service()
        site.wait_for(site.service_answers, "the service answers", ANSWERS_WITHIN_S)
        return found

    def _figures(self, statistics: Mapping[str, int], seen: Look) -> None:
        tally = self._site.tally
        self._uniques.look(self._site.ledger.torrents(), seen.copies)
        copied = statistics["bytes_copied"]
        tally.put("bytes copied", copied)
        tally.put("bytes copied twice", max(0, copied - self._uniques.total_bytes))
        tally.count("torrents checked", len(seen.copies))
        tally.count("files hashed", seen.hashed)
        tally.put("relocations done", seen.ended["done"])
        tally.put("relocations undone", seen.ended["undone"])
        tally.put("jobs not done yet", len(seen.unfinished))
        self._waiting = {str(job["torrent_id"]) for job in seen.unfinished}

    def _forget(self, found: Sequence[Finding]) -> None:
        """What was told is told once."""
        site = self._site
        for finding in found:
            match finding.about:
                case Known() as known if finding.weight is not Weight.LOSS:
                    User(site).remove(known, with_files=False)
                    site.ledger.forget(known.spec.number)
                case Accepted() as accepted if finding.what == CONFLICT:
                    self._set_aside(accepted)
                case Accepted() as accepted:
                    site.ledger.drop_accepted(accepted)
                case Path() as path if STAGING in path.parts:
                    shutil.rmtree(path, ignore_errors=True)
                case Path() as path:
                    site.ledger.drop_foreign(path)

    def _set_aside(self, accepted: Accepted) -> None:
        """As its user would: that bad copy may go."""
        site = self._site
        try:
            site.service.post(f"/jobs/{accepted.job_id}/retry", {"on_conflict": "set_aside"})
            site.log(f"its user has the bad copy set aside: {accepted}")
        except RuntimeError as error:  # another job has the torrent
            site.log(f"not set aside: {accepted}: {error}")
