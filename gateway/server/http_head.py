"""The head of an HTTP message, as bytes; for an answer to the client, and for a request that goes up.

Rule: no name and no value may hold a control character, whoever made it: it would end a line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

SERVER_NAME = "messages-gateway"
"""Nobody needs to know the versions behind it."""

_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def http_head(start: str, headers: Mapping[str, str]) -> bytes:
    """``start`` is the first line, and the lines that are safe already. Raises ValueError."""
    if _FORBIDDEN.search("".join([*headers, *headers.values()])):
        raise ValueError("a header holds a control character")
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    return f"{start}{''.join(lines)}\r\n".encode()
