"""A scripted upstream of OpenAI's type that validates as strictly as api.openai.com, and remembers all it saw.

Rules:
* The answer is chosen by the request alone and the number of times the same step was asked: no clock, no chance.
* A request that the strict checks refuse is answered with a 400 and recorded in ``violations``.
* Background requests of Claude Code (title, action classifier, compaction, web search, probe) are
  recognised by their shape and get a suitable answer; ``Seen.kind`` says which it was.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.fakes.script import Attempt, Refuse, Reply, Scenario, deltas, place, say, texts
from tests.fakes.strict_chat import Violation, check

KEY = "sk-lab-0123456789"
CREATED = 1795200000
SUMMARY = "<analysis>Short.</analysis>\n<summary>\nThe user asked for small things; all were done.\n{}\n</summary>"


@dataclass(slots=True)
class Usage:
    """Token counts of one answer, as reported."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0

    def body(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning, "audio_tokens": 0},
        }


@dataclass(slots=True)
class Seen:
    """One request and what was made of it."""

    kind: str
    """``scenario``, ``title``, ``classifier``, ``compact``, ``search``, ``probe`` or ``unknown``."""
    scenario: str | None
    step: int
    body: dict[str, Any]
    headers: Mapping[str, str]
    status: int = 200
    usage: Usage | None = None
    """What was reported; None when the answer broke off or was an error."""
    lane: str = ""
    """Of scripted_lanes.py; empty: plain Chat Completions."""
    left: threading.Event = field(default_factory=threading.Event)
    """Set when the client went away before the end; needs a server with ``handler_cancellation``."""

    def tool_names(self) -> list[str]:
        return [tool["function"]["name"] for tool in self.body.get("tools", ())]


