"""The main job, for real and to watch: see ``scripts/demo``.

Two qBittorrents on loopback. One seeds files made on the spot; the other downloads
them to an "SSD", a folder in memory (another file system than the "HDD" folder: within
one nothing is relocated), and calls examples/qbittorrent-notification.sh when each is
finished. The service takes it from there. Then that SSD runs short, and the oldest torrent
leaves it. Exit status 0 only when every byte landed on the "HDD" folder, verified and
tagged, the right torrent then was relocated, no other ever stopped seeding, and the
service ended in order.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from scripts.rig.making import Sample, make
from scripts.rig.qbt import Qbt, free_port, running
from scripts.rig.screen import WIDE_COLUMNS, Row, Screen, landed_table, progress_table
from scripts.rig.service import Service
from scripts.rig.signals import ignore_signals, leave_on_signals
from scripts.rig.space_run import end, free_the_ssd, show_tiers
from scripts.rig.stage import DemoFailed, Stage
from scripts.rig.waiting import wait_for

ROOT = Path(__file__).resolve().parent.parent
HOOK = ROOT / "examples" / "qbittorrent-notification.sh"
COMMAND = f'"{HOOK}" "%I" "%N" "%L" "%F" %C %Z "%G" "%K"'

MIB = 2**20

SAMPLES = (
    Sample(name="A Film (2026).mkv", category="movies", sizes={"A Film (2026).mkv": 40 * MIB}),
    Sample(
        name="Série – première saison",
        category="tv",
        sizes={
            f"Série – première saison/S01E0{n} “été”.mkv": 10 * MIB + n * 4099 for n in (1, 2, 3)
        },
    ),
    Sample(
        name="Field recordings",
        category="music/ambient",
        sizes={f"Field recordings/{n:02} birds.flac": MIB // 2 + n * 777 for n in range(1, 9)},
    ),
)
DOWNLOAD_LIMIT_BYTES_S = 30 * MIB  # slow enough to be seen
COPY_LIMIT_MB_S = 6
SSD_PLACE = "QBM_DEMO_SSD"  #: the environment's: a folder on another file system than TMPDIR
IN_MEMORY = "/dev/shm"
DEADLINE_S = 100.0  # in 20 s on an idle machine


class Watch:
    """Asks qBittorrent and the service how far each torrent is."""

    def __init__(self, downloader: Qbt, service: Service, ids: dict[str, Sample]) -> None:
        self._downloader = downloader
        self._service = service
        self._ids = ids

    def rows(self) -> list[Row]:
        """How things stand."""
        self._service.alive()
        torrents = {str(t["hash"]): t for t in self._downloader.api.torrents_info()}
        jobs = {job["hash"]: job for job in self._service.get("/jobs")["jobs"]}
        running = {p["hash"]: p for p in self._service.get("/status")["processes"]}
        return [
            self._row(sample, torrents.get(id), jobs.get(id), running.get(id))
            for id, sample in self._ids.items()
        ]

    def finished(self, rows: list[Row]) -> bool:
        """Whether all jobs are done. Raises `DemoFailed` when one never will be."""
        for row in rows:
            if row.state.startswith(("failed", "cancelled", "cleared", "merged")):
                raise DemoFailed(f"the job of {row.sample.name!r} {row.state}")
        return all(row.state == "done: tiered" for row in rows)

    def fetch_next(self, seeder: Qbt) -> None:
        """Have the first torrent downloaded that is not, but no two completed in one second.

        Which is the oldest is clear then.
        """
        for id in self._ids:
            info = self._downloader.info(id)
            if info["progress"] < 1:
                peer = f"127.0.0.1:{seeder.peer_port}"
                self._downloader.api.torrents_add_peers(peers=[peer], torrent_hashes=id)
                return
            if time.time() < info["completion_on"] + 1:
                return

    def _row(self, sample: Sample, torrent: Any, job: Any, process: Any) -> Row:
        downloaded = float(torrent["progress"]) if torrent else 0.0
        if job is None:
            state = "awaits hook" if downloaded == 1 else "downloading"
            return Row(sample=sample, downloaded=downloaded, copied=0.0, state=state)
        if process is None:
            about = job.get("outcome") or job.get("error") or job.get("wait_reason")
            state = f"{job['state']}: {about}" if about else str(job["state"])
            done = job["state"] == "done"
            return Row(sample=sample, downloaded=downloaded, copied=float(done), state=state)
        return Row(
            sample=sample,
            downloaded=downloaded,
            copied=process["bytes_done"] / max(1, process["bytes_total"]),
            state=str(process["phase"]),
            rate_bytes_s=process["bytes_per_second"],
            eta_s=process["eta_seconds"],
        )


def run(folder: Path, ssd: Path, console: Console, stack: ExitStack) -> None:
    """The demo itself. What it starts is ended by ``stack``. Raises `DemoFailed`."""
    hdd, seeds = (folder / name for name in ("hdd", "seeds"))
    for path in (hdd, seeds):
        path.mkdir()
    headline(console, "1. Two qBittorrents and the service")
    require_two_disks(folder, ssd)
    console.print(f"Making {len(SAMPLES)} torrents of random bytes in {folder}; the SSD is {ssd}")
    made = [(sample, *make(sample, seeds)) for sample in SAMPLES]

    port = free_port()
    key = secrets.token_urlsafe(32)
    seeder = stack.enter_context(running(folder / "seeder"))
    # qBittorrent hands its own environment to the script, and nothing else.
    hook_log = folder / "hook.log"
    hook_env = {
        "HTTP_API_KEY": key,
        "QBM_URL": f"http://127.0.0.1:{port}",
        "QBM_HOOK_LOG": str(hook_log),
        # Interrupted in mid-download, a script would try for a minute after the demo's end.
        "QBM_RETRY_PERCENT": "10",
    }
    downloader = stack.enter_context(running(folder / "downloader", env=hook_env))
    service = Service(
        folder=folder / "config",
        ssd=ssd,
        hdd=hdd,
        qbittorrent_port=downloader.web_port,
        key=key,
        port=port,
        settings={
            "COPY_RATE_LIMIT_MB_S": str(COPY_LIMIT_MB_S),
            "MAX_CONCURRENT_COPY_OPERATIONS": "2",
            **{k: v for k, v in os.environ.items() if k.startswith("COVERAGE")},
        },
    )
    stack.callback(service.stop)
    service.start()
    downloader.on_finished(COMMAND)
    downloader.api.app_set_preferences({"dl_limit": DOWNLOAD_LIMIT_BYTES_S})
    version = downloader.api.app_version()
    addresses = {
        f"qBittorrent {version}, seeding": seeder.url,
        f"qBittorrent {version}, downloading": downloader.url,
        "qbm-trio": service.url,
    }
    for name, url in addresses.items():
        console.print(f"{name + ':':{max(map(len, addresses)) + 1}} {url}")
    console.print('The second one\'s "run external program on torrent finished":')
    show_whole(console, COMMAND)

    headline(console, "2. Download, notification, copy, proof, tag")
    ids = {}
    for sample, torrent, info_hash in made:
        seeder.add(torrent, save_path=seeds, complete=True)
        downloader.add(torrent, save_path=ssd / sample.category, category=sample.category)
        ids[info_hash] = sample
    console.print("One is downloaded after the other, so that it is clear which is the oldest.")
    watch = Watch(downloader, service, ids)
    stage = Stage(
        console=console,
        downloader=downloader,
        service=service,
        ids=ids,
        seeds=seeds,
        ssd=ssd,
        hdd=hdd,
    )

    def table(rows: Sequence[Row]) -> Table:
        return progress_table(rows, wide=console.width >= WIDE_COLUMNS)

    with Screen(console).showing(table) as show:

        def all_done() -> bool:
            rows = watch.rows()
            show(rows)
            watch.fetch_next(seeder)
            return watch.finished(rows)

        wait_for(all_done, "every torrent is on the HDD", DEADLINE_S)

    console.print("\nThe script's own log:")
    for line in hook_log.read_text().splitlines():
        console.print(Padding(Text(line), (0, 0, 0, 2)))
    headline(console, "3. What landed where")
    check(stage)
    headline(console, "4. What the service says")
    show_answers(service, console)
    headline(console, "5. The SSD fills, and the oldest torrent leaves it")
    free_the_ssd(stage)
    headline(console, "6. Both tiers")
    show_tiers(stage)
    end(stage)


def require_two_disks(folder: Path, ssd: Path) -> None:
    """See that both have room and are two file systems. Raises `DemoFailed`."""
    need = 3 * sum(sample.total_bytes for sample in SAMPLES)
    for path, variable in ((folder, "TMPDIR"), (ssd, SSD_PLACE)):
        if shutil.disk_usage(path).free < need:
            raise DemoFailed(
                f"{path} needs {need // MIB} MiB free; set {variable} to another place"
            )
    if folder.stat().st_dev == ssd.stat().st_dev:
        raise DemoFailed(
            f"{folder} and {ssd} are on one file system, where relocating frees nothing; set "
            f"{SSD_PLACE} to a folder on another one"
        )


def check(stage: Stage) -> None:
    """Compare every file on both tiers with what was seeded. Raises `DemoFailed`."""
    landed = stage.landed()
    files = [file for ours in landed.values() for file in ours]
    stage.console.print(landed_table(files, last="tags"))
    wrong = [
        f"{file.folder}/{file.name} differs from what was seeded" for file in files if file.wrong
    ]
    for ours in landed.values():
        if not ours[0].tags:
            wrong.append(f"{ours[0].folder!r} has no tag")
        if ours[0].tier != "SSD":
            wrong.append(f"{ours[0].folder!r} does not seed from the SSD any more")
    if wrong:
        raise DemoFailed("; ".join(wrong))
    mb = total_mb(stage.ids.values())
    stage.console.print(f"{len(files)} files, {mb} MB: every byte is on both tiers.")


def total_mb(samples: Iterable[Sample]) -> int:
    """Their size in 10⁶ bytes."""
    return round(sum(sample.total_bytes for sample in samples) / 1e6)


def show_answers(service: Service, console: Console) -> None:
    """Print what a user would get from curl, or the most telling parts of it."""
    show_answer(console, f"curl {service.url}/health", service.get("/health"))
    curl = f"curl -H 'X-API-Key: …' {service.url}"
    status = service.get("/status")
    parts = {key: status[key] for key in ("qbittorrent", "processing", "statistics")}
    show_answer(console, f"{curl}/status", parts, f"shortened: {len(parts)} of {len(status)} parts")
    listed = service.get("/jobs")
    shown = ("id", "hash", "name", "state", "outcome", "destination")
    show_answer(
        console,
        f"{curl}/jobs",
        listed | {"jobs": [{key: job[key] for key in shown} for job in listed["jobs"]]},
        f"shortened: {len(shown)} of {len(listed['jobs'][0])} fields of each job",
    )


def headline(console: Console, title: str) -> None:
    """Begin a part."""
    console.print()
    console.rule(title)


def show_answer(console: Console, command: str, answer: object, remark: str = "") -> None:
    """Print a command, a remark, and the answer."""
    console.print(Text(f"$ {command}", style="bold"), soft_wrap=True)
    if remark:
        console.print(Text(f"({remark})", style="italic"))
    console.print_json(json.dumps(answer), ensure_ascii=False)


def show_whole(console: Console, command: str) -> None:
    """Print a line to be copied: a terminal may wrap it, we do not."""
    console.print(Text(f"  {command}"), soft_wrap=True)


def next_steps(console: Console) -> None:
    """Say how to use it for real."""
    headline(console, "With your own qBittorrent")
    console.print(
        Text(
            """\
