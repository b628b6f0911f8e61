"""A scripted Ollama server that reads requests as strictly as its typed structures do, and remembers all it saw.

Rules (ollama fb307609, api/types.go and server/routes.go):
* What the real server ignores without a word (unknown fields) or refuses (a value of another type, broken
  base64, a schema that its types cannot hold) is a violation: a 400, and an entry in ``violations``.
* ``/api/show``, ``/api/ps`` and ``/api/version`` answer from ``models``; a model that is not there is a 404.
* The answer to a chat is the script of its model: lines, errors, pauses until an event is set.
* A prompt that is longer than the window is refused where ``truncate`` is false, and cut where it is not.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Check = type | tuple[type, ...]

CHAT: Mapping[str, Check] = {
    "model": str, "messages": list, "stream": bool, "format": (dict, str), "keep_alive": (str, int), "tools": list,
    "options": dict, "think": (bool, str), "truncate": bool, "shift": bool, "logprobs": bool, "top_logprobs": int,
}  # fmt: skip
MESSAGE: Mapping[str, Check] = {
    "role": str, "content": str, "thinking": str, "images": list, "tool_calls": list, "tool_name": str,
    "tool_call_id": str,
}  # fmt: skip
OPTIONS: Mapping[str, Check] = {
    "num_ctx": int, "num_batch": int, "num_gpu": int, "main_gpu": int, "use_mmap": bool, "num_thread": int,
    "num_keep": int, "seed": int, "num_predict": int, "top_k": int, "top_p": (int, float), "min_p": (int, float),
    "typical_p": (int, float), "repeat_last_n": int, "temperature": (int, float), "repeat_penalty": (int, float),
    "presence_penalty": (int, float), "frequency_penalty": (int, float), "stop": list,
}  # fmt: skip
LEVELS = ("low", "medium", "high", "max")
MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF")
RUNNER_ERROR = '{{"error":{{"code":400,"message":"request ({n} tokens) exceeds the available context size ({m} tokens), try increasing it","type":"exceed_context_size_error","n_prompt_tokens":{n},"n_ctx":{m}}}}}'  # noqa: E501


class Violation(Exception):
    """Why the request is refused."""


@dataclass
class Model:
    """One model that the server has. A script's items are lines (dicts), raw bytes, or events to wait for."""

    script: Sequence[dict[str, Any] | bytes | asyncio.Event] = ()
    largest: int = 262_144
    default: int | None = None
    """``num_ctx`` of its Modelfile."""
    loaded: int | None = None
    """The window with which it is loaded now."""
    capabilities: Sequence[str] | None = ("completion", "tools", "thinking", "vision")
    prompt_tokens: int = 26
    refusal: tuple[int, str] | None = None
    """(status, text) instead of an answer."""


@dataclass
class OllamaServer:
    """The server; ``models`` may be changed between requests."""

    models: dict[str, Model] = field(default_factory=dict)
    version: str = "0.33.0"
    key: str | None = None
    chats: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    """(path, body) of the other requests."""
    headers: list[Mapping[str, str]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """A client went away before the end of its answer."""
    url: str = ""

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/api/chat", self._chat)
        app.router.add_post("/api/show", self._show)
        app.router.add_get("/api/ps", self._ps)
        app.router.add_get("/api/version", self._version)
        return app

    @asynccontextmanager
    async def running(self) -> AsyncIterator[OllamaServer]:
        """Listens on a free port of this machine."""
        runner = web.AppRunner(self.app(), handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    # -- questions ---------------------------------------------------------------------------------------

    def _refused(self, request: web.Request) -> web.Response | None:
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if self.key is None or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        return _error(401, "unauthorized")

    async def _show(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append(("/api/show", body))
        model = self.models.get(body.get("model"))
        refused = self._refused(request)
        if refused is not None or model is None:
            return refused or _error(404, f"model '{body.get('model')}' not found")
        answer: dict[str, Any] = {
            "license": "x" * 10_000,
            "details": {"family": "qwen3"},
            "model_info": {"general.architecture": "qwen3", "qwen3.context_length": model.largest},
        }
        if model.default is not None:
            answer["parameters"] = f'stop{" " * 27}"<|im_end|>"\nnum_ctx{" " * 24}{model.default}'
        if model.capabilities is not None:
            answer["capabilities"] = list(model.capabilities)
        return web.json_response(answer)

    async def _ps(self, request: web.Request) -> web.Response:
        self.asked.append(("/api/ps", None))
        loaded = [
            {"name": name, "model": name, "context_length": model.loaded}
            for name, model in ((f"{name}:latest", model) for name, model in self.models.items())
            if model.loaded is not None
        ]
        return self._refused(request) or web.json_response({"models": loaded})

    async def _version(self, request: web.Request) -> web.Response:
        self.asked.append(("/api/version", None))
        return self._refused(request) or web.json_response({"version": self.version})

    # -- chat --------------------------------------------------------------------------------------------

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        refused = self._refused(request)
        if refused is not None:
            return refused
        try:
            body = check(await request.read())
        except Violation as violation:
            self.violations.append(str(violation))
            return _error(400, str(violation))
        self.chats.append(body)
        model = self.models.get(body["model"])
        if model is None:
            return _error(404, f"model '{body['model']}' not found")
        if model.refusal is not None:
            return _error(*model.refusal)
        refusal = self._incapable(model, body) or self._overflow(model, body)
        return refusal or await self._play(request, model)

    def _incapable(self, model: Model, body: dict[str, Any]) -> web.Response | None:
        capabilities = model.capabilities or ()
        if body.get("tools") and "tools" not in capabilities:
            return _error(400, f'"{body["model"]}" does not support tools')
        if body.get("think") and "thinking" not in capabilities:
            return _error(400, f'"{body["model"]}" does not support thinking')
        return None

    def _overflow(self, model: Model, body: dict[str, Any]) -> web.Response | None:
        asked = body["options"].get("num_ctx") or model.default or model.loaded or 4096
        window = min(asked, model.largest)
        if model.prompt_tokens <= window or body.get("truncate", True):
            return None
        return _error(400, RUNNER_ERROR.format(n=model.prompt_tokens, m=window))

    async def _play(self, request: web.Request, model: Model) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "application/x-ndjson"})
        await response.prepare(request)
        try:
            for item in model.script:
                if isinstance(item, asyncio.Event):
                    await item.wait()
                else:
                    await response.write(item if isinstance(item, bytes) else json.dumps(item).encode() + b"\n")
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise
        return response


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)


