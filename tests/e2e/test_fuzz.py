"""Requests and bytes at random, at a real service: with a real qBittorrent, and without one.

The seeds are fixed, so that a failure can be repeated; ``scripts/fuzz`` goes on with others.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.fuzzing.api import attack_api
from scripts.fuzzing.raw import cases
from scripts.fuzzing.site import found_in_log, under_attack
from scripts.fuzzing.wire import attack_wire, parse
from scripts.rig.service import Service

pytestmark = pytest.mark.qbittorrent

SEED = 5
EXAMPLES = 60  #: for each call and phase: some 1,700 cases in 15 seconds
BYTES = 3000  #: cases of raw bytes: some 3 seconds


@pytest.fixture(scope="module", params=["away", "there"])
def attacked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, str]]:
    folder = tmp_path_factory.mktemp(request.param)
    with under_attack(folder, qbittorrent=request.param == "there") as service:
        yield service, request.param
        assert found_in_log(service) == []


def test_no_request_gets_an_answer_that_the_document_does_not_foresee(
    attacked: tuple[Service, str], tmp_path: Path
) -> None:
    service, state = attacked
    run = attack_api(
        service, tmp_path, seed=SEED, examples=EXAMPLES, may_be_unavailable=state == "away"
    )
    assert run.findings == (), run.output
    assert run.cases > 1000


def test_no_bytes_whatever_get_a_500_hide_a_request_or_show_a_key(
    attacked: tuple[Service, str],
) -> None:
    service, _ = attacked
    run = attack_wire(service, seed=SEED, count=BYTES)
    assert run.findings == []
    assert run.cases == BYTES
    assert {200, 400, 401, 404, 405, 422, 431} <= set(run.statuses)


def test_the_same_seed_gives_the_same_bytes() -> None:
    def first(seed: int) -> list[object]:
        return [case for case, _ in zip(cases(seed, key="k"), range(200), strict=False)]

    assert first(1) == first(1) != first(2)


@pytest.mark.parametrize(
    "received",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"rubbish\r\n\r\n",
    ],
)
def test_an_answer_that_is_cut_off_or_none_at_all_is_told(received: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(received)
