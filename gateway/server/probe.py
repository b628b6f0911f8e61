"""Can the upstreams be reached? One TCP connection each, at the start, for the table that a person reads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from urllib.parse import urlsplit

from gateway.routing import Provider

PROBE_SECONDS = 1.5


async def unreachable(providers: Iterable[Provider]) -> set[str]:
    """The names of the providers none of whose addresses takes a connection in time. Sends nothing."""
    asked = [provider for provider in providers if provider.base_url and provider.missing_key is None]
    connected = await asyncio.gather(*map(_any_connects, asked))
    return {provider.name for provider, ok in zip(asked, connected, strict=True) if not ok}


async def _any_connects(provider: Provider) -> bool:
    urls = {endpoint.base_url for endpoint in provider.endpoints} or {provider.base_url}
    return any(await asyncio.gather(*map(_connects, urls)))


async def _connects(url: str) -> bool:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            _, writer = await asyncio.open_connection(parts.hostname, port)
    except (OSError, TimeoutError, ValueError):
        return False
    writer.close()
    return True
