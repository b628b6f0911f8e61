"""A model server whose abilities can be switched on and off one by one; it speaks Chat Completions.

Rules:
* What it is asked decides the answer: a tool is called when it is forced or named in the prompt, nothing
  else is guessed. No clock, no chance.
* Every request passes the strict checks first; abilities refuse more, or let more pass.
* ``asked`` remembers every body, ``looked_at`` every other address.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.fakes.strict_chat import Violation, check

KEY = "sk-lab-0123456789abcdef"
JSON = dict[str, Any]


@dataclass(slots=True)
class CapableUpstream:
    """The server. The defaults can do everything that a plain one does."""

    key: str = KEY
    fails: tuple[int, JSON] | None = None
    """(status, body) of every answer."""
    busy: int = 0
    """How many first answers are a 429."""
    drops: int = 0
    """How many first requests find the connection closed."""
    page: str | None = None
    """An HTML page instead of every answer."""
    silent: bool = False
    """The headers come, nothing else."""
    streams: bool = True
    empty: bool = False
    """Answers say nothing."""
    tools: bool = True
    calls_when_asked: bool = True
    parallel: bool = True
    parallel_switch: str = "obeyed"
    """``parallel_tool_calls``: ``obeyed``, ``ignored`` or ``refused``."""
    choices: frozenset[str] = frozenset(("named", "required"))
    """Forced choices that are taken; others are a 400."""
    obeys: bool | str = True
    """A forced choice makes a call; a word: only that one does."""
    thinks: str | None = None
    """The field of its reasoning, which comes where an effort other than ``none`` is asked for."""
    always: bool = False
    """It reasons without being asked."""
    shows: bool = True
    efforts: tuple[str, ...] | None = None
    """Levels that are taken; None: whatever comes."""
    choice_while_thinking: bool = True
    replay: str = "taken"
    """Reasoning in the history: ``taken``, ``refused``, or ``demanded`` of every turn with a call."""
    images: str = "seen"
    """``seen``, ``taken`` (and ignored), ``refused`` or ``broken`` (a 500 that says why)."""
    usage: str = "asked"
    """``asked`` (by stream_options), ``never``."""
    caches: bool = True
    refuses: frozenset[str] = frozenset()
    """Parameters that it does not know."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """Path -> what a GET there answers."""
    asked: list[JSON] = field(default_factory=list)
    looked_at: list[str] = field(default_factory=list)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when something silent has begun."""
    released: asyncio.Event = field(default_factory=asyncio.Event)
    """Ends what is silent."""
    _prefixes: Counter[str] = field(default_factory=Counter)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_get("/{path:.*}", self.look)
        return app

    async def look(self, request: web.Request) -> web.Response:
        self.looked_at.append(request.path)
        if request.path not in self.info:
            return web.json_response({"error": {"message": "no such address"}}, status=404)
        return web.json_response(self.info[request.path])

    async def chat(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        self.asked.append(json.loads(raw))
        if self.drops and request.transport is not None:
            self.drops -= 1
            request.transport.close()
        if self.page is not None:
            return web.Response(text=self.page, content_type="text/html")
        if self.fails is not None:
            return web.json_response(self.fails[1], status=self.fails[0])
        if self.busy:
            self.busy -= 1
            return web.json_response({"error": {"message": "slow down"}}, status=429, headers={"retry-after": "7"})
        try:
            body = self._checked(raw, {name.lower(): value for name, value in request.headers.items()})
        except Violation as violation:
            return web.Response(status=violation.status, body=violation.body(), content_type="application/json")
        return await self._answer(request, body)

    # -- what is refused -------------------------------------------------------------------------------

    def _checked(self, raw: bytes, headers: Mapping[str, str]) -> JSON:
        body: JSON = json.loads(raw)
        for name in self.refuses & body.keys():
            raise Violation(None, f"Unsupported parameter: '{name}' is not supported with this model.")
        self._check_choice(body)
        if "reasoning_effort" in body and self.efforts is not None and body["reasoning_effort"] not in self.efforts:
            raise Violation("reasoning_effort", f"expected one of {', '.join(self.efforts)}")
        if self.parallel_switch == "refused" and "parallel_tool_calls" in body:
            raise Violation("parallel_tool_calls", "no such thing")
        if not self.tools and body.get("tools"):
            raise Violation("tools", "this model does not support tools")
        self._check_history(body["messages"])
        strict = {name: value for name, value in body.items() if name not in ("tool_choice", "reasoning_effort")}
        check(json.dumps(strict).encode(), headers, key=self.key, reasoning=self.thinks)
        if self.images in ("refused", "broken") and any(self._pictures(body)):
            status = 400 if self.images == "refused" else 500
            raise Violation("messages", "image input is not supported by this model", status=status)
        return body

    def _check_choice(self, body: JSON) -> None:
        choice = body.get("tool_choice", "auto")
        if choice in ("auto", "none"):
            return
        if (choice if isinstance(choice, str) else "named") not in self.choices:
            raise Violation("tool_choice", f"{choice!r} is not taken here")
        if not self.choice_while_thinking and self._reasons(body):
            raise Violation("tool_choice", "not while thinking")

    def _check_history(self, messages: list[JSON]) -> None:
        for message in messages:
            if message["role"] != "assistant" or self.thinks is None:
                continue
            if self.replay == "refused" and self.thinks in message:
                raise Violation("messages", f"{self.thinks} must not be sent")
            if self.replay == "demanded" and message.get("tool_calls") and not message.get(self.thinks):
                raise Violation("messages", f"{self.thinks} is missing in a message with tool calls")

    # -- what it answers -------------------------------------------------------------------------------

    def _reasons(self, body: JSON) -> bool:
        return self.always or body.get("reasoning_effort", "none") != "none"

    @staticmethod
    def _pictures(body: JSON) -> list[JSON]:
        contents = [message["content"] for message in body["messages"] if isinstance(message["content"], list)]
        return [part for content in contents for part in content if part["type"] == "image_url"]

    def _deltas(self, body: JSON) -> list[JSON]:
        """What the model says, in one piece for each thing."""
        last = body["messages"][-1]
        prompt = json.dumps(last["content"])
        deltas: list[JSON] = []
        if self.thinks is not None and self.shows and self._reasons(body):
            deltas.append({self.thinks: "Let me think. "})
        choice = body.get("tool_choice", "auto")
        forced = choice not in ("auto", "none") and self.obeys in (True, choice)
        wanted = self.calls_when_asked and "get_weather" in prompt and last["role"] == "user"
        if body.get("tools") and (forced or wanted):
            both = self.parallel and "both" in prompt
            one_only = self.parallel_switch == "obeyed" and body.get("parallel_tool_calls") is False
            cities = ["Paris", "Rome"] if both and not one_only else ["Paris"]
            deltas.extend(_call(number, city) for number, city in enumerate(cities))
        elif not self.empty:
            text = "Red." if self._pictures(body) and self.images == "seen" else "ready"
            deltas.append({"content": text})
        return deltas

    def _usage(self, body: JSON) -> JSON | None:
        if self.usage == "never" or not body.get("stream_options", {}).get("include_usage", not self.streams):
            return None
        prefix = json.dumps(body["messages"])
        tokens = len(prefix) // 4
        cached = tokens // 2 if self.caches and tokens > 1024 and self._prefixes[prefix] else 0
        self._prefixes[prefix] += 1
        hidden = 5 if self.thinks and self._reasons(body) else 0
        return {
            "prompt_tokens": tokens,
            "completion_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": hidden},
        }

    async def _answer(self, request: web.Request, body: JSON) -> web.StreamResponse:
        deltas, usage = self._deltas(body), self._usage(body)
        reason = "tool_calls" if any("tool_calls" in delta for delta in deltas) else "stop"
        if not self.streams:
            message = {"role": "assistant", **{name: value for delta in deltas for name, value in delta.items()}}
            return web.json_response({"choices": [{"message": message, "finish_reason": reason}], "usage": usage})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        if self.silent:
            self.begun.set()
            await self.released.wait()
            return response
        chunks: list[JSON] = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        if usage is not None:
            chunks.append({"choices": [], "usage": usage})
        for chunk in chunks:
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response


def _call(number: int, city: str) -> JSON:
    function = {"name": "get_weather", "arguments": json.dumps({"city": city})}
    return {"tool_calls": [{"index": number, "id": f"call_{number}", "type": "function", "function": function}]}
