"""Adapters: how one is found, which address it asks, and which headers go up."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Any

import orjson
import pytest

import gateway.adapters
from gateway import __version__
from gateway.adapters.base import MessagesRequest
from gateway.adapters.echo import EchoAdapter
from gateway.config import loads
from gateway.errors import InvalidRequest
from gateway.profile import APIS
from gateway.routing import Target

CREDENTIALS = {
    "authorization": "Bearer client-secret",
    "x-api-key": "client-secret",
    "proxy-authorization": "Basic client-secret",
    "cookie": "session=client-secret",
}
CLIENT_HEADERS = {
    **CREDENTIALS,
    "host": "gateway.example:4002",
    "connection": "keep-alive, x-hop",
    "x-hop": "1",
    "transfer-encoding": "chunked",
    "content-length": "7",
    "content-type": "text/plain",
    "accept": "*/*",
    "accept-encoding": "gzip",
    "user-agent": "claude-cli/2.1.197",
    "x-app": "cli",
    "x-claude-code-session-id": "session",
    "x-stainless-os": "Linux",
    "x-forwarded-for": "10.0.0.7",
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "context-1m-2025-08-07,effort-2025-11-24",
    "anthropic-dangerous-direct-browser-access": "true",
}
ANTHROPIC_HEADERS = {name: value for name, value in CLIENT_HEADERS.items() if name.startswith("anthropic-")}
OURS = {
    "content-type": "application/json",
    "user-agent": f"messages-gateway/{__version__}",
    "accept": "text/event-stream",
}


def target_of(section: str, entry: str = "{use: lab/up}") -> Target:
    text = f"providers: {{lab: {section}}}\nmodels: {{m: {entry}}}\n"
    return loads(text.encode(), "providers.yaml", {"KEY": "up-key", "GATE": "gate-key"}).table.resolve("m").targets[0]


def ask(target: Target, *, headers: dict[str, str] = CLIENT_HEADERS, query: str = "", **more: Any) -> Any:
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}], **more}
    return gateway.adapters.get(target.api).prepare(MessagesRequest(body, headers, query, "msg_1", 1), target)


def headers_of(section: str, entry: str = "{use: lab/up}", headers: dict[str, str] = CLIENT_HEADERS) -> dict[str, str]:
    """The headers that go up; no name may stand there twice, however it is written."""
    sent = ask(target_of(section, entry), headers=headers).headers
    assert len({name.lower() for name in sent}) == len(sent), sent
    return {name.lower(): value for name, value in sent.items()}


CHAT = 'api: openai-chat, base_url: "http://h/v1"'
ANTHROPIC = 'api: anthropic, base_url: "http://h"'


# -- the registry ----------------------------------------------------------------------------------------


@pytest.fixture
def fresh() -> Iterator[None]:
    """The registry remembers what it found."""
    gateway.adapters.get.cache_clear()
    yield
    gateway.adapters.get.cache_clear()


@pytest.mark.parametrize("api", APIS)
def test_the_apis_that_ship(api: str) -> None:
    adapter = gateway.adapters.get(api)
    assert adapter is gateway.adapters.get(api), "adapters are stateless: one serves all requests"
    for method in ("prepare", "stream_translator", "translate_error"):
        assert callable(getattr(adapter, method))


@pytest.mark.usefixtures("fresh")
def test_an_unknown_api_is_told_by_its_name() -> None:
    with pytest.raises(LookupError, match=r"'nonsense'.*installed"):
        gateway.adapters.get("nonsense")


class ThirdPartyAdapter(EchoAdapter):
    """What another package would bring along."""


@pytest.mark.usefixtures("fresh")
def test_a_third_party_registers_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("carrier-pigeon", f"{__name__}:ThirdPartyAdapter", gateway.adapters.GROUP)
    asked = []

    def entry_points(**selected: str) -> list[EntryPoint]:
        asked.append(selected)
        return [entry] if selected["name"] == entry.name else []

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
    monkeypatch.setattr(EntryPoint, "load", lambda self: ThirdPartyAdapter)
    assert type(gateway.adapters.get("carrier-pigeon")) is ThirdPartyAdapter
    assert asked == [{"group": "gateway.adapters", "name": "carrier-pigeon"}]
    assert type(gateway.adapters.get("echo")) is EchoAdapter, "what ships cannot be replaced from outside"
    assert len(asked) == 1


# -- the address -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "query", "url"),
    [
        (f"{{{CHAT}}}", "beta=true", "http://h/v1/chat/completions"),
        (f"{{{ANTHROPIC}}}", "", "http://h/v1/messages"),
        (f"{{{ANTHROPIC}}}", "beta=true", "http://h/v1/messages?beta=true"),
    ],
)
def test_addresses(section: str, query: str, url: str) -> None:
    assert ask(target_of(section), query=query).url == url


# -- headers ---------------------------------------------------------------------------------------------


def test_a_chat_upstream_gets_nothing_of_the_clients() -> None:
    assert headers_of(f"{{{CHAT}}}") == OURS


def test_an_anthropic_upstream_gets_the_anthropic_headers_and_no_others() -> None:
    assert headers_of(f"{{{ANTHROPIC}}}") == {**OURS, **ANTHROPIC_HEADERS}


def test_a_version_is_sent_when_the_client_names_none() -> None:
    assert headers_of(f"{{{ANTHROPIC}}}", headers={}) == {**OURS, "anthropic-version": "2023-06-01"}


@pytest.mark.parametrize(
    ("section", "key_headers"),
    [
        (f'{{{CHAT}, api_key: "${{KEY}}"}}', {"authorization": "Bearer up-key"}),
        (f'{{{CHAT}, api_key: "${{KEY}}", profile: {{auth: x-api-key}}}}', {"x-api-key": "up-key"}),
        (f'{{{CHAT}, api_key: "${{KEY}}", profile: {{auth: none}}}}', {}),
        (f'{{{CHAT}, api_key: "${{UNSET:-}}"}}', {}),
        (f'{{{ANTHROPIC}, api_key: "${{KEY}}"}}', {"x-api-key": "up-key"}),
        (f'{{{ANTHROPIC}, api_key: "${{KEY}}", profile: {{auth: bearer}}}}', {"authorization": "Bearer up-key"}),
        (f'{{{ANTHROPIC}, api_key: "${{KEY}}", profile: {{auth: none}}}}', {}),
    ],
)
def test_the_providers_key_goes_where_the_profile_says(section: str, key_headers: dict[str, str]) -> None:
    sent = headers_of(section)
    assert {name: sent[name] for name in CREDENTIALS if name in sent} == key_headers


@pytest.mark.parametrize("api", [CHAT, ANTHROPIC])
def test_headers_of_the_configuration_are_added(api: str) -> None:
    sent = headers_of(
        f"{{{api}, headers: {{X-Title: lab, X-Both: provider}}}}", "{use: lab/up, headers: {X-Both: entry, x-more: b}}"
    )
    assert (sent["x-title"], sent["x-both"], sent["x-more"]) == ("lab", "entry", "b")


@pytest.mark.parametrize("api", [CHAT, ANTHROPIC])
def test_headers_of_the_configuration_win_in_any_spelling(api: str) -> None:
    own = 'User-Agent: lab/1, AUTHORIZATION: "Bearer ${GATE}", X-Api-Key: "${GATE}", Anthropic-Version: "2099-01-01"'
    sent = headers_of(f'{{{api}, api_key: "${{KEY}}", headers: {{{own}}}}}')
    assert sent["user-agent"] == "lab/1"
    assert sent["authorization"] == "Bearer gate-key"
    assert sent["x-api-key"] == "gate-key"
    assert sent["anthropic-version"] == "2099-01-01"


@pytest.mark.parametrize("api", [CHAT, ANTHROPIC])
def test_no_key_shows_in_a_repr(api: str) -> None:
    target = target_of(f'{{{api}, api_key: "${{KEY}}", headers: {{X-Gate: "${{GATE}}"}}}}')
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    request = MessagesRequest(body, CLIENT_HEADERS, "", "msg_1", 9)
    shown = repr(request) + repr(gateway.adapters.get(target.api).prepare(request, target)) + repr(target)
    assert [secret for secret in ("up-key", "gate-key", "client-secret") if secret in shown] == []


# -- the body --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("api", "nul"), [(CHAT, "\ufffd"), (ANTHROPIC, "\x00")])
def test_odd_characters_are_valid_json_upstream(api: str, nul: str) -> None:
    """Servers behind a database choke on NUL; Anthropic's own API judges for itself."""
    prompt = "a\x00b\u2028\U0001f600"
    body = ask(target_of(f"{{{api}}}"), messages=[{"role": "user", "content": prompt}]).body
    assert orjson.loads(body)["messages"][0]["content"] == prompt.replace("\x00", nul)


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"properties": value}
    return value


@pytest.mark.parametrize("api", [CHAT, ANTHROPIC])
@pytest.mark.parametrize("levels", [100, 240])
def test_a_deep_schema_goes_up(api: str, levels: int) -> None:
    tools = [{"name": "t", "input_schema": {"type": "object", **nested(levels)}}]
    assert ask(target_of(f"{{{api}}}"), tools=tools).body.count(b'"properties"') >= levels


@pytest.mark.parametrize("api", [CHAT, ANTHROPIC])
@pytest.mark.parametrize("levels", [300, 1000])
def test_a_schema_that_is_too_deep_is_the_clients_fault(api: str, levels: int) -> None:
    tools = [{"name": "t", "input_schema": {"type": "object", **nested(levels)}}]
    with pytest.raises(InvalidRequest, match="deep"):
        ask(target_of(f"{{{api}}}"), tools=tools)
