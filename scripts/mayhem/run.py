"""One world from its beginning to its end: rounds of events, and a pause after each."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from tests.rig.mounts import run

from .building import built
from .clients import Abuser, Client
from .faults import Faults
from .judge import Finding
from .making import NotAdded, add_family
from .pause import ANSWERS_WITHIN_S, TICK_S, Pauses
from .plan import ABUSER, CLIENTS, FAULTS, ROUND_S, USER, Event, Plan
from .site import Site, Stopped
from .tally import Tally
from .user import User


class Actor(Protocol):
    """Does events."""

    def do(self, event: Event) -> bool:
        """Have it happen; False if it could not."""
        ...


class WorldRun:
    """One qBittorrent version's run. `run` is a thread's; what it found is read by another."""

    def __init__(
        self,
        *,
        seed: int,
        version: str,
        minutes: float,
        module: str,
        output: Path,
        stop: threading.Event,
        tell: Callable[[str, Finding], None],
    ) -> None:
        self.tally = Tally(version)
        self.findings: list[Finding] = []
        self.trouble = ""  #: why it could not go on
        self.now = "mounts and starts"
        self.output = output
        self._plan = Plan(seed, version)
        self._minutes = minutes
        self._module = module
        self._stop = stop
        self._tell = tell
        output.mkdir(parents=True, exist_ok=True)
        self._events = (output / "events.log").open("w", buffering=1, encoding="utf-8")

    def log(self, text: str) -> None:
        """A line of the event log."""
        at = datetime.now(UTC).strftime("%H:%M:%S.%f")[:-3]
        self._events.write(f"{at} {text}\n")

    def run(self) -> None:
        """All of it. Why it could not go on, if it could not, is kept in ``trouble``."""
        version = self.tally.version
        folder = Path(tempfile.mkdtemp(prefix=f"chaos-{version}-")).resolve()
        try:
            with built(
                folder,
                version,
                self._plan.world,
                module=self._module,
                tally=self.tally,
                log=self.log,
                stop=self._stop,
            ) as site:
                pauses = Pauses(site, lambda finding: self._tell(version, finding))
                self.findings = pauses.findings
                try:
                    self._live(site, pauses)
                finally:
                    self._keep(site, with_disks=pauses.lost)
        except Stopped:
            self.log("stopped")
        except Exception as error:
            self.trouble = f"{type(error).__name__}: {error}"
            self.log(f"TROUBLE {self.trouble}")
        finally:
            self.now = "has ended"
            self._events.close()
            folder.rmdir()

    def _live(self, site: Site, pauses: Pauses) -> None:
        self.log(f"world: {self._plan.world}")
        site.wait_for(site.service_answers, "the service answers", ANSWERS_WITHIN_S)
        end_s = time.monotonic() + self._minutes * 60
        self.now = "adds torrents"
        for specs in self._plan.first:
            try:
                add_family(site, specs)
            except NotAdded as error:
                self.log(f"not added: {error}")
        client = Client(site)
        for number, known in enumerate(site.ledger.torrents()):
            client.notify(known, number / 1000)
        faults = Faults(site)
        while time.monotonic() < end_s and not pauses.lost:
            self.tally.count("rounds")
            number = self.tally["rounds"]
            self.now = f"round {number}"
            self._round(site, faults)
            self.now = f"round {number}: settles"
            pauses.hold(faults, self._plan.cleared())

    def _round(self, site: Site, faults: Faults) -> None:
        events = self._plan.next_round()
        self.log(f"round {self.tally['rounds']}: {len(events)} events")
        began_s = time.monotonic()
        abuser = Abuser(site)
        actors: dict[str, Actor] = {
            USER: User(site),
            ABUSER: abuser,
            **{name: Client(site) for name in CLIENTS},
        }
        threads = [
            threading.Thread(
                target=self._act, args=(actor, [e for e in events if e.actor == name], began_s)
            )
            for name, actor in actors.items()
        ]
        for thread in threads:
            thread.start()
        try:
            mine = [event for event in events if event.actor == FAULTS]
            self._act(faults, mine, began_s, tick=faults.tick)
            while time.monotonic() - began_s < ROUND_S:
                faults.tick()
                site.pause(TICK_S)
        finally:
            for thread in threads:
                thread.join()
            abuser.close()

    def _act(
        self,
        actor: Actor,
        events: Sequence[Event],
        began_s: float,
        tick: Callable[[], object] = lambda: None,
    ) -> None:
        for event in events:
            while time.monotonic() - began_s < event.at_s:
                tick()
                if self._stop.wait(TICK_S):
                    return
            try:
                done = actor.do(event)
            except Stopped:
                return
            except Exception as error:
                self.log(f"FAILED {event}: {type(error).__name__}: {error}")
                self.tally.count("events that failed")
                continue
            self.log(f"{'' if done else '(not) '}{event}")
            self.tally.count(event.kind if done else "events without an effect")

    def _keep(self, site: Site, *, with_disks: bool) -> None:
        """What helps to understand what happened outlives the disks in memory."""
        profile = site.qbt.folder / "profile/qBittorrent/data/logs/qbittorrent.log"
        for file in (site.service.output, profile):
            with suppress(OSError):
                shutil.copy(file, self.output)
        with suppress(OSError):
            shutil.copytree(site.service.state, self.output / "state", dirs_exist_ok=True)
        if with_disks:
            site.kill_service()
            site.kill_qbittorrent()
            for disk in (site.ssd, site.hdd):
                run("cp", "--sparse=always", str(disk.image), str(self.output))
