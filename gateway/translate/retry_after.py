"""When to try again: from a header or from the body, in whole seconds (R114).

Rule: rounded up, at most 30 days; Claude Code reads whole seconds only (client.md, finding 12).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

LONGEST_WAIT = 30 * 24 * 3600

_BODY = re.compile(
    rb'"retryDelay"\s*:\s*"(\d+(?:\.\d+)?)s"|(?:try again|retry) (?:in|after) (\d+(?:\.\d+)?)\s?(ms|s\b|seconds?)',
    re.IGNORECASE,
)


def retry_after_seconds(headers: Mapping[str, str], body: bytes) -> int | None:
    """Seconds to wait, None when nobody said. A date needs the response's own ``date`` header to compare with."""
    seconds = _number(headers.get("retry-after", ""))
    if seconds is None:
        seconds = _until(headers.get("retry-after", ""), headers.get("date", ""))
    if seconds is None:
        seconds = _number(headers.get("retry-after-ms", ""), 1000)
    found = _BODY.search(body[:65536])
    if seconds is None and found is not None:
        seconds = _number(found[1] or found[2], 1000 if (found[3] or b"").lower() == b"ms" else 1)
    return None if seconds is None else math.ceil(min(seconds, LONGEST_WAIT))


def _number(text: str | bytes, unit: int = 1) -> float | None:
    try:
        value = float(text) / unit
    except ValueError:
        return None
    return None if math.isnan(value) else max(0.0, value)


def _until(date: str, now: str) -> float | None:
    try:
        wait = parsedate_to_datetime(date) - parsedate_to_datetime(now)
    except (TypeError, ValueError, OverflowError):
        return None
    return max(0.0, wait.total_seconds())
