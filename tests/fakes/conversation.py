"""The client's side of tests/cases/conversation.yaml, and the answers of the upstream under test.

Rules:
* The client keeps what came down, as Claude Code does: blocks unchanged, one result for each call, a cache mark
  that moves to the last block.
* Answers come through the translators, so that signatures and ids are those that the gateway makes.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gateway.adapters
from gateway.adapters.base import MessagesRequest, UpstreamRequest
from gateway.routing import Target
from gateway.translate.fold import MessageFold
from tests.fakes.upstream_answers import Dialect, written
from tests.fakes.upstream_rules import Upstream
from tests.recordings import load_yaml
from tests.targets import preset_target

JSON = dict[str, Any]
SCRIPT = load_yaml(Path(__file__).parents[1] / "cases" / "conversation.yaml")
TURNS = SCRIPT["turns"]
HEADERS = {
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,fine-grained-tool-streaming-2025-05-14",
}
FOREIGN_THOUGHTS = ("foreign-thought-5", "foreign-thought-6", "EmwKAhgBEgyRedacted")
"""Reasoning of others: nothing of it goes up but what Anthropic signed, to Anthropic."""
SIGNED = "EqQBCkYIBxgCKkC" + "Ab0" * 30 + "=="
HIGH = {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}


def prepared(target: Target, body: JSON) -> UpstreamRequest:
    request = MessagesRequest(body, HEADERS, "beta=true", "msg_01", 900)
    return gateway.adapters.get(target.api).prepare(request, target)


class Conversation:
    """The client's side of it, and what the upstream under test must get back."""

    def __init__(self, upstream: Upstream, target: Target) -> None:
        self._upstream = upstream
        self._target = target
        self._ids: dict[str, str] = {}
        self.back: list[JSON] = []
        self.messages: list[JSON] = []

    def requests(self) -> Iterator[JSON]:
        """The body of each turn; the answer to it follows when the next one is asked for."""
        for number, turn in enumerate(TURNS, start=1):
            self._user(number, turn)
            body = self._body(turn)
            yield body
            content, back = self._answer(number, turn["answer"], body)
            if back:
                self.back.append(back)
            self.messages.append({"role": "assistant", "content": content})

    def _user(self, number: int, turn: JSON) -> None:
        blocks = []
        for block in copy.deepcopy(turn["user"]):
            if "tool_use_id" in block:
                if self._upstream.rules.get("own_client") and block["tool_use_id"] not in self._ids:
                    continue
                block["tool_use_id"] = self._ids[block["tool_use_id"]]
            blocks.append(block)
        self.messages.append({"role": "user", "content": blocks})
        if "note" in turn:
            self.messages.append({"role": "system", "content": turn["note"]})

    def _body(self, turn: JSON) -> JSON:
        messages = copy.deepcopy(self.messages)
        last = next(message for message in reversed(messages) if message["role"] == "user")
        last["content"][-1]["cache_control"] = {"type": "ephemeral"}
        return {
            "model": "m",
            "messages": messages,
            "system": SCRIPT["system"],
            "tools": SCRIPT["tools"],
            "metadata": SCRIPT["metadata"],
            "max_tokens": 128_000,
            "stream": True,
            "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
            **copy.deepcopy(HIGH),
            **turn.get("asks", {}),
        }

    def _answer(self, number: int, answer: JSON, body: JSON) -> tuple[list[JSON], JSON | None]:
        """(the blocks that the client keeps, what has to come back)."""
        by = answer.get("by", "own")
        if by == "anthropic":
            content = [
                {"type": "thinking", "thinking": answer["think"], "signature": SIGNED},
                {"type": "redacted_thinking", "data": FOREIGN_THOUGHTS[-1]},
                {"type": "text", "text": answer["text"]},
                *(
                    {"type": "tool_use", "id": f"toolu_01{number}", "name": call["name"], "input": call["input"]}
                    for call in answer["calls"]
                ),
            ]
            back = None
        else:
            target, dialect = (self._target, self._upstream.dialect) if by == "own" else self._foreign()
            content, back = ask(target, dialect, answer, body, number)
            back = back if by == "own" else None
        calls = [block for block in content if block["type"] == "tool_use"]
        self._ids.update({f"@{number}.{place}": call["id"] for place, call in enumerate(calls)})
        return content, back

    def _foreign(self) -> tuple[Target, Dialect]:
        other = "zai" if self._upstream.provider == "deepseek" else "deepseek"
        model = {"zai": "glm-4.6", "deepseek": "deepseek-v4-pro"}[other]
        ids = "call_00_{hash}{hash}"  # longer than most take
        return preset_target(other, "openai-chat", model), Dialect("reasoning_content", ids)


def ask(target: Target, dialect: Dialect, answer: JSON, body: JSON, number: int) -> tuple[list[JSON], JSON | None]:
    """The upstream's answer through the translator: (the client's blocks, what the upstream must get back)."""
    upstream_names = names(target)
    calls = [{**call, "name": upstream_names[call["name"]]} for call in answer.get("calls", ())]
    stream = written(target.api, dialect, {**answer, "calls": calls}, number)
    request = MessagesRequest(body, HEADERS, "beta=true", f"msg_{number:02}", 900)
    translator = gateway.adapters.get(target.api).stream_translator(request, target)
    fold = MessageFold()
    fold.feed(translator.feed(stream.body))
    fold.feed(translator.close())
    content = fold.message()["content"]
    texts = "".join(block["text"] for block in content if block["type"] == "text")
    assert texts == answer.get("text", "")
    made = [(block["name"], block["input"]) for block in content if block["type"] == "tool_use"]
    assert made == [(call["name"], call["input"]) for call in answer.get("calls", ())]
    return content, {"think": answer.get("think"), **stream.back} if stream.back else None


NAMES: dict[int, tuple[Target, dict[str, str]]] = {}


def names(target: Target) -> dict[str, str]:
    """The client's name of each tool -> the name by which the upstream knows it: the one with that description."""
    if id(target) not in NAMES:
        body = {
            "model": "m",
            "max_tokens": 9,
            "tools": SCRIPT["tools"],
            "messages": [{"role": "user", "content": "Hi"}],
        }
        flat = [tool.get("function", tool) for tool in json.loads(prepared(target, body).body)["tools"]]
        told = {
            tool["name"]: sent["name"]
            for tool in SCRIPT["tools"]
            for sent in flat
            if sent["description"].startswith(tool["description"])
        }
        NAMES[id(target)] = target, told
    return NAMES[id(target)][1]
