"""What a user may get wrong in the settings, and what the service then says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from qbm_trio.core.errors import SettingsError
from qbm_trio.core.model import Verification
from qbm_trio.settings import NAMES, Settings, load

ROOT = Path(__file__).resolve().parents[2]
SECRETS = ("HTTP_API_KEY", "QBIT_PASSWORD", "QBIT_API_KEY")


def problems(environ: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(environ)
    return caught.value.problems


def problem(environ: dict[str, str]) -> str:
    found = problems(environ)
    assert len(found) == 1, found
    return found[0]


def test_the_defaults_are_those_of_the_documentation(environ: dict[str, str]) -> None:
    settings, warnings = load(environ)
    assert warnings == []
    assert settings.http_enabled
    assert settings.http_host == "127.0.0.1"
    assert settings.qbit_url == "http://localhost:8080"
    assert settings.threshold_bytes == 100 * 10**9
    assert settings.target_bytes == 110 * 10**9
    assert settings.hdd_min_free_bytes == 10**9
    assert settings.copy_rate_limit_bytes_s is None
    assert settings.verification is Verification.PIECES
    assert settings.path_mappings == ()
    assert settings.state_dir == Path(environ["CONFIG_BASE"]) / "qbit-manager-state"
    assert settings.log_file == Path(environ["CONFIG_BASE"]) / "log" / "qbit-manager.log"
    assert settings.job_retention_s == 30 * 86_400


@pytest.mark.parametrize(("days", "kept_s"), [("0", 86_400), ("0.5", 86_400), ("2", 172_800)])
def test_ended_jobs_are_kept_for_a_day_at_least(
    environ: dict[str, str], days: str, kept_s: float
) -> None:
    """A cancelled one that was forgotten at once would be found as a lost hook."""
    settings, _ = load(environ | {"JOB_RETENTION_DAYS": days})
    assert settings.job_retention_s == kept_s


def test_more_bytes_than_any_disk_has_are_no_bug(environ: dict[str, str]) -> None:
    names = ("DISK_SPACE_THRESHOLD_GB", "HDD_MIN_FREE_GB", "COPY_RATE_LIMIT_MB_S")
    settings, _ = load(environ | dict.fromkeys(names, "1e305"))
    assert settings.threshold_bytes == settings.target_bytes == settings.hdd_min_free_bytes
    assert settings.copy_rate_limit_bytes_s == settings.threshold_bytes > 10**18


def test_settings_never_change(environ: dict[str, str]) -> None:
    settings, _ = load(environ)
    with pytest.raises(ValidationError):
        settings.http_port = 1  # type: ignore[misc]


def test_the_environment_of_the_process_plays_no_part(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUEUE_CAPACITY", "7")
    assert load(environ)[0].queue_capacity == 1000


def test_every_problem_is_reported_at_once_in_the_order_of_the_documentation() -> None:
    names = [
        line.split(":")[0]
        for line in problems(
            {
                "LOG_LEVEL": "loud",
                "HTTP_PORT": "eighty",
                "DOWNLOAD_PATH_SSD": "/nowhere/ssd",
                "QUEUE_CAPACITY": "0",
                "CONFIG_BASE": "relative",
            }
        )
    ]
    assert names == [
        "HTTP_PORT",
        "HTTP_API_KEY",
        "DOWNLOAD_PATH_SSD",
        "FINAL_DEST_BASE_HDD",
        "QUEUE_CAPACITY",
        "LOG_LEVEL",
        "CONFIG_BASE",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_ENABLED", "perhaps"),
        ("HTTP_HOST", "http://0.0.0.0"),
        ("HTTP_PORT", "70000"),
        ("QBIT_PORT", "0"),
        ("QBIT_HOST", "ftp://nas"),
        ("QBIT_HOST", "http://user:pass@nas"),
        ("QBIT_HOST", "nas:99999"),
        ("QBIT_HOST", "http://[::1"),
        ("QBIT_HOST", "two words"),
        ("DOWNLOAD_PATH_SSD", "downloads/ssd"),
        ("PATH_MAPPINGS", "/a"),
        ("PATH_MAPPINGS", "/a=b"),
        ("PATH_MAPPINGS", "/a=/b,/a/=/c"),
        ("DISK_SPACE_THRESHOLD_GB", "nan"),
        ("DISK_SPACE_THRESHOLD_GB", "-1"),
        ("DISK_SPACE_TARGET_GB", "inf"),
        ("COPY_RATE_LIMIT_MB_S", "0"),
        ("COPY_OPERATION_NICE_LEVEL", "20"),
        ("QUEUE_CAPACITY", "1.5"),
        ("QUEUE_CAPACITY", "9" * 5000),
        ("VERIFICATION", "maybe"),
        ("SSD_LOCATION_TAG", "a,b"),
        ("HDD_LOCATION_TAG", " "),
        ("LOG_FORMAT", "xml"),
        ("SHUTDOWN_GRACE_S", "soon"),
    ],
)
def test_a_value_that_cannot_be_used_gives_one_line_without_the_value(
    environ: dict[str, str], name: str, value: str
) -> None:
    line = problem(environ | {name: value})
    assert line.startswith(f"{name}: not ")
    assert line.endswith("; correct or remove it")
    assert len(value) < 2 or f" {value};" not in line


@pytest.mark.parametrize("name", ["SSD_LOCATION_TAG", "HDD_LOCATION_TAG"])
@pytest.mark.parametrize("tag", ["qbm-pin", "qbm-relocating"])
def test_a_tag_of_the_services_own_is_said_to_be_reserved(
    environ: dict[str, str], name: str, tag: str
) -> None:
    line = problem(environ | {name: tag})
    assert line == f"{name}: {tag} is reserved for the service's own use; choose another"


@given(
    st.dictionaries(
        st.sampled_from([n for n in NAMES if n not in SECRETS]),
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30),
    )
)
def test_no_value_of_any_setting_makes_a_traceback(values: dict[str, str]) -> None:
    # There are no folders: some problem there always is.
    found = problems(values)
    assert all(line.isprintable() for line in found)


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("", "not set"),
        ("sh0rt", "shorter than 16"),
        ("your-secret-key", "an example"),
        ("Your-Secret-Key-Here", "an example"),
        ("change-me-change-me", "an example"),
        ("your-secure-random-api-key-here", "an example"),  # of the old tool
        ("sixteen letters or more", "no HTTP header"),
        ("schlüssel-schlüssel", "no HTTP header"),
    ],
)
def test_a_bad_api_key_is_refused_and_not_repeated(
    environ: dict[str, str], key: str, wrong: str
) -> None:
    line = problem(environ | {"HTTP_API_KEY": key})
    assert line.startswith("HTTP_API_KEY: ")
    assert wrong in line
    assert "openssl rand" in line
    assert not key or key not in line


def test_without_http_no_key_is_needed(environ: dict[str, str]) -> None:
    del environ["HTTP_API_KEY"]
    assert load(environ | {"HTTP_ENABLED": "no"})[0].http_api_key is None


def test_no_secret_shows_in_settings_or_messages(environ: dict[str, str]) -> None:
    secret = "s3cret-s3cret-s3cret"
    given = environ | dict.fromkeys(SECRETS, secret)
    settings, _ = load(given)
    assert secret not in f"{settings!r} {settings} {settings.model_dump()}"
    assert settings.secrets() == (secret, secret, secret)
    # Also where a secret went into the wrong variable.
    wrong = {
        name: secret for name in NAMES if name not in (*SECRETS, "CONFIG_BASE", "QBIT_USERNAME")
    }
    assert secret not in "\n".join(problems(given | wrong))


def test_a_value_may_come_from_a_file(environ: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("k" * 20 + "\r\n")
    del environ["HTTP_API_KEY"]
    key = load(environ | {"HTTP_API_KEY_FILE": str(file)})[0].http_api_key
    assert key is not None
    assert key.get_secret_value() == "k" * 20


def test_a_value_and_a_file_for_it_are_refused(environ: dict[str, str], tmp_path: Path) -> None:
    line = problem(environ | {"HTTP_API_KEY_FILE": str(tmp_path)})
    assert line.startswith("HTTP_API_KEY: given both as HTTP_API_KEY and as HTTP_API_KEY_FILE")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file"), (b"\xff\xfe", "not UTF-8"), (b"\n", "empty"), (b"x" * 70_000, "64")],
)
def test_a_file_that_cannot_be_used_is_said(
    environ: dict[str, str], tmp_path: Path, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "value"
    if content is not None:
        file.write_bytes(content)
    line = problem(environ | {"QBIT_PASSWORD_FILE": str(file)})
    assert line.startswith("QBIT_PASSWORD: the file that QBIT_PASSWORD_FILE names")
    assert reason in line


@pytest.mark.parametrize(
    ("host", "port", "url"),
    [
        ("nas", "9090", "http://nas:9090"),
        ("nas", None, "http://nas:8080"),
        ("nas:9090", None, "http://nas:9090"),
        ("10.0.0.2", None, "http://10.0.0.2:8080"),
        ("::1", None, "http://[::1]:8080"),
        ("http://nas", None, "http://nas:8080"),
        ("https://nas", None, "https://nas:443"),
        ("https://nas", "8443", "https://nas:8443"),
        ("https://nas:8443/qbt/", None, "https://nas:8443/qbt"),
        ("http://[::1]:9090/", "9090", "http://[::1]:9090"),
    ],
)
def test_qbittorrent_may_be_named_by_host_or_by_url(
    environ: dict[str, str], host: str, port: str | None, url: str
) -> None:
    given = environ | {"QBIT_HOST": host} | ({"QBIT_PORT": port} if port else {})
    assert load(given)[0].qbit_url == url


def test_two_different_ports_for_qbittorrent_are_refused(environ: dict[str, str]) -> None:
    line = problem(environ | {"QBIT_HOST": "http://nas:1234", "QBIT_PORT": "8080"})
    assert line.startswith("QBIT_PORT: differs from the port in QBIT_HOST")


def test_path_mappings_are_pairs_without_a_slash_at_the_end(environ: dict[str, str]) -> None:
    settings, _ = load(environ | {"PATH_MAPPINGS": "/d=/x/, /d/ssd/=/y ,"})
    assert settings.path_mappings == (("/d", "/x"), ("/d/ssd", "/y"))


@pytest.mark.parametrize("name", ["DOWNLOAD_PATH_SSD", "FINAL_DEST_BASE_HDD"])
def test_a_tier_must_be_a_folder_that_exists(
    environ: dict[str, str], tmp_path: Path, name: str
) -> None:
    missing = tmp_path / "missing"
    assert problem(environ | {name: str(missing)}).startswith(f"{name}: {missing} does not exist")
    missing.write_bytes(b"")
    assert "is not a folder" in problem(environ | {name: str(missing)})
    assert r"two\nlines does not exist" in problem(environ | {name: f"{tmp_path}/two\nlines"})
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert problem(environ | {name: str(loop)}).startswith(f"{name}: {loop} ")
    assert problem(environ | {name: "/" + "x" * 300}).startswith(f"{name}: ")


def test_a_tier_must_be_writable(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests may run as root, who may write anywhere.
    real = os.access
    monkeypatch.setattr(os, "access", lambda p, m: not str(p).endswith("hdd") and real(p, m))
    line = problem(environ)
    assert line.startswith("FINAL_DEST_BASE_HDD: ")
    assert "is not writable" in line


@pytest.mark.parametrize(
    ("ssd", "hdd", "wrong"),
    [
        ("ssd", "ssd", "the SSD's folder as well"),
        ("ssd", "link", "the SSD's folder as well"),
        ("ssd", "ssd/inner", "lies inside the SSD's folder"),
        ("ssd/inner", "ssd", "lies inside"),
        ("ssd", "link/inner", "lies inside the SSD's folder"),
    ],
)
def test_neither_tier_lies_inside_the_other(
    environ: dict[str, str], tmp_path: Path, ssd: str, hdd: str, wrong: str
) -> None:
    (tmp_path / "ssd" / "inner").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "ssd")
    line = problem(
        environ
        | {"DOWNLOAD_PATH_SSD": str(tmp_path / ssd), "FINAL_DEST_BASE_HDD": str(tmp_path / hdd)}
    )
    assert line.startswith("FINAL_DEST_BASE_HDD: ")
    assert wrong in line


def test_folders_whose_names_begin_alike_are_separate(
    environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "ssd2").mkdir()
    load(environ | {"FINAL_DEST_BASE_HDD": str(tmp_path / "ssd2")})


@pytest.mark.parametrize(("target", "fine"), [("99", False), ("100", False), ("100.5", True)])
def test_the_target_lies_above_the_threshold(
    environ: dict[str, str], target: str, fine: bool
) -> None:
    given = environ | {"DISK_SPACE_TARGET_GB": target}
    if fine:
        assert load(given)[0].target_bytes == 100_500_000_000
    else:
        assert problem(given).startswith("DISK_SPACE_TARGET_GB: not above")


def test_the_state_folder_must_be_possible(environ: dict[str, str], tmp_path: Path) -> None:
    load(environ | {"STATE_DIR": str(tmp_path / "new" / "deep")})
    (tmp_path / "file").write_bytes(b"")
    line = problem(environ | {"STATE_DIR": str(tmp_path / "file" / "state")})
    assert line.startswith("STATE_DIR: ")
    assert "cannot be made" in line


def test_old_names_still_work_and_are_warned_of(environ: dict[str, str], tmp_path: Path) -> None:
    old = {"LOCK_DIR": str(tmp_path / "locks"), "VERIFICATION_ENABLED": "false"}
    settings, warnings = load(environ | old)
    assert settings.state_dir == tmp_path / "locks"
    assert settings.verification is Verification.SIZE
    assert warnings == ["LOCK_DIR: this is the old name of STATE_DIR; rename it to STATE_DIR"]
    settings, _ = load(environ | old | {"STATE_DIR": str(tmp_path / "state")})
    assert settings.state_dir == tmp_path / "state"
    assert problem(environ | {"LOCK_DIR": "locks"}).startswith("STATE_DIR: ")


def test_two_settings_for_the_verification_must_agree(environ: dict[str, str]) -> None:
    both = {"VERIFICATION_ENABLED": "false", "VERIFICATION": "Readback"}
    assert problem(environ | both).startswith("VERIFICATION_ENABLED: contradicts")
    agreeing = both | {"VERIFICATION_ENABLED": "true"}
    assert load(environ | agreeing)[0].verification is Verification.READBACK
    assert load(environ | {"VERIFICATION_ENABLED": "true"})[0].verification is Verification.PIECES


def test_the_two_tags_differ(environ: dict[str, str]) -> None:
    assert problem(environ | {"SSD_LOCATION_TAG": "hdd"}).startswith("HDD_LOCATION_TAG: the same")


def test_names_without_meaning_are_warned_of_once(environ: dict[str, str]) -> None:
    Path(environ["CONFIG_BASE"], "config.toml").write_text("")
    unknown = {"SONARR_URL": "x", "RADARR_API_KEY": "x", "TAUTULLI_URL": "x"}
    unknown |= {"NOTIFY_ARR_ENABLED": "x", "COPY_BUFFER_SIZE": "x", "PLEX_PATH_MAPPINGS": "x"}
    innocent = {"HTTP_PROXY": "x", "PATH": "/bin", "LOG_FILE_FILE": ""}
    _, warnings = load(environ | unknown | innocent | {"QUEUE_CAPASITY": "5"})
    assert [w.split(":")[0] for w in warnings] == [
        "COPY_BUFFER_SIZE",
        "NOTIFY_ARR_ENABLED",
        "PLEX_PATH_MAPPINGS",
        "QUEUE_CAPASITY",
        "RADARR_API_KEY",
        "SONARR_URL",
        "TAUTULLI_URL",
        f"{environ['CONFIG_BASE']}/config.toml",
    ]
    assert "QUEUE_CAPACITY is one" in warnings[3]
    assert all(w.endswith("belonged to the old tool and has no effect here") for w in warnings[:3])


def test_the_documentation_lists_the_settings_of_the_code() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/generated_docs.py", "--check"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_setting_says_what_it_means_and_what_it_must_be() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert isinstance(field.json_schema_extra, dict), name
        assert field.json_schema_extra["expected"], name
