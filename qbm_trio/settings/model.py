"""What can be set. Each field is one environment variable, its name in upper case.

The description of a field and its ``expected`` are also what docs/configuration.md
and the problem lines of `load` say.
"""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from ..core.model import Verification

GB = 10**9
"""What GB means in a setting: the unit that disks are sold in, as ``df -H`` counts."""
MB = 10**6

RESERVED_TAGS = frozenset({"qbm-pin", "qbm-relocating"})
"""Tags that mean something to the service itself."""


def _mappings(value: object) -> object:
    """``/theirs=/ours,…`` as pairs; `placement.map_path` takes the longest that fits."""
    if not isinstance(value, str):
        return value
    pairs = []
    for item in filter(None, (part.strip() for part in value.split(","))):
        theirs, equals, ours = (side.strip() for side in item.partition("="))
        if not equals or not theirs.startswith("/") or not ours.startswith("/"):
            raise ValueError("not a pair of absolute paths")
        pairs.append((theirs.rstrip("/") or "/", ours.rstrip("/") or "/"))
    if len({theirs for theirs, _ in pairs}) != len(pairs):
        raise ValueError("one path mapped twice")
    return tuple(pairs)


def _tag(value: str) -> str:
    if not value or "," in value or not value.isprintable():
        raise ValueError("not a tag")
    return value


def _absolute(path: Path) -> Path:
    if not path.is_absolute() or "\0" in str(path):
        raise ValueError("not an absolute path")
    return path


def qbittorrent_address(host: str) -> SplitResult:
    """QBIT_HOST in whatever form it may have, as a URL.

    Raises:
        ValueError: it is none, or holds a user name, a query or a fragment.
    """
    with suppress(ValueError):  # a name, or a URL
        host = f"[{host}]" if ip_address(host).version == 6 else host
    url = urlsplit(host if "://" in host else f"//{host}", scheme="http")
    if (
        url.scheme not in ("http", "https")
        or not url.hostname
        or "@" in url.netloc
        or url.query
        or url.fragment
        or not host.isprintable()
        or " " in host
        or url.port == 0  # reading the port also proves that it is one
    ):
        raise ValueError("not a host")
    return url


def _host(value: str) -> str:
    qbittorrent_address(value)
    return value


def _bind_host(value: str) -> str:
    if not value.isprintable() or set(value) & set(" /@"):
        raise ValueError("not a host")
    return value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _strip(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


Folder = Annotated[Path, AfterValidator(_absolute)]
Tag = Annotated[str, BeforeValidator(_strip), AfterValidator(_tag)]
Host = Annotated[str, BeforeValidator(_strip), AfterValidator(_host)]
BindHost = Annotated[str, BeforeValidator(_strip), AfterValidator(_bind_host)]
PathMappings = Annotated[tuple[tuple[str, str], ...], NoDecode, BeforeValidator(_mappings)]
LogLevel = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)
]


def _setting(default: Any, meaning: str, expected: str, **constraints: Any) -> Any:
    """A field. ``expected`` completes "this is not …"; a callable default sees earlier fields."""
    key = "default_factory" if callable(default) else "default"
    default_text = constraints.pop("default_text", None)
    extra = {"expected": expected} | ({"default_text": default_text} if default_text else {})
    return Field(
        **{key: default}, description=meaning, json_schema_extra=extra, validate_default=False,
        **constraints,
    )  # fmt: skip


def _bytes(amount: float, unit: int) -> int:
    """So much in bytes; more than any disk can have is as good as that."""
    return round(min(amount * unit, 2.0**63))


_BOOL = "true or false"
_SECONDS = "a number of seconds, 0 or more"


