"""Why nothing is relocated within one file system: what a failed move there costs.

Pinned on the real ones only: no fake renames files behind its user's back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.contract.relocating import contents, copied, stop, stopped, until
from tests.contract.subjects import PAD, REAL, Subject, subject_of
from tests.rig.mounts import in_memory, run

SIZES = {f"dir/{n}/file": 3 * PAD for n in range(3)}


@pytest.fixture(scope="module", params=REAL)
def subject(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Subject]:
    with subject_of(request.param, tmp_path_factory.mktemp("qbittorrent")) as subject:
        yield subject


@contextmanager
def unchangeable(folder: Path) -> Iterator[None]:
    """A folder that nothing can be moved into. Needs root."""
    run("chattr", "+i", str(folder))
    try:
        yield
    finally:
        run("chattr", "-i", str(folder))


@pytest.mark.parametrize("disks", [1, 2])
async def test_a_move_that_fails_takes_the_copy_for_the_file_on_the_ssd_within_one_disk_only(
    subject: Subject, disks: int
) -> None:
    id, ssd, _ = subject.add(SIZES)
    good = contents(ssd)
    # Each but the last one has its copy, a spoilt one.
    *first, last = [str(file.name) for file in await subject.client.files(id)]
    with in_memory() as elsewhere:
        hdd = copied(ssd) if disks == 1 else copied(ssd, to=elsewhere / "hdd")
        spoilt = dict.fromkeys(first, b"spoilt")
        for name, data in spoilt.items():
            (hdd / name).write_bytes(data)
        (hdd / last).unlink()
        await stop(subject, id)
        with unchangeable((hdd / last).parent):
            await subject.client.set_location(id, str(hdd))
            state = await stopped(subject, True)
            place = str(ssd / "dir")
            await until(subject, id, lambda t: (t.state, t.content_path) == (state, place))
        left = (contents(ssd), contents(hdd))
    if disks == 1:
        assert left == (spoilt | {last: good[last]}, {}), "the SSD has the spoilt copies"
    else:
        assert left == (good, spoilt)
