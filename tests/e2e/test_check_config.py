"""``--check-config`` on real qBittorrents: what it finds and says, and that it changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.rig.commands import run_python
from tests.rig.inside import put
from tests.rig.qbt import PASSWORD, Chroot, Installed, Qbt, running
from tests.rig.service import KEY, serving


@dataclass(frozen=True)
class Place:
    """A qBittorrent with one torrent on an SSD, and the tiers."""

    root: Path
    qbt: Qbt
    old: bool  #: 4.5, which lists no folders

    @property
    def env(self) -> dict[str, str]:
        return {
            "HTTP_API_KEY": KEY,
            "HTTP_PORT": "8099",
            "QBIT_HOST": self.qbt.url,
            "DOWNLOAD_PATH_SSD": str(self.root / "ssd"),
            "FINAL_DEST_BASE_HDD": str(self.root / "hdd"),
            "STATE_DIR": str(self.root / "state"),
            "LOG_FILE": str(self.root / "log" / "qbm.log"),
            "DISK_SPACE_THRESHOLD_GB": "0.001",
            "HDD_MIN_FREE_GB": "0",
        }


@pytest.fixture(scope="module", params=["installed", "chroot"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("check")
    for name in ("ssd", "hdd", "another"):
        (root / name).mkdir()
    old = request.param == "installed"
    launcher = Installed() if old else Chroot(shared=root)
    with running(root / "qbt", launcher=launcher) as qbt:
        qbt.api.app_set_preferences({"save_path": str(root / "ssd")})
        put(qbt, root / "ssd", "A torrent", {"a": 70_000, "b/c": 50_000})
        yield Place(root, qbt, old)


def check(env: Mapping[str, str]) -> tuple[int, str]:
    """Run the command; give its exit status and what it printed."""
    done = run_python("-m", "qbm_trio", "--check-config", env=env)
    assert done.stderr == ""
    assert KEY not in done.stdout
    return done.returncode, done.stdout


def tree(root: Path) -> dict[str, int]:
    """Every name below the tiers and beside them, with the time of its last change."""
    own = [p for p in root.rglob("*") if "qbt" not in p.relative_to(root).parts]
    return {str(p): p.stat().st_mtime_ns for p in own if not p.is_dir()} | {
        str(p): 0 for p in own if p.is_dir()
    }


def test_a_good_setup_is_proven_and_nothing_is_changed(place: Place) -> None:
    before = tree(place.root)
    status, said = check(place.env)
    assert status == 0, said
    if place.old:
        assert "the files of 'A torrent' on the SSD are where qBittorrent lists them" in said
        assert "note     that qBittorrent sees the HDD" in said
    else:
        for name in ("SSD", "HDD"):
            assert f"qBittorrent sees the {name} at {place.root}/{name.lower()}: proven" in said
    assert "torrents on the SSD: 1, on the HDD: 0, elsewhere: 0" in said
    assert "none was tried" in said
    assert "it runs no program when a torrent finishes" in said
    assert "qBittorrent v" in said
    assert "the clock agrees with those of: the SSD's disk, the HDD's disk, qBittorrent" in said
    assert [line for line in said.splitlines() if line.endswith(":") and line[0] != " "] == [
        "settings:",
        "folders:",
        "qBittorrent:",
        "paths:",
        "clock:",
    ]
    assert said.splitlines()[-1].startswith("The settings can be used: ")
    assert tree(place.root) == before


def test_a_right_mapping_is_proven(place: Place) -> None:
    theirs = place.root / "theirs"
    theirs.symlink_to(place.root / "ssd")  # for the service another name than the tier's
    try:
        status, said = check(place.env | {"PATH_MAPPINGS": f"{theirs}={place.root}/ssd"})
    finally:
        theirs.unlink()
    assert status == 0, said
    if not place.old:
        assert f"qBittorrent sees the SSD at {theirs}, as mapped: proven" in said


def test_a_wrong_mapping_is_a_problem_on_both(place: Place) -> None:
    another = place.root / "another"
    status, said = check(
        place.env
        | {"DOWNLOAD_PATH_SSD": str(another), "PATH_MAPPINGS": f"{place.root}/ssd={another}"}
    )
    assert status == 3, said
    if place.old:
        assert "problem  qBittorrent lists" in said
        assert "No such file or directory" in said
    else:
        assert f"problem  qBittorrent does not see in {place.root}/ssd what the service" in said
    assert "-> mount the same folder in both, and set PATH_MAPPINGS" in said
    assert list(another.iterdir()) == []
    assert said.splitlines()[-1].startswith("This will not work as it is: 1 problem")


def test_a_folder_that_is_not_mounted_in_qbittorrents_container_is_found(
    place: Place, tmp_path: Path
) -> None:
    status, said = check(place.env | {"FINAL_DEST_BASE_HDD": str(tmp_path)})
    # Before 5.0 it cannot be told while no torrent is there; nothing is claimed then.
    assert status == (0 if place.old else 3), said
    wanted = "is not proven" if place.old else f"does not see in {tmp_path} what"
    assert wanted in said


def test_a_missing_mapping_is_guessed_from_where_the_torrents_are(
    place: Place, tmp_path: Path
) -> None:
    status, said = check(
        place.env
        | {"DOWNLOAD_PATH_SSD": str(place.root / "another"), "FINAL_DEST_BASE_HDD": str(tmp_path)}
    )
    assert "warning  torrents on the SSD: 0, on the HDD: 0, elsewhere: 1, for example at" in said
    assert status == (0 if place.old else 3)


def test_a_dry_run_writes_nothing_on_the_tiers_and_compares_a_torrent(place: Place) -> None:
    folders = [place.root / "ssd", place.root / "hdd"]
    before = [folder.stat().st_mtime_ns for folder in folders]
    status, said = check(place.env | {"DRY_RUN": "true"})
    assert status == 0, said
    assert "the files of 'A torrent' on the SSD are where qBittorrent lists them" in said
    assert "by its rights; nothing was written" in said
    assert [folder.stat().st_mtime_ns for folder in folders] == before


def test_it_works_beside_the_service_which_shows_the_same_in_its_status(place: Place) -> None:
    place.qbt.api.app_set_preferences({"max_ratio_enabled": True, "max_ratio_act": 3})
    root = place.root / "beside"
    (root / "ssd").mkdir(parents=True)
    with serving(root, place.qbt.url) as service:

        def checked() -> dict[str, dict[str, str]]:
            items = service.http.get("/status").json()["checks"]
            found = {item["code"]: item for item in items}
            return found if "removes_files" in found else {}

        found = service.wait_for(checked, "the checks are shown")
        assert found["removes_files"]["level"] == "warning"
        assert "share limit" in found["removes_files"]["message"]
        assert service.output().count("check: it removes torrents and their files") == 1
        env = place.env | {"STATE_DIR": str(service.state), "LOG_FILE": str(root / "qbm.log")}
        status, said = check(
            env | {"DOWNLOAD_PATH_SSD": str(service.ssd), "FINAL_DEST_BASE_HDD": str(service.hdd)}
        )
        assert status == 0, said
        assert "warning  it removes torrents and their files" in said
        assert "the SSD's marker is there" in said
        assert service.http.get("/health").json()["status"] == "healthy"
        assert service.process is not None
        assert service.process.poll() is None
    # The service has run: a tier without its marker is not mounted.
    (service.hdd / ".qbm-tier").unlink()
    status, said = check(
        env | {"DOWNLOAD_PATH_SSD": str(service.ssd), "FINAL_DEST_BASE_HDD": str(service.hdd)}
    )
    assert status == 3, said
    assert "problem  the HDD's marker" in said


def test_a_refused_login_is_tried_once_and_none_without_a_password(tmp_path: Path) -> None:
    for name in ("ssd", "hdd"):
        (tmp_path / name).mkdir()
    with running(tmp_path / "qbt", login=True) as qbt:
        place = Place(tmp_path, qbt, old=True)
        assert_failures(qbt, 0)

        status, said = check(place.env)
        assert status == 3
        assert "asks for a login: set QBIT_PASSWORD" in said
        assert "no login was tried" in said
        assert_failures(qbt, 0)

        status, said = check(place.env | {"QBIT_PASSWORD": "not the right one"})
        assert status == 3
        assert "refuses the login" in said
        assert "one login was tried, and no more are" in said
        assert "not the right one" not in said
        assert_failures(qbt, 1)

        status, said = check(place.env | {"QBIT_PASSWORD": PASSWORD})
        assert (status, "the login is accepted" in said) == (0, True), said
        assert_failures(qbt, 1)

    status, said = check(place.env | {"QBIT_PASSWORD": PASSWORD})
    assert status == 3
    assert "problem  no connection to qBittorrent" in said
    assert "no login was tried" in said
    assert "qBittorrent's" not in said.split("paths:")[-1].split("clock:")[0]


def assert_failures(qbt: Qbt, count: int) -> None:
    said = [str(row["message"]) for row in qbt.api.log_main()]
    assert len([line for line in said if "login failure" in line]) == count, said
