"""The commands that the documentation prints work when they are pasted."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.rig.doc_blocks import PAGES, ROOT, Block, blocks
from tests.rig.qbt import Qbt

pytestmark = pytest.mark.qbittorrent

BLOCKS = [block for page in PAGES for block in blocks(page)]
HERE = [block for block in BLOCKS if not block.mark]
LIMIT_S = 120
NO_COMMANDS = {"", "text", "json", "yaml", "ini", "dockerfile", "mermaid"}
"""Languages of what nobody pastes into a shell. What is for qBittorrent's box is text."""


def named(block: Block) -> str:
    return f"{block.page}:{block.line}"


@dataclass
class Reader:
    """Someone with a checkout, a qBittorrent and two folders, who pastes what he reads."""

    checkout: Path
    environ: dict[str, str]
    port: int = 0

    def paste(self, text: str) -> subprocess.CompletedProcess[str]:
        """Run it as a shell would, in the checkout, and give what it said."""
        for printed, true in (
            ("localhost:8081", f"127.0.0.1:{self.port}"),
            ("/opt/qbm-trio", str(self.checkout.parent / "opt")),
        ):
            text = text.replace(printed, true)
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.checkout,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )


def give_packages(checkout: Path) -> None:
    """A virtual environment of its own that has ours' packages: nothing is to be installed.

    Ours itself would do, but ``scripts/run`` would set it up for this checkout.
    """
    venv = checkout / ".venv"
    command = [sys.executable, "-m", "venv", "--without-pip", str(venv)]
    subprocess.run(command, check=True, timeout=LIMIT_S)
    (there,) = venv.glob("lib/python*/site-packages")
    paths = f"{checkout}\n{sysconfig.get_path('purelib')}\n"
    (there / "qbm_trio_checkout.pth").write_text(paths)
    locked = f"{checkout}\n".encode() + (checkout / "requirements.txt").read_bytes()
    stamp = f"{hashlib.sha256(locked).hexdigest()}  -\n"
    (venv / ".installed-requirements.txt").write_text(stamp)


@pytest.fixture(scope="module")
def reader(qbt: Qbt, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A reader who has come to the end of "Set it up for real": the service runs."""
    folder = tmp_path_factory.mktemp("reader")
    checkout = folder / "qbm-trio"
    checkout.mkdir()
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, files.stdout.decode().split("\0")):
        if (ROOT / name).exists():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, checkout / name)
    give_packages(checkout)
    # Refused by HTTP is a failure here, though curl alone calls it none.
    tools = folder / "bin"
    tools.mkdir()
    (tools / "curl").write_text(f'#!/bin/sh\nexec {shutil.which("curl")} -fsS "$@"\n')
    (tools / "curl").chmod(0o755)
    environ = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("QBM_", "COVERAGE_"))},
        "PATH": f"{tools}:{os.environ['PATH']}",
        "XDG_STATE_HOME": str(folder / "state"),
    }
    reader = Reader(checkout, environ)

    first = reader.paste("scripts/run")
    assert first.returncode == 2, first.stderr
    assert "installing" not in first.stderr
    for name in ("ssd", "hdd"):
        (folder / name).mkdir()
    settings = (checkout / ".env").read_text()
    for old, new in (
        ("=/downloads/ssd", f"={folder / 'ssd'}"),
        ("=/downloads/hdd", f"={folder / 'hdd'}"),
        ("QBIT_HOST=localhost\nQBIT_PORT=8080", f"QBIT_HOST={qbt.url}\nHTTP_PORT=0"),
    ):
        assert old in settings
        settings = settings.replace(old, new)
    (checkout / ".env").write_text(settings)
    with subprocess.Popen(
        ["scripts/run"],
        cwd=checkout,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as service:
        assert service.stdout
        try:
            said = []
            for line in service.stdout:
                said.append(line)
                if ready := re.search(r"\bready http://\S+:(\d+)", line):
                    reader.port = int(ready[1])
                    break
            assert reader.port, "".join(said)
            yield reader
        finally:
            service.send_signal(signal.SIGTERM)
            assert service.wait(30) == 0


@pytest.mark.parametrize("block", HERE, ids=named)
def test_what_the_docs_print_works_when_it_is_pasted(block: Block, reader: Reader) -> None:
    result = reader.paste(block.text)
    assert result.returncode == 0, f"{block.text}\n{result.stdout}\n{result.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_block_of_commands_is_overlooked(page: Path) -> None:
    fences = re.findall(r"^ *```(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    opened, closed = fences[::2], fences[1::2]
    assert set(closed) <= {""}
    assert set(opened) <= {"sh", *NO_COMMANDS}
    assert len(list(blocks(page))) == opened.count("sh")


def test_what_is_tested_elsewhere_is_there() -> None:
    for block in BLOCKS:
        if block.mark.startswith("tested by "):
            files = [ROOT / name for name in block.mark.removeprefix("tested by ").split(", ")]
            tests = "\n".join(file.read_text(encoding="utf-8") for file in files)
            for command in block.commands:
                program = command.split()[0].rpartition("/")[2]
                assert program in tests, f"{named(block)}: {command}"


def test_a_command_that_fails_is_seen(reader: Reader) -> None:
    assert reader.paste("curl http://localhost:8081/status").returncode != 0
    assert reader.paste("false | cat").returncode != 0
    assert reader.paste(f"{sys.executable} -c 'raise SystemExit(3)'").returncode == 3
