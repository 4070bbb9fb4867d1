"""Watches all torrents while the demo has the SSD freed, and judges what it saw."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scripts.rig.screen import Seen
from scripts.rig.stage import DemoFailed, Stage

LOOK_EVERY_S = 0.05
RUN_WITHIN_S = 60.0


class Witness:
    """Looks at all torrents again and again, and remembers what it saw of each."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.seen: dict[str, list[Seen]] = {id: [] for id in stage.ids}

    def look(self) -> tuple[list[Seen], Any]:
        """How things stand, and ``/status``."""
        self._stage.service.alive()
        status = self._stage.service.get("/status")
        steps = {p["hash"]: p["phase"] for p in status["processes"] if p["kind"] == "relocation"}
        torrents = {str(t["hash"]): t for t in self._stage.downloader.api.torrents_info()}
        now = []
        for id, sample in self._stage.ids.items():
            tier = self._stage.tier_of(str(torrents[id]["content_path"]))
            one = Seen(
                at_s=time.monotonic(),
                name=sample.name,
                step=str(steps.get(id, "done" if tier == "HDD" else "")),
                state=str(torrents[id]["state"]),
                tier=tier,
            )
            self.seen[id].append(one)
            now.append(one)
        return now, status

    def until_ended(self, run_id: str, show: Callable[[Sequence[Seen]], None]) -> Any:
        """Look until a run has ended; its figures. Raises `DemoFailed`, `TimeoutError`."""
        deadline_s = time.monotonic() + RUN_WITHIN_S
        while time.monotonic() < deadline_s:
            now, status = self.look()
            show(now)
            run = status["space"]["last_run"]
            if run is not None and run["id"] == run_id:
                if run["problem"] or run["failures"]:
                    raise DemoFailed(f"the run had trouble: {run['problem'] or run['failures']}")
                return run
            time.sleep(LOOK_EVERY_S)
        raise TimeoutError(f"not within {RUN_WITHIN_S:.0f} s: the run has ended")


def judge(seen: Mapping[str, Sequence[Seen]], oldest_first: Sequence[str]) -> list[str]:
    """Say what is wrong with a run, from all that was seen of each torrent meanwhile.

    Args:
        seen: by torrent, in the order of time.
        oldest_first: the torrents that may go. A disk that others fill at the same time
            may take more than one, but never a younger one before an older.
    """
    wrong = []
    went = {id for id, looks in seen.items() if looks[-1].tier != "SSD"}
    if not went:
        wrong.append("no torrent was relocated")
    if went == set(seen):
        wrong.append("no torrent stayed on the SSD")
    if went - set(oldest_first[: len(went)]):
        names = ", ".join(repr(seen[id][-1].name) for id in sorted(went))
        wrong.append(f"not the oldest went, but {names}")
    for id, looks in seen.items():
        if id in went:
            bad = [one for one in looks[-1:] if not (one.seeds and one.tier == "HDD")]
        else:
            bad = [one for one in looks if not (one.seeds and one.tier == "SSD")]
        wrong += [f"{one.name!r} should seed, but: {one.line}" for one in bad[:1]]
    return wrong
