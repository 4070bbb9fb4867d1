"""Read the environment, check it whole, look at the folders it names.

Every problem is reported at once, one line each. Apart from the folders, no line
holds a value: a secret that ended up in the wrong variable must not reach a log.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..core.errors import SettingsError
from ..core.model import Verification
from ..core.text import one_line
from .model import NAMES, RESERVED_TAGS, Settings, qbittorrent_address

MIN_API_KEY_LENGTH = 16
EXAMPLE_KEYS = ("your-", "your_", "<your", "change-me", "changeme")
"""What the examples of documentation begin with, ours and the old tool's: no key is so."""

_MAX_SECRET_FILE_BYTES = 64 * 1024
_OLD_TOOL_PREFIXES = ("SONARR_", "RADARR_", "TAUTULLI_")
_OLD_TOOL_NAMES = frozenset(
    {
        "COPY_BUFFER_SIZE",
        "ENABLE_IMPORT_SCRIPT_MODE",
        "NOTIFY_ARR_ENABLED",
        "NOTIFY_ARR_IN_IMPORT_MODE",
        "PLEX_PATH_MAPPINGS",
    }
)
_OLD_NAMES = {"LOCK_DIR": "STATE_DIR"}


def load(environ: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """Read and check the settings, and look at the folders they name.

    Nothing is created. Empty values count as absent.

    Returns:
        The settings, and warnings that do not stop the service, one line each.

    Raises:
        SettingsError: with every problem, one line each, in the order of the
            documentation; each names the variable, what is wrong and what to do.
    """
    found = _Findings()
    values = found.read(environ)
    try:
        settings = Settings(**values)
    except ValidationError as error:
        for detail in error.errors(include_input=False):
            # Defaults that follow from other settings are not made once one is wrong.
            if detail["type"] != "default_factory_not_called":
                name = str(detail["loc"][0])
                found.problem(name, f"not {_expected(name)}; correct or remove it")
        # What can be checked of the rest is checked, for all problems to show at once.
        settings = Settings(**{k: v for k, v in values.items() if k not in found.problems})
    for check in (_check_key, _check_relations, _check_tiers, _check_state):
        check(settings, found)
    found.look_around(environ, settings)
    if found.problems:
        order = {name: position for position, name in enumerate(NAMES)}
        raise SettingsError(
            [
                f"{name}: {text}"
                for name, text in sorted(
                    found.problems.items(), key=lambda p: order.get(p[0], len(order))
                )
            ],
            found.warnings,
        )
    return settings, found.warnings


@dataclass(slots=True)
class _Findings:
    """What is wrong, collected: at most one problem for a variable."""

    problems: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def problem(self, name: str, text: str) -> None:
        self.problems.setdefault(name, one_line(text))

    def sound(self, *names: str) -> bool:
        """Whether these can be looked at further."""
        return not self.problems.keys() & set(names)

    def read(self, environ: Mapping[str, str]) -> dict[str, Any]:
        """The given values, by name, whether they came plain, in a file, or by an old name."""
        values: dict[str, Any] = {}
        for name in (*NAMES, *_OLD_NAMES):
            value, file = environ.get(name, ""), environ.get(f"{name}_FILE", "")
            if value and file:
                self.problem(name, f"given both as {name} and as {name}_FILE; remove one of them")
            elif file:
                value = self._read_file(name, Path(file))
            if value:
                values[name] = value
        for old, new in _OLD_NAMES.items():
            if old in values:
                value = values.pop(old)
                advice = f"rename it to {new}" if new not in values else f"{new} is used"
                self.warnings.append(f"{old}: this is the old name of {new}; {advice}")
                values.setdefault(new, value)
            if old in self.problems:
                self.problem(new, self.problems.pop(old))
        return values

    def _read_file(self, name: str, path: Path) -> str:
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_SECRET_FILE_BYTES + 1)
            if len(data) > _MAX_SECRET_FILE_BYTES:
                raise ValueError("it is over 64 KiB")
            value = data.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            reason = "it is not UTF-8"
        except OSError as error:
            reason = error.strerror or "it cannot be read"
        except ValueError as error:
            reason = str(error)
        else:
            if value:
                return value
            reason = "it is empty"
        self.problem(name, f"the file that {name}_FILE names cannot be used ({reason}); mend it")
        return ""

    def look_around(self, environ: Mapping[str, str], settings: Settings) -> None:
        """Warn of what is given and has no effect."""
        known = {*NAMES, *_OLD_NAMES}
        for name in sorted(environ):
            base = name.removesuffix("_FILE")
            if name in known or base in known:
                continue
            if name.startswith(_OLD_TOOL_PREFIXES) or base in _OLD_TOOL_NAMES:
                self.warnings.append(f"{name}: belonged to the old tool and has no effect here")
            elif close := difflib.get_close_matches(base, NAMES, n=1, cutoff=0.88):
                self.warnings.append(f"{name}: is no setting and has no effect; {close[0]} is one")
        old_file = settings.config_base / "config.toml"
        if _exists(old_file):
            self.warnings.append(
                f"{old_file}: belonged to the old tool and has no effect here; "
                "settings are environment variables"
            )


