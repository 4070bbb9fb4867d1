"""What the user of qBittorrent does, and others who write to the disks."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from contextlib import suppress

from tests.rig.mounts import is_mounted

from .known import Known
from .making import NotAdded, add_family
from .plan import Event, Kind
from .site import THRESHOLD_BYTES, Site

SHORT_BYTES = 9_000_000  #: at most, below the threshold


PATIENCE_S = 4.0
RECHECKED_WITHIN_S = 20.0


def answers(site: Site) -> bool:
    """Whether qBittorrent does."""
    with suppress(OSError):
        site.web.torrents()
        return True
    return False


def _checks(site: Site) -> bool:
    return any(info["state"].startswith("checking") for info in site.web.torrents().values())


class User:
    """Adds, removes, and fills the SSD."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def do(self, event: Event) -> bool:
        """Have it happen; False if it could not."""
        site = self._site
        if event.kind is not Kind.PRESSURE:
            with suppress(TimeoutError):  # a user tries again
                site.wait_for(lambda: answers(site), "qBittorrent answers", PATIENCE_S)
        match event.kind:
            case Kind.ADD:
                return self._add(event)
            case Kind.REMOVE | Kind.REMOVE_WITH_FILES:
                known = site.ledger.get(event.torrent)
                with_files = event.kind is Kind.REMOVE_WITH_FILES
                return known is not None and self.remove(known, with_files=with_files)
            case Kind.FOREIGN:
                known = site.ledger.get(event.torrent)
                return known is not None and self._plant(known, event)
            case Kind.PRESSURE:
                with suppress(OSError):
                    site.squeeze_ssd(THRESHOLD_BYTES - int(event.draw * SHORT_BYTES))
                return True
            case _:
                raise ValueError(f"not a user's: {event.kind}")

    def _add(self, event: Event) -> bool:
        try:
            add_family(self._site, event.specs)
        except NotAdded as error:
            self._site.log(f"not added: {error}")
            return False
        return True

    def remove(self, known: Known, *, with_files: bool) -> bool:
        """Remove a torrent; with its files only if no other has the same."""
        site = self._site
        family = [one for one in site.ledger.family(known) if one is not known]
        places = {known.on_ssd / name for name in known.files}
        places |= {known.on_hdd / name for name in known.files}
        if any(
            root / name in places
            for k in family
            for root in (k.on_ssd, k.on_hdd)
            for name in k.files
        ):
            with_files = False
        # From now on nothing is asked of it: whether qBittorrent did it may not be known.
        if with_files:
            site.ledger.forget(known.spec.number)
        known.removed = True
        try:
            site.web.remove(known.id, with_files=with_files)
        except OSError as error:
            site.log(f"removed {known}, perhaps: {error}")
        else:
            site.log(f"removed {known}{' with its files' if with_files else ''}")
        return True

    def recheck(self, ids: set[str]) -> None:
        """Force a recheck of torrents of version 2 that wait for their .torrent.

        Started again, 5.1 gives none of them until then; the service tells its user so.
        """
        site = self._site
        try:
            torrents = site.web.torrents()
            for known in site.ledger.torrents():
                info = torrents.get(known.id)
                if known.id not in ids or known.spec.version == "v1" or info is None:
                    continue
                if known.tier_of(info["content_path"]) == "SSD" and info["progress"] == 1:
                    site.web.post("torrents/recheck", hashes=known.id)
                    site.tally.count("rechecked by hand for its .torrent")
            site.wait_for(lambda: not _checks(site), "rechecked", RECHECKED_WITHIN_S)
        except (OSError, TimeoutError) as error:
            site.log(f"not rechecked: {error}")

    def clear(self, numbers: Sequence[int]) -> None:
        """Torrents that were had long enough go, and their files from both tiers.

        With them those that were removed and share files: these may be whole nowhere else.
        """
        ledger = self._site.ledger
        for number in numbers:
            known = ledger.forget(number)
            if known is None:
                continue
            removed = [one for one in ledger.family(known) if one.removed]
            if not known.removed:
                self.remove(known, with_files=True)
            for one in removed:
                ledger.forget(one.spec.number)
            family = ledger.family(known)
            claimed = {r / n for k in family for r in (k.on_ssd, k.on_hdd) for n in k.files}
            for one in (known, *removed):
                for path in (r / n for r in (one.on_ssd, one.on_hdd) for n in one.files):
                    if path not in claimed:
                        path.unlink(missing_ok=True)

    def _plant(self, known: Known, event: Event) -> bool:
        """A file of somebody else's, beside a torrent's files."""
        root = known.on_ssd if event.draw < 0.5 else known.on_hdd
        name = random.Random(event.draw).choice(sorted(known.files))
        folder = (root / name).parent
        path = folder / f"foreign {event.draw:.6f}{('.nfo', '.!qB')[event.draw * 10 % 1 < 0.3]}"
        contents = random.Random(event.draw).randbytes(2000)
        if not is_mounted(self._site.hdd.at) or not folder.is_dir():
            return False
        try:
            path.write_bytes(contents)
        except OSError:
            with suppress(OSError):
                path.unlink()
            return False
        self._site.ledger.plant(path, hashlib.sha256(contents).hexdigest())
        self._site.log(f"foreign file {path}")
        return True
