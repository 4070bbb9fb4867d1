"""A real download finishes in a real qBittorrent, which then tells the real service.

All three ways of docs/connect.md, on both versions, with torrents of all kinds.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fakes.web_server import Reply, Seen
from tests.rig.hooked import FILES, LIMIT_S, Hooked, hooked
from tests.rig.qbt import Qbt, free_port, running
from tests.rig.service import KEY
from tests.rig.torrents import Version

pytestmark = pytest.mark.qbittorrent

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/connect.md")
}
# No quote of any kind may end an argument, and nothing may be taken for a command.
NASTY = '"it\'s" \\ $(touch pwned) `touch pwned` %N "%K" ; 🎉 ö\nsecond line"'
count = itertools.count()


def boxes(page: str) -> list[str]:
    """The lines of a page that are for qBittorrent's box."""
    lines = [line.strip() for line in PAGES[page].splitlines()]
    return [line for line in lines if re.match(r'(/|curl).*%[KI]"?( |$)', line)]


SCRIPT, SCRIPT_WITH_FILE, PYTHON, CURL, CURL_IN_SHELL = boxes("docs/connect.md")


@pytest.fixture(scope="module")
def seeder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Qbt]:
    with running(tmp_path_factory.mktemp("seeder")) as qbt:
        yield qbt


@pytest.fixture(scope="module", params=["4.5.2", "5.1.0"])
def shared_site(
    request: pytest.FixtureRequest, seeder: Qbt, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hooked]:
    with hooked(tmp_path_factory.mktemp("hooked"), seeder, request.param) as site:
        site.leecher.api.torrents_create_category("tv/new ö")
        yield site


@pytest.fixture
def site(shared_site: Hooked) -> Hooked:
    shared_site.settle(shared_site.relay.url)
    # The file with the key is made as the page says, too.
    (made,) = re.findall(r"^\(umask 077; echo .*\)$", PAGES["docs/connect.md"], re.MULTILINE)
    line = made.replace("<your key>", KEY).replace("/config/", f"{shared_site.config}/")
    subprocess.run(["sh", "-c", line], check=True, timeout=LIMIT_S)
    assert (shared_site.config / "qbm-key.txt").stat().st_mode & 0o077 == 0
    return shared_site


def put(site: Hooked, line: str) -> None:
    """Give qBittorrent a line of the docs; only the places in it are ours."""
    line = line.replace("http://localhost:8081", site.relay.url)
    line = line.replace("/config/", f"{site.config}/")
    site.leecher.on_finished(line)


def test_the_pages_print_the_same_lines() -> None:
    assert boxes("README.md") == [SCRIPT.replace("/config/", "/path/to/"), CURL]


# -- what is promised: each way, each version, each kind of torrent -----------------


@pytest.mark.parametrize("line", [SCRIPT, PYTHON, CURL], ids=["script", "python", "curl"])
def test_each_way_tells_the_service_of_every_kind_of_torrent(site: Hooked, line: str) -> None:
    put(site, line)
    options = {"category": "tv/new ö", "tags": "one,two words"}
    for version in Version:
        name = f"Torrent {next(count)} {version.value}"
        id_ = site.download(name, version, **options)
        form = site.came(id_).form

        assert form.pop("hash") == id_
        printed = ("accepted", id_) if line != CURL else ("queue_id", id_)
        site.printed(*printed)
        if line != CURL:
            assert int(form.pop("size")) >= sum(FILES.values())  # padding counts
            assert form == {
                "name": name,
                "category": "tv/new ö",
                "content_path": str(site.leecher.save / name),
                "num_files": "2",
                "tags": "one,two words",
            }
            site.said("accepted", id_)
        else:
            assert form == {}
        job = site.tiered(id_, name, "tv/new ö")
        assert (job["hash"], job["torrent_id"], job["name"]) == (id_, id_, name)
        assert job["priority"] == 0  # what the reconciler finds has another
        assert not site.found_by_itself(name)
    assert len(site.relay.seen) == len(Version)
    assert not (site.config / "qbm-trio-spool").exists() or not any(
        (site.config / "qbm-trio-spool").iterdir()
    )


