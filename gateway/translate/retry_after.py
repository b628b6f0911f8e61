"""When to try again: from a header or from the body, in whole seconds (R114).

Rule: rounded up; Claude Code reads whole seconds only (client.md, finding 12).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

_BODY = re.compile(
    rb'"retryDelay"\s*:\s*"(\d+(?:\.\d+)?)s"|(?:try again|retry) (?:in|after) (\d+(?:\.\d+)?)\s?(ms|s\b|seconds?)',
    re.IGNORECASE,
)


def retry_after_seconds(headers: Mapping[str, str], body: bytes) -> int | None:
    """Seconds to wait, None when nobody said. A date needs the response's own ``date`` header to compare with."""
    value = headers.get("retry-after", "").strip()
    if value:
        try:
            return max(0, math.ceil(float(value)))
        except (ValueError, OverflowError):
            seconds = _until(value, headers.get("date", ""))
            if seconds is not None:
                return seconds
    milliseconds = headers.get("retry-after-ms", "").strip()
    if milliseconds.isdigit():
        return math.ceil(int(milliseconds) / 1000)
    found = _BODY.search(body[:65536])
    if found is None:
        return None
    seconds_text = found[1] or found[2]
    seconds_float = float(seconds_text) / (1000 if (found[3] or b"").lower() == b"ms" else 1)
    return math.ceil(seconds_float)


def _until(date: str, now: str) -> int | None:
    try:
        wait = parsedate_to_datetime(date) - parsedate_to_datetime(now)
    except (TypeError, ValueError):
        return None
    return max(0, math.ceil(wait.total_seconds()))
