"""Make torrents on the SSD and add them to qBittorrent, complete."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from tests.rig.torrents import MadeTorrent, Version, make_torrent

from .known import Known, KnownFile
from .site import Site
from .specs import LINKED_NAME, Layout, Spec
from .webui import STOPPED

ADDED_WITHIN_S = 10.0
SAVED_WITHIN_S = 3.0


class NotAdded(Exception):
    """A torrent could not be made or added: no room, or qBittorrent was away."""


def add_family(site: Site, specs: tuple[Spec, ...]) -> list[Known]:
    """Make and add torrents that share files, and enter them in the ledger.

    Raises:
        NotAdded: at the first that could not be; of it nothing is known, whatever is left.
    """
    added: list[Known] = []
    for spec in specs:
        try:
            _write(site, spec, specs[0])
            made = _hashed(site, spec)
            known = _known(site, spec, made)
            _add(site, known, made.data)
        # ValueError: libtorrent's own, when a file could not be read.
        except (OSError, TimeoutError, ValueError) as error:
            raise NotAdded(f"{spec.name}: {error}") from error
        site.ledger.add(known)
        site.log(f"added torrent {spec.number}: {known}, category {spec.category!r}")
        added.append(known)
    return added


def _folder(site: Site, spec: Spec) -> Path:
    return site.ssd.at / spec.folder


def _write(site: Site, spec: Spec, first: Spec) -> None:
    folder = _folder(site, spec)
    match spec.layout:
        case Layout.SAME_PATH:
            return
        case Layout.LINKED:
            source = _folder(site, first) / first.name
            shutil.copytree(source, folder / spec.name, copy_function=os.link)
        case Layout.LINKED_FILE:
            folder.mkdir(parents=True, exist_ok=True)
            os.link(_folder(site, first) / first.name / LINKED_NAME, folder / spec.name)
        case _:
            for name in spec.sizes:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(spec.bytes_of(name))


def _hashed(site: Site, spec: Spec) -> MadeTorrent:
    names: list[str] | None = [name.removeprefix(f"{spec.name}/") for name in spec.sizes]
    if list(spec.sizes) == [spec.name]:
        names = None
    version = Version(spec.version)
    if spec.layout is not Layout.FLAT:
        return make_torrent(
            _folder(site, spec), spec.name, names, version=version, piece_length=spec.piece_bytes
        )
    # The torrent has a folder of its own; it is qBittorrent that is told to leave it out.
    outer = site.ssd.at / f"making {spec.number}"
    try:
        shutil.copytree(_folder(site, spec), outer / spec.name, copy_function=os.link)
        return make_torrent(outer, spec.name, names, version=version, piece_length=spec.piece_bytes)
    finally:
        shutil.rmtree(outer, ignore_errors=True)


def _known(site: Site, spec: Spec, made: MadeTorrent) -> Known:
    id = (made.infohash_v2 or made.infohash_v1 or "")[:40]
    first_contents = {name: (_folder(site, spec) / name).read_bytes() for name in spec.sizes}
    return Known(
        spec=spec,
        id=id,
        hashes=tuple(sorted({id, *filter(None, (made.infohash_v1, made.infohash_v2))})),
        on_ssd=_folder(site, spec),
        on_hdd=site.hdd.at / spec.category,
        files={
            name: KnownFile(
                sha256=hashlib.sha256(contents).hexdigest(),
                size=len(contents),
                wanted=name != spec.unwanted,
                required=name != spec.unwanted or spec.layout is not Layout.UNWANTED_ABSENT,
            )
            for name, contents in first_contents.items()
        },
        stopped=spec.stopped,
    )


def _add(site: Site, known: Known, torrent: bytes) -> None:
    spec, id, web = known.spec, known.id, site.web
    absent = spec.layout is Layout.UNWANTED_ABSENT
    options = {"category": spec.category, "skip_checking": "true"}
    if spec.auto_management:
        options["autoTMM"] = "true"
    else:
        options |= {"savepath": str(known.on_ssd), "autoTMM": "false"}
        options["useDownloadPath"] = str(spec.download_path).lower()
        if spec.download_path:
            options["downloadPath"] = str(site.ssd.at / "incomplete")
    if spec.layout is Layout.FLAT:
        options["contentLayout"] = "NoSubfolder"
    if absent:
        (known.on_ssd / spec.unwanted).unlink()
        options["skip_checking"] = "false"
    if spec.stopped or absent:
        options |= {"paused": "true", "stopped": "true"}
    web.add(torrent, options)

    def shown() -> bool:
        info = web.torrents().get(id)
        return info is not None and known.tier_of(info["content_path"]) == "SSD"

    site.wait_for(shown, f"{known} is listed", ADDED_WITHIN_S)
    if spec.unwanted:
        (index,) = [file["index"] for file in web.files(id) if file["name"] == spec.unwanted]
        web.post("torrents/filePrio", hash=id, id=str(index), priority="0")
    if absent:
        site.wait_for(
            lambda: not _state(site, id).startswith("checking"), "checked", ADDED_WITHIN_S
        )
        web.post("torrents/recheck", hashes=id)
        site.wait_for(lambda: _state(site, id) in STOPPED, "complete", ADDED_WITHIN_S)
        if not spec.stopped:
            web.start(id)
    site.wait_for(
        lambda: _complete(site, known), f"{known} is complete, as it should run", ADDED_WITHIN_S
    )
    saved = site.qbt.folder / "profile/qBittorrent/data/BT_backup" / f"{id}.fastresume"
    try:
        site.wait_for(saved.exists, "saved", SAVED_WITHIN_S)
    except TimeoutError:
        site.log(f"not saved yet: {known}")


def _state(site: Site, id: str) -> str:
    info = site.web.torrents().get(id)
    return "" if info is None else str(info["state"])


def _complete(site: Site, known: Known) -> bool:
    info = site.web.torrents().get(known.id)
    if info is None or info["progress"] != 1 or info["amount_left"]:
        return False
    return (info["state"] in STOPPED) == known.stopped
