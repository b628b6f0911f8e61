"""ResponsesStreamTranslator: a stream of the Responses API in, Anthropic events out.

Rules:
* Events speak of output items (responses_output.py); what a ``done`` event or the whole response repeats is
  not said again, and what only they bring is not lost (R93).
* The answer ends well only with ``response.completed`` or ``response.incomplete``; EOF without either is an
  error (R87), ``response.failed`` and ``error`` are errors (R89).
* Reasoning is thinking; the items behind it ride in the block's signature, also those that show no text.
* A tool ``parallel`` that nobody offered is a wrapper around real calls (R93).
* Calls of tools that run at the upstream, or that no client knows, are no calls here; output that is lost
  with them is stated.
* The API has no stop sequences: the text is cut here (R25).
"""

from __future__ import annotations

from typing import Any, NoReturn

from gateway.errors import UpstreamFailed, UpstreamProtocolError
from gateway.translate.answer_text import AnswerText
from gateway.translate.leaked_calls import LeakedCalls
from gateway.translate.reasoning import TAGS, ReasoningCollector
from gateway.translate.responses_events import (
    CALLS,
    DELTAS,
    ENDS,
    INCOMPLETE,
    PARTS,
    STATED,
    TERMINAL,
    WRAPPERS,
    an_object,
    number_of,
    objects,
    with_status,
    wrapped_calls,
)
from gateway.translate.responses_output import OutputItem, OutputItems, Place
from gateway.translate.responses_reasoning import ThinkingBlocks
from gateway.translate.stop_sequences import StopSequences
from gateway.translate.tool_calls import ToolCalls
from gateway.translate.upstream_errors import ErrorContext, find_error, payload_error
from gateway.translate.usage import Usage, from_chat
from gateway.translate.writer import MessageStreamWriter
from gateway.wire.json_text import dumps

JSON = dict[str, Any]

_ARGUMENTS = ("arguments", 0)


