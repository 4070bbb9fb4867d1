"""A real download finishes in a real qBittorrent, which then runs the hook."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.web_server import Reply, WebServer, serving
from tests.rig.qbt import Qbt, running
from tests.rig.torrents import Version, make_torrent, write_files

pytestmark = pytest.mark.qbittorrent

SCRIPT = Path(__file__).parents[2] / "examples/qbittorrent-notification.sh"
KEY = "a-key-of-the-hook-test"
# No quote of any kind may end an argument, and nothing may be taken for a command.
NASTY = '"it\'s" \\ $(touch pwned) `touch pwned` %N "%K" ; 🎉 ö\nsecond line"'
# What qBittorrent 4.5.2 makes of it: neither a .torrent nor a rename gets a line break in.
AS_FOLDER = NASTY.replace("\\", "").replace("\n", "_")
AS_NAME = NASTY.replace("\n", " ")


@pytest.fixture
def server() -> Iterator[WebServer]:
    with serving(lambda _: Reply(status=202, body=b'{"status": "queued"}')) as server:
        yield server


@pytest.fixture
def seeder(tmp_path: Path) -> Iterator[Qbt]:
    with running(tmp_path / "seeder") as qbt:
        yield qbt


@pytest.fixture
def leecher(tmp_path: Path, server: WebServer) -> Iterator[Qbt]:
    # Its environment is all that the hook gets to see.
    env = {"QBM_URL": server.url, "HTTP_API_KEY": KEY}
    with running(tmp_path / "leecher", env=env) as qbt:
        yield qbt


def download(seeder: Qbt, leecher: Qbt, version: Version = Version.V1) -> str:
    """Have one qBittorrent download a torrent with a nasty name from the other."""
    write_files(seeder.save, {f"{NASTY}/one": 40_000, f"{NASTY}/two": 50_000})
    made = make_torrent(seeder.save, NASTY, ["one", "two"], version=version)
    (seeder.save / NASTY).rename(seeder.save / AS_FOLDER)
    seeder.add(made.data, complete=True)
    leecher.api.torrents_create_category("tv/new ö")
    id = leecher.add(made.data, category="tv/new ö", tags="one,two words")
    leecher.api.torrents_rename(id, new_torrent_name=NASTY)
    leecher.fetch_from(seeder, id, limit_s=20)
    return id


@pytest.mark.parametrize("version", list(Version), ids=lambda version: version.value)
@pytest.mark.parametrize("with_id", [True, False], ids=["with %K", "without %K"])
def test_a_finished_download_arrives_byte_for_byte_and_nothing_is_run(
    seeder: Qbt,
    leecher: Qbt,
    server: WebServer,
    tmp_path: Path,
    version: Version,
    with_id: bool,
) -> None:
    arguments = '"%I" "%N" "%L" "%F" %C %Z "%G"' + (' "%K"' if with_id else "")
    leecher.on_finished(f'"{SCRIPT}" {arguments}')
    if version is Version.V2 and not with_id:
        log = tmp_path / "hook.log"
        leecher.on_finished(f'/usr/bin/env QBM_HOOK_LOG={log} "{SCRIPT}" {arguments}')
        download(seeder, leecher, version)
        leecher.wait_for(lambda: log.exists() and log.read_text(), "the hook has run")
        assert '"%K" is missing' in log.read_text()
        assert server.seen == []
        return

    id = download(seeder, leecher, version)
    (seen,) = leecher.wait_for(lambda: server.seen, "the hook has run")

    info = leecher.info(id)
    form = seen.form
    assert seen.headers["x-api-key"] == KEY
    assert form.pop("hash") == (id if with_id else info["infohash_v1"])
    assert int(form.pop("size")) >= 90_000
    assert form == {
        "name": AS_NAME,
        "category": "tv/new ö",
        "content_path": str(leecher.save / AS_FOLDER),
        "num_files": "2",
        "tags": "one,two words",
    }
    assert not [*tmp_path.rglob("pwned")]
    assert not Path("pwned").exists()


README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")

# Lines for qBittorrent's box; the last one is the README's own. No shell is needed for
# the first; the second takes the key from qBittorrent's environment.
ONE_LINERS = {
    "key in the box": (
        'curl -fsS --retry 6 --retry-connrefused -H "X-API-Key: KEY" -d hash=%K'
        " http://localhost:8081/notify/torrent-finished"
    ),
    "key in the environment": (
        "/bin/sh -c \"exec curl -fsS --retry 6 --retry-connrefused -H 'X-API-Key: '$HTTP_API_KEY"
        ' -d hash=%K http://localhost:8081/notify/torrent-finished"'
    ),
    "key in a file": next(
        line.strip().replace("@/config/qbm-key.txt", "@KEYFILE")
        for line in README.splitlines()
        if line.strip().startswith("curl ") and "%K" in line
    ),
}


@pytest.mark.parametrize("line", ONE_LINERS.values(), ids=ONE_LINERS)
def test_the_line_for_the_box_works_and_tries_again_as_asked(
    seeder: Qbt, leecher: Qbt, server: WebServer, tmp_path: Path, line: str
) -> None:
    key_file = tmp_path / "key.txt"
    key_file.write_text(f"X-API-Key: {KEY}\n")
    line = line.replace("KEYFILE", str(key_file)).replace(' KEY"', f' {KEY}"')
    full = Reply(status=503, headers={"Retry-After": "1"})
    accepted = server.answer
    server.answer = lambda seen: full if len(server.seen) == 1 else accepted(seen)
    leecher.on_finished(line.replace("http://localhost:8081", server.url))

    id = download(seeder, leecher)

    leecher.wait_for(lambda: len(server.seen) == 2, "the hook has run and tried again")
    for seen in server.seen:
        assert seen.path == "/notify/torrent-finished"
        assert seen.headers["x-api-key"] == KEY
        assert seen.form == {"hash": id}
