"""A real service that is killed in mid-relocation, and a judge of what came of it."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.rig.inside import give, put
from tests.rig.library import sha256
from tests.rig.mounts import in_memory
from tests.rig.qbt import Qbt
from tests.rig.relocations import RUNNING, STOPPED, corrupt
from tests.rig.service import Service
from tests.rig.torrents import make_torrent
from tests.rig.trees import below

LIMIT_S: Final = 120.0  #: for anything: many of them start, and wait, at once
_SIZES: Final = {"a": 40_000, "sub/b": 50_000}
_ADDING: Final = threading.Lock()
"""Which torrent is the new one, is told by what was there before."""
_ROOMY_GB: Final = "0.0001"
_SHORT_GB: Final = "1000000"  #: of the disk that the tests are on; it makes every SSD short


@dataclass(kw_only=True)
class Victim:
    """A service with tiers of its own, and torrents of the same files: one, or a group of two."""

    qbt: Qbt
    service: Service
    name: str
    seed: int  #: of the files' bytes; another one for each victim of a qBittorrent
    stopped: bool = False  #: by their user, before
    twins: bool = False  #: a second torrent has the same files
    ids: list[str] = field(default_factory=list)
    content: dict[str, str] = field(default_factory=dict)
    """Each file below the save path, and its SHA-256."""
    bad: dict[str, str] = field(default_factory=dict)  #: the copy, if it was made so

    def tier(self) -> None:
        """Give the torrents to qBittorrent and have their verified copy made."""
        folder = self.service.ssd / "tv"
        with _ADDING:
            self.ids.append(put(self.qbt, folder, self.name, _SIZES, seed=self.seed).id)
            if self.twins:
                twin = make_torrent(folder, self.name, list(_SIZES), piece_length=32 * 1024)
                self.ids.append(give(self.qbt, twin, folder).id)
        self.content = files_of(folder)
        assert len(self.content) == len(_SIZES)
        if self.stopped:
            self.qbt.api.torrents_stop(torrent_hashes=self.ids)
        states = STOPPED if self.stopped else RUNNING
        self.qbt.wait_for(
            lambda: all(self.qbt.info(id_)["state"] in states for id_ in self.ids),
            "they seed, or are stopped",
            LIMIT_S,
        )
        self.service.start(limit_s=LIMIT_S)
        for id_ in self.ids:
            job = self.service.notify(id_).json()["queue_id"]
            self.service.wait_for_job(job, "done", limit_s=LIMIT_S)
        self.service.stop()

    def spoil(self) -> None:
        """Make a byte of the copy bad."""
        corrupt(self.service.hdd / self.name / "sub/b")
        self.bad = self._copies()

    def die(self, at: str) -> None:
        """Relocate, or go on with it, until the service is killed (see `tests.rig.die_at`)."""
        service = self.service
        service.module = "tests.rig.die_at"
        service.env |= {"DISK_SPACE_THRESHOLD_GB": _SHORT_GB, "QBM_DIE_AT": at}
        process = service.launch()
        self.qbt.wait_for(
            lambda: process.poll() is not None, f"the service is killed at {at}", LIMIT_S
        )
        assert process.returncode == -signal.SIGKILL, service.output()
        service.process = None
        if at.endswith(":half"):
            assert 0 < len(files_of(service.ssd / "tv")) < len(self.content)

    def relocate(self) -> None:
        """Relocate, to the end."""
        service = self.service
        service.env["DISK_SPACE_THRESHOLD_GB"] = _SHORT_GB
        service.start(limit_s=LIMIT_S)
        service.wait_for(lambda: self._relocated() == len(self.ids), "they are relocated", LIMIT_S)
        service.stop()

    def go_on(self, step: str) -> None:
        """Start the service once more, and have the step at which it was killed over."""
        service = self.service
        service.module = "qbm_trio"
        service.start(limit_s=LIMIT_S)
        # With or without a job, which the line then names.
        at_it = re.compile(rf": {step}(?: \[.*\])?\n")
        service.wait_for(lambda: at_it.search(service.output_of_run()), "it goes on", LIMIT_S)
        service.wait_for(
            lambda: not service.http.get("/status").json()["processes"], "it has ended", LIMIT_S
        )
        service.stop()

    def back_on_ssd(self) -> bool:
        """Whether qBittorrent shows all of them there, whole or not."""
        rows = self.qbt.api.torrents_info(torrent_hashes=self.ids)
        return len(rows) == len(self.ids) and all(
            Path(str(row["content_path"])).is_relative_to(self.service.ssd) for row in rows
        )

    def survive(self, *, undone: bool) -> None:
        """Start the service once more; in the end all is well.

        Args:
            undone: they are to be on the SSD then, and their copy on the HDD; else only there.
        """
        service, qbt = self.service, self.qbt
        service.module = "qbm_trio"
        # Else the run at the start would do once more, and well, what was undone.
        service.env["DISK_SPACE_THRESHOLD_GB"] = _ROOMY_GB if undone else _SHORT_GB
        service.start(limit_s=LIMIT_S)
        place, states = service.ssd if undone else service.hdd, STOPPED if self.stopped else RUNNING
        tags = {"ssd", "hdd"} if undone else {"hdd"}

        def well() -> bool:
            return all(
                said["state"] in states
                and said["progress"] == 1
                and Path(said["content_path"]).is_relative_to(place)
                and set(said["tags"].split(", ")) == tags
                for said in map(qbt.info, self.ids)
            )

        said = [qbt.info(id_) for id_ in self.ids]
        service.wait_for(well, f"they are well again: {said}", LIMIT_S)
        left = self.content if undone else {}
        service.wait_for(
            lambda: files_of(service.ssd / "tv") == left,
            "only what is to be is on the SSD",
            LIMIT_S,
        )
        if self.bad and self.twins:  # whose it is, is for the user to decide
            service.wait_for(self._conflict, "a job says so", LIMIT_S)
            assert self._copies() == self.bad
        else:  # a bad one is kept beside it
            service.wait_for(lambda: self._copies() == self.content, "the copy is good", LIMIT_S)
            aside = [path for path in below(service.hdd, "*.qbm-conflict-*") if path.is_file()]
            assert len(aside) == (1 if self.bad else 0)
        relocated = 0 if undone else len(self.ids)
        service.wait_for(lambda: self._relocated() == relocated, "the journal knows it", LIMIT_S)
        assert well()  # still

    def _relocated(self) -> int:
        return int(self.service.http.get("/status").json()["statistics"]["torrents_relocated"])

    def _conflict(self) -> bool:
        failed = self.service.http.get("/jobs", params={"state": "failed"}).json()["jobs"]
        return [job["error_code"] for job in failed] == ["destination_conflict"]

    def _copies(self) -> dict[str, str]:
        return {
            name: digest
            for name, digest in files_of(self.service.hdd).items()
            if not name.startswith(".qbm-") and ".qbm-conflict-" not in name
        }


@contextmanager
def victim(root: Path, qbt: Qbt, name: str, **options: Any) -> Iterator[Victim]:
    """One below ``root``; its service is ended after. Options as for `Victim`."""
    env = {"DELETE_GRACE_S": "0", "DISK_SPACE_THRESHOLD_GB": _ROOMY_GB}
    with in_memory() as ssd:
        service = Service(root / name, qbt.url, env, ssd=ssd)
        try:
            yield Victim(qbt=qbt, service=service, name=name, **options)
        finally:
            service.kill()
            service.http.close()


def files_of(folder: Path) -> dict[str, str]:
    """All files below it, whatever their names, and their SHA-256."""
    found = {}
    for path in below(folder):
        try:
            if path.is_file():
                found[str(path.relative_to(folder))] = sha256(path)
        except FileNotFoundError:  # deleted in between
            continue
    return found