@dataclass(slots=True)
class ScriptedUpstream:
    """The upstream. ``scenarios`` and ``reasoning`` may be changed between requests."""

    scenarios: dict[str, Scenario] = field(default_factory=dict)
    reasoning: str | None = None
    """The message field that carries reasoning, e.g. ``reasoning_content``; None: plain OpenAI."""
    key: str = KEY
    seen: list[Seen] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    _attempts: Counter[tuple[str, int]] = field(default_factory=Counter)
    _reasoned: dict[str, str] = field(default_factory=dict)
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def reset(self) -> None:
        """Forget everything but the counter of ids."""
        self.scenarios = {}
        self.reasoning = None
        self.seen.clear()
        self.violations.clear()
        self._attempts.clear()
        self._reasoned.clear()

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024**2)
        app.router.add_post("/v1/chat/completions", self.handle)
        return app

    async def handle(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            body = check(raw, headers, key=self.key, reasoning=self.reasoning)
            self._check_replay(body["messages"])
        except Violation as violation:
            self.violations.append(str(violation))
            return web.Response(status=violation.status, body=violation.body(), content_type="application/json")
        seen, attempt = self.choose(body, body, headers)
        self.seen.append(seen)
        if isinstance(attempt, Refuse):
            seen.status = attempt.status
            return web.json_response({"error": dict(attempt.error)}, status=attempt.status, headers=attempt.headers)
        assert isinstance(attempt, Reply), "only lanes have words of their own"
        return await self._answer(request, len(raw), seen, attempt)

    def _check_replay(self, messages: list[dict[str, Any]]) -> None:
        """Reasoning that led to a tool call must come back unchanged, as DeepSeek demands."""
        if self.reasoning is None:
            return
        for index, message in enumerate(messages):
            for made in message.get("tool_calls", ()):
                expected = self._reasoned.get(made["id"])
                if expected is not None and message.get(self.reasoning) != expected:
                    raise Violation(
                        f"messages[{index}].{self.reasoning}",
                        f"must be passed back unchanged: {expected!r}, got {message.get(self.reasoning)!r}",
                    )

    def choose(
        self, view: Mapping[str, Any], body: dict[str, Any], headers: Mapping[str, str]
    ) -> tuple[Seen, Attempt]:
        """What answers ``body``; ``view`` is what it asks for, in the shape of Chat Completions."""
        name, step = place(view["messages"])
        background = background_answer(view, f"[[s:{name}]]" if name else "")
        if background is not None:
            kind, answer = background
            return Seen(kind, name, step, body, headers), answer
        if name is None or name not in self.scenarios or step >= len(self.scenarios[name]):
            return Seen("unknown", name, step, body, headers), say(f"NO SUCH SCENARIO: {name}, step {step}")
        attempts = self.scenarios[name][step]
        if not isinstance(attempts, tuple):
            attempts = (attempts,)
        number = min(self._attempts[name, step], len(attempts) - 1)
        self._attempts[name, step] += 1
        return Seen("scenario", name, step, body, headers), attempts[number]

    async def _answer(self, request: web.Request, size: int, seen: Seen, reply: Reply) -> web.StreamResponse:
        usage = Usage(
            prompt=size // 4,
            cached=size // 8 if seen.step else 0,
            completion=reply.completion_tokens(),
            reasoning=len(reply.reasoning()) // 4,
        )
        ids = [f"call_{next(self._ids):024d}" for _ in reply.calls()]
        if reply.reasoning():
            self._reasoned.update(dict.fromkeys(ids, reply.reasoning()))
        if not seen.body.get("stream"):
            seen.usage = usage
            return web.json_response(self._completion(seen, reply, ids, usage))
        return await self._stream(request, seen, reply, ids, usage)

    def _completion(self, seen: Seen, reply: Reply, ids: list[str], usage: Usage) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": reply.content() or None, "refusal": None}
        if reply.reasoning() and self.reasoning:
            message[self.reasoning] = reply.reasoning()
        if ids:
            functions = [{"name": made.name, "arguments": _dump(made.arguments)} for made in reply.calls()]
            message["tool_calls"] = [
                {"id": identity, "type": "function", "function": function}
                for identity, function in zip(ids, functions, strict=True)
            ]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish_reason}
        head = {"id": "chatcmpl-lab", "object": "chat.completion", "created": CREATED, "model": seen.body["model"]}
        return {**head, "choices": [choice], "usage": usage.body()}

    async def _stream(
        self, request: web.Request, seen: Seen, reply: Reply, ids: list[str], usage: Usage
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        asked = seen.body.get("stream_options", {}).get("include_usage", False)
        head = {"id": "chatcmpl-lab", "object": "chat.completion.chunk", "created": CREATED}

        async def send(choices: list[dict[str, Any]], reported: dict[str, Any] | None = None) -> None:
            chunk = {**head, "model": seen.body["model"], "choices": choices, **({"usage": reported} if asked else {})}
            await response.write(b"data: " + _dump(chunk).encode() + b"\n\n")

        sent = list(deltas(reply, ids, self.reasoning or "reasoning_content"))
        if reply.ending != "done":
            sent = sent[: reply.breaks_after]
        await send([_choice({"role": "assistant", "content": "", "refusal": None})])
        for number, delta in enumerate(sent, 1):
            if reply.hold is not None and number == len(sent):
                await self._held(reply.hold, seen)
            await send([_choice(delta)])
        if reply.ending == "cut":
            # close, not abort: what was written still goes out, but the chunked body gets no end.
            if request.transport is not None:
                request.transport.close()
            return response
        if reply.ending == "done":
            await send([_choice({}, reply.finish_reason)])
            seen.usage = usage if asked else None
            if asked:
                await send([], usage.body())
            await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _held(self, hold: asyncio.Event, seen: Seen) -> None:
        try:
            await hold.wait()
        except asyncio.CancelledError:
            seen.left.set()
            raise


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def background_answer(body: Mapping[str, Any], tag: str) -> tuple[str, Reply] | None:
    """The kind of a background request of Claude Code, and its answer; None: it belongs to a scenario.

    ``tag`` goes into a summary, so that the conversation stays in its scenario.
    """
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
    if "title" in schema.get("properties", {}):
        return "title", say('{"title": "Small things"}')
    # OpenAI leaves the stop sequence out, so the closing tag is missing in the answer.
    stops = body.get("stop") or ()
    if "</severity>" in stops:
        return "classifier", say("<severity>3")
    if "</block>" in stops:
        return "classifier", say("<block>no")
    if (body.get("max_tokens") or body.get("max_completion_tokens")) == 1:
        return "probe", say("Hi")
    last = next((texts(message) for message in reversed(body["messages"]) if message["role"] == "user"), "")
    if "detailed summary" in last:
        return "compact", say(SUMMARY.format(tag))
    if last.startswith("Perform a web search for the query:"):
        return "search", say("The web was not searched; from memory: aiohttp streams.")
    return None
