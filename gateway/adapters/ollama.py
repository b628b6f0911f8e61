"""Ollama's own API, which alone takes a context window (``num_ctx``) and refuses to cut a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.adapters.base import MessagesRequest, StreamTranslator
from gateway.adapters.headers import error_context
from gateway.adapters.translated import AnswerParts, Asked, TranslatedAdapter
from gateway.errors import GatewayError, PromptTooLong
from gateway.routing import Target
from gateway.translate.changes import Changes
from gateway.translate.chat_tools import Form, OfferedTools
from gateway.translate.ollama_request import answer_limit, ollama_form, to_ollama
from gateway.translate.ollama_stream import OllamaStreamTranslator, unwrapped
from gateway.translate.ollama_window import asked_window
from gateway.translate.token_estimate import measure
from gateway.translate.upstream_errors import http_error
from gateway.wire.json_text import dumps, loads_upstream

HOPELESS = 1.5
"""A prompt estimated at this many windows is refused here: an old server would cut it without a word."""


class OllamaAdapter(TranslatedAdapter):
    """``base_url`` + ``/api/chat``."""

    path = "/api/chat"
    accept = "application/x-ndjson"

    @property
    def tool_form(self) -> Form:
        return ollama_form

    def to_wire(
        self, request: MessagesRequest, target: Target, offered: OfferedTools, changes: Changes
    ) -> dict[str, Any]:
        wire = to_ollama(request.body, target.profile, target.provider.name, target.model, offered, changes)
        _refuse_hopeless(request, target)
        return wire

    def reader(self, parts: AnswerParts, asked: Asked, target: Target) -> StreamTranslator:
        return OllamaStreamTranslator(
            parts.writer,
            parts.calls,
            parts.context,
            think_tags=target.profile.think_tags,
            stop_sequences=parts.stop_sequences,
            leaked_calls=parts.leaked_calls,
            input_tokens=asked.input_tokens,
            window=asked_window(target.profile),
            answer_limit=answer_limit({"max_tokens": asked.max_tokens}, target.profile),
        )

    def translate_error(
        self, status: int, headers: Mapping[str, str], body: bytes, request: MessagesRequest, target: Target
    ) -> GatewayError:
        error = http_error(status, headers, _unwrapped_body(body), error_context(request, target))
        window = asked_window(target.profile)
        if isinstance(error, PromptTooLong) and " tokens > " not in error.message and window is not None:
            detail = f"{target.provider.name} counted no tokens; this is an estimate"
            return PromptTooLong(max(request.input_tokens, window + 1), window, detail)
        return error


def _refuse_hopeless(request: MessagesRequest, target: Target) -> None:
    """Raises PromptTooLong. Images are left out of account: the estimate of them is the roughest."""
    window = asked_window(target.profile)
    if window is None or request.input_tokens <= HOPELESS * window:
        return
    if request.input_tokens - measure(request.body).other_tokens > HOPELESS * window:
        detail = f"{target.name} is asked with num_ctx {window}; the tokens are an estimate"
        raise PromptTooLong(request.input_tokens, window, detail)


def _unwrapped_body(body: bytes) -> bytes:
    """``body`` with the error of the runner behind the server, where that is its text."""
    try:
        payload = loads_upstream(body)
    except ValueError:
        return body
    error = payload.get("error") if isinstance(payload, dict) else None
    inner = unwrapped(error)
    return body if inner is error else dumps({"error": inner})