def _expected(name: str) -> str:
    extra = Settings.model_fields[name.lower()].json_schema_extra
    assert isinstance(extra, dict)
    return str(extra["expected"])


def _check_key(settings: Settings, found: _Findings) -> None:
    # With an unusable HTTP_ENABLED its default holds: the key is asked for all the same.
    if not settings.http_enabled or not found.sound("HTTP_API_KEY"):
        return
    advice = "make one with: openssl rand -hex 32"
    key = settings.http_api_key.get_secret_value() if settings.http_api_key else ""
    if not key:
        found.problem("HTTP_API_KEY", f"not set; {advice}, or set HTTP_ENABLED=false")
    elif key.lower().startswith(EXAMPLE_KEYS):
        found.problem("HTTP_API_KEY", f"an example that everybody can read; {advice}")
    elif len(key) < MIN_API_KEY_LENGTH:
        found.problem("HTTP_API_KEY", f"shorter than {MIN_API_KEY_LENGTH} characters; {advice}")
    elif not (key.isascii() and key.isprintable()) or " " in key:
        found.problem("HTTP_API_KEY", f"holds a character that no HTTP header can carry; {advice}")


def _check_relations(settings: Settings, found: _Findings) -> None:
    given = settings.model_fields_set
    names = ("DISK_SPACE_THRESHOLD_GB", "DISK_SPACE_TARGET_GB")
    threshold, target = settings.threshold_bytes, settings.target_bytes
    if found.sound(*names) and "disk_space_target_gb" in given and target <= threshold:
        found.problem(names[1], f"not above {names[0]}; raise it, or remove it for 10 % more")
    if found.sound("QBIT_HOST", "QBIT_PORT") and "qbit_port" in given:
        port = qbittorrent_address(settings.qbit_host).port
        if port is not None and port != settings.qbit_port:
            found.problem("QBIT_PORT", "differs from the port in QBIT_HOST; remove one of them")
    if (
        found.sound("VERIFICATION", "VERIFICATION_ENABLED")
        and {"verification", "verification_enabled"} <= given
        and settings.verification_enabled is (settings.verification is Verification.SIZE)
    ):
        found.problem("VERIFICATION_ENABLED", "contradicts VERIFICATION; remove it")
    tags = {
        "SSD_LOCATION_TAG": settings.ssd_location_tag,
        "HDD_LOCATION_TAG": settings.hdd_location_tag,
    }
    for name, tag in tags.items():
        if found.sound(name) and tag in RESERVED_TAGS:
            found.problem(name, f"{tag} is reserved for the service's own use; choose another")
    if found.sound(*tags) and settings.ssd_location_tag == settings.hdd_location_tag:
        found.problem("HDD_LOCATION_TAG", "the same as SSD_LOCATION_TAG; choose another")


def _check_tiers(settings: Settings, found: _Findings) -> None:
    tiers = {
        "DOWNLOAD_PATH_SSD": settings.download_path_ssd,
        "FINAL_DEST_BASE_HDD": settings.final_dest_base_hdd,
    }
    for name, path in tiers.items():
        if found.sound(name) and (wrong := _folder_problem(path)):
            found.problem(name, f"{path} {wrong}")
    if not found.sound(*tiers):
        return
    ssd, hdd = (path.resolve() for path in tiers.values())
    if ssd.samefile(hdd):
        text = f"{hdd} is the SSD's folder as well; give the folder on the HDD"
    elif hdd.is_relative_to(ssd):
        text = f"{hdd} lies inside the SSD's folder {ssd}; give two separate folders"
    elif ssd.is_relative_to(hdd):
        text = f"the SSD's folder {ssd} lies inside {hdd}; give two separate folders"
    else:
        return
    found.problem("FINAL_DEST_BASE_HDD", text)


def _check_state(settings: Settings, found: _Findings) -> None:
    path = settings.state_dir
    if not found.sound("STATE_DIR", "CONFIG_BASE"):
        return
    # The service makes it; what must be there is a writable folder to make it in.
    while not _exists(path) and path != path.parent:
        path = path.parent
    if wrong := _folder_problem(path):
        place = f"{path} {wrong}" if path == settings.state_dir else (
            f"{settings.state_dir} cannot be made: {path} {wrong}"
        )  # fmt: skip
        found.problem("STATE_DIR", f"{place} (or choose another place by STATE_DIR or CONFIG_BASE)")


def _exists(path: Path) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:
        return False


def _folder_problem(path: Path) -> str | None:
    """What is wrong with a folder that must be there and writable, and what to do."""
    try:
        if not path.is_dir():
            if _exists(path):
                return "is not a folder; give a folder"
            return "does not exist; create or mount it, or give the right path"
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            return f"is not writable for user id {os.geteuid()}; change its owner or mode"
    except OSError as error:
        return f"cannot be used ({error.strerror}); mend it or give the right path"
    return None
