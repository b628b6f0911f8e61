"""The scripted upstream as other providers speak: the same scenarios over every wire, each as strict as its original.

Rules:
* A lane is one provider over one API, below ``/NAME``. Its rules are its row of tests/cases/upstream_rules.yaml and
  the strict check of its wire; what they refuse is a 400 and stands in ``violations``.
* Reasoning that led to a call comes back with the call, exactly in the form in which the lane gave it.
* Nothing that one lane thought or encrypted may ever reach another, nor state that is the gateway's own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aiohttp import web

from tests.fakes import ollama_server, scripted_requests
from tests.fakes.openai_upstream import ScriptedUpstream, Seen, Usage
from tests.fakes.script import Reply, Think, Trouble
from tests.fakes.scripted_answers import Answer, dump, streamed
from tests.fakes.upstream_rules import Upstream, breaches, upstreams

JSON = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Lane:
    """One provider over one API."""

    name: str
    provider: str
    """The preset, and the row of upstream_rules.yaml."""
    api: str
    model: str
    base: str
    """The path of the base URL below ``/NAME``."""
    path: str
    """What a client adds to the base URL."""
    dialect: str
    """How it answers; scripted_answers.py."""
    key_header: str | None
    ids: str
    """The form of call ids: ``{index}``, ``{hash}``, ``{nine}``."""
    images: bool
    """Takes images."""
    caches: bool
    """Tells of cached tokens."""
    searches: bool
    """Searches the web by itself: it takes Anthropic's server tool for that."""
    routed_by: tuple[str, ...]
    """Fields that are the same in all requests of a session."""
    cache_mark: str | None
    """How a request marks what is worth keeping."""
    overflow: tuple[int, Any]
    quota: tuple[int, Any]
    busy: tuple[int, Any]
    """(status, body) of its refusals."""

    @property
    def rules(self) -> Upstream:
        (row,) = (row for row in upstreams() if (row.provider, row.api, row.model) == self._row)
        return row

    @property
    def _row(self) -> tuple[str, str, str]:
        return self.provider, self.api, self.model

    def refusal(self, trouble: Trouble) -> tuple[int, Any]:
        """(status, body)."""
        found: tuple[int, Any] = getattr(self, trouble.kind)
        return found


def _error(message: str, kind: str, code: str | None = None, param: str | None = None) -> JSON:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


_TOO_LONG = (
    "This model's maximum context length is 1000000 tokens. However, you requested 1200012 tokens (1168012 in the "
    "messages, 32000 in the completion). Please reduce the length of the messages or completion."
)
_RUNNER_FULL = {
    "error": {
        "code": 400,
        "message": "request (70012 tokens) exceeds the available context size (65536 tokens), try increasing it",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": 70012,
        "n_ctx": 65536,
    }
}
_DEEPSEEK: JSON = {
    "overflow": (400, _error(_TOO_LONG, "invalid_request_error", "invalid_request_error")),
    "quota": (402, _error("Insufficient Balance", "unknown_error", "invalid_request_error")),
    "busy": (503, _error("The server is overloaded, please try again later.", "service_unavailable_error")),
}