@pytest.mark.parametrize("script", ["qbittorrent-notification.sh", "qbm_notify.py"])
def test_the_box_may_name_the_file_with_the_settings(site: Hooked, script: str) -> None:
    (site.config / "qbm-trio.env").rename(site.config / "mine.env")
    line = SCRIPT_WITH_FILE.replace("/home/me/qbm-trio.env", str(site.config / "mine.env"))
    line = line.replace("/home/me/qbittorrent-notification.sh", str(site.config / script))
    site.leecher.on_finished(line)
    name = f"Torrent {next(count)}"
    id_ = site.download(name)
    assert site.came(id_).form["name"] == name
    site.said("accepted", id_)
    site.tiered(id_, name)


@pytest.mark.parametrize("line", [SCRIPT, PYTHON], ids=["script", "python"])
def test_a_name_arrives_byte_for_byte_and_nothing_is_run(site: Hooked, line: str) -> None:
    put(site, line)
    nasty = f"{next(count)}{NASTY}"
    # What qBittorrent makes of it: neither a .torrent nor a rename gets a line break in.
    folder, shown = nasty.replace("\\", "").replace("\n", "_"), nasty.replace("\n", " ")
    id_ = site.download(nasty, folder=folder, rename=nasty)
    form = site.came(id_).form
    assert form["name"] == shown
    assert form["content_path"] == str(site.leecher.save / folder)
    site.tiered(id_, folder)
    assert not [*site.folder.rglob("pwned")]
    assert not Path("pwned").exists()


@pytest.mark.parametrize("line", [CURL, CURL_IN_SHELL], ids=["key in a file", "in environment"])
def test_the_line_of_curl_tries_again_as_asked(site: Hooked, line: str) -> None:
    full = Reply(status=503, headers={"Retry-After": "1"})

    def busy_at_first(seen: Seen) -> Reply:
        return full if len(site.relay.seen) == 1 else site.forward(seen)

    site.relay.answer = busy_at_first
    put(site, line.replace("$HTTP_API_KEY", "$A_KEY"))
    name = f"Torrent {next(count)}"
    id_ = site.download(name)
    site.tiered(id_, name)
    assert [seen.form for seen in site.relay.seen] == [{"hash": id_}] * 2
    assert [seen.headers["x-api-key"] for seen in site.relay.seen] == [KEY] * 2


