"""A strict Ollama server behind the gateway: answers, failures, and the question how much its models hold."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.config import loads
from gateway.server import context_windows
from gateway.server.app import build_app
from gateway.server.context_windows import ContextWindows
from gateway.server.http_edge import HANDLER_OPTIONS
from gateway.server.state import GatewayState
from gateway.server.upstream import new_session
from tests.fakes.ollama_server import Model, OllamaServer
from tests.server.gateway_process import Gateway, open_stream, running_gateway, until

KEY = "sk-oll-2c624232cdd22177"
DONE = {"done": True, "done_reason": "stop", "prompt_eval_count": 26, "eval_count": 9}
TOOL = {"name": "get.weather", "input_schema": {"type": "object", "properties": {"city": True}}}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}


def piece(**message: Any) -> dict[str, Any]:
    return {"model": "m", "message": {"role": "assistant", "content": "", **message}, "done": False}


@dataclass
class Lab:
    """A server, a gateway in front of it, and what the gateway asks the server by itself."""

    server: OllamaServer
    gateway: Gateway
    state: GatewayState
    windows: ContextWindows

    async def ask_again(self) -> None:
        self.state.learned.clear()
        self.windows.ask(self.state.config.table)
        await self.windows.settled()

    def profile(self, asked: str) -> Any:
        """The profile of a model's first target, with what was learned."""
        return self.state.learned.apply(self.state.config.table.resolve(asked).targets[0]).profile


@asynccontextmanager
async def lab(server: OllamaServer, models: str, *, key: str = KEY, url: str | None = None) -> AsyncIterator[Lab]:
    async with server.running(), new_session() as session:
        section = f"{{api: ollama, base_url: '{url or server.url}', api_key: '{key}'}}"
        text = f"providers: {{oll: {section}}}\nmodels: {models}\n"
        state = GatewayState(loads(text.encode(), "providers.yaml", {}), session)
        windows = ContextWindows(session, state.learned.add)
        windows.ask(state.config.table)
        runner = web.AppRunner(build_app(state), handler_cancellation=True, shutdown_timeout=1.0, **HANDLER_OPTIONS)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        await windows.settled()
        try:
            yield Lab(server, Gateway(f"http://127.0.0.1:{runner.addresses[0][1]}"), state, windows)
        finally:
            windows.stop()
            await windows.settled()
            await runner.cleanup()
            assert server.violations == []
            assert all(headers.get("authorization") == f"Bearer {key}" for headers in server.headers)


# -- answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "folded"])
async def test_thinking_a_call_and_its_image_there_and_back(stream: bool) -> None:
    call = {"function": {"index": 0, "name": "get_weather", "arguments": {"city": "Paris"}}}
    server = OllamaServer(
        {"m": Model([piece(thinking="Hm"), piece(content="Look."), piece(tool_calls=[call]), DONE])}, key=KEY
    )
    async with lab(server, "{sonnet: oll/m}") as it:
        more = {"tools": [TOOL], "thinking": {"type": "enabled", "budget_tokens": 2048}, "stream": stream}
        reply = await it.gateway.ask("sonnet", **more)
        assert reply.status == 200
        content = reply.reading().content if stream else reply.json["content"]
        assert [block["type"] for block in content] == ["thinking", "text", "tool_use"]
        if stream:
            return
        assert reply.json["stop_reason"] == "tool_use"
        assert reply.json["usage"]["input_tokens"] == 26
        server.models["m"].script = [piece(content="Sunny."), DONE]
        result = {"type": "tool_result", "tool_use_id": content[2]["id"], "content": [IMAGE]}
        messages = [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": content},
            {"role": "user", "content": [result, {"type": "text", "text": "And?"}]},
        ]
        reply = await it.gateway.ask("sonnet", **{**more, "messages": messages})
        assert reply.json["content"] == [{"type": "text", "text": "Sunny."}]
        first, second = server.chats
        assert second["messages"][: len(first["messages"]) - 1] == first["messages"][:-1]
        assert second["messages"][1]["thinking"] == "Hm"
        assert second["messages"][2]["images"] == ["iVBORw0KGgo="]
        assert second["think"] is True
        assert second["truncate"] is second["shift"] is False


async def test_an_event_leaves_with_its_line() -> None:
    gate = asyncio.Event()
    server = OllamaServer({"m": Model([piece(content="One"), gate, piece(content=" two"), DONE])}, key=KEY)
    async with lab(server, "{sonnet: oll/m}") as it, open_stream(it.gateway, "sonnet") as response:
        received = b""
        while b"One" not in received:
            received += await response.content.readany()
        gate.set()
        received += await response.content.read()
        assert b" two" in received
        assert received.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')


