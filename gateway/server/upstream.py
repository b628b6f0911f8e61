"""Requests to upstreams: one session, limits of our own, failures as our errors.

Rules (reliability.md, "aiohttp as found"):
* No pool limit that queues silently, no total timeout that ends long answers, no redirects, no cookies,
  no environment proxies, no compression that would hold back events.
* A failure names the provider, never its URL or key.
* Leaving ``open`` closes the connection unless the answer was read to its end; so a cancelled handler
  cancels the upstream at once.
"""

from __future__ import annotations

import asyncio
import io
import os
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import aiohttp

from gateway.adapters.base import UpstreamRequest
from gateway.errors import UpstreamFailed, UpstreamProtocolError, UpstreamTimeout
from gateway.routing import Target
from gateway.server.tls import tls_context

LARGE_BODY_BYTES = 1 << 20
"""From here on a body is written in pieces; aiohttp warns about one large write."""
MAX_ERROR_BYTES = 64 * 1024
ERROR_BODY_SECONDS = 10.0


def new_session() -> aiohttp.ClientSession:
    """The process's client session."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, limit_per_host=0, keepalive_timeout=30, enable_cleanup_closed=True),
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        headers={"accept-encoding": "identity"},
        max_line_size=32 * 1024,
        max_field_size=32 * 1024,
    )


class UpstreamAnswer:
    """The status, headers and bytes of one answer."""

    def __init__(self, response: aiohttp.ClientResponse, target: Target) -> None:
        self._response = response
        self._target = target
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.headers.items()}

    async def read(self, seconds: float | None) -> bytes:
        """The next bytes as they arrived; b"" at the end. Raises GatewayError; TimeoutError after ``seconds``."""
        try:
            async with asyncio.timeout(seconds):
                return await self._response.content.readany()
        except (aiohttp.ClientError, ConnectionError) as error:
            raise UpstreamProtocolError(f"{self._target.provider.name} cut the connection in mid-answer") from error

    async def error_body(self) -> bytes:
        """The beginning of an error's body, whatever is wrong with it."""
        body = b""
        try:
            async with asyncio.timeout(ERROR_BODY_SECONDS):
                while len(body) < MAX_ERROR_BYTES and (data := await self._response.content.readany()):
                    body += data
        except (aiohttp.ClientError, ConnectionError, TimeoutError):
            pass
        return body[:MAX_ERROR_BYTES]


class EmbeddedAnswer:
    """The answer of an adapter that needs no network."""

    status = 200

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.headers: dict[str, str] = {}
        self._chunks = iter(chunks)

    async def read(self, seconds: float | None) -> bytes:
        """The next chunk; b"" at the end."""
        await asyncio.sleep(0)
        return next(self._chunks, b"")

    async def error_body(self) -> bytes:
        """Embedded answers do not fail."""
        return b""


@asynccontextmanager
async def open_upstream(
    session: aiohttp.ClientSession, request: UpstreamRequest, target: Target
) -> AsyncIterator[UpstreamAnswer | EmbeddedAnswer]:
    """Sends ``request``; the answer is there when its headers are. Raises UpstreamFailed, UpstreamTimeout."""
    if request.answer is not None:
        yield EmbeddedAnswer(request.answer)
        return
    response = await _send(session, request, target)
    try:
        yield UpstreamAnswer(response, target)
    finally:
        response.close()


async def _send(
    session: aiohttp.ClientSession, request: UpstreamRequest, target: Target
) -> aiohttp.ClientResponse:
    provider = target.provider.name
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=target.profile.connect_timeout)
    try:
        async with asyncio.timeout(target.profile.first_byte_timeout):
            return await session.post(
                request.url,
                data=io.BytesIO(request.body) if len(request.body) > LARGE_BODY_BYTES else request.body,
                headers=request.headers,
                allow_redirects=False,
                timeout=timeout,
                ssl=tls_context() if request.url.startswith("https:") else True,
            )
    except aiohttp.ConnectionTimeoutError as error:
        raise UpstreamFailed(f"{provider} did not accept a connection in time") from error
    except TimeoutError as error:
        raise UpstreamTimeout(f"{provider} did not answer in time") from error
    except (aiohttp.ClientError, ConnectionError, ValueError) as error:
        raise UpstreamFailed(f"could not reach {provider}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Why, without the address: it may hold what clients should not see."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError | ssl.SSLError):
        return "its TLS certificate or handshake failed"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its host name is not known"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it closed the connection without an answer"
    if isinstance(error, aiohttp.ClientConnectorError):
        return os.strerror(error.os_error.errno).lower() if error.os_error.errno else "no connection"
    if isinstance(error, ConnectionError | aiohttp.ClientOSError):
        return "the connection broke before the answer"
    if isinstance(error, aiohttp.InvalidURL):
        return "its base_url is not a URL"
    return type(error).__name__
