"""``gateway check --live``: what the probes see of upstreams of every ability, and what they conclude."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from aiohttp import ClientSession, web
from pytest_aiohttp.plugin import AiohttpServer

from gateway.config import demo, loads
from gateway.errors import InvalidRequest
from gateway.routing import Target
from gateway.server import handlers, live_check
from gateway.server.app import build_app
from gateway.server.live_asker import Asker
from gateway.server.live_check import Report, check_targets
from gateway.server.live_probes import MOST_REQUESTS, PROBES
from gateway.server.live_window import window
from gateway.server.state import GatewayState
from tests.fakes.capable_upstream import KEY, CapableUpstream

SECONDS = 20.0
ALL_WELL = dict.fromkeys((probe.name for probe in PROBES), "ok")
NOT_ASKED = dict.fromkeys(ALL_WELL, "-")


def target_at(url: str, profile: dict[str, Any] | None = None, key: str = KEY) -> Target:
    provider = {"api": "openai-chat", "base_url": url, "api_key": key, "profile": profile or {}}
    text = json.dumps({"providers": {"lab": provider}, "models": {"sonnet": "lab/m"}})
    return loads(text.encode(), "providers.yaml", {}).table.resolve("sonnet").targets[0]


@pytest.fixture
def report_of(aiohttp_server: AiohttpServer) -> Callable[..., Awaitable[Report]]:
    """The report of an upstream, as configured with some profile."""

    async def check(upstream: CapableUpstream, profile: dict[str, Any] | None = None, **options: Any) -> Report:
        server = await aiohttp_server(upstream.app())
        target = target_at(str(server.make_url("/v1")), profile)
        (report,) = await check_targets([(target, ("sonnet",))], **{"seconds": SECONDS, "progress": ignore, **options})
        return report

    return check


def ignore(target: str, probe: str) -> None:
    """Nobody watches."""


def marks(report: Report) -> dict[str, str]:
    return {name: cell.mark for name, cell in report.cells.items()}


# -- abilities ---------------------------------------------------------------------------------------------

EFFORTS = {"effort_field": "reasoning_effort", "efforts": ["none", "low", "medium", "high"]}
THINKER: dict[str, Any] = {"thinks": "reasoning_content", "efforts": ("none", "low", "medium", "high")}
WINDOW = {"info": {"/v1/models": {"data": [{"id": "m", "max_model_len": 40960}]}}}


@dataclass(frozen=True)
class Case:
    """An upstream, the profile it was given, and what is to be found."""

    name: str
    upstream: dict[str, Any] = field(default_factory=dict)
    profile: dict[str, Any] = field(default_factory=dict)
    differs: dict[str, str] = field(default_factory=dict)
    """The marks that are not ``ok``; of a plain upstream without reasoning and window."""
    facts: dict[str, Any] = field(default_factory=dict)


NO_REASONING = {"reasoning": "?", "replay": "-"}
NO_WINDOW = {"window": "?"}
PLAIN = {**NO_REASONING, **NO_WINDOW}

CASES = [
    Case("all that a plain one can", differs=PLAIN),
    Case("everything", {**THINKER, **WINDOW}, {**EFFORTS, "context_window": 40960}),
    # tools
    Case("no tools", {"tools": False}, differs={**PLAIN, "tools": "no", "parallel tools": "?", "forced choice": "no"}),
    Case("a model that calls only by force", {"calls_when_asked": False}, differs={**PLAIN, "parallel tools": "?"}),
    Case("a model that calls only when any call is demanded", {"calls_when_asked": False, "obeys": "required"},
         differs={**PLAIN, "parallel tools": "?", "forced choice": "?"}),
    Case("a model that never calls", {"calls_when_asked": False, "obeys": False},
         differs={**PLAIN, "tools": "?", "parallel tools": "?", "forced choice": "?"}),
    Case("one call at a time is no fact", {"parallel": False}, differs={**PLAIN, "parallel tools": "?"}),
    Case("the switch against parallel calls is refused", {"parallel_switch": "refused"}, differs=PLAIN,
         facts={"parallel_tool_calls": False}),
    Case("the switch is refused, whatever the model does", {"parallel_switch": "refused", "calls_when_asked": False},
         {}, {**PLAIN, "parallel tools": "?"}, {"parallel_tool_calls": False}),
    Case("the profile knows that it is refused", {"parallel_switch": "refused"}, {"parallel_tool_calls": False}, PLAIN),
    Case("the profile is too careful about the switch", {}, {"parallel_tool_calls": False}, PLAIN,
         {"parallel_tool_calls": True}),
    Case("a switch that is ignored proves nothing", {"parallel_switch": "ignored"}, {"parallel_tool_calls": False},
         PLAIN),
    # forced choice
    Case("no forced choice", {"choices": frozenset()}, {}, {**PLAIN, "forced choice": "no"}, {"tool_choice": "auto"}),
    Case("forced by a word only", {"choices": frozenset({"required"})}, differs=PLAIN, facts={"tool_choice": "string"}),
    Case("forced by another word", {"choices": frozenset({"named", "any"})}, {}, PLAIN, {"tool_choice": "any"}),
    Case("the profile knows the other word", {"choices": frozenset({"named", "any"})}, {"tool_choice": "any"}, PLAIN),
    Case("more is taken than the profile says", {}, {"tool_choice": "auto"}, PLAIN, {"tool_choice": "full"}),
    Case("a choice that is taken and ignored", {"obeys": False}, {"tool_choice": "auto"},
         {**PLAIN, "forced choice": "?"}),
    Case("a named choice that is taken and ignored", {"obeys": "required"}, {}, {**PLAIN, "forced choice": "?"}),
    # reasoning
    Case("reasoning that is hidden", {**THINKER, "shows": False}, EFFORTS, {**PLAIN}),
    Case("reasoning that nobody asks for", {"thinks": "reasoning", "always": True}, {}, NO_WINDOW),
    Case("fewer efforts", {**THINKER, "efforts": ("none", "low", "high")}, EFFORTS, NO_WINDOW,
         {"efforts": ("none", "low", "high")}),
    Case("more efforts", {**THINKER, "efforts": ("none", "minimal", "low", "medium", "high", "max")}, EFFORTS,
         NO_WINDOW, {"efforts": ("none", "minimal", "low", "medium", "high", "max")}),
    Case("a server that takes any effort proves nothing", {**THINKER, "efforts": None}, EFFORTS, NO_WINDOW),
    Case("no forced choice while thinking", {**THINKER, "choice_while_thinking": False}, EFFORTS, NO_WINDOW,
         {"tool_choice_thinking": False}),
    Case("a forced choice while thinking after all", THINKER, {**EFFORTS, "tool_choice_thinking": False}, NO_WINDOW,
         {"tool_choice_thinking": True}),
    # replay
    Case("reasoning must not come back", {**THINKER, "replay": "refused"}, EFFORTS, {**NO_WINDOW, "replay": "no"},
         {"reasoning_back": "none"}),
    Case("reasoning must come back", {**THINKER, "replay": "demanded"},
         {**EFFORTS, "reasoning_back": "none", "reasoning_placeholder": None}, NO_WINDOW,
         {"reasoning_back": "same", "reasoning_placeholder": "(reasoning of another model)"}),
    Case("a placeholder for foreign turns is known", {**THINKER, "replay": "demanded"},
         {**EFFORTS, "reasoning_placeholder": "none"}, NO_WINDOW),
    # images
    Case("no images", {"images": "refused"}, differs={**PLAIN, "images": "no"}, facts={"images": False}),
    Case("no images, as a server error", {"images": "broken"}, {}, {**PLAIN, "images": "no"}, {"images": False}),
    Case("the profile knows", {"images": "refused"}, {"images": False}, {**PLAIN, "images": "no"}),
    Case("images after all", {}, {"images": False}, PLAIN, {"images": True}),
    Case("images that vanish are no fact", {"images": "taken"}, {"images": False}, {**PLAIN, "images": "?"}),
    # usage
    Case("no usage", {"usage": "never"}, differs={**PLAIN, "usage": "no"}),
    Case("usage, once asked for", {}, {"stream_usage": False}, PLAIN, {"stream_usage": True}),
    Case("no cache", {"caches": False}, differs=PLAIN),
    # parameters
    Case("no temperature", {"refuses": frozenset({"temperature"})}, {}, PLAIN, {"drop_fields": ("temperature",)}),
    Case("no temperature and no stop", {"refuses": frozenset({"temperature", "stop"})}, {"drop_fields": ["seed"]},
         PLAIN, {"drop_fields": ("seed", "temperature"), "stop_limit": 0}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_found(case: Case, report_of: Callable[..., Awaitable[Report]]) -> None:
    upstream = CapableUpstream(**case.upstream)
    report = await report_of(upstream, case.profile)
    assert marks(report) == {**ALL_WELL, **case.differs}
    assert report.facts == case.facts
    assert report.usable
    assert report.requests == len(upstream.asked) + len(upstream.looked_at) <= MOST_REQUESTS
    assert all(cell.note for cell in report.cells.values() if cell.mark in ("no", "?"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_with_its_facts_the_profile_is_right(case: Case, report_of: Callable[..., Awaitable[Report]]) -> None:
    facts = {name: list(value) if isinstance(value, tuple) else value for name, value in case.facts.items()}
    report = await report_of(CapableUpstream(**case.upstream), {**case.profile, **facts})
    assert report.facts == {}


def test_the_cases_find_every_fact() -> None:
    found = {name for case in CASES for name in case.facts}
    assert found == {
        *("parallel_tool_calls", "tool_choice", "tool_choice_thinking", "efforts", "reasoning_back"),
        *("reasoning_placeholder", "images", "stream_usage", "drop_fields", "stop_limit"),
    }


# -- upstreams in trouble ----------------------------------------------------------------------------------

UNWELL = {
    "a wrong key": ({"key": "another"}, {"auth": "no"}, "refused the gateway's key; look at providers.lab.api_key"),
    "a page": ({"page": "<html>Sign in</html>"}, {"auth": "?"}, "HTML"),
    "no such model": ({"fails": (404, {"error": {"message": "no m here"}})}, {"auth": "?"}, "which is not there"),
    "an empty purse": (
        {"fails": (402, {"error": {"message": "add credits"}})}, {"auth": "ok", "streaming": "no"}, "add credits"
    ),
    "a server error": ({"fails": (500, {"error": {"message": "core dumped"}})}, {"auth": "?"}, "core dumped"),
    "one piece": ({"streams": False}, {"auth": "ok", "streaming": "no"}, "in one piece"),
    "nothing to say": ({"empty": True}, {"auth": "ok", "streaming": "no"}, "empty"),
}  # fmt: skip


@pytest.mark.parametrize(("abilities", "differs", "note"), UNWELL.values(), ids=UNWELL)
async def test_nothing_more_is_asked(
    abilities: dict[str, Any], differs: dict[str, str], note: str, report_of: Callable[..., Awaitable[Report]]
) -> None:
    upstream = CapableUpstream(**abilities)
    report = await report_of(upstream)
    assert marks(report) == {**NOT_ASKED, **differs}
    assert len(upstream.asked) == 1
    assert not report.usable
    assert report.facts == {}
    notes = " ".join(cell.note for cell in report.cells.values())
    assert note in notes
    assert KEY not in notes


async def test_a_server_that_falls_silent(report_of: Callable[..., Awaitable[Report]]) -> None:
    upstream = CapableUpstream(silent=True)
    try:
        report = await report_of(upstream, seconds=0.05)
    finally:
        upstream.released.set()
    assert marks(report) == {**NOT_ASKED, "auth": "?"}
    assert report.cells["auth"].note == "lab took longer than 0.05 seconds"


async def test_nobody_listens(unused_tcp_port: int) -> None:
    target = target_at(f"http://127.0.0.1:{unused_tcp_port}/v1")
    (report,) = await check_targets([(target, ())], SECONDS, ignore)
    assert marks(report) == {**NOT_ASKED, "auth": "?"}
    assert "connection refused" in report.cells["auth"].note


async def test_a_missing_key_sends_nothing(aiohttp_server: AiohttpServer) -> None:
    upstream = CapableUpstream()
    server = await aiohttp_server(upstream.app())
    target = target_at(str(server.make_url("/v1")), key="${NO_SUCH_KEY}")
    (report,) = await check_targets([(target, ())], SECONDS, ignore)
    assert marks(report) == {**NOT_ASKED, "auth": "no"}
    assert report.cells["auth"].note == "no key: set NO_SUCH_KEY"
    assert upstream.asked == []


async def test_a_busy_server_is_asked_once_more(report_of: Callable[..., Awaitable[Report]]) -> None:
    waited: list[float] = []

    async def pause(seconds: float) -> None:
        waited.append(seconds)

    report = await report_of(CapableUpstream(busy=1), pause=pause)
    assert waited == [7]
    assert report.usable
    waited.clear()
    report = await report_of(CapableUpstream(busy=2), pause=pause)
    assert waited == [7]
    assert marks(report) == {**NOT_ASKED, "auth": "ok", "streaming": "no"}


async def test_a_connection_that_was_closed_is_opened_again(report_of: Callable[..., Awaitable[Report]]) -> None:
    assert (await report_of(CapableUpstream(drops=1))).usable
    report = await report_of(CapableUpstream(drops=2))
    assert marks(report) == {**NOT_ASKED, "auth": "?"}
    assert "closed the connection" in report.cells["auth"].note


async def test_a_defect_of_an_adapter_is_one_mark(
    report_of: Callable[..., Awaitable[Report]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> None:
        raise KeyError("sk-some-detail")

    monkeypatch.setattr("gateway.server.live_probes._png", broken)
    report = await report_of(CapableUpstream())
    assert marks(report) == {**ALL_WELL, **PLAIN, "images": "?"}
    assert report.cells["images"].note == "the gateway's adapter failed on the answer (KeyError)"


# -- the window --------------------------------------------------------------------------------------------

# address -> answer, and the window that it tells
WINDOWS: dict[str, tuple[dict[str, Any], int | None]] = {
    "of one among several": (
        {"/v1/models": {"data": [{"id": "x", "context_length": 1}, {"id": "M", "context_length": 131072}]}}, 131072
    ),
    "in a bare list": ({"/v1/models": [{"id": "m", "context_window": 32768}]}, 32768),
    "of the only one, under another id": ({"/v1/models": {"data": [{"id": "file", "meta": {"n_ctx": 4096}}]}}, 4096),
    "in force, not what it was trained for": (
        {"/v1/models": {"data": [{"id": "m", "meta": {"n_ctx": 4096, "n_ctx_train": 8192}}]}}, 4096
    ),
    "not of another among several": ({"/v1/models": {"data": [{"id": "x", "context_length": 9}, {"id": "y"}]}}, None),
    "in an entry of its own": ({"/v1/models": {"data": []}, "/v1/models/m": {"id": "m", "max_model_len": 16384}},
        16384),
    "of the loaded model": (
        {"/api/v0/models": {"data": [{"id": "m", "max_context_length": 131072, "loaded_context_length": 4096}]}}, 4096
    ),
    "in the properties": ({"/props": {"default_generation_settings": {"n_ctx": 2048}}}, 2048),
    "nowhere": ({"/v1/models": {"data": [{"id": "m"}]}, "/props": {}}, None),
    "in no number": ({"/v1/models": {"data": [{"id": "m", "context_length": "big"}]}, "/props": [1]}, None),
}  # fmt: skip


@pytest.mark.parametrize(("info", "window"), WINDOWS.values(), ids=WINDOWS)
async def test_the_window(
    info: dict[str, Any], window: int | None, report_of: Callable[..., Awaitable[Report]]
) -> None:
    report = await report_of(CapableUpstream(info=info))
    assert (report.cells["window"].mark, report.cells["window"].value) == (("ok", str(window)) if window else ("?", ""))
    assert report.facts == ({"context_window": window} if window else {})


# -- several targets ---------------------------------------------------------------------------------------


def five() -> list[tuple[Target, tuple[str, ...]]]:
    base = target_at("http://127.0.0.1:9/v1")
    return [(replace(base, model=f"m{number}"), ()) for number in range(5)]


async def test_targets_together_but_not_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    running = most = 0

    async def one(asker: Asker, names: tuple[str, ...], progress: Any) -> Report:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(9):
            await asyncio.sleep(0)
        running -= 1
        return Report(asker.target, names)

    monkeypatch.setattr(live_check, "check_target", one)
    reports = await check_targets(five(), SECONDS, ignore)
    assert most == live_check.AT_ONCE
    assert [report.target.model for report in reports] == ["m0", "m1", "m2", "m3", "m4"]


async def test_every_probe_of_every_target_is_told() -> None:
    seen: list[tuple[str, str]] = []
    await check_targets(five(), SECONDS, lambda target, probe: seen.append((target, probe)))
    assert sorted(seen) == sorted((f"lab/m{number}", probe.name) for number in range(5) for probe in PROBES)


async def test_a_request_that_the_gateway_refuses_tells_nothing_of_the_upstream() -> None:
    async with ClientSession() as session:
        asker = Asker(target_at("http://127.0.0.1:9/v1"), session, SECONDS)
        reply = await asker.ask({"messages": [], "mcp_servers": [{"type": "url", "url": "https://h"}]})
    assert (reply.sent, reply.refused, asker.requests) == (False, False, 0)
    assert "mcp_servers" in reply.reason


# -- the cache ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("caches", "note"), [(True, "tokens came from the cache"), (False, "no cached tokens")])
async def test_cached_tokens(caches: bool, note: str, report_of: Callable[..., Awaitable[Report]]) -> None:
    report = await report_of(CapableUpstream(caches=caches))
    assert report.cells["usage"].mark == "ok"
    assert note in report.cells["usage"].note


# -- other wires -------------------------------------------------------------------------------------------


async def echoing(aiohttp_server: AiohttpServer) -> Report:
    """The report of another gateway that echoes: it calls a tool only by force, and with no arguments."""
    async with ClientSession() as session:
        app = build_app(GatewayState(demo(), session))
        server = await aiohttp_server(app)
        far = {"api": "anthropic", "base_url": str(server.make_url("/"))}
        text = {"providers": {"far": far}, "models": {"sonnet": "far/sonnet"}}
        target = loads(json.dumps(text).encode(), "f", {}).table.resolve("sonnet").targets[0]
        (report,) = await check_targets([(target, ())], SECONDS, ignore)
        return report


async def test_a_server_of_anthropics_type(aiohttp_server: AiohttpServer) -> None:
    report = await echoing(aiohttp_server)
    unshown = dict.fromkeys(("tools", "parallel tools", "forced choice", "window"), "?")
    assert marks(report) == {**ALL_WELL, **unshown}
    assert report.facts == {}


async def test_a_named_choice_that_a_server_of_anthropics_type_refuses(
    aiohttp_server: AiohttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_body = handlers.read_body

    async def no_named_tool(request: web.Request) -> bytes:
        body = await read_body(request)
        if b'"tool_choice":{"type":"tool"' in body:
            raise InvalidRequest("tool_choice: only any")
        return body

    monkeypatch.setattr(handlers, "read_body", no_named_tool)
    report = await echoing(aiohttp_server)
    assert report.cells["forced choice"].mark == "?"
    assert report.facts == {"tool_choice": "string"}


async def test_an_embedded_one() -> None:
    target = demo().table.resolve("sonnet").targets[0]
    (report,) = await check_targets([(target, ())], SECONDS, ignore)
    assert report.usable
    assert report.facts == {}


SHOW = {"model_info": {"general.architecture": "q", "q.context_length": 32768}}

# the profile's window, what the server says -> what is shown, and the fact
OLLAMA: dict[str, tuple[int | None, dict[str, Any], str, int | None]] = {
    "asked for more than there is": (65536, {"/api/show": SHOW}, "32768", 32768),
    "asked for less, which saves memory": (8192, {"/api/show": SHOW}, "8192", None),
    "loaded with more": (8192, {"/api/ps": {"models": [{"name": "m:latest", "context_length": 16384}]}}, "16384", None),
    "nothing asked for": (None, {"/api/show": SHOW}, "32768", None),
    "loaded with less by somebody else": (
        8192, {"/api/show": SHOW, "/api/ps": {"models": [{"name": "m:latest", "context_length": 4096}]}}, "4096", None
    ),
    "nothing known": (8192, {}, "", None),
}  # fmt: skip


@pytest.mark.parametrize(("believed", "info", "shown", "fact"), OLLAMA.values(), ids=OLLAMA)
async def test_the_window_that_is_asked_for(
    believed: int | None, info: dict[str, Any], shown: str, fact: int | None, aiohttp_server: AiohttpServer
) -> None:
    async def look(request: web.Request) -> web.Response:
        return web.json_response(info.get(request.path), status=200 if request.path in info else 404)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", look)
    server = await aiohttp_server(app)
    lab = {"api": "ollama", "base_url": str(server.make_url("/")), "profile": {"context_window": believed}}
    text = {"providers": {"lab": lab}, "models": {"sonnet": "lab/m"}}
    target = loads(json.dumps(text).encode(), "f", {}).table.resolve("sonnet").targets[0]
    async with ClientSession() as session:
        asker = Asker(target, session, SECONDS)
        cell = await window(asker)
    assert cell.value == shown
    assert asker.facts == ({"context_window": fact} if fact else {})
