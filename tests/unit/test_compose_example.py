"""``examples/compose.yaml``: what it names is there, and is what the service accepts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from qbm_trio.core.errors import SettingsError
from qbm_trio.settings import NAMES, load

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "examples" / "compose.yaml").read_text(encoding="utf-8")
DOCUMENT: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, Any] = DOCUMENT["services"]
RUNS_QBM_TRIO = ["qbm-trio", "qbittorrent-with-qbm-trio"]
KEY = "0123456789abcdef" * 4
# What is not the service's: of the images, and of the notification script.
OTHERS = {"PUID", "PGID", "UMASK", "TZ", "WEBUI_PORT", "QBM_URL"}


def volumes(service: str) -> dict[str, tuple[str, bool]]:
    """What is mounted where in a container: the source, and whether only for reading."""
    found = {}
    for line in SERVICES[service]["volumes"]:
        source, target, *options = line.split(":")
        found[target] = (source, options == ["ro"])
    return found


def given(service: str, folder: Path, **secrets: str) -> dict[str, str]:
    """The environment of a container, its folders and secrets below ``folder``."""
    environ = dict(SERVICES[service]["environment"])
    for name in ("DOWNLOAD_PATH_SSD", "FINAL_DEST_BASE_HDD"):
        assert environ[name] in volumes(service)
        environ[name] = str(folder / environ[name].lstrip("/"))
        Path(environ[name]).mkdir(parents=True, exist_ok=True)
    environ["CONFIG_BASE"] = str(folder)
    for name, value in list(environ.items()):
        if not value.startswith("/run/secrets/"):
            continue
        secret = value.removeprefix("/run/secrets/")
        assert secret in SERVICES[service]["secrets"]
        if name.startswith("FILE__"):  # LinuxServer's init reads it
            del environ[name]
            environ[name.removeprefix("FILE__")] = secrets[secret].replace("\n", "")
        else:
            (folder / secret).write_text(secrets[secret])
            environ[name] = str(folder / secret)
    return environ


@pytest.mark.parametrize("service", RUNS_QBM_TRIO)
def test_the_service_accepts_its_settings_without_a_warning(service: str, tmp_path: Path) -> None:
    secrets = {"qbm-trio-key": f"{KEY}\n", "qbittorrent-password": "correct horse\n"}
    settings, warnings = load(given(service, tmp_path, **secrets))
    assert warnings == []
    assert settings.dry_run is True
    assert settings.http_host == "0.0.0.0"
    assert settings.http_api_key is not None
    assert settings.http_api_key.get_secret_value() == KEY


@pytest.mark.parametrize("service", RUNS_QBM_TRIO)
def test_it_comes_with_no_key_that_would_be_accepted(service: str, tmp_path: Path) -> None:
    secrets = {"qbm-trio-key": "", "qbittorrent-password": "x"}
    with pytest.raises(SettingsError) as caught:
        load(given(service, tmp_path, **secrets))
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["HTTP_API_KEY"]


@pytest.mark.parametrize("service", SERVICES)
def test_every_name_in_an_environment_means_something(service: str) -> None:
    environ = SERVICES[service]["environment"]
    bases = {name.removeprefix("FILE__").removesuffix("_FILE") for name in environ}
    assert bases - OTHERS - set(NAMES) == set()
    # Docker Compose refuses a bare true, and reads 022 as the number 18.
    assert {type(value) for value in environ.values()} == {str}


@pytest.mark.parametrize("service", SERVICES)
def test_what_it_mounts_of_the_checkout_is_there_and_only_for_reading(service: str) -> None:
    mine = {s: ro for s, ro in volumes(service).values() if s.partition("/qbm-trio/")[1]}
    mine |= {s: ro for s, ro in volumes(service).values() if s == "./qbm-trio"}
    for source, only_read in mine.items():
        assert (ROOT / source.removeprefix("./qbm-trio").lstrip("/")).is_dir()
        assert only_read


def test_the_image_of_the_first_way_can_be_built() -> None:
    build = SERVICES["qbm-trio"]["build"]
    assert build["context"] == "./qbm-trio"
    assert (ROOT / build["dockerfile"]).is_file()


def test_both_containers_of_the_first_way_see_the_same_downloads() -> None:
    seen = [
        {target: found for target, found in volumes(name).items() if "/downloads" in target}
        for name in ("qbittorrent", "qbm-trio")
    ]
    assert seen[0] == seen[1]
    assert len(seen[0]) == 2


def test_there_are_two_ways_with_the_same_user() -> None:
    profiles: dict[str, set[str]] = {}
    for name, service in SERVICES.items():
        for profile in service["profiles"]:
            profiles.setdefault(profile, set()).add(name)
    assert profiles == {
        "beside": {"qbittorrent", "qbm-trio"},
        "inside": {"qbittorrent-with-qbm-trio"},
    }
    for name in ("PUID", "PGID", "UMASK"):
        assert len({service["environment"][name] for service in SERVICES.values()}) == 1


def test_every_secret_is_a_file_that_the_comments_say_how_to_make() -> None:
    used = {secret for service in SERVICES.values() for secret in service["secrets"]}
    assert used == set(DOCUMENT["secrets"])
    comments = "\n".join(line for line in TEXT.splitlines() if line.startswith("#"))
    for secret in DOCUMENT["secrets"].values():
        assert secret["file"].removeprefix("./") in comments


def test_the_second_way_has_the_scripts_where_linuxserver_looks_for_them() -> None:
    mounted = volumes("qbittorrent-with-qbm-trio")
    for target in ("/custom-cont-init.d", "/custom-services.d"):
        assert mounted[target] == (f"./qbm-trio/scripts/linuxserver{target}", True)
    assert mounted["/qbit-manager"] == ("./qbm-trio", True)


def test_the_way_inside_with_a_password_is_whole_once_its_comments_are_taken_in() -> None:
    text = re.sub(r"(?m)^    secrets: \[qbm-trio-key\]\n(?=    # secrets)", "", TEXT)
    text = re.sub(r"(?m)^( +)# (FILE__\w+: |secrets: )", r"\1\2", text)
    service = yaml.safe_load(text)["services"]["qbittorrent-with-qbm-trio"]
    given = {v for k, v in service["environment"].items() if k.startswith("FILE__")}
    assert given == {f"/run/secrets/{name}" for name in service["secrets"]}
    assert len(given) == 2
