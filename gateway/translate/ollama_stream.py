"""OllamaStreamTranslator: the lines of ``/api/chat`` in, Anthropic events out.

Rules (sources: ollama fb307609, 2026-08-21, api/types.go and server/routes.go):
* Each line is an object with a piece of ``message``. The answer ends well only with ``done: true``; EOF
  without it is an error, and so is half a line at the end.
* A call comes whole, its arguments as an object; ids are optional. The same id again is the same call.
* ``done_reason`` is ``stop`` also after calls and at a stop sequence; which one it was, nobody says.
* ``length`` before ``num_predict`` tokens means that the context window is full. With an empty answer the
  prompt did not fit; after a part of an answer it is ``model_context_window_exceeded``.
* ``load`` and ``unload`` without content mean that nothing was asked: an error.
* ``prompt_eval_count`` may be missing where the prompt was cached; then the estimate of the prompt stands,
  and the usage says that it is one.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any

from gateway.errors import PromptTooLong, UpstreamFailed, UpstreamProtocolError
from gateway.translate.chat_stream import STOP_REASONS, ChatStreamTranslator
from gateway.translate.leaked_calls import LeakedCalls
from gateway.translate.ollama_messages import THINKING
from gateway.translate.stop_sequences import StopSequences
from gateway.translate.tool_calls import ToolCalls
from gateway.translate.upstream_errors import ErrorContext, find_error
from gateway.translate.usage import Usage, count
from gateway.translate.writer import MessageStreamWriter
from gateway.wire.json_text import dumps, loads_upstream
from gateway.wire.ndjson import NDJSONDecoder

_LONG_NUMBER = re.compile(rb"[0-9]{19}")
_NEARLY_FULL = 0.9
"""Share of the window from which on an answer that ended too soon filled it; less was a limit of the server's."""


class OllamaStreamTranslator(ChatStreamTranslator):
    """One answer; one object per request (the StreamTranslator contract)."""

    __slots__ = ("_answer_limit", "_estimate", "_said", "_seen", "_window")

    new_decoder = NDJSONDecoder
    body_starts = (b"[",)

    def __init__(
        self,
        writer: MessageStreamWriter,
        calls: ToolCalls,
        context: ErrorContext,
        *,
        think_tags: bool,
        stop_sequences: StopSequences | None,
        leaked_calls: LeakedCalls | None = None,
        input_tokens: int,
        window: int | None,
        answer_limit: int | None,
    ) -> None:
        """``input_tokens``: the estimate of the prompt; ``window``: num_ctx; ``answer_limit``: num_predict."""
        super().__init__(
            writer,
            calls,
            context,
            think_tags=think_tags,
            cumulative=False,
            stop_sequences=stop_sequences,
            leaked_calls=leaked_calls,
        )
        self._estimate = input_tokens
        self._window = window
        self._answer_limit = answer_limit
        self._said = False
        self._seen: dict[str, tuple[str, str]] = {}

    def _event(self, name: str | None, payload: bytes) -> None:
        self._chunk(self._parse(payload))

    def _parse(self, payload: bytes) -> Any:
        """Arguments are parsed with their line, so their numbers must survive that: orjson rounds above 64 bits."""
        if b'"arguments"' in payload and _LONG_NUMBER.search(payload):
            with suppress(ValueError, RecursionError):
                return json.loads(payload)
        return super()._parse(payload)

    def _json_body(self, body: Any) -> None:
        raise UpstreamProtocolError(f"{self._provider} answered with a list instead of a stream of lines")

    def _chunk(self, chunk: Any) -> None:
        if not isinstance(chunk, dict):
            raise UpstreamProtocolError(f"{self._provider} sent a line that is no object")
        error = find_error(chunk)
        if error is not None:
            self._error(unwrapped(error))
            return
        if isinstance(chunk.get("message"), dict):
            self._message(chunk["message"])
        if chunk.get("done") is True:
            self._read_counts(chunk)
            if not self.complete:
                self._done(chunk)

    def _message(self, message: dict[str, Any]) -> None:
        thinking, content, calls = message.get(THINKING), message.get("content"), message.get("tool_calls")
        if isinstance(thinking, str) and thinking:
            self._said = True
            self._think_at(THINKING, thinking)
        if isinstance(content, str) and content:
            self._said = self._said or not content.isspace()
            self._content(content)
        if isinstance(calls, list) and calls and not self.complete:
            self._said = self._spoke = True
            self._before_call()
            for call in calls:
                self._call(call)

    def _call(self, call: Any) -> None:
        function = call.get("function") if isinstance(call, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str) or not name:
            raise UpstreamProtocolError(f"{self._provider} sent a tool call without a name")
        arguments = function.get("arguments")
        text = arguments if isinstance(arguments, str) else dumps({} if arguments is None else arguments).decode()
        call_id, this = call.get("id"), (name, text or "{}")
        known = self._seen.get(call_id) if isinstance(call_id, str) else None
        if isinstance(call_id, str) and call_id and known is None:
            self._seen[call_id] = this
            self._calls.feed([{"id": call_id, "function": {"name": name, "arguments": this[1]}}])
        elif known != this:
            self._calls.whole(*this)

    # -- the end -----------------------------------------------------------------------------------------

    def _read_counts(self, line: dict[str, Any]) -> None:
        prompt, answer = count(line.get("prompt_eval_count")), count(line.get("eval_count"))
        if prompt or answer:
            self._reported = Usage(prompt or self._estimate, output_tokens=answer, estimated=not prompt)
            self.usage = self._reported

    def _done(self, line: dict[str, Any]) -> None:
        self.finished = self.complete = True
        reason = line.get("done_reason")
        reason = reason.lower() if isinstance(reason, str) else "stop"
        if reason in ("load", "unload") and not self._said:
            raise UpstreamFailed(f"{self._provider} only {reason}ed the model: it saw no message to answer")
        self.stop_reason = STOP_REASONS.get(reason, "end_turn")
        prompt, answer = count(line.get("prompt_eval_count")), count(line.get("eval_count"))
        if self.stop_reason == "max_tokens" and self._is_full(prompt, answer):
            if not self._said:
                raise self._too_long(prompt + answer)
            self.stop_reason = "model_context_window_exceeded"

    def _is_full(self, prompt: int, answer: int) -> bool:
        """Whether the window, and not ``num_predict``, ended the answer."""
        if self._answer_limit is not None and answer >= self._answer_limit:
            return False
        if self._window is None or not prompt:
            return not self._said
        return prompt + answer >= _NEARLY_FULL * self._window

    def _too_long(self, tokens: int) -> PromptTooLong:
        detail = f"{self._provider}: the context window was full before the answer began"
        if self._window is None:
            return PromptTooLong(detail=detail)
        return PromptTooLong(max(tokens, self._window + 1), self._window, detail)


def unwrapped(error: Any) -> Any:
    """An error's text that is itself the JSON of the runner behind the server, as that JSON."""
    if not isinstance(error, str) or not error.lstrip().startswith("{"):
        return error
    try:
        inner = loads_upstream(error)
    except ValueError:
        return error
    return (inner.get("error") or inner) if isinstance(inner, dict) else error
