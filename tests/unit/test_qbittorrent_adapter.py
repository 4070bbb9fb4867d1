"""The adapter against a scripted server: what goes over the socket, and what errors mean."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests
import trio
import trio.testing

from qbm_trio.adapters import qbittorrent
from qbm_trio.adapters.qbittorrent import Qbittorrent
from qbm_trio.adapters.qbittorrent_login import LoginGate
from qbm_trio.core.errors import (
    QbittorrentError,
    QbittorrentLoginRefused,
    QbittorrentTooLate,
    QbittorrentUnreachable,
    TooEarlyToTell,
    TorrentUnknown,
)
from qbm_trio.core.model import TorrentId
from tests.fakes.web_server import Answer, Reply, Seen, WebServer, serving
from tests.rig.qbt import free_port

ID = TorrentId("a" * 40)
V1 = "b" * 40
V2 = ID + "c" * 24


def row(id: str = ID, **fields: object) -> dict[str, object]:
    """One row of torrents/info as 4.5.2 sends it, where it matters."""
    return {
        "hash": id,
        "infohash_v1": id,
        "infohash_v2": "",
        "name": "name",
        "state": "stalledUP",
        "category": "",
        "tags": "",
        "save_path": "/ssd",
        "content_path": "/ssd/name",
        "progress": 1,
        "amount_left": 0,
        "size": 9,
        "completion_on": 1_700_000_000,
        "auto_tmm": False,
        "download_path": "",
        "force_start": False,
        **fields,
    }


def rows(*found: dict[str, object]) -> Reply:
    return Reply(body=json.dumps(found).encode())


@contextmanager
def client_of(answer: Answer, **options: object) -> Iterator[tuple[Qbittorrent, WebServer]]:
    with serving(answer) as server:
        client = Qbittorrent(url=server.url, **options)  # type: ignore[arg-type]
        yield client, server
        client._session._trigger_session_initialization()


async def test_a_url_with_a_path_is_kept_for_every_call() -> None:
    with serving(lambda _: rows()) as server:
        client = Qbittorrent(url=f"{server.url}/qbt")
        await client.torrents()
        assert [seen.path for seen in server.seen] == ["/qbt/api/v2/torrents/info"]


async def test_requests_are_counted_as_they_go_over_the_socket() -> None:
    def answer(seen: Seen) -> Reply:
        return {
            "/api/v2/torrents/info": rows(row()),
            "/api/v2/torrents/files": Reply(
                body=b'[{"name": "name", "size": 9, "priority": 1, "progress": 1}]'
            ),
            "/api/v2/torrents/export": Reply(body=b"d4:infodee"),
            "/api/v2/torrents/addTags": Reply(),
        }[seen.path]

    with client_of(answer) as (client, server):
        await client.torrent(ID)
        await client.files(ID)
        await client.export(ID)
        await client.add_tags([ID], ["ssd", "mine"])

        assert client.requests == len(server.seen) == 4
        assert server.seen[-1].form == {"hashes": ID, "tags": "ssd,mine"}


@pytest.mark.parametrize(("stamp", "at"), [(0, None), (-1, None), (1_700_000_000, 1_700_000_000)])
async def test_an_unset_time_of_completion_is_none(stamp: int, at: float | None) -> None:
    with client_of(lambda _: rows(row(completion_on=stamp, tags="a, b c"))) as (client, _):
        torrent = await client.torrent(ID)
        assert torrent.completed_at == at
        assert torrent.tags == {"a", "b c"}


@pytest.mark.parametrize("id", ["all", "", "A" * 40, "a" * 39, "a" * 40 + "|" + "b" * 40])
async def test_nothing_but_a_torrent_id_is_sent_as_one(id: str) -> None:
    with client_of(lambda _: rows(row())) as (client, server):
        for call in (client.torrent, client.files, client.export, client.find):
            with pytest.raises(ValueError, match="not a"):
                await call(TorrentId(id))
        for change in (client.add_tags, client.remove_tags):
            with pytest.raises(ValueError, match="not a"):
                await change([ID, TorrentId(id)], ["ssd"])
        for one in (client.stop, client.start, client.recheck):
            with pytest.raises(ValueError, match="not a"):
                await one(TorrentId(id))
        for switch in (client.set_force_start, client.set_auto_management):
            with pytest.raises(ValueError, match="not a"):
                await switch(TorrentId(id), True)
        for put in (client.set_location, client.set_download_path):
            with pytest.raises(ValueError, match="not a"):
                await put(TorrentId(id), "/hdd")
        assert server.seen == []


@pytest.mark.parametrize("tag", ["", " ", "a,b"])
async def test_a_tag_that_qbittorrent_would_split_or_ignore_is_not_sent(tag: str) -> None:
    with client_of(lambda _: Reply()) as (client, server):
        with pytest.raises(ValueError, match="not a tag"):
            await client.add_tags([ID], [tag])
        with pytest.raises(ValueError, match="not a tag"):
            await client.remove_tags([ID], [tag])
        assert server.seen == []


# -- troubles ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "error", "sentence"),
    [
        (Reply(status=500), QbittorrentUnreachable, "answered 500"),
        (Reply(status=503), QbittorrentUnreachable, "answered 503"),
        (Reply(body=b"<html>"), QbittorrentUnreachable, "not qBittorrent's Web API"),
        (Reply(status=502, body=b"<html>"), QbittorrentUnreachable, "answered 502"),
        (Reply(body=b'[{"hash": "aaaa'), QbittorrentUnreachable, "not qBittorrent's Web API"),
        (Reply(body=b"[" * 100_000), QbittorrentUnreachable, "not qBittorrent's Web API"),
        (Reply(body=b'{"error": "who are you?"}'), QbittorrentUnreachable, "not qBittorrent's"),
        (Reply(body=b'["words"]'), QbittorrentUnreachable, "not qBittorrent's Web API"),
        (Reply(body=b'[{"hash": "a"}]'), QbittorrentUnreachable, "not qBittorrent's Web API"),
        (rows(row(size="much")), QbittorrentUnreachable, "not qBittorrent's Web API"),
        (Reply(status=404), QbittorrentUnreachable, "not qBittorrent's Web API"),
        (Reply(status=409, body=b"why"), QbittorrentError, "409 why"),
        (Reply(status=418, body=b"tea"), QbittorrentError, "418 tea"),
        (Reply(status=401), QbittorrentLoginRefused, "QBIT_HOST and QBIT_PORT must be"),
        (Reply(status=403), QbittorrentLoginRefused, "set QBIT_PASSWORD"),
        (
            Reply(status=302, headers={"location": "https://box/"}),
            QbittorrentUnreachable,
            "redirects to https://box/",
        ),
        (Reply(drop=True), QbittorrentUnreachable, "no connection"),
    ],
    ids=lambda value: f"{value.status} {value.body[:20]!r}" if isinstance(value, Reply) else "",
)
async def test_each_answer_has_its_error_and_its_sentence(
    reply: Reply, error: type[QbittorrentError], sentence: str
) -> None:
    with client_of(lambda _: reply) as (client, _):
        with pytest.raises(error, match=sentence) as raised:
            await client.torrents()
        assert raised.type is error
        assert client.contact.reachable is (error is QbittorrentError)
        assert client.reachable.value is (error is QbittorrentError)


@pytest.mark.parametrize(
    "body",
    [b'["words"]', b'[{"name": "a"}]', b'[{"hash": "%s"}]' % ID.encode(), b"[[]]", b"{}"],
    ids=bytes.decode,
)
@pytest.mark.parametrize("call", ["torrent", "files"])
async def test_what_tells_nothing_of_a_torrent_is_not_qbittorrents_answer(
    call: str, body: bytes
) -> None:
    with client_of(lambda _: Reply(body=body)) as (client, _):
        with pytest.raises(QbittorrentUnreachable, match="not qBittorrent's Web API"):
            await getattr(client, call)(ID)
        assert not client.contact.reachable


@pytest.mark.parametrize("call", ["files", "export"])
async def test_a_404_about_a_torrent_means_that_it_is_unknown(call: str) -> None:
    with client_of(lambda _: Reply(status=404)) as (client, _):
        with pytest.raises(TorrentUnknown, match=ID):
            await getattr(client, call)(ID)
        assert client.contact.reachable


@pytest.mark.parametrize("body", [b"<html>404", b"\n <!DOCTYPE html>", b"404 page not found\n"])
@pytest.mark.parametrize("call", ["files", "export"])
async def test_a_404_of_a_proxy_does_not_mean_that_a_torrent_is_unknown(
    call: str, body: bytes
) -> None:
    with client_of(lambda _: Reply(status=404, body=body)) as (client, _):
        with pytest.raises(QbittorrentUnreachable, match="not qBittorrent's Web API"):
            await getattr(client, call)(ID)
        assert not client.contact.reachable


async def test_a_page_is_not_taken_for_the_empty_answer_to_a_change() -> None:
    with client_of(lambda _: Reply(body=b"\n<!DOCTYPE html>log in, please")) as (client, server):
        for change in (
            client.add_tags([ID], ["ssd"]),
            client.set_location(ID, "/hdd"),
            client.recheck(ID),
            client.stop(ID),
        ):
            with pytest.raises(QbittorrentUnreachable, match="not qBittorrent's Web API"):
                await change
        assert len(server.seen) == 4


@pytest.mark.parametrize("body", [b"<html>log in", b"hello", b"", b'{"version": 5}'])
async def test_what_tells_no_version_is_not_qbittorrent(body: bytes) -> None:
    with client_of(lambda _: Reply(body=body)) as (client, _):
        with pytest.raises(QbittorrentUnreachable, match="not qBittorrent's Web API"):
            await client.version()
        assert client.contact.version is None
        assert not client.contact.reachable


async def test_who_is_refused_a_torrents_file_is_told_what_to_do() -> None:
    reason = b"Unable to export torrent file. Error: missing or invalid 'hash' entry"
    with client_of(lambda _: Reply(status=409, body=reason)) as (client, _):
        with pytest.raises(QbittorrentError, match="force a recheck of it in qB") as raised:
            await client.export(ID)
        assert ID in str(raised.value)
        assert reason.decode() in str(raised.value)
        assert client.contact.reachable


async def test_nothing_listening_is_unreachable_and_is_not_an_oserror() -> None:
    client = Qbittorrent(url=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(QbittorrentUnreachable, match="no connection to qBittorrent at http"):
        await client.torrents()


async def test_a_certificate_that_is_not_trusted_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise requests.exceptions.SSLError("self-signed")

    monkeypatch.setattr(requests.Session, "request", refuse)
    client = Qbittorrent(url="https://nas")
    with pytest.raises(QbittorrentUnreachable, match="QBIT_VERIFY_SSL=false"):
        await client.torrents()


async def test_silence_ends_at_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qbm_trio.adapters.qbittorrent_session.READ_LIMIT_S", 0.1)
    quiet = threading.Event()
    try:
        with (
            client_of(lambda _: Reply(drop=quiet.wait(20))) as (client, _),
            pytest.raises(QbittorrentUnreachable, match="did not answer in time"),
        ):
            await client.torrents()
        quiet.set()
    finally:
        quiet.set()


async def test_a_read_whose_connection_breaks_is_sent_once_more() -> None:
    def answer(seen: Seen) -> Reply:
        return Reply(drop=True) if len(server.seen) == 1 else rows(row())

    with client_of(answer) as (client, server):
        assert (await client.torrent(ID)).id == ID
        assert client.requests == len(server.seen) == 2


async def test_changes_that_are_asked_for_again_are_asked_for_whole() -> None:
    """By then it may be a session whose own answer has that number."""
    answers = [Reply(drop=True), Reply(body=b'{"rid": 8, "full_update": true}')]
    with client_of(lambda _: answers.pop(0)) as (client, server):
        changes = await client.changes(7)
        assert [seen.form for seen in server.seen] == [{"rid": "7"}, {"rid": "0"}]
        assert (changes.number, changes.whole) == (8, True)


async def test_the_hashes_of_what_was_removed_are_forgotten() -> None:
    """A session can last for months."""
    other = "e" * 40
    answers = [
        {"rid": 1, "torrents": {ID: {"infohash_v1": V1, "infohash_v2": V2}, other: {}}},
        {"rid": 2, "torrents_removed": [ID]},
    ]
    with client_of(lambda _: Reply(body=json.dumps(answers.pop(0)).encode())) as (client, _):
        await client.changes(0)
        assert [client.known(key) for key in (ID, V1, V2, other)] == [ID, ID, ID, other]
        await client.changes(1)
        assert [client.known(key) for key in (ID, V1, V2, other)] == [None, None, None, other]


async def test_changes_are_read_field_by_field_and_what_is_of_no_use_is_left_out() -> None:
    said = {
        "rid": 3,
        "torrents": {ID: {"upspeed": 5, "tags": "a, b c", "completion_on": -1}},
        "torrents_removed": ["d" * 40],
        "server_state": {"refresh_interval": 1500},
    }
    with client_of(lambda _: Reply(body=json.dumps(said).encode())) as (client, _):
        changes = await client.changes(2)
    assert not changes.whole
    assert changes.torrents == {ID: {"tags": {"a", "b c"}, "completed_at": None}}
    assert changes.removed == {"d" * 40}


@pytest.mark.parametrize("call", [("recheck", ID), ("set_location", ID, "/hdd")])
async def test_a_move_or_a_recheck_that_may_have_begun_is_not_sent_again(
    call: tuple[str, ...],
) -> None:
    with client_of(lambda _: Reply(drop=True)) as (client, server):
        with pytest.raises(QbittorrentUnreachable):
            await getattr(client, call[0])(*call[1:])
        assert client.requests == len(server.seen) == 1


async def test_what_twice_is_the_same_as_once_is_sent_once_more() -> None:
    def answer(seen: Seen) -> Reply:
        return Reply(drop=len(server.seen) % 2 == 1)

    with client_of(answer) as (client, server):
        await client.stop(ID)
        await client.start(ID)
        await client.set_force_start(ID, True)
        await client.set_auto_management(ID, False)
        await client.set_download_path(ID, "")
        assert client.requests == len(server.seen) == 10
        assert server.seen[-1].form == {"id": ID, "path": ""}


async def test_a_cancelled_move_ends_when_it_has_been_answered() -> None:
    answered = threading.Event()
    began = trio.Event()

    def answer(seen: Seen) -> Reply:
        trio.from_thread.run_sync(began.set, trio_token=token)
        answered.wait(20)
        return Reply()

    async def set_location() -> None:
        await client.set_location(ID, "/hdd")
        ended.append(answered.is_set())

    token = trio.lowlevel.current_trio_token()
    ended: list[bool] = []
    with client_of(answer) as (client, _), trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(set_location)
            await began.wait()
            nursery.cancel_scope.cancel()
            await trio.lowlevel.cancel_shielded_checkpoint()
            assert client._limiter.borrowed_tokens == 1
            answered.set()
        assert client._limiter.borrowed_tokens == 0
        assert ended in ([], [True])


# -- names and refusals of the calls that relocate -----------------------------


@pytest.mark.parametrize("names", [("pause", "resume"), ("stop", "start")], ids=["4.5", "5.0"])
async def test_stop_and_start_go_by_the_names_that_the_version_knows(
    names: tuple[str, str],
) -> None:
    known = [f"/api/v2/torrents/{name}" for name in names]
    with client_of(lambda seen: Reply(status=200 if seen.path in known else 404)) as (
        client,
        server,
    ):
        await client.stop(ID)
        asked = client.requests  # by both names, where the first is not known
        await client.start(ID)
        await client.stop(ID)
        assert client.requests == len(server.seen) == asked + 2
        assert [seen.path for seen in server.seen[-2:]] == known[::-1]
        assert server.seen[-1].form == {"hashes": ID}

        known[:] = ["/api/v2/torrents/pause", "/api/v2/torrents/stop"]
        known.remove(server.seen[-1].path)  # another version runs now
        await client.stop(ID)
        await client.stop(ID)
        assert client.requests == asked + 5


async def test_a_server_that_knows_neither_name_is_not_qbittorrent() -> None:
    with (
        client_of(lambda _: Reply(status=404)) as (client, _),
        pytest.raises(QbittorrentUnreachable, match="not qBittorrent's Web API"),
    ):
        await client.stop(ID)


@pytest.mark.parametrize("path", ["", "relative", "./x"])
async def test_a_path_that_is_not_absolute_is_not_sent(path: str) -> None:
    with client_of(lambda _: Reply()) as (client, server):
        with pytest.raises(ValueError, match="not an absolute path"):
            await client.set_location(ID, path)
        if path:
            with pytest.raises(ValueError, match="not an absolute path"):
                await client.set_download_path(ID, path)
        assert server.seen == []


async def test_a_folder_that_cannot_be_written_to_is_no_reason_to_log_in() -> None:
    reply = Reply(status=403, body=b"Verzeichnis nicht beschreibbar")
    with client_of(lambda _: reply, username="me", password="right") as (client, server):
        with pytest.raises(QbittorrentError, match="nicht beschreibbar") as raised:
            await client.set_download_path(ID, "/read-only")
        assert raised.type is QbittorrentError
        assert client.contact.reachable
        assert client.requests == len(server.seen) == 1


async def test_a_session_that_ended_is_renewed_before_a_download_path_is_set() -> None:
    def answer(seen: Seen) -> Reply:
        if seen.path == "/api/v2/auth/login":
            return OLD
        signed = "=1" in seen.headers.get("cookie", "")
        return Reply() if signed else Reply(status=403, body=b"Forbidden")

    with client_of(answer, username="me", password="right") as (client, server):
        await client.set_download_path(ID, "/hdd")
        assert client.requests == len(server.seen) == 3


async def test_the_refresh_interval_comes_in_seconds() -> None:
    with client_of(lambda _: Reply(body=b'{"refresh_interval": 1500}')) as (client, _):
        assert await client.refresh_interval_s() == 1.5


@pytest.mark.parametrize("status", [500, 502, 504])
async def test_a_write_answered_with_an_error_is_not_sent_again(status: int) -> None:
    with client_of(lambda _: Reply(status=status)) as (client, server):
        with pytest.raises(QbittorrentUnreachable):
            await client.add_tags([ID], ["ssd"])
        assert client.requests == len(server.seen) == 1


async def test_nothing_below_sends_a_request_again_unseen() -> None:
    with client_of(lambda _: Reply(status=500)) as (client, server):
        with pytest.raises(QbittorrentUnreachable):
            await client.version()  # by GET, which the library's connections repeat
        assert client.requests == len(server.seen) == 1


async def test_adding_a_tag_twice_is_harmless_so_it_is_sent_once_more() -> None:
    with client_of(lambda _: Reply(drop=len(server.seen) == 1)) as (client, server):
        await client.add_tags([ID], ["ssd"])
        assert client.requests == len(server.seen) == 2


async def test_a_cancelled_read_ends_at_once_and_the_next_call_waits_its_turn() -> None:
    answer_now = threading.Event()

    def answer(seen: Seen) -> Reply:
        answer_now.wait(20)
        return rows(row())

    with client_of(answer) as (client, server):
        with trio.fail_after(10), trio.move_on_after(60) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.torrent, ID)
                await trio.to_thread.run_sync(server.wait_for, 1)
                nursery.cancel_scope.cancel()
        assert not scope.cancelled_caught
        assert client._limiter.borrowed_tokens == 1  # the abandoned request
        answer_now.set()
        assert (await client.torrent(ID)).id == ID


async def test_a_cancelled_tag_change_ends_at_once_and_the_next_call_waits_its_turn() -> None:
    answer_now = threading.Event()

    def answer(seen: Seen) -> Reply:
        if seen.path.endswith("addTags"):
            answer_now.wait(20)
            return Reply()
        return Reply(body=b"v4.5.2")

    with client_of(answer) as (client, server):
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.add_tags, [ID], ["ssd"])
                await trio.to_thread.run_sync(server.wait_for, 1)
                nursery.cancel_scope.cancel()
        assert client._limiter.borrowed_tokens == 1  # the abandoned request
        answer_now.set()
        await client.version()
        assert client.requests == 3


# -- logins -----------------------------------------------------------------


def login_server(accept: Reply, *, refuse: Reply | None = None) -> Answer:
    """Ask for a cookie; give it with ``accept`` for the right password."""

    def answer(seen: Seen) -> Reply:
        if seen.path == "/api/v2/auth/login":
            right = seen.form == {"username": "me", "password": "right"}
            return accept if right or refuse is None else refuse
        return rows(row()) if "=1" in seen.headers.get("cookie", "") else Reply(status=403)

    return answer


OLD = Reply(body=b"Ok.", headers={"set-cookie": "SID=1; path=/"})
NEW = Reply(status=204, headers={"set-cookie": "QBT_SID_8080=1; path=/"})


@pytest.mark.parametrize("accept", [OLD, NEW], ids=["to 5.1", "from 5.2"])
async def test_both_ways_of_accepting_a_login_are_understood(accept: Reply) -> None:
    answer = login_server(accept)
    with client_of(answer, username="me", password="right") as (client, server):
        await client.torrent(ID)
        await client.torrent(ID)
        assert client.requests == len(server.seen) == 4


@pytest.mark.parametrize(
    "refuse", [Reply(body=b"Fails."), Reply(status=401)], ids=["to 5.1", "from 5.2"]
)
async def test_both_ways_of_refusing_a_login_are_understood(refuse: Reply) -> None:
    answer = login_server(OLD, refuse=refuse)
    with client_of(answer, username="me", password="bad") as (client, server):
        for _ in range(5):
            with pytest.raises(QbittorrentLoginRefused, match="refuses the login"):
                await client.torrents()
        assert [seen.path for seen in server.seen].count("/api/v2/auth/login") == 1


async def test_a_login_whose_session_does_not_hold_is_not_repeated_at_once() -> None:
    accept = Reply(body=b"Ok.")  # no cookie: a secure one over http gets lost like this
    with client_of(login_server(accept), username="me", password="right") as (client, server):
        for _ in range(5):
            with pytest.raises(QbittorrentLoginRefused, match="not the session"):
                await client.torrents()
        assert [seen.path for seen in server.seen].count("/api/v2/auth/login") == 1


async def test_a_login_whose_connection_breaks_is_not_sent_again() -> None:
    answer = login_server(Reply(drop=True))
    with client_of(answer, username="me", password="right") as (client, server):
        with pytest.raises(QbittorrentUnreachable):
            await client.torrents()
        assert [seen.path for seen in server.seen].count("/api/v2/auth/login") == 1


async def test_an_api_key_is_sent_with_each_request_and_login_is_never_called() -> None:
    def answer(seen: Seen) -> Reply:
        good = seen.headers.get("authorization") == "Bearer qbt_right"
        return rows(row()) if good else Reply(status=403)

    with client_of(answer, api_key="qbt_right", username="me", password="x") as (client, server):
        await client.torrents()
        assert client.requests == len(server.seen) == 1
    with client_of(answer, api_key="qbt_bad", username="me", password="x") as (client, server):
        with pytest.raises(QbittorrentLoginRefused, match="QBIT_API_KEY") as raised:
            await client.torrents()
        assert "qbt_bad" not in str(raised.value)
        assert [seen.path for seen in server.seen] == ["/api/v2/torrents/info"]


async def test_the_environment_of_the_library_does_not_leak_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HOST", "USERNAME", "PASSWORD", "API_KEY"):
        monkeypatch.setenv(f"QBITTORRENTAPI_{name}", "leaked")
        monkeypatch.setenv(f"PYTHON_QBITTORRENTAPI_{name}", "leaked")
    monkeypatch.setenv("QBITTORRENTAPI_DO_NOT_VERIFY_WEBUI_CERTIFICATE", "1")
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    with client_of(lambda _: Reply(status=403)) as (client, server):
        with pytest.raises(QbittorrentLoginRefused, match="set QBIT_PASSWORD"):
            await client.torrents()
        assert len(server.seen) == 1
        assert "authorization" not in server.seen[0].headers
        assert client._session._session.verify is True


def test_the_gate_lets_three_refused_logins_through_in_any_hour() -> None:
    at = 0.0
    gate = LoginGate(lambda: at)
    tries: list[float] = []
    while at < 3 * 3600:
        if gate.wait_s() == 0:
            tries.append(at)
            gate.refused("no")
        at += 7
    assert all(later - earlier > 3600 for earlier, later in zip(tries, tries[3:], strict=False))
    gate.accepted()
    assert gate.wait_s() == 0


def test_a_restart_of_qbittorrent_is_a_reason_to_try_but_not_more_than_three_times_an_hour() -> (
    None
):
    at = 0.0
    gate = LoginGate(lambda: at)
    gate.refused("no")
    at += 1
    assert gate.wait_s() == 1199
    gate.may_have_restarted()
    assert gate.wait_s() == 0
    tries: list[float] = [0]
    while at < 3 * 3600:
        gate.may_have_restarted()  # a network that breaks down all the time
        if gate.wait_s() == 0:
            tries.append(at)
            gate.refused("no")
            assert gate.wait_s() >= 1200
        at += 7
    assert len(tries) >= 9
    assert all(later - earlier >= 3600 for earlier, later in zip(tries, tries[3:], strict=False))


@pytest.mark.parametrize("back", [True, False], ids=["gone", "slow"])
async def test_only_one_that_was_gone_is_asked_again_at_once(
    back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is slow has not been restarted, and its password is the same."""
    monkeypatch.setattr("qbm_trio.adapters.qbittorrent_session.READ_LIMIT_S", 0.2)
    refuse, held = login_server(Reply(body=b"Fails.")), threading.Event()
    trouble = False

    def answer(seen: Seen) -> Reply:
        if trouble:
            return Reply(drop=True if back else not held.wait(5))
        return refuse(seen)

    def logins() -> int:
        return sum("login" in seen.path for seen in server.seen)

    with client_of(answer, username="u", password="p") as (client, server):
        with pytest.raises(QbittorrentLoginRefused):
            await client.torrents()
        trouble = True
        with pytest.raises(QbittorrentUnreachable):
            await client.torrents()
        trouble = False
        held.set()
        for _ in range(2):
            with pytest.raises(QbittorrentLoginRefused):
                await client.torrents()
        assert logins() == 1 + back


