"""What the installed aiohttp can: whether it may serve at all, and whether direct_upstream.py works with it.

Rules:
* Only aiohttp's C parser: most request-smuggling holes were in the Python one (reliability.md).
* What we lean on beyond aiohttp's documentation is named here, and tried by tests/server/test_direct_upstream.py
  (upstreams) and tests/faults/test_waiting.py (clients) on the installed and the newest release.
"""

from __future__ import annotations

import inspect

import aiohttp
from aiohttp import http_parser
from aiohttp.web_protocol import RequestHandler

OLDEST = (3, 14, 3)

_CLIENT_SIDE = (
    (aiohttp.connector.Connection, ("protocol", "transport")),
    (aiohttp.client_proto.ResponseHandler, ("should_close",)),
    (aiohttp.StreamReader, ("_buffer", "_size", "_cursor", "_http_chunk_splits")),
    (http_parser.HttpResponseParser, ("feed_data", "feed_eof")),
)
_SERVER_SIDE = ((RequestHandler, ("_request_count", "_request_in_progress", "_waiter", "force_close")),)


def refuse_unsafe_aiohttp() -> str | None:
    """Why this aiohttp must not serve; None when it may."""
    version = tuple(int(part) for part in aiohttp.__version__.split(".")[:3] if part.isdigit())
    if version < OLDEST:
        return f"aiohttp {aiohttp.__version__} has known holes; install 3.14.3 or newer"
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        return "aiohttp runs without its C parser (AIOHTTP_NO_EXTENSIONS, or a build without it); install a wheel"
    lacking = _lacking(_SERVER_SIDE)
    return f"aiohttp {aiohttp.__version__} is too new: {lacking}; install 3.14" if lacking else None


def unsupported() -> str | None:
    """What this aiohttp lacks for direct_upstream.py; None when all is there."""
    parameters = list(inspect.signature(aiohttp.TCPConnector.connect).parameters)
    if parameters != ["self", "req", "traces", "timeout"]:
        return "TCPConnector.connect takes other arguments"
    return _lacking(_CLIENT_SIDE)


def _lacking(owners: tuple[tuple[type, tuple[str, ...]], ...]) -> str | None:
    for owner, names in owners:
        for name in names:
            if not hasattr(owner, name):
                return f"{owner.__name__} has no {name}"
    return None
