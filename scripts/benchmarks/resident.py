"""Memory with three copies and a full journal, and the way to the first healthy answer."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from qbm_trio.core.model import Notification
from scripts.rig.qbt import Qbt
from scripts.rig.service import ROOT, clean_environment

from . import notify
from .machine import Places, settle
from .model import BenchFailed, Row, Series, Target, plain_row
from .server import Server, fill_journal, serving
from .torrents import Content

RSS_MB = 120
START_OVER_IMPORT_S = 0.6
#: What pyproject.toml lists and the service imports, as it imports it.
IMPORTS = (
    "trio, hypercorn.trio, quart_trio, qbittorrentapi, trio_util, pydantic_settings, "
    "prometheus_client"
)


class Loaded:
    """Services that find copies to make and many jobs in their journals."""

    def __init__(
        self,
        places: Places,
        content: Content,
        qbittorrent: Qbt,
        *,
        jobs: int,
        copies: int,
        rate_limit_mb_s: str,
    ) -> None:
        self._places = places
        self._ssd = content.root.parent
        self.qbittorrent = qbittorrent
        self._settings = {"MAX_CONCURRENT_COPY_OPERATIONS": "3"}
        if rate_limit_mb_s:
            self._settings["COPY_RATE_LIMIT_MB_S"] = rate_limit_mb_s
        self.jobs = jobs
        # The copies have the highest priority: they begin first, in any state of the rest.
        #: the files that are to be copied, by their torrents' hashes
        self.copied = notify.add_torrents(content, qbittorrent, copies, "copied")
        notifications = [Notification(hash=id, priority=9) for id in self.copied] + [
            Notification(hash=f"{n:040x}", name=f"A Film of Number {n}", category="movies")
            for n in range(jobs - copies)
        ]
        self._template = places.work / "template"
        fill_journal(self._template, notifications)

    def server(self, name: str) -> Server:
        """A service that was stopped with all of this to do."""
        settle(self._places.hdd)
        folder = self._places.work / name
        shutil.copytree(self._template, folder / "state")
        return Server(
            folder=folder,
            ssd=self._ssd,
            hdd=self._places.hdd,
            qbittorrent_port=self.qbittorrent.web_port,
            settings=self._settings,
        )


def measure(
    loaded: Loaded, *, memory: bool, start: bool, rounds: int, say: Callable[[str], None]
) -> list[Row]:
    """Start a service again and again, beside a bare import; ask for its memory while it copies."""
    rss_mb: list[float] = []
    peak_mb: list[float] = []
    to_answer_s: list[float] = []
    to_healthy_s: list[float] = []
    imports_s: list[float] = []

    def import_only() -> None:
        imports_s.append(_import_s())

    def service() -> None:
        server = loaded.server(f"loaded {len(to_healthy_s)}")
        try:
            began = time.perf_counter()
            server.spawn()
            to_answer_s.append(server.wait_for_health(("healthy", "degraded")) - began)
            to_healthy_s.append(server.wait_for_health(("healthy",)) - began)
            if memory:
                server.wait_for_copies(3)
                time.sleep(1)  # buffers filled, request path used
                rss_mb.append(server.memory_bytes() / 1e6)
                peak_mb.append(server.memory_bytes("VmHWM") / 1e6)
                if server.copying() < 3:
                    raise BenchFailed(
                        "the copies ended too early; give more room, or a slower disk"
                    )
        finally:
            server.kill()
        shutil.rmtree(server.folder)

    import_only()  # once for the page cache
    imports_s.clear()
    for n in range(rounds):
        for step in (import_only, service) if n % 2 == 0 else (service, import_only):
            step()
        say(
            f"import {imports_s[-1]:.2f} s, answer {to_answer_s[-1]:.2f} s, "
            f"healthy {to_healthy_s[-1]:.2f} s"
            + (f", RSS {rss_mb[-1]:.0f} MB, peak {peak_mb[-1]:.0f} MB" if memory else "")
        )
    rows = []
    what = f"three copies running, {loaded.jobs} jobs"
    if memory:
        rows.append(
            plain_row(
                "memory",
                f"RSS, {what}",
                Series(name="RSS", unit="MB", values=tuple(rss_mb)),
                target=Target(limit=RSS_MB),
                note=f"peak {max(peak_mb):.0f} MB",
            )
        )
    if start:
        bare = Series(name="bare import", unit="s", values=tuple(imports_s))
        for name, values, target in (
            ("start to the first answer over bare import", to_answer_s, None),
            ("start to healthy over bare import", to_healthy_s, START_OVER_IMPORT_S),
        ):
            ours = Series(name="start", unit="s", values=tuple(values))
            rows.append(
                Row(
                    section="start",
                    name=f"{name}, {loaded.jobs} jobs",
                    ours=ours,
                    beside=bare,
                    figure=ours.median - bare.median,
                    unit="s",
                    target=Target(limit=target) if target is not None else None,
                )
            )
    return rows


def during_copies(
    loaded: Loaded, *, rounds: int, count: int, say: Callable[[str], None]
) -> list[Row]:
    """`notify.during_copies` on such a service."""
    with serving(loaded.server("during copies")) as server:
        return notify.during_copies(server, rounds=rounds, count=count, say=say)


def _import_s() -> float:
    """From the start of the process to the end of the import; its end does not count."""
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", f"import {IMPORTS}\nprint(flush=True)"],
        cwd=Path(ROOT),
        env=clean_environment(),
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        elapsed_s = time.perf_counter() - began
    if process.returncode != 0:
        raise BenchFailed("the dependencies cannot be imported")
    return elapsed_s
