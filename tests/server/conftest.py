"""One faulty upstream and one gateway in front of it, for the whole run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from aiohttp import ClientSession

from gateway.server import direct_upstream
from gateway.server import upstream as session_upstream
from gateway.server.upstream import new_session
from tests.server.faulty_upstream import FaultyUpstream
from tests.server.gateway_process import SECRETS, TOKEN, Gateway, running_gateway
from tests.server.raw_upstream import Tls, make_tls

ONCE = "profile: {max_attempts: 1}"
"""One request for each answer that is tried; who is asked again is in tests/faults/test_retries.py."""
PROVIDERS = """\
server: {{token: "{token}"}}
providers:
  lab: {{api: openai-chat, base_url: "{url}/v1", api_key: "${{LAB_KEY}}", {once}}}
  ant: {{api: anthropic, base_url: "{url}", api_key: "${{ANT_KEY}}", {once}}}
  official:
    api: anthropic
    base_url: "{url}"
    api_key: "${{ANT_KEY}}"
    profile: {{first_party: true, max_attempts: 1}}
  named: {{api: openai-chat, base_url: "{named}/v1", {once}}}
  impatient:
    api: openai-chat
    base_url: "{url}/v1"
    profile: {{idle_timeout: 0.3, first_byte_timeout: 0.3, max_attempts: 1}}
  refused: {{api: openai-chat, base_url: "http://127.0.0.1:{closed}/v1", api_key: "${{LAB_KEY}}", {once}}}
  nowhere: {{api: openai-chat, base_url: "http://gateway-test.invalid/v1", api_key: "${{LAB_KEY}}", {once}}}
  keyless: {{api: openai-chat, base_url: "{url}/v1", api_key: "${{NO_SUCH_VARIABLE}}"}}
  echo: {{}}
models:
  sonnet: echo/echo
  haiku: lab/up-haiku
  opus: ant/up-opus
  unset: keyless/m
  "lab-*": lab
"""


def providers_yaml(upstream: FaultyUpstream, closed_port: int) -> str:
    """The configuration of the one gateway. ``named`` is reached by a host name: to an IP address no cookie returns."""
    named = upstream.url.replace("127.0.0.1", "localhost")
    return PROVIDERS.format(once=ONCE, token=TOKEN, url=upstream.url, closed=closed_port, named=named)


@pytest.fixture(scope="session")
def upstream() -> Iterator[FaultyUpstream]:
    with FaultyUpstream() as server:
        yield server


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Both loops for a module that asks for them, ``pytest.mark.asyncio(loop_factories=[...])``; else the plain one."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    marker = item.get_closest_marker("asyncio")
    if marker is not None and "loop_factories" in marker.kwargs:
        factories["uvloop"] = uvloop.new_event_loop
    return factories


@pytest.fixture(scope="session")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return make_tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Tls | None:
    """None: plain HTTP. Otherwise the certificate that the upstreams of a test then have."""
    if request.param == "plain":
        return None
    certified: Tls = request.getfixturevalue("certified")
    for module in (direct_upstream, session_upstream):
        monkeypatch.setattr(module, "tls_context", lambda: certified.client)
    return certified


@pytest.fixture
async def session() -> AsyncIterator[ClientSession]:
    """As the gateway makes it."""
    async with new_session() as session:
        yield session


@pytest.fixture(scope="session")
def gateway(upstream: FaultyUpstream, closed_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Knows the upstream by two wires; wants a token. Whatever the tests do to it, its log stays clean."""
    yield from clean_gateway(tmp_path_factory.mktemp("server"), providers_yaml(upstream, closed_port))


@pytest.fixture(scope="session")
def session_gateway(
    upstream: FaultyUpstream, closed_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """The same one by the other way: through aiohttp's client."""
    config = providers_yaml(upstream, closed_port).replace("server: {", "server: {relay: session, ")
    yield from clean_gateway(tmp_path_factory.mktemp("session"), config)


def clean_gateway(folder: Path, config: str) -> Iterator[Gateway]:
    with running_gateway(folder, config, "--log-level", "debug", token=TOKEN) as process:
        yield process
        assert process.process is not None
        assert process.process.poll() is None, process.log()
        log = process.log()
        assert "Traceback" not in log
        assert "a defect of the gateway" not in log
        assert not [secret for secret in SECRETS if secret in log]
