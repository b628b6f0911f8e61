"""Loads the recorded upstream answers of ``tests/streams`` and compares a gateway's output with what is expected.

The format of ``NAME.expected.json`` and the rules of comparing are those of tests/streams/README.md. Adding a
recording needs no Python: put the body and its ``.expected.json`` into the provider's folder.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

import gateway.adapters
from gateway.adapters.base import Adapter, MessagesRequest
from gateway.config import loads
from gateway.errors import GatewayError
from gateway.profile import merge
from gateway.routing import Target
from tests.grammar import TOOL_ID, Reading, check_stream

STREAMS = Path(__file__).parent / "streams"
APIS = {"chat": "openai-chat", "anthropic": "anthropic", "responses": "openai-responses", "ollama": "ollama"}
"""The wires that are spoken so far. Recordings of other wires wait for their adapters."""
MESSAGE_ID = "msg_01RecordedAnswer"
ASKED = "claude-sonnet-5"
TOOLS = [
    {
        "name": name,
        "description": name,
        "input_schema": {"type": "object", "properties": {key: {"type": "string"}}},
    }
    for name, key in (("get_weather", "city"), ("search", "q"), ("write", "path"))
]
PROFILES = Path(gateway.adapters.__file__).parents[1] / "profiles.yaml"
ALIASES = {"llama.cpp": "llamacpp", "lm-studio": "lmstudio"}
"""Providers whose name in the recordings is no name for a configuration."""


@dataclass(frozen=True)
class Recording:
    """One recorded upstream answer."""

    name: str
    body: bytes
    expected: dict[str, Any]

    @property
    def wire(self) -> str:
        return str(self.expected["wire"])

    @property
    def provider(self) -> str:
        return str(self.expected["provider"])

    @property
    def status(self) -> int:
        return int(self.expected["upstream"]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.expected["upstream"]["headers"].items()}

    def target(self) -> Target:
        return target_of(self.provider, APIS[self.wire])

    def adapter(self) -> Adapter:
        return gateway.adapters.get(APIS[self.wire])

    def request(self, messages: list[dict[str, Any]] | None = None) -> MessagesRequest:
        body = {
            "model": ASKED,
            "max_tokens": 1024,
            "stream": True,
            "tools": TOOLS,
            "messages": messages or [{"role": "user", "content": "Hello"}],
        }
        hints = self.expected["request_hints"]
        if "stop_sequences" in hints:
            body["stop_sequences"] = hints["stop_sequences"]
        return MessagesRequest(body, {"anthropic-version": "2023-06-01"}, "beta=true", MESSAGE_ID, 7)


def recordings(*outcomes: str) -> list[Recording]:
    """All recordings of the spoken wires, those with one of ``outcomes`` if any is given."""
    found = []
    for path in sorted(STREAMS.glob("*/*.expected.json")):
        expected = json.loads(path.read_text())
        if expected["wire"] in APIS and (not outcomes or expected["outcome"] in outcomes):
            name = path.name.removesuffix(".expected.json")
            found.append(Recording(name, (path.parent / expected["file"]).read_bytes(), expected))
    return found


@cache
def target_of(provider: str, api: str = "openai-chat", **overrides: Any) -> Target:
    """A target at ``provider`` as the configuration makes it; ``overrides`` are profile fields."""
    provider = ALIASES.get(provider, provider)
    if preset_api(provider) == api:
        section = "{api_key: test-key, base_url: 'http://127.0.0.1:1/v1'}"
        name = provider
    else:
        section = f"{{api: {api}, api_key: test-key, base_url: 'http://127.0.0.1:1/v1'}}"
        name = "".join(letter if letter.isalnum() else "-" for letter in provider) + "-server"
    text = f"providers: {{{name}: {section}}}\nmodels: {{m: {name}/up-model}}\n"
    target = loads(text.encode(), "providers.yaml", {}).table.resolve("m").targets[0]
    return with_profile(target, overrides) if overrides else target


def preset_api(provider: str) -> str | None:
    """The API of a provider that profiles.yaml knows; None for unknown servers."""
    section = presets().get(provider)
    return str(section.get("api", "openai-chat")) if section else None


def load_yaml(path: Path) -> Any:
    """The tables of the tests; the loader in C is ten times as fast."""
    return yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@cache
def presets() -> dict[str, Any]:
    """The providers of profiles.yaml."""
    providers: dict[str, Any] = load_yaml(PROFILES)["providers"]
    return providers


def with_profile(target: Target, overrides: Mapping[str, Any]) -> Target:
    """``target`` with some profile fields laid over."""
    return replace(target, profile=merge(target.profile, overrides))


# -- feeding ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What came of one upstream body."""

    output: bytes
    """What was returned, without an error event."""
    error: GatewayError | None

    def client_bytes(self) -> bytes:
        """What a streaming client sees: an error after the first output is an ``error`` event."""
        if self.error is None or not self.output:
            return self.output
        return self.output + b"event: error\ndata: " + self.error.envelope("req_test") + b"\n\n"


