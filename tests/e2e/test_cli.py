"""The command line as a user meets it: real processes, their exit status and their words."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from qbm_trio import __version__
from tests.rig.commands import ROOT, run_python
from tests.rig.qbt import free_port

RUN_PY = str(ROOT / "scripts" / "run.py")


def service(*arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return run_python("-m", "qbm_trio", *arguments, env=env)


@pytest.mark.parametrize("arguments", [[], ["--service"], ["--check-config"]])
def test_bad_settings_are_all_named_without_a_traceback(arguments: list[str]) -> None:
    given = {"HTTP_PORT": "eighty", "HTTP_API_KEY": "sh0rt", "DOWNLOAD_PATHS_SSD": "/mnt"}
    done = service(*arguments, env=given)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0] == "qbm-trio: 4 problems with the settings:"
    assert [line.split(":")[0].strip() for line in lines[1:5]] == [
        "HTTP_PORT",
        "HTTP_API_KEY",
        "DOWNLOAD_PATH_SSD",
        "FINAL_DEST_BASE_HDD",
    ]
    # What has no effect is often the reason.
    assert lines[5:] == [
        "qbm-trio: 1 warning with the settings:",
        "  DOWNLOAD_PATHS_SSD: is no setting and has no effect; DOWNLOAD_PATH_SSD is one",
    ]
    assert "sh0rt" not in done.stderr


def test_check_config_without_qbittorrent_says_all_that_can_be_said(
    environ: dict[str, str],
) -> None:
    nobody = {"QBIT_PORT": str(free_port()), "HTTP_API_KEY": "0123456789abcdef"}
    done = service("--check-config", env=environ | nobody | {"SONARR_URL": "http://sonarr"})
    assert (done.returncode, done.stderr) == (3, "")
    said = done.stdout
    assert "warning  SONARR_URL: belonged to the old tool and has no effect here" in said
    assert "warning  HTTP_API_KEY can be guessed" in said
    assert f"ok       DOWNLOAD_PATH_SSD {environ['DOWNLOAD_PATH_SSD']} can be written by" in said
    assert "problem  no connection to qBittorrent" in said
    assert "This will not work as it is: 1 problem, " in said
    assert not Path(environ["CONFIG_BASE"], "qbit-manager-state").exists()


def test_check_config_escapes_what_the_terminal_cannot_show(
    environ: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "🎬"
    folder.mkdir()
    odd = {"DOWNLOAD_PATH_SSD": str(folder), "PYTHONIOENCODING": "latin-1"}
    nobody = {"QBIT_PORT": str(free_port())}
    done = service("--check-config", env=environ | nobody | odd)
    assert (done.returncode, done.stderr) == (3, "")
    assert rf"DOWNLOAD_PATH_SSD {tmp_path}/\U0001f3ac can be written by" in done.stdout


def test_version(environ: dict[str, str]) -> None:
    done = service("--version", env=environ)
    assert (done.returncode, done.stdout) == (0, f"qbm-trio {__version__}\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a process 1")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_process_1_of_a_container_can_be_ended_before_it_serves(signum: signal.Signals) -> None:
    # It tells itself, in place of reading the settings: a signal that has no handler
    # never reaches process 1, whoever sends it.
    script = f"""