# -- find -------------------------------------------------------------------


class Clock:
    s = 0.0

    def __call__(self) -> float:
        return self.s


async def test_a_hybrid_is_found_by_its_v1_hash_from_one_list_of_all() -> None:
    hybrid = row(infohash_v1=V1, infohash_v2=V2)

    def answer(seen: Seen) -> Reply:
        return rows(*([hybrid] if seen.form.get("hashes", ID) == ID else [])) if seen.body else all_

    all_ = rows(hybrid)
    with client_of(answer) as (client, server):
        assert await client.find(V1) == ID
        assert len(server.seen) == 2  # by id: none; all
        for hash in (V1, V2, ID):
            assert await client.find(hash) == ID
        assert len(server.seen) == 2


async def test_a_v2_hash_is_found_by_the_id_within_it() -> None:
    with client_of(lambda _: rows(row(infohash_v1="", infohash_v2=V2))) as (client, server):
        assert await client.find(V2) == ID
        assert [seen.form for seen in server.seen] == [{"hashes": ID}]


async def test_another_torrent_with_the_same_beginning_is_not_taken_for_it() -> None:
    other = row(infohash_v2=V2)
    with client_of(lambda _: rows(other)) as (client, _), pytest.raises(TorrentUnknown):
        await client.find(ID + "d" * 24)


