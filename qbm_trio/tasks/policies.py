"""What the settings mean to the tasks that obey them."""

from __future__ import annotations

from functools import partial

from pydantic import SecretStr

from ..adapters.copying import CopyOptions
from ..adapters.journal import Journal
from ..adapters.qbittorrent import Qbittorrent
from ..core.client import QbittorrentClient
from ..core.roots import Roots
from ..core.tags import LocationTags
from ..settings import Settings
from .jobs import Jobs
from .reconciler import ReconcilerPolicy
from .relocation import Relocator
from .relocation_proofs import Proofs
from .relocation_steps import Steps
from .space import SpaceManagement
from .space_plans import SpacePolicy
from .space_run import Outside, tier_anew
from .ssd_lists import SsdLists
from .tagging import TaggingPolicy
from .tiering import Policy
from .tiers import Tiers


def client_of(settings: Settings) -> Qbittorrent:
    """The qBittorrent that is to be talked to; nothing is sent yet."""
    return Qbittorrent(
        url=settings.qbit_url,
        username=settings.qbit_username,
        password=secret(settings.qbit_password),
        api_key=secret(settings.qbit_api_key),
        verify_ssl=settings.qbit_verify_ssl,
    )


def secret(value: SecretStr | None) -> str:
    """What is in it; "" when it is not set."""
    return value.get_secret_value() if value is not None else ""


def tiering_policy(settings: Settings) -> Policy:
    """What tiering obeys."""
    tagging = settings.enable_location_tagging and settings.auto_tag_new_torrents
    return Policy(
        roots=roots_of(settings),
        copies_at_once=settings.max_concurrent_copy_operations,
        copy_options=CopyOptions(
            verification=settings.verification,
            nice=settings.copy_operation_nice_level,
            rate_limit_bytes_per_s=settings.copy_rate_limit_bytes_s,
        ),
        tags=(settings.ssd_location_tag, settings.hdd_location_tag) if tagging else None,
    )


def tagging_policy(settings: Settings) -> TaggingPolicy:
    """What the tagging of all torrents obeys."""
    return TaggingPolicy(
        roots=roots_of(settings),
        tags=LocationTags(ssd=settings.ssd_location_tag, hdd=settings.hdd_location_tag),
        enabled=settings.enable_location_tagging,
        dry_run=settings.dry_run,
    )


def reconciler_policy(settings: Settings) -> ReconcilerPolicy:
    """What the reconciler obeys."""
    return ReconcilerPolicy(
        roots=roots_of(settings),
        interval_s=settings.reconcile_interval_s,
        retention_s=settings.job_retention_s,
        dry_run=settings.dry_run,
    )


def roots_of(settings: Settings) -> Roots:
    """Both tiers, and how qBittorrent's paths lead there."""
    return Roots(
        ssd=settings.download_path_ssd,
        hdd=settings.final_dest_base_hdd,
        path_mappings=settings.path_mappings,
    )


def space_management(
    settings: Settings,
    *,
    client: QbittorrentClient,
    jobs: Jobs,
    journal: Journal,
    tiers: Tiers,
) -> SpaceManagement:
    """Space management and what it consists of."""
    roots = roots_of(settings)
    tags = (settings.ssd_location_tag, settings.hdd_location_tag)
    lists = SsdLists(roots, client=client, tiers=tiers)
    steps = Steps(
        roots,
        location_tags=tags if settings.enable_location_tagging else None,
        grace_s=settings.delete_grace_s,
        client=client,
        tiers=tiers,
        proofs=Proofs(
            roots,
            lists=lists,
            client=client,
            journal=journal,
            tiers=tiers,
            nice=settings.copy_operation_nice_level,
        ),
        nice=settings.copy_operation_nice_level,
        tier_anew=partial(tier_anew, jobs),
    )
    return SpaceManagement(
        SpacePolicy(
            roots=roots,
            threshold_bytes=settings.threshold_bytes,
            target_bytes=settings.target_bytes,
            interval_s=settings.space_check_interval_s,
            dry_run=settings.dry_run,
        ),
        Outside(roots=roots, client=client, jobs=jobs, journal=journal, lists=lists),
        tiers=tiers,
        relocator=Relocator(steps, client=client, journal=journal),
    )
