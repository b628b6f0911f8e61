"""ChatStreamTranslator: a Chat Completions stream in, Anthropic events out.

Rules:
* A chunk is a plain dict; fields are read leniently, nothing unknown fails.
* The answer ends well only with a ``finish_reason`` or ``[DONE]``; EOF without either is an error (R87).
* An error object, in whatever form, is an error, also inside a 200 (R89, R115).
* Usage is whatever non-empty usage came last, wherever it hung (R103).
* Only choice 0 speaks (R83). A whole ``message`` counts only when no delta came before it.
"""

from __future__ import annotations

from typing import Any

import orjson

from gateway.errors import GatewayError, Overloaded, UpstreamFailed, UpstreamProtocolError
from gateway.translate.answer_text import AnswerText
from gateway.translate.leaked_calls import LeakedCalls
from gateway.translate.reasoning import DETAILS, FIELDS, TAGS, ReasoningCollector
from gateway.translate.stop_sequences import StopSequences
from gateway.translate.tool_calls import ToolCalls
from gateway.translate.upstream_errors import ERROR_FIELDS, ErrorContext, find_error, payload_error
from gateway.translate.usage import Usage, from_chat
from gateway.translate.writer import MessageStreamWriter
from gateway.wire.json_text import loads_upstream

STOP_REASONS = {
    "stop": "end_turn",
    "end": "end_turn",
    "eos": "end_turn",
    "end_turn": "end_turn",
    "length": "max_tokens",
    "max_tokens": "max_tokens",
    "model_length": "max_tokens",
    "tool_calls": "tool_use",
    "tool_use": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
    "sensitive": "refusal",
    "refusal": "refusal",
    "safety": "refusal",
    "model_context_window_exceeded": "model_context_window_exceeded",
    "stop_sequence": "stop_sequence",
}
"""finish_reason, lower case -> stop_reason (R84). An unknown one is a normal end."""

FAILED_FINISHES: dict[str, type[GatewayError]] = {
    "error": UpstreamFailed,
    "network_error": UpstreamFailed,
    "insufficient_system_resource": Overloaded,
}
"""Finish reasons that say that the answer failed (R86)."""

_BESIDE_TEXT = frozenset((*FIELDS, DETAILS, "refusal", "tool_calls", "function_call"))
"""What a delta may hold besides its ``content``."""