LANES: Mapping[str, Lane] = {
    lane.name: lane
    for lane in (
        Lane(
            name="openai", provider="openai", api="openai-responses", model="gpt-5.6", base="/v1", path="/responses",
            dialect="responses", key_header="authorization", ids="call_{hash}", images=True, caches=True,
            searches=False, routed_by=("prompt_cache_key", "safety_identifier"), cache_mark="prompt_cache_breakpoint",
            overflow=(400, _error(
                "Your input exceeds the context window of this model. Please adjust your input and try again.",
                "invalid_request_error", "context_length_exceeded", "input",
            )),
            quota=(429, _error(
                "You exceeded your current quota, please check your plan and billing details.",
                "insufficient_quota", "insufficient_quota",
            )),
            busy=(503, _error("The engine is currently overloaded, please try again later.", "server_error")),
        ),
        Lane(
            name="local", provider="ollama", api="ollama", model="qwen3:8b", base="", path="/api/chat",
            dialect="ollama", key_header=None, ids="call_{nine}", images=True, caches=False, searches=False,
            routed_by=(), cache_mark=None,
            overflow=(400, {"error": json.dumps(_RUNNER_FULL)}),
            quota=(402, {"error": "you have reached your weekly usage limit, upgrade for higher limits"}),
            busy=(503, {"error": "server busy, please try again.  maximum pending requests exceeded"}),
        ),
        Lane(
            name="skin", provider="deepseek", api="anthropic", model="deepseek-v4-pro", base="/anthropic",
            path="/v1/messages", dialect="skin", key_header="x-api-key", ids="call_0{index}_{hash}", images=False,
            caches=True, searches=True, routed_by=("metadata",), cache_mark=None, **_DEEPSEEK,
        ),
        Lane(
            name="deepseek", provider="deepseek", api="openai-chat", model="deepseek-v4-pro", base="/v1",
            path="/chat/completions", dialect="deepseek-chat", key_header="authorization", ids="call_0{index}_{hash}",
            images=False, caches=True, searches=False, routed_by=("user_id",), cache_mark=None, **_DEEPSEEK,
        ),
        Lane(
            name="mistral", provider="mistral", api="openai-chat", model="mistral-medium-latest", base="/v1",
            path="/chat/completions", dialect="mistral-chat", key_header="authorization", ids="{nine}", images=True,
            caches=True, searches=False, routed_by=(), cache_mark=None,
            overflow=(400, {
                "object": "error", "type": "invalid_request_error", "param": None, "code": "3051",
                "message": "Prompt contains 300012 tokens and 0 draft tokens, too large for model with 262144 maximum "
                "context length",
            }),
            quota=(402, {"detail": "You have reached your usage limit. Please check your plan and billing details."}),
            busy=(429, {
                "object": "error", "type": "service_tier_capacity_exceeded", "param": None, "code": "3505",
                "message": "Service tier capacity exceeded for this model.",
            }),
        ),
    )
}  # fmt: skip

BETAS = "context-management-2025-06-27"
"""The only name that the Anthropic side of DeepSeek is known to take in ``anthropic-beta``."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a lane said and only that lane may hear again."""

    lane: str
    text: str
    """As it stands inside JSON strings."""


