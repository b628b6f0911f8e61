"""A misbehaving upstream and a gateway process in front of it, for all tests of this folder that need no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.footprint import Footprint
from tests.faults.long_waits import LongWaits
from tests.server.faulty_upstream import FaultyUpstream
from tests.server.gateway_process import SECRETS, Gateway, running_gateway

PROVIDERS = """\
providers:
  lab: {{api: openai-chat, base_url: "{url}/v1", api_key: "${{LAB_KEY}}"}}
  ant: {{api: anthropic, base_url: "{url}", api_key: "${{ANT_KEY}}"}}
  replies: {{api: openai-responses, base_url: "{url}/v1", api_key: "${{LAB_KEY}}", profile: {{max_attempts: 1}}}}
  hasty:
    {{api: openai-chat, base_url: "{url}/v1", profile: {{idle_timeout: 1, first_byte_timeout: 1, max_attempts: 1}}}}
  hasty-ant: {{api: anthropic, base_url: "{url}", profile: {{idle_timeout: 1, first_byte_timeout: 1, max_attempts: 1}}}}
  refused: {{api: openai-chat, base_url: "http://127.0.0.1:{closed}/v1", api_key: "${{LAB_KEY}}"}}
  nowhere: {{api: openai-chat, base_url: "http://gateway-test.invalid/v1", api_key: "${{LAB_KEY}}"}}
  echo: {{}}
models: {{sonnet: echo/echo}}
"""


@pytest.fixture(scope="session")
def upstream() -> Iterator[FaultyUpstream]:
    with FaultyUpstream() as server:
        yield server


@pytest.fixture(scope="session")
def gateway(upstream: FaultyUpstream, closed_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Whatever the tests do to it, it lives, and its log has no traceback and no secret."""
    config = PROVIDERS.format(url=upstream.url, closed=closed_port)
    with running_gateway(tmp_path_factory.mktemp("faults"), config) as process:
        yield process
        assert process.process is not None
        assert process.process.poll() is None, process.log()
        log = process.log()
        assert "Traceback" not in log
        assert not [secret for secret in SECRETS if secret in log]


@pytest.fixture
def footprint(gateway: Gateway) -> Footprint:
    return Footprint(gateway.pid)


@pytest.fixture(scope="session", autouse=True)
def long_waits(
    request: pytest.FixtureRequest,
    upstream: FaultyUpstream,
    closed_port: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LongWaits | None]:
    """Begun with the first test, if one of them will look at it."""
    if not any(item.path.name == "test_waiting.py" for item in request.session.items):
        yield None
        return
    config = PROVIDERS.format(url=upstream.url, closed=closed_port)
    with running_gateway(tmp_path_factory.mktemp("waits"), config) as process:
        yield LongWaits(process, upstream)
