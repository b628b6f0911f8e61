"""Echo: an embedded upstream that answers from the prompt. For trying a client without a key, and for tests.

What it does with the last user message:
* after a tool result: ``Tool result: …``;
* a line ``call NAME {json}`` where NAME is an offered tool: plays that call (several lines: several calls);
* a line ``think: …``: that text as thinking, before the answer;
* structured output asked for: a JSON object that fills the schema's properties;
* ``tool_choice`` that forces a call: that tool, or the first, with an empty input;
* anything else: ``echo: …``; with ``thinking`` switched on, a word of thinking before it.
``max_tokens`` and stop sequences cut the answer. Nothing is sent anywhere.

Rule: no more than MAX_REPEATED characters of a prompt or a tool result are looked at and repeated, and the answer
says what was left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from gateway.adapters.base import MessagesRequest, StreamTranslator, UpstreamRequest
from gateway.adapters.headers import error_context
from gateway.errors import GatewayError, UpstreamFailed
from gateway.routing import Target
from gateway.translate.changes import Changes
from gateway.translate.passthrough_stream import PassthroughTranslator
from gateway.translate.stop_sequences import StopSequences
from gateway.translate.usage import Usage
from gateway.translate.writer import MessageStreamWriter

_CALL = re.compile(r"^call (\S+) (\{.*\})\s*$", re.MULTILINE)
_THINK = re.compile(r"^think: (.+)$", re.MULTILINE)
MAX_REPEATED = 16 * 1024
_CHARACTERS_PER_TOKEN = 4
_REMINDER = "<system-reminder>"


class EchoAdapter:
    """The api ``echo``."""

    def prepare(self, request: MessagesRequest, target: Target) -> UpstreamRequest:
        return UpstreamRequest("echo:", {}, b"", Changes(), answer=list(_answer(request)))

    def stream_translator(self, request: MessagesRequest, target: Target) -> StreamTranslator:
        return PassthroughTranslator(
            error_context(request, target),
            message_id=request.message_id,
            input_tokens=request.input_tokens,
            first_party=False,
        )

    def translate_error(
        self, status: int, headers: Mapping[str, str], body: bytes, request: MessagesRequest, target: Target
    ) -> GatewayError:
        return UpstreamFailed(f"{target.provider.name} answered {status}")


def _answer(request: MessagesRequest) -> Iterator[bytes]:
    """The events, one chunk for each piece of the answer."""
    body = request.body
    writer = MessageStreamWriter(request.message_id, request.model, request.input_tokens)
    prompt, result = _last_words(body["messages"])
    said = prompt if result is None else result
    left_out = f" … ({len(said) - MAX_REPEATED} more characters)" if len(said) > MAX_REPEATED else ""
    prompt = prompt[:MAX_REPEATED]
    names = _tool_names(body)
    thought = _thought(prompt, body) if result is None else None
    if thought:
        writer.thinking(thought)
        writer.signature("echo")
        yield writer.take()
    calls = [(call[1], call[2]) for call in _CALL.finditer(prompt) if call[1] in names] if result is None else []
    if not calls and result is None:
        calls = _forced(body)
    for number, (name, arguments) in enumerate(calls):
        writer.tool_call(number, f"toolu_{request.message_id.removeprefix('msg_')}{number}", name, arguments)
        yield writer.take()
    reason, stop, written = "tool_use", None, ""
    if not calls:
        if result is not None:
            text = f"Tool result: {result[:MAX_REPEATED]}{left_out}"
        else:
            text = _structured(body) or f"echo: {prompt}{left_out}"
        written, reason, stop = _cut(text, body)
        for piece in re.findall(r"\S+\s*|\s+", written):
            writer.text(piece)
            yield writer.take()
    output = sum(map(len, (text for call in calls for text in call))) + len(written)
    writer.usage(Usage(request.input_tokens, output_tokens=max(1, output // _CHARACTERS_PER_TOKEN)))
    writer.finish(reason, stop)
    yield writer.take()


def _thought(prompt: str, body: dict[str, Any]) -> str | None:
    asked = _THINK.search(prompt)
    if asked:
        return asked[1]
    thinking = body.get("thinking")
    on = isinstance(thinking, dict) and thinking.get("type") in ("enabled", "adaptive")
    return "Nothing to think about: this is an echo." if on else None


def _forced(body: dict[str, Any]) -> list[tuple[str, str]]:
    """The call that ``tool_choice`` demands."""
    choice = body.get("tool_choice")
    names = _tool_names(body)
    if not isinstance(choice, dict) or choice.get("type") not in ("any", "tool") or not names:
        return []
    return [(choice["name"] if choice.get("name") in names else names[0], "{}")]


def _tool_names(body: dict[str, Any]) -> list[str]:
    tools = [tool for tool in body.get("tools") or () if isinstance(tool, dict)]
    return [tool["name"] for tool in tools if isinstance(tool.get("name"), str)]


def _last_words(messages: list[Any]) -> tuple[str, str | None]:
    """(the last user text, the text of a tool result after it or None)."""
    for message in reversed(messages):
        if not isinstance(message, dict) or message.get("role") != "user":
            continue
        content = message.get("content")
        blocks = content if isinstance(content, list) else [{"type": "text", "text": content}]
        results = [block for block in blocks if isinstance(block, dict) and block.get("type") == "tool_result"]
        if results:
            return "", "\n".join(_text_of(block.get("content")) for block in results)
        texts = [text for text in map(_text_of, blocks) if text and not text.startswith(_REMINDER)]
        return (texts[-1] if texts else ""), None
    return "", None


def _text_of(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(filter(None, map(_text_of, value)))
    if isinstance(value, dict):
        return str(value["text"]) if "text" in value else f"[{value.get('type')}]"
    return ""


def _cut(text: str, body: dict[str, Any]) -> tuple[str, str, str | None]:
    """(the text that ``max_tokens`` and the stop sequences leave, stop reason, stop sequence)."""
    stops = [stop for stop in body.get("stop_sequences") or () if isinstance(stop, str) and stop]
    matcher = StopSequences(stops, enforce=True)
    kept, stop = matcher.feed(text)
    kept += matcher.close()
    limit = body.get("max_tokens", 0) * _CHARACTERS_PER_TOKEN
    if limit and len(kept) > limit:
        return kept[:limit], "max_tokens", None
    return kept, "stop_sequence" if stop else "end_turn", stop


def _structured(body: dict[str, Any]) -> str | None:
    """A JSON object for a request with a schema, else None."""
    config = body.get("output_config")
    output_format = config.get("format") if isinstance(config, dict) else None
    schema = output_format.get("schema") if isinstance(output_format, dict) else None
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict):
        return None
    fillers: dict[Any, Any] = {"number": 0, "integer": 0, "boolean": False, "array": [], "object": {}, "null": None}
    values = {
        name: fillers.get(str(detail.get("type")), "echo") if isinstance(detail, dict) else "echo"
        for name, detail in properties.items()
    }
    return orjson.dumps(values).decode()