async def test_only_a_list_asked_for_since_proves_a_hash_unknown() -> None:
    clock = Clock()
    all_: list[dict[str, object]] = []
    broken = False

    def answer(seen: Seen) -> Reply:
        if seen.body:
            return rows()
        return Reply(status=500) if broken else rows(*all_)

    with client_of(answer, snapshot_interval_s=60, clock=clock) as (client, _):
        await client.torrents()
        asked = client.lists_asked
        all_.append(row(infohash_v1=V1, infohash_v2=V2))  # added a moment later
        with pytest.raises(TooEarlyToTell):
            await client.find(V1, list_after=asked)
        clock.s += 60
        broken = True
        with pytest.raises(QbittorrentUnreachable):
            await client.find(V1, list_after=asked)
        broken = False
        clock.s -= 1
        with pytest.raises(TooEarlyToTell):  # the list that failed proves nothing
            await client.find(V1, list_after=asked)
        clock.s += 1
        assert await client.find(V1, list_after=asked) == ID
        with pytest.raises(TorrentUnknown):
            await client.find("d" * 40, list_after=asked)


async def test_the_list_of_all_is_not_asked_for_again_too_soon() -> None:
    clock = Clock()
    slow_s = 0.0

    def answer(seen: Seen) -> Reply:
        if not seen.body:
            clock.s += slow_s  # what the list takes
        return rows()

    def lists() -> int:
        return sum(not seen.body for seen in server.seen)

    with client_of(answer, snapshot_interval_s=60, clock=clock) as (client, server):

        async def ask() -> None:
            with pytest.raises(TorrentUnknown):
                await client.find(V1)

        for _ in range(3):
            await ask()
        assert lists() == 1
        clock.s += 59
        await ask()
        assert lists() == 1
        clock.s += 1
        slow_s = 7.0
        await ask()
        assert lists() == 2
        clock.s += 139  # 20 times 7 s is longer than the interval
        await ask()
        assert lists() == 2
        clock.s += 1
        await ask()
        assert lists() == 3


