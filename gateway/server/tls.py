"""TLS to upstreams: one verifying context, made when the first https upstream needs it.

Why this is imported before anything else of the server: ``import aiohttp`` makes two contexts of its own
and loads the system's certificates into both (aiohttp/connector.py, ``_SSL_CONTEXT_VERIFIED``): 160 ms
and 4 MB on the machine where it was measured, at every start, also for upstreams without TLS. So aiohttp
is imported while the certificate store looks empty. Its contexts then trust nobody: whoever forgot ours
would get an error, not an unverified connection.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_STORE_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@contextmanager
def _empty_certificate_store() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _STORE_VARIABLES}
    os.environ.update(dict.fromkeys(_STORE_VARIABLES, os.devnull))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


with _empty_certificate_store():
    import aiohttp  # noqa: F401


@cache
def tls_context() -> ssl.SSLContext:
    """Verifies host names and certificates against the system's store; takes some 80 ms the first time."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
