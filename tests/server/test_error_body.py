"""The beginning of an error's body: bounded in what is kept, and whoever sends more is stopped."""

from __future__ import annotations

import errno
import socket
import ssl
import tracemalloc
from collections.abc import Mapping

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from yarl import URL

from gateway.config import loads
from gateway.errors import UpstreamFailed
from gateway.resilience.attempts import Attempt, Attempts
from gateway.resilience.health import Health
from gateway.resilience.policy import RetryPolicy
from gateway.routing import Route
from gateway.server.upstream import MAX_ERROR_BYTES, Consumer, PulledAnswer, UpstreamAnswer, unreachable

TARGET = loads(b"providers: {lab: {api: echo}}\nmodels: {m: lab/m}", "f", {}).table.resolve("m").targets[0]


class Pushed(UpstreamAnswer):
    """An answer that comes in ``count`` equal pieces, also after a pause, as what was read already does."""

    status = 500
    headers: Mapping[str, str] = {}

    def __init__(self, piece: bytes, count: int) -> None:
        self.piece, self.count = piece, count
        self.paused_after: int | None = None
        self._fed = 0

    def attach(self, consumer: Consumer) -> None:
        for number in range(1, self.count + 1):
            self._fed = number
            consumer.feed(bytes(bytearray(self.piece)))
        consumer.end()

    def pause(self) -> None:
        self.paused_after = self.paused_after or self._fed

    def resume(self) -> None:
        raise AssertionError("nobody wants more")

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("size", "count", "kept", "stopped_after"),
    [
        (0, 0, 0, None),
        (100, 3, 300, None),
        (MAX_ERROR_BYTES - 1, 1, MAX_ERROR_BYTES - 1, None),
        (MAX_ERROR_BYTES // 2, 2, MAX_ERROR_BYTES, 2),
        (MAX_ERROR_BYTES, 1, MAX_ERROR_BYTES, 1),
        (1000, 100, MAX_ERROR_BYTES, 66),
        (1, MAX_ERROR_BYTES, MAX_ERROR_BYTES, MAX_ERROR_BYTES),
        (10 * MAX_ERROR_BYTES, 1, MAX_ERROR_BYTES, 1),
    ],
)
async def test_the_sender_is_stopped_as_soon_as_there_is_enough(
    size: int, count: int, kept: int, stopped_after: int | None
) -> None:
    answer = Pushed(b"x" * size, count)
    assert len(await answer.error_body()) == kept
    assert answer.paused_after == stopped_after


async def test_what_comes_all_the_same_is_not_kept() -> None:
    answer = Pushed(b"x" * MAX_ERROR_BYTES, 256)
    tracemalloc.start()
    try:
        await answer.error_body()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MAX_ERROR_BYTES


async def test_an_answer_that_is_read_is_read_no_further() -> None:
    class Endless(PulledAnswer):
        status = 500
        headers: Mapping[str, str] = {}
        reads = 0

        async def read(self, seconds: float | None) -> bytes:
            self.reads += 1
            assert self.reads < 100, "it goes on"
            return b"x" * 1024

    answer = Endless()
    assert await answer.error_body() == b"x" * MAX_ERROR_BYTES
    assert answer.reads == MAX_ERROR_BYTES // 1024
    answer.close()


# -- failures without a body -------------------------------------------------------------------------------

KEY = ConnectionKey("h", 443, True, True, None, None, None)
REFUSED = OSError(errno.ECONNREFUSED, "refused")
LASTING: dict[str, BaseException] = {
    "unknown host": aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(socket.EAI_NONAME, "unknown")),
    "certificate": aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError("self-signed")),
    "handshake": aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError("wrong version")),
    "TLS": ssl.SSLError("alert"),
    "no URL": aiohttp.InvalidURL(URL("x:y")),
    "no HTTP URL": aiohttp.NonHttpUrlClientError(URL("ftp://h")),
}
PASSING: dict[str, BaseException] = {
    "resolver": aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(socket.EAI_AGAIN, "later")),
    "refused": aiohttp.ClientConnectorError(KEY, REFUSED),
    "closed": aiohttp.ServerDisconnectedError(),
    "reset": ConnectionResetError(),
}


def next_after(failure: UpstreamFailed) -> Attempt | None:
    attempts = Attempts(Route("m", (TARGET,)), RetryPolicy(), Health(), "", 0.0)
    attempts.first(0.0)
    return attempts.failed(failure, 0.0)


@pytest.mark.parametrize("error", LASTING.values(), ids=LASTING)
def test_what_fails_again_at_once_is_not_tried_again(error: BaseException) -> None:
    failure = unreachable(TARGET, error)
    assert failure.scope == "endpoint"
    assert next_after(failure) is None
    assert (failure.status, failure.error_type) == (502, "api_error")
    assert UpstreamFailed("another").scope == "moment", "only this one"


@pytest.mark.parametrize("error", PASSING.values(), ids=PASSING)
def test_what_passes_is_tried_again(error: BaseException) -> None:
    assert next_after(unreachable(TARGET, error)) is not None


def test_a_resolver_that_is_away_has_its_own_words() -> None:
    unknown, resolver = LASTING["unknown host"], PASSING["resolver"]
    assert unreachable(TARGET, unknown).message == "could not reach lab: its host name is not known"
    assert unreachable(TARGET, resolver).message == "could not reach lab: its host name could not be looked up"