def translate(adapter: Adapter, request: MessagesRequest, target: Target, chunks: Iterable[bytes]) -> Answer:
    """Feed ``chunks`` to a new translator until it raises or is done. Anything but a GatewayError passes through."""
    translator = adapter.stream_translator(request, target)
    output = bytearray()
    try:
        for chunk in chunks:
            output += translator.feed(chunk)
        output += translator.close()
    except GatewayError as error:
        return Answer(bytes(output), error)
    return Answer(bytes(output), None)


def cut(body: bytes, seed: int) -> list[bytes]:
    """``body`` cut at random points: mostly small pieces, some long ones, some empty."""
    draw = random.Random(seed).random
    pieces, at = [], 0
    while at < len(body):
        size = int(draw() * (4, 4, 30, 400)[int(draw() * 4)])
        pieces.append(body[at : at + size])
        at += size
    return pieces


def splits(body: bytes) -> dict[str, list[bytes]]:
    """The three ways of feeding: whole, byte by byte, and cut at random points (several times)."""
    ways = {"whole": [body], "bytes": [body[at : at + 1] for at in range(len(body))]}
    ways.update({f"cut{seed}": cut(body, seed) for seed in range(4)})
    return ways


# -- comparing ----------------------------------------------------------------------------------------


def compare_content(content: list[dict[str, Any]], expected: Recording) -> dict[str, str]:
    """Blocks against the expected blocks. Returns expected id -> emitted id for tool calls that have a given id."""
    wanted = expected.expected["content"]
    if expected.expected["request_hints"].get("order_free"):
        content = sorted(content, key=lambda block: block["type"])
        wanted = sorted(wanted, key=lambda block: block["type"])
    assert [block["type"] for block in content] == [block["type"] for block in wanted]
    renamed: dict[str, str] = {}
    for block, want in zip(content, wanted, strict=True):
        for name, value in want.items():
            if name == "id":
                if value != "*":
                    renamed[value] = block["id"]
            elif name == "input":
                assert json.loads(block["partial_json"] or "{}") == value
            elif name == "input_partial_json":
                assert block["partial_json"] == value
            else:
                assert block[name] == value
    assert len(set(renamed.values())) == len(renamed), f"two tool calls share an id: {renamed}"
    return renamed


def compare_usage(usage: Mapping[str, Any], recording: Recording) -> None:
    """The final usage, exactly, unless the upstream never told it."""
    wanted = recording.expected["usage"]
    if recording.expected["request_hints"].get("usage_estimated"):
        assert usage["input_tokens"] >= 1
        assert usage["output_tokens"] >= 1
        return
    for name, value in wanted.items():
        if name == "output_tokens_details":
            assert usage.get(name) in (None, value)
        else:
            assert usage.get(name) == value, f"usage.{name}"


def compare_message(reading: Reading, recording: Recording) -> None:
    """A finished stream against ``outcome: message``."""
    expected = recording.expected
    assert reading.error is None
    assert reading.finished
    assert reading.start is not None
    assert reading.start["model"] == ASKED
    compare_content(reading.content, recording)
    assert reading.stop_reason == expected["stop_reason"]
    assert reading.stop_sequence == expected["stop_sequence"]
    if recording.wire == "anthropic":
        compare_usage({**reading.start["usage"], **reading.usage}, recording)
    else:
        compare_usage(reading.usage, recording)


