"""The log of the real service: a job's whole life by its id; and no secret in what is written."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from tests.rig.inside import Put, put
from tests.rig.mounts import mounted
from tests.rig.qbt import PASSWORD, Qbt, running
from tests.rig.service import KEY, Service
from tests.rig.wires import Recording

pytestmark = pytest.mark.qbittorrent

MB = 1_000_000
LINE = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (?P<level>[A-Z]+) +(?P<logger>[\w.]+): "
    r"(?P<message>.*?)(?P<about> \[(?:job \w{16}|torrent \w{40})[^\n]*\])?"
)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[tuple[Service, Qbt]]:
    """A service on an SSD of 41.9 MB, short below 34.5 MB, and a qBittorrent; not started yet."""
    with ExitStack() as stack:
        service = Service(
            tmp_path / "service",
            "",
            {
                "DISK_SPACE_THRESHOLD_GB": "0.0345",
                "DISK_SPACE_TARGET_GB": "0.0399",
                "DELETE_GRACE_S": "0",
                "SPACE_CHECK_INTERVAL_S": "86400",
            },
        )
        stack.enter_context(mounted(service.ssd, size="40m"))
        stack.enter_context(mounted(service.hdd, size="80m"))
        qbt = stack.enter_context(running(tmp_path / "qbt"))
        service.qbittorrent_url = qbt.url
        stack.callback(service.http.close)
        stack.callback(service.kill)
        yield service, qbt


def lines(service: Service) -> list[re.Match[str]]:
    """All lines of the log file: each has the form of one."""
    found = []
    for line in (service.root / "qbm.log").read_text().split("\n")[:-1]:
        match = LINE.fullmatch(line)
        assert match is not None, line
        found.append(match)
    return found


def story(service: Service, word: str) -> list[str]:
    """What `grep` finds for a word: the messages of these lines."""
    return [m["message"] for m in lines(service) if word in m[0] and "access" not in m["logger"]]


def assert_told(told: list[str], expected: list[str]) -> None:
    """Fail unless messages that begin with these come in this order, whatever is between."""
    left = iter(told)
    for begin in expected:
        assert any(line.startswith(begin) for line in left), (begin, told)


def notify(service: Service, one: Put) -> str:
    return str(service.notify(one.id).json()["queue_id"])


def copying(service: Service) -> dict[str, Any] | None:
    """What is being copied."""
    processes: list[dict[str, Any]] = service.http.get("/status").json()["processes"]
    return next((p for p in processes if p["phase"] == "copying" and p["bytes_done"]), None)


EVIL = "evil\n2030-01-01T00:00:00.000Z INFO     qbm_trio: forged\x1b[31m\r[job 0123456789abcdef x]"


def test_a_life_is_read_by_grep_through_an_interruption_and_a_retry(
    stage: tuple[Service, Qbt],
) -> None:
    service, qbt = stage
    one = put(qbt, service.ssd / "tv", "T1", {"a": 5 * MB, "b": 2 * MB}, category="tv")
    service.env["COPY_RATE_LIMIT_MB_S"] = "3"
    service.past_this_second()
    service.start()
    first = notify(service, one)
    service.wait_for(lambda: copying(service), "it is copied")
    service.kill()
    del service.env["COPY_RATE_LIMIT_MB_S"]
    service.start()
    service.wait_for_job(first, "done")

    # Another, that fails until its user has decided.
    two = put(qbt, service.ssd / "tv", "T2", MB, category="tv", seed=2)
    (service.hdd / "tv" / "T2").write_bytes(bytes(MB))
    second = notify(service, two)
    service.wait_for_job(second, "failed")
    service.http.post(f"/jobs/{second}/retry", json={"on_conflict": "set_aside"})
    service.wait_for_job(second, "done")

    # Two that nobody knows.
    third = service.notify("ab" * 20, params={"name": EVIL}).json()["queue_id"]
    service.wait_for_job(third, "waiting")
    assert service.http.delete(f"/jobs/{third}").status_code == 200
    fourth = service.notify("cd" * 20).json()["queue_id"]
    service.wait_for_job(fourth, "waiting")
    assert service.http.post("/queue/clear").json()["cleared_count"] == 1

    # The second one was too much for the SSD.
    service.wait_for(
        lambda: service.http.get("/status").json()["statistics"]["torrents_relocated"],
        "T1 has left the SSD",
        60,
    )
    assert service.stop() == 0

    life = [
        f"accepted: {one.id}, priority 0",
        "resolving",
        "copying",
        "7000000 bytes to copy",
        "was interrupted by the end of the service; goes on",
        "resolving",
        "copying",
        "7000000 bytes copied in ",
        "publishing",
        f"published in {service.hdd}/tv/T1: 2 files, 7000000 bytes copied",
        "tagging",
        "done: tiered",
        "relocating 'T1': preparing",
        "relocating 'T1': stopping",
        "relocating 'T1': checking",
        "relocating 'T1': deleting",
        "relocated 'T1': 2 files deleted on the SSD",
    ]
    assert_told(story(service, first), life)
    assert_told(story(service, one.id), life)
    assert_told(
        story(service, second),
        [
            "resolving",
            "failed (destination_conflict): ",
            "is to be retried, on_conflict=set_aside",
            "resolving",
            f"{service.hdd}/tv/T2 differed and was set aside as ",
            "done: tiered",
        ],
    )
    assert_told(story(service, third), ["accepted", "waiting (unknown_torrent)", "cancelled by a"])
    assert_told(story(service, fourth), ["accepted", "waiting (unknown_torrent)", "cleared by a"])
    about_jobs = [m for m in lines(service) if any(job in m[0] for job in (first, second, third))]
    for match in about_jobs:
        if not match["logger"].endswith("access"):
            assert match["about"] is not None, match[0]
            assert re.match(r" \[job \w{16}( torrent \w{40})? \S", match["about"]), match[0]
    assert not any(m["time"].startswith("2030") for m in lines(service))
    assert "\x1b" not in service.output()
    # Standard output has the same.
    assert all(match[0] in service.output() for match in about_jobs)


def test_lines_of_json_all_parse_and_name_their_job(stage: tuple[Service, Qbt]) -> None:
    service, qbt = stage
    service.env |= {"LOG_FORMAT": "json", "LOG_LEVEL": "DEBUG"}
    one = put(qbt, service.ssd, "T\u2713", MB)
    service.launch()

    def there() -> str | None:
        found = re.search(r'"ready (http://[^"]+)"', service.output())
        return found[1] if found else None

    service.http.base_url = service.wait_for(there, "it is ready")
    known = notify(service, one)
    unknown = service.notify("ab" * 20, params={"name": EVIL}).json()["queue_id"]
    service.wait_for_job(known, "done")
    service.wait_for_job(unknown, "waiting")
    assert service.stop() == 0
    written = (service.root / "qbm.log").read_text()
    entries = [json.loads(line) for line in written.splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(entry) for entry in entries)
    of_known = [entry for entry in entries if entry.get("job_id") == known]
    messages = [entry["message"] for entry in of_known]
    assert_told(messages, ["accepted", "resolving", "copying", "publishing", "done: tiered"])
    assert {entry["torrent"] for entry in of_known[-3:]} == {"T\u2713"}
    assert {entry["torrent_id"] for entry in of_known[-3:]} == {one.id}
    of_unknown = [entry for entry in entries if entry.get("job_id") == unknown]
    assert {entry["torrent"] for entry in of_unknown} == {EVIL}
    about = [e for e in entries if known in json.dumps(e) and not e["logger"].endswith("access")]
    assert all(entry["job_id"] == known for entry in about)


WRONG = "wr0ng/pass & word"
API_KEY = "qbt_0123456789abcdefghij"


def test_no_secret_is_in_anything_that_is_written_or_answered(tmp_path: Path) -> None:
    with running(tmp_path / "qbt", login=True) as qbt, Recording(qbt.web_port) as relay:
        service = Service(tmp_path / "service", relay.url, {"LOG_LEVEL": "DEBUG"})
        hook = f"curl -H 'X-API-Key: {KEY}' -d hash=%K http://x:1/notify/torrent-finished"
        qbt.on_finished(hook)
        # The relay has another port.
        qbt.api.app_set_preferences(
            {
                "web_ui_host_header_validation_enabled": False,
                "max_ratio_enabled": True,
                "max_ratio_act": 3,
            }
        )
        one = put(qbt, service.ssd, "T", MB)
        answers = []

        def ask(method: str, path: str, **options: Any) -> None:
            answers.append(service.http.request(method, path, **options).text)

        try:
            # A wrong password, and a wrong key: said, and not shown.
            for name, secret in (("QBIT_PASSWORD", WRONG), ("QBIT_API_KEY", API_KEY)):
                service.env[name] = secret
                service.start()
                service.wait_for(
                    lambda: service.http.get("/status").json()["qbittorrent"]["problem"], "it says"
                )
                ask("GET", "/status")
                assert service.stop() == 0
                del service.env[name]

            service.env["QBIT_PASSWORD"] = PASSWORD
            service.start()
            job = notify(service, one)
            service.wait_for_job(job, "done")
            service.wait_for(
                lambda: "removes_files" in service.http.get("/status").text,
                "its settings are checked",
            )
            wrong = KEY[::-1]
            ask("GET", f"/status?api_key={KEY}")
            ask("GET", f"/status?api_key={wrong}", headers={"X-API-Key": wrong})
            ask("GET", "/status", headers={"Authorization": f"Bearer {KEY}"})
            ask("POST", f"/no/such?api_key={KEY}", headers={"Referer": f"http://x/?api_key={KEY}"})
            ask("POST", "/notify/torrent-finished", content=f'{{"hash": "{KEY}"')
            ask("POST", "/state/save")
            ask("POST", f"/jobs/{job}/retry")
            for path in ("/health", "/jobs", "/tags/summary", "/openapi.json"):
                ask("GET", path)
            qbt.stop(signal.SIGKILL)
            service.notify("ab" * 20)
            service.wait_for(
                lambda: service.http.get("/health").json()["status"] == "degraded", "it is away"
            )
            ask("GET", "/status")
            assert service.stop() == 0

            service.module = "tests.rig.blurting"
            process = service.launch()
            assert process.wait(30) == 1
            service.process = None
        finally:
            service.kill()
            service.http.close()

    cookies = set(re.findall(rb"SID=([^;\s]{8,})", bytes(relay.heard)))
    assert cookies, "there was a session"
    assert quote_plus(PASSWORD).encode() in relay.heard, "the password was sent"
    secrets = [KEY, PASSWORD, WRONG, API_KEY, "abc123def", *(c.decode() for c in cookies)]
    forms = {f.encode() for s in secrets for f in (s, quote(s, safe=""), quote_plus(s))}
    written = [file for file in (tmp_path / "service").rglob("*") if file.is_file()]
    names = {file.name for file in written}
    assert {"qbm.log", "service.log", "journal.sqlite3"} <= names
    assert any(name.startswith("recovery-") for name in names)
    output = service.output()
    assert "ZeroDivisionError: Cookie: SID=[redacted]; password '[redacted]'" in output
    assert output.count("Traceback") >= 2, "in the log, and as the process ended"
    assert "DEBUG" in output
    for file in written:
        content = file.read_bytes()
        for form in forms:
            assert form not in content, (file, form)
    for answer in answers:
        for form in forms:
            assert form not in answer.encode(), answer