# -- checks ----------------------------------------------------------------------------------------------


def check(raw: bytes) -> dict[str, Any]:
    """The body of a chat request. Raises Violation."""
    body: dict[str, Any] = json.loads(raw)
    _typed(body, CHAT, "")
    for name in ("model", "messages", "options", "stream"):
        _hold(name in body, f"{name} is missing")
    _hold(body.get("stream") is True, "stream is not true")
    _hold(body.get("think") in (None, True, False, *LEVELS), f"invalid think value: {body.get('think')}")
    _typed(body["options"], OPTIONS, "options.")
    _hold(bool(body["messages"]), "no messages")
    calls: set[str] = set()
    for number, message in enumerate(body["messages"]):
        _message(message, f"messages[{number}].", calls)
    for number, tool in enumerate(body.get("tools", ())):
        _tool(tool, f"tools[{number}].")
    return body


def _message(message: Any, path: str, calls: set[str]) -> None:
    _typed(message, MESSAGE, path)
    _hold(message.get("role") in ("system", "user", "assistant", "tool"), f"{path}role {message.get('role')}")
    _hold("content" in message, f"{path}content is missing")
    _hold(("tool_call_id" in message) == (message["role"] == "tool"), f"{path}tool_call_id on {message['role']}")
    if message["role"] == "tool":
        _hold(message["tool_call_id"] in calls, f"{path}no such call: {message['tool_call_id']}")
        _hold(bool(message.get("tool_name")), f"{path}tool_name is missing")
    for image in message.get("images", ()):
        try:
            data = base64.b64decode(image, validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise Violation(f"{path}images: illegal base64 data") from None
        _hold(data.startswith(MAGIC), f"{path}images: invalid image input")
    for number, call in enumerate(message.get("tool_calls", ())):
        _typed(call, {"id": str, "function": dict}, f"{path}tool_calls.")
        _typed(call["function"], {"index": int, "name": str, "arguments": dict}, f"{path}tool_calls.function.")
        _hold(call["function"].get("index") == number, f"{path}tool_calls: index {call['function'].get('index')}")
        _hold(call["id"] not in calls, f"{path}tool_calls: the id {call['id']} twice")
        calls.add(call["id"])


def _tool(tool: Any, path: str) -> None:
    _typed(tool, {"type": str, "function": dict}, path)
    function = tool["function"]
    _typed(function, {"name": str, "description": str, "parameters": dict}, f"{path}function.")
    _hold(isinstance(function["parameters"].get("type"), str), f"{path}parameters.type is no string")
    _property(function["parameters"], f"{path}parameters.")


def _property(schema: Any, path: str) -> None:
    """What ``ToolProperty`` can hold; keywords that it does not know are ignored by the server."""
    _hold(isinstance(schema, dict), f"{path} json: cannot unmarshal into ToolProperty")
    kind = schema.get("type", "")
    _hold(isinstance(kind, str) or all(isinstance(item, str) for item in kind), f"{path}type")
    _hold(isinstance(schema.get("description", ""), str), f"{path}description")
    required = schema.get("required") or []
    _hold(isinstance(required, list) and all(isinstance(item, str) for item in required), f"{path}required")
    for name, inner in (schema.get("properties") or {}).items():
        _property(inner, f"{path}{name}.")
    for inner in schema.get("anyOf") or ():
        _property(inner, f"{path}anyOf.")


def _typed(value: Any, types: Mapping[str, Check], path: str) -> None:
    _hold(isinstance(value, dict), f"{path} is no object")
    for name, item in value.items():
        _hold(name in types, f"{path}{name} is not known")
        wanted = types[name]
        right = isinstance(item, wanted) and not (isinstance(item, bool) and wanted in (int, (int, float)))
        _hold(right, f"json: cannot unmarshal {type(item).__name__} into {path}{name}")


def _hold(true: bool, otherwise: str) -> None:
    if not true:
        raise Violation(otherwise)