class ChatStreamTranslator(AnswerText):
    """One answer; one object per request (the StreamTranslator contract)."""

    __slots__ = ("_cumulative", "_reasoning", "_reported", "_spoke", "_stop_sequence")

    def __init__(
        self,
        writer: MessageStreamWriter,
        calls: ToolCalls,
        context: ErrorContext,
        *,
        think_tags: bool,
        cumulative: bool,
        stop_sequences: StopSequences | None,
        leaked_calls: LeakedCalls | None = None,
    ) -> None:
        """``stop_sequences``: None where the client asked for none."""
        super().__init__(
            writer,
            calls,
            context,
            think_tags=think_tags,
            stop_sequences=stop_sequences,
            leaked_calls=leaked_calls,
        )
        self._stop_sequence: str | None = None
        self._reasoning: ReasoningCollector | None = None
        self._cumulative = cumulative
        self._reported: Usage | None = None
        self._spoke = False

    def _event(self, name: str | None, payload: bytes) -> None:
        if payload[:6] == b"[DONE]":
            self.finished = self.complete = True
            return
        try:
            chunk = orjson.loads(payload)
        except orjson.JSONDecodeError:
            chunk = self._parse(payload)
        if name == "error" and isinstance(chunk, dict) and "error" not in chunk:
            chunk = {"error": chunk}
        self._chunk(chunk)

    def _json_body(self, body: Any) -> None:
        self._chunk(body)
        if not self._spoke and not self.finished:
            raise UpstreamProtocolError(f"{self._provider} answered with JSON that is no completion")
        self.finished = True

    # -- chunks ------------------------------------------------------------------------------------------

    def _chunk(self, chunk: Any) -> None:
        if not isinstance(chunk, dict):
            raise UpstreamProtocolError(f"{self._provider} sent an event that is no object")
        choice = _choice(chunk.get("choices"))
        error = None
        if not ERROR_FIELDS.isdisjoint(chunk) or chunk.get("object") == "error":
            error = find_error(chunk)
        if chunk.get("usage") or "x_groq" in chunk or (choice is not None and "usage" in choice):
            self._read_usage(chunk, choice)
        if choice is not None:
            delta = choice.get("delta")
            if isinstance(delta, dict):
                self._delta(delta)
            elif isinstance(choice.get("message"), dict) and not self._spoke:
                self._delta(choice["message"])
        if error is not None:
            self._error(error)
        elif choice is not None and choice.get("finish_reason") and not self.complete:
            self._read_finish(choice)

    def _read_usage(self, chunk: dict[str, Any], choice: dict[str, Any] | None) -> None:
        usage = from_chat(chunk.get("usage"))
        if usage is None and choice is not None:
            usage = from_chat(choice.get("usage"))
        if usage is None and isinstance(chunk.get("x_groq"), dict):
            usage = from_chat(chunk["x_groq"].get("usage"))
        if usage is not None:
            self.usage = self._reported = usage

    def _read_finish(self, choice: dict[str, Any]) -> None:
        finish = choice["finish_reason"]
        if not isinstance(finish, str):
            return
        finish = finish.lower()
        if finish in FAILED_FINISHES:
            raise FAILED_FINISHES[finish](f"{self._provider} gave up in the middle of the answer ({finish})")
        self.finished = True
        if self.stop_reason != "refusal":
            self.stop_reason = STOP_REASONS.get(finish, "end_turn")
        if self._stops is not None:
            for name in ("stop_reason", "matched_stop"):
                if self._stops.is_asked(choice.get(name)):
                    self.stop_reason, self._stop_sequence = "stop_sequence", choice[name]

    def _error(self, error: Any) -> None:
        call = failed_call(error, self._context.tool_names)
        if call is None:
            raise payload_error(error, self._context)
        self._spoke = True
        self._calls.whole(*call)
        # Nobody bills a refused generation: the estimate in message_start stands.
        self._reported = self._reported or Usage()
        self.finished = self.complete = True

    # -- content -----------------------------------------------------------------------------------------

    def _delta(self, delta: dict[str, Any]) -> None:
        only_text = _BESIDE_TEXT.isdisjoint(delta)
        if not only_text:
            self._read_reasoning(delta)
        content = delta.get("content")
        if isinstance(content, str):
            if self._plain:
                self._writer.text(content)
            elif content:
                self._content(content)
        elif isinstance(content, list):
            self._content_parts(content)
        if not only_text:
            refusal = delta.get("refusal")
            if isinstance(refusal, str) and refusal:
                self.stop_reason = "refusal"
                self._text(refusal)
            self._tool_calls(delta)

    def _read_reasoning(self, delta: dict[str, Any]) -> None:
        details = delta.get(DETAILS)
        if details or delta.get("reasoning_content") or delta.get("reasoning") or delta.get("reasoning_text"):
            text = self._collected().delta(delta)
            if text or details:
                self._think(text)

    def _collected(self) -> ReasoningCollector:
        """What collects the reasoning; made when some comes."""
        if self._reasoning is None:
            self._reasoning = ReasoningCollector(
                self._context.provider, self._context.model, cumulative=self._cumulative
            )
        return self._reasoning

    def _tool_calls(self, delta: dict[str, Any]) -> None:
        calls = delta.get("tool_calls")
        if calls is None and isinstance(delta.get("function_call"), dict):
            calls = [{"function": delta["function_call"]}]
        if isinstance(calls, list) and calls:
            self._spoke = True
            self._before_call()
            self._calls.feed(calls)

    def _before_call(self) -> None:
        self._flush()
        if self._unsigned:
            self._sign()

    def _content_parts(self, parts: list[Any]) -> None:
        for part in parts:
            if not isinstance(part, dict):
                continue
            if isinstance(part.get("text"), str):
                self._content(part["text"])
            thinking = part.get("thinking")
            for piece in thinking if isinstance(thinking, list) else [{"text": thinking}]:
                if isinstance(piece, dict) and isinstance(piece.get("text"), str):
                    self._think_at("content", piece["text"])

    def _content(self, content: str) -> None:
        self._spoke = True
        if self._cumulative:
            content = self._collected().new_part("content", content)
        super()._content(content)
        if self._cumulative:
            self._plain = False

    def _think_in_tags(self, text: str) -> None:
        self._think_at(TAGS, text)

    def _think_at(self, place: str, text: str) -> None:
        """Reasoning from another place than a delta's own fields."""
        self._collected().add(text, place)
        self._spoke = True
        self._think(text)

    def _think(self, text: str) -> None:
        """Reasoning that its collector knows of."""
        if text:
            self._spoke = True
        self._reasoned()
        self._writer.thinking(text)

    def _stop(self) -> None:
        self.stop_reason, self._stop_sequence = "stop_sequence", self._met_stop
        self.finished = self.complete = True

    def _sign(self) -> None:
        """Closes a run of reasoning with the state that must come back."""
        self._unsigned = False
        if self._reasoning is not None:
            signature = self._reasoning.take_signature(self._gaps)
            if signature is not None:
                self._writer.signature(signature)

    # -- the end -----------------------------------------------------------------------------------------

    def _finish(self) -> None:
        if not self.finished:
            raise self._cut_short()
        if self._stop_sequence is None or self.stop_reason != "stop_sequence":
            self._flush()
        self._sign()
        self._calls.finish()
        self.stop_reason = self._final_stop_reason()
        if self._reported is not None:
            self._writer.usage(self._reported)
        self.usage = self._writer.finish(self.stop_reason, self._stop_sequence)
        self.complete = True

    def _final_stop_reason(self) -> str:
        """The finish reason and the content may disagree (R85): calls make it ``tool_use``, and only they."""
        reason = self.stop_reason or "end_turn"
        if reason == "end_turn" and self._writer.has_calls:
            return "tool_use"
        if reason == "tool_use" and not self._writer.has_calls:
            return "end_turn"
        return reason


def failed_call(error: Any, tool_names: dict[str, str]) -> tuple[str, Any] | None:
    """(name, arguments) of a call that the upstream itself refused, if an offered tool was meant (R95).

    The client reports the mistake to the model, which a failed turn could not.
    """
    text = error.get("failed_generation") if isinstance(error, dict) else None
    if not isinstance(text, str):
        return None
    try:
        call = loads_upstream(text)
    except ValueError:
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", call.get("parameters"))
    if tool_names and call["name"] not in tool_names:
        return None
    return call["name"], arguments


def _choice(choices: Any) -> dict[str, Any] | None:
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and choice.get("index", 0) in (0, None):
            return choice
    return None