async def test_a_line_in_pieces() -> None:
    server = OllamaServer({"m": Model([b'{"message":{"content":"Zo\xc3', b'\xab"},"do', b'ne":true}'])}, key=KEY)
    async with lab(server, "{sonnet: oll/m}") as it:
        reply = await it.gateway.ask("sonnet")
        assert reply.reading().content == [{"type": "text", "text": "Zoë"}]


# -- failures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "folded"])
async def test_an_overflow_is_an_error_that_the_client_understands(stream: bool) -> None:
    server = OllamaServer({"m": Model([piece(content="Hi"), DONE], prompt_tokens=70_000)}, key=KEY)
    async with lab(server, "{sonnet: oll/m}") as it:
        reply = await it.gateway.ask("sonnet", stream=stream)
        message = reply.error(400, "invalid_request_error")
        assert message.startswith("prompt is too long: 70000 tokens > 65536 maximum")


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "folded"])
async def test_a_full_window_is_one_too(stream: bool) -> None:
    line = {"message": {"content": ""}, "done": True, "done_reason": "length", "prompt_eval_count": 65_536}
    server = OllamaServer({"m": Model([line])}, key=KEY)
    async with lab(server, "{sonnet: oll/m}") as it:
        reply = await it.gateway.ask("sonnet", stream=stream)
        assert reply.error(400).startswith("prompt is too long: 65537 tokens > 65536 maximum")


async def test_a_prompt_far_over_the_window_never_goes_up() -> None:
    """An old server would cut it silently and answer something else."""
    server = OllamaServer({"m": Model([piece(content="Hi"), DONE], largest=4096)}, key=KEY, version="0.9.6")
    async with lab(server, "{sonnet: oll/m}") as it:
        messages = [{"role": "user", "content": "word " * 10_000}]
        message = (await it.gateway.ask("sonnet", messages=messages)).error(400, "invalid_request_error")
        assert message.startswith("prompt is too long: ")
        assert "> 4096 maximum" in message
        assert server.chats == []


async def test_an_error_in_the_middle_of_a_stream() -> None:
    script = [piece(content="Hi"), {"error": "an error was encountered while running the model: CUDA error"}]
    server = OllamaServer({"m": Model(script)}, key=KEY)
    async with lab(server, "{sonnet: oll/m}") as it:
        reading = (await it.gateway.ask("sonnet")).reading()
        assert reading.error is not None
        assert reading.error["type"] == "api_error"
        assert "CUDA" in reading.error["message"]
        assert not reading.finished
        folded = await it.gateway.ask("sonnet", stream=False)
        assert "CUDA" in folded.error(502, "api_error")


async def test_an_answer_that_just_ends() -> None:
    server = OllamaServer({"m": Model([piece(content="The answer"), b'{"message":{"cont'])}, key=KEY)
    async with lab(server, "{sonnet: oll/m}") as it:
        reading = (await it.gateway.ask("sonnet")).reading()
        assert reading.error is not None
        assert not reading.finished
        (await it.gateway.ask("sonnet", stream=False)).error(502, "api_error")


async def test_an_error_before_content_is_an_http_error() -> None:
    server = OllamaServer({"m": Model([{"error": "llama runner process has terminated"}])}, key=KEY)
    async with lab(server, "{sonnet: oll/m}") as it:
        assert "terminated" in (await it.gateway.ask("sonnet")).error(502, "api_error")


async def test_a_model_that_was_not_pulled() -> None:
    async with lab(OllamaServer(key=KEY), "{sonnet: oll/m}") as it:
        message = (await it.gateway.ask("sonnet")).error(404, "not_found_error")
        assert "oll/m" in message
        assert it.windows.warnings == []


async def test_a_client_that_leaves_frees_the_server() -> None:
    server = OllamaServer({"m": Model([piece(content="One"), asyncio.Event()])}, key=KEY)
    async with lab(server, "{sonnet: oll/m}") as it:
        async with open_stream(it.gateway, "sonnet") as response:
            await response.content.readany()
        async with asyncio.timeout(20):
            await server.left.wait()


