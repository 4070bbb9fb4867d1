"""The package as a user gets it: built, installed into an environment of its own, and run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from qbm_trio.__main__ import PROBLEMS_FOUND
from scripts.rig.qbt import free_port
from scripts.rig.service import clean_environment
from scripts.rig.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "qbm_trio", "tests", "scripts")
LIMIT_S = 300  # pip may have to download


def run(*command: object, cwd: Path, env: Mapping[str, str] | None = None, status: int = 0) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={
            **clean_environment(),
            **{name: value for name, value in os.environ.items() if name.startswith("PIP_")},
            **(env or {}),
        },
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was made from the sdist."""
    folder = tmp_path_factory.mktemp("built")
    copy = folder / "checkout"  # setuptools leaves its traces where it builds
    for name in BUILT_FROM:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            copy.mkdir(exist_ok=True)
            shutil.copy(source, copy / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, copy, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has nothing but the lock and the wheel."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    programs = folder / "venv/bin"
    pip = (programs / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    run(*pip, "--require-hashes", "--requirement", ROOT / "requirements.txt", cwd=folder)
    (wheel,) = built.glob("*.whl")
    run(*pip, "--no-deps", "--no-index", wheel, cwd=folder)
    return programs


def test_the_wheel_holds_the_package_and_the_licence_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    modules = {name for name in names if name.startswith("qbm_trio/")}
    ours = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "qbm_trio").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert modules == ours >= {"qbm_trio/py.typed", "qbm_trio/__main__.py"}
    rest = {re.sub(r"^qbm_trio-[\w.]+\.dist-info/", "", name) for name in set(names) - modules}
    assert rest == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
        "top_level.txt",
    }


def test_the_sdist_holds_what_the_wheel_is_made_of(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "qbm_trio/py.typed"} <= names


def test_what_is_installed_fits_together(installed: Path, tmp_path: Path) -> None:
    assert "No broken requirements" in run(installed / "python", "-m", "pip", "check", cwd=tmp_path)


def test_it_runs_from_where_it_is_installed(
    installed: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    environ["QBIT_HOST"] = f"http://127.0.0.1:{free_port()}"  # this machine may run one
    asked = "import qbm_trio; print(qbm_trio.__file__, qbm_trio.__version__)"
    place, version = run(installed / "python", "-c", asked, cwd=tmp_path).split()
    assert Path(place).is_relative_to(installed.parent)
    for program in ((installed / "qbm-trio",), (installed / "python", "-m", "qbm_trio")):
        assert version in run(*program, "--version", cwd=tmp_path)
        checked = run(*program, "--check-config", cwd=tmp_path, env=environ, status=PROBLEMS_FOUND)
        assert re.findall("problem  (.*) at http", checked) == ["no connection to qBittorrent"]

    environ["HTTP_PORT"] = str(free_port())
    with (tmp_path / "output").open("wb") as output:
        service = subprocess.Popen(
            [installed / "qbm-trio", "--service"],
            cwd=tmp_path,
            env={**clean_environment(), **environ},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        health = wait_for(lambda: _ask(environ["HTTP_PORT"]), "the service answers")
        assert f'"version":"{version}"' in health
        service.terminate()
        assert service.wait(15) == 0
    finally:
        service.kill()
        service.wait(15)


def _ask(port: str) -> str | None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return None