def compare_folded(message: dict[str, Any], recording: Recording) -> None:
    """A non-streaming message against ``outcome: message``."""
    expected = recording.expected
    assert message["type"] == "message"
    assert message["role"] == "assistant"
    assert message["model"] == ASKED
    assert message["id"]
    blocks = []
    for block in message["content"]:
        if block["type"] == "tool_use":
            assert isinstance(block["input"], dict)
            assert TOOL_ID.match(block["id"])
            block = {**block, "partial_json": json.dumps(block["input"])}
        blocks.append(block)
    cut_short = any("input_partial_json" in want for want in expected["content"])
    if not cut_short:  # half an argument object has no faithful form as an object
        compare_content(blocks, recording)
    assert message["stop_reason"] == expected["stop_reason"]
    assert message["stop_sequence"] == expected["stop_sequence"]
    if any(value for value in expected["usage"].values()):
        compare_usage(message["usage"], recording)
    else:  # zeros in message_delta leave the estimate of message_start standing, for clients and here
        assert message["usage"]["input_tokens"] >= 1


def compare_error(error: GatewayError | None, recording: Recording) -> None:
    """An error against ``error``: type, status, wording, and whether a client tries again."""
    assert error is not None, "no error was raised"
    expected = recording.expected["error"]
    assert error.error_type in {expected["type"], *expected.get("accept", ())}
    if "http_status" in expected and error.error_type == expected["type"]:
        assert error.status == expected["http_status"]
    assert expected.get("message_contains", "").lower() in error.message.lower()
    assert error.message
    assert "<" not in error.message
    assert "test-key" not in error.message
    assert retried(error) == expected["retryable"]
    if "retry_after_forwarded" in expected:
        assert error.headers()["retry-after"] == expected["retry_after_forwarded"]


def retried(error: GatewayError) -> bool:
    """Whether a client tries again: ``x-should-retry`` decides, else the status (client.md, section 3)."""
    if error.should_retry is not None:
        return error.should_retry
    return error.status in (408, 409, 429) or error.status >= 500


def compare_reading(reading: Reading, other: Reading) -> None:
    """Two splits of one body mean the same."""
    assert reading.start == other.start
    assert reading.content == other.content
    assert (reading.stop_reason, reading.stop_sequence) == (other.stop_reason, other.stop_sequence)
    assert reading.usage == other.usage
    assert reading.others == other.others
    assert reading.error == other.error


def read(answer: Answer, recording: Recording) -> Reading:
    """The strict reading of an answer of which something was output."""
    assert answer.output, f"nothing came out: {answer.error!r}"
    return check_stream(answer.client_bytes(), passed_through=recording.wire == "anthropic")


# -- the next turn ------------------------------------------------------------------------------------


def next_turn(reading: Reading) -> list[dict[str, Any]]:
    """The conversation as a client sends it after this answer: every tool call gets a result."""
    blocks = []
    for block in reading.content:
        block = dict(block)
        if block["type"] == "tool_use":
            block["input"] = json.loads(block.pop("partial_json") or "{}")
        blocks.append(block)
    results = [
        {"type": "tool_result", "tool_use_id": block["id"], "content": "done"}
        for block in blocks
        if block["type"] == "tool_use"
    ]
    return [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": blocks},
        {"role": "user", "content": results or "And?"},
    ]


def expected_ids(recording: Recording) -> list[str]:
    """The ids of the tool calls as the upstream knows them; empty where it never said, or takes no such ids back."""
    replay = recording.expected.get("replay_next_turn", {})
    if isinstance(replay, dict) and "tool_call_ids" in replay:
        return list(replay["tool_call_ids"])
    ids = [block["id"] for block in recording.expected["content"] if block["type"] == "tool_use"]
    longest = recording.target().profile.tool_id_max
    return [] if "*" in ids or any(len(tool_id) > longest for tool_id in ids) else ids


def compare_items(recording: Recording, items: list[dict[str, Any]]) -> None:
    """The input items of the next turn (``responses`` wire): pairs of calls, and the expected items in their order."""
    calls = [item["call_id"] for item in items if item["type"] == "function_call"]
    assert calls == [item["call_id"] for item in items if item["type"] == "function_call_output"]
    ids = expected_ids(recording)
    if ids:
        assert calls == ids
    rest = iter(items)
    for wanted in recording.expected.get("replay_next_turn", ()):
        assert any(wanted.items() <= item.items() for item in rest if item["type"] == wanted["type"]), wanted