async def test_a_list_that_does_not_come_in_time_is_not_asked_for_again_too_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is made all the same: on 4.5 qBittorrent does nothing else meanwhile."""
    monkeypatch.setattr("qbm_trio.adapters.qbittorrent_session.READ_LIMIT_S", 0.1)
    clock, held = Clock(), threading.Event()

    def answer(seen: Seen) -> Reply:
        if seen.body:
            return rows()
        clock.s += 30
        return Reply(drop=not held.wait(20))

    def lists() -> int:
        return sum(not seen.body for seen in server.seen)

    with client_of(answer, snapshot_interval_s=60, clock=clock) as (client, server):
        try:
            for number in (1, 2):
                with pytest.raises(QbittorrentTooLate):
                    await client.find(V1)
                clock.s += 599
                with pytest.raises(TooEarlyToTell):
                    await client.find(V1)
                assert lists() == number
                clock.s += 1
        finally:
            held.set()


async def test_long_lists_are_read_in_the_thread_not_on_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[int] = []
    file = {"name": "T/a", "size": 1, "priority": 1, "progress": 1}

    def watch(name: str) -> None:
        real = getattr(qbittorrent, name)

        def watched(*arguments: object) -> object:
            threads.append(threading.get_ident())
            return real(*arguments)

        monkeypatch.setattr(qbittorrent, name, watched)

    watch("torrent_of")
    watch("file_of")
    with client_of(
        lambda seen: (
            Reply(body=json.dumps([file, file]).encode()) if "files" in seen.path else rows(row())
        )
    ) as (client, _):
        assert [f.index for f in await client.files(ID)] == [0, 1]
        assert len(await client.torrents()) == 1
    assert len(threads) == 3
    assert threading.get_ident() not in threads


async def test_the_loop_goes_on_while_ten_thousand_torrents_are_read() -> None:
    """Measured as the work of the thread between two turns of the loop: other load is none."""
    more = {f"one of thirty more fields, {k}": k for k in range(30)}
    many = rows(*(row(f"{n:040x}", **more) for n in range(10_000)))
    assert len(many.body) > 10_000_000
    shares = [await _longest_step(many) for _ in range(2)]
    while min(shares) > 0.2 and len(shares) < 6:
        # A loop that was not given the processor has seen too much: once is enough.
        shares.append(await _longest_step(many))
    assert min(shares) <= 0.2, shares  # in one go it is half of it


async def _longest_step(reply: Reply) -> float:
    """What share of its work the thread that reads a list does without the loop's having a turn."""
    with client_of(lambda _: reply) as (client, _):
        clocks: list[int] = []
        perform = client._session.perform
        done = False

        def performed(*args: Any, **options: Any) -> object:
            clocks.append(time.pthread_getcpuclockid(threading.get_ident()))
            return perform(*args, **options)

        async def read() -> None:
            nonlocal done
            assert len(await client.torrents()) == 10_000
            done = True

        client._session.perform = performed  # type: ignore[method-assign,assignment]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            while not clocks:
                await trio.lowlevel.checkpoint()
            longest_s, began_s = 0.0, time.clock_gettime(clocks[0])
            before_s = began_s
            while not done:
                await trio.lowlevel.checkpoint()
                now_s = time.clock_gettime(clocks[0])
                longest_s, before_s = max(longest_s, now_s - before_s), now_s
        return longest_s / (before_s - began_s)