# -- the window ------------------------------------------------------------------------------------------


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_no_more_is_asked_for_than_the_model_holds(caplog: pytest.LogCaptureFixture) -> None:
    server = OllamaServer({"m": Model([piece(content="Hi"), DONE], largest=40_960)}, key=KEY)
    async with lab(server, "{sonnet: {use: oll/m, options: {num_ctx: 131072}}}") as it:
        assert it.profile("sonnet").context_window == 40_960
        await it.gateway.ask("sonnet")
        assert server.chats[0]["options"]["num_ctx"] == 40_960
        assert [path for path, _ in server.asked] == ["/api/show", "/api/version"]
        assert server.asked[0][1] == {"model": "m"}
        assert warnings(caplog) == it.windows.warnings == []


async def test_a_small_window_is_a_loud_warning_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    server = OllamaServer({"m": Model(), "small": Model(largest=8192)}, key=KEY)
    models = "{sonnet: {use: oll/m, options: {num_ctx: 4096}}, haiku: oll/small, opus: oll/m}"
    async with lab(server, models) as it:
        first, second = sorted(warnings(caplog))
        assert "oll/m: its context window is 4096 tokens" in first
        assert "{use: oll/m, options: {num_ctx: 65536}} under 'models'" in first
        assert "oll/small: its context window is 8192 tokens" in second
        assert "choose another model" in second
        assert sorted(it.windows.warnings) == [first, second]
        await it.ask_again()
        assert sorted(warnings(caplog)) == [first, second]
        assert sorted(it.windows.warnings) == [first, second]
        server.models["small"].largest = 16_384
        await it.ask_again()
        assert len(warnings(caplog)) == 3
        assert "16384" in warnings(caplog)[2]
        assert len(it.windows.warnings) == 2


async def test_two_routes_with_different_windows_keep_them() -> None:
    server = OllamaServer({"m": Model([DONE], largest=40_960, default=8192)}, key=KEY)
    models = "{sonnet: {use: oll/m, options: {num_ctx: null}}, haiku: {use: oll/m, profile: {context_window: 36864}}}"
    async with lab(server, models) as it:
        await it.gateway.ask("haiku")
        await it.gateway.ask("sonnet")
        assert server.chats[0]["options"]["num_ctx"] == 36_864
        assert "num_ctx" not in server.chats[1]["options"]