class ResponsesStreamTranslator(AnswerText):
    """One answer; one object per request (the StreamTranslator contract)."""

    __slots__ = (
        "_call_ids",
        "_items",
        "_last_message",
        "_limit",
        "_reasoning_came",
        "_reported",
        "_thought_in_tags",
        "_thoughts",
    )

    def __init__(
        self,
        writer: MessageStreamWriter,
        calls: ToolCalls,
        context: ErrorContext,
        *,
        think_tags: bool,
        cumulative: bool,
        stop_sequences: StopSequences | None,
        max_output_tokens: int | None,
        leaked_calls: LeakedCalls | None = None,
    ) -> None:
        """``max_output_tokens``: what was asked for; some servers stop there and call it a normal end."""
        super().__init__(
            writer,
            calls,
            context,
            think_tags=think_tags,
            stop_sequences=stop_sequences,
            leaked_calls=leaked_calls,
        )
        self._limit = max_output_tokens
        self._thought_in_tags: ReasoningCollector | None = None
        self._reported: Usage | None = None
        self._items = OutputItems(cumulative=cumulative)
        self._call_ids: set[str] = set()
        self._thoughts = ThinkingBlocks(writer, context.provider, context.model)
        self._reasoning_came = False
        self._last_message: OutputItem | None = None

    # -- events ------------------------------------------------------------------------------------------

    def _event(self, name: str | None, payload: bytes) -> None:
        if payload[:6] == b"[DONE]":
            self.finished = self.complete = True
            return
        event = self._parse(payload)
        if not isinstance(event, dict):
            raise UpstreamProtocolError(f"{self._provider} sent an event that is no object")
        kind = event.get("type")
        kind = kind if isinstance(kind, str) else name or ""
        if kind in DELTAS:
            self._delta(event, *DELTAS[kind])
        elif kind in ENDS:
            delta, whole = ENDS[kind]
            self._part_end(event, event.get(whole), *DELTAS[delta])
        elif kind in TERMINAL:
            response = event.get("response")
            self._response(response if isinstance(response, dict) else {}, TERMINAL[kind], event)
        elif kind in ("response.content_part.done", "response.reasoning_summary_part.done"):
            self._part_done(event, an_object(event.get("part")))
        elif kind == "response.output_item.added":
            self._added(event, an_object(event.get("item")))
        elif kind == "response.output_item.done":
            item = an_object(event.get("item"))
            if item:
                self._fill(self._items.done(event, item))
        elif not kind.startswith("response.") and (kind == "error" or name == "error" or find_error(event) is not None):
            self._fail_with(find_error(event) or event)

    def _delta(self, event: JSON, kind: str, name: str, number: str) -> None:
        item = self._items.of_delta(event, kind)
        place = (name, number_of(event.get(number)))
        self._say(item, place, self._items.add(item, place, event.get("delta")))

    def _part_end(self, event: JSON, whole: Any, kind: str, name: str, number: str) -> None:
        item = self._items.of_delta(event, kind)
        place = (name, number_of(event.get(number)))
        self._say(item, place, self._items.fill(item, place, whole))

    def _part_done(self, event: JSON, part: JSON) -> None:
        delta = PARTS.get(str(part.get("type")))
        if delta is not None:
            self._part_end(event, part.get("refusal") or part.get("text"), *DELTAS[delta])

    def _added(self, event: JSON, told: JSON) -> None:
        if not told:
            return
        item = self._items.added(event, told)
        if item.kind == "reasoning":
            self._reason(item)
        elif item.kind in CALLS:
            self._announce(item)

    def _json_body(self, body: Any) -> None:
        error = find_error(body) if isinstance(body, dict) else None
        if error is not None and not isinstance(body.get("output"), list):
            self._fail_with(error)
        if not isinstance(body, dict) or not isinstance(body.get("output"), list):
            raise UpstreamProtocolError(f"{self._provider} answered with JSON that is no response")
        self._response(body, "completed", body)

    # -- the whole response --------------------------------------------------------------------------------

    def _response(self, response: JSON, status: str, event: JSON) -> None:
        """The last word. Raises GatewayError for an answer that failed."""
        told = response.get("status")
        if told in ("completed", "incomplete", "failed", "cancelled"):
            status = told
        usage = from_chat(response.get("usage")) or from_chat(event.get("usage"))
        if usage is not None:
            self.usage = self._reported = usage
        if status == "cancelled":
            raise UpstreamFailed(f"{self._provider} cancelled its answer")
        if status == "failed":
            self._fail_with(response.get("error") or event.get("error") or {"message": "the response failed"})
        output = response.get("output")
        for item in self._items.of_response(output) if isinstance(output, list) else ():
            self._fill(item)
        if status == "incomplete" and self.stop_reason is None:
            reason = an_object(response.get("incomplete_details")).get("reason")
            self.stop_reason = INCOMPLETE.get(str(reason), "max_tokens")
        elif usage is not None and self._limit is not None and usage.output_tokens >= self._limit:
            self.stop_reason = self.stop_reason or "max_tokens"
        self.finished = self.complete = True

    def _fail_with(self, error: Any) -> NoReturn:
        raise payload_error(with_status(error), self._context)

    # -- items ---------------------------------------------------------------------------------------------

    def _fill(self, item: OutputItem) -> None:
        """Says what no delta brought of an item that is told whole."""
        whole = item.whole
        if item.kind == "message":
            for number, part in enumerate(objects(whole.get("content"))):
                name = "refusal" if part.get("type") == "refusal" else "text"
                self._say(item, (name, number), self._items.fill(item, (name, number), part.get(name)))
            if isinstance(whole.get("content"), str):
                self._say(item, ("text", 0), self._items.fill(item, ("text", 0), whole["content"]))
        elif item.kind == "reasoning":
            self._reason(item)
            for name in ("summary", "content"):
                for number, part in enumerate(objects(whole.get(name))):
                    self._say(item, (name, number), self._items.fill(item, (name, number), part.get("text")))
        elif item.kind in CALLS:
            self._fill_call(item)
        elif item.kind in STATED and not item.announced:
            item.announced = True
            self._text(f"[{self._context.provider} sent {STATED[item.kind]}, which has no place here.]")

    def _fill_call(self, item: OutputItem) -> None:
        self._announce(item)
        name = "arguments" if item.kind == "function_call" else "input"
        whole = item.whole.get(name)
        if isinstance(whole, dict | list):
            whole = dumps(whole).decode()
        self._say(item, (name, 0), self._items.fill(item, (name, 0), whole))
        if item.done:
            self._close_call(item)

    def _say(self, item: OutputItem, place: Place, text: str) -> None:
        """New content of an item."""
        if not text or self._met_stop is not None:
            return
        name = place[0]
        if name == "text" or name == "refusal":
            if item is not self._last_message:
                self._message(item)
            if name == "refusal":
                self.stop_reason = "refusal"
                self._text(text)
            elif self._reasoning_came:
                self._text(text)
            elif self._plain:
                self._writer.text(text)
            else:
                self._content(text)
        elif name in ("summary", "content"):
            self._reason(item)
            self._reasoned()
            self._thoughts.say(item, place, text)
        elif name == "arguments" and not self._is_wrapper(item) and item.announced:
            self._calls.feed([{"index": item.number, "function": {"arguments": text}}])

    # -- text ----------------------------------------------------------------------------------------------

    def _message(self, item: OutputItem) -> None:
        """Text of another message than before is a block of its own."""
        if self._last_message is not None:
            self._flush()
            self._writer.end_block()
        self._last_message = item

    def _think_in_tags(self, text: str) -> None:
        if self._thought_in_tags is None:
            self._thought_in_tags = ReasoningCollector(self._context.provider, self._context.model, cumulative=False)
        self._thought_in_tags.add(text, TAGS)
        self._reasoned()
        self._writer.thinking(text)

    def _stop(self) -> None:
        self.stop_reason = "stop_sequence"
        self.finished = self.complete = True

    # -- reasoning -----------------------------------------------------------------------------------------

    def _reason(self, item: OutputItem) -> None:
        """Begins the thinking block of a reasoning item."""
        if item.announced or self._met_stop is not None:
            return
        item.announced = self._reasoning_came = True
        self._flush()
        self._last_message = None
        self._sign()
        self._reasoned()
        self._thoughts.begin(item)

    def _sign(self) -> None:
        """Closes reasoning with the state that must come back."""
        self._unsigned = False
        if self._thought_in_tags is not None:
            signature = self._thought_in_tags.take_signature(self._gaps)
            if signature is not None:
                self._writer.signature(signature)
        phase = self._last_message.whole.get("phase") if self._last_message is not None else None
        self._thoughts.sign(phase)

    # -- calls ---------------------------------------------------------------------------------------------

    def _announce(self, item: OutputItem) -> None:
        """Begins a call as soon as its name is known."""
        name = item.whole.get("name")
        if item.announced or not isinstance(name, str) or not name or self._is_wrapper(item):
            return
        item.announced = True
        self._before_call()
        delta: JSON = {"index": item.number, "function": {"name": name}}
        if item.call_id is not None and item.call_id not in self._call_ids:
            self._call_ids.add(item.call_id)
            delta["id"] = item.call_id
        self._calls.feed([delta])
        said = item.text(_ARGUMENTS)
        if said:
            self._calls.feed([{"index": item.number, "function": {"arguments": said}}])

    def _before_call(self) -> None:
        self._flush()
        self._last_message = None
        self._sign()

    def _is_wrapper(self, item: OutputItem) -> bool:
        name = item.whole.get("name")
        return name in WRAPPERS and name not in self._context.tool_names and not item.closed

    def _close_call(self, item: OutputItem) -> None:
        """The end of a call whose form only its end shows: a wrapper, or a call with text for input."""
        if item.closed:
            return
        wrapped = wrapped_calls(item.text(_ARGUMENTS)) if self._is_wrapper(item) else []
        item.closed = True
        if item.kind == "custom_tool_call" and item.announced:
            arguments = dumps({"input": item.text(("input", 0))}).decode()
            self._calls.feed([{"index": item.number, "function": {"arguments": arguments}}])
        elif wrapped:
            item.announced = True
            self._before_call()
            for name, arguments in wrapped:
                self._calls.whole(name, arguments)
        else:
            self._announce(item)

    # -- the end -------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        if not self.finished:
            raise self._cut_short()
        if self._met_stop is None:
            self._flush()
            for item in self._items.items:
                if item.kind in CALLS:
                    self._end_call(item)
        self._sign()
        self._thoughts.sign_late(self._items.items)
        self._calls.finish()
        self.stop_reason = self._final_stop_reason()
        if self._reported is not None:
            self._writer.usage(self._reported)
        self.usage = self._writer.finish(self.stop_reason, self._met_stop)
        self.complete = True

    def _end_call(self, item: OutputItem) -> None:
        if not item.done:
            self._fill_call(item)
            self._close_call(item)
        if not item.announced and (item.call_id is not None or item.said):
            raise UpstreamProtocolError(f"{self._provider} sent a tool call without a name")

    def _final_stop_reason(self) -> str:
        if self.stop_reason is not None:
            return self.stop_reason
        return "tool_use" if self._writer.has_calls else "end_turn"