def test_run_by_hand_as_the_page_says_it_shows_that_all_is_well(site: Hooked) -> None:
    put(site, SCRIPT)
    name = f"Torrent {next(count)}"
    id_ = site.download(name)
    job = site.tiered(id_, name)

    (printed,) = re.findall(r"docker exec -u abc \w+ (/config.*\\\n.*)", PAGES["docs/connect.md"])
    command = re.sub("[0-9a-f]{40}", id_, printed).replace("/config/", f"{site.config}/")
    done = subprocess.run(
        ["sh", "-c", command],
        env={"PATH": os.environ["PATH"], "QBM_ENV_FILE": str(site.config / "qbm-trio.env")},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0
    assert f'accepted: torrent {id_} "Test"' in done.stderr
    again = site.tiered(id_, name)
    assert again["id"] in done.stderr
    assert (again["id"] != job["id"], again["bytes_copied"]) == (True, 0)


def sockets(pid: int) -> list[str]:
    """The sockets that a process has open."""
    found = []
    with suppress(OSError):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            found.append(str(fd.readlink()))
    return [name for name in found if name.startswith("socket:")]


@pytest.mark.parametrize("line", [SCRIPT, PYTHON], ids=["script", "python"])
def test_a_qbittorrent_that_is_restarted_while_a_hook_waits_can_listen(
    site: Hooked, line: str
) -> None:
    """Before 5.2 it hands its sockets on, and the port would still be taken."""
    leecher, log = site.leecher, site.leecher.folder / "profile/qBittorrent/data/logs"
    site.settle(f"http://127.0.0.1:{free_port()}", retry_percent=100)
    put(site, line)
    site.download(f"Torrent {next(count)}")
    try:
        leecher.wait_for(site.hook_processes, "the hook runs", LIMIT_S)
        leecher.wait_for(lambda: not any(map(sockets, site.hook_processes())), "all are closed", 20)
        before = (log / "qbittorrent.log").read_text()
        leecher.stop()
        leecher.start()

        def said() -> str:
            text = (log / "qbittorrent.log").read_text().removeprefix(before)
            return text if f"TCP/{leecher.peer_port}" in text else ""

        assert "Failed to listen" not in leecher.wait_for(said, "it says whether it listens")
        assert site.hook_processes()
    finally:
        for pid in site.hook_processes():
            os.kill(pid, signal.SIGKILL)


# -- without the service, without "%K" ------------------------------------------


def test_a_service_that_was_down_for_the_whole_download_is_told_when_it_is_back(
    site: Hooked,
) -> None:
    service = site.service
    site.settle(service.url)
    put(site, PYTHON)
    service.stop()
    names = [f"Torrent {next(count)}" for _ in range(3)]
    by_hand = site.download(names[0], Version.HYBRID)
    spool = site.config / "qbm-trio-spool"
    assert f"it is kept in {spool}" in site.said("gave up", by_hand)
    another = site.config / "another"
    with (site.config / "qbm-trio.env").open("a") as settings:
        settings.write(f"QBM_SPOOL_DIR={another}\n")
    by_next_hook = site.download(names[1])
    assert f"it is kept in {another}" in site.said("gave up", by_next_hook)

    # It is back, but cannot see qBittorrent: what it knows, it was told.
    site.restart("http://127.0.0.1:1")
    ids = (by_hand, by_next_hook, site.download(names[2], Version.V2))
    site.said("accepted", ids[2])
    site.said("accepted", by_next_hook)
    assert not list(another.glob("*.json"))
    assert site.job_of(by_hand) is None
    done = site.by_hand("--flush", QBM_SPOOL_DIR=str(spool))
    assert done.returncode == 0
    assert f"accepted: torrent {by_hand}" in done.stderr
    assert not list(spool.glob("*.json"))

    for id_ in ids:
        job = site.job_of(id_)
        assert job is not None
        assert (job["state"], job["priority"]) == ("waiting", 0)
        assert job["id"] in site.said("accepted", id_)
    site.restart()
    for id_, name in zip(ids, names, strict=True):
        site.tiered(id_, name)
        assert not site.found_by_itself(name)


def test_the_seed_page_s_own_command_says_what_a_v2_torrent_needs_and_it_is_found_all_the_same(
    site: Hooked,
) -> None:
    line = '/path/to/qbittorrent-notification.sh "%I" "%N" "%L" "%F" %C %Z "%G"'
    there = site.config / "there"
    there.mkdir()
    script, status = there / "qbittorrent-notification.sh", there / "status"
    script.write_text(
        f'#!/bin/sh\n"{site.config}/qbittorrent-notification.sh" "$@"\necho $? >"{status}"\n'
    )
    script.chmod(0o755)
    site.restart(RECONCILE_INTERVAL_S="1")
    site.leecher.on_finished(line.replace("/path/to", str(there)))

    name = f"Torrent {next(count)}"
    id_ = site.download(name, Version.V2)

    assert f'"%K" is missing: "{name}" is a v2 torrent' in site.said("%K")
    site.leecher.wait_for(lambda: status.exists() and status.read_text(), "the script has ended")
    assert status.read_text() == "2\n"
    assert site.relay.seen == []
    job = site.tiered(id_, name)
    assert job["priority"] < 0
    assert site.found_by_itself(name)

    # What has a v1 hash goes the way it always went.
    for version in (Version.V1, Version.HYBRID):
        name = f"Torrent {next(count)}"
        id_ = site.download(name, version)
        v1 = site.leecher.info(id_)["infohash_v1"]
        assert site.came(v1).form["name"] == name
        site.tiered(id_, name)
