"""What the bench makes figures of: the calls that it counts, and the seconds without seeding."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from scripts.benchmarks.forwarder import forwarding
from scripts.benchmarks.model import BenchFailed
from scripts.benchmarks.relocating import Sample, seconds_not_seeding
from tests.fakes.web_server import Reply, Seen, serving

SSD, HDD = Path("/ssd"), Path("/hdd")


def samples(*seen: tuple[str, Path, float]) -> list[Sample]:
    """One a second: state, where, progress."""
    return [
        Sample(at_s=float(n), state=state, progress=progress, content_path=f"{where}/a.bin")
        for n, (state, where, progress) in enumerate(seen)
    ]


def test_the_seconds_go_from_the_last_seeding_on_the_ssd_to_the_first_on_the_hdd() -> None:
    seen = samples(
        ("stalledUP", SSD, 1),
        ("uploading", SSD, 1),
        ("pausedUP", SSD, 1),
        ("checkingUP", HDD, 0.5),
        ("stalledUP", HDD, 1),
        ("stalledUP", HDD, 1),
    )
    assert seconds_not_seeding(seen, SSD, HDD) == 3


def test_what_seems_to_seed_before_its_recheck_is_not_seeding_yet() -> None:
    seen = samples(
        ("stalledUP", SSD, 1),
        ("stalledUP", HDD, 1),
        ("checkingUP", HDD, 0),
        ("stalledUP", HDD, 0.5),
        ("stalledUP", HDD, 1),
    )
    assert seconds_not_seeding(seen, SSD, HDD) == 4


@pytest.mark.parametrize(
    "seen",
    [
        samples(("stalledUP", SSD, 1), ("moving", SSD, 1)),
        samples(("pausedUP", SSD, 1), ("stalledUP", HDD, 1)),
        samples(("stalledUP", SSD, 1), ("stalledUP", HDD, 1), ("stalledUP", SSD, 1)),
    ],
)
def test_without_seeding_on_both_tiers_there_is_no_figure(seen: list[Sample]) -> None:
    with pytest.raises(BenchFailed):
        seconds_not_seeding(seen, SSD, HDD)


def test_each_request_is_passed_on_whole_and_counted_by_kind() -> None:
    def answer(seen: Seen) -> Reply:
        if seen.path.endswith("/addTags"):
            return Reply(headers={"Set-Cookie": "SID=1; path=/"})
        return Reply(body=b"[]", headers={"Content-Type": "application/json"})

    with serving(answer) as web, forwarding(web.port) as forwarder:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{forwarder.port}/api/v2/", trust_env=False
        ) as api:
            api.post("torrents/addTags", data={"hashes": "a", "tags": "x y"})
            assert api.post("torrents/info").json() == []
            assert api.post("torrents/info", data={"hashes": "a"}).json() == []
            assert api.get("torrents/info", params={"hashes": "a"}).json() == []
            assert api.get("torrents/files", params={"hash": "a"}).json() == []
            api.get("app/webapiVersion")
        counts = forwarder.counts()
        tagged = web.seen[0]
        assert tagged.form == {"hashes": "a", "tags": "x y"}
        assert {seen.headers["host"] for seen in web.seen} == {f"127.0.0.1:{web.port}"}
        assert web.seen[-1].headers["cookie"] == "SID=1"
        assert len(web.seen) == counts.total()
    assert counts == {
        ("fixed", "torrents/addTags"): 1,
        ("list", "torrents/info"): 1,
        ("polls", "torrents/info"): 2,
        ("files", "torrents/files"): 1,
        ("contact", "app/webapiVersion"): 1,
    }
