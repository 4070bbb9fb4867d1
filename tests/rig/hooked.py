"""A qBittorrent that runs hooks, one to download from, and the service that is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from tests.fakes.web_server import Reply, Seen, WebServer, serving
from tests.rig.qbt import Chroot, Installed, Launcher, Qbt, free_port, running
from tests.rig.service import KEY, Service
from tests.rig.torrents import Version, make_torrent, write_files

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
LIMIT_S: Final = 60.0  #: for anything, on a busy machine
FILES: Final = {"one": 40_000, "two": 50_000}


@dataclass(kw_only=True)
class Hooked:
    """All of it, for one version of qBittorrent. Both see ``folder`` under the same path."""

    folder: Path
    seeder: Qbt
    leecher: Qbt
    service: Service  #: its SSD tier is where the leecher downloads
    relay: WebServer  #: before the service; it shows what came

    @property
    def config(self) -> Path:
        """What ``/config`` is to the hooks."""
        return self.folder / "config"

    @property
    def log(self) -> Path:
        """The hooks' log, a line for each outcome."""
        return self.config / "hook.log"

    def settle(self, url: str, *, retry_percent: int = 1) -> None:
        """Write the hooks' settings, as their user would. Nothing is left of earlier runs."""
        shutil.rmtree(self.config)
        self.config.mkdir(0o700)
        for script in EXAMPLES.glob("q*"):
            shutil.copy(script, self.config)
        settings = self.config / "qbm-trio.env"
        settings.write_text(
            f"QBM_URL={url}\nHTTP_API_KEY={KEY}\nQBM_HOOK_LOG={self.log}\n"
            f"QBM_RETRY_PERCENT={retry_percent}\n"
        )
        settings.chmod(0o600)
        self.relay.seen.clear()
        self.relay.answer = self.forward

    def forward(self, seen: Seen) -> Reply:
        """Pass a request on, byte for byte."""
        names = ("content-type", "x-api-key")
        headers = {name: seen.headers[name] for name in names if name in seen.headers}
        url = f"{self.service.url}{seen.path}"
        answer = httpx.post(url, content=seen.body, headers=headers, timeout=LIMIT_S)
        return Reply(status=answer.status_code, body=answer.content)

    def download(
        self,
        name: str,
        version: Version = Version.V1,
        *,
        folder: str = "",
        rename: str = "",
        **options: Any,
    ) -> str:
        """Have a new torrent downloaded, to the end; gives its id.

        Args:
            name: in the .torrent.
            version: which hashes.
            folder: what qBittorrent makes of the name on the disk, if that is another.
            rename: what its user calls it.
            options: for adding it.
        """
        seeder, leecher = self.seeder, self.leecher
        write_files(seeder.save / name, FILES, seed=zlib.crc32(name.encode()))
        made = make_torrent(seeder.save, name, list(FILES), version=version)
        if folder:
            (seeder.save / name).rename(seeder.save / folder)
        seeder.add(made.data, complete=True)
        id_ = leecher.add(made.data, **options)
        if rename:
            leecher.api.torrents_rename(id_, new_torrent_name=rename)
        leecher.fetch_from(seeder, id_, limit_s=LIMIT_S)
        return id_

    def said(self, *words: str) -> str:
        """Wait for a line of the hooks' log that has all of these; give it."""

        return self._line_in(self.log, words)

    def printed(self, *words: str) -> str:
        """Wait for such a line in what qBittorrent prints: hooks print there, too."""
        return self._line_in(self.leecher.log, words)

    def _line_in(self, log: Path, words: tuple[str, ...]) -> str:
        def there() -> str:
            text = log.read_text(errors="replace") if log.exists() else ""
            lines = [line for line in text.splitlines() if all(word in line for word in words)]
            return lines[-1] if lines else ""

        return str(self.leecher.wait_for(there, f"{log.name} says {words}", LIMIT_S))

    def hook_processes(self) -> list[int]:
        """The processes that a hook consists of now."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.fsencode(self.config) in (process / "cmdline").read_bytes():
                    found.append(int(process.name))
        return found

    def came(self, id_: str) -> Seen:
        """Wait for the request about a torrent; give it."""

        def there() -> Seen | None:
            return next((seen for seen in self.relay.seen if seen.form["hash"] == id_), None)

        found: Seen = self.leecher.wait_for(there, "the service was told", LIMIT_S)
        return found

    def job_of(self, hash_: str) -> dict[str, Any] | None:
        """The service's job for what was notified as this hash, and was not merged."""
        for job in self.service.http.get("/jobs", params={"limit": 500}).json()["jobs"]:
            if hash_ in (job["hash"], job["torrent_id"]) and job["state"] != "merged":
                return dict(job)
        return None

    def tiered(self, hash_: str, name: str, category: str = "") -> dict[str, Any]:
        """Wait until a torrent's job is done; give it. Its copy is what was downloaded."""

        def done() -> dict[str, Any] | None:
            job = self.job_of(hash_)
            return job if job and job["state"] == "done" else None

        job = self.service.wait_for(done, f"the job of {name} is done", LIMIT_S)
        assert job["outcome"] == "tiered", job
        for file in FILES:
            copy = self.service.hdd / category / name / file
            assert copy.read_bytes() == (self.leecher.save / name / file).read_bytes()
        return job

    def by_hand(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run the hook in Python as a person would, with the settings file of qBittorrent's."""
        settings = self.config / "qbm-trio.env"
        return subprocess.run(
            [self.config / "qbm_notify.py", *arguments],
            env={"PATH": os.environ["PATH"], "QBM_ENV_FILE": str(settings), **env},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    def found_by_itself(self, name: str) -> bool:
        """Whether the service found this torrent without being told of it."""
        lines = self.service.output().splitlines()
        return any(f"found '{name}': " in line and "never notified" in line for line in lines)

    def restart(self, qbittorrent_url: str = "", **env: str) -> None:
        """Start the service, with other settings than before; it may have been stopped."""
        self.service.stop()
        self.service.env |= env
        self.service.qbittorrent_url = qbittorrent_url or self.leecher.url
        self.service.start(limit_s=LIMIT_S)


@contextmanager
def hooked(root: Path, seeder: Qbt, version: str) -> Iterator[Hooked]:
    """Run a leecher of this version and a service below ``root``."""
    folder = root / version
    config = folder / "config"
    config.mkdir(parents=True)
    launcher: Launcher = Installed() if version == "4.5.2" else Chroot(shared=folder)
    # Its environment is all that a hook gets to see.
    env = {"QBM_ENV_FILE": str(config / "qbm-trio.env"), "A_KEY": KEY}
    with running(folder / "qbt", launcher=launcher, env=env) as leecher:
        assert str(leecher.api.app_version()).endswith(version)
        # Only what it is told of, unless a test says otherwise; always at the same place.
        service_env = {"RECONCILE_INTERVAL_S": "3600", "HTTP_PORT": str(free_port())}
        service = Service(folder / "service", leecher.url, service_env, ssd=leecher.save)
        try:
            service.start()
            with serving(lambda _: Reply(status=500)) as relay:
                yield Hooked(
                    folder=folder, seeder=seeder, leecher=leecher, service=service, relay=relay
                )
        finally:
            service.kill()
            service.http.close()