import signal
from qbm_trio import __main__ as program
program.main = lambda _: signal.raise_signal({signum:d}) or 0
program.cli()
"""
    done = subprocess.run(
        ["unshare", "--pid", "--fork", sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (128 + signum, b"")


@pytest.mark.parametrize("arguments", [["status"], ["--service", "--dry-run"], [""]])
def test_any_other_argument_is_a_clear_error(arguments: list[str]) -> None:
    done = service(*arguments, env={})
    assert done.returncode == 64
    assert "usage: qbm-trio [--service | --check-config | --version]" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [[], ["--service"], ["--check-config"]])
def test_the_first_start_from_the_checkout_writes_a_private_env_file_and_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "my settings.env"
    (tmp_path / "qbm_trio.py").write_text("print('it started')\n")  # stands in for it
    env = {"HOME": str(tmp_path), "PYTHONPATH": str(tmp_path), "HTTP_PORT": "0"}
    first = run_python(
        RUN_PY, str(file), *arguments, env=env | {"DOWNLOAD_PATH_SSD": str(tmp_path)}
    )
    assert (first.returncode, first.stdout) == (2, "")
    assert "HTTP_API_KEY" in first.stderr
    assert "FINAL_DEST_BASE_HDD" in first.stderr
    assert first.stderr.endswith("then run it again.\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text()
    second = run_python(RUN_PY, str(file), *arguments, env=env)
    assert (second.returncode, second.stdout, second.stderr) == (0, "it started\n", "")
    assert file.read_text() == text
    key = text.split("\nHTTP_API_KEY=")[1].split("\n")[0]
    assert len(key) >= 43
    assert key not in first.stderr + first.stdout


def test_the_first_start_goes_on_where_the_environment_gives_both_folders(
    environ: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / ".env"
    del environ["HTTP_API_KEY"]
    env = environ | {"HOME": str(tmp_path), "QBIT_PORT": str(free_port())}
    done = run_python(RUN_PY, str(file), "--check-config", env=env)
    assert (done.returncode, done.stdout.splitlines()[0]) == (3, "settings:")
    assert "now edit it" not in done.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("argument", ["--version", "--help", "-h"])
def test_a_question_to_the_program_writes_no_env_file(tmp_path: Path, argument: str) -> None:
    done = run_python(RUN_PY, str(tmp_path / ".env"), argument, env={"HOME": str(tmp_path)})
    assert (done.returncode, done.stderr) == (0, "")
    assert "qbm-trio" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_nothing_in_the_env_file_is_run_or_expanded(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = "$(touch pwned) `touch pwned` ${HOME} # \\ &"
    file = tmp_path / ".env"
    lines = [f"{name}={value}" for name, value in environ.items()]
    file.write_text("\n".join([*lines, f"QBIT_PASSWORD='{password}'", "", "# end"]))
    show = tmp_path / "qbm_trio.py"  # stands in for the service
    show.write_text("import os; print(os.environ['QBIT_PASSWORD'])\n")
    monkeypatch.chdir(tmp_path)
    done = run_python(RUN_PY, str(file), env={"PYTHONPATH": str(tmp_path)})
    assert done.stdout == password + "\n", done.stderr
    assert not list(tmp_path.rglob("pwned"))


def test_the_environment_wins_over_the_env_file(environ: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("\n".join(f"{name}={value}" for name, value in environ.items()))
    nobody = {"QBIT_PORT": str(free_port())}
    assert run_python(RUN_PY, str(file), "--check-config", env=nobody).returncode == 3
    bad = run_python(RUN_PY, str(file), "--check-config", env={"HTTP_PORT": "x"})
    assert bad.returncode == 2
    assert "HTTP_PORT" in bad.stderr
    key = tmp_path / "key"
    key.write_text("k" * 32)
    fine = run_python(
        RUN_PY, str(file), "--check-config", env=nobody | {"HTTP_API_KEY_FILE": str(key)}
    )
    assert fine.returncode == 3, fine.stderr
    assert "HTTP_API_KEY can be guessed" in fine.stdout


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_service_runs_ends_it_without_a_word(
    environ: dict[str, str], tmp_path: Path, signum: signal.Signals
) -> None:
    pipe = tmp_path / "key"
    os.mkfifo(pipe)
    del environ["HTTP_API_KEY"]
    with subprocess.Popen(
        [sys.executable, "-m", "qbm_trio"],
        env=os.environ | environ | {"PYTHONPATH": str(ROOT), "HTTP_API_KEY_FILE": str(pipe)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            writer = open_once_read(pipe)
            # Again while it lives: one that comes between Python's look for signals and the
            # call that blocks is noticed when that call ends, which it does not here.
            deadline = time.monotonic() + 20
            while process.poll() is None and time.monotonic() < deadline:
                process.send_signal(signum)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.5)
            assert process.communicate(timeout=1)[0] == b""
            assert process.returncode == -signum
            os.close(writer)
        finally:
            process.kill()


def open_once_read(pipe: Path) -> int:
    """Open a named pipe for writing as soon as somebody waits to read from it."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(OSError):  # ENXIO: nobody reads yet
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        time.sleep(0.02)
    raise TimeoutError("it did not come to its settings")
