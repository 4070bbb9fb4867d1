"""The checker of ``scripts/chaos`` notices what it is there for."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.mayhem import judge as judging
from scripts.mayhem.judge import Copies, Finding, Look, Weight, judge
from scripts.mayhem.known import Accepted, Known, KnownFile
from scripts.mayhem.specs import Layout, Spec

ROOT = Path(__file__).resolve().parents[2]
SSD, HDD = Path("/site/ssd"), Path("/site/hdd")
BOTH = frozenset({"T/a", "T/b"})
NONE: frozenset[str] = frozenset()
FOREIGN = SSD / "tv" / "T" / "foreign"


def torrent(
    number: int = 1, family: int = 1, name: str = "T", unwanted: str = "", **fields: Any
) -> Known:
    sizes = {f"{name}/a": 5, f"{name}/b": 7}
    spec = Spec(
        number=number,
        family=family,
        name=name,
        layout=Layout.NESTED,
        version="v1",
        piece_bytes=16384,
        category="tv",
        folder="tv",
        sizes=sizes,
        unwanted=unwanted,
        contents=f"family {family}",
    )
    return Known(
        spec=spec,
        id=f"id{number}",
        hashes=(f"id{number}",),
        on_ssd=SSD / "tv",
        on_hdd=HDD / "tv",
        files={
            n: KnownFile(sha256=f"sha of {n[-1]}", size=s, wanted=n != unwanted, required=True)
            for n, s in sizes.items()
        },
        **{"stopped": False, **fields},
    )


def seeding(tier: Path = SSD, **fields: Any) -> dict[str, object]:
    return {
        "state": "stalledUP",
        "progress": 1,
        "amount_left": 0,
        "content_path": str(tier / "tv" / "T"),
        "tags": "hdd, ssd",
        **fields,
    }


def job(state: str = "done", **fields: object) -> dict[str, object]:
    return {
        "state": state,
        "torrent_id": "id1",
        "outcome": "tiered" if state == "done" else None,
        "merged_into": None,
        "error_code": None,
        "error": None,
        "finished_at": 1000.0,
        **fields,
    }


def seen(**fields: Any) -> Look:
    """One torrent on the SSD, with a copy and a job that is done: all is well."""
    jobs = {"job": job()}
    whole: dict[str, Any] = {
        "torrents": {"id1": seeding()},
        "copies": {1: Copies(on_ssd=BOTH, on_hdd=BOTH)},
        "jobs_told": jobs,
        "jobs_kept": jobs,
        "foreign": {FOREIGN: "foreign sha"},
    }
    return Look(**whole | fields)


def judged(
    look: Look,
    *torrents: Known,
    spoilt: frozenset[Path] = frozenset(),
    foreign: str = "foreign sha",
    mended: dict[Path, tuple[float, float]] | None = None,
) -> list[tuple[Weight, str]]:
    accepted = [Accepted(job_id="job", torrent_id="id1", at=0)]
    found = judge(look, torrents or (torrent(),), accepted, {FOREIGN: foreign}, spoilt, mended)
    return [(finding.weight, finding.what) for finding in found]


def test_what_is_as_it_should_be_is_let_pass() -> None:
    assert judged(seen()) == []
    relocated = {"torrents": {"id1": seeding(HDD)}, "copies": {1: Copies(on_ssd=NONE, on_hdd=BOTH)}}
    assert judged(seen(**relocated)) == []


def test_a_file_that_is_whole_nowhere_is_a_loss() -> None:
    copies = Copies(on_ssd=frozenset({"T/a"}), on_hdd=frozenset({"T/a"}))
    assert judged(seen(copies={1: copies}))[0] == (Weight.LOSS, "lost")


def test_a_file_that_is_not_wanted_is_lost_as_well() -> None:
    copies = Copies(on_ssd=frozenset({"T/a"}), on_hdd=frozenset({"T/a"}))
    found = judged(seen(copies={1: copies}), torrent(unwanted="T/b"))
    assert found[0] == (Weight.LOSS, "lost")


def test_a_torrent_that_is_whole_on_neither_tier_is_wrong() -> None:
    copies = Copies(on_ssd=frozenset({"T/a"}), on_hdd=frozenset({"T/b"}))
    assert (Weight.WRONG, "whole on no tier") in judged(seen(copies={1: copies}))


@pytest.mark.parametrize("removed", [False, True])
def test_the_files_of_a_torrent_that_was_removed_without_them_are_still_held(removed: bool) -> None:
    look = seen(torrents={}, copies={1: Copies(on_ssd=NONE, on_hdd=NONE)})
    found = judged(look, torrent(removed=removed))
    assert found[0][0] is Weight.LOSS


def test_a_removed_torrents_files_may_have_gone_to_the_hdd_with_its_cross_seeds() -> None:
    mate = torrent(number=2)
    look = seen(
        torrents={"id2": seeding(HDD)},
        copies={
            1: Copies(on_ssd=NONE, on_hdd=NONE),
            2: Copies(on_ssd=NONE, on_hdd=BOTH),
        },
    )
    assert judged(look, torrent(removed=True), mate) == []
    other = torrent(number=2, family=2)
    assert judged(look, torrent(removed=True), other)[0][0] is Weight.LOSS


@pytest.mark.parametrize(
    ("tier", "copies"),
    [
        (SSD, Copies(on_ssd=frozenset({"T/a"}), on_hdd=BOTH)),
        (HDD, Copies(on_ssd=BOTH, on_hdd=frozenset({"T/b"}))),
        (Path("/elsewhere"), Copies(on_ssd=BOTH, on_hdd=BOTH)),
    ],
)
def test_a_torrent_that_seeds_from_the_wrong_place_is_noticed(tier: Path, copies: Copies) -> None:
    look = seen(torrents={"id1": seeding(tier)}, copies={1: copies})
    assert (Weight.WRONG, "seeds from where it is not whole") in judged(look)


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({"progress": 0.5}, "does not seed"),
        ({"amount_left": 7}, "does not seed"),
        ({"state": "missingFiles"}, "does not seed"),
        ({"state": "stalledDL"}, "does not seed"),
        ({"state": "stoppedUP"}, "run state"),
        ({"tags": "hdd, qbm-relocating, ssd"}, "its tag was left"),
    ],
)
def test_a_torrent_that_does_not_seed_as_before_is_noticed(said: dict[str, Any], what: str) -> None:
    assert judged(seen(torrents={"id1": seeding(**said)})) == [(Weight.WRONG, what)]


def test_a_torrent_that_its_user_stopped_has_to_stay_stopped() -> None:
    stopped = torrent(stopped=True)
    assert judged(seen(torrents={"id1": seeding(state="pausedUP")}), stopped) == []
    assert judged(seen(), stopped) == [(Weight.WRONG, "run state")]


def test_a_relocation_that_qbittorrent_forgot_is_noticed() -> None:
    fields = {
        "torrents": {"id1": seeding(SSD, state="missingFiles", progress=0)},
        "copies": {1: Copies(on_ssd=NONE, on_hdd=BOTH)},
    }
    done = seen(**fields, relocations={"id1": {"step": "done", "error": None}})
    assert judged(done) == [(Weight.WRONG, "qBittorrent forgot a relocation")]
    # Files that were deleted without a relocation that ended are another matter.
    wrong = [(Weight.WRONG, "seeds from where it is not whole")]
    assert judged(seen(**fields)) == wrong
    assert judged(seen(**fields, relocations={"id1": {"step": "undone", "error": None}})) == wrong


def test_a_relocation_that_is_still_open_is_noted_but_its_files_are_held_all_the_same() -> None:
    half = {"relocations": {"id1": {"step": "restoring", "error": None}}}
    stopped = {"torrents": {"id1": seeding(HDD, state="stoppedUP")}}
    noted = [(Weight.NOTED, "a relocation waits for one that was removed")]
    assert judged(seen(**half, **stopped)) == noted
    ended = {"relocations": {"id1": {"step": "done", "error": None}}}
    assert judged(seen(**ended, **stopped)) == [(Weight.WRONG, "run state")]
    bad = {"copies": {1: Copies(on_ssd=frozenset({"T/a"}), on_hdd=frozenset({"T/a"}))}}
    assert judged(seen(**half, **stopped, **bad))[0] == (Weight.LOSS, "lost")


@pytest.mark.parametrize(
    "said", [{"state": "stoppedUP"}, {"tags": "hdd, qbm-relocating, ssd"}], ids=["state", "tag"]
)
def test_what_a_killed_qbittorrent_forgot_of_an_end_is_noticed(said: dict[str, Any]) -> None:
    undone = {"id1": {"step": "undone", "error": None, "updated_at": 1000.0}}
    ((weight, _),) = judged(seen(torrents={"id1": seeding(**said)}, relocations=undone))
    assert weight is Weight.WRONG


@pytest.mark.parametrize("missing", ["jobs_told", "jobs_kept"])
def test_an_accepted_notification_that_is_not_in_the_journal_is_noticed(missing: str) -> None:
    found = judged(seen(**{missing: {}}))
    assert found == [(Weight.WRONG, "an accepted notification is gone")]


@pytest.mark.parametrize("state", ["queued", "waiting", "running"])
def test_a_job_that_is_still_in_the_journal_is_kept(state: str) -> None:
    jobs = {"job": job(state)}
    copies = {1: Copies(on_ssd=BOTH, on_hdd=NONE)}
    assert judged(seen(jobs_told=jobs, jobs_kept=jobs, copies=copies)) == []


@pytest.mark.parametrize("state", ["failed", "cancelled", "cleared"])
def test_a_job_that_came_to_nothing_is_noticed(state: str) -> None:
    jobs = {"job": job(state)}
    found = judged(seen(jobs_told=jobs, jobs_kept=jobs))
    assert found == [(Weight.WRONG, "an accepted notification came to nothing")]


def test_a_job_that_failed_is_made_up_for_only_by_a_later_one_with_a_whole_copy() -> None:
    jobs = {"job": job("failed"), "later": job(finished_at=1001.0)}
    assert judged(seen(jobs_told=jobs, jobs_kept=jobs)) == []
    failed = [(Weight.WRONG, "an accepted notification came to nothing")]
    half = {1: Copies(on_ssd=BOTH, on_hdd=frozenset({"T/a"}))}
    assert judged(seen(jobs_told=jobs, jobs_kept=jobs, copies=half)) == failed
    jobs["later"] = job(finished_at=999.0)
    assert judged(seen(jobs_told=jobs, jobs_kept=jobs)) == failed


def test_a_copy_that_we_spoilt_and_two_torrents_have_is_left_to_its_user() -> None:
    jobs = {"job": job("failed", error_code="destination_conflict")}
    look = seen(jobs_told=jobs, jobs_kept=jobs)
    bad = frozenset({HDD / "tv" / "T" / "a"})
    assert judged(look, spoilt=bad) == [(Weight.NOTED, judging.CONFLICT)]
    assert judged(look) == [(Weight.WRONG, "an accepted notification came to nothing")]
    jobs["job"] = job("failed", error_code="source_corrupt")
    assert judged(look, spoilt=bad)[0][0] is Weight.WRONG


def test_it_is_left_to_its_user_also_when_the_other_torrents_job_has_made_it_anew() -> None:
    jobs = {"job": job("failed", error_code="destination_conflict")}  # finished at 1000
    look = seen(jobs_told=jobs, jobs_kept=jobs)
    path = HDD / "tv" / "T" / "a"
    assert judged(look, mended={path: (999, 1001)}) == [(Weight.NOTED, judging.CONFLICT)]
    for before_or_after in ((1001, 1002), (998, 999)):
        assert judged(look, mended={path: before_or_after})[0][0] is Weight.WRONG


def test_a_job_that_is_done_without_a_copy_is_noticed() -> None:
    look = seen(copies={1: Copies(on_ssd=BOTH, on_hdd=frozenset({"T/a"}))})
    assert judged(look) == [(Weight.WRONG, "done without a whole copy")]
    assert judged(look, spoilt=frozenset({HDD / "tv" / "T" / "a"})) != []
    assert judged(look, spoilt=frozenset({HDD / "tv" / "T" / "b"})) == [], "our own doing"
    anew = {"job": job(), "anew": job("queued")}
    copies = look.copies
    assert judged(seen(copies=copies, jobs_told=anew, jobs_kept=anew)) == []


def test_a_merged_job_is_followed_to_its_end() -> None:
    merged = {"job": job("merged", merged_into="other"), "other": job("failed")}
    (found,) = judged(seen(jobs_told=merged, jobs_kept=merged))
    assert found == (Weight.WRONG, "an accepted notification came to nothing")
    for nowhere in ("none", "job"):
        merged["job"] = job("merged", merged_into=nowhere)
        (found,) = judged(seen(jobs_told=merged, jobs_kept=merged))
        assert found == (Weight.WRONG, "an accepted notification is gone")


@pytest.mark.parametrize("now", [None, "another sha"])
def test_a_foreign_file_that_is_gone_or_changed_is_noticed(now: str | None) -> None:
    assert judged(seen(foreign={FOREIGN: now})) == [(Weight.WRONG, "foreign file")]


@pytest.mark.parametrize("field", ["outside_changed", "strangers"])
def test_what_changes_outside_the_tiers_is_noticed(field: str) -> None:
    assert judged(seen(**{field: ["sentinel"]})) == [(Weight.WRONG, "outside the tiers")]


@pytest.mark.parametrize("state", ["done", "failed", "cancelled", "cleared", "merged", None])
def test_staging_that_no_job_needs_any_more_is_noticed(state: str | None) -> None:
    staged = {HDD / ".qbm-staging" / "instance" / "other": "other"}
    jobs = {"job": job()} | ({"other": job(state)} if state else {})
    assert judged(seen(jobs_kept=jobs, staged=staged)) == [(Weight.WRONG, "staging was left")]


@pytest.mark.parametrize("state", ["queued", "waiting", "running"])
def test_staging_of_a_job_that_goes_on_is_let_pass(state: str) -> None:
    staged = {HDD / ".qbm-staging" / "instance" / "other": "other"}
    assert judged(seen(jobs_kept={"job": job(), "other": job(state)}, staged=staged)) == []


def test_a_finding_tells_which_torrent_and_what_was_seen() -> None:
    (finding,) = judge(seen(torrents={"id1": seeding(state="error")}), [torrent()])
    assert isinstance(finding, Finding)
    for word in ("WRONG", "T (nested folders", "error", "/site/ssd/tv/T", "never relocated"):
        assert word in str(finding)


def test_a_torrent_that_qbittorrent_forgot_is_noted_and_its_files_are_held_all_the_same() -> None:
    assert judged(seen(torrents={})) == [(Weight.NOTED, "qBittorrent forgot a torrent")]


def test_the_checker_shares_no_code_with_the_service() -> None:
    for path in (ROOT / "scripts" / "mayhem").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not [name for name in names if name.startswith("qbm_trio")], path
    # Nor does anything that it uses.
    loaded = (
        "import sys, scripts.chaos; sys.exit(any(m.startswith('qbm_trio') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, check=False).returncode == 0