class Settings(BaseSettings):
    """Everything that can be configured. Made by `load`; never changes."""

    model_config = SettingsConfigDict(
        alias_generator=str.upper,
        populate_by_name=True,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    http_enabled: bool = _setting(
        True,
        "Serve HTTP. With `false` finished torrents are found by asking qBittorrent alone",
        _BOOL,
    )
    http_host: BindHost = _setting(
        "127.0.0.1", "Address to listen on; `0.0.0.0` for every network", "an address or a name"
    )
    http_port: int = _setting(
        8081, "Port to listen on; 0 for any free one", "a port from 0 to 65535", ge=0, le=65535
    )
    http_api_key: SecretStr | None = _setting(
        None, "What clients must send. At least 16 characters, random", "a key",
        default_text="required with HTTP",
    )  # fmt: skip

    qbit_host: Host = _setting(
        "localhost",
        "qBittorrent's Web UI: a name, an address, or a URL such as `https://nas:8443/qbt`."
        " A URL without a port means `QBIT_PORT` if that is given, else 443 for https",
        "a host name, an address or an http(s) URL without user name and password",
    )
    qbit_port: int = _setting(8080, "Its port", "a port from 1 to 65535", ge=1, le=65535)
    qbit_username: str = _setting("admin", "Its user name", "a name")
    qbit_password: SecretStr | None = _setting(
        None, "Its password. With neither password nor API key no login is tried", "a password"
    )
    qbit_api_key: SecretStr | None = _setting(
        None,
        "Its API key (qBittorrent 5.2 and later), instead of name and password, which "
        "[notice more](durability.md#what-is-not-promised)",
        "a key",
    )
    qbit_verify_ssl: bool = _setting(True, "Check its certificate", _BOOL)

    download_path_ssd: Folder = _setting(
        Path("/downloads/ssd"), "The SSD tier: where downloads land", "an absolute path"
    )
    final_dest_base_hdd: Folder = _setting(
        Path("/downloads/hdd"),
        "The HDD tier: copies go to `<this>/<category>/…`, or where another torrent, downloaded to "
        "another folder, has the same names there, to `<this>/<category>/<folder on the SSD>/…`",
        "an absolute path",
    )
    path_mappings: PathMappings = _setting(
        (),
        "`/downloads=/data/downloads,…`: qBittorrent's path = the service's path;"
        " the longest match wins",
        "a list like /theirs=/ours,/theirs2=/ours2 of absolute paths, each of theirs once",
    )

    disk_space_threshold_gb: float = _setting(
        100.0, "Free space on the SSD (10⁹ bytes) below which space is made",
        "a number of GB, 0 or more", ge=0, allow_inf_nan=False,
    )  # fmt: skip
    disk_space_target_gb: float = _setting(
        lambda data: data.get("disk_space_threshold_gb", 100.0) * 1.1,
        "Free space at which making space ends", "a number of GB, 0 or more",
        ge=0, allow_inf_nan=False, default_text="threshold + 10 %",
    )  # fmt: skip
    hdd_min_free_gb: float = _setting(
        1.0, "Free space on the HDD that copies never use", "a number of GB, 0 or more",
        ge=0, allow_inf_nan=False,
    )  # fmt: skip

    max_concurrent_copy_operations: int = _setting(
        1, "Copies writing to the HDD at once; more than one makes a disk seek",
        "a whole number from 1 to 64", ge=1, le=64,
    )  # fmt: skip
    copy_operation_nice_level: int = _setting(
        10, "How far copies step back for other programs, CPU and disk",
        "a whole number from 0 to 19", ge=0, le=19,
    )  # fmt: skip
    copy_rate_limit_mb_s: float | None = _setting(
        None, "Most that all copies together write, in 10⁶ bytes a second; empty for no limit",
        "a number above 0", gt=0, allow_inf_nan=False,
    )  # fmt: skip
    max_concurrent_processes: int = _setting(
        3, "Torrent jobs at once", "a whole number from 1 to 100", ge=1, le=100
    )
    queue_capacity: int = _setting(
        1000, "Jobs that may wait; further notifications are told to come back",
        "a whole number from 1 to 1000000", ge=1, le=1_000_000,
    )  # fmt: skip
    copy_retry_attempts: int = _setting(
        3, "Tries of a job before it fails", "a whole number from 1 to 100", ge=1, le=100
    )
    verification_enabled: bool | None = _setting(
        None, "Old form: `false` means `VERIFICATION=size`", _BOOL
    )
    verification: Annotated[Verification, BeforeValidator(_lower)] = _setting(
        lambda data: (
            Verification.SIZE if data.get("verification_enabled") is False else Verification.PIECES
        ),
        "How a copy is proved: `pieces` by the torrent's own hashes on the way to the disk,"
        " `readback` by reading it again as well, `size` hardly",
        "one of pieces, readback, size", default_text="pieces",
    )  # fmt: skip

    enable_location_tagging: bool = _setting(True, "Tag torrents by where their data is", _BOOL)
    auto_tag_new_torrents: bool = _setting(True, "Tag a torrent when its job ends", _BOOL)
    ssd_location_tag: Tag = _setting("ssd", "Tag for data on the SSD", "a tag without a comma")
    hdd_location_tag: Tag = _setting("hdd", "Tag for data on the HDD", "a tag without a comma")

    reconcile_interval_s: float = _setting(
        60.0, "Time between two looks at what has changed in qBittorrent",
        "a number of seconds above 0", gt=0, allow_inf_nan=False,
    )  # fmt: skip
    space_check_interval_s: float = _setting(
        300.0, "Time between two looks at the SSD's free space", "a number of seconds above 0",
        gt=0, allow_inf_nan=False,
    )  # fmt: skip
    delete_grace_s: float = _setting(
        10.0, "Wait between a passed recheck and the deletion", _SECONDS,
        ge=0, allow_inf_nan=False,
    )  # fmt: skip
    shutdown_grace_s: float = _setting(
        5.0, "What running copies get to finish when the service stops", _SECONDS,
        ge=0, allow_inf_nan=False,
    )  # fmt: skip
    job_retention_days: float = _setting(
        30.0, "Finished jobs are kept this long, and at least a day", "a number of days, 0 or more",
        ge=0, allow_inf_nan=False,
    )  # fmt: skip

    dry_run: bool = _setting(
        False, "Only log what would be done; nothing is written on the tiers or in qBittorrent",
        _BOOL,
    )  # fmt: skip
    log_level: LogLevel = _setting(
        "INFO", "Least level that is logged", "one of DEBUG, INFO, WARNING, ERROR, CRITICAL"
    )
    log_format: Annotated[Literal["text", "json"], BeforeValidator(_lower)] = _setting(
        "text", "`text` or `json`, one line each", "text or json"
    )
    config_base: Folder = _setting(
        Path("/config"), "Where state and log are kept unless said below", "an absolute path"
    )
    state_dir: Folder = _setting(
        lambda data: data.get("config_base", Path("/config")) / "qbit-manager-state",
        "Journal and recovery points; a local disk. `LOCK_DIR` is its old name",
        "an absolute path", default_text="$CONFIG_BASE/qbit-manager-state",
    )  # fmt: skip
    log_file: Folder = _setting(
        lambda data: data.get("config_base", Path("/config")) / "log" / "qbit-manager.log",
        "Log, beside standard output", "an absolute path",
        default_text="$CONFIG_BASE/log/qbit-manager.log",
    )  # fmt: skip

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` hands over: it knows ``NAME_FILE``, old names and problems."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    @property
    def qbit_url(self) -> str:
        """The base URL of qBittorrent, without a slash at the end and without credentials."""
        url = qbittorrent_address(self.qbit_host)
        port = url.port
        if port is None:
            is_url = "://" in self.qbit_host and "qbit_port" not in self.model_fields_set
            port = 443 if is_url and url.scheme == "https" else self.qbit_port
        name = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
        return f"{url.scheme}://{name}:{port}{url.path.rstrip('/')}"

    @property
    def threshold_bytes(self) -> int:
        """Free bytes on the SSD below which space is made."""
        return _bytes(self.disk_space_threshold_gb, GB)

    @property
    def target_bytes(self) -> int:
        """Free bytes on the SSD at which making space ends."""
        return _bytes(self.disk_space_target_gb, GB)

    @property
    def hdd_min_free_bytes(self) -> int:
        """Bytes on the HDD that copies leave free."""
        return _bytes(self.hdd_min_free_gb, GB)

    @property
    def copy_rate_limit_bytes_s(self) -> int | None:
        """Most that all copies together write, in bytes a second; None for no limit."""
        limit = self.copy_rate_limit_mb_s
        return None if limit is None else max(1, _bytes(limit, MB))

    @property
    def job_retention_s(self) -> float:
        """How long finished jobs are kept, in seconds.

        A day at least: of one that is forgotten at once it could not be told that its user
        had cancelled it, and the reconciler would ask for it again.
        """
        return max(1, self.job_retention_days) * 86_400

    def secrets(self) -> tuple[str, ...]:
        """Every secret value, for the log to strike out."""
        given = (self.http_api_key, self.qbit_password, self.qbit_api_key)
        return tuple(value for s in given if s is not None and (value := s.get_secret_value()))


NAMES = tuple(name.upper() for name in Settings.model_fields)
"""Every variable, in the order of the documentation."""
