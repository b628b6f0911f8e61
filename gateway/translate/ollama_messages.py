"""The conversation of a request as Ollama messages.

Rules (R6-R18, R59, R60), beside those of chat_messages.py:
* ``content`` is one string. Images are base64 in ``images`` of the same message, in their order.
* Arguments of past calls are objects; a tool message names its tool (``tool_name``) and its call.
* Past reasoning of this provider goes back in ``thinking``, whichever API it came by, or in its tags.
* Nothing is fetched: an image by URL is a 400, and so is a format that the server does not take.
"""

from __future__ import annotations

from typing import Any

import orjson

from gateway.errors import InvalidRequest
from gateway.profile import Profile
from gateway.translate.assistant_turn import AssistantTurn
from gateway.translate.changes import Changes
from gateway.translate.chat_messages import ChatMessages
from gateway.translate.chat_parts import blocks_of
from gateway.translate.chat_tools import OfferedTools
from gateway.translate.opaque import decode_signature
from gateway.translate.reasoning import TAGS, tagged

JSON = dict[str, Any]

THINKING = "thinking"
"""The field of a message that holds its reasoning, in both directions."""

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")
"""What every runner of the server reads (openai/openai.go, ``decodeImageURL``)."""


class OllamaTurn(AssistantTurn):
    """One past answer of the model."""

    def tool_use(self, block: JSON, name: str, used_ids: dict[str, int], path: str) -> None:
        call, _ = self._past_call(block, name, used_ids)
        arguments = orjson.loads(self._arguments(block, path))
        function = {"index": len(self._tool_calls), "name": name, "arguments": arguments}
        self._tool_calls.append({"id": call.upstream_id, "function": function})

    def thinking(self, block: JSON, path: str) -> None:
        state = decode_signature(block.get("signature"))
        back = self._profile.reasoning_back
        if state is None or state.get("p") != self._provider or back == "none":
            self._changes.add("dropped", path, "reasoning that the upstream did not write, or does not take back")
            return
        text = str(block.get("thinking") or "")
        if back == TAGS or (back == "same" and state.get("f") == TAGS):
            self._tags = tagged(text, state.get("g"))
        else:
            self._fields[THINKING] = self._fields.get(THINKING, "") + text

    def to_wire(self) -> JSON | None:
        message = super().to_wire()
        return None if message is None else {**message, "content": message["content"] or ""}


def ollama_messages(
    body: JSON, profile: Profile, provider: str, model: str, offered: OfferedTools, changes: Changes
) -> list[JSON]:
    """The messages. Raises InvalidRequest, naming the place, for content that cannot go up."""
    if profile.images:
        _refuse_formats(body, f"{provider}/{model}")
    messages = ChatMessages(profile, provider, model, offered, changes, turn=OllamaTurn).translate(body)
    return [_message(message) for message in messages]


def _message(message: JSON) -> JSON:
    content = message["content"]
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    wire: JSON = {"role": message["role"], "content": "\n\n".join(p["text"] for p in parts if p["type"] == "text")}
    images = [_base64(part["image_url"]["url"]) for part in parts if part["type"] == "image_url"]
    if images:
        wire["images"] = images
    for name, ours in ((THINKING, THINKING), ("tool_calls", "tool_calls"), ("name", "tool_name")):
        if name in message:
            wire[ours] = message[name]
    if "tool_call_id" in message:
        wire["tool_call_id"] = message["tool_call_id"]
    return wire


def _base64(url: str) -> str:
    head, _, data = url.partition(";base64,")
    if head.removeprefix("data:") not in IMAGE_TYPES:
        raise InvalidRequest(f"an image: Input should be base64 data of one of {', '.join(IMAGE_TYPES)}")
    return data



# -- image formats ---------------------------------------------------------------------------------------


def _refuse_formats(body: JSON, target: str) -> None:
    for position, message in enumerate(body["messages"]):
        if isinstance(message, dict):
            _refuse_in(message.get("content"), f"messages[{position}].content", target)


def _refuse_in(content: Any, path: str, target: str) -> None:
    for position, block in enumerate(blocks_of(content, path)):
        source = block.get("source")
        place = f"{path}[{position}]"
        if block["type"] == "tool_result":
            _refuse_in(block.get("content"), f"{place}.content", target)
        elif isinstance(source, dict) and source.get("type") == "content":
            _refuse_in(source.get("content"), f"{place}.source.content", target)
        elif block["type"] == "image" and isinstance(source, dict) and source.get("type") == "base64":
            kind = source.get("media_type")
            if kind not in IMAGE_TYPES:
                raise InvalidRequest(
                    f"{place}.source.media_type: {target} takes {', '.join(IMAGE_TYPES)}, not {kind}"
                )
