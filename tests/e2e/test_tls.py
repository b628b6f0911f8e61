"""Claude Code through a gateway that speaks TLS, with a certificate of its own or without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.claude_code import ClaudeCode
from tests.server.raw_upstream import make_tls
from tests.server.service import ECHO, service


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate for localhost that is its own authority, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    make_tls(folder)
    return folder


@pytest.mark.parametrize("mutual", [False, True], ids=["TLS", "mutual TLS"])
def test_a_turn_over_tls(claude: ClaudeCode, pair: Path, tmp_path: Path, mutual: bool) -> None:
    certificate, key = str(pair / "certificate.pem"), str(pair / "key.pem")
    authority = f', client_ca: "{certificate}"' if mutual else ""
    config = f'server: {{tls: {{certificate: "{certificate}", key: "{key}"{authority}}}}}\n{ECHO}'
    own = {"CLAUDE_CODE_CLIENT_CERT": certificate, "CLAUDE_CODE_CLIENT_KEY": key} if mutual else {}
    folder = tmp_path / "gateway"
    folder.mkdir()
    with service(folder, config=config) as gateway:
        client = replace(claude, gateway_url=gateway.url, extra={"NODE_EXTRA_CA_CERTS": certificate, **own})
        assert client.run("say hi").answer.startswith("echo: say hi")
