"""A real service to be attacked, beside a real qBittorrent with torrents, or without one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from scripts.rig.making import Sample, make
from scripts.rig.qbt import free_port, running
from scripts.rig.service import Service

TORRENTS = 6
MOST_FINDINGS = 20


@contextmanager
def under_attack(folder: Path, *, qbittorrent: bool) -> Iterator[Service]:
    """Run the service below ``folder`` until the block ends.

    Args:
        folder: for everything.
        qbittorrent: whether there is one, with torrents that are complete.
    """
    ssd, hdd = folder / "ssd", folder / "hdd"
    for tier in (ssd, hdd):
        tier.mkdir(parents=True)
    with ExitStack() as stack:
        port = free_port()
        if qbittorrent:
            qbt = stack.enter_context(running(folder / "qbt"))
            port = qbt.web_port
            for n in range(TORRENTS):
                sample = Sample(name=f"film {n}", category="", sizes={f"film {n}": 40_000 + n})
                torrent, _ = make(sample, ssd)
                qbt.api.torrents_add(
                    torrent_files={sample.name: torrent}, save_path=str(ssd), is_skip_checking=True
                )
            qbt.wait_for(lambda: len(qbt.api.torrents_info()) == TORRENTS, "all torrents are there")
        service = Service(
            folder=folder / "service",
            ssd=ssd,
            hdd=hdd,
            qbittorrent_port=port,
            settings={"LOG_LEVEL": "DEBUG", "LOG_FILE": str(folder / "qbm.log")},
        )
        stack.callback(service.stop)
        service.start()
        yield service


def found_in_log(service: Service) -> list[str]:
    """What must not be in a log, whatever clients send: errors, tracebacks, the key."""
    findings = []
    for line in service.output.read_text(encoding="utf-8", errors="replace").splitlines():
        if re.search(r" ERROR +qbm_trio\.(?:web|http)|CRITICAL|^Traceback|\ba bug\b", line):
            findings.append(f"in the log: {line[:300]}")
        if service.key in line:
            findings.append("in the log: the key")
    return findings[:MOST_FINDINGS]
