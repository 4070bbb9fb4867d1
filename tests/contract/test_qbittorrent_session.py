"""Logins, lost sessions and restarts, on two real qBittorrents."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from qbm_trio.adapters.qbittorrent import Qbittorrent
from qbm_trio.core.errors import QbittorrentLoginRefused, QbittorrentUnreachable
from tests.rig.qbt import PASSWORD, Chroot, Installed, Launcher, Qbt, running

pytestmark = pytest.mark.qbittorrent


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture(params=["installed", "chroot"])
def launcher(request: pytest.FixtureRequest, tmp_path: Path) -> Launcher:
    return Installed() if request.param == "installed" else Chroot(shared=tmp_path)


@pytest.fixture
def qbt(launcher: Launcher, tmp_path: Path) -> Iterator[Qbt]:
    """A qBittorrent that asks for a login."""
    with running(tmp_path / "qbt", launcher=launcher, login=True) as qbt:
        yield qbt


def refusals(qbt: Qbt) -> list[str]:
    """What qBittorrent itself logged of refused logins."""
    messages = [str(row["message"]) for row in qbt.api.log_main()]
    return [message for message in messages if "login failure" in message]


async def test_bypass_needs_no_login_and_none_is_sent(launcher: Launcher, tmp_path: Path) -> None:
    with running(tmp_path / "qbt", launcher=launcher, login=False) as qbt:
        client = Qbittorrent(url=qbt.url)
        assert await client.torrents() == ()
        assert client.requests == 1


async def test_a_login_is_made_once(qbt: Qbt) -> None:
    client = Qbittorrent(url=qbt.url, username="admin", password=PASSWORD)
    await client.torrents()
    assert client.requests == 3  # refused, login, again
    await client.torrents()
    assert client.requests == 4


async def test_without_credentials_login_is_never_called(qbt: Qbt) -> None:
    client = Qbittorrent(url=qbt.url, username="admin")
    for _ in range(7):
        with pytest.raises(QbittorrentLoginRefused, match=r"QBIT_PASSWORD.*bypass"):
            await client.torrents()
    assert client.requests == 7
    assert refusals(qbt) == []
    assert not client.contact.reachable
    assert client.contact.problem is not None
    assert "set QBIT_PASSWORD" in client.contact.problem


async def test_wrong_credentials_are_tried_three_times_an_hour_and_say_when_next(qbt: Qbt) -> None:
    qbt.api.torrents_info()  # logged in before, with the right password
    clock = Clock()
    client = Qbittorrent(
        url=qbt.url,
        username="admin",
        password="wrong",
        clock=clock,
        now=lambda: 1_800_000_000 + clock.s,
    )
    for _ in range(600):  # every 6 s for an hour less 6 s
        with pytest.raises(QbittorrentLoginRefused, match="QBIT_USERNAME and QBIT_PASSWORD"):
            await client.torrents()
        clock.s += 5.99
    assert len(refusals(qbt)) == 3
    problem = client.contact.problem
    assert problem is not None
    # Tried at 1000, 2200 and 3400 s (rounded up to the next call); next 1200 s later.
    assert "(next try at 09:16 UTC; restart with the right ones only: " in problem, problem
    assert "each start is one more try, and after five qBittorrent bans this" in problem
    assert "wrong" not in problem


async def test_a_ban_is_called_that(qbt: Qbt) -> None:
    qbt.api.app_set_preferences({"web_ui_max_auth_fail_count": 1})
    clock = Clock()
    client = Qbittorrent(url=qbt.url, username="admin", password="wrong", clock=clock)
    with pytest.raises(QbittorrentLoginRefused, match="refuses the login"):
        await client.torrents()
    clock.s += 1201
    with pytest.raises(QbittorrentLoginRefused, match="banned this address"):
        await client.torrents()


@pytest.mark.parametrize("login", [True, False], ids=["login", "bypass"])
async def test_a_restart_that_no_call_has_met_shows_in_the_sessions(
    launcher: Launcher, tmp_path: Path, login: bool
) -> None:
    with running(tmp_path / "qbt", launcher=launcher, login=login) as qbt:
        password = PASSWORD if login else ""
        client = Qbittorrent(url=qbt.url, username="admin", password=password)
        await client.torrents()
        sessions = client.sessions
        await client.version()
        assert client.sessions == sessions > 0
        qbt.stop(signal.SIGKILL)
        qbt.start()
        await client.torrents()
        assert client.sessions > sessions


async def test_a_lost_session_is_mended_by_one_login(qbt: Qbt) -> None:
    client = Qbittorrent(url=qbt.url, username="admin", password=PASSWORD)
    await client.torrents()
    client._session.auth_log_out()  # qBittorrent forgets it; we have not noticed
    before = client.requests

    await client.torrents()

    assert client.requests - before == 3


@pytest.mark.parametrize("login", [True, False])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
async def test_a_restart_is_survived(
    launcher: Launcher, tmp_path: Path, login: bool, signum: signal.Signals
) -> None:
    with running(tmp_path / "qbt", launcher=launcher, login=login) as qbt:
        client = Qbittorrent(
            url=qbt.url, username="admin", password=PASSWORD if login else "", now=lambda: 7.0
        )
        await client.torrents()
        assert client.contact.last_contact_at == 7.0

        qbt.stop(signum)
        with pytest.raises(QbittorrentUnreachable, match="is it running"):
            await client.torrents()
        assert not client.contact.reachable
        assert not client.reachable.value

        qbt.start()
        await client.torrents()
        await client.wait_reachable()
        assert client.contact.reachable
        assert client.contact.problem is None


async def test_a_restart_between_two_calls_goes_unnoticed(qbt: Qbt) -> None:
    client = Qbittorrent(url=qbt.url, username="admin", password=PASSWORD)
    (qbt.save / "file").write_bytes(os.urandom(9))
    await client.torrents()

    qbt.stop()
    qbt.start()

    await client.torrents()
    assert client.contact.reachable
