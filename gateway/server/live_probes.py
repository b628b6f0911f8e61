"""The probes of ``gateway check --live``: one function each, and the table of them.

Rules:
* A probe asks for what it wants to see, as plainly as a model can be asked, and judges the form of the
  answer, never its sense. Where a model may simply not have done it, the outcome is ``?``.
* A field of the profile is found to be wrong only by a refusal of the one request and an answer to the
  other, which differ in nothing else; or, where something more is taken than the profile says, by an
  answer that shows it. A server that ignores what it does not know proves nothing.
* A variant that would not change a byte of the request is not asked.
"""

from __future__ import annotations

import base64
import re
import struct
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from gateway.errors import BillingRefused, InvalidRequest, ProviderNotReady, RateLimited
from gateway.server.live_asker import NO, NOT_ASKED, NOT_SHOWN, OK, Asker, Cell, Reply
from gateway.server.live_window import window
from gateway.translate.reasoning_request import LEVELS

JSON = dict[str, Any]

SHORT, LONG = 512, 2048
"""``max_tokens`` of answers without and with reasoning."""

TOOL = "get_weather"
TOOLS = [
    {
        "name": TOOL,
        "description": "The weather in one city, now.",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
]
COLOUR = "red"
THINKING: tuple[JSON, ...] = (
    {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
)
"""How clients ask for reasoning: the older ones, the newer ones."""
CHOICES = ("auto", "any", "string", "full")
"""``Profile.tool_choice``, from the least that an upstream may take."""

_ABOUT_IMAGES = re.compile(r"image|vision|multi-?modal|mmproj", re.IGNORECASE)
_ABOUT_ROOM = re.compile(r"max_(?:completion_|output_)?tokens|output limit", re.IGNORECASE)


# -- the plain question ------------------------------------------------------------------------------------


async def auth(asker: Asker) -> Cell:
    """Asks the plain question, with the parameters that clients send."""
    body = {**_say("Answer with one word: ready"), "temperature": 1, "stop_sequences": ["</stop>"]}
    asker.hello = reply = await asker.ask_plainly(body)
    error = reply.error
    if isinstance(error, ProviderNotReady):
        return Cell(NO, reply.reason)
    taken = error is None or reply.sent is False
    if taken or isinstance(error, InvalidRequest | BillingRefused | RateLimited):
        return Cell(OK)
    return Cell(NOT_SHOWN, reply.reason)


async def streaming(asker: Asker) -> Cell:
    """Judges the answer to the plain question."""
    reply = asker.hello
    if reply.error is not None:
        return Cell(NO, reply.reason)
    if not reply.streamed:
        return Cell(NO, "the answer comes in one piece, not as a stream")
    if not reply.message or not reply.message["content"]:
        return Cell(NO, "the answer is empty")
    return Cell(OK)


# -- tools -------------------------------------------------------------------------------------------------


async def tools(asker: Asker) -> Cell:
    """One call: demanded by name, then of any tool, else asked for."""
    body = {**_say(f"What is the weather in Paris? Use {TOOL}."), "tools": TOOLS}
    reply, made = Reply(), 0
    for choice in ({"type": "tool", "name": TOOL}, {"type": "any"}, {"type": "auto"}):
        reply = await asker.ask({**body, "tool_choice": choice})
        if _called(reply):
            return Cell(OK)
        made += len(reply.blocks("tool_use"))
    if reply.error is not None:
        return Cell(NO if reply.refused else NOT_SHOWN, reply.reason)
    if made:
        return Cell(NOT_SHOWN, "a call was made, but not with the arguments that the tool describes")
    return Cell(NOT_SHOWN, "asked for a call, the model made none")


async def parallel_tools(asker: Asker) -> Cell:
    """Two calls in one answer; and whether the switch against them is known."""
    both = {**_say(f"What is the weather in Paris and in Rome? Call {TOOL} for both cities at once."), "tools": TOOLS}
    reply = await asker.ask(both)
    calls = len(reply.blocks("tool_use"))
    if reply.error is None:
        await _parallel_switch(asker, both, calls)
    if calls > 1:
        return Cell(OK)
    return Cell(NOT_SHOWN, reply.reason or f"asked for two calls at once, the model made {calls}")


async def _parallel_switch(asker: Asker, both: JSON, calls: int) -> None:
    """Finds ``parallel_tool_calls``: refused, or obeyed by a model that made ``calls`` without it."""
    believed = asker.target.profile.parallel_tool_calls
    body = {**both, "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}
    if asker.same(body, {"parallel_tool_calls": not believed}):
        return
    reply = await asker.ask(body, {"parallel_tool_calls": True})
    if believed and reply.refused:
        asker.found(parallel_tool_calls=False)
    elif not believed and calls > 1 and len(reply.blocks("tool_use")) == 1:
        asker.found(parallel_tool_calls=True)


async def forced_choice(asker: Asker) -> Cell:
    """A call that nothing but ``tool_choice`` asks for: named, and any."""
    body = {**_say("Say hello in one word."), "tools": TOOLS}
    named = {**body, "tool_choice": {"type": "tool", "name": TOOL}}
    any_one = {**body, "tool_choice": {"type": "any"}}
    plain = await asker.ask(body)
    if plain.error is not None:
        return Cell(NO if plain.refused else NOT_SHOWN, plain.reason)
    if asker.same(named, *({"tool_choice": choice} for choice in CHOICES)):
        return Cell(NO, "the gateway sends it no forced choice")
    replies = [await asker.ask(named, {"tool_choice": "full"}), await asker.ask(any_one, {"tool_choice": "full"})]
    best = "full"
    if replies[1].refused and not replies[0].refused:
        replies, best = [replies[0], await asker.ask(any_one, {"tool_choice": "any"})], "any"
    elif replies[0].refused and not replies[1].refused:
        replies, best = [replies[1]], "string"
    refused = next((reply for reply in replies if reply.refused), None)
    failed = next((reply for reply in replies if reply.error is not None), None)
    if failed is not None and refused is None:
        return Cell(NOT_SHOWN, failed.reason)
    if refused is not None:
        best = "auto"
    obeyed = all(map(_called, replies))
    believed = asker.target.profile.tool_choice
    if obeyed or CHOICES.index(best) < CHOICES.index(believed):
        asker.found(tool_choice=best)
    if refused is not None:
        return Cell(NO, refused.reason)
    if obeyed:
        return Cell(OK)
    if len(replies) == 2 and _called(replies[1]):
        return Cell(NOT_SHOWN, "a call can be forced, but a named tool was not called; see tool_choice: string")
    return Cell(NOT_SHOWN, "the choice is taken, but the model made no call")


# -- reasoning ---------------------------------------------------------------------------------------------


async def reasoning(asker: Asker) -> Cell:
    """Reasoning that is shown; then the efforts, and a forced choice beside it."""
    body = _say("Think it through: which is larger, 9.11 or 9.9? Answer with the number alone.", LONG)
    reply = Reply()
    for way in THINKING:
        reply = await asker.ask({**body, **way})
        if reply.blocks("thinking"):
            asker.thinking = way
            break
    await _efforts(asker)
    if asker.thinking:
        await _choice_while_thinking(asker)
        return Cell(OK)
    if reply.error is not None:
        return Cell(NO if reply.refused else NOT_SHOWN, reply.reason)
    if reply.usage.reasoning_tokens:
        return Cell(NOT_SHOWN, "it reasons, and does not show it")
    return Cell(NOT_SHOWN, "asked to think, the model showed no reasoning")


async def _efforts(asker: Asker) -> None:
    """Finds ``efforts``, on a server that refuses at least one level."""
    profile = asker.target.profile
    if profile.effort_field is None:
        return
    taken: list[str] = []
    refused: list[str] = []
    for level in LEVELS:
        off = level == "none"
        body = {
            **_say("Answer with one word: ready"),
            "thinking": {"type": "disabled" if off else "adaptive"},
            "output_config": {} if off else {"effort": level},
        }
        fields: JSON = {"efforts": (level,), "effort_with_tools": None}
        reply = await asker.ask(body, {**fields, "thinking_off": None} if off else fields)
        if reply.error is None or _ABOUT_ROOM.search(reply.error.message):
            taken.append(level)
        elif reply.refused:
            refused.append(level)
        else:
            return
    # Where reasoning has a switch of its own, ``none`` is no effort to speak of.
    switched = profile.thinking_off is not None and "none" not in profile.efforts
    efforts = tuple(level for level in taken if not (switched and level == "none"))
    if refused and efforts and efforts != tuple(level for level in profile.efforts if level in LEVELS):
        asker.found(efforts=efforts)


async def _choice_while_thinking(asker: Asker) -> None:
    """Finds ``tool_choice_thinking``."""
    believed = asker.target.profile.tool_choice_thinking
    body = {**_say("Say hello in one word.", LONG), "tools": TOOLS, "tool_choice": {"type": "any"}}
    body_thinking = {**body, **asker.thinking}
    if asker.same(body_thinking, {"tool_choice_thinking": not believed}):
        return
    reply = await asker.ask(body_thinking, {"tool_choice_thinking": True})
    if believed and reply.refused and _called(await asker.ask(body)):
        asker.found(tool_choice_thinking=False)
    elif not believed and _called(reply) and reply.blocks("thinking"):
        asker.found(tool_choice_thinking=True)


async def replay(asker: Asker) -> Cell:
    """A turn with reasoning and a call goes back with the call's result, as clients send it."""
    if not asker.thinking:
        return Cell(NOT_ASKED)
    first = {**_say(f"What is the weather in Paris? Use {TOOL}.", LONG), "tools": TOOLS, **asker.thinking}
    turn = await asker.ask(first)
    if turn.message is None:
        return Cell(NO if turn.refused else NOT_SHOWN, turn.reason)
    if not turn.blocks("thinking"):
        return Cell(NOT_SHOWN, "no reasoning came with the call")
    body = _next_turn(first, turn.message["content"])
    reply = await asker.ask(body)
    cell = Cell(OK)
    if reply.error is not None:
        cell = await _other_replay(asker, body, reply)
    if cell.mark == OK and turn.blocks("tool_use"):
        await _foreign_turn(asker, first, turn)
    return cell


async def _other_replay(asker: Asker, body: JSON, reply: Reply) -> Cell:
    """Finds ``reasoning_back``, when reasoning was refused where it is put now."""
    if not reply.refused:
        return Cell(NOT_SHOWN, reply.reason)
    for place in ("same", "none"):
        if not asker.same(body, {"reasoning_back": place}):
            other = await asker.ask(body, {"reasoning_back": place})
            if other.error is None:
                asker.found(reasoning_back=place)
                return Cell(OK if place == "same" else NO, reply.reason)
    return Cell(NO, reply.reason)


async def _foreign_turn(asker: Asker, first: JSON, turn: Reply) -> None:
    """Finds ``reasoning_placeholder``: a turn of another model has no reasoning of this one."""
    content = [block for block in (turn.message or {})["content"] if block.get("type") != "thinking"]
    body = _next_turn(first, content)
    fields = {"reasoning_placeholder": "(reasoning of another model)"}
    if asker.target.profile.reasoning_placeholder is not None or asker.same(body, fields):
        return
    if (await asker.ask(body)).refused and (await asker.ask(body, fields)).error is None:
        asker.found(**fields)


def _next_turn(body: JSON, content: list[JSON]) -> JSON:
    """The request that follows an answer: results for its calls, else another question."""
    calls = [block for block in content if block.get("type") == "tool_use"]
    results = [{"type": "tool_result", "tool_use_id": call["id"], "content": "21 °C, sunny"} for call in calls]
    said = results or [{"type": "text", "text": "Thank you. And in Rome?"}]
    turns = [{"role": "assistant", "content": content}, {"role": "user", "content": said}]
    return {**body, "messages": [*body["messages"], *turns]}


# -- the rest ----------------------------------------------------------------------------------------------


async def images(asker: Asker) -> Cell:
    """A picture of one colour. Taken is enough; only the colour's name shows that the model saw it."""
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(_png(32)).decode()}
    question = {"type": "text", "text": "Which colour is this? Answer with one word."}
    body = {**_say(""), "messages": [{"role": "user", "content": [{"type": "image", "source": source}, question]}]}
    believed = asker.target.profile.images
    reply = await asker.ask(body, {"images": True})
    if reply.error is None:
        if believed:
            return Cell(OK)
        if COLOUR not in reply.text.lower():
            return Cell(NOT_SHOWN, "the profile sends none; one was taken, but nothing shows that it was seen")
        asker.found(images=True)
        return Cell(OK)
    if not (reply.refused or (reply.sent and _ABOUT_IMAGES.search(reply.error.message))):
        return Cell(NOT_SHOWN, reply.reason)
    if believed:
        asker.found(images=False)
    return Cell(NO, reply.reason)


async def usage(asker: Asker) -> Cell:
    """Reported, not estimated; and cached tokens when a long prompt is repeated."""
    if not _reported(asker.hello):
        body = _say("Answer with one word: ready")
        if asker.target.profile.stream_usage or asker.same(body, {"stream_usage": True}):
            return Cell(NO, "no token counts are reported; they are estimated")
        if not _reported(await asker.ask(body, {"stream_usage": True})):
            return Cell(NO, "no token counts are reported, asked for or not; they are estimated")
        asker.found(stream_usage=True)
    text = " ".join(f"Rule {number}: keep what was said before in mind." for number in range(200))
    system = [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]
    body = {**_say("Answer with one word: ready"), "system": system}
    await asker.ask(body)
    again = await asker.ask(body, again=True)
    if again.error is not None:
        return Cell(OK, f"a long prompt failed: {again.reason}")
    if not again.usage.cache_read_tokens:
        return Cell(OK, "no cached tokens were reported for a repeated prompt")
    return Cell(OK, f"{again.usage.cache_read_tokens} of {again.usage.prompt_tokens} tokens came from the cache")


# -- what they share ---------------------------------------------------------------------------------------


def _say(text: str, max_tokens: int = SHORT) -> JSON:
    return {"max_tokens": max_tokens, "messages": [{"role": "user", "content": text}]}


def _called(reply: Reply) -> bool:
    """The tool was called as it describes itself."""
    inputs = [block.get("input") for block in reply.blocks("tool_use") if block.get("name") == TOOL]
    return any(isinstance(given, dict) and isinstance(given.get("city"), str) for given in inputs)


def _reported(reply: Reply) -> bool:
    return not reply.usage.estimated and reply.usage.prompt_tokens > 0 and reply.usage.output_tokens > 0


def _png(size: int) -> bytes:
    """A red square of ``size`` by ``size`` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    rows = (b"\0" + b"\xff\0\0" * size) * size
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@dataclass(frozen=True, slots=True)
class Probe:
    """One column: what is asked, and how many requests that takes at most."""

    name: str
    run: Callable[[Asker], Awaitable[Cell]]
    most: int


PROBES = (
    Probe("auth", auth, 5),
    Probe("streaming", streaming, 0),
    Probe("tools", tools, 3),
    Probe("parallel tools", parallel_tools, 2),
    Probe("forced choice", forced_choice, 4),
    Probe("reasoning", reasoning, 2 + len(LEVELS) + 2),
    Probe("replay", replay, 6),
    Probe("images", images, 1),
    Probe("usage", usage, 3),
    Probe("window", window, 4),
)
"""In the order in which they run; later ones build on what earlier ones found."""

MOST_REQUESTS = sum(probe.most for probe in PROBES)
