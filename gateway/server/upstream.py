"""Upstream requests through aiohttp's ClientSession, and what every way to an upstream has in common.

Rules (reliability.md, "aiohttp as found"):
* No pool limit that queues silently, no total timeout that ends long answers, no redirects, no cookies,
  no environment proxies, no compression that would hold back events.
* A failure names the provider, never its URL or key.
* ``close`` ends the connection unless the answer was read to its end; so a cancelled handler cancels the
  upstream at once.
* What was sent is not kept: a stream holds no request body.
* Of an error's body no more is kept, or unpacked, than its beginning.
* What will fail again at once (an unknown host, TLS, a URL that is none) is a fact about the target, not of
  the moment.
"""

from __future__ import annotations

import asyncio
import io
import os
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Protocol

import aiohttp

from gateway.adapters.base import UpstreamRequest
from gateway.errors import GatewayError, UpstreamFailed, UpstreamProtocolError, UpstreamTimeout
from gateway.routing import Target
from gateway.server.tls import tls_context

LARGE_BODY_BYTES = 1 << 20
"""From here on a body is written in pieces; aiohttp warns about one large write."""
MAX_ERROR_BYTES = 64 * 1024
ERROR_BODY_SECONDS = 10.0
_DEAD_PATH = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 35_000}
"""A connection on which nothing is heard is asked for a sign after 20 s, and given up 15 s later; so is one whose bytes
nobody acknowledges. Seconds, but for the last one (ms)."""


def new_session() -> aiohttp.ClientSession:
    """The process's client session; its connector also serves direct_upstream.py."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0, limit_per_host=0, keepalive_timeout=30, enable_cleanup_closed=True, socket_factory=watched_socket
        ),
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        headers={"accept-encoding": "identity"},
        max_line_size=32 * 1024,
        max_field_size=32 * 1024,
    )


def watched_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket that notices a dead path: without this, an upstream that is merely slow looks the same for ever."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _DEAD_PATH.items():
        if hasattr(socket, option):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return made


class Consumer(Protocol):
    """Takes the bytes of an answer as they come. After ``end`` or ``fail`` nothing follows."""

    def feed(self, data: bytes) -> None:
        """The next bytes."""

    def end(self) -> None:
        """The body is whole."""

    def fail(self, error: GatewayError) -> None:
        """The body ends here, and should not."""


class UpstreamAnswer(ABC):
    """The status, the headers (lower-case names) and the bytes of one answer."""

    status: int
    headers: Mapping[str, str]

    @abstractmethod
    def attach(self, consumer: Consumer) -> None:
        """From now on the body goes to ``consumer``; what is there already, at once. Called once."""

    @abstractmethod
    def pause(self) -> None:
        """No more bytes until ``resume``."""

    @abstractmethod
    def resume(self) -> None:
        """Bytes again."""

    @abstractmethod
    def close(self) -> None:
        """Nobody wants more: the upstream hears of it at once. Idempotent."""

    def finish(self) -> None:
        """The answer is complete, whether or not its body has ended; the connection may serve again."""
        self.close()

    async def error_body(self) -> bytes:
        """The first MAX_ERROR_BYTES of an error's body, whatever is wrong with it. Instead of ``attach``.

        When there is more, the answer is paused: it is the caller's to close.
        """
        body = _ErrorBody(self)
        self.attach(body)
        try:
            async with asyncio.timeout(ERROR_BODY_SECONDS):
                await body.done
        except TimeoutError:
            pass
        return bytes(body.kept)


class _ErrorBody:
    """Collects until there is enough."""

    def __init__(self, answer: UpstreamAnswer) -> None:
        self.kept = bytearray()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answer = answer

    def feed(self, data: bytes) -> None:
        self.kept += data[: MAX_ERROR_BYTES - len(self.kept)]
        if len(self.kept) == MAX_ERROR_BYTES:
            # Otherwise a few packed bytes go on becoming many.
            self._answer.pause()
            self.end()

    def end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def fail(self, error: GatewayError) -> None:
        self.end()


class PulledAnswer(UpstreamAnswer):
    """An answer that must be read: a task does it, and waits while the consumer is full."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._open = asyncio.Event()
        self._open.set()

    @abstractmethod
    async def read(self, seconds: float | None) -> bytes:
        """The next bytes as they arrived; b"" at the end. Raises GatewayError; TimeoutError after ``seconds``."""

    def attach(self, consumer: Consumer) -> None:
        self._task = asyncio.create_task(self._pump(consumer))

    def pause(self) -> None:
        self._open.clear()

    def resume(self) -> None:
        self._open.set()

    def close(self) -> None:
        # A cancelled task keeps its traceback, and that keeps this.
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    async def _pump(self, consumer: Consumer) -> None:
        try:
            while data := await self.read(None):
                consumer.feed(data)
                await self._open.wait()
        except GatewayError as error:
            consumer.fail(error)
        else:
            consumer.end()