async def test_who_takes_what_is_too_long_is_asked_too() -> None:
    server = OllamaServer({"small": Model(largest=40_960), "large": Model(largest=50_000)}, key=KEY)
    async with lab(server, "{sonnet: {use: oll/small, on_overflow: oll/large}}") as it:
        (large,) = it.state.config.table.resolve("sonnet").on_overflow
        assert it.state.learned.apply(large).profile.context_window == 50_000
        assert it.profile("sonnet").context_window == 40_960


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Model(default=8192), "8192 tokens"),
        (Model(loaded=4096), "4096 tokens"),
        (Model(default=65_536, loaded=4096), None),
        (Model(), None),
    ],
)
async def test_a_window_that_is_left_to_the_server(
    model: Model, words: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    async with lab(OllamaServer({"m": model}, key=KEY), "{sonnet: {use: oll/m, options: {num_ctx: null}}}"):
        assert [words in text for text in warnings(caplog) if words] == ([True] if words else [])
        assert words or not warnings(caplog)


async def test_what_a_model_cannot_do_is_not_asked_of_it(caplog: pytest.LogCaptureFixture) -> None:
    server = OllamaServer({"m": Model([piece(content="Hi"), DONE], capabilities=["completion"])}, key=KEY)
    async with lab(server, "{sonnet: oll/m}") as it:
        messages = [{"role": "user", "content": [IMAGE, {"type": "text", "text": "What is it?"}]}]
        thinking = {"type": "enabled", "budget_tokens": 1024}
        reply = await it.gateway.ask("sonnet", messages=messages, thinking=thinking)
        assert reply.reading().content == [{"type": "text", "text": "Hi"}]
        assert "images" not in server.chats[0]["messages"][0]
        assert "think" not in server.chats[0]
        assert len(warnings(caplog)) == 1
        assert "takes no tools" in warnings(caplog)[0]


async def test_an_old_server_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    server = OllamaServer({"a": Model(), "b": Model()}, key=KEY, version="0.11.4")
    async with lab(server, "{sonnet: oll/a, haiku: oll/b}"):
        assert len(warnings(caplog)) == 1
        assert "0.12.6" in warnings(caplog)[0]


async def test_a_server_that_is_down_is_asked_again_with_the_next_request(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context_windows, "RETRY_SECONDS", 0.0)
    server = OllamaServer({}, key=KEY)
    with caplog.at_level(logging.DEBUG, "gateway"):
        async with lab(server, "{sonnet: oll/m}") as it:
            assert warnings(caplog) == []
            assert "its context window is not known" in caplog.text
            server.models["m"] = Model(largest=8192)
            target = it.state.config.table.resolve("sonnet").targets[0]
            it.windows.remind(target)
            await it.windows.settled()
            assert it.profile("sonnet").context_window == 8192
            asked = len(server.asked)
            it.windows.remind(target)
            await it.windows.settled()
            assert len(server.asked) == asked, "what is known is not asked again"


async def test_a_request_reminds_at_most_once_a_minute() -> None:
    async with lab(OllamaServer({}, key=KEY), "{sonnet: oll/m}") as it:
        for _ in range(20):
            it.windows.remind(it.state.config.table.resolve("sonnet").targets[0])
        await it.windows.settled()
        assert len(it.server.asked) == 1


@pytest.mark.parametrize("answer", ["nobody", "silence", "endless", "html", "redirect", "list"])
async def test_an_odd_server_is_no_news(
    answer: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context_windows, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(context_windows, "MAX_ANSWER_BYTES", 1000)

    async def handle(request: web.Request) -> web.StreamResponse:
        if answer == "silence":
            await asyncio.Event().wait()
        if answer == "redirect" and request.path != "/elsewhere":
            raise web.HTTPFound("/elsewhere")
        small = '{"model_info": {"llama.context_length": 2048}}'
        texts = {"endless": small + " " * 2000, "html": "<html>", "list": "[1]", "redirect": small}
        return web.Response(text=texts[answer])

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = "http://127.0.0.1:1" if answer == "nobody" else f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with lab(OllamaServer(), "{sonnet: oll/m}", url=url) as it:
            assert warnings(caplog) == it.windows.warnings == []
            assert it.profile("sonnet") == it.state.config.table.resolve("sonnet").targets[0].profile
    finally:
        await runner.cleanup()


async def test_many_models_are_asked_a_few_at_a_time() -> None:
    names = [f"m{number}" for number in range(30)]
    server = OllamaServer({name: Model(largest=40_960) for name in names}, key=KEY)
    async with lab(server, "{" + ", ".join(f"{name}: oll/{name}" for name in names) + "}") as it:
        assert {it.profile(name).context_window for name in names} == {40_960}


async def test_no_start_waits_for_an_answer() -> None:
    async with new_session() as session:
        text = "providers: {oll: {api: ollama, base_url: 'http://127.0.0.1:1'}}\nmodels: {sonnet: oll/m}\n"
        state = GatewayState(loads(text.encode(), "providers.yaml", {}), session)
        windows = ContextWindows(session, state.learned.add)
        windows.ask(state.config.table)
        windows.stop()
        await windows.settled()
        assert windows.warnings == []


# -- the whole program -----------------------------------------------------------------------------------

POLL_OFTEN = "import gateway.server.run as run; run.POLL_SECONDS = 0.03"
PROGRAM_CONFIG = """\
providers: {{oll: {{api: ollama, base_url: "{url}", api_key: "{key}"}}}}
models: {{sonnet: {{use: oll/{model}, options: {{num_ctx: {window}}}}}}}
"""


async def test_the_program_asks_at_its_start_and_after_each_reload(tmp_path: Path) -> None:
    server = OllamaServer({"m": Model([piece(content="Hi"), DONE]), "n": Model([piece(content="Ho"), DONE])}, key=KEY)
    async with server.running():
        text = PROGRAM_CONFIG.format(url=server.url, key=KEY, model="m", window=4096)
        with running_gateway(tmp_path, text, before=POLL_OFTEN) as gateway:

            async def warned() -> list[str]:
                answer: list[str] = (await gateway.send("GET", "/readyz")).json.get("warnings", [])
                return answer

            await until(warned)
            assert "oll/m: its context window is 4096 tokens" in (await warned())[0]
            assert gateway.log().count("its context window is 4096 tokens") == 1
            new = tmp_path / "new.yaml"
            new.write_text(PROGRAM_CONFIG.format(url=server.url, key=KEY, model="n", window=524_288))
            new.replace(tmp_path / "providers.yaml")

            async def asked_again() -> bool:
                return {"model": "n"} in [body for _, body in server.asked]

            await until(asked_again)

            async def lowered() -> bool:
                reply = await gateway.ask("sonnet")
                assert reply.reading().content == [{"type": "text", "text": "Ho"}]
                return bool(server.chats[-1]["options"]["num_ctx"] == 262_144)

            await until(lowered)
            assert await warned() == []
            assert KEY not in gateway.log()
    assert server.violations == []
