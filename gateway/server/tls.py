"""TLS to upstreams: one verifying context, made when the first https upstream needs it.

Nothing else of aiohttp verifies anything here: lean_aiohttp.py says why.
"""

from __future__ import annotations

import ssl
from functools import cache


@cache
def tls_context() -> ssl.SSLContext:
    """Verifies host names and certificates against the system's store; takes some 80 ms the first time."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
