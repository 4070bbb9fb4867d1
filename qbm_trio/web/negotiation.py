"""Which form of an answer a client prefers: its ``Accept`` (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence

_QUALITY = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")


def preferred(accept: str, offers: Sequence[str]) -> str:
    """The one of ``offers`` that the client likes best; of equals, the first.

    It is also the first if the client wants none of them, or says nothing: an answer in
    another form is worth more than none.

    Args:
        accept: the header's value; "" when it was not sent.
        offers: media types in lower case, without parameters.
    """
    ranges = [found for part in accept.split(",") if (found := _range(part))]
    return max(offers, key=lambda offer: _quality(offer, ranges))  # the first of equals


def _range(part: str) -> tuple[str, float] | None:
    """A media range and its weight. What cannot be read counts as not there."""
    media_range, *parameters = (word.strip().lower() for word in part.split(";"))
    quality = "1"
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            quality = value
    return (media_range, float(quality)) if _QUALITY.fullmatch(quality) else None


def _quality(offer: str, ranges: Sequence[tuple[str, float]]) -> float:
    """The weight by the most specific range that matches; 0 when none does."""
    for matching in (offer, offer.partition("/")[0] + "/*", "*/*"):
        # A type may be there more than once, in several versions.
        if weights := [weight for media_range, weight in ranges if media_range == matching]:
            return max(weights)
    return 0.0
