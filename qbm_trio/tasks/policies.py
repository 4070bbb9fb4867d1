"""What the settings mean to the tasks that obey them."""

from __future__ import annotations

from ..adapters.copying import CopyOptions
from ..core.tags import LocationTags
from ..settings import Settings
from .tagging import TaggingPolicy
from .tiering import Policy


def tiering_policy(settings: Settings) -> Policy:
    """What tiering obeys."""
    tagging = settings.enable_location_tagging and settings.auto_tag_new_torrents
    return Policy(
        ssd=settings.download_path_ssd,
        hdd=settings.final_dest_base_hdd,
        path_mappings=settings.path_mappings,
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
        ssd=settings.download_path_ssd,
        hdd=settings.final_dest_base_hdd,
        path_mappings=settings.path_mappings,
        tags=LocationTags(ssd=settings.ssd_location_tag, hdd=settings.hdd_location_tag),
        enabled=settings.enable_location_tagging,
        dry_run=settings.dry_run,
    )
