"""The scripted upstream with one lane more, ``claude``: Anthropic's own API, which knows what it signed.

Rules:
* A thinking block of the history is one that this lane gave, its text and its signature unchanged; any other is the
  400 that Anthropic answers, and a violation.
* Where thinking is ``enabled``, the answer under way begins with a thinking block.
* Its own client may send it whatever that client sends; everything else is as in scripted_lanes.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp import web

from tests.fakes.scripted_answers import DIALECTS, Answer, Streamed
from tests.fakes.scripted_lanes import LANES, Lane, LaneUpstream
from tests.fakes.upstream_rules import breaches

JSON = dict[str, Any]
MADE_HERE = "EqQBCkYIBxgCKkC"
"""How a signature of Anthropic's begins: base64 of a protobuf message."""


def _error(kind: str, message: str) -> JSON:
    return {"type": "error", "error": {"type": kind, "message": message}}


SIGNED = Lane(
    name="claude", provider="anthropic", api="anthropic", model="claude-sonnet-5", base="", path="/v1/messages",
    dialect="signed", key_header="x-api-key", ids="toolu_01{hash}", images=True, caches=True, searches=True,
    routed_by=("metadata",), cache_mark="cache_control",
    overflow=(400, _error("invalid_request_error", "prompt is too long: 1200012 tokens > 1000000 maximum")),
    quota=(400, _error("invalid_request_error", "Your credit balance is too low to access the Anthropic API.")),
    busy=(529, _error("overloaded_error", "Overloaded")),
)  # fmt: skip
EVERY_LANE: Mapping[str, Lane] = {**LANES, SIGNED.name: SIGNED}


def _signed(answer: Answer) -> Streamed:
    """Anthropic's events, with signatures of Anthropic's kind."""
    said = DIALECTS["skin"](answer)
    secret, signature = answer.secret, MADE_HERE + answer.secret
    back = json.loads(json.dumps(said.back).replace(secret, signature))
    return Streamed([frame.replace(secret.encode(), signature.encode()) for frame in said.frames], back)


DIALECTS[SIGNED.dialect] = _signed


@dataclass(slots=True)
class SigningUpstream(LaneUpstream):
    """A LaneUpstream that also speaks as Anthropic."""

    def app(self) -> web.Application:
        app = LaneUpstream.app(self)
        app.router.add_post(f"/{SIGNED.name}{SIGNED.base}{SIGNED.path}", partial(self._speak, SIGNED))
        return app

    def _wrong(self, lane: Lane, raw: bytes, headers: Mapping[str, str]) -> list[str]:
        if lane is not SIGNED:
            return LaneUpstream._wrong(self, lane, raw, headers)
        found = [] if headers.get("x-api-key") == self.key else ["x-api-key: invalid"]
        found += [f"a header that is no business of ours: {name}" for name in ("authorization", "cookie")
                  if name in headers]  # fmt: skip
        body = json.loads(raw)
        found += breaches(lane.rules, headers, raw)
        return [*found, *self._unsigned(body), *self._not_back(lane, raw), *self._foreign(lane, raw)]

    def _unsigned(self, body: JSON) -> Iterator[str]:
        """Thinking that is not ours, and an answer that was begun without thinking."""
        given = [block for (name, _), blocks in self._backs.items() if name == SIGNED.name for block in blocks]
        for index, message in enumerate(body["messages"]):
            for at, block in enumerate(message["content"] if message["role"] == "assistant" else ()):
                if isinstance(block, dict) and block["type"] == "thinking" and block not in given:
                    yield f"messages.{index}.content.{at}: Invalid `signature` in `thinking` block"
        if body.get("thinking", {}).get("type") == "enabled":
            yield from _begun_without_thinking(body["messages"])


def _begun_without_thinking(messages: list[JSON]) -> Iterator[str]:
    last = max((at for at, message in enumerate(messages) if message["role"] == "assistant"), default=None)
    if last is None or not any(block["type"] == "tool_use" for block in messages[last]["content"]):
        return
    found = messages[last]["content"][0]["type"]
    if found not in ("thinking", "redacted_thinking"):
        yield (
            f"messages.{last}.content.0.type: Expected `thinking` or `redacted_thinking`, but found `{found}`. When "
            "`thinking` is enabled, a final `assistant` message must start with a thinking block"
        )