class SessionAnswer(PulledAnswer):
    """An answer by way of ClientSession."""

    def __init__(self, response: aiohttp.ClientResponse, target: Target) -> None:
        super().__init__()
        self._response = response
        self._target = target
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.headers.items()}

    async def read(self, seconds: float | None) -> bytes:
        try:
            async with asyncio.timeout(seconds):
                return await self._response.content.readany()
        except (aiohttp.ClientError, ConnectionError) as error:
            raise cut_in_mid_answer(self._target) from error

    def close(self) -> None:
        super().close()
        self._response.close()


class EmbeddedAnswer(PulledAnswer):
    """The answer of an adapter that needs no network."""

    status = 200

    def __init__(self, chunks: Iterable[bytes]) -> None:
        super().__init__()
        self.headers = {}
        self._chunks = iter(chunks)

    async def read(self, seconds: float | None) -> bytes:
        await asyncio.sleep(0)
        return next(self._chunks, b"")


async def open_session(
    session: aiohttp.ClientSession, request: UpstreamRequest, target: Target
) -> SessionAnswer | EmbeddedAnswer:
    """Sends ``request``; the answer is there when its headers are. Raises UpstreamFailed, UpstreamTimeout."""
    if request.answer is not None:
        return EmbeddedAnswer(request.answer)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=target.profile.connect_timeout)
    try:
        async with asyncio.timeout(target.profile.first_byte_timeout):
            response = await session.post(
                request.url,
                data=io.BytesIO(request.body) if len(request.body) > LARGE_BODY_BYTES else request.body,
                headers=request.headers,
                allow_redirects=False,
                timeout=timeout,
                ssl=tls_context() if request.url.startswith("https:") else True,
            )
    except aiohttp.ConnectionTimeoutError as error:
        raise not_connected(target) from error
    except TimeoutError as error:
        raise no_answer(target) from error
    except aiohttp.ClientResponseError as error:
        raise not_http(target) from error
    except (aiohttp.ClientError, ConnectionError, ValueError) as error:
        raise unreachable(target, error) from error
    return SessionAnswer(response, target)


class StaleConnection(UpstreamFailed):
    """A connection that had served before was closed without a byte of an answer: the request may go up again."""


# -- failures ------------------------------------------------------------------------------------------


def not_connected(target: Target) -> UpstreamFailed:
    return UpstreamFailed(f"{target.provider.name} did not accept a connection in time")


def no_answer(target: Target) -> UpstreamTimeout:
    return UpstreamTimeout(f"{target.provider.name} did not answer in time")


def not_http(target: Target) -> UpstreamProtocolError:
    return UpstreamProtocolError(f"{target.provider.name} sent an answer that is not valid HTTP")


def cut_in_mid_answer(target: Target) -> UpstreamProtocolError:
    return UpstreamProtocolError(f"{target.provider.name} cut the connection in mid-answer")


def unreachable(
    target: Target, error: BaseException, kind: type[UpstreamFailed] = UpstreamFailed
) -> UpstreamFailed:
    """Why, without the address: it may hold what clients should not see."""
    failure = kind(f"could not reach {target.provider.name}: {_reason(error)}")
    if isinstance(error, _LASTING) and not _resolver_failed(error):
        failure.scope = "endpoint"
    return failure


_TLS = (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError, ssl.SSLError)
_BAD_URL = (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError)
_LASTING = (*_TLS, *_BAD_URL, aiohttp.ClientConnectorDNSError)
"""Half a second later they are the same."""


def _resolver_failed(error: BaseException) -> bool:
    """Nobody could say whether the name exists; that passes."""
    return isinstance(error, aiohttp.ClientConnectorDNSError) and error.os_error.errno == socket.EAI_AGAIN


def _reason(error: BaseException) -> str:
    if isinstance(error, _TLS):
        return "its TLS certificate or handshake failed"
    if _resolver_failed(error):
        return "its host name could not be looked up"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its host name is not known"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it closed the connection without an answer"
    if isinstance(error, aiohttp.ClientConnectorError):
        return os.strerror(error.os_error.errno).lower() if error.os_error.errno else "no connection"
    if isinstance(error, ConnectionError | aiohttp.ClientOSError):
        return "the connection broke before the answer"
    if isinstance(error, _BAD_URL):
        return "its base_url is not a URL"
    return type(error).__name__