@dataclass(slots=True)
class LaneUpstream(ScriptedUpstream):
    """A ScriptedUpstream that also speaks as every lane."""

    _backs: dict[tuple[str, str], Any] = field(default_factory=dict)
    """(lane, call id) -> the reasoning that led to the call, as it has to come back."""
    _told: list[Told] = field(default_factory=list)

    def reset(self) -> None:
        ScriptedUpstream.reset(self)
        self._backs.clear()
        self._told.clear()

    def app(self) -> web.Application:
        app = ScriptedUpstream.app(self)
        for lane in LANES.values():
            app.router.add_post(f"/{lane.name}{lane.base}{lane.path}", partial(self._speak, lane))
        app.router.add_post("/local/api/show", self._show)
        app.router.add_get("/local/api/ps", self._ps)
        app.router.add_get("/local/api/version", self._version)
        return app

    def tell(self, lane: str, text: str) -> None:
        """From now on nobody but ``lane`` may hear ``text``."""
        self._told.append(Told(lane, dump(text)[1:-1]))

    # -- Ollama's other addresses ------------------------------------------------------------------------

    async def _show(self, request: web.Request) -> web.Response:
        model = (await request.json()).get("model")
        if model != LANES["local"].model:
            return web.json_response({"error": f"model '{model}' not found"}, status=404)
        info = {"general.architecture": "qwen3", "qwen3.context_length": 262_144}
        return web.json_response({"model_info": info, "capabilities": ["completion", "tools", "thinking", "vision"]})

    async def _ps(self, request: web.Request) -> web.Response:
        return web.json_response({"models": []})

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "0.33.0"})

    # -- requests ----------------------------------------------------------------------------------------

    async def _speak(self, lane: Lane, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        found = self._wrong(lane, raw, headers)
        if found:
            self.violations += [f"{lane.name}: {text}" for text in found]
            return web.json_response(_error("; ".join(found), "invalid_request_error"), status=400)
        body = json.loads(raw)
        asked = scripted_requests.read(lane.api, body)
        seen, attempt = self.choose(asked.view, body, headers)
        seen.lane = lane.name
        self.seen.append(seen)
        if isinstance(attempt, Trouble):
            seen.status, refusal = lane.refusal(attempt)
            return web.json_response(refusal, status=seen.status)
        assert isinstance(attempt, Reply), "a lane refuses in its own words: Trouble"
        return await self._play(lane, request, len(raw), seen, attempt)

    def _wrong(self, lane: Lane, raw: bytes, headers: Mapping[str, str]) -> list[str]:
        """All that is wrong with a request, in words."""
        found = []
        key = headers.get(lane.key_header or "", "").removeprefix("Bearer ")
        if key != (self.key if lane.key_header else ""):
            found.append(f"the key is not in {lane.key_header}")
        others = {"authorization", "x-api-key", "cookie"} - {lane.key_header}
        found += [f"a header that is no business of ours: {name}" for name in others if name in headers]
        if lane.api == "anthropic" and headers.get("anthropic-beta", BETAS) != BETAS:
            found.append(f"anthropic-beta: {headers['anthropic-beta']}")
        if lane.api == "ollama":
            try:
                ollama_server.check(raw)
            except ollama_server.Violation as violation:
                found.append(str(violation))
        found += breaches(lane.rules, headers, _without_search(raw) if lane.searches else raw)
        if not found:
            found += [*self._not_back(lane, raw), *self._foreign(lane, raw)]
        return found

    def _not_back(self, lane: Lane, raw: bytes) -> list[str]:
        found = []
        for turn in scripted_requests.read(lane.api, json.loads(raw)).turns:
            for identity in turn.calls:
                wanted = self._backs.get((lane.name, identity))
                if wanted is not None and turn.reasoning != wanted:
                    found.append(f"the reasoning of {identity} did not come back: {turn.reasoning}, not {wanted}")
        return found

    def _foreign(self, lane: Lane, raw: bytes) -> list[str]:
        text = dump(json.loads(raw))
        others = [told for told in self._told if told.lane != lane.name]
        found = [f"from {told.lane}: {told.text}" for told in others if told.text in text]
        return found + [f"state of the gateway's: {mark}" for mark in ('"gw1.', '"gw1_') if mark in text]

    # -- answers -----------------------------------------------------------------------------------------

    async def _play(
        self, lane: Lane, request: web.Request, size: int, seen: Seen, reply: Reply
    ) -> web.StreamResponse:
        serial = f"{next(self._ids):012d}"
        answer = _answer(lane, size, seen, reply, serial)
        sent = streamed(lane.dialect, answer)
        whole = reply.ending == "done"
        if whole:
            self._remember(lane, answer, sent.back)
            cached = answer.cached if lane.caches else 0
            seen.usage = Usage(answer.prompt, cached, answer.completion, answer.reasoning)
        kind = "application/x-ndjson" if lane.api == "ollama" else "text/event-stream"
        response = web.StreamResponse(headers={"content-type": kind})
        await response.prepare(request)
        for frame in sent.frames if whole else sent.frames[: reply.breaks_after]:
            await response.write(frame)
        if reply.ending == "cut" and request.transport is not None:
            request.transport.close()
            return response
        await response.write_eof()
        return response

    def _remember(self, lane: Lane, answer: Answer, back: Any) -> None:
        self._backs.update({(lane.name, identity): back for identity in answer.ids if back is not None})
        for text in (*(part.text for part in answer.reply.parts if isinstance(part, Think)), answer.secret):
            self.tell(lane.name, text)


def _without_search(raw: bytes) -> bytes:
    """A request without the server tool for web search, which the rules of upstream_rules.yaml do not know."""
    body = json.loads(raw)
    tools = body.get("tools", ())
    kept = [tool for tool in tools if set(tool) != {"type", "name", "max_uses"} or tool["name"] != "web_search"]
    if len(kept) == len(tools):
        return raw
    assert not kept, "Claude Code offers nothing else beside it"
    body.pop("tool_choice", None)
    del body["tools"]
    return dump(body).encode()


def _answer(lane: Lane, size: int, seen: Seen, reply: Reply, serial: str) -> Answer:
    digests = [hashlib.sha256(f"{serial}.{index}".encode()).hexdigest() for index in range(len(reply.calls()))]
    return Answer(
        reply=reply,
        ids=[
            lane.ids.format(index=index, hash=digest[:24], nine=digest[:9]) for index, digest in enumerate(digests)
        ],
        model=lane.model,
        serial=serial,
        prompt=size // 4,
        cached=size // 8 if seen.step and lane.caches else 0,
        completion=reply.completion_tokens(),
        reasoning=len(reply.reasoning()) // 4,
    )