1. scripts/run writes a .env with a random key. Put your folders and your
   qBittorrent's address into it (docs/configuration.md), then run it again.
2. In qBittorrent, Settings > Downloads > Run external program on torrent
   finished:"""
        )
    )
    show_whole(console, COMMAND)
    console.print(
        Text(
            """\
3. Give qBittorrent the key: HTTP_API_KEY in its environment, or in
   /config/qbm-trio.env.
Try it without risk first: DRY_RUN=true in .env logs what would be done."""
        )
    )


def main(arguments: list[str]) -> int:
    """Run the demo; return the exit status."""
    if arguments not in ([], ["--keep"]):
        print("usage: scripts/demo [--keep]", file=sys.stderr)
        return 64
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=WIDE_COLUMNS)
    if not HOOK.is_file():
        print(f"scripts/demo: {HOOK} is missing", file=sys.stderr)
        return 1
    leave_on_signals()

    began = time.monotonic()
    folders = [Path(tempfile.mkdtemp(prefix="qbm-demo-"))]
    folder = folders[0]
    try:
        folders.append(ssd := in_memory())
        with ExitStack() as stack:
            try:
                run(folder, ssd, console, stack)
            finally:
                ignore_signals()
    except KeyboardInterrupt:
        console.print("\nStopped.")
        return 130
    except (DemoFailed, RuntimeError, OSError) as error:
        print(f"scripts/demo: FAILED: {error}", file=sys.stderr)
        log = folder / "config" / "service.log"
        if log.exists():
            print("\n".join(log.read_text(errors="replace").splitlines()[-30:]), file=sys.stderr)
        return 1
    else:
        next_steps(console)
        console.print(f"\nDone in {time.monotonic() - began:.0f} s.")
        return 0
    finally:
        clean_up(folders, console, keep="--keep" in arguments)


def in_memory() -> Path:
    """Make the folder that is the SSD. Raises `DemoFailed`."""
    place = os.environ.get(SSD_PLACE, IN_MEMORY)
    try:
        return Path(tempfile.mkdtemp(prefix="qbm-demo-ssd-", dir=place))
    except OSError as error:
        raise DemoFailed(
            f"no folder for the SSD can be made in {place}: {error.strerror}; set {SSD_PLACE} to "
            "a folder on another file system than that of temporary files"
        ) from error


def clean_up(folders: Iterable[Path], console: Console, *, keep: bool) -> None:
    """Remove what was made, and say so only if it is gone."""
    if not keep:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
    left = [str(folder) for folder in folders if folder.exists()]
    if left:
        said = "Kept" if keep else "Could not be removed"
        console.print(Text(f"{said}: {', '.join(left)}"))
    else:
        console.print("Everything is cleaned up.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
