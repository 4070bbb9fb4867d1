"""What the checker of ``scripts/chaos`` sees of real files."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from scripts import chaos
from scripts.mayhem.faults import _flip
from scripts.mayhem.judge import Copies
from scripts.mayhem.known import KnownFile, Ledger, sha256, whole
from scripts.mayhem.look import staged
from scripts.mayhem.sentinels import snapshot, write_sentinels
from scripts.mayhem.tally import Uniques
from scripts.mayhem.user import User
from tests.unit.test_chaos_judge import torrent


@pytest.mark.parametrize("change", ["contents", "mode", "time", "gone", "new", "link"])
def test_any_change_of_a_sentinel_is_seen(tmp_path: Path, change: str) -> None:
    folder = tmp_path / "outside"
    write_sentinels(folder)
    before = snapshot(folder)
    assert snapshot(folder) == before
    sentinel = folder / "below" / "another"
    status = sentinel.stat()
    match change:
        case "contents":
            sentinel.write_bytes(bytes(status.st_size))
            os.utime(sentinel, ns=(status.st_atime_ns, status.st_mtime_ns))
        case "mode":
            sentinel.chmod(0o600)
        case "time":
            os.utime(sentinel, ns=(0, 0))
        case "gone":
            sentinel.unlink()
        case "new":
            (folder / "below" / "new").touch()
        case _:
            (folder / "a link").unlink()
            (folder / "a link").symlink_to("elsewhere")
    assert snapshot(folder) != before


def test_a_flipped_byte_keeps_size_and_time_and_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    before, status = sha256(path), path.stat()
    _flip(path, 4)
    assert sha256(path) != before
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    _flip(path, 4)
    assert sha256(path) == before, "and can be taken back"


def test_only_files_as_they_were_made_are_whole(tmp_path: Path) -> None:
    known = torrent()
    (tmp_path / "T").mkdir()
    for name in known.files:
        (tmp_path / name).write_bytes(name.encode())
    good = {name: sha256(tmp_path / name) or "" for name in known.files}
    known.files = {
        name: KnownFile(sha256=good[name], size=3, wanted=True, required=True) for name in good
    }
    assert whole(known, tmp_path) == {"T/a", "T/b"}
    (tmp_path / "T" / "a").write_bytes(b"T/A")
    assert whole(known, tmp_path) == {"T/b"}
    (tmp_path / "T" / "b").rename(tmp_path / "T" / "b.!qB")
    assert whole(known, tmp_path) == set()
    assert whole(known, tmp_path, in_mid_relocation=True) == {"T/b"}
    (tmp_path / "T" / "b.!qB").write_bytes(b"T/B")
    assert whole(known, tmp_path, in_mid_relocation=True) == set()


def test_a_removed_torrent_is_found_no_more_but_stays_known() -> None:
    ledger, known = Ledger(), torrent(number=3)
    ledger.add(known)
    assert ledger.get(3) is known
    known.removed = True
    assert ledger.get(3) is None
    assert ledger.torrents() == [known]
    assert ledger.forget(3) is known
    assert ledger.torrents() == []


def test_what_shares_its_files_and_was_removed_goes_with_a_torrent(tmp_path: Path) -> None:
    ledger = Ledger()
    stranger = torrent(3, family=3, name="S")
    for known in (torrent(1), torrent(2, removed=True), stranger):
        known.on_ssd, known.on_hdd = tmp_path / "ssd", tmp_path / "hdd" / str(known.spec.number)
        ledger.add(known)
        for file in (root / name for root in (known.on_ssd, known.on_hdd) for name in known.files):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    asked: list[tuple[str, bool]] = []
    site = SimpleNamespace(
        ledger=ledger,
        web=SimpleNamespace(remove=lambda id_, with_files: asked.append((id_, with_files))),
        log=[].append,
    )

    User(cast(Any, site)).clear([1])

    # Removed first, it has nothing but what may be spoilt; nobody asks for it any more.
    assert ledger.torrents() == [stranger]
    assert asked == [("id1", False)]
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {f"{root}/S/{n}" for root in ("ssd", "hdd/3") for n in "ab"}


def test_when_a_copy_was_bad_is_known_after_it_was_made_anew() -> None:
    ledger, bad, other = Ledger(), Path("/hdd/bad"), Path("/hdd/other")
    ledger.spoil({bad})
    assert (ledger.spoilt(), ledger.mended()) == ({bad}, {})
    ledger.healed({bad, other})
    assert ledger.spoilt() == set()
    assert list(ledger.mended()) == [bad]
    since, until = ledger.mended()[bad]
    assert 0 < since <= until


def test_hardlinks_had_to_be_copied_once_and_real_copies_each(tmp_path: Path) -> None:
    one, other = torrent(number=1), torrent(number=2)
    for number, known in enumerate((one, other)):
        known.on_hdd = tmp_path / str(number)
        (known.on_hdd / "T").mkdir(parents=True)
    (one.on_hdd / "T" / "a").write_bytes(b"12345")
    (other.on_hdd / "T" / "a").hardlink_to(one.on_hdd / "T" / "a")
    (one.on_hdd / "T" / "b").write_bytes(b"1234567")
    (other.on_hdd / "T" / "b").write_bytes(b"1234567")
    both = Copies(on_ssd=frozenset(), on_hdd=frozenset({"T/a", "T/b"}))
    uniques = Uniques()
    for _ in range(2):
        uniques.look([one, other], {1: both, 2: both})
        assert uniques.total_bytes == 5 + 2 * 7


def test_staging_is_found_wherever_it_is(tmp_path: Path) -> None:
    for folder in (".qbm-staging/instance/one", "tv/T/.qbm-staging/instance/two"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "tv/T/a").touch()
    assert sorted(staged(tmp_path).values()) == ["one", "two"]


def test_who_is_not_root_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert chaos.main([]) == 2
    assert "needs root" in capsys.readouterr().err
